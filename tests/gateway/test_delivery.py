"""What was read arrives, whatever the broker does: PUBACKs are awaited, the storage keeps the rest."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import paho.mqtt.client as paho
import pytest
from tb_device_mqtt import TBPublishInfo

from dlms_connector.gateway import delivery
from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.thingsboard_session import Fault
from tests.gateway.conftest import Installation

METERS = 10


OUTAGES: tuple[tuple[Fault, ...], ...] = (
    (Fault.DOWN, Fault.REFUSE),
    (Fault.STALL, Fault.BLACK_HOLE),
    (Fault.NO_PUBACK, Fault.NONE),
)
"""Faults that follow each other, with all connections cut after each of them."""
POLLS = 200


class TestOutages:
    """Every answered poll is one reading at the server: counted at the meters and at the server."""

    @pytest.fixture
    def fleet_settings(self) -> FleetSettings:
        return FleetSettings.uniform(METERS)

    @pytest.mark.contract
    @pytest.mark.slow
    @pytest.mark.timeout(300)
    def test_nothing_is_lost(self, installation: Installation) -> None:
        configuration = installation.configuration(pollPeriod=200, health={"enabled": False})
        gateway = installation.gateway(configuration)
        serials, server = installation.fleet.serials, installation.server
        for serial in serials:
            installation.wait_for_readings(serial, 3)
        for faults in OUTAGES:
            for fault in faults:
                server.set_fault(fault)
                self._wait_for_polls(installation, POLLS)  # the meters go on answering
                server.drop_connections()
            server.set_fault(Fault.NONE)
            for serial in serials:
                installation.wait_for_readings(serial, 3, 90)
        server.gateway_rpc("custom_pause")
        devices = installation.fleet.fleet.devices.values()
        assert installation.fleet.wait_for(
            lambda: not any(device.counters.associations_open for device in devices), 20
        )
        for serial in serials:
            # the first list of each meter was for scalers
            read = installation.fleet.counters(serial).get_lists - 1
            installation.wait(
                lambda serial=serial, read=read: installation.count(serial) >= read, f"all {read} of {serial}"
            )
            assert installation.count(serial) == read
        assert "Traceback" not in gateway.log_text()

    @staticmethod
    def _wait_for_polls(installation: Installation, more: int) -> None:
        before = installation.fleet.totals().meters.get_lists
        devices = installation.fleet.fleet.devices.values()
        assert installation.fleet.wait_for(
            lambda: sum(device.counters.get_lists for device in devices) >= before + more, 60
        )


def test_only_known_code_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gateway:
        stopped = False

    class Log:
        warnings: list[str] = []  # noqa: RUF012

        def warning(self, text: str, *args: object) -> None:
            self.warnings.append(text % args if args else text)

    gateway, log = Gateway(), Log()
    delivery.uninstall()  # a connector of another test may have installed it in this process
    original = TBPublishInfo.get
    assert inspect.getsource(original)
    try:
        assert delivery.install(gateway, 1.0, log)
        assert TBPublishInfo.get is not original
        delivery.uninstall()
        assert TBPublishInfo.get is original
        monkeypatch.setattr(delivery, "PROVEN", frozenset())
        assert not delivery.install(gateway, 1.0, log)
        assert not delivery.install(gateway, 1.0, log)
        assert TBPublishInfo.get is original
        assert len(log.warnings) == 1
    finally:
        delivery.uninstall()


class FakeGateway:
    """What `delivery` looks at in the gateway's service."""

    def __init__(self) -> None:
        self.stopped = False
        self.in_flight: dict[int, Any] = {}
        self.tb_client = SimpleNamespace(
            client=SimpleNamespace(_client=SimpleNamespace(_out_messages=self.in_flight))
        )
        self._TBGatewayService__messages_confirmation_executor = ThreadPoolExecutor(2)

    def publish(self, mid: int, rc: int = 0) -> paho.MQTTMessageInfo:
        info = paho.MQTTMessageInfo(mid)
        info.rc = paho.MQTTErrorCode(rc)
        self.in_flight[mid] = info
        return info

    def confirm(self, *infos: paho.MQTTMessageInfo) -> Any:
        """As the gateway does: in a thread of its executor."""
        executor = self._TBGatewayService__messages_confirmation_executor
        return executor.submit(TBPublishInfo(list(infos)).get)


@pytest.fixture
def patched() -> Iterator[FakeGateway]:
    gateway = FakeGateway()
    assert delivery.install(gateway, 0.6, SimpleNamespace(warning=print))
    yield gateway
    delivery.uninstall()
    gateway._TBGatewayService__messages_confirmation_executor.shutdown()


def test_success_is_told_for_what_was_acknowledged_alone(patched: FakeGateway) -> None:
    first, second = patched.publish(1), patched.publish(2)
    answer = patched.confirm(first, second)
    first._set_as_published()
    assert not answer.done()
    second._set_as_published()
    assert answer.result(5) == TBPublishInfo.TB_ERR_SUCCESS


@pytest.mark.parametrize(
    "end",
    [
        "nothing comes",
        "the connection breaks",
        "the gateway stops",
        "it was never sent",
        "the queue was full",
    ],
)
def test_what_was_not_acknowledged_is_sent_again(patched: FakeGateway, end: str) -> None:
    codes = {"it was never sent": paho.MQTT_ERR_NO_CONN, "the queue was full": paho.MQTT_ERR_QUEUE_SIZE}
    info = patched.publish(1, rc=codes.get(end, paho.MQTT_ERR_SUCCESS))
    began_s = time.monotonic()
    answer = patched.confirm(info)
    if end == "the connection breaks":
        patched.in_flight.clear()
    elif end == "the gateway stops":
        patched.stopped = True
    assert answer.result(5) == TBPublishInfo.TB_ERR_CONN_LOST
    assert (time.monotonic() - began_s >= 0.6) is (end == "nothing comes")


def test_the_thread_that_stores_readings_waits_no_longer_than_before(patched: FakeGateway) -> None:
    """It connects devices; half a minute for each in a black hole would keep all readings in memory."""
    delivery.install(patched, 30.0, SimpleNamespace(warning=print))
    began_s = time.monotonic()
    assert TBPublishInfo([patched.publish(1)]).get() == TBPublishInfo.TB_ERR_SUCCESS
    assert time.monotonic() - began_s < 5


def test_a_connection_lost_while_a_device_is_connected_raises_nothing(patched: FakeGateway) -> None:
    """An exception there would cost the rest of a batch of up to a thousand readings."""
    lost = patched.publish(1, rc=paho.MQTT_ERR_NO_CONN)
    assert TBPublishInfo([lost]).get() == TBPublishInfo.TB_ERR_NO_CONN
