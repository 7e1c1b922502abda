"""A fleet of simulated meters in one asyncio process: lines, ports, and what a test does to them at run time."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, TypeVar

from dlms_connector.cosem.values import TypedValue, encode
from dlms_connector.obis import Obis
from dlms_connector.simulator.faults import Fault
from dlms_connector.simulator.hdlc_line import HdlcLineConnection
from dlms_connector.simulator.line import LineConnection, LineCounters, SimulatedLine
from dlms_connector.simulator.loop_thread import LoopThread
from dlms_connector.simulator.meter import LogicalDevice, MeterCounters, MeterSettings
from dlms_connector.simulator.model import three_phase_model
from dlms_connector.simulator.objects import descriptor
from dlms_connector.simulator.optical_head import OpticalHeadConnection
from dlms_connector.simulator.pty_stream import PtyStream
from dlms_connector.simulator.wrapper_line import WrapperConnection

T = TypeVar("T")

WRAPPER, HDLC = "wrapper", "hdlc"
_SPARE_DESCRIPTORS = 512
_CONNECTIONS_A_LINE = 3


@dataclass(frozen=True)
class LineSettings:
    """The meters behind one port; see `SimulatedLine` for the rest. A serial line has HDLC and no port.

    `mode_e` makes a serial line an optical head: signing on by IEC 62056-21 comes first.
    """

    meters: tuple[MeterSettings, ...]
    framing: str = WRAPPER
    serial: bool = False
    port: int = 0
    single_connection: bool = False
    baud: int | None = None
    latency_s: float = 0.0
    mode_e: bool = False


@dataclass(frozen=True)
class FleetSettings:
    """Every line of the fleet; `host` is where the TCP lines listen."""

    lines: tuple[LineSettings, ...]
    host: str = "127.0.0.1"

    @classmethod
    def uniform(
        cls,
        count: int,
        framing: str = WRAPPER,
        *,
        base_port: int = 0,
        host: str = "127.0.0.1",
        first_serial: int = 1,
        latency_s: float = 0.0,
        template: MeterSettings | None = None,
    ) -> FleetSettings:
        """`count` meters, each on a TCP port of its own; serial numbers of eight digits from `first_serial` on.

        Args:
            base_port: the first of consecutive ports; 0 for free ones.
            template: settings that all meters share but for the serial number.
        """
        made = template or MeterSettings("")
        lines = tuple(
            LineSettings(
                (replace(made, serial=f"{first_serial + index:08d}"),),
                framing=framing,
                port=base_port + index if base_port else 0,
                latency_s=latency_s,
            )
            for index in range(count)
        )
        return cls(lines, host)


class _RunningLine:
    """One line with its listening socket or its pseudo-terminal."""

    def __init__(self, settings: LineSettings, devices: list[LogicalDevice], host: str) -> None:
        self.settings = settings
        self.line = SimulatedLine(devices, single_connection=settings.single_connection, baud=settings.baud)
        self.port = settings.port
        self.path = ""
        self._host = host
        self._server: asyncio.Server | None = None
        self._pty: PtyStream | None = None

    async def open(self) -> None:
        if self.settings.serial:
            serial_kind = OpticalHeadConnection if self.settings.mode_e else HdlcLineConnection
            self._pty = PtyStream(serial_kind(self.line))
            self.path = self._pty.path
            return
        kind = HdlcLineConnection if self.settings.framing == HDLC else WrapperConnection

        def connection() -> LineConnection:
            return kind(self.line)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(connection, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.line.drop_connections()
        if self._pty is not None:
            self._pty.release()
            self._pty = None

    @property
    def is_open(self) -> bool:
        return self._server is not None or self._pty is not None


class Fleet:
    """The running fleet; belongs to one asyncio loop. `SimulatedFleet` hosts it in a thread."""

    def __init__(self, settings: FleetSettings, clock: Callable[[], float] = time.time) -> None:
        model = three_phase_model()
        self.lines: list[_RunningLine] = []
        self.devices: dict[str, LogicalDevice] = {}
        self._line_of: dict[str, _RunningLine] = {}
        for line_settings in settings.lines:
            devices = [LogicalDevice(meter, model, clock) for meter in line_settings.meters]
            line = _RunningLine(line_settings, devices, settings.host)
            self.lines.append(line)
            for device in devices:
                if device.name in self.devices:
                    raise ValueError(f"serial number {device.name} is used twice")
                device.latency_s = line_settings.latency_s
                self.devices[device.name] = device
                self._line_of[device.name] = line

    async def open(self) -> None:
        """Listen on every line. Raises OSError when a port is taken."""
        _allow_descriptors(len(self.lines) * (1 + _CONNECTIONS_A_LINE) + _SPARE_DESCRIPTORS)
        try:
            for line in self.lines:
                await line.open()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Reset every connection and stop listening."""
        for line in self.lines:
            line.close()

    def line_of(self, serial: str) -> _RunningLine:
        return self._line_of[serial]

    async def power(self, serial: str, on: bool) -> None:
        """Switch a meter off or on. Alone on its TCP port, the port goes with it; on a shared line it falls silent."""
        device, line = self.devices[serial], self._line_of[serial]
        device.is_powered = on
        device.boots += on
        device.frozen.clear()
        is_alone = len(line.line.devices) == 1 and not line.settings.serial
        if on and is_alone and not line.is_open:
            await line.open()
        elif not on:
            for association in list(device.associations):
                association.end_with_link(cleanly=True)
            if is_alone:
                line.close()

    def thaw(self, serial: str) -> None:
        """Let a frozen meter answer what it was sent meanwhile."""
        device = self.devices[serial]
        device.is_frozen = False
        pending, device.frozen = device.frozen, []
        for process in pending:
            process()


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@dataclass
class FleetTotals:
    """Sums over all meters; `associations_open_max` is the largest of any single meter."""

    meters: MeterCounters = field(default_factory=MeterCounters)
    lines: LineCounters = field(default_factory=LineCounters)


