"""How many meters may be called at the same time: after a power cut all of a fleet want to be first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dlms_connector.io.stream import Interrupt


@dataclass(slots=True, eq=False)
class _Waiting:
    """Somebody in the queue."""

    called: threading.Event = field(default_factory=threading.Event)
    has_place: bool = False


class Gate:
    """So many places, given out first come first served.

    Whoever waits sleeps until it is called: ten thousand that looked up twice a second would leave nobody the time to
    connect.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._queue: deque[_Waiting] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def place(self, interrupt: Interrupt) -> Iterator[None]:
        """A place for the length of the context. Raises Interrupted when the brake is pulled while waiting."""
        self._enter(interrupt)
        try:
            yield
        finally:
            with self._lock:
                self._pass_on()

    def _enter(self, interrupt: Interrupt) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiting = _Waiting()
            self._queue.append(waiting)
        try:
            interrupt.watch(waiting.called.set)
            waiting.called.wait()
            interrupt.check()
        except BaseException:
            self._withdraw(waiting)
            raise
        finally:
            interrupt.unwatch()

    def _withdraw(self, waiting: _Waiting) -> None:
        with self._lock:
            if waiting.has_place:
                self._pass_on()
            else:
                self._queue.remove(waiting)

    def _pass_on(self) -> None:
        """The place goes to the first in the queue; holds the lock."""
        if not self._queue:
            self._free += 1
            return
        first = self._queue.popleft()
        first.has_place = True
        first.called.set()
