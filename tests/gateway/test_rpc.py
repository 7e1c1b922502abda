"""RPC and shared attributes through the real gateway: answered from the meter's poller, in time, never blocking."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dlms_connector.cosem.values import DataType, TypedValue
from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.meter import READING_CLIENT, MeterSettings
from tests.gateway.conftest import Installation

pytestmark = pytest.mark.contract
PASSWORD = "12345678"
RELAY = "0-0:96.3.10"
LIMITER = "0-0:17.0.0"


@pytest.fixture
def fleet_settings() -> FleetSettings:
    return FleetSettings.uniform(2, template=MeterSettings("", slot_s=3600))


def configuration(installation: Installation, **more: Any) -> dict[str, Any]:
    client = {"address": READING_CLIENT.address, "authentication": "low", "password": "${env:METER_PASSWORD}"}
    return installation.configuration(client=client, **more)


@pytest.fixture
def meter(installation: Installation) -> str:
    """The first meter's device name, online, with writing of two objects allowed."""
    installation.gateway(
        configuration(
            installation,
            allowWrite=[RELAY, "0-0:1.0.0", LIMITER],
            serverSideRpc=[{"method": "readEnergy", "call": "read", "params": {"key": "active_energy"}}],
            attributeUpdates=[
                {"key": "threshold", "obis": LIMITER, "class": 71, "attribute": 4},
                {"key": "energy", "obis": "1-0:1.8.0"},
            ],
        ),
        environment={"METER_PASSWORD": PASSWORD},
    )
    installation.wait_until_started()
    serial = installation.fleet.serials[0]
    installation.wait_for_readings(serial, 2)
    return f"meter {serial}"


def test_reading_in_every_form(installation: Installation, meter: str) -> None:
    rpc = installation.server.rpc
    energy = rpc(meter, "get", "obis=1-0:1.8.0;class=3;attribute=2;")["result"]
    assert isinstance(energy, int)
    for method, params in (
        ("get", "1-0:1.8.0"),
        ("read", {"obis": "1-0:1.8.0"}),
        ("read", {"key": "active_energy"}),
        ("readEnergy", None),
    ):
        assert rpc(meter, method, params)["result"] == energy
    assert rpc(meter, "read", "voltage_l1")["result"] == installation.server.latest(meter)["voltage_l1"][1]
    clock = rpc(meter, "getClock")["result"]
    assert abs(clock["offsetMs"]) < 5000
    rows = rpc(meter, "readProfile", {"obis": "1-0:99.1.0"})["result"]
    assert 3 <= len(rows) <= 5
    assert rpc(meter, "getStatus")["result"]["dlms_state"] == "online"
    test = rpc(meter, "test")["result"]
    assert test["ok"] is True
    assert set(test["steps"]) >= {"open", "read"}
    assert rpc(meter, "discover")["result"]["count"] > 20


@pytest.mark.parametrize(
    ("method", "params", "words"),
    [
        ("fly", None, "unknown method"),
        ("read", None, "object is missing"),
        ("read", {"obis": "1.8.0"}, "not an OBIS code"),
        ("read", "key=nobody", 'no key "nobody"'),
        ("read", ["1-0:1.8.0"], "params is an object"),
        ("read", {"obis": "1-0:1.8.0", "class": "x"}, "whole number"),
        ("read", {"obis": "1-0:98.76.5", "class": 3}, "object undefined"),
        ("write", {"obis": "1-0:1.8.0", "value": 5}, "not allowed"),
        ("action", {"obis": "0-0:10.0.0", "method": 1}, "not allowed"),
        ("readProfile", {"obis": "1-0:99.1.0", "from": "yesterday"}, "ISO date"),
        ("setClock", {"time": "2030-01-01T00:00:00+00:00"}, "maxShift"),
    ],
)
def test_what_is_wrong_is_told(
    installation: Installation, meter: str, method: str, params: Any, words: str
) -> None:
    assert words in installation.server.rpc(meter, method, params)["error"]


def test_relay_and_its_audit(installation: Installation, meter: str) -> None:
    rpc = installation.server.rpc
    assert rpc(meter, "relayState")["result"]["connected"] is True
    assert rpc(meter, "relayDisconnect")["result"]["connected"] is False
    assert rpc(meter, "relayConnect")["result"]["connected"] is True
    log = installation.gateways[0].log_text()
    assert f"AUDIT {meter}: relayDisconnect relay {RELAY}: done" in log
    other = f"meter {installation.fleet.serials[1]}"
    assert rpc(other, "relayState")["result"]["connected"] is True


