"""One physical way that several meters may share: a TCP end point or a serial port.

At most one open stream, one exchange at a time, turns by priority. Meters behind one converter keep their
associations side by side; `generation` tells them when the stream below was opened anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import IntEnum

from dlms_connector.errors import Interrupted, LinkTimeout
from dlms_connector.io.paced import PacedStream
from dlms_connector.io.stream import ByteStream, Interrupt

Opener = Callable[[float, Interrupt], ByteStream]
"""Opens the stream within a deadline: `open_tcp`, `open_serial` or `open_mode_e` with its settings bound."""

_PATIENCE_S = 15.0
"""For each such span of waiting a turn gains one priority, up to POLL: nothing waits for ever."""
_UNLIMITED_S = float("inf")


class Priority(IntEnum):
    """Whose turn comes first."""

    RPC = 0
    POLL = 1
    BACKFILL = 2
    PROBE = 3
    """Meters that did not answer lately."""


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How gently the line is used.

    `exclusive`: one association on the line at a time. `fresh_stream`: each association opens its own stream
    (mode E, where the meter falls back to its sign-on).
    """

    inter_frame_delay_s: float = 0.0
    reassociation_delay_s: float = 0.0
    exclusive: bool = False
    fresh_stream: bool = False


class Turn:
    """The right to use the line: taken on entering the context, given back on leaving it."""

    __slots__ = (
        "_line",
        "budget_s",
        "deadline_s",
        "ends_s",
        "interrupt",
        "number",
        "owner",
        "priority",
        "ready",
        "since_s",
    )

    def __init__(
        self,
        line: Line,
        owner: Hashable,
        priority: Priority,
        *,
        budget_s: float,
        deadline_s: float,
        interrupt: Interrupt,
    ) -> None:
        self._line = line
        self.owner = owner
        self.priority = priority
        self.budget_s = budget_s
        self.deadline_s = deadline_s
        self.interrupt = interrupt
        self.number = 0
        self.since_s = 0.0
        self.ends_s = _UNLIMITED_S
        self.ready: threading.Event | None = None

    @property
    def is_over(self) -> bool:
        """The budget is used up and somebody waits: finish the exchange in hand, then take another turn."""
        return self._line.is_wanted and time.monotonic() >= self.ends_s

    def rank(self, now_s: float) -> tuple[int, int]:
        """Lower goes first; arrival decides within a priority."""
        gained = int((now_s - self.since_s) / _PATIENCE_S)
        return max(self.priority - gained, min(self.priority, Priority.POLL)), self.number

    def __enter__(self) -> Turn:
        self._line.take(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._line.give_back(self)


class Line:
    """See the module. Callable from any thread; the stream belongs to whoever has the turn."""

    def __init__(self, opener: Opener, settings: LineSettings | None = None) -> None:
        self.settings = settings or LineSettings()
        self.generation = 0
        self.users = 1
        self._opener = opener
        self._lock = threading.Lock()
        self._turn: Turn | None = None
        self._waiting: list[Turn] = []
        self._arrivals = 0
        self._stream: ByteStream | None = None
        self._associated: Hashable | None = None
        self._not_before_s: dict[Hashable, float] = {}
        self._silent: set[Hashable] = set()

    @property
    def is_shared(self) -> bool:
        """More than one meter uses this line."""
        return self.users > 1

    @property
    def is_wanted(self) -> bool:
        """Somebody waits for a turn: who holds an exclusive association should end it soon."""
        return bool(self._waiting)

    def turn(
        self,
        owner: Hashable,
        priority: Priority,
        *,
        deadline_s: float,
        interrupt: Interrupt,
        budget_s: float = _UNLIMITED_S,
    ) -> Turn:
        """A context in which the owner alone uses the line; not re-entrant, but for use again and again.

        The budget is what a turn should last when others wait, see `Turn.is_over`; it cuts no exchange short.
        Entering raises LinkTimeout when the turn does not come by the deadline, Interrupted by the interrupt.
        """
        return Turn(self, owner, priority, budget_s=budget_s, deadline_s=deadline_s, interrupt=interrupt)

    def has_turn(self, owner: Hashable) -> bool:
        """Whether this owner has the turn now."""
        turn = self._turn
        return turn is not None and turn.owner == owner

    def take(self, turn: Turn) -> None:
        """Waits for the turn; `Turn` does this on entering."""
        with self._lock:
            if self._turn is None and not self._waiting and self._may_use(turn.owner):
                self._turn = turn
                turn.ready = None
            else:
                self._queue(turn)
        if turn.ready is not None:
            self._await(turn, turn.ready)
        if turn.budget_s != _UNLIMITED_S:
            turn.ends_s = time.monotonic() + turn.budget_s

    def give_back(self, turn: Turn) -> None:
        """Hands the line to who comes next; `Turn` does this on leaving."""
        with self._lock:
            if self._turn is turn:
                self._turn = None
                if self._waiting:
                    self._grant()

    def _may_use(self, owner: Hashable) -> bool:
        return not self.settings.exclusive or self._associated in (None, owner)

    def _queue(self, turn: Turn) -> None:
        self._arrivals += 1
        turn.number = self._arrivals
        turn.since_s = time.monotonic()
        turn.ready = threading.Event()
        self._waiting.append(turn)
        self._grant()

    def _grant(self) -> None:
        """Gives an idle line to the first in rank of those who may use it."""
        if self._turn is not None:
            return
        allowed = [turn for turn in self._waiting if self._may_use(turn.owner)]
        if not allowed:
            return
        now_s = time.monotonic()
        chosen = min(allowed, key=lambda turn: turn.rank(now_s))
        self._waiting.remove(chosen)
        self._turn = chosen
        if chosen.ready is not None:
            chosen.ready.set()

    def _await(self, turn: Turn, ready: threading.Event) -> None:
        try:
            turn.interrupt.watch(ready.set)
            ready.wait(max(0.0, turn.deadline_s - time.monotonic()))
            turn.interrupt.unwatch()
            turn.interrupt.check()
        except Interrupted:
            self._withdraw(turn)
            raise
        with self._lock:
            if self._turn is turn:
                return
        self._withdraw(turn)
        raise LinkTimeout("the line was not free in time", hint="several meters share it: raise the timeout")

    def _withdraw(self, turn: Turn) -> None:
        with self._lock:
            if turn in self._waiting:
                self._waiting.remove(turn)
        self.give_back(turn)

    def association_allowed_at_s(self, owner: Hashable) -> float:
        """Since when, or from when on, this meter may be associated with (monotonic time)."""
        return self._not_before_s.get(owner, 0.0)

    def associate(self, owner: Hashable) -> None:
        """Records who holds the association of an exclusive line; needs the turn."""
        self._associated = owner

    def dissociate(self, owner: Hashable, *, clean: bool) -> None:
        """The owner's association has ended; after an unclean end the next one has to wait."""
        with self._lock:
            delay_s = self.settings.reassociation_delay_s
            if delay_s and not clean:
                self._not_before_s[owner] = time.monotonic() + delay_s
            if self._associated == owner:
                self._associated = None
                self._grant()

    def open_stream(self, deadline_s: float, interrupt: Interrupt) -> ByteStream:
        """The open stream, or a new one. Raises as the opener."""
        if self._stream is None:
            stream = self._opener(deadline_s, interrupt)
            delay_s = self.settings.inter_frame_delay_s
            self._stream = PacedStream(stream, delay_s) if delay_s else stream
            self.generation += 1
            self._silent.clear()
        return self._stream

    def stream_of(self, generation: int) -> ByteStream | None:
        """The stream that had this generation, None if it is gone."""
        return self._stream if generation == self.generation else None

    def drop_stream(self) -> None:
        """Closes the stream; associations of all meters on it are gone."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def succeeded(self) -> None:
        """A meter answered: the stream is sound."""
        if self._silent:
            self._silent.clear()

    def failed(self, owner: Hashable, *, stream_sound: bool) -> None:
        """An exchange failed: closes the stream, unless other meters use it and it is not to blame.

        When most meters of a line have failed in a row, it is.
        """
        self._silent.add(owner)
        if self.is_shared and stream_sound and len(self._silent) <= self.users // 2:
            return
        self.drop_stream()


class LineRegistry:
    """The lines of a process by what identifies them, such as ("tcp", host, port); counts their users."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, Line] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, factory: Callable[[], Line]) -> Line:
        """The line of this key, made by the factory for its first user; each `get` needs its `release`."""
        with self._lock:
            line = self._lines.get(key)
            if line is None:
                line = self._lines[key] = factory()
            else:
                line.users += 1
            return line

    def release(self, key: Hashable) -> None:
        """One user less; after the last one the line is closed and forgotten."""
        with self._lock:
            line = self._lines[key]
            line.users -= 1
            if line.users:
                return
            del self._lines[key]
        line.drop_stream()
