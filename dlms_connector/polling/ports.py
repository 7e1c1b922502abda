"""What the pollers of one connector share, and what they ask of others: a log, an uplink, work to do."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import DlmsConnectorError, LinkError
from dlms_connector.io.gate import Gate
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.health import Health


class Log(Protocol):
    """The part of a logger that pollers use."""

    def debug(self, msg: str, *args: object) -> None: ...
    def info(self, msg: str, *args: object) -> None: ...
    def warning(self, msg: str, *args: object) -> None: ...
    def error(self, msg: str, *args: object) -> None: ...


class Uplink(Protocol):
    """Where readings go; implemented by the gateway's side."""

    def deliver(
        self, device: DeviceSettings, telemetry: Sequence[Reading], attributes: Sequence[Reading]
    ) -> bool:
        """Hand readings over; False when they were not taken (closed, refused)."""

    def deliver_health(self, device: DeviceSettings, health: Health, *, state_only: bool) -> None:
        """Tell the meter's health."""

    def is_congested(self) -> bool:
        """The gateway's queue is long: what can wait should."""


@dataclass(slots=True)
class Command:
    """Work that somebody else wants done with the meter, between two reads.

    `run` gets the open session; `done` is called exactly once, with the result or the error.
    """

    name: str
    run: Callable[[MeterSession], Any]
    done: Callable[[Any, DlmsConnectorError | None], None]
    deadline_s: float
    needs_meter: bool = True


class BackgroundTask(Protocol):
    """Work for quiet moments, in small steps: filling a load profile's gap."""

    def due_s(self) -> float:
        """Monotonic time from which a step is wanted; infinity for never."""

    def step(self, session: MeterSession) -> None:
        """One bounded exchange. Raises LinkError like any read."""


_FREE_FAILURES = 2  # in a row: a line has bad moments
_LONGEST_REST = 32  # times the first


class Errand:
    """A background task with the rest that it is given when it goes wrong again and again.

    Some meters hang up when one profile is asked for, or send it as no decoder takes it. Each try then costs the
    association: without a rest such a profile, or the daily look at the clock, would cost the live values too.

    Args:
        first_rest_s: from the third failure in a row on; it doubles with each further one.
    """

    def __init__(self, task: BackgroundTask, first_rest_s: float) -> None:
        self._task = task
        self._first_rest_s = first_rest_s
        self._failures = 0
        self._rests_until_s = 0.0

    def due_s(self) -> float:
        """Monotonic time from which a step is wanted."""
        return max(self._task.due_s(), self._rests_until_s)

    def step(self, session: MeterSession, clock: Callable[[], float]) -> None:
        """One step of the task; raises what it raises."""
        try:
            self._task.step(session)
        except Exception as error:
            if isinstance(error, LinkError) or not isinstance(error, DlmsConnectorError):
                self._failed(clock())
            raise
        self._failures = 0

    def _failed(self, now_s: float) -> None:
        self._failures += 1
        too_many = self._failures - _FREE_FAILURES
        if too_many > 0:
            self._rests_until_s = now_s + self._first_rest_s * min(2 ** (too_many - 1), _LONGEST_REST)


@dataclass(slots=True)
class Surroundings:
    """What all pollers of a connector share."""

    uplink: Uplink
    log: Log
    gate: Gate
    start_spread_s: float = 0.0
    """Over how long at least the first reads of all meters are spread."""
    clock: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    rng: random.Random = field(default_factory=random.Random)
