"""Pollers of simulated meters with an uplink that remembers, and the checks that every test of them wants."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.io.gate import Gate
from dlms_connector.io.line import Line
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.task import ProfileTask
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.health import Health
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import BackgroundTask, Surroundings
from dlms_connector.simulator.fleet import SimulatedFleet
from dlms_connector.simulator.quantities import QUANTITIES, scaled_value
from tests.support.readers import Bench

_PATIENCE_S = 30.0


@dataclass
class RecordingUplink:
    """Keeps what was delivered; `congested` and `refusing` play a gateway in trouble."""

    telemetry: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    attributes: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    rows: dict[str, list[Reading]] = field(default_factory=lambda: defaultdict(list))
    states: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    congested: bool = False
    refusing: bool = False
    arrivals: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def deliver(
        self, device: DeviceSettings, telemetry: Sequence[Reading], attributes: Sequence[Reading]
    ) -> bool:
        if self.refusing:
            return False
        self.arrivals[device.device_name].append(time.monotonic())
        self.telemetry[device.device_name] += telemetry
        self.attributes[device.device_name] += attributes
        return True

    def deliver_rows(self, device: DeviceSettings, readings: Sequence[Reading]) -> bool:
        if self.refusing:
            return False
        self.rows[device.device_name] += readings
        return True

    def deliver_health(self, device: DeviceSettings, health: Health, *, state_only: bool) -> None:
        self.states[device.device_name].append(str(health.state))

    def is_congested(self) -> bool:
        return self.congested


class RecordingLog:
    """Lines by level."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def _add(self, level: str, text: str, args: tuple[object, ...]) -> None:
        self.lines.append((level, text % args if args else text))

    def debug(self, msg: str, *args: object) -> None:
        self._add("debug", msg, args)

    def info(self, msg: str, *args: object) -> None:
        self._add("info", msg, args)

    def warning(self, msg: str, *args: object) -> None:
        self._add("warning", msg, args)

    def error(self, msg: str, *args: object) -> None:
        self._add("error", msg, args)

    def of(self, level: str) -> list[str]:
        return [text for at, text in self.lines if at == level]


class RunningPollers:
    """Pollers side by side; leaving the context stops them and checks that nothing is left."""

    def __init__(self, fleet: SimulatedFleet, *, gate: int = 50, bench: Bench | None = None) -> None:
        self.fleet = fleet
        self.uplink = RecordingUplink()
        self.log = RecordingLog()
        self.bench = bench or Bench()
        self.pollers: dict[str, DevicePoller] = {}
        self.lines: dict[str, Line] = {}
        self.around = Surroundings(
            uplink=self.uplink,
            log=self.log,
            gate=Gate(gate),
            rng=random.Random(1),
        )
        self._descriptors_before = psutil.Process().num_fds()
        self._threads_before = set(threading.enumerate())

    def add(self, device: DeviceSettings, *, tasks: Sequence[BackgroundTask] = ()) -> DevicePoller:
        """A poller with its profiles as background tasks, and others; started by `start`."""
        session, line = self.bench.session_and_line(device)
        self.lines[device.device_name] = line
        poller = DevicePoller(
            device,
            session,
            line,
            self.around,
            tasks=[*(self._task(device, item) for item in device.profiles), *tasks],
        )
        self.pollers[device.device_name] = poller
        return poller

    def _task(self, device: DeviceSettings, profile: Any) -> ProfileTask:
        reader = ProfileReader(device, profile, self.bench.state)
        return ProfileTask(
            reader, device, self.bench.state, lambda rows: self.uplink.deliver_rows(device, rows)
        )

    def start(self) -> None:
        for poller in self.pollers.values():
            poller.start()

    def __enter__(self) -> RunningPollers:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for poller in self.pollers.values():
            poller.stop()
        deadline_s = time.monotonic() + 4.0
        for poller in self.pollers.values():
            poller.thread.join(max(0.0, deadline_s - time.monotonic()))
        late = [name for name, poller in self.pollers.items() if poller.thread.is_alive()]
        for name in late:
            self.pollers[name].interrupt()
        for poller in self.pollers.values():
            poller.thread.join(2.0)
            self.bench.lines.release(poller.device.transport)
        if kind is not None:
            return
        assert not [name for name, poller in self.pollers.items() if poller.thread.is_alive()]
        assert not self.log.of("error"), self.log.of("error")
        self.check_nothing_is_left()

    def check_nothing_is_left(self) -> None:
        """No association, no descriptor, no thread."""
        meters = list(self.fleet.fleet.devices.values())
        assert self.fleet.wait_for(lambda: not any(meter.counters.associations_open for meter in meters), 5)
        lines = [line.line for line in self.fleet.fleet.lines]
        assert self.fleet.wait_for(lambda: not any(line.connections for line in lines), 5)
        assert psutil.Process().num_fds() <= self._descriptors_before
        wait_until(
            lambda: set(threading.enumerate()) <= self._threads_before,
            5,
            lambda: f"left: {set(threading.enumerate()) - self._threads_before}",
        )

    def readings(self, name: str) -> list[Reading]:
        return self.uplink.telemetry[name]

    def count(self, name: str) -> int:
        return len(self.uplink.telemetry[name])

    def wait_for_readings(
        self, names: Iterable[str] | None = None, more: int = 1, timeout_s: float = _PATIENCE_S
    ) -> None:
        """Wait until each of them has that many readings more."""
        wanted = {name: self.count(name) + more for name in (list(self.pollers) if names is None else names)}
        wait_until(
            lambda: all(self.count(name) >= count for name, count in wanted.items()),
            timeout_s,
            lambda: (
                f"no readings of {[n for n, c in wanted.items() if self.count(n) < c]}: "
                + "; ".join(self.log.of("warning")[-5:])
            ),
        )

    def check_values(self, slack_s: int = 2, back_s: int = 0) -> int:
        """Each value delivered so far is the meter's own, of that key, of about that time. Returns their number."""
        checked = 0
        for name, readings in list(self.uplink.telemetry.items()):
            for reading in list(readings):
                if reading.key not in QUANTITIES:
                    continue
                at_s = reading.ts_ms // 1000
                allowed = {
                    float(scaled_value(name, reading.key, at_s - ago))
                    for ago in range(-1, slack_s + back_s + 1)
                }
                assert float(reading.value) in allowed, (name, reading)  # type: ignore[arg-type]
                checked += 1
        return checked

    def check_punctual(self, names: Iterable[str], period_s: float) -> None:
        """No cycle of these meters was skipped, and none came a period late."""
        for name in names:
            poller = self.pollers[name]
            assert poller.health.skipped_cycles == 0, name
            arrivals = self.uplink.arrivals[name]
            gaps = [after - before for before, after in itertools.pairwise(arrivals)]
            assert max(gaps, default=0.0) < 2 * period_s, (name, max(gaps))


class Attempts:
    """When a session was opened, or tried to be."""

    def __init__(self, session: MeterSession) -> None:
        self.moments_s: list[float] = []
        self._open = session.open
        session.open = self._watched  # type: ignore[method-assign]

    def _watched(self) -> None:
        self.moments_s.append(time.monotonic())
        self._open()


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float = _PATIENCE_S,
    complaint: Callable[[], str] = lambda: "the state did not come",
) -> None:
    """Wait for a state; fails if it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, complaint()
        time.sleep(0.005)
