"""Rows of a profile with their times, and their readings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from math import isfinite

from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.cosem.clock import decode_clock
from dlms_connector.cosem.values import Delta, Value
from dlms_connector.errors import DecodeError
from dlms_connector.meter.profile.book import (
    CLOCK_UNREADABLE,
    DIFFERENCE_ALONE,
    TIME_UNKNOWN,
    UNCHANGED_UNKNOWN,
    UNKNOWN_COLUMN_COUNT,
    UNKNOWN_COLUMNS,
)
from dlms_connector.meter.profile.columns import Layout
from dlms_connector.meter.reading import Plain, Reading, apply_definition
from dlms_connector.obis import Obis


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its time in epoch milliseconds."""

    ts_ms: int
    values: Sequence[Value]


@dataclass(frozen=True, slots=True)
class TimeRules:
    """How the times and nulls of an answer are to be read.

    `newest_first` is what the meter says of its order, None where it does not; no row of the answer is before
    `earliest_ms` or after `latest_ms` (None: not known). Rows of `former_counts` values may be of columns that the
    profile had before.
    """

    zone: tzinfo
    deviation_reversed: bool = False
    events: bool = False
    null_values: str = "auto"
    newest_first: bool | None = None
    former_counts: frozenset[int] = frozenset()
    earliest_ms: int | None = None
    latest_ms: int | None = None

    def allows(self, moment: int | None) -> bool:
        """Whether a row of the answer may have this time."""
        if moment is None:
            return True
        early = self.earliest_ms is not None and moment < self.earliest_ms
        return not early and (self.latest_ms is None or moment <= self.latest_ms)


@dataclass(slots=True)
class TimedRows:
    """An answer taken apart: rows in the order they came in, and what is left out or odd with its reason."""

    rows: list[Row] = field(default_factory=list)
    left_out: list[tuple[str, Value]] = field(default_factory=list)
    remarks: list[tuple[str, Value]] = field(default_factory=list)


def timed_rows(
    buffer: Value, layout: Layout, zone: tzinfo, *, deviation_reversed: bool, events: bool
) -> Iterator[Row]:
    """Rows with their moments in the order they came in; a row that has none, or another shape, is left out."""
    rules = TimeRules(zone, deviation_reversed=deviation_reversed, events=events)
    return iter(time_rows(buffer, layout, rules).rows)


def has_null_clock(buffer: Value, layout: Layout) -> bool:
    """Whether the meter left out a time that has to be computed."""
    return isinstance(buffer, list) and any(_clock_of(row, layout) is None for row in buffer)


def time_rows(buffer: Value, layout: Layout, rules: TimeRules) -> TimedRows:
    """Give each row its moment and its unchanged values, or the reason why it is left out.

    A null timestamp means one capture period after the row before, or before it where the newest comes first. Two
    events of the same moment are put one millisecond apart, because ThingsBoard keeps one value for a key and moment.
    """
    result = TimedRows()
    if not isinstance(buffer, list) or layout.clock_index is None:
        return result
    clocks = [_clock_of(row, layout, rules.former_counts) for row in buffer]
    moments = _moments(clocks, layout.capture_period_s * 1000, rules)
    carry = rules.null_values == "carry" or (rules.null_values == "auto" and None in clocks)
    before: Sequence[Value] = ()
    for row, clock, moment in zip(buffer, clocks, moments, strict=True):
        if clock is _NO_ROW or not isinstance(row, (tuple, list)):
            before = ()
            result.left_out.append((UNKNOWN_COLUMN_COUNT, row))
            continue
        values = _known_values(row, before if carry else (), layout)
        values, is_whole = _summed(values, before, layout)
        before = values
        if moment is None:
            result.left_out.append((TIME_UNKNOWN if clock is None else CLOCK_UNREADABLE, row))
            continue
        if not is_whole:
            result.left_out.append((DIFFERENCE_ALONE, row))
            continue
        if len(row) > len(layout.columns):
            result.remarks.append((UNKNOWN_COLUMNS, row))
        if carry and _lacks_value(values, layout):
            result.remarks.append((UNCHANGED_UNKNOWN, row))
        result.rows.append(Row(moment, values))
    if rules.events:
        result.rows = _apart(result.rows, rules)
    return result


_NO_ROW = "no row"
_FIRST_UNIX_S, _END_UNIX_S = 946_684_800, 4_102_444_800  # 2000 to 2100: zero and the like are no time


def _clock_of(row: Value, layout: Layout, former_counts: Collection[int] = ()) -> Value:
    """The cell that bears the row's time; `_NO_ROW` where its number of values does not fit the layout."""
    if not isinstance(row, (tuple, list)) or layout.clock_index is None:
        return _NO_ROW
    count = len(layout.columns)
    if len(row) < count or (len(row) > count and len(row) in former_counts):
        return _NO_ROW
    return row[layout.clock_index]


def _known_values(row: Sequence[Value], before: Sequence[Value], layout: Layout) -> Sequence[Value]:
    """The values of known columns; nulls are those of the row before, its clock alone is each row's own."""
    count = len(layout.columns)
    values = row if len(row) == count else row[:count]
    if not before or None not in values:
        return values
    return tuple(
        before[index] if value is None and index != layout.clock_index else value
        for index, value in enumerate(values)
    )


def _lacks_value(values: Sequence[Value], layout: Layout) -> bool:
    return any(
        value is None and column.key is not None for column, value in zip(layout.columns, values, strict=True)
    )


