"""Rows of profiles that meters write in their own ways: each is delivered right, or counted with its reason."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dlms_connector.cosem.clock import encode_clock
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import Value
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.gateway.rpc_methods import device_call
from dlms_connector.meter.book import Book
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.book import (
    BYTES_BEHIND,
    CLOCK_UNREADABLE,
    DIFFERENCE_ALONE,
    DUPLICATE_TIME,
    MISCOUNTED,
    NO_NUMBER,
    NOT_TAKEN,
    NOT_UNDERSTOOD,
    OUTSIDE,
    TIME_UNKNOWN,
    UNCHANGED_UNKNOWN,
    UNKNOWN_COLUMN_COUNT,
    UNKNOWN_COLUMNS,
    RowBook,
)
from dlms_connector.meter.profile.columns import CLOCK, Column, Layout, parse_capture_objects
from dlms_connector.meter.profile.entries import OrderUnknown
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import (
    Row,
    TimeRules,
    distinct_rows,
    has_no_number,
    row_readings,
    time_rows,
)
from dlms_connector.meter.profile.selection import range_ends, range_selection
from dlms_connector.obis import Obis
from dlms_connector.simulator.objects import AccessResult, Refused
from tests.meter.test_profile import NOW_S, PROFILE, SERIAL, Scene, scene

UTC = timezone.utc
ENERGY = AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)
MADRID = ZoneInfo("Europe/Madrid")
MIDNIGHT_S = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp())
QUARTER_MS = 900_000


def layout(period_s: int = 900) -> Layout:
    return Layout((Column(CLOCK, 0, None), Column(ENERGY, 0, "energy")), period_s)


def at(minutes: int) -> bytes:
    return encode_clock((MIDNIGHT_S + minutes * 60) * 1000, UTC)


def minutes_of(buffer: list[Value], period_s: int = 900, **rules: Any) -> list[float]:
    timed = time_rows(buffer, layout(period_s), TimeRules(UTC, **rules))
    return [(row.ts_ms / 1000 - MIDNIGHT_S) / 60 for row in timed.rows]


def values_of(buffer: list[Value], **rules: Any) -> list[Any]:
    timed = time_rows(buffer, layout(), TimeRules(UTC, **rules))
    return [[reading.value for reading in row_readings(row, layout())] for row in timed.rows]


# D1: a null value is the value of the row before


UNCHANGED: list[Value] = [(at(0), 1000), (None, 1001), (None, None), (None, 1003)]


def test_an_unchanged_value_is_that_of_the_row_before() -> None:
    assert values_of(UNCHANGED) == [[1000], [1001], [1001], [1003]]
    assert minutes_of(UNCHANGED) == [0, 15, 30, 45]


def test_a_null_before_any_value_is_absent() -> None:
    assert values_of([(at(0), None), (None, None), (None, 5), (None, None)]) == [[], [], [5], [5]]


def test_a_null_where_every_time_is_written_is_a_missing_value() -> None:
    every_time: list[Value] = [(at(0), 1000), (at(15), None), (at(30), 1003)]
    assert values_of(every_time) == [[1000], [], [1003]]
    assert values_of(every_time, null_values="carry") == [[1000], [1000], [1003]]
    assert values_of(UNCHANGED, null_values="skip") == [[1000], [1001], [], [1003]]


# D2: the sound fields of a clock


def with_byte(raw: bytes, position: int, *octets: int) -> bytes:
    return raw[:position] + bytes(octets) + raw[position + len(octets) :]


@pytest.mark.parametrize(
    ("position", "octets"),
    [(4, (8,)), (8, (100,)), (9, (0x0F, 0x00)), (4, (0xFE,)), (9, (0x7F, 0xFF)), (7, (0xFF,))],
    ids=["weekday 8", "hundredths 100", "deviation 0F00", "weekday 254", "deviation 7FFF", "no second"],
)
def test_an_unsound_field_that_no_time_needs_costs_no_row(position: int, octets: tuple[int, ...]) -> None:
    assert minutes_of([(with_byte(at(15), position, *octets), 1)]) == [15]


@pytest.mark.parametrize(
    ("position", "octet"), [(2, 13), (3, 32), (5, 24), (5, 255), (6, 60), (6, 255), (7, 60), (0, 0)]
)
def test_an_unsound_time_is_counted(position: int, octet: int) -> None:
    raw = with_byte(at(15), position, octet, *((0,) if position == 0 else ()))
    timed = time_rows([(raw, 1), (at(30), 2)], layout(), TimeRules(UTC))
    assert [reason for reason, _ in timed.left_out] == [CLOCK_UNREADABLE]
    assert len(timed.rows) == 1


def test_a_null_time_after_an_unreadable_one_is_not_invented() -> None:
    timed = time_rows([(at(0), 1), (b"\xff" * 12, 2), (None, 3)], layout(), TimeRules(UTC))
    assert [reason for reason, _ in timed.left_out] == [CLOCK_UNREADABLE, TIME_UNKNOWN]


# D3: more or fewer values than columns


def test_known_columns_of_a_longer_row_are_kept_and_told() -> None:
    timed = time_rows([(at(0), 1, 77), (at(15), 2)], layout(), TimeRules(UTC))
    assert [list(row.values)[1:] for row in timed.rows] == [[1], [2]]
    assert [reason for reason, _ in timed.remarks] == [UNKNOWN_COLUMNS]
    assert row_readings(timed.rows[0], layout())[0].value == 1


@pytest.mark.parametrize("row", [(at(0),), (), 5, None])
def test_a_row_that_misses_columns_is_left_out_with_its_reason(row: Value) -> None:
    timed = time_rows([row, (at(15), 2)], layout(), TimeRules(UTC))
    assert timed.left_out == [(UNKNOWN_COLUMN_COUNT, row)]
    assert len(timed.rows) == 1


# D4: newest first


NEWEST_FIRST: list[Value] = [(at(45), 4), (None, 3), (None, 2), (None, 1)]


def now_at(minutes: int) -> int:
    return (MIDNIGHT_S + minutes * 60) * 1000


@pytest.mark.parametrize(
    "rules",
    [{"newest_first": True}, {"latest_ms": now_at(50)}, {"newest_first": False, "latest_ms": now_at(50)}],
    ids=["by sort method", "by sense", "by sense against the sort method"],
)
def test_null_times_run_backwards_where_the_newest_comes_first(rules: dict[str, Any]) -> None:
    assert minutes_of(NEWEST_FIRST, **rules) == [45, 30, 15, 0]


def test_null_times_run_forwards_where_nothing_says_otherwise() -> None:
    assert minutes_of(NEWEST_FIRST) == [45, 60, 75, 90]
    assert minutes_of(NEWEST_FIRST, newest_first=False, latest_ms=now_at(90)) == [45, 60, 75, 90]


def test_rows_that_bear_their_time_tell_the_order_better_than_the_sort_method() -> None:
    buffer: list[Value] = [(at(45), 4), (None, 3), (at(15), 2), (None, 1)]
    assert minutes_of(buffer, newest_first=False) == [45, 30, 15, 0]


def test_where_both_orders_are_impossible_the_sort_method_is_believed() -> None:
    assert minutes_of(NEWEST_FIRST, newest_first=False, earliest_ms=now_at(45), latest_ms=now_at(50)) == [
        45,
        60,
        75,
        90,
    ]


def test_a_capture_period_of_zero_is_unknown() -> None:
    timed = time_rows([(at(0), 1), (None, 2)], layout(0), TimeRules(UTC))
    assert [reason for reason, _ in timed.left_out] == [TIME_UNKNOWN]
    assert minutes_of([(at(0), 1), (None, 2), (at(20), 3), (None, 4)], period_s=0) == [0, 20]
    assert minutes_of([(at(20), 1), (at(15), 2), (None, 3)], period_s=0) == [20, 15]


def test_a_number_that_is_not_finite_is_no_value_and_is_told() -> None:
    row = Row(MIDNIGHT_S * 1000, (at(0), float("nan")))
    assert has_no_number(row, layout())
    assert not row_readings(row, layout())
    assert not has_no_number(Row(MIDNIGHT_S * 1000, (at(0), 1.5)), layout())


def test_events_of_one_second_keep_their_order_whichever_end_comes_first() -> None:
    oldest = time_rows([(at(0), 1), (at(0), 2), (at(1), 3)], layout(0), TimeRules(UTC, events=True)).rows
    newest = time_rows([(at(1), 3), (at(0), 2), (at(0), 1)], layout(0), TimeRules(UTC, events=True)).rows
    assert {(row.ts_ms, row.values[1]) for row in oldest} == {(row.ts_ms, row.values[1]) for row in newest}


# D6: seconds since 1970


def capture_object(class_id: int, obis: Obis) -> Value:
    return (class_id, obis.to_bytes(), 2, 0)


@pytest.mark.parametrize("obis", [Obis(0, 0, 1, 1, 0), Obis(0, 3, 1, 1, 0), Obis(0, 0, 1, 0, 0)])
def test_a_unix_time_column_is_the_clock(obis: Obis) -> None:
    columns = parse_capture_objects([capture_object(1, obis), capture_object(3, ENERGY.obis)], {})
    unix = Layout(columns, 900)
    assert (unix.clock_index, columns[0].key) == (0, None)
    timed = time_rows([(MIDNIGHT_S, 1), (None, 2), (0, 3)], unix, TimeRules(UTC))
    assert [row.ts_ms for row in timed.rows] == [MIDNIGHT_S * 1000, MIDNIGHT_S * 1000 + QUARTER_MS]
    assert [reason for reason, _ in timed.left_out] == [CLOCK_UNREADABLE]


def test_a_clock_object_goes_before_a_unix_time_column() -> None:
    objects: list[Value] = [capture_object(1, Obis(0, 0, 1, 1, 0)), capture_object(8, CLOCK.obis)]
    assert Layout(parse_capture_objects(objects, {}), 900).clock_index == 1
    assert (
        Layout(parse_capture_objects([capture_object(1, Obis(0, 0, 96, 1, 0))], {}), 900).clock_index is None
    )


def test_a_range_of_a_unix_time_column_has_seconds_as_ends() -> None:
    clock = AttributeRef(1, Obis(0, 0, 1, 1, 0), 2)
    first_ms = MIDNIGHT_S * 1000
    selection = range_selection(first_ms + 1, first_ms + 1001, UTC, deviation_reversed=False, clock=clock)
    encoded = selection.to_bytes().hex()
    assert "1200010906000001010" in encoded
    assert f"06{MIDNIGHT_S:08x}06{MIDNIGHT_S + 2:08x}0100" in encoded


# Ends of a range


def test_ends_of_whole_hours_go_outwards_in_local_time() -> None:
    zone = ZoneInfo("Asia/Kolkata")  # its hours begin at half past
    first_ms = MIDNIGHT_S * 1000 + 1
    ends = range_ends(first_ms, first_ms, "wholeHours", zone)
    assert [(moment / 1000 - MIDNIGHT_S) / 60 for moment in ends] == [-30, 30]


def test_ends_without_deviation_take_in_the_hour_that_occurs_twice() -> None:
    twice_ms = int(datetime(2026, 10, 25, 2, 30, tzinfo=MADRID, fold=1).timestamp() * 1000)
    assert range_ends(twice_ms, twice_ms, "noDeviation", MADRID) == (
        twice_ms - 3_600_000,
        twice_ms + 3_600_000,
    )
    selection = range_selection(twice_ms, twice_ms, UTC, deviation_reversed=False, ends="noDeviation")
    assert selection.to_bytes().hex().count("8000ff") == 2


# The book


def test_the_book_balances_and_tells_each_reason_once() -> None:
    told: list[str] = []
    book = RowBook(told.append)
    book.receive(6)
    book.deliver(3)
    assert not book.balances
    for _ in range(2):
        book.leave_out(CLOCK_UNREADABLE, (b"\x07\xe9", 5, None))
    book.leave_out(OUTSIDE, (at(0), 1))
    book.remark(UNKNOWN_COLUMNS, (at(0), 1, 2))
    assert book.balances
    assert (book.received, book.delivered) == (6, 3)
    assert book.left_out == {CLOCK_UNREADABLE: 2, OUTSIDE: 1}
    assert book.example == "clock unreadable: (07E9, 5, null)"
    assert len(told) == 2
    assert "07E9" in told[0]


def test_of_two_rows_of_one_time_the_first_with_a_value_stays() -> None:
    buffer: list[Value] = [(at(0), None), (at(0), 7), (at(0), 8), (at(15), 9)]
    rows = time_rows(buffer, layout(), TimeRules(UTC)).rows
    kept, left = distinct_rows(rows, layout())
    assert [row.values[1] for row in kept] == [7, 9]
    assert len(left) == 2


# On a line


def answering(scene_: Scene, answer: Callable[[int], bytes | int]) -> list[int]:
    """Let the meter give its buffer so: bytes, or a result code; gives the selectors asked for (0: the whole)."""
    asked: list[int] = []
    device = scene_.fleet.device(SERIAL)
    key = AttributeRef(7, PROFILE, 2).to_bytes()
    read = device.read

    def given(selector: int) -> bytes:
        asked.append(selector)
        result = answer(selector)
        if isinstance(result, int):
            raise Refused(result)
        return result

    def whole(descriptor: bytes) -> bytes:
        return given(0) if descriptor == key else read(descriptor)

    def change() -> None:
        device.read = whole  # type: ignore[method-assign]
        device.read_selected = lambda descriptor, selector, _: given(selector)  # type: ignore[method-assign]

    scene_.fleet.call(change)
    return asked


def two_columns(scene_: Scene, clock: str = "0204 120008 09060000010000ff 0f02 120000") -> None:
    raw = f"0102 {clock} 0204 120003 09060100010800ff 0f02 120000".replace(" ", "")
    scene_.fleet.override(SERIAL, 7, PROFILE, 3, bytes.fromhex(raw))


def array_of(*rows: bytes) -> bytes:
    return bytes((1, len(rows))) + b"".join(rows)


def cells(clock: bytes | None, *values: int | None) -> bytes:
    head = bytes((2, 1 + len(values)))
    time_cell = b"\x00" if clock is None else b"\x09\x0c" + clock
    return (
        head
        + time_cell
        + b"".join(b"\x00" if value is None else b"\x06" + value.to_bytes(4, "big") for value in values)
    )


LATEST_S = NOW_S // 900 * 900
SIX_HOURS = Window(NOW_S * 1000 - 6 * 3_600_000, NOW_S * 1000)


def clock_before(quarters: int) -> bytes:
    return encode_clock((LATEST_S - quarters * 900) * 1000, UTC)


@pytest.mark.parametrize("sort_method", [1, 2])
def test_a_meter_that_gives_the_newest_first_with_null_times(sort_method: int) -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        it.fleet.override(SERIAL, 7, PROFILE, 5, bytes((22, sort_method)))
        rows = array_of(cells(clock_before(0), 9), *(cells(None, value) for value in (8, 7, 6)))
        answering(it, lambda _: rows)
        got = it.reader.rows(session, SIX_HOURS)
        assert [row.ts_ms // 1000 for row in got] == [LATEST_S - 900 * back for back in (3, 2, 1, 0)]
        assert [row.values[1] for row in got] == [6, 7, 8, 9]
        assert it.reader.book.balances


def test_longer_rows_are_kept_and_the_layout_is_not_read_for_each_of_them() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        answering(it, lambda _: array_of(cells(clock_before(1), 5, 77), cells(clock_before(0), 6, 78)))
        assert [row.values[1] for row in it.reader.rows(session, SIX_HOURS)] == [5, 6]
        before = it.fleet.counters(SERIAL).requests
        it.reader.rows(session, SIX_HOURS)
        assert it.fleet.counters(SERIAL).requests - before == 1
        assert it.reader.book.remarks == {UNKNOWN_COLUMNS: 4}
        assert (it.reader.book.received, it.reader.book.delivered) == (4, 4)


@pytest.mark.parametrize("raw", ["177fc00000", "177f800000", "187ff8000000000000"])
def test_a_cell_that_is_no_number_gives_no_value_and_is_told(raw: str) -> None:
    with scene(NOW_S) as it:
        two_columns(it)
        odd = b"\x02\x02\x09\x0c" + clock_before(1) + bytes.fromhex(raw)
        answering(it, lambda _: array_of(odd, cells(clock_before(0), 6)))
        it.fill()
        assert [(row.key, row.value) for row in it.rows] == [("energy", 6)]
        assert it.reader.book.remarks[NO_NUMBER] >= 1
        assert it.reader.book.example.startswith(NO_NUMBER)


@pytest.mark.parametrize("code", [AccessResult.OTHER_REASON, AccessResult.OBJECT_UNAVAILABLE])
def test_a_range_that_is_refused_because_it_holds_no_rows_is_asked_for_again(code: int) -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        empty = [True]
        row = array_of(cells(clock_before(0), 6))

        def answer(selector: int) -> bytes | int:
            if selector == 1:
                return int(code) if empty[0] else row
            return int(code) if selector == 2 else row

        asked = answering(it, answer)
        long_ago = Window(SIX_HOURS.from_ms - 86_400_000, SIX_HOURS.to_ms - 86_400_000)
        for _ in range(5):
            assert it.reader.rows(session, long_ago) == []
        assert it.reader.access == "range"
        empty[0] = False
        asked.clear()
        assert len(it.reader.rows(session, SIX_HOURS)) == 1
        assert asked == [1]
        assert it.bench.state.get_all(SERIAL, "profile access 2") == {}
        assert it.reader.book.left_out == {OUTSIDE: 5}
        assert it.reader.book.balances


def test_a_range_that_never_works_is_given_up_for_entries_and_tried_again_a_day_later() -> None:
    with scene(NOW_S, profile_rows=200) as it, it.associated() as session:
        device = it.fleet.device(SERIAL)
        read_selected = device.read_selected
        asked: list[int] = []
        refused = [True]

        def refusing(key: bytes, selector: int, parameters: Any) -> bytes:
            asked.append(selector)
            if selector == 1 and refused[0]:
                raise Refused(AccessResult.OTHER_REASON)
            return read_selected(key, selector, parameters)

        it.fleet.call(lambda: setattr(device, "read_selected", refusing))
        for _ in range(3):
            assert it.reader.rows(session, SIX_HOURS)
        assert asked.count(1) == 9  # three ways to write the ends
        asked.clear()
        assert it.reader.rows(session, SIX_HOURS)
        assert set(asked) == {2}
        assert it.bench.state.get_all(SERIAL, "profile access 2") == {str(PROFILE): "entry"}
        refused[0] = False
        it.time.now_s += 86_401
        it.reader.rows(session, SIX_HOURS)
        assert it.reader.access == "range"


def test_what_an_earlier_release_believed_of_the_access_is_not_believed() -> None:
    with scene(NOW_S) as it:
        it.bench.state.put(SERIAL, "profile access", str(PROFILE), "whole")
        it.restart()
        assert it.reader.access == "range"


@pytest.mark.parametrize(("setting", "tries"), [("auto", 2), ("noDeviation", 1)])
def test_a_meter_that_takes_ends_without_deviation_alone(setting: str, tries: int) -> None:
    with scene(NOW_S, profile={"rangeEnds": setting}) as it, it.associated() as session:
        device = it.fleet.device(SERIAL)
        read_selected = device.read_selected
        asked: list[bytes] = []

        def picky(key: bytes, selector: int, parameters: Any) -> bytes:
            end: bytes = parameters.value[1].value
            asked.append(end)
            if end[9:11] != b"\x80\x00":
                raise Refused(AccessResult.OTHER_REASON)
            return read_selected(key, selector, parameters)

        it.fleet.call(lambda: setattr(device, "read_selected", picky))
        assert len(it.reader.rows(session, SIX_HOURS)) == 24
        assert len(asked) == tries
        assert len(it.reader.rows(session, SIX_HOURS)) == 24
        assert len(asked) == tries + 1
        assert it.reader.access == "range"


def test_a_profile_with_unix_time_is_read_by_its_range() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it, "0204 120001 09060000010100ff 0f02 120000")
        row = bytes((2, 2, 6)) + LATEST_S.to_bytes(4, "big") + b"\x06\x00\x00\x00\x05"
        asked = answering(it, lambda _: array_of(row))
        rows = it.reader.rows(session, SIX_HOURS)
        assert [(item.ts_ms, item.values[1]) for item in rows] == [(LATEST_S * 1000, 5)]
        assert asked == [1]


def test_bytes_behind_an_empty_array_are_told_and_the_cursor_does_not_move_over_them() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        row = cells(clock_before(0), 6)
        answers = [array_of() + row[1:]]
        answering(it, lambda _: answers[0])
        for _ in range(2):
            with pytest.raises(DlmsConnectorError, match=f"{len(row) - 1} bytes behind the value"):
                it.task.step(session)
            it.time.now_s = it.task.due_s()
        assert session.is_open
        assert it.task.behind_ms is None
        assert it.reader.book.left_out == {BYTES_BEHIND: 2}
        answers[0] = array_of(row)
        while it.task.due_s() <= it.time.now_s:
            it.task.step(session)
        assert it.moments() == [LATEST_S]


def test_rows_before_bytes_that_are_not_understood_are_delivered() -> None:
    with scene(NOW_S, profile={"backfill": "1h"}) as it, it.associated() as session:
        two_columns(it)
        rows = [cells(clock_before(back), 10 - back) for back in (3, 2, 1)]
        answering(it, lambda _: array_of(*rows) + b"\x02\x02")
        it.task.step(session)
        assert it.moments() == [LATEST_S - 900 * back for back in (3, 2, 1)]
        assert it.reader.bytes_behind == 2
        assert it.reader.book.balances


@pytest.mark.parametrize("tail", [b"\x02\x02", b"\xc0"])
@pytest.mark.parametrize("backs", [(1,), (1, 2), (2, 1, 3)])
def test_the_cursor_moves_over_nothing_that_was_not_understood(backs: tuple[int, ...], tail: bytes) -> None:
    with scene(NOW_S, profile={"backfill": "2h", "slice": "1h"}) as it, it.associated() as session:
        two_columns(it)
        rows = [cells(clock_before(back), 10 - back) for back in backs]
        answers = [array_of(*rows) + tail]
        answering(it, lambda _: answers[0])
        for _ in range(3):
            with suppress(DlmsConnectorError):
                it.task.step(session)
            it.time.now_s = max(it.time.now_s, it.task.due_s())
        assert it.task.behind_ms is None
        assert it.moments() == sorted(LATEST_S - 900 * back for back in backs), (
            "the newest row comes all the same"
        )
        assert session.is_open
        older = cells(clock_before(4), 6)
        answers[0] = array_of(*rows, older)
        it.task.step(session)
        assert LATEST_S - 3600 in it.moments()
        assert it.task.behind_ms is not None
        assert it.reader.book.balances


@pytest.mark.parametrize("claimed", [1, 2, 5])
def test_rows_are_read_whatever_number_the_array_says(claimed: int) -> None:
    with scene(NOW_S, profile={"backfill": "1h"}) as it, it.associated() as session:
        two_columns(it)
        rows = [cells(clock_before(back), 10 - back) for back in (0, 1, 2)]
        answering(it, lambda _: bytes((1, claimed)) + b"".join(rows))
        it.task.step(session)
        assert it.moments() == [LATEST_S - 900 * back for back in (2, 1, 0)]
        assert (it.task.behind_ms is None) == (claimed == 5), "rows that were counted and are not there"
        assert it.reader.book.remarks == {MISCOUNTED: 1}
        assert session.is_open
        assert it.reader.book.balances


def test_rows_that_are_no_array_are_an_error() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        answering(it, lambda _: b"\x06\x00\x00\x00\x05")
        with pytest.raises(DlmsConnectorError, match="no array"):
            it.reader.rows(session, SIX_HOURS)
        assert session.is_open


def test_the_reader_counts_a_double_time_once_for_a_profile() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        answering(it, lambda _: array_of(cells(clock_before(0), 5), cells(clock_before(0), 6)))
        assert [row.values[1] for row in it.reader.rows(session, SIX_HOURS)] == [5]
        assert it.reader.book.left_out == {DUPLICATE_TIME: 1}
        assert it.reader.book.balances


THREE_COLUMNS = bytes.fromhex(
    "0103 0204 120008 09060000010000ff 0f02 120000 0204 120003 09060100020800ff 0f02 120000"
    "0204 120003 09060100010800ff 0f02 120000".replace(" ", "")
)


def test_a_row_of_another_length_has_the_columns_asked_for_again() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        old, new = cells(clock_before(1), 5), cells(clock_before(0), 77, 6)
        answers = [array_of(old)]
        answering(it, lambda _: answers[0])
        assert len(it.reader.rows(session, SIX_HOURS)) == 1
        it.fleet.override(SERIAL, 7, PROFILE, 3, THREE_COLUMNS)
        answers[0] = array_of(old, new)
        (row,) = it.reader.rows(session, SIX_HOURS)
        keys = [column.key for column in it.reader.learn(session).columns]
        assert dict(zip(keys, row.values, strict=True)) | {None: 0} == {
            None: 0,
            "energy_export": 77,
            "energy": 6,
        }
        assert it.reader.book.left_out == {UNKNOWN_COLUMN_COUNT: 1}
        two_columns(it)
        it.time.now_s += 3600
        answers[0] = array_of(cells(clock_before(1), 5), cells(clock_before(0), 77, 6))
        assert [row.values[1] for row in it.reader.rows(session, SIX_HOURS)] == [5], "those had other columns"
        assert it.reader.book.balances


def test_columns_are_asked_for_again_when_the_facts_are_dropped() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        it.fleet.override(SERIAL, 7, PROFILE, 3, THREE_COLUMNS)
        first = it.reader.learn(session)
        swapped = THREE_COLUMNS[:20] + THREE_COLUMNS[38:] + THREE_COLUMNS[20:38]
        it.fleet.override(SERIAL, 7, PROFILE, 3, swapped)
        assert it.reader.learn(session) == first
        session.forget_facts()
        assert it.reader.learn(session).columns == (first.columns[0], first.columns[2], first.columns[1])


def test_an_order_that_was_not_told_is_asked_for_again() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        rows = array_of(cells(clock_before(0), 9), *(cells(None, value) for value in (8, 7, 6)))
        answering(it, lambda _: rows)
        for raw in (b"\x00", b"\x16\x00"):
            it.fleet.override(SERIAL, 7, PROFILE, 5, raw)
            it.reader.rows(session, Window(0, NOW_S * 1000))
            it.time.now_s += 200
        it.fleet.override(SERIAL, 7, PROFILE, 5, b"\x16\x02")
        assert it.reader._entries.newest_first(session) is True


@pytest.mark.parametrize("raw", [b"\x00", b"\x09\x01\x04", b"\x0f\xff"])
def test_a_number_of_entries_that_is_none_is_an_error_and_not_an_empty_profile(raw: bytes) -> None:
    with scene(NOW_S, profile={"access": "entry"}) as it, it.associated() as session:
        it.fleet.override(SERIAL, 7, PROFILE, 7, raw)
        with pytest.raises(DlmsConnectorError, match="no number of rows"):
            it.reader.rows(session, SIX_HOURS)
        assert session.is_open


def test_the_meters_own_clock_goes_before_other_clocks() -> None:
    others = (Obis(0, 1, 1, 0, 0), Obis(0, 0, 1, 0, 0))
    columns = parse_capture_objects([capture_object(8, obis) for obis in others], {})
    assert Layout(columns, 900).clock_index == 1


def test_a_difference_is_added_to_the_row_before_and_no_value_by_itself() -> None:
    def row(back: int, cell: str) -> bytes:
        return b"\x02\x02\x09\x0c" + clock_before(back) + bytes.fromhex(cell)

    with scene(NOW_S, profile={"backfill": "6h"}) as it, it.associated() as session:
        two_columns(it)
        cells_ = ("1c05", "06000003e8", "1cff", "200000", "00", "1f07", "0600000001")
        answering(it, lambda _: array_of(*(row(9 - index, cell) for index, cell in enumerate(cells_))))
        got = it.reader.rows(session, SIX_HOURS)
        assert [item.values[1] for item in got] == [1000, 999, 999, None, 1]
        assert it.reader.book.left_out == {DIFFERENCE_ALONE: 2}
        assert it.reader.book.balances


def captures(*items: tuple[int, int, int]) -> list[Value]:
    """Clock, and the energy by class, attribute and data index."""
    name = ENERGY.obis.to_bytes()
    return [
        capture_object(8, CLOCK.obis),
        *((class_id, name, attribute, part) for class_id, attribute, part in items),
    ]


@pytest.mark.parametrize(
    ("items", "keys"),
    [
        ([(3, 2, 0), (3, 3, 0)], ["energy", None]),
        ([(4, 3, 0), (4, 5, 0)], [None, None]),
        ([(5, 3, 0), (5, 2, 0)], [None, "energy"]),
        ([(5, 3, 0), (5, 4, 0)], ["energy", None]),
        ([(3, 2, 1), (3, 2, 2)], ["energy[1]", "energy[2]"]),
        ([(3, 2, 0), (3, 2, 2)], ["energy", "energy[2]"]),
        ([(3, 2, 0), (3, 2, 0)], ["energy", None]),
        ([(3, 2, 2)], ["energy"]),
    ],
)
def test_a_key_has_one_column(items: list[tuple[int, int, int]], keys: list[str | None]) -> None:
    columns = parse_capture_objects(captures(*items), {"1-0:1.8.0": "energy"})
    assert [column.key for column in columns[1:]] == keys
    plain = [column.key for column in parse_capture_objects(captures(*items), {}) if column.key]
    assert len(set(plain)) == len(plain)


def test_columns_that_are_missing_or_share_a_key_are_told_once() -> None:
    told: list[str] = []
    columns = {"1-0:1.8.0": "energy", "1-0:9.9.9": "x"}
    with scene(NOW_S, profile={"columns": columns}) as it, it.associated() as session:
        raw = "0103 0204 120008 09060000010000ff 0f02 120000" + "0204 120003 09060100010800ff 0f02 120000" * 2
        it.fleet.override(SERIAL, 7, PROFILE, 3, bytes.fromhex(raw.replace(" ", "")))
        reader = ProfileReader(it.device, it.device.profiles[0], it.bench.state, on_event=told.append)
        reader.learn(session)
        session.forget_facts()
        reader.learn(session)
    assert len(told) == 2
    assert "1-0:9.9.9" in told[0]
    assert "left out" in told[1]


def test_a_capture_period_that_is_refused_costs_no_row_that_bears_its_time() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        answering(it, lambda _: array_of(cells(clock_before(0), 5), cells(clock_before(1), 4)))
        device = it.fleet.device(SERIAL)
        refused = [True]
        key = AttributeRef(7, PROFILE, 4).to_bytes()

        def refusing_with(read: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
            def refusing(descriptor: bytes) -> bytes:
                if descriptor == key and refused[0]:
                    raise Refused(AccessResult.READ_WRITE_DENIED)
                return read(descriptor)

            return refusing

        it.fleet.call(lambda: setattr(device, "read", refusing_with(device.read)))
        assert len(it.reader.rows(session, SIX_HOURS)) == 2
        assert it.reader.learn(session).capture_period_s == 0
        answering(it, lambda _: array_of(cells(clock_before(1), 5), cells(None, 4)))
        it.fleet.call(lambda: setattr(device, "read", refusing_with(device.read)))
        with pytest.raises(OrderUnknown, match="capture period"):
            it.reader.rows(session, SIX_HOURS)
        assert it.reader.book.received == 4
        assert it.reader.book.left_out == {NOT_UNDERSTOOD: 2}
        refused[0] = False
        assert len(it.reader.rows(session, SIX_HOURS)) == 2
        it.fleet.call(lambda: setattr(it.reader, "layout", None))
        refused[0] = True
        assert it.reader.learn(session).capture_period_s == 0
        refused[0] = False
        it.time.now_s += 301
        assert it.reader.learn(session).capture_period_s == 900


def test_rows_that_the_gateway_does_not_take_are_not_delivered() -> None:
    with scene(NOW_S, profile={"backfill": "1h"}) as it, it.associated() as session:
        two_columns(it)
        answering(it, lambda _: array_of(cells(clock_before(0), 5), cells(clock_before(1), 4)))
        it.refusing = True
        it.task.step(session)
        assert (it.reader.book.received, it.reader.book.delivered) == (2, 0)
        assert it.reader.book.left_out == {NOT_TAKEN: 2}
        it.refusing = False
        it.task.step(session)
        assert it.reader.book.delivered == 2
        assert it.reader.book.balances


def test_a_null_that_means_unchanged_since_a_row_outside_is_told() -> None:
    timed = time_rows([(at(0), None), (None, 5), (None, None)], layout(), TimeRules(UTC))
    assert [[value for value in row.values[1:]] for row in timed.rows] == [[None], [5], [5]]
    assert [reason for reason, _ in timed.remarks] == [UNCHANGED_UNKNOWN]


def test_an_operator_who_asks_for_rows_is_told_of_those_left_out() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        good = [cells(clock_before(1), 4), cells(clock_before(0), 5)]
        answers = [array_of(*good)]
        answering(it, lambda _: answers[0])
        told: list[str] = []
        poller = SimpleNamespace(device=it.device, session=session, book=Book())
        session.tell = told.append  # type: ignore[method-assign]

        def ask() -> Any:
            given = {"from": SIX_HOURS.from_ms, "to": SIX_HOURS.to_ms}
            return device_call(poller, "readProfile", given).run(session)  # type: ignore[arg-type]

        assert [row["values"]["energy"] for row in ask()] == [4, 5]
        answers[0] = array_of(*good, cells(b"\xff" * 12, 6))
        for _ in range(2):
            answer = ask()
            assert len(answer["rows"]) == 2
            assert answer["leftOut"] == {CLOCK_UNREADABLE: 1}
        assert len([text for text in told if CLOCK_UNREADABLE in text]) == 1
        (book,) = poller.book.profiles
        assert (book.received, book.delivered, book.left_out) == (8, 6, {CLOCK_UNREADABLE: 2})
        assert poller.book.balances


def test_an_empty_range_is_asked_for_with_other_ends_until_rows_came() -> None:
    with scene(NOW_S, profile={"backfill": "6h"}) as it, it.associated() as session:
        device = it.fleet.device(SERIAL)
        read_selected = device.read_selected
        asked: list[bytes] = []

        def misunderstanding(key: bytes, selector: int, parameters: Any) -> bytes:
            end: bytes = parameters.value[1].value
            asked.append(end)
            return read_selected(key, selector, parameters) if end[9:11] == b"\x80\x00" else b"\x01\x00"

        it.fleet.call(lambda: setattr(device, "read_selected", misunderstanding))
        while it.task.due_s() <= it.time.now_s:
            it.task.step(session)
        assert len(it.moments()) == 24
        asked.clear()
        assert it.reader.rows(session, Window(0, 1_000_000)) == []
        assert len(asked) == 1


def test_an_empty_log_costs_the_other_ends_once_an_hour() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        asked = answering(it, lambda _: array_of())
        for _ in range(3):
            assert it.reader.rows(session, SIX_HOURS) == []
        assert len(asked) == 3 + 2


def test_rows_of_another_range_alone_are_told_once() -> None:
    with scene(NOW_S) as it, it.associated() as session:
        two_columns(it)
        answering(it, lambda _: array_of(cells(clock_before(100), 5), cells(clock_before(99), 4)))
        told: list[str] = []
        reader = ProfileReader(
            it.device, it.device.profiles[0], it.bench.state, wall_ms=it.time.wall_ms, on_event=told.append
        )
        for _ in range(2):
            assert reader.rows(session, SIX_HOURS) == []
        assert len([text for text in told if "asked for" in text]) == 1
