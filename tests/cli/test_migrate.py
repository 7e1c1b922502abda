import hashlib
import json
from pathlib import Path

import pytest

from dlms_connector.cli.main import main
from dlms_connector.config.loader import load_file
from tests.support.bridge_database import make_bridge, meter, row
from tests.support.thingsboard_rest import PASSWORD, USER, rest_stand_in

CANARIES = ("TOKEN-CANARY", PASSWORD)


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    """Run `migrate` in a folder with a bridge of four meters; every output and file is searched for secrets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("TB_PASSWORD", PASSWORD)
    monkeypatch.setenv("TB_USERNAME", USER)
    numbers = range(1, 5)
    database = make_bridge(tmp_path / "admin.db", [meter(n) for n in numbers], [row(n, n) for n in numbers])
    before = hashlib.sha256(database.read_bytes()).digest()

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["migrate", *words])
        out, err = capfd.readouterr()
        written = "".join(file.read_text() for file in tmp_path.iterdir() if file.suffix != ".db")
        assert not any(canary in out + err + written for canary in CANARIES)
        return ended.value.code, out + err

    yield run
    assert hashlib.sha256(database.read_bytes()).digest() == before, "the bridge's database is never written"


def names():
    return [device.device_name for device in load_file_here().devices]


def load_file_here():
    return load_file(Path("dlms_connector.json"))


def test_plan_apply_status_and_rollback_of_a_wave(bench):
    with rest_stand_in() as server:
        for number in range(1, 4):
            server.add(f"medidor_{number}", f"TOKEN-CANARY-{number}", kind="Energy")
        server.add("somebody else", "unrelated")
        code, out = bench("plan", "admin.db", "--tb-url", server.url)
        assert code == 0
        assert "3 ready, 1 stopped, 0 skipped, 0 migrated" in out
        assert "medidor_4: no device of ThingsBoard has its token" in out
        code, out = bench("apply", "admin.db", "--percent", "50", "--tb-url", server.url)
        assert code == 0
        assert 'sqlite3 admin.db "UPDATE meters SET tb_enabled = 0 WHERE id IN (1, 2);"' in out
        assert "sudo systemctl restart dlms-multi-meter.service" in out
        assert "dlms-admin-api" in out
        assert names() == ["medidor_1", "medidor_2"]
        assert load_file_here().devices[0].device_type == "Energy"
        code, out = bench("apply", "admin.db", "--meters", "medidor_3", "--tb-url", server.url)
        assert code == 0
    code, out = bench("status", "--database", "admin.db")
    assert "3 meters with the gateway, 1 with the bridge" in out
    assert "tb_enabled is still 1: medidor_1, medidor_2" in out
    code, out = bench("rollback", "1", "--database", "admin.db")
    assert code == 0
    assert "SET tb_enabled = 1 WHERE id IN (1, 2)" in out
    assert names() == ["medidor_3"]


def test_a_held_wave_waits_for_the_bridge(bench):
    assert bench("apply", "admin.db", "--all", "--hold", "--trust-names")[0] == 0
    code, out = bench("release", "1", "--database", "admin.db")
    assert code == 1
    assert "still has tb_enabled = 1 for medidor_1" in out
    assert bench("release", "1")[0] == 0
    assert all(device.enabled for device in load_file_here().devices)


def test_the_mapping_is_written_for_the_operator_and_read_back(bench):
    assert bench("plan", "admin.db", "--trust-names", "--write-mapping", "map.json")[0] == 0
    code, out = bench("plan", "admin.db", "--mapping", "map.json", "--json")
    assert code == 0
    assert {each["fate"] for each in json.loads(out)} == {"ready"}


def test_a_dry_run_writes_nothing(bench, tmp_path):
    code, out = bench("apply", "admin.db", "--all", "--trust-names", "--dry-run")
    assert code == 0
    assert "4 meters would be written" in out
    assert [file.name for file in tmp_path.iterdir()] == ["admin.db"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("plan", "none.db"), "cannot be read"),
        (("plan", "."), "is a directory"),
        (("plan", "admin.db", "--tb-url", "nowhere"), "is no address"),
        (("plan", "admin.db", "--tb-url", "http://h", "--tb-password", "secret"), "takes a reference"),
        (("plan", "admin.db", "--meter-password", "secret"), "takes a reference"),
        (("plan", "admin.db", "--mapping", "none.json"), "cannot be read"),
        (("plan", "admin.db", "--write-mapping", "no/such/map.json"), "cannot be written"),
        (("apply", "admin.db"), "say which meters"),
        (("apply", "admin.db", "--all"), "no meter is left"),
        (("apply", "admin.db", "--all", "--percent", "5"), "say which meters"),
        (("apply", "admin.db", "--meters", "medidor_9", "--trust-names"), '"medidor_9" is no meter'),
        (("apply", "admin.db", "--meters", "medidor_1"), '"medidor_1" is stopped: its device is not known'),
        (("rollback", "1"), "no wave 1"),
    ],
)
def test_mistakes_are_told_in_a_sentence(bench, words, told):
    code, out = bench(*words)
    assert code == 1
    assert told in out
    assert "Traceback" not in out
    assert "secret" not in out


def test_status_before_any_wave(bench):
    code, out = bench("status")
    assert code == 0
    assert "no wave yet" in out
