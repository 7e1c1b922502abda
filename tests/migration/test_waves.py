import json
from datetime import datetime, timezone

import pytest

from dlms_connector.config.loader import load_file
from dlms_connector.errors import CommandError
from dlms_connector.migration.bridge_db import read_bridge
from dlms_connector.migration.identity import Identities
from dlms_connector.migration.plan import plan_meters
from dlms_connector.migration.waves import Waves, choose_share
from tests.support.bridge_database import make_bridge, meter, row


def fixed_now():
    return datetime(2024, 5, 1, 12, 0, tzinfo=timezone.utc)


@pytest.fixture
def plans(tmp_path):
    numbers = range(1, 6)
    path = make_bridge(tmp_path / "admin.db", [meter(n) for n in numbers], [row(n, n) for n in numbers])
    return plan_meters(read_bridge(path), Identities(trust_names=True))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "dlms_connector.json"
    path.write_text(
        '{"name": "DLMS", "devices": [{"deviceName": "own", "transport": {"host": "h"}, '
        '"timeseries": [{"key": "x", "obis": "1-0:1.8.0", "multiplier": 0.10}]}]}'
    )
    path.chmod(0o640)
    return path


def waves_of(config):
    return Waves(config, fixed_now)


def names_in(config):
    return [device.device_name for device in load_file(config).devices]


def test_a_wave_is_added_and_everything_else_stays(plans, config):
    wave = waves_of(config).apply(plans[:2])
    assert (wave.number, wave.state) == (1, "applied")
    assert names_in(config) == ["own", "medidor_1", "medidor_2"]
    assert '"multiplier": 0.10' in config.read_text(), "numbers stay as they were written"
    assert config.stat().st_mode & 0o777 == 0o640
    journal = config.with_name("dlms_connector.json.migration.json")
    assert journal.stat().st_mode & 0o777 == 0o600
    backup = config.with_name(wave.backup)
    assert json.loads(backup.read_text())["devices"][0]["deviceName"] == "own"
    assert backup.stat().st_mode & 0o777 == 0o600
    written = "".join(path.read_text() for path in config.parent.glob("dlms_connector.json*"))
    assert "CANARY" not in written


def test_a_configuration_that_is_not_there_is_begun(plans, tmp_path):
    waves_of(tmp_path / "new.json").apply(plans[:1])
    assert names_in(tmp_path / "new.json") == ["medidor_1"]


def test_waves_are_remembered_and_rolled_back_one_by_one(plans, config):
    waves_of(config).apply(plans[:2])
    second = waves_of(config).apply(plans[2:4])
    assert second.number == 2
    assert set(waves_of(config).moved()) == {1, 2, 3, 4}
    waves_of(config).roll_back(1)
    assert names_in(config) == ["own", "medidor_3", "medidor_4"]
    assert set(waves_of(config).moved()) == {3, 4}
    assert waves_of(config).apply(plans[:1]).number == 3, "what went back can go again"


def test_a_held_wave_is_written_but_not_polled_until_it_is_released(plans, config):
    waves_of(config).apply(plans[:1], hold=True)
    assert [device.enabled for device in load_file(config).devices] == [True, False]
    assert waves_of(config).release(1).state == "applied"
    assert [device.enabled for device in load_file(config).devices] == [True, True]
    with pytest.raises(CommandError, match="is applied, not held"):
        waves_of(config).release(1)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "not JSON"), ("[]", "is no connector configuration"), ('{"devices": 5}', "devices is no list")],
)
def test_a_configuration_that_cannot_be_used_is_left_alone(plans, config, content, words):
    config.write_text(content)
    with pytest.raises(CommandError, match=words):
        waves_of(config).apply(plans[:1])
    assert config.read_text() == content
    assert [path.name for path in config.parent.glob("dlms*")] == ["dlms_connector.json"]


def test_a_wave_that_would_not_be_valid_is_not_written(plans, config):
    broken = '{"defaults": {"breaker": {"pause": "soon"}}, "devices": []}'
    config.write_text(broken)
    with pytest.raises(CommandError, match=r"\$\.defaults\.breaker\.pause"):
        waves_of(config).apply(plans[:1])
    assert config.read_text() == broken


def test_a_device_that_is_already_there_is_not_written_twice(plans, config):
    waves_of(config).apply(plans[:1])
    config.with_name("dlms_connector.json.migration.json").unlink()
    with pytest.raises(CommandError, match='already has the device of "medidor_1"'):
        waves_of(config).apply(plans[:1])


def test_a_write_that_fails_leaves_the_old_configuration(plans, config, monkeypatch):
    before = config.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlms_connector.config.textfile.os.replace", fail)
    with pytest.raises(CommandError, match="No space left"):
        waves_of(config).apply(plans[:1])
    assert config.read_bytes() == before
    assert not list(config.parent.glob(".dlms*")), "no half-written file stays"


def test_unknown_waves_and_foreign_journals_are_told(plans, config):
    with pytest.raises(CommandError, match="no wave 7"):
        waves_of(config).roll_back(7)
    waves_of(config).apply(plans[:1])
    waves_of(config).roll_back(1)
    with pytest.raises(CommandError, match="already rolled back"):
        waves_of(config).roll_back(1)
    journal = config.with_name("dlms_connector.json.migration.json")
    for content in ('{"version": 9, "waves": []}', "{}", "[", '{"version": 1, "waves": [{}]}'):
        journal.write_text(content)
        with pytest.raises(CommandError, match="cannot be understood"):
            waves_of(config)


@pytest.mark.parametrize(
    ("percent", "moved", "chosen"), [(50, 0, 3), (50, 1, 2), (50, 5, 0), (100, 0, 5), (0, 0, 0), (1, 0, 1)]
)
def test_a_share_counts_what_is_already_migrated(plans, percent, moved, chosen):
    assert [plan.meter_id for plan in choose_share(plans, moved, percent)] == list(range(1, chosen + 1))