def test_pause_and_resume(installation: Installation, meter: str) -> None:
    rpc = installation.server.rpc
    serial = installation.fleet.serials[0]
    rpc(meter, "pause")
    installation.wait(
        lambda: installation.server.attributes(meter).get("dlms_state") == "paused", "state paused"
    )
    assert installation.fleet.wait_for(
        lambda: installation.fleet.device(serial).counters.associations_open == 0, 10
    )
    assert "paused" in rpc(meter, "read", "voltage_l1")["error"]
    rpc(meter, "resume")
    installation.wait_for_readings(serial, 2)


def test_connector_rpc(installation: Installation, meter: str) -> None:
    status = installation.server.gateway_rpc("custom_status")
    assert status["devices"] == 2
    assert status["states"] == {"online": 2}
    devices = installation.server.gateway_rpc("custom_devices", {"device": meter})
    assert devices["devices"][meter]["dlms_state"] == "online"
    assert installation.server.gateway_rpc("custom_pause", {"devices": [meter, "nobody"]}) == {
        "paused": 1,
        "unknown": ["nobody"],
    }
    assert installation.server.gateway_rpc("custom_resume") == {"resumed": 2}
    installation.wait_for_readings(installation.fleet.serials[0], 1)


def test_a_shared_attribute_is_written_once_however_often_it_is_repeated(
    installation: Installation, meter: str
) -> None:
    serial = installation.fleet.serials[0]
    threshold = {"obis": LIMITER, "class": 71, "attribute": 4}
    value = installation.server.rpc(meter, "read", threshold)["result"] + 7
    sets = installation.fleet.counters(serial).sets
    for _ in range(3):
        installation.server.set_device_shared(meter, {"threshold": value})
    installation.wait(
        lambda: installation.server.attributes(meter).get("threshold_status") == "written", "the write"
    )
    # an RPC is answered behind whatever was queued before it
    assert installation.server.rpc(meter, "read", threshold)["result"] == value
    assert installation.fleet.counters(serial).sets == sets + 1


def test_a_shared_attribute_that_is_not_allowed_is_refused(installation: Installation, meter: str) -> None:
    sets = installation.fleet.counters(installation.fleet.serials[0]).sets
    installation.server.set_device_shared(meter, {"energy": 4200})
    installation.wait(
        lambda: "not allowed" in str(installation.server.attributes(meter).get("energy_status")), "refusal"
    )
    assert installation.fleet.counters(installation.fleet.serials[0]).sets == sets


class TestManyMeters:
    """Fifty meters asked at once, one of them silent."""

    @pytest.fixture
    def fleet_settings(self) -> FleetSettings:
        return FleetSettings.uniform(50, template=MeterSettings("", slot_s=3600))

    @pytest.mark.slow
    def test_the_others_answer_at_once_and_polling_goes_on(self, installation: Installation) -> None:
        installation.gateway(configuration(installation), environment={"METER_PASSWORD": PASSWORD})
        installation.wait_until_started()
        for serial in installation.fleet.serials:
            installation.wait(lambda serial=serial: installation.count(serial) >= 1, f"readings of {serial}")
        silent, *others = installation.fleet.serials
        installation.fleet.freeze(silent)
        took: dict[str, float] = {}
        answers: dict[str, Any] = {}

        def ask(serial: str) -> None:
            began = time.monotonic()
            answers[serial] = installation.server.rpc(f"meter {serial}", "read", {"obis": "1-0:32.7.0"})
            took[serial] = time.monotonic() - began

        before = {serial: installation.count(serial) for serial in others}
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(ask, installation.fleet.serials))
        assert "error" in answers[silent]
        assert took[silent] < 10
        assert all("result" in answers[serial] for serial in others)
        assert statistics.median(took[serial] for serial in others) < 1
        installation.wait(
            lambda: all(installation.count(serial) > before[serial] for serial in others), "polling going on"
        )


def test_type_of_written_value(installation: Installation, meter: str) -> None:
    """A guarded clock setting: within maxShift, and away from captures, or told why not."""
    answer = installation.server.rpc(meter, "setClock")
    assert "result" in answer or "capture" in answer["error"]
    typed = TypedValue(DataType.UINT32, 7)
    installation.fleet.override(installation.fleet.serials[0], 1, "0-0:96.50.0", 2, typed)
    assert installation.server.rpc(meter, "read", {"obis": "0-0:96.50.0", "class": 1})["result"] == 7
