"""The connector's side of simulated meters: settings, sessions and pollers without a gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dlms_connector.config.loader import load_document
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.io.line import Line
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import Lines, make_channel
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.simulator.fleet import HDLC, SimulatedFleet
from dlms_connector.state import StateStore


def transport_of(
    fleet: SimulatedFleet, serial: str, *, port: int | None = None, **more: Any
) -> dict[str, Any]:
    """The transport section for a meter of the fleet; `port` where a proxy stands before it."""
    settings = fleet.device(serial).settings
    line = fleet.fleet.line_of(serial)
    addresses: dict[str, Any] = {"serverLogicalAddress": settings.logical_address}
    if line.settings.framing == HDLC:
        addresses |= {
            "serverPhysicalAddress": settings.physical_address,
            "addressSize": settings.address_size or 2,
        }
    if line.settings.serial:
        return {"type": "serial", "port": fleet.path(serial), **addresses, **more}
    return {
        "type": "tcp",
        "host": "127.0.0.1",
        "port": port or fleet.port(serial),
        "framing": line.settings.framing,
        **addresses,
        **more,
    }


def device_settings(
    fleet: SimulatedFleet, serial: str, *, transport: dict[str, Any] | None = None, **entry: Any
) -> DeviceSettings:
    """Settings of one meter, through the loader like an operator's; a device is named after its serial."""
    document = {
        "deviceName": serial,
        "transport": transport_of(fleet, serial) | (transport or {}),
        "timeseries": ["voltage_l1", "active_energy"],
        **entry,
    }
    loaded = load_document({"devices": [document]})
    assert not loaded.errors, loaded.errors
    return loaded.devices[0]


@dataclass
class Bench:
    """What sessions and pollers need around them; sessions of one end point share its line."""

    state: StateStore = field(default_factory=lambda: StateStore(None))
    lines: Lines = field(default_factory=Lines)
    events: list[str] = field(default_factory=list)

    def session(self, device: DeviceSettings, **options: Any) -> MeterSession:
        """A closed session."""
        return self.session_and_line(device, **options)[0]

    def session_and_line(self, device: DeviceSettings, **options: Any) -> tuple[MeterSession, Line]:
        line = self.lines.line_for(device.transport)
        interrupt = Interrupt()
        session = MeterSession(
            device,
            lambda client: make_channel(device, client, line, interrupt),
            self.state,
            on_event=self.events.append,
            **options,
        )
        return session, line


@contextmanager
def opened(session: MeterSession) -> Iterator[MeterSession]:
    """The session with its association, released at the end."""
    session.open()
    try:
        yield session
    finally:
        session.close(time.monotonic() + 2.0)


def read_all(session: MeterSession) -> dict[str, Reading]:
    """Every register of the plan, once."""
    return {
        reading.key: reading
        for batch in session.plan.due(session.plan.periods_s, 0.0)
        for reading in session.read(batch)
    }
