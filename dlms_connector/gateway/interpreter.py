"""How the interpreter is set while meters are polled: what its garbage collector sees, how threads wait for it.

The gateway's SQLite storage runs a full collection after each pack of events, many times a second. Each walks every
container object of the process: modules, settings, plans, sessions, what the gateway remembers of each key. With
thousands of meters that was half of the CPU.

What a full collection has left over is therefore frozen (`gc.freeze`): the next one walks what was made since. An
object that becomes part of garbage after that is freed by its reference count as always, but for cycles; so from
time to time one collection is let see everything.

Each thread that waits for the interpreter wakes up once a switch interval to ask for it. With the usual 5 ms some
thousands that wait at the same moment, after an outage, keep the machine busy with that alone and never catch up; so
the interval grows with their number.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable

FULL_WALK_S = 600.0
WAKE_UPS_A_S = 200_000
"""Of waiting threads, were all of them to wait: 1,000 are let wake up every 5 ms."""


class Interpreter:
    """The interpreter's habits while connectors are open; one for the process, used by each of them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}
        self._usual_interval_s = sys.getswitchinterval()
        self._full_walk_s = 0.0

    def suit(self, user: object, threads: int) -> None:
        """This user has made what it lives with, but for so many threads: begin, or begin again, with all of it."""
        with self._lock:
            if not self._users:
                gc.callbacks.append(self._collected)
            self._users[id(user)] = threads
            self._set_interval()
        self._full_walk_s = self._clock() + FULL_WALK_S
        gc.collect()

    def release(self, user: object) -> None:
        """This user has closed: everything may be collected again, so that it leaves nothing behind."""
        with self._lock:
            self._users.pop(id(user), None)
            self._set_interval()
            if not self._users and self._collected in gc.callbacks:
                gc.callbacks.remove(self._collected)
        gc.unfreeze()

    def _set_interval(self) -> None:
        sys.setswitchinterval(max(self._usual_interval_s, sum(self._users.values()) / WAKE_UPS_A_S))

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


INTERPRETER = Interpreter()
