"""Every book that a test opens, and whether it balances in the end: nothing is lost in silence.

Three sums are compared, each of numbers that are counted apart from one another: the keys of each batch that a
session reads, the keys of each poller, the rows of each profile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dlms_connector.meter.batch_result import BatchResult
from dlms_connector.meter.book import Book
from dlms_connector.meter.plan import Batch
from dlms_connector.meter.profile.book import RowBook
from dlms_connector.meter.session import MeterSession


class Books:
    """The books made since `watch`."""

    def __init__(self) -> None:
        self.polls: list[Book] = []
        self.rows: list[RowBook] = []
        self.faults: list[str] = []

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Take note of each book that is made and each batch that is read from now on, in whatever thread."""
        patch.setattr(Book, "__init__", _noting(Book.__init__, self.polls))
        patch.setattr(RowBook, "__init__", _noting(RowBook.__init__, self.rows))
        read_batch = MeterSession.read_batch

        def booked(session: MeterSession, batch: Batch) -> BatchResult:
            result = read_batch(session, batch)
            self._compare(batch, result)
            return result

        patch.setattr(MeterSession, "read_batch", booked)

    def _compare(self, batch: Batch, result: BatchResult) -> None:
        asked = sorted(register.key for register in batch.registers)
        became = [reading.key for reading in result.readings]
        for problems in (result.refused, result.held, result.failed):
            became += problems
        if sorted(became) != asked:
            self.faults.append(f"asked {asked}, accounted for {sorted(became)}")

    def check(self) -> None:
        """Raise AssertionError where something was lost; for when nobody reads any more."""
        assert not self.faults, self.faults
        assert all(book.balances for book in self.polls), self.polls
        assert all(book.balances for book in self.rows), self.rows


def _noting(make: Callable[..., None], made: list[Any]) -> Callable[..., None]:
    def init(book: Any, *args: Any, **kwargs: Any) -> None:
        make(book, *args, **kwargs)
        made.append(book)

    return init
