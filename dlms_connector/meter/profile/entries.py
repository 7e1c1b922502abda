"""Selective access by entry: for meters that number the rows of a profile and know no range of time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import Value
from dlms_connector.errors import DlmsConnectorError, InvalidAnswer, ObjectError, ServiceRefused
from dlms_connector.meter.facts import REFUSALS, REFUSED_OVER_MS
from dlms_connector.meter.profile.columns import PROFILE_CLASS
from dlms_connector.meter.profile.rows import Row
from dlms_connector.meter.profile.selection import entry_selection
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis

_SORT_METHOD, _ENTRIES_IN_USE = 5, 7
_OLDEST_FIRST, _NEWEST_FIRST = (
    1,
    2,
)  # sort_method FIFO and LIFO (Blue Book 4.3.6); others are no order of time
_FEW_ENTRIES = 8
_MAX_ENTRIES = 100_000
_MANY_TIMELESS = 100  # in a row: the clocks of this profile cannot be read at all


class OrderUnknown(InvalidAnswer):
    """The meter does not tell now whether the newest row comes first, and the rows asked for depend on it."""


class EntryAccess:
    """Reads one profile's rows of a window by their numbers, oldest first, and not many more than those.

    The capture period foretells at which entry the window begins, the rows that come tell whether it was right:
    a meter without power captures none, and one whose period was changed has others before.
    """

    def __init__(self, obis: Obis, wall_ms: Callable[[], int]) -> None:
        self._obis = obis
        self._wall_ms = wall_ms
        self._newest_first: bool | None = None
        self._order_told = False
        self._refusals = 0
        self._first_refusal_ms = 0

    def read(
        self,
        session: MeterSession,
        from_ms: int,
        to_ms: int,
        *,
        period_s: int,
        fetch: Callable[[Selection], list[Value]],
        timed: Callable[[list[Value]], list[Row]],
    ) -> list[Value]:
        """Rows in the meter's order; some before and behind the window are among them.

        Args:
            period_s: the capture period; 0 for a log without one, which is searched from its newest entry.
            fetch: gives the rows of a selection.
            timed: gives rows in the meter's order their moments.

        Raises:
            OrderUnknown: the meter does not tell now from which end it counts.
            LinkError, ObjectError, ServiceRefused.
        """
        in_use = session.get(self._ref(_ENTRIES_IN_USE))
        if not isinstance(in_use, int) or isinstance(in_use, bool) or in_use < 0:
            raise InvalidAnswer(f"{self._ref(_ENTRIES_IN_USE)}: {in_use!r} is no number of rows")
        if in_use == 0:
            return []
        newest_first = self.newest_first(session) is True

        def turned(items: list[Value]) -> list[Value]:
            return items[::-1] if newest_first else items

        def by_age(items: list[Value]) -> list[Row]:
            known = timed(turned(items))
            return known[::-1] if newest_first else known

        def entries(first: int, last: int) -> list[Value]:
            """Entries by age, 1 the oldest, whichever end the meter counts from."""
            ends = (in_use + 1 - last, in_use + 1 - first) if newest_first else (first, last)
            return turned(fetch(entry_selection(*ends)))

        first, size = in_use, 1
        if period_s > 0:
            age_ms = max(0, self._wall_ms() - from_ms)
            first = max(1, in_use - age_ms // (period_s * 1000) - 1)
            size = max(_FEW_ENTRIES, (to_ms - from_ms) // (period_s * 1000) + 2)
        rows: list[Value] = []
        last = first - 1
        sizes: Iterator[int] = chain((size,), _growing(size))
        while last < in_use and len(rows) < _MAX_ENTRIES:
            part = entries(last + 1, min(in_use, last + next(sizes)))
            rows += part
            last += len(part)
            known = by_age(part)
            if not part or (known and known[-1].ts_ms > to_ms):
                break
        sizes = _growing(_MAX_ENTRIES)
        while first > 1 and len(rows) < _MAX_ENTRIES:
            known = by_age(rows)
            if known[0].ts_ms <= from_ms if known else len(rows) > _MANY_TIMELESS:
                break  # rows whose clock cannot be read do not tell where the window begins
            before = max(1, first - next(sizes))
            rows = entries(before, first - 1) + rows
            first = before
        return turned(rows)

    def forget(self) -> None:
        """Ask for the order again: it may be another meter by now, or another firmware."""
        self._newest_first, self._order_told, self._refusals = None, False, 0

    def newest_first(self, session: MeterSession) -> bool | None:
        """Whether the newest row comes first, None where the meter has no such order or never tells it.

        Raises:
            OrderUnknown: the meter does not tell it now.
            LinkError.
        """
        if not self._order_told:
            try:
                method = session.get(self._ref(_SORT_METHOD))
            except (ObjectError, ServiceRefused) as error:
                self._refused(error)
                return None
            if not isinstance(method, int) or method <= 0:
                self._refused(InvalidAnswer(f"{method!r} is no sort method"))
                return None
            self._order_told = True
            self._newest_first = method == _NEWEST_FIRST if method in (_OLDEST_FIRST, _NEWEST_FIRST) else None
        return self._newest_first

    def _refused(self, error: DlmsConnectorError) -> None:
        """As with scalers: refused again and again over minutes, it counts as never told. Raises OrderUnknown."""
        now_ms = self._wall_ms()
        self._refusals += 1
        if self._refusals == 1:
            self._first_refusal_ms = now_ms
        if self._refusals < REFUSALS or now_ms - self._first_refusal_ms < REFUSED_OVER_MS:
            raise OrderUnknown(
                f"the order of the rows of {self._obis} is not known: {error.message}", hint="try again"
            ) from error

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self._obis, attribute)


def _growing(limit: int) -> Iterator[int]:
    """How many entries to ask for next, where it is not known how many are missing."""
    size = _FEW_ENTRIES
    while True:
        yield min(size, limit)
        size *= 2
