"""Through the real gateway: what a meter did not confirm never becomes a value, and no good value is lost by it."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dlms_connector.cosem.clock import encode_parts
from dlms_connector.cosem.values import DataType, TypedValue, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from dlms_connector.simulator.meter import READING_CLIENT, ClientSettings, MeterSettings, Quirks
from dlms_connector.simulator.quantities import raw_value
from tests.gateway.conftest import WAIT_S, Installation, device_entry
from tests.support.simulated import line_settings
from tests.support.thingsboard_ui import GatewayPage

pytestmark = pytest.mark.contract
SLOT_S = 86_400
VOLTAGE = Obis(1, 0, 32, 7, 0)
REFUSED, ENDS, SHORT, WRAPS = "00000001", "00000002", "00000003", "00000004"
ROW_S = 4
_FAR_S = 2**33
ENERGY, ENERGY_COLUMN = Obis(1, 0, 1, 8, 0), "1-0:1.8.0"
QUIRKS = {
    REFUSED: Quirks(),
    ENDS: Quirks(lists_end_at_refusal=True),
    SHORT: Quirks(max_list=2),
    WRAPS: Quirks(octets_wrapped_in_lists=True),
}
KEYS = ["voltage_l1", "voltage_l2", "voltage_l3", "active_energy"]


@pytest.fixture
def fleet_settings() -> FleetSettings:
    return FleetSettings(
        tuple(
            line_settings("wrapper", MeterSettings(serial, slot_s=SLOT_S, quirks=quirks))
            for serial, quirks in QUIRKS.items()
        )
    )


def volts(serial: str, ts_ms: int) -> float:
    return raw_value(serial, "voltage_l1", ts_ms // 1000, SLOT_S) / 100


def test_refusals_odd_lists_and_wrapped_clocks(installation: Installation) -> None:
    fleet, server = installation.fleet, installation.server
    more: dict[str, list[Any]] = {
        ENDS: [{"key": "bad", "obis": "1-0:99.99.99", "class": 3}, *KEYS],
        WRAPS: [{"key": "clock", "obis": "0-0:1.0.0"}, *KEYS],
    }
    devices = [device_entry(fleet, serial, timeseries=more.get(serial, KEYS)) for serial in QUIRKS]
    fleet.refuse(REFUSED, 3, VOLTAGE, 3, 2)
    gateway = installation.gateway({"devices": devices})
    for key in KEYS:
        for serial in (ENDS, SHORT, WRAPS):
            installation.wait(lambda: installation.count(serial, key) >= 2, f"{key} of {serial}")  # noqa: B023
    installation.wait(
        lambda: installation.count(REFUSED, "active_energy") >= 3, "the neighbours of a held value"
    )
    assert installation.count(REFUSED) == 0, "a number whose scaler is not known was delivered"
    fleet.heal(REFUSED)
    installation.wait_for_readings(REFUSED, 2)
    for serial in QUIRKS:
        for ts_ms, value in server.telemetry(f"meter {serial}")["voltage_l1"]:
            assert value == volts(serial, ts_ms)
    moments = [value for _, value in server.telemetry(f"meter {WRAPS}")["clock"]]
    assert moments
    assert all(value[4] == "-" and value[10] == "T" for value in moments), moments
    assert "bad" not in server.telemetry(f"meter {ENDS}")
    assert '"voltage_l1" gave no value' in gateway.log_text()
    assert "lists of at most 2 attributes are used from now on" in gateway.log_text()


def _odd_profile(installation: Installation, newest: datetime) -> None:
    """Newest first; the first clock has weekday 8 and hundredths 100, the others are null; one value is unchanged."""
    fleet, profile = installation.fleet, Obis(1, 0, 99, 1, 0)
    stamp = encode_parts(newest, 0, 0)
    stamp = stamp[:4] + b"\x08" + stamp[5:8] + b"\x64" + stamp[9:]
    rows = [
        b"\x09\x0c" + stamp + b"\x06\x00\x00\x00\x0a",
        b"\x00\x06\x00\x00\x00\x09",
        b"\x00\x00",
        b"\x00\x06\x00\x00\x00\x07",
    ]
    columns = [
        b"\x02\x04\x12\x00\x08\x09\x06" + Obis(0, 0, 1, 0, 0).to_bytes() + b"\x0f\x02\x12\x00\x00",
        b"\x02\x04\x12\x00\x03\x09\x06" + Obis(1, 0, 1, 8, 0).to_bytes() + b"\x0f\x02\x12\x00\x00",
    ]
    fleet.override(REFUSED, 7, profile, 2, b"\x01\x04" + b"".join(b"\x02\x02" + row for row in rows))
    fleet.override(REFUSED, 7, profile, 3, b"\x01\x02" + b"".join(columns))
    fleet.override(REFUSED, 7, profile, 4, b"\x06\x00\x00\x03\x84")
    fleet.override(REFUSED, 7, profile, 5, b"\x16\x02")


def test_rows_with_unsound_and_null_clocks_newest_first(installation: Installation) -> None:
    newest = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(hours=2)
    _odd_profile(installation, newest)
    entry = device_entry(
        installation.fleet, REFUSED, profiles=[{"obis": "1-0:99.1.0", "access": "whole", "slice": "1d"}]
    )
    installation.gateway({"devices": [entry]})
    key = "1-0:1.8.0"
    installation.wait(lambda: installation.count(REFUSED, key) >= 4, "four rows")
    rows = dict(installation.server.telemetry(f"meter {REFUSED}")[key])
    newest_ms = int(newest.timestamp() * 1000)
    # The third row's value is null: unchanged against the row that was sent before it.
    assert {(newest_ms - ts_ms) // 60_000: value for ts_ms, value in rows.items()} == {
        0: 10,
        15: 9,
        30: 9,
        45: 7,
    }


def only(*meters: MeterSettings) -> pytest.MarkDecorator:
    """The fleet of one test: these meters, each on a port of its own."""
    lines = tuple(line_settings("wrapper", meter) for meter in meters)
    return pytest.mark.parametrize("fleet_settings", [FleetSettings(lines)], ids=["meters"])


def _scale_energy(fleet: SimulatedFleet, serial: str) -> None:
    """The energy register and its column count in thousandths of a watt-hour."""
    wh = TypedValue(DataType.ENUM, 30)
    fleet.override(serial, 3, ENERGY, 3, structure(TypedValue(DataType.INT8, -3), wh))


def check_rows(installation: Installation, serial: str) -> list[int]:
    """Every row of the energy at the server is the meter's own; their moments in seconds."""
    rows = installation.server.telemetry(f"meter {serial}").get(ENERGY_COLUMN, [])
    for ts_ms, value in rows:
        assert ts_ms % 1000 == 0
        assert value == raw_value(serial, "active_energy", ts_ms // 1000) / 1000, (serial, ts_ms)
    return sorted({ts_ms // 1000 for ts_ms, _ in rows})


# A1


@only(
    MeterSettings(REFUSED, profile_rows=40),
    MeterSettings(ENDS, profile_rows=40, quirks=Quirks(no_lists=True)),
)
def test_rows_whose_scaler_is_refused_once(installation: Installation) -> None:
    """In a list the single answer decides at once; alone the rows wait until the next try."""
    fleet = installation.fleet
    for serial in (REFUSED, ENDS):
        _scale_energy(fleet, serial)
        fleet.refuse(serial, 3, ENERGY, 3, 2, times=1)
    entries = [
        device_entry(
            fleet, serial, timeseries=["voltage_l1"], profiles=[{"obis": "1-0:99.1.0", "backfill": "1d"}]
        )
        for serial in (REFUSED, ENDS)
    ]
    gateway = installation.gateway({"devices": entries}, hurried=True)
    for serial in (REFUSED, ENDS):
        installation.wait(lambda: installation.count(serial, ENERGY_COLUMN) >= 40, f"rows of {serial}")  # noqa: B023
        assert len(check_rows(installation, serial)) == 40
    held = "object: the scaler of 1-0:1.8.0 is not known: "
    assert f"meter {ENDS}: {held}" in gateway.log_text()
    assert f"meter {REFUSED}: {held}" not in gateway.log_text()


# A4


@only(
    MeterSettings(
        REFUSED,
        slot_s=SLOT_S,
        clients=(ClientSettings(16, may_write=False, denied=frozenset({(3, 3)})), READING_CLIENT),
    )
)
def test_another_client_ends_what_was_learned_as_the_first(installation: Installation) -> None:
    gateway = installation.gateway(
        None, hurried=True, remote_configuration=True, environment={"METER_PASSWORD": "12345678"}
    )
    installation.wait_until_started()
    page = GatewayPage(installation.server)
    entry = device_entry(installation.fleet, REFUSED)
    page.save("DLMS", {"devices": [entry]}, class_name="HurriedConnector")
    installation.wait_for_readings(REFUSED, 2)
    name = f"meter {REFUSED}"
    before = installation.server.telemetry(name)["voltage_l1"]
    assert all(value == raw_value(REFUSED, "voltage_l1", ts // 1000, SLOT_S) for ts, value in before)
    assert "voltage_l1" in str(installation.server.attributes(name)["dlms_unscaled"])
    client = {"address": 1, "authentication": "low", "password": "${env:METER_PASSWORD}"}
    page.save("DLMS", {"devices": [{**entry, "client": client}]}, class_name="HurriedConnector")
    assert gateway.wait_for(lambda: gateway.log_text().count("polling 1 meters") == 2, WAIT_S)
    installation.wait(
        lambda: installation.server.telemetry(name)["voltage_l1"][-1][1] < 300, "a voltage with its scaler"
    )
    installation.wait_for_readings(REFUSED, 2)
    after = [item for item in installation.server.telemetry(name)["voltage_l1"] if item not in before]
    for ts_ms, value in after:
        assert value in (volts(REFUSED, ts_ms), raw_value(REFUSED, "voltage_l1", ts_ms // 1000, SLOT_S))
    scaled = [value < 300 for _, value in after]
    assert scaled == sorted(scaled), "a raw value came behind one with its scaler"
    assert installation.server.attributes(name)["dlms_unscaled"] == ""


# A6


@only(MeterSettings(REFUSED, slot_s=SLOT_S), MeterSettings(ENDS, slot_s=SLOT_S))
def test_a_scaler_that_is_never_told_is_decided_by_the_setting(installation: Installation) -> None:
    fleet, server = installation.fleet, installation.server
    for serial in (REFUSED, ENDS):
        fleet.refuse(serial, 3, VOLTAGE, 3, 250)
    marked = device_entry(fleet, REFUSED)
    withheld = device_entry(fleet, ENDS, unscaled="withhold", health={"period": "1s"})
    began_ms = time.time_ns() // 1_000_000
    gateway = installation.gateway({"devices": [marked, withheld]}, hurried=True)
    installation.wait_for_readings(REFUSED, 2)
    for ts_ms, value in server.telemetry(f"meter {REFUSED}")["voltage_l1"]:
        assert ts_ms - began_ms >= 4000, "delivered raw before it was refused for long"
        assert value == raw_value(REFUSED, "voltage_l1", ts_ms // 1000, SLOT_S)
    installation.wait(
        lambda: server.attributes(f"meter {REFUSED}").get("dlms_unscaled") == "voltage_l1", "the mark"
    )
    assert installation.count(REFUSED, "active_energy") > installation.count(REFUSED)
    event = "has no readable scaler"
    assert gateway.wait_for_log(f"meter {ENDS}: 1-0:32.7.0 {event}", WAIT_S)
    installation.wait(lambda: installation.count(ENDS, "active_energy") >= 10, "the neighbours")
    assert installation.count(ENDS) == 0
    assert "dlms_unscaled" not in server.attributes(f"meter {ENDS}")
    for serial in (REFUSED, ENDS):
        assert gateway.log_text().count(f"meter {serial}: 1-0:32.7.0 {event}") == 1
        assert f'meter {serial}: "voltage_l1" gave no value' in gateway.log_text()


# D5


@only(
    MeterSettings(
        REFUSED, profile_period_s=ROW_S, quirks=Quirks(empty_range_result=250, no_entry_access=True)
    ),
    MeterSettings(ENDS, profile_period_s=ROW_S, quirks=Quirks(empty_range_result=11)),
)
def test_a_range_is_still_used_after_it_was_refused_for_want_of_rows(installation: Installation) -> None:
    """No rows yet, and a range without rows is refused: what comes later comes by range, and that alone."""
    fleet = installation.fleet
    serials = (REFUSED, ENDS)
    for serial in serials:
        _scale_energy(fleet, serial)
        fleet.call(lambda: setattr(fleet.device(serial).controls, "profile_start_s", _FAR_S))  # noqa: B023
    profile = {"obis": "1-0:99.1.0", "backfill": "10m", "pollPeriod": "1s"}
    entries = [
        device_entry(fleet, serial, timeseries=["voltage_l1"], profiles=[profile]) for serial in serials
    ]
    installation.gateway({"devices": entries}, hurried=True)
    for serial in serials:
        # Refused, and asked again: by range each time.
        assert fleet.wait_for(lambda: fleet.device(serial).counters.range_reads >= 6, WAIT_S)  # noqa: B023
        assert installation.count(serial, ENERGY_COLUMN) == 0
        start_s = int(time.time())
        fleet.call(lambda: setattr(fleet.device(serial).controls, "profile_start_s", start_s))  # noqa: B023
    for serial in serials:
        installation.wait(lambda: installation.count(serial, ENERGY_COLUMN) >= 3, f"rows of {serial}")  # noqa: B023
    before = {serial: fleet.counters(serial) for serial in serials}
    for serial in serials:
        rows = installation.count(serial, ENERGY_COLUMN)
        installation.wait(
            lambda: installation.count(serial, ENERGY_COLUMN) >= rows + 3,  # noqa: B023
            f"more rows of {serial}",
        )
        moments = check_rows(installation, serial)
        assert moments == list(range(moments[0], moments[-1] + 1, ROW_S)), "a row is missing"
        after = fleet.counters(serial)
        assert after.range_reads >= before[serial].range_reads + 3
        assert after.whole_reads == before[serial].whole_reads
        assert after.entry_reads == before[serial].entry_reads
