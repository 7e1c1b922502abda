"""Keeps the garbage collector away from what lives long.

The gateway's SQLite storage runs a full collection after each pack of events, many times a second. Each walks every
container object of the process: modules, settings, plans, sessions, what the gateway remembers of each key. With
thousands of meters that was half of the CPU.

What a full collection has left over is therefore frozen (`gc.freeze`): the next one walks what was made since. An
object that becomes part of garbage after that is freed by its reference count as always, but for cycles; so from
time to time one collection is let see everything.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable

FULL_WALK_S = 600.0


class LongLived:
    """The collector's habits while connectors are open; one for the process, used by each of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._users: set[int] = set()
        self._full_walk_s = 0.0

    def keep(self, user: object) -> None:
        """This user has made what it lives with: begin, or begin again, with all of it out of sight."""
        with self._lock:
            if not self._users:
                gc.callbacks.append(self._collected)
            self._users.add(id(user))
        self._full_walk_s = self._clock() + FULL_WALK_S
        gc.collect()

    def release(self, user: object) -> None:
        """This user has closed: everything may be collected again, so that it leaves nothing behind."""
        with self._lock:
            self._users.discard(id(user))
            if not self._users and self._collected in gc.callbacks:
                gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        """Called by the collector, on whatever thread it ran."""
        if phase != "stop" or info["generation"] < 2:
            return
        now_s = self._clock()
        if now_s < self._full_walk_s:
            gc.freeze()
        else:
            self._full_walk_s = now_s + FULL_WALK_S
            gc.unfreeze()


LONG_LIVED = LongLived()
