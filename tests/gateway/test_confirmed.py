"""Through the real gateway: what a meter did not confirm never becomes a value, and no good value is lost by it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dlms_connector.cosem.clock import encode_parts
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.meter import MeterSettings, Quirks
from dlms_connector.simulator.quantities import raw_value
from tests.gateway.conftest import Installation, device_entry
from tests.support.simulated import line_settings

pytestmark = pytest.mark.contract
SLOT_S = 86_400
VOLTAGE = Obis(1, 0, 32, 7, 0)
REFUSED, ENDS, SHORT, WRAPS = "00000001", "00000002", "00000003", "00000004"
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
