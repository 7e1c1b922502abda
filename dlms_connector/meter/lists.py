"""How many attributes one GET-with-list may hold: found by halving, never by giving up at once.

A list that fails proves nothing by itself: the line may have lost it. The registers are read one by one next. When
that works the list was to blame, and half of it is tried from then on; when that fails too, the line was. Of a size
that has worked before, two failures in a row are wanted. What works is kept as a fact of the meter.
"""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.meter.facts import MeterFacts
from dlms_connector.meter.plan import MAX_LIST


class ListLimit:
    """The size of lists towards one meter.

    Args:
        most: the configured limit; 1 switches lists off.
        on_event: takes one line for the log.
    """

    def __init__(self, facts: MeterFacts, most: int, on_event: Callable[[str], None]) -> None:
        self._facts = facts
        self._most = most
        self._on_event = on_event
        self._worked = 0
        self._suspect = 0
        self._why = ""
        self._strikes = 0
        self._learned = facts.list_limit
        self.size = 1
        """How many attributes the next list may hold; 1 means one by one."""
        self._resize()

    def forget(self) -> None:
        """Begin anew with the configured limit."""
        self._worked = self._suspect = self._strikes = 0
        self._learned = None
        self._resize()

    def _resize(self) -> None:
        known = MAX_LIST if self._learned is None else self._learned
        self.size = 1 if self._suspect else min(self._most, known)

    @property
    def on_trial(self) -> bool:
        """A list failed, and single reads are to show whether it was to blame."""
        return self._suspect > 0

    def worked(self, count: int) -> None:
        """A list of so many attributes was answered well."""
        self._worked = max(self._worked, count)
        self._strikes = 0

    def failed(self, count: int, why: str) -> None:
        """A list of so many attributes was not answered, refused, or answered with something else."""
        self._suspect, self._why = count, why
        self._resize()

    def refused(self, why: str) -> None:
        """The meter does not know the service at all."""
        self._limit(1, why)

    def single_worked(self) -> None:
        """The meter answers single requests: a list on trial was to blame."""
        count, self._suspect = self._suspect, 0
        if not count:
            return
        self._strikes += 1
        if self._worked >= count and self._strikes < 2:
            self._resize()
            return
        self._limit(count // 2, self._why)

    def _limit(self, count: int, why: str) -> None:
        self._strikes = self._suspect = 0
        self._worked = min(self._worked, count)
        self._learned = self._facts.list_limit = max(1, count)
        self._resize()
        if count > 1:
            self._on_event(f"{why}; lists of at most {count} attributes are used from now on")
        else:
            self._on_event(f"{why}; its registers are read one by one from now on (useLists: false)")
