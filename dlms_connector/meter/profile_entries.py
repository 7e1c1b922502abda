"""Selective access by entry: for meters that number the rows of a profile and know no range of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import Value
from dlms_connector.errors import ObjectError
from dlms_connector.meter.profile_rows import PROFILE_CLASS, Row, entry_selection
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis

_BUFFER, _SORT_METHOD, _ENTRIES_IN_USE = 2, 5, 7
_NEWEST_FIRST = 2  # sort_method LIFO (Blue Book 4.3.6)
_FEW_ENTRIES = 8
_MAX_ENTRIES = 100_000


class EntryAccess:
    """Reads one profile's rows of a window by their numbers, oldest first, and not many more than those.

    The capture period foretells at which entry the window begins, the rows that come tell whether it was right:
    a meter without power captures none, and one whose period was changed has others before.
    """

    def __init__(self, obis: Obis, wall_ms: Callable[[], int]) -> None:
        self._obis = obis
        self._wall_ms = wall_ms
        self._newest_first: bool | None = None

    def read(
        self,
        session: MeterSession,
        from_ms: int,
        to_ms: int,
        *,
        period_s: int,
        timed: Callable[[list[Value]], list[Row]],
    ) -> list[Value]:
        """Rows as they came; some before and behind the window are among them.

        Args:
            period_s: the capture period; 0 for a log without one, which is searched from its newest entry.
            timed: gives rows their moments.

        Raises:
            LinkError, ObjectError, ServiceRefused.
        """
        in_use = session.get(self._ref(_ENTRIES_IN_USE))
        if not isinstance(in_use, int) or in_use <= 0:
            return []
        first, size = in_use, 1
        if period_s > 0:
            age_ms = max(0, self._wall_ms() - from_ms)
            first = max(1, in_use - age_ms // (period_s * 1000) - 1)
            size = max(_FEW_ENTRIES, (to_ms - from_ms) // (period_s * 1000) + 2)
        rows: list[Value] = []
        last = first - 1
        sizes: Iterator[int] = chain((size,), _growing(size))
        while last < in_use and len(rows) < _MAX_ENTRIES:
            part = self._entries(session, last + 1, min(in_use, last + next(sizes)), in_use)
            rows += part
            last += len(part)
            known = timed(part)
            if not part or (known and known[-1].ts_ms > to_ms):
                break
        sizes = _growing(_MAX_ENTRIES)
        while first > 1 and len(rows) < _MAX_ENTRIES:
            known = timed(rows)
            if not known or known[0].ts_ms <= from_ms:
                break
            before = max(1, first - next(sizes))
            rows = self._entries(session, before, first - 1, in_use) + rows
            first = before
        return rows

    def _entries(self, session: MeterSession, first: int, last: int, in_use: int) -> list[Value]:
        """Entries by age, 1 the oldest, whichever end the meter counts from."""
        if self._newest_first is None:
            self._newest_first = self._is_newest_first(session)
        if self._newest_first:
            first, last = in_use + 1 - last, in_use + 1 - first
        rows = session.get(self._ref(_BUFFER), entry_selection(first, last))
        if not isinstance(rows, list):
            return []
        return rows[::-1] if self._newest_first else rows

    def _is_newest_first(self, session: MeterSession) -> bool:
        try:
            return session.get(self._ref(_SORT_METHOD)) == _NEWEST_FIRST
        except ObjectError:
            return False

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self._obis, attribute)


def _growing(limit: int) -> Iterator[int]:
    """How many entries to ask for next, where it is not known how many are missing."""
    size = _FEW_ENTRIES
    while True:
        yield min(size, limit)
        size *= 2
