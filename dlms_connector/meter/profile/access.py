"""How a profile is read: stretches of time, and which way of access to begin with."""

from __future__ import annotations

from dataclasses import dataclass

from dlms_connector.config.reading import ProfileSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.values import Value
from dlms_connector.state import StateStore
from dlms_connector.state.keeper import Keeper

FUTURE_MS = 86_400_000
"""So far ahead a meter may be: its rows of tomorrow are read."""
_FACT_ACCESS = "profile access 2"  # what releases before kept as "profile access" came from one refused range
_ACCESS_ORDER = ("range", "entry", "whole")
_PROOFS = 3  # windows that range refused and another way showed to hold rows
_RANGE_AGAIN_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time to read, epoch milliseconds, both ends included."""

    from_ms: int
    to_ms: int


@dataclass(slots=True)
class Answer:
    """Rows in the meter's order and how they were got; the ends are those that the meter was asked for."""

    buffer: list[Value]
    way: str
    ends: tuple[int, int] | None = None
    ends_kind: str = ""


class AccessMemory:
    """Which way of access to begin with.

    A refused range proves nothing: some meters refuse a range in which there are no rows. Only where range never
    worked, and another way showed rows in window after window that range had refused, is that way believed, and
    range is tried again each day. Access by entry alone goes on disk: the whole buffer is no way for good.
    """

    def __init__(
        self, device: DeviceSettings, settings: ProfileSettings, state: StateStore, keeper: Keeper
    ) -> None:
        self._name, self._key = device.device_name, str(settings.obis)
        self._state = state
        self._keeper = keeper
        self._given = settings.access if settings.access != "auto" else None
        known = state.get_all(self._name, _FACT_ACCESS).get(self._key)
        self._believed = "entry" if known == "entry" else "range"
        self._proofs = 0
        self._range_worked = False
        self._range_again_ms: int | None = None
        self.shown = self._given or self._believed

    def ways(self, now_ms: int) -> tuple[str, ...]:
        """The ways to try, in this order."""
        if self._given is not None:
            return (self._given,)
        if self._range_again_ms is None:
            self._range_again_ms = now_ms + _RANGE_AGAIN_MS
        if self._believed != "range" and now_ms >= self._range_again_ms:
            self._range_again_ms = now_ms + _RANGE_AGAIN_MS
            return _ACCESS_ORDER
        return _ACCESS_ORDER[_ACCESS_ORDER.index(self._believed) :]

    def note(self, answer: Answer, has_rows: bool) -> None:
        """Learn from an answer; `has_rows`: some of them are inside the window."""
        if self._given is not None:
            return
        if answer.way == "range":
            self._range_worked, self._proofs, self.shown = True, 0, "range"
            self._believe("range")
            return
        if not has_rows:
            return  # there was nothing in it, and the refusal of range said just that
        self._proofs = self._proofs + 1 if answer.way == self.shown else 1
        self.shown = answer.way
        if self._proofs >= _PROOFS and not self._range_worked:
            self._believe(answer.way)

    def _believe(self, way: str) -> None:
        if way == self._believed:
            return
        self._believed = way
        if way != "whole":
            self._keeper.attempt(lambda: self._state.put(self._name, _FACT_ACCESS, self._key, way))
