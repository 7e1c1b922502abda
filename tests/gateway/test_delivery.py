"""What was read arrives, whatever the broker does: PUBACKs are awaited, the storage keeps the rest."""

from __future__ import annotations

import inspect

import pytest
from tb_device_mqtt import TBPublishInfo

from dlms_connector.gateway import delivery
from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.thingsboard_session import Fault
from tests.gateway.conftest import Installation

METERS = 10


class TestOutages:
    """Every answered poll is one reading at the server: counted at the meters and at the server."""

    @pytest.fixture
    def fleet_settings(self) -> FleetSettings:
        return FleetSettings.uniform(METERS)

    @pytest.mark.contract
    @pytest.mark.slow
    @pytest.mark.timeout(240)
    @pytest.mark.parametrize("fault", [Fault.BLACK_HOLE, Fault.DOWN])
    def test_nothing_is_lost(self, installation: Installation, fault: Fault) -> None:
        configuration = installation.configuration(pollPeriod=200, health={"enabled": False})
        gateway = installation.gateway(configuration)
        serials = installation.fleet.serials
        for serial in serials:
            installation.wait_for_readings(serial, 3)
        before = installation.fleet.totals().meters.get_lists
        with installation.server.failing(fault):
            # the meters go on answering: 300 polls into the outage
            assert installation.fleet.wait_for(
                lambda: (
                    sum(device.counters.get_lists for device in installation.fleet.fleet.devices.values())
                    > before + 300
                ),
                60,
            )
            if fault is Fault.BLACK_HOLE:
                installation.server.drop_connections()
        for serial in serials:
            installation.wait_for_readings(serial, 3, 90)
        installation.server.gateway_rpc("custom_pause")
        assert installation.fleet.wait_for(
            lambda: (
                not any(
                    device.counters.associations_open for device in installation.fleet.fleet.devices.values()
                )
            ),
            20,
        )
        for serial in serials:
            # the first list of each meter was for scalers
            read = installation.fleet.counters(serial).get_lists - 1
            installation.wait(
                lambda serial=serial, read=read: installation.count(serial) >= read, f"all {read} of {serial}"
            )
            assert installation.count(serial) == read
        assert "Traceback" not in gateway.log_text()


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
