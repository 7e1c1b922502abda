"""Open, close and anew, any number of times: no thread, socket or association is left, nothing leaves after close.

The gateway here is the smallest thing that a connector sees of it, because a leak of one connector does not show in a
process full of others; the real process is in `test_real_gateway`.
"""

from __future__ import annotations

import copy
import queue
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from thingsboard_gateway.gateway.constant_enums import Status

from dlms_connector.gateway.connector import DLMSConnector
from dlms_connector.simulator.fleet import HDLC, FleetSettings, SimulatedFleet
from dlms_connector.state import StateStore
from tests.gateway.conftest import device_entry
from tests.support.pollers import wait_until

METERS = 5


class Gateway:
    """What a connector calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tb_client = None
        self.stopped = False
        self.sent: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.fail = False

    def get_config_path(self) -> str:
        return str(self.folder)

    def get_converted_data_queue(self) -> queue.SimpleQueue[Any]:
        return queue.SimpleQueue()

    def send_to_storage(self, name: str, _: str, data: Any) -> Status:
        if self.fail and data.telemetry:
            raise RuntimeError("injected")
        self.sent.put((name, data))
        return Status.SUCCESS

    def send_rpc_reply(self, **_: Any) -> None:
        """Replies are tested with the real process."""


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.chdir(tmp_path)  # the gateway's loggers write where they stand
    return Gateway(tmp_path)


def configuration(fleet: SimulatedFleet, **more: Any) -> dict[str, Any]:
    framing = fleet.settings.lines[0].framing
    devices = []
    for serial in fleet.serials:
        entry = device_entry(fleet, serial, pollPeriod=200, **more)
        entry["transport"]["framing"] = framing
        devices.append(entry)
    return {"id": "x", "name": "DLMS", "devices": devices}


def poller_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("dlms ")]


@pytest.mark.parametrize("framing", ["wrapper", HDLC])
def test_twenty_lives_leave_nothing(gateway: Gateway, framing: str) -> None:
    with SimulatedFleet(FleetSettings.uniform(METERS, framing)) as fleet:
        config = configuration(fleet)
        before = copy.deepcopy(config)
        descriptors = []
        for _ in range(20):
            connector = DLMSConnector(gateway, config, "custom")
            assert not connector.is_stopped()
            connector.open()
            assert len(poller_threads()) == METERS + 1  # and the one of the status file
            for _ in range(METERS):
                gateway.sent.get(timeout=20)
            began = time.monotonic()
            connector.close()
            assert time.monotonic() - began < 4
            assert connector.is_stopped()
            assert poller_threads() == []
            assert fleet.wait_for(
                lambda: (
                    sum(device.counters.associations_open for device in fleet.fleet.devices.values()) == 0
                ),
                5,
            )
            descriptors.append(psutil.Process().num_fds())
        assert max(descriptors[3:]) <= descriptors[2] + 2
        assert fleet.totals().meters.associations_open_max == 1
        assert config == before


def test_close_is_quick_while_meters_are_silent_and_nothing_leaves_after_it(gateway: Gateway) -> None:
    with SimulatedFleet(FleetSettings.uniform(METERS)) as fleet:
        connector = DLMSConnector(gateway, configuration(fleet, timeout=30_000), "custom")
        connector.open()
        heard: set[str] = set()
        while len(heard) < METERS:
            heard.add(gateway.sent.get(timeout=20)[1].device_name)
        for serial in fleet.serials:
            fleet.freeze(serial)
        asked = {serial: fleet.counters(serial).requests for serial in fleet.serials}
        assert fleet.wait_for(
            lambda: all(
                fleet.fleet.devices[serial].counters.requests > asked[serial] for serial in fleet.serials
            ),
            20,
        )
        began = time.monotonic()
        closer = threading.Thread(target=connector.close)
        closer.start()
        while not connector.is_stopped():  # as the gateway does: again and again
            connector.close()
        assert time.monotonic() - began < 4
        closer.join()
        while not gateway.sent.empty():
            gateway.sent.get()
        for serial in fleet.serials:
            fleet.thaw(serial)
        assert poller_threads() == []
        with pytest.raises(queue.Empty):
            gateway.sent.get(timeout=1)


def test_close_without_open_and_open_after_close(gateway: Gateway) -> None:
    connector = DLMSConnector(gateway, {}, "custom")
    connector.close()
    connector.close()
    assert connector.is_stopped()
    connector.open()
    assert poller_threads() == []


def test_contract_attributes(gateway: Gateway) -> None:
    config = {"id": "the id", "name": "Norte", "logLevel": "INFO"}
    connector = DLMSConnector(gateway, config, "custom")
    assert connector.get_id() == "the id"
    assert connector.get_name() == connector.name == "Norte"
    connector.name = "Sur"  # the gateway does that
    assert connector.get_name() == "Sur"
    assert connector.get_type() == connector._connector_type == "custom"
    assert connector.get_config() is config
    assert connector.statistics == {"MessagesReceived": 0, "MessagesSent": 0}
    assert not connector.is_connected()
    connector.close()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"devices": None},
        {"devices": [None, 5, "x", {}]},
        {"defaults": []},
        {"name": None, "logLevel": None},
    ],
)
def test_no_configuration_makes_it_raise(gateway: Gateway, config: dict[str, Any]) -> None:
    connector = DLMSConnector(gateway, config, "custom")
    connector.open()
    assert not connector.is_stopped()
    connector.close()


def test_a_fault_of_the_gateway_does_not_end_a_poller(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlms_connector.polling.poller._CRASH_PAUSE_S", 0.2)
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        connector = DLMSConnector(gateway, configuration(fleet), "custom")
        gateway.fail = True
        connector.open()
        requests = fleet.counters(fleet.serials[0]).requests
        assert fleet.wait_for(
            lambda: fleet.fleet.devices[fleet.serials[0]].counters.requests > requests + 6, 30
        )
        gateway.fail = False
        gateway.sent.get(timeout=20)
        connector.close()


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"device": "x"},
        {"device": "x", "data": None},
        {"device": "x", "data": {"id": 1, "method": "get"}},
        {"method": 5},
    ],
)
def test_no_handler_ever_raises(gateway: Gateway, content: dict[str, Any]) -> None:
    connector = DLMSConnector(gateway, {}, "custom")
    connector.server_side_rpc_handler(copy.deepcopy(content))
    connector.on_attributes_update(copy.deepcopy(content))
    connector.close()


def test_an_injected_exception_stays_inside(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    connector = DLMSConnector(gateway, {}, "custom")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(connector._device_rpc, "handle", broken)
    monkeypatch.setattr(connector._connector_rpc, "handle", broken)
    monkeypatch.setattr(connector._attribute_updates, "handle", broken)
    assert connector.server_side_rpc_handler({"device": "m", "data": {"id": 1, "method": "x"}}) is None
    assert connector.server_side_rpc_handler({"method": "custom_status"}) is None
    connector.on_attributes_update({"device": "m", "data": {}})
    connector.close()


def test_a_disk_that_takes_nothing_costs_no_value(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first one of a meter that is new to the server, and no row of a profile."""
    open_file = StateStore._open

    def read_only(store: StateStore) -> sqlite3.Connection:
        connection = open_file(store)
        connection.execute("PRAGMA query_only = ON")
        return connection

    monkeypatch.setattr(StateStore, "_open", read_only)
    monkeypatch.setattr("dlms_connector.meter.profile.task._SETTLE_S", 0.0)
    profile = {"obis": "1-0:99.1.0", "backfill": "6h", "slice": "1h", "pollPeriod": "1s"}
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        connector = DLMSConnector(gateway, configuration(fleet, profiles=[profile]), "custom")
        connector.open()
        (poller,) = connector._pollers().values()
        rows = poller.book.profiles[0]
        wait_until(lambda: rows.delivered >= 24 and poller.book.delivered >= 10)
        connector.close()
        assert poller.book.balances
        assert poller.book.delivered == poller.book.asked
        assert poller.health.good_cycles == poller.health.cycles
        assert not poller.health.last_error
