"""Invocation counters of one client towards one meter: each is on disk before it is used."""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.cosem.security import COUNTER_LIMIT
from dlms_connector.errors import SecurityError
from dlms_connector.state import StateStore

WARN_AT = COUNTER_LIMIT - 1_000_000


class InvocationCounters:
    """Gives counters out, each once in the life of the key.

    Args:
        identity: names the pair of meter and client; no secret.
        on_warning: told once when the counter nears its end.
    """

    def __init__(self, state: StateStore, identity: str, on_warning: Callable[[str], None]) -> None:
        self._state = state
        self._identity = identity
        self._on_warning = on_warning
        self._reserved = iter(range(0))
        self._last = -1
        self._warned = False

    @property
    def known(self) -> bool:
        """Whether this pair ever used a counter."""
        return self._state.has_counter(self._identity)

    def next(self) -> int:
        """The next counter. Raises SecurityError when the key is used up, StateError when the disk fails."""
        number = next(self._reserved, None)
        if number is None:
            self._reserved = iter(self._state.reserve_counters(self._identity))
            number = next(self._reserved)
        if number > COUNTER_LIMIT:
            raise SecurityError(
                "the invocation counter of this key is used up", hint="the meter needs a new key"
            )
        if number >= WARN_AT and not self._warned:
            self._warned = True
            self._on_warning(f"invocation counter {number} nears its end at {COUNTER_LIMIT}: change the key")
        self._last = number
        return number

    def raise_to(self, at_least: int) -> None:
        """Continue at `at_least` or higher; a lower number than used before changes nothing."""
        if at_least > self._last:
            self._reserved = iter(self._state.reserve_counters(self._identity, at_least))
