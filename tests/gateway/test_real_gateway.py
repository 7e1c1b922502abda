"""The contract with the real thingsboard-gateway process: loading, data, devices, life cycle."""

from __future__ import annotations

import json
import re
import time

import pytest

from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.meter import MeterSettings
from dlms_connector.simulator.quantities import raw_value
from tests.gateway.conftest import Installation, device_entry

pytestmark = pytest.mark.contract
SLOT_S = 3600


@pytest.fixture
def fleet_settings() -> FleetSettings:
    # Values hold for an hour, so a test can compute what the meter answers.
    return FleetSettings.uniform(3, template=MeterSettings("", slot_s=SLOT_S))


def expected(serial: str, key: str, ts_ms: int) -> int:
    return raw_value(serial, key, ts_ms // 1000, SLOT_S)


def test_telemetry_attributes_names_and_types_arrive(installation: Installation) -> None:
    configuration = installation.configuration(deviceType="Contador")
    gateway = installation.gateway(configuration)
    for serial in installation.fleet.serials:
        installation.wait_for_readings(serial, 2)
    installation.wait(
        lambda: all(
            "serialNumber" in installation.server.attributes(f"meter {serial}")
            for serial in installation.fleet.serials
        ),
        "attributes",
    )
    for serial in installation.fleet.serials:
        name = f"meter {serial}"
        device = installation.server.device(name)
        assert device is not None
        assert device.device_type == "Contador"
        attributes = installation.server.attributes(name)
        # ThingsBoard would make 1 of "00000001"; the identifier must still be there.
        assert isinstance(attributes["serialNumber"], str)
        assert attributes["serialNumber"].strip() == serial
        series = installation.server.telemetry(name)
        for ts_ms, value in series["voltage_l1"]:
            assert abs(ts_ms - time.time() * 1000) < 60_000
            assert value == expected(serial, "voltage_l1", ts_ms) / 100
        for ts_ms, value in series["active_energy"]:
            assert value == expected(serial, "active_energy", ts_ms)
    kept = json.loads((installation.folder / "gateway/config/dlms_connector.json").read_text())
    kept.pop("id")  # the gateway's own
    assert kept == configuration
    states = re.findall(r"\|DLMS\|.*\|meter \d+: (\w+)", gateway.log_text())
    assert states == ["online"] * 3  # one line a state change, none a poll


def test_a_restart_costs_no_scaler_and_stops_cleanly(installation: Installation) -> None:
    serial = installation.fleet.serials[0]
    gateway = installation.gateway(installation.configuration())
    installation.wait_for_readings(serial, 2)
    began = time.monotonic()
    assert gateway.stop() == 0
    assert time.monotonic() - began < 10
    stopped = installation.fleet.counters(serial)
    assert stopped.associations_open == 0
    gateway.start()
    installation.wait_for_readings(serial, 2)
    gateway.stop()
    again = installation.fleet.counters(serial)
    assert again.associations_open == 0
    assert again.associations_open_max == 1
    # two lists for the first association: scalers and values; one list a cycle from then on
    assert again.gets == stopped.gets
    assert "Traceback" not in gateway.log_text()


def test_an_empty_configuration_is_quiet(installation: Installation) -> None:
    gateway = installation.gateway({})
    assert gateway.wait_for_log("no devices configured", 30)
    assert gateway.stop() == 0
    assert "|ERROR|DLMS" not in gateway.log_text()


def test_what_is_wrong_is_told_and_the_rest_polls(installation: Installation) -> None:
    good, bad, _ = installation.fleet.serials
    broken = device_entry(installation.fleet, bad)
    broken["transport"]["prot"] = broken["transport"].pop("port")
    gateway = installation.gateway({"devices": [broken, device_entry(installation.fleet, good)]})
    installation.wait_for_readings(good, 2)
    log = gateway.log_text()
    assert "$.devices[0].transport.prot" in log
    assert "port" in log
    assert f"meter {bad}" not in installation.server.devices()


def test_a_meter_that_never_answered_is_not_announced(installation: Installation) -> None:
    dead, alive, _ = installation.fleet.serials
    installation.fleet.power(False, [dead])
    installation.gateway(installation.configuration())
    installation.wait_for_readings(alive, 3)
    assert f"meter {dead}" not in installation.server.devices()
    installation.fleet.power(True, [dead])
    installation.wait_for_readings(dead, 2)


def test_a_meter_that_falls_silent_says_so_and_comes_back(installation: Installation) -> None:
    serial = installation.fleet.serials[0]
    installation.gateway(installation.configuration(timeout=1000))
    installation.wait_for_readings(serial, 2)
    installation.fleet.freeze(serial)
    name = f"meter {serial}"
    installation.wait(
        lambda: installation.server.attributes(name).get("dlms_state") == "offline", "state offline"
    )
    assert installation.server.attributes(name)["dlms_lastError"].startswith(
        "service: the meter did not answer"
    )
    installation.fleet.thaw(serial)
    installation.wait(
        lambda: installation.server.attributes(name).get("dlms_state") == "online", "state online"
    )
    installation.wait_for_readings(serial, 2)
