"""The connector's pollers without a gateway around them: what a line or a load profile allows, nothing else."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dlms_connector.config.loader import load_document
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.io.gate import Gate
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import Lines, make_channel
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.task import ProfileTask
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Surroundings
from dlms_connector.state import StateStore

CODES = (32, 52, 72, 31, 51, 71, 14, 1, 3, 9)  # value group C of 1-0:C.7.0
TIMESERIES = tuple({"key": f"r{code}", "obis": f"1-0:{code}.7.0"} for code in CODES)
BITS_A_BYTE = 10  # 8N1


class CountingUplink:
    """Counts what arrives, and keeps which rows of which device did."""

    def __init__(self) -> None:
        self.values = 0
        self.row_values = 0
        self.by_device: dict[str, int] = {}
        self.rows: set[tuple[str, int]] = set()
        self._lock = threading.Lock()

    def deliver(self, device: Any, telemetry: Any, attributes: Any) -> bool:
        name = device.device_name
        with self._lock:
            self.values += len(telemetry)
            self.by_device[name] = self.by_device.get(name, 0) + len(telemetry)
        return True

    def deliver_rows(self, device: DeviceSettings, readings: Any) -> bool:
        moments = {(device.device_name, reading.ts_ms) for reading in readings}
        with self._lock:
            self.row_values += len(readings)
            self.rows |= moments
        return True

    def deliver_health(self, device: Any, health: Any, *, state_only: bool) -> None: ...

    def is_congested(self) -> bool:
        return False


class Quiet:
    """A log that nobody reads."""

    def debug(self, msg: str, *args: object) -> None: ...

    info = warning = error = debug


class WatchedPoller(DevicePoller):
    """Notes how late each poll was done: from its moment on the grid until its values were handed over."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.late_s: list[tuple[float, float]] = []
        """(monotonic time, seconds late) of each poll."""

    def _cycle(self) -> None:
        due_s = time.monotonic() - self.health.lateness_s
        super()._cycle()
        done_s = time.monotonic()
        self.late_s.append((done_s, done_s - due_s))


class Pollers:
    """Pollers of every device of a document, with its load profiles; a context manager that runs them."""

    def __init__(self, document: dict[str, Any], uplink: CountingUplink) -> None:
        configuration = load_document(document)
        assert not configuration.errors, configuration.errors
        self._folder = tempfile.TemporaryDirectory()
        state = StateStore(Path(self._folder.name) / "state.sqlite")
        devices = configuration.devices
        around = Surroundings(uplink=uplink, log=Quiet(), gate=Gate(max(1, len(devices))))
        lines = Lines()
        self.pollers = [_make_poller(device, lines, state, around, uplink) for device in devices]

    def __enter__(self) -> Pollers:
        for poller in self.pollers:
            poller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for poller in self.pollers:
            poller.stop()
            poller.interrupt()
        for poller in self.pollers:
            poller.thread.join(10)
        self._folder.cleanup()

    def late_s(self, from_s: float, to_s: float) -> list[float]:
        """Of the polls done in that time (monotonic)."""
        return [late_s for poller in self.pollers for at_s, late_s in poller.late_s if from_s <= at_s <= to_s]

    @property
    def skipped_cycles(self) -> int:
        return sum(poller.health.skipped_cycles for poller in self.pollers)


def _make_poller(
    device: DeviceSettings, lines: Lines, state: StateStore, around: Surroundings, uplink: CountingUplink
) -> WatchedPoller:
    line, interrupt = lines.line_for(device.transport), Interrupt()
    session = MeterSession(
        device,
        lambda client: make_channel(device, client, line, interrupt),
        state,
        on_event=lambda text: None,
    )
    tasks: Sequence[ProfileTask] = [
        ProfileTask(
            ProfileReader(device, profile, state),
            device,
            state,
            lambda readings: uplink.deliver_rows(device, readings),
        )
        for profile in device.profiles
    ]
    return WatchedPoller(device, session, line, around, tasks=tasks)


def until(condition: Any, timeout_s: float, what: str) -> None:
    """Wait for a state. Raises TimeoutError when it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{what} did not happen in {timeout_s:.0f} s")
        time.sleep(0.02)
