"""Simulated meters, the stand-in for ThingsBoard and the real gateway process, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlms_connector.polling.poller import UNBALANCED
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from dlms_connector.simulator.gateway_process import Connector, GatewayProcess
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn

WAIT_S = 60.0
HURRIED = Path(__file__).parents[1] / "support" / "hurried_connector.py"


def device_entry(fleet: SimulatedFleet, serial: str, **more: Any) -> dict[str, Any]:
    """A device named after its serial number, polled every second."""
    return {
        "deviceName": f"meter {serial}",
        "transport": {"type": "tcp", "host": "127.0.0.1", "port": fleet.port(serial)},
        "pollPeriod": 1000,
        "timeseries": ["voltage_l1", "active_energy"],
        "attributes": ["serialNumber"],
        "backoff": {"initial": 100, "maximum": 1000},
        **more,
    }


@dataclass
class Installation:
    """One fleet, one server, one gateway."""

    folder: Path
    fleet: SimulatedFleet
    server: ThingsBoardStandIn
    gateways: list[GatewayProcess] = field(default_factory=list)

    def gateway(
        self, configuration: dict[str, Any] | None, *, hurried: bool = False, **options: Any
    ) -> GatewayProcess:
        """A started gateway; without a configuration it has no connectors.

        `hurried`: where a scaler or a profile is waited for over minutes, it is for seconds.
        """
        class_name = "DLMSConnector"
        if hurried:
            class_name, options["extensions"] = "HurriedConnector", [HURRIED]
        connectors = (
            [Connector("DLMS", configuration, class_name=class_name)] if configuration is not None else []
        )
        gateway = GatewayProcess(self.folder / "gateway", self.server.port, connectors, **options).start()
        self.gateways.append(gateway)
        return gateway

    def configuration(self, **more: Any) -> dict[str, Any]:
        """Every meter of the fleet."""
        return {"devices": [device_entry(self.fleet, serial, **more) for serial in self.fleet.serials]}

    def wait(self, predicate: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait for a state of the server; the gateway's log is the message of a failure."""
        if not self.server.wait_for(predicate, timeout_s):
            log = self.gateways[-1].log_text()[-4000:] if self.gateways else ""
            raise AssertionError(f"{what} did not happen within {timeout_s} s\n{log}")

    def wait_until_started(self) -> None:
        """The gateway subscribes before it has handlers; what comes in between is dropped without a word."""
        gateway = self.gateways[-1]
        assert gateway.wait_for_log("Gateway started.", WAIT_S), gateway.log_text()
        assert self.server.wait_for_gateway(WAIT_S)

    def count(self, serial: str, key: str = "voltage_l1") -> int:
        """Readings of a key that the server has."""
        return len(self.server.telemetry(f"meter {serial}").get(key, ()))

    def wait_for_readings(self, serial: str, more: int = 1, timeout_s: float = WAIT_S) -> None:
        """Wait for that many readings beyond those that are there."""
        before = self.count(serial)
        self.wait(lambda: self.count(serial) >= before + more, f"{more} readings of {serial}", timeout_s)


@pytest.fixture
def fleet_settings() -> FleetSettings:
    return FleetSettings.uniform(3)


@pytest.fixture
def installation(tmp_path: Path, fleet_settings: FleetSettings) -> Iterator[Installation]:
    with ExitStack() as stack:
        fleet = stack.enter_context(SimulatedFleet(fleet_settings))
        server = stack.enter_context(ThingsBoardStandIn())
        made = Installation(tmp_path, fleet, server)
        yield made
        for gateway in made.gateways:
            gateway.stop()
            assert UNBALANCED not in gateway.log_text(), "a poller of the process lost something"