def _summed(values: Sequence[Value], before: Sequence[Value], layout: Layout) -> tuple[Sequence[Value], bool]:
    """The values with differences added to the row before; whether all that are wanted could be."""
    if not any(isinstance(value, Delta) for value in values):
        return values, True
    summed: list[Value] = []
    is_whole = True
    for index, (column, value) in enumerate(zip(layout.columns, values, strict=True)):
        if not isinstance(value, Delta):
            summed.append(value)
            continue
        last = before[index] if before else None
        if isinstance(last, (int, float)) and not isinstance(last, bool):
            summed.append(last + value.number)
        else:
            summed.append(None)
            is_whole = is_whole and column.key is None
    return summed, is_whole


def _moments(clocks: Sequence[Value], period_ms: int, rules: TimeRules) -> list[int | None]:
    """The time of each row, None where it has none."""
    known = [_moment(clock, rules.zone, rules.deviation_reversed) for clock in clocks]
    if None not in clocks:
        return known
    if period_ms <= 0:
        return known  # how far apart rows are that were sent does not tell it: some were never captured
    steps = _steps(clocks, known)
    forwards, backwards = _filled(clocks, known, period_ms), _filled(clocks, known, -period_ms)
    rises, falls = any(step > 0 for step in steps), any(step < 0 for step in steps)
    if rises != falls:
        return forwards if rises else backwards
    first, second = (backwards, forwards) if rules.newest_first else (forwards, backwards)
    if all(map(rules.allows, first)) or not all(map(rules.allows, second)):
        return first
    return second  # what the meter says of its order leads to times that no row of this answer can have


def _steps(clocks: Sequence[Value], known: Sequence[int | None]) -> set[float]:
    """Milliseconds from row to row, as rows that bear their time tell; negative where the newest comes first."""
    steps: set[float] = set()
    last: tuple[int, int] | None = None
    for index, (clock, moment) in enumerate(zip(clocks, known, strict=True)):
        if moment is not None:
            if last is not None and moment != last[1]:
                steps.add((moment - last[1]) / (index - last[0]))
            last = index, moment
        elif clock is not None:
            last = None  # a time was written and cannot be read: it may have been any
    return steps


def _filled(clocks: Sequence[Value], known: Sequence[int | None], step_ms: int) -> list[int | None]:
    """The known times, and those that follow from the row before them by one step each."""
    filled: list[int | None] = []
    last: int | None = None
    for clock, moment in zip(clocks, known, strict=True):
        if clock is not None:
            last = moment
        elif last is not None:
            last += step_ms
        filled.append(last)
    return filled


def _apart(rows: list[Row], rules: TimeRules) -> list[Row]:
    """Events of one second a millisecond apart, the older first whichever way the answer runs."""
    falls = rows[0].ts_ms > rows[-1].ts_ms if len(rows) > 1 else False
    if len(rows) > 1 and rows[0].ts_ms == rows[-1].ts_ms:
        falls = bool(rules.newest_first)
    apart: list[Row] = []
    for row in reversed(rows) if falls else rows:
        previous = apart[-1].ts_ms if apart else None
        crowded = previous is not None and row.ts_ms <= previous < row.ts_ms + 1000
        apart.append(Row(previous + 1, row.values) if crowded and previous is not None else row)
    return apart[::-1] if falls else apart


def distinct_rows(rows: Sequence[Row], layout: Layout) -> tuple[list[Row], list[Row]]:
    """Rows of a load profile one for each moment, and those left over: the first that holds a value stays."""
    kept: dict[int, Row] = {}
    left: list[Row] = []
    for row in rows:
        other = kept.get(row.ts_ms)
        if other is None:
            kept[row.ts_ms] = row
        elif _is_empty(other, layout) and not _is_empty(row, layout):
            kept[row.ts_ms] = row
            left.append(other)
        else:
            left.append(row)
    return list(kept.values()), left


def _is_empty(row: Row, layout: Layout) -> bool:
    return all(value is None for index, value in enumerate(row.values) if index != layout.clock_index)


def _moment(value: Value, zone: tzinfo, deviation_reversed: bool) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value * 1000 if _FIRST_UNIX_S <= value < _END_UNIX_S else None
    if not isinstance(value, bytes):
        return None
    try:
        clock = decode_clock(value, lenient=True)
    except DecodeError:
        return None
    return clock.to_epoch_ms(zone, deviation_reversed=deviation_reversed)


_AS_IT_IS = ObjectDefinition.model_construct(
    obis=Obis(0, 0, 0, 0, 0), class_id=None, attribute=2, scaler="auto", multiplier=None, round=None,
    type="auto", path=(), report_strategy=None,
)  # fmt: skip


def row_readings(row: Row, layout: Layout) -> list[Reading]:
    """The readings of one row; null columns, and numbers that are not finite, give none."""
    readings = []
    for column, value in zip(layout.columns, row.values, strict=True):
        if column.key is None or value is None:
            continue
        plain: Plain = apply_definition(value, _AS_IT_IS, column.exponent)
        if isinstance(plain, float) and not isfinite(plain):
            continue
        readings.append(Reading(column.key, plain, column.unit, row.ts_ms))
    return readings


def has_no_number(row: Row, layout: Layout) -> bool:
    """Whether a number of this row is not finite, as it is or with its scaler: `row_readings` leaves it out."""
    for column, value in zip(layout.columns, row.values, strict=True):
        if value.__class__ is float and column.key is not None:
            plain = apply_definition(value, _AS_IT_IS, column.exponent)
            if isinstance(plain, float) and not isfinite(plain):
                return True
    return False
