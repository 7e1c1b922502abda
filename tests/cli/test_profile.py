import csv
import io
import sys
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest

from dlms_connector.cli.profile import moment_ms
from dlms_connector.errors import CommandError
from dlms_connector.simulator.quantities import raw_value_of_seed
from tests.support.command_line import run
from tests.support.meter_file import NAME, meter_file
from tests.support.simulated import SERIAL, one_meter

PROFILE = "1-0:99.1.0"
BOGOTA = ZoneInfo("America/Bogota")
NOW_MS = 1_772_000_000_000


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "200")


def table(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_as_csv_are_those_of_the_meter(tmp_path):
    with one_meter() as fleet:
        result = run("profile", meter_file(tmp_path, fleet), NAME, PROFILE, "--from", "2d", "--csv", "-")
        seed = fleet.device(SERIAL).seed
    rows = table(result.out)
    assert result.code == 0
    assert len(rows) in (192, 193)
    assert "1-0:1.8.0 active_energy [Wh]" in rows[0]
    for row in rows:
        at_s = int(datetime.fromisoformat(row["time"]).timestamp())
        assert at_s % 900 == 0
        assert int(row["1-0:1.8.0 active_energy [Wh]"]) == raw_value_of_seed(seed, "active_energy", at_s)


def test_columns_are_named_as_the_entry_names_them(tmp_path):
    own = [{"obis": PROFILE, "columns": {"1-0:1.8.0": "energy_15min"}}]
    with one_meter("hdlc") as fleet:
        path = meter_file(tmp_path, fleet, "hdlc", profiles=own)
        result = run("profile", path, NAME, PROFILE, "--from", "3h", "--csv", tmp_path / "p.csv")
    rows = table((tmp_path / "p.csv").read_text())
    assert list(rows[0]) == ["time", "energy_15min [Wh]"]
    assert f"{len(rows)} rows" in result.out


def test_null_columns_stay_empty(tmp_path):
    with one_meter(profile_null_column_every=2) as fleet:
        result = run("profile", meter_file(tmp_path, fleet), NAME, PROFILE, "--from", "2h", "--csv", "-")
    cells = [row["1-0:1.8.0 active_energy [Wh]"] for row in table(result.out)]
    assert "" in cells
    assert any(cell for cell in cells)


def test_an_event_log_and_a_window_without_rows(tmp_path):
    with one_meter() as fleet:
        path = meter_file(tmp_path, fleet)
        log = run("profile", path, NAME, "0-0:99.98.0", "--from", "1d")
        empty = run("profile", path, NAME, PROFILE, "--from", "1999-01-01", "--to", "1999-01-02T06:00")
    assert "12 rows" in log.out
    assert (empty.code, "0 rows" in empty.out) == (0, True)


def test_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    with one_meter() as fleet:
        path = meter_file(tmp_path, fleet)
        result = run("profile", path, NAME, PROFILE, "--from", "6h", "--plot", tmp_path / "p.png")
    assert result.code == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_user_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with one_meter() as fleet:
        path = meter_file(tmp_path, fleet)
        result = run("profile", path, NAME, PROFILE, "--from", "1h", "--plot", tmp_path / "p.png")
        assert fleet.counters(SERIAL).associations_open == 0
    assert result.code == 1
    assert "pip install" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((PROFILE, "--from", "yesterday"), "is no moment"),
        ((PROFILE, "--from", "1h", "--to", "2h"), "--from is not before --to"),
        (("1-0:99",), "is not an OBIS code"),
        ((PROFILE, "--from", "1h", "--csv", "/no/such/folder/p.csv"), "cannot be written"),
        (("1-0:99.77.0", "--from", "1h"), "object undefined"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, words, message):
    with one_meter() as fleet:
        result = run("profile", meter_file(tmp_path, fleet), NAME, *words)
    assert result.code == 1
    assert message in result.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", datetime.fromtimestamp(NOW_MS / 1000, timezone.utc)),
        ("2d", datetime.fromtimestamp(NOW_MS / 1000 - 172_800, timezone.utc)),
        ("2026-03-01", datetime(2026, 3, 1, 5, tzinfo=timezone.utc)),
        ("2026-03-01T06:30", datetime(2026, 3, 1, 11, 30, tzinfo=timezone.utc)),
        ("2026-03-01T06:30Z", datetime(2026, 3, 1, 6, 30, tzinfo=timezone.utc)),
    ],
)
def test_moments_are_the_meters_unless_they_say(text, expected):
    assert moment_ms(text, NOW_MS, BOGOTA) == expected.timestamp() * 1000


def test_what_is_no_moment_is_refused():
    with pytest.raises(CommandError):
        moment_ms("", NOW_MS, BOGOTA)
