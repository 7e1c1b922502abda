"""Health of one meter: what happened, when to try again, when to leave it alone.

Pure: time and randomness come in as arguments, so every rule can be tested without waiting.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from dlms_connector.config.settings import BackoffSettings, BreakerSettings, WatchdogSettings
from dlms_connector.errors import DlmsConnectorError

_RECENT = 100
_RECENT_MASK = (1 << _RECENT) - 1


class MeterState(str, Enum):
    """What `dlms_state` tells."""

    STARTING = "starting"
    CONNECTING = "connecting"
    ONLINE = "online"
    OFFLINE = "offline"
    BREAKER_OPEN = "breaker open"
    PAUSED = "paused"
    STOPPED = "stopped"
    MISCONFIGURED = "misconfigured"

    def __str__(self) -> str:
        return self.value


class Backoff:
    """Doubling pauses, jittered between half and the whole of each step, capped."""

    def __init__(self, settings: BackoffSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._failures = 0

    def next_pause_s(self) -> float:
        """The pause after one more failure, in seconds."""
        step_ms = min(self._settings.maximum_ms, self._settings.initial_ms << min(self._failures, 30))
        self._failures += 1
        return step_ms / 1000 * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._failures = 0


class Breaker:
    """Counts reconnects in a window; when there are too many, the meter rests, then one probe decides."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._attempts: list[float] = []
        self._open_until_s = 0.0
        self._half_open = False

    def attempt(self, now_s: float) -> None:
        """Count one attempt to connect anew."""
        self._attempts.append(now_s)
        horizon = now_s - self._settings.window_ms / 1000
        recent = [attempt for attempt in self._attempts if attempt >= horizon]
        self._attempts = recent[-self._settings.reconnects :]  # more than the budget changes nothing

    def failed(self, now_s: float) -> None:
        """The attempt failed: open when the budget is used up or the probe failed."""
        if self._half_open or len(self._attempts) >= self._settings.reconnects:
            self._open_until_s = now_s + self._settings.pause_ms / 1000
            self._half_open = True

    def succeeded(self) -> None:
        """A good reading closes the breaker."""
        if self._half_open:
            self._attempts.clear()
        self._half_open = False
        self._open_until_s = 0.0

    def wait_s(self, now_s: float) -> float:
        """Seconds until an attempt is allowed, 0 when it is now."""
        return max(0.0, self._open_until_s - now_s)

    def state(self, now_s: float) -> str:
        """`closed`, `open` or `half-open`."""
        if not self._half_open:
            return "closed"
        return "open" if self._open_until_s > now_s else "half-open"


class Watchdog:
    """Says when a link that looks open is not to be trusted any more.

    `in_vain`: a fresh connection was made already, and no good reading has come since.
    """

    def __init__(self, settings: WatchdogSettings, now_s: float) -> None:
        self.in_vain = False
        self._settings = settings
        self._spoken = False
        self._begin(now_s)

    def good(self, now_s: float) -> None:
        self.in_vain = self._spoken = False
        self._begin(now_s)

    def _begin(self, now_s: float) -> None:
        self._since_s = now_s
        self._failed_cycles = 0
        self._link_errors = 0

    def link_error(self) -> None:
        self._link_errors += 1

    def failed_cycle(self) -> None:
        self._failed_cycles += 1

    def verdict(self, now_s: float) -> str | None:
        """Why a fresh connection is due, None while there is no reason. The count begins anew with it."""
        reason = None
        if now_s - self._since_s > self._settings.max_silence_ms / 1000:
            reason = f"no good reading for {self._settings.max_silence_ms // 1000} s"
        elif self._failed_cycles >= self._settings.failed_cycles:
            reason = f"{self._failed_cycles} failed cycles"
        elif self._link_errors >= self._settings.link_errors:
            reason = f"{self._link_errors} link errors"
        if reason is not None:
            self.in_vain, self._spoken = self._spoken, True
            self._begin(now_s)
        return reason


@dataclass
class Health:
    """Counters and state of one meter; written by its poller alone, read by anybody."""

    state: MeterState = MeterState.STARTING
    last_error: str = ""
    last_error_layer: str = ""
    last_read_ms: int = 0
    cycles: int = 0
    good_cycles: int = 0
    skipped_cycles: int = 0
    requests: int = 0
    responses: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    reconnects: int = 0
    connects: int = 0
    latency_ms: float = 0.0
    lateness_s: float = 0.0
    breaker: str = "closed"
    clock_offset_s: float | None = None
    refused: set[str] = field(default_factory=set)
    _recent: int = 0  # the last hundred cycles as bits, the newest lowest

    def cycle(self, good: bool, latency_ms: float) -> None:
        """Count a cycle; the latency is smoothed over about ten."""
        self.cycles += 1
        self.good_cycles += good
        self._recent = (self._recent << 1 | good) & _RECENT_MASK
        if good:
            self.latency_ms += (latency_ms - self.latency_ms) * (0.1 if self.latency_ms else 1.0)

    @property
    def success_rate(self) -> float:
        """Share of good cycles among the last hundred, in percent."""
        counted = min(self.cycles, _RECENT)
        return 100.0 * (self._recent & (1 << counted) - 1).bit_count() / counted if counted else 0.0

    def error(self, error: DlmsConnectorError) -> bool:
        """Keep the error's words; True when they are new."""
        text = error.explain()
        new = text != self.last_error
        self.last_error = text
        self.last_error_layer = str(error.layer)
        return new

    def values(self) -> dict[str, str | int | float]:
        """Everything under the keys that ThingsBoard sees."""
        values: dict[str, str | int | float] = {
            "dlms_state": str(self.state),
            "dlms_lastError": self.last_error,
            "dlms_successRate": round(self.success_rate, 1),
            "dlms_latencyMs": round(self.latency_ms, 1),
            "dlms_requests": self.requests,
            "dlms_responses": self.responses,
            "dlms_bytesSent": self.bytes_sent,
            "dlms_bytesReceived": self.bytes_received,
            "dlms_reconnects": self.reconnects,
            "dlms_breaker": self.breaker,
            "dlms_skippedCycles": self.skipped_cycles,
            "lastReadTs": self.last_read_ms,
        }
        if self.clock_offset_s is not None:
            values["dlms_clockOffset"] = round(self.clock_offset_s, 1)
        return values
