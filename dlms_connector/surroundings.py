"""What the pollers of one connector share, and what they ask of others: a log, an uplink, work to do."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.health import Health
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession


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


@dataclass(slots=True)
class Surroundings:
    """What all pollers of a connector share."""

    uplink: Uplink
    log: Log
    gate: threading.BoundedSemaphore
    clock: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    rng: random.Random = field(default_factory=random.Random)
