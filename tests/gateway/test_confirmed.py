"""Through the real gateway: what a meter did not confirm never becomes a value, and no good value is lost by it."""

from __future__ import annotations

from typing import Any

import pytest

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