class SimulatedFleet:
    """A fleet in a thread of its own, for synchronous tests and tools; a context manager.

    Every method may be called from any thread. Meters are named by their serial numbers.
    """

    def __init__(self, settings: FleetSettings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.fleet = Fleet(settings, clock)
        self._thread = LoopThread("simulated-fleet")

    def start(self) -> SimulatedFleet:
        """Listen on every line; returns itself. Raises OSError."""
        self._thread.start()
        try:
            self._thread.run(self.fleet.open())
        except OSError:
            self._thread.stop()
            raise
        return self

    def stop(self) -> None:
        """Reset everything and end the thread; safe to call twice."""
        if self._thread.is_running:
            self._thread.call(self.fleet.close)
            self._thread.stop()

    def __enter__(self) -> SimulatedFleet:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def serials(self) -> list[str]:
        return list(self.fleet.devices)

    def port(self, serial: str) -> int:
        """The TCP port of a meter's line."""
        return self.fleet.line_of(serial).port

    def path(self, serial: str) -> str:
        """The pseudo-terminal of a meter's serial line."""
        return self.fleet.line_of(serial).path

    def device(self, serial: str) -> LogicalDevice:
        """The meter itself; change it inside `call` only."""
        return self.fleet.devices[serial]

    def call(self, function: Callable[[], T]) -> T:
        """Run a function on the fleet's thread."""
        return self._thread.call(function)

    def inject(self, serial: str, *faults: Fault) -> None:
        """Order faults for a meter's next answers."""
        self.call(lambda: self.device(serial).faults.add(faults))

    def heal(self, serial: str) -> None:
        """Cancel ordered faults, refusals and overrides."""

        def work() -> None:
            device = self.device(serial)
            device.faults.clear()
            device.refused.clear()
            device.refusals_left.clear()
            device.overrides.clear()

        self.call(work)

    def set_latency(self, serial: str, latency_s: float) -> None:
        """Answer that much later from now on."""
        self.call(lambda: setattr(self.device(serial), "latency_s", latency_s))

    def override(
        self, serial: str, class_id: int, obis: Obis | str, attribute: int, value: TypedValue | bytes
    ) -> None:
        """Let an attribute have that value (typed, or encoded already); it need not exist before."""
        raw = value if isinstance(value, bytes) else encode(value)
        key = descriptor(class_id, obis, attribute)
        self.call(lambda: self.device(serial).overrides.update({key: raw}))

    def refuse(
        self,
        serial: str,
        class_id: int,
        obis: Obis | str,
        attribute: int,
        code: int,
        *,
        times: int | None = None,
    ) -> None:
        """Answer requests for an attribute or method with that data-access-result or action-result.

        `times`: so many of them, None for all until `heal`.
        """
        key = descriptor(class_id, obis, attribute)

        def work() -> None:
            device = self.device(serial)
            device.refused[key] = code
            device.refusals_left.pop(key, None)
            if times is not None:
                device.refusals_left[key] = times

        self.call(work)

    def power(self, on: bool, serials: Iterable[str] | None = None) -> None:
        """Switch meters off or on; all of them when none is named."""
        names = self.serials if serials is None else list(serials)

        async def work() -> None:
            for name in names:
                await self.fleet.power(name, on)

        self._thread.run(work())

    def freeze(self, serial: str) -> None:
        """Take requests, answer none of them until `thaw`."""
        self.call(lambda: setattr(self.device(serial), "is_frozen", True))

    def thaw(self, serial: str) -> None:
        """Answer what was asked while frozen, then go on."""
        self.call(lambda: self.fleet.thaw(serial))

    def drop_connections(self, serial: str) -> None:
        """Reset every connection on the meter's line."""
        self.call(self.fleet.line_of(serial).line.drop_connections)

    def counters(self, serial: str) -> MeterCounters:
        """A copy of a meter's counters."""
        return self.call(lambda: replace(self.device(serial).counters))

    def line_counters(self, serial: str) -> LineCounters:
        """A copy of the counters of a meter's line."""
        return self.call(lambda: replace(self.fleet.line_of(serial).line.counters))

    def totals(self) -> FleetTotals:
        """Sums over all meters and lines."""

        def work() -> FleetTotals:
            totals = FleetTotals()
            for device in self.fleet.devices.values():
                _add(totals.meters, device.counters)
            for line in self.fleet.lines:
                _add(totals.lines, line.line.counters)
            return totals

        return self.call(work)

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the predicate, called on the fleet's thread, holds; False on timeout."""
        deadline_s = time.monotonic() + timeout_s

        async def work() -> bool:
            while not predicate():
                if time.monotonic() > deadline_s:
                    return False
                await asyncio.sleep(0.005)
            return True

        return self._thread.run(work(), timeout_s + 5)


def _add(total: Any, part: Any) -> None:
    for name, value in vars(part).items():
        is_maximum = name.endswith("_max")
        merged = max(getattr(total, name), value) if is_maximum else getattr(total, name) + value
        setattr(total, name, merged)


async def run_fleet(settings: FleetSettings, ready: Callable[[Fleet], None] | None = None) -> None:
    """Serve until cancelled; `ready` is called once every line is open.

    Raises:
        OSError: a port is taken.
    """
    fleet = Fleet(settings)
    await fleet.open()
    try:
        if ready is not None:
            ready(fleet)
        await asyncio.get_running_loop().create_future()
    finally:
        fleet.close()
