"""When to poll: a fixed grid for each period, spread over the period by the device's name.

A cycle that comes too late is skipped and counted, never queued, so a slow meter is read less often and not
later and later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def phase_of(name: str) -> float:
    """A fraction 0..1 of the period, the same for the same name on every gateway and after every restart."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


class Grid:
    """Due times `k * period + phase * period` in wall time, kept in monotonic seconds."""

    __slots__ = ("next_s", "period_s")

    def __init__(self, period_s: float, phase: float, wall_s: float, now_s: float) -> None:
        self.period_s = period_s
        into = (wall_s - phase * period_s) % period_s
        self.next_s = now_s + (period_s - into)

    def take(self, now_s: float) -> int:
        """Move on to the next due time behind `now_s`: how many whole cycles were missed."""
        missed = int((now_s - self.next_s) // self.period_s)
        self.next_s += (missed + 1) * self.period_s
        return missed


class Schedule:
    """The grids of one meter.

    Args:
        periods_s: each distinct period, in seconds.
        name: the device's name, for the phase.
        wall_s, now_s: wall and monotonic time.
        first_s: monotonic time of an extra first cycle that reads everything at once, so that a meter shows
            up soon after the start whatever its period.
    """

    def __init__(
        self, periods_s: Iterable[float], name: str, *, wall_s: float, now_s: float, first_s: float
    ) -> None:
        phase = phase_of(name)
        self._grids = {period: Grid(period, phase, wall_s, now_s) for period in sorted(set(periods_s))}
        self._first_s: float | None = first_s
        self.next_s = first_s
        if not self._grids:
            self.next_s = float("inf")

    def due(self, now_s: float) -> tuple[tuple[float, ...], float, int]:
        """What is due: `(periods, lateness in seconds, whole cycles missed)`; moves on behind `now_s`."""
        if self._first_s is not None:
            if now_s < self._first_s:
                return (), 0.0, 0
            lateness = now_s - self._first_s
            self._first_s = None
            periods = tuple(self._grids)
            for grid in self._grids.values():
                if grid.next_s <= now_s:
                    grid.take(now_s)
            self._settle()
            return periods, lateness, 0
        due = [grid for grid in self._grids.values() if grid.next_s <= now_s]
        lateness = max((now_s - grid.next_s for grid in due), default=0.0)
        missed = sum(grid.take(now_s) for grid in due)
        self._settle()
        return tuple(grid.period_s for grid in due), lateness, missed

    def _settle(self) -> None:
        self.next_s = min((grid.next_s for grid in self._grids.values()), default=float("inf"))
