"""The book of a profile's rows: what came, what was handed over, and why the rest was not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dlms_connector.cosem.values import Delta, Value

CLOCK_UNREADABLE = "clock unreadable"
TIME_UNKNOWN = "null clock that cannot be computed"
UNKNOWN_COLUMN_COUNT = "unknown column count"
UNKNOWN_COLUMNS = "unknown columns"
DIFFERENCE_ALONE = "the difference to a value that is not known"
DUPLICATE_TIME = "duplicate time"
OUTSIDE = "outside the asked range"
LATER_THAN_NOW = "later than now"
BYTES_BEHIND = "bytes behind the value"
MISCOUNTED = "another number of rows than the array says"
NOT_TAKEN = "not taken by the gateway"
UNCHANGED_UNKNOWN = "unchanged since a row that is not here"
NO_NUMBER = "a number that is not finite"
NOT_UNDERSTOOD = "columns or scalers not known then"
NOT_TAKEN = "not taken by the gateway"
_EXAMPLE_CHARACTERS = 160


@dataclass(slots=True)
class RowBook:
    """Counts of one profile's rows since the reader was made.

    It balances: `received` is `delivered` and all of `left_out` together; each side is counted where it happens.
    `remarks` counts rows that were delivered though something about them is odd. Rows that are read again count again.

    Args:
        on_event: takes one line when a reason is met for the first time. Rows outside the asked range are
            no fault (a meter that gives its whole buffer has them in every answer) and cause no line.
        name: whose rows these are, where several books are kept together.
    """

    on_event: Callable[[str], None] = lambda _: None
    received: int = 0
    delivered: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    remarks: dict[str, int] = field(default_factory=dict)
    example: str = ""
    name: str = ""
    notes: set[str] = field(default_factory=set)

    @property
    def balances(self) -> bool:
        """No row was lost without a reason."""
        return self.received == self.delivered + self.left_out_rows

    @property
    def left_out_rows(self) -> int:
        """How many rows were left out, for whatever reason; callable from any thread."""
        return sum(list(self.left_out.values()))  # a copy: the poller may add a reason meanwhile

    def receive(self, count: int) -> None:
        """Count rows, or bytes that may be rows, as the meter sent them."""
        self.received += count

    def deliver(self, count: int) -> None:
        """Count rows that are handed over."""
        self.delivered += count

    def leave_out(self, reason: str, raw: Value) -> None:
        """Count a row that is not handed over, or bytes that may be rows."""
        self._count(self.left_out, reason, raw, "left out")

    def remark(self, reason: str, raw: Value) -> None:
        """Count a row that is handed over, and say what is odd about it."""
        self._count(self.remarks, reason, raw, "kept as far as it is known")

    def note(self, text: str) -> None:
        """Tell once what is odd about the profile itself."""
        if text not in self.notes:
            self.notes.add(text)
            self.on_event(text)

    def _count(self, counts: dict[str, int], reason: str, raw: Value, what: str) -> None:
        first = reason not in counts
        counts[reason] = counts.get(reason, 0) + 1
        if not first or reason == OUTSIDE:
            return
        example = f"{reason}: {short_text(raw)}"
        self.example = self.example or example
        self.on_event(f"a row of the profile is {what}: {example}")


def short_text(raw: Value) -> str:
    """A row as a person can compare it with the bytes on the line: octets as hexadecimal, cut after a line."""
    text = _text(raw)
    return text if len(text) <= _EXAMPLE_CHARACTERS else f"{text[:_EXAMPLE_CHARACTERS]}..."


def _text(raw: Value) -> str:
    if isinstance(raw, Delta):
        return f"{raw.number:+d} (difference)"
    if isinstance(raw, bytes):
        return raw[:_EXAMPLE_CHARACTERS].hex().upper()
    if isinstance(raw, (tuple, list)):
        return f"({', '.join(_text(item) for item in raw)})"
    return "null" if raw is None else repr(raw)
