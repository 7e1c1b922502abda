"""Load profiles and event logs as the second memory: a cursor on disk, every gap filled in small steps.

The cursor stands at the newest row that was handed over; on disk it follows a minute later, when the gateway
has stored that row too. After a restart the rows behind it and those of the `overlap` before it are read again:
ThingsBoard overwrites equal timestamps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from dlms_connector.config.reading import ProfileSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import DataType, Value, decode, read_elements
from dlms_connector.errors import (
    DecodeError,
    DlmsConnectorError,
    Layer,
    LinkError,
    ObjectError,
    ServiceRefused,
)
from dlms_connector.meter.facts import REFUSALS, REFUSED_OVER_MS, ScalerUnknown, Standing
from dlms_connector.meter.plan import scaler_ref
from dlms_connector.meter.profile_book import (
    BYTES_BEHIND,
    DUPLICATE_TIME,
    LATER_THAN_NOW,
    MISCOUNTED,
    NO_NUMBER,
    NOT_TAKEN,
    NOT_UNDERSTOOD,
    OUTSIDE,
    RowBook,
    short_text,
)
from dlms_connector.meter.profile_entries import EntryAccess, OrderUnknown
from dlms_connector.meter.profile_rows import (
    CLOCK,
    HOUR_MS,
    PROFILE_CLASS,
    Layout,
    Row,
    TimedRows,
    TimeRules,
    column_notes,
    distinct_rows,
    has_no_number,
    has_null_clock,
    parse_capture_objects,
    range_ends,
    range_selection,
    row_readings,
    time_rows,
)
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.schedule import phase_of
from dlms_connector.meter.session import MeterSession
from dlms_connector.meter.zones import zone_for
from dlms_connector.state import StateStore
from dlms_connector.state.keeper import Keeper

_FACT_CURSOR = "cursor"
_FACT_ACCESS = "profile access 2"  # what releases before kept as "profile access" came from one refused range
_EVENTS_PERIOD_S = 300.0
_RETRY_S = 60.0
_SETTLE_S = 60.0  # from the hand-over to the gateway's disk: less than one, but seconds behind a long queue
_FUTURE_MS = 86_400_000
_SMALLEST_SLICE_MS = 3_600_000
_SHORTEST_PATIENCE_S, _LONGEST_PATIENCE_S = 1.0, 5.0
_QUICK = 0.3
_ACCESS_ORDER = ("range", "entry", "whole")
_PASSING_RESULTS = (1, 2)  # hardware fault, temporary failure: no word on the way of access, at first
_ENDS_ORDER = ("deviation", "noDeviation", "wholeHours")
_PROOFS = 3  # windows that range refused and another way showed to hold rows
_RANGE_AGAIN_MS = 86_400_000
_PERIOD_AGAIN_MS = 300_000
_CONFIRMED_MS = 60_000  # so long nobody asks for the columns again because of rows that are longer or shorter
_ARRAY, _COMPACT_ARRAY = bytes((DataType.ARRAY,)), bytes((DataType.COMPACT_ARRAY,))


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time to read, epoch milliseconds, both ends included."""

    from_ms: int
    to_ms: int


@dataclass(slots=True)
class _Answer:
    """Rows in the meter's order and how they were got; the ends are those that the meter was asked for."""

    buffer: list[Value]
    way: str
    ends: tuple[int, int] | None = None
    ends_kind: str = ""


class _AccessMemory:
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

    def note(self, answer: _Answer, has_rows: bool) -> None:
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


class ProfileReader:
    """Reads one profile of one meter: layout, rows of a window by whatever access the meter does.

    Args:
        on_event: takes one line for the log: the first row that is left out for a reason, bytes not understood.
        book: where its rows are counted; by default one of its own.
    """

    def __init__(
        self,
        device: DeviceSettings,
        settings: ProfileSettings,
        state: StateStore,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        *,
        on_event: Callable[[str], None] = lambda _: None,
        book: RowBook | None = None,
    ) -> None:
        self.settings = settings
        self._wall_ms = wall_ms
        self.layout: Layout | None = None
        self._told = Layout((), 0)  # as the meter told it: what is withheld for want of a scaler is in it
        self._scaled = False
        self._generation = 0
        self._period_again_ms = 0
        """When a capture period that was not told is asked for again; 0 once it is known."""
        self._period_refusals = self._period_refused_ms = 0
        self._asked_ms: dict[int, int] = {}
        self._former_counts: set[int] = set()
        self._ends_proven = False
        self._ends_again_ms = 0
        self._on_event = on_event
        self.book = RowBook(self._tell) if book is None else book
        self.bytes_behind = 0
        self.incomplete = False
        """The last answer was not understood to its end: bytes are left, or rows that it counts are not there."""
        self.rises = False
        """Its rows came oldest first: what was not understood of it is behind the newest of them."""
        self._zone = zone_for(device.clock.time_zone)
        self._reversed = device.clock.deviation_sign == "reversed"
        self._entries = EntryAccess(settings.obis, wall_ms)
        self.keeper = Keeper(self._tell)
        """Writes what was learned of this profile, and how far it was read."""
        self._access = _AccessMemory(device, settings, state, self.keeper)
        self._ends: tuple[str, ...] = _ENDS_ORDER if settings.range_ends == "auto" else (settings.range_ends,)
        self._refused_before: set[tuple[str, int]] = set()
        self._lasting_results: set[int] = set()

    def _tell(self, text: str) -> None:
        self._on_event(f"{self.settings.obis}: {text}")

    @property
    def access(self) -> str:
        """How rows came last: "range", "entry" or "whole"; the first read may find another way."""
        return self._access.shown

    def seconds_into(self, period_s: float) -> float:
        """How long ago the meter's local time was a multiple of the period: a day's row is captured at its midnight."""
        now_s = self._wall_ms() / 1000
        offset = datetime.fromtimestamp(now_s, self._zone).utcoffset()
        return (now_s + (offset.total_seconds() if offset else 0.0)) % period_s

    def learn(self, session: MeterSession) -> Layout:
        """Read the profile's columns and capture period once, and know the scalers of its columns.

        Raises:
            ObjectError: there is no such profile for this client.
            ScalerUnknown: a column's scaler is not known now: the rows wait in the meter until it is.
            DlmsConnectorError: none of its columns is a clock.
        """
        if self._generation != session.facts.generation:
            self.layout, self._scaled = None, False  # it may be another meter by now, or another firmware
            self._entries.forget()
        if self.layout is None:
            columns = parse_capture_objects(session.get(self._ref(3)), self.settings.columns)
            self._period_again_ms = 0
            layout = Layout(columns, self._capture_period(session))
            if layout.clock_index is None:
                raise DlmsConnectorError(
                    f"the profile {self.settings.obis} has no clock among its columns: its rows bear no time",
                    layer=Layer.DATA,
                )
            if self._told.columns and columns != self._told.columns:
                self._former_counts.add(len(self._told.columns))
            for note in column_notes(columns, self.settings.columns):
                self.book.note(note)
            self.layout, self._told, self._scaled = layout, layout, False
        elif self._period_again_ms and self._wall_ms() >= self._period_again_ms:
            period_s = self._capture_period(session)
            self._told, self.layout = (
                replace(each, capture_period_s=period_s) for each in (self._told, self.layout)
            )
        if not self._scaled or self._generation != session.facts.generation:
            self.layout = self._with_scalers(session, self._told)
        self._generation = session.facts.generation
        return self.layout

    def _capture_period(self, session: MeterSession) -> int:
        """Seconds; 0 where the meter does not say it now, and it is asked again."""
        try:
            period = session.get(self._ref(4))
        except (ObjectError, ServiceRefused) as error:
            period = error.message  # rows that bear their time need none
        if isinstance(period, int) and not isinstance(period, bool) and period >= 0:
            self._period_again_ms = self._period_refusals = 0
            return period
        now_ms = self._wall_ms()
        self._period_again_ms = now_ms + _PERIOD_AGAIN_MS
        self._period_refusals += 1
        if self._period_refusals == 1:
            self._period_refused_ms = now_ms
        return 0

    def _need_period(self, session: MeterSession, layout: Layout) -> Layout:
        """The layout with the capture period, which null times need.

        Raises:
            OrderUnknown: the meter does not tell it now; refused again and again over minutes, there is none.
        """
        if not self._period_again_ms:
            return layout
        period_s = self._capture_period(session)
        over_ms = self._wall_ms() - self._period_refused_ms
        if self._period_again_ms and (self._period_refusals < REFUSALS or over_ms < REFUSED_OVER_MS):
            raise OrderUnknown(f"the capture period of {self.settings.obis} is not known", hint="try again")
        self._told = replace(self._told, capture_period_s=period_s)
        self.layout = replace(layout, capture_period_s=period_s)
        return self.layout

    def _with_scalers(self, session: MeterSession, layout: Layout) -> Layout:
        """The layout with every scaler that is known; where one is refused for good, by the device's `unscaled`."""
        refs = {
            column: ref
            for column in layout.columns
            if column.key and (ref := scaler_ref(column.ref)) is not None
        }
        known = session.scalers(list(refs.values()))
        columns = []
        for column in layout.columns:
            ref = refs.get(column)
            scaler = known[ref] if ref is not None else None
            if ref is None:
                columns.append(column)
            elif scaler is not None:
                session.unscaled.discard(column.key or "")
                columns.append(replace(column, exponent=scaler.exponent, unit=scaler.unit))
            elif session.facts.standing(ref) is not Standing.NONE:
                raise ScalerUnknown(ref, session.facts.why_unknown(ref))
            elif session.device.unscaled == "deliver":
                session.unscaled.add(column.key or "")
                columns.append(replace(column, exponent=0, unit=""))
            else:
                columns.append(replace(column, key=None))
        self._scaled = None not in known.values()
        return Layout(tuple(columns), layout.capture_period_s)

    def rows(self, session: MeterSession, window: Window) -> list[Row]:
        """Rows of the window, oldest first, for whoever takes them all; raises as `read` does."""
        rows = self.read(session, window)
        self.hand_over(rows, taken=True)
        return rows

    def hand_over(self, rows: list[Row], *, taken: bool) -> None:
        """Enter in the book what became of the rows of one `read`."""
        if taken:
            self.book.deliver(len(rows))
            return
        for row in rows:
            self.book.leave_out(NOT_TAKEN, tuple(row.values))

    def read(self, session: MeterSession, window: Window) -> list[Row]:
        """Rows of the window, oldest first; `book` counts what came and was left out, `hand_over` the rest.

        `bytes_behind` tells how many bytes came behind the rows and were not understood.

        Raises:
            LinkError, ObjectError, ServiceRefused: none of the ways of access works.
            DlmsConnectorError: the answer is no array, or it is incomplete and holds no row of the window.
        """
        self.bytes_behind, self.incomplete = 0, False
        layout = self.learn(session)
        answer = self._read(session, window, layout)
        self.book.receive(len(answer.buffer))
        try:
            layout = self._layout_of(session, answer.buffer, layout)
            timed = self._timed(session, answer.buffer, layout, answer.ends)
        except DlmsConnectorError:
            for raw in answer.buffer:
                self.book.leave_out(NOT_UNDERSTOOD, raw)
            raise
        rows = self._enter(timed, window, layout)
        if answer.ends is not None and timed.rows and not self._any_within(timed.rows, answer.ends):
            self.book.note("none of the rows that came is of the range that was asked for")
        self._access.note(answer, bool(rows))
        if answer.ends_kind and rows:
            self._prefer_ends(answer.ends_kind)
        if self.incomplete and not rows:
            what = f"{self.bytes_behind} bytes behind the value" if self.bytes_behind else MISCOUNTED
            raise _not_understood(f"{what} of {self._ref(2)}")
        return rows

    def _layout_of(self, session: MeterSession, buffer: list[Value], layout: Layout) -> Layout:
        """The layout, asked for again where a row has another number of values, unless that was done just now."""
        counts = {len(row) for row in buffer if isinstance(row, (tuple, list))} - {len(layout.columns)}
        now_ms = self._wall_ms()
        if all(0 <= now_ms - self._asked_ms.get(count, -_CONFIRMED_MS) < _CONFIRMED_MS for count in counts):
            return layout
        self.layout = None  # somebody may have given the meter other columns to capture
        layout = self.learn(session)
        self._asked_ms = dict.fromkeys(counts, now_ms)
        return layout

    def _timed(
        self,
        session: MeterSession,
        buffer: list[Value],
        layout: Layout,
        ends: tuple[int, int] | None,
    ) -> TimedRows:
        """Rows with their moments; a null time is computed by the order and by what is possible in this answer.

        Raises:
            OrderUnknown: the meter does not tell its order now, and the times depend on it.
        """
        if not has_null_clock(buffer, layout):
            return self._timed_by(None, buffer, layout, ends)
        layout = self._need_period(session, layout)
        try:
            return self._timed_by(self._entries.newest_first(session), buffer, layout, ends)
        except OrderUnknown:
            forwards, backwards = (self._timed_by(order, buffer, layout, ends) for order in (False, True))
            if forwards == backwards:
                return forwards
            raise

    def _timed_by(
        self, newest_first: bool | None, buffer: list[Value], layout: Layout, ends: tuple[int, int] | None
    ) -> TimedRows:
        now_ms = self._wall_ms() + layout.capture_period_s * 1000
        # A meter that is ahead writes rows of the future: one that says how it sorts is believed so far.
        latest_ms = now_ms if ends is not None or newest_first is not False else now_ms + _FUTURE_MS
        rules = TimeRules(
            self._zone,
            deviation_reversed=self._reversed,
            events=self.settings.kind == "events",
            null_values=self.settings.null_values,
            newest_first=newest_first,
            former_counts=frozenset(self._former_counts),
            earliest_ms=None if ends is None else ends[0],
            latest_ms=latest_ms if ends is None else min(latest_ms, ends[1]),
        )
        return time_rows(buffer, layout, rules)

    def _enter(self, timed: TimedRows, window: Window, layout: Layout) -> list[Row]:
        """Enter in the book what an answer has beside the rows to deliver; those, oldest first."""
        for reason, raw in timed.left_out:
            self.book.leave_out(reason, raw)
        newest_ms = self._wall_ms() + _FUTURE_MS
        inside = []
        for row in timed.rows:
            if window.from_ms <= row.ts_ms <= window.to_ms and row.ts_ms <= newest_ms:
                inside.append(row)
            else:
                self.book.leave_out(LATER_THAN_NOW if row.ts_ms > newest_ms else OUTSIDE, tuple(row.values))
        moments = [row.ts_ms for row in timed.rows]
        self.rises = moments == sorted(moments) and len(set(moments)) > 1
        if self.settings.kind == "profile":
            inside, doubles = distinct_rows(inside, layout)
            for row in doubles:
                self.book.leave_out(DUPLICATE_TIME, tuple(row.values))
        for reason, raw in timed.remarks:
            self.book.remark(reason, raw)
        for row in inside:
            if has_no_number(row, layout):
                self.book.remark(NO_NUMBER, tuple(row.values))
        return sorted(inside, key=lambda row: row.ts_ms)

    def _read(self, session: MeterSession, window: Window, layout: Layout) -> _Answer:
        ways = self._access.ways(self._wall_ms())
        for way in ways:
            try:
                return self._read_by(way, session, window, layout)
            except (ObjectError, ServiceRefused) as error:
                if way == ways[-1] or (self._may_pass(error) and not self._is_repeated(way, error)):
                    raise
        raise AssertionError("there is always a way of access")

    def _may_pass(self, error: DlmsConnectorError) -> bool:
        """Whether the refusal is no word on the way of access: the same is asked again later."""
        if not isinstance(error, ObjectError):
            return False
        passing = error.code in _PASSING_RESULTS and error.code not in self._lasting_results
        return passing or isinstance(error, OrderUnknown)

    def _is_repeated(self, way: str, error: DlmsConnectorError) -> bool:
        """Whether the meter refused this way like that before: some say "temporary failure" of every empty range."""
        if not isinstance(error, ObjectError) or error.code not in _PASSING_RESULTS:
            return False
        if (way, error.code) not in self._refused_before:
            self._refused_before.add((way, error.code))
            return False
        self._lasting_results.add(error.code)
        return True

    def _read_by(self, way: str, session: MeterSession, window: Window, layout: Layout) -> _Answer:
        if way == "range":
            return self._read_range(session, window, layout)
        if way == "entry":
            buffer = self._entries.read(
                session,
                window.from_ms,
                window.to_ms,
                period_s=layout.capture_period_s,
                fetch=lambda selection: self._fetch(session, selection),
                timed=lambda rows: self._timed(session, rows, layout, None).rows,
            )
            return _Answer(buffer, way)
        return _Answer(self._fetch(session), way)

    def _read_range(self, session: MeterSession, window: Window, layout: Layout) -> _Answer:
        """By range of time, its ends written in one way after the other until the meter takes one."""
        index = layout.clock_index
        clock = CLOCK if index is None else layout.columns[index].ref
        kinds = [kind for kind in self._ends if clock.class_id == CLOCK.class_id or kind != "noDeviation"]
        kinds = kinds or ["deviation"]
        empty: _Answer | None = None
        for kind in kinds:
            try:
                answer = self._read_range_by(kind, session, window, clock)
            except (ObjectError, ServiceRefused) as error:
                if empty is not None:
                    continue
                if self._may_pass(error) or kind == kinds[-1]:
                    raise
                continue
            if (
                answer.buffer
                or self.incomplete
                or not self._doubts_emptiness(window, begun=empty is not None)
            ):
                return answer
            empty = empty or answer
        assert empty is not None  # noqa: S101 (each kind answered, raised, or came after one that answered)
        return empty

    def _doubts_emptiness(self, window: Window, *, begun: bool) -> bool:
        """Whether an empty range is asked for with other ends as well: until rows came by ends of some kind.

        Some meters understand ends written in another way as another time and find nothing there. A range that
        reaches now is asked for again anyway, so an hour may pass between two such trials.
        """
        if self._ends_proven or begun:
            return not self._ends_proven
        now_ms = self._wall_ms()
        if window.to_ms >= now_ms:
            if now_ms < self._ends_again_ms:
                return False
            self._ends_again_ms = now_ms + HOUR_MS
        return True

    def _read_range_by(
        self, kind: str, session: MeterSession, window: Window, clock: AttributeRef
    ) -> _Answer:
        selection = range_selection(
            window.from_ms,
            window.to_ms,
            self._zone,
            deviation_reversed=self._reversed,
            clock=clock,
            ends=kind,
        )
        buffer = self._fetch(session, selection)
        ends = range_ends(window.from_ms, window.to_ms, kind, self._zone)
        return _Answer(buffer, "range", ends=ends, ends_kind=kind)

    @staticmethod
    def _any_within(rows: Sequence[Row], ends: tuple[int, int]) -> bool:
        return any(ends[0] <= row.ts_ms <= ends[1] for row in rows)

    def _prefer_ends(self, kind: str) -> None:
        """Begin with the ends by which rows came."""
        self._ends_proven = True
        self._ends = (kind, *(other for other in self._ends if other != kind))

    def _fetch(self, session: MeterSession, selection: Selection | None = None) -> list[Value]:
        """The buffer's rows as far as they can be read; the rest is told. Raises DlmsConnectorError: no array."""
        encoded = session.get_encoded(self._ref(2), selection)
        try:
            if encoded[:1] not in (_ARRAY, _COMPACT_ARRAY):
                return self._no_array(encoded)
            items, claimed, end, _ = read_elements(encoded)
        except DecodeError:
            session.abandon()  # nobody knows what of this answer is true
            raise
        if end < len(encoded):
            self._note_bytes(encoded[end:])
        elif len(items) < claimed:
            self.incomplete = True
        if len(items) != claimed:
            self.book.remark(MISCOUNTED, f"{claimed}, and {len(items)} could be read")
        return items

    def _no_array(self, encoded: bytes) -> list[Value]:
        value, end = decode(encoded)
        if end < len(encoded):
            self._note_bytes(encoded[end:])
        if value is None:
            return []
        raise _not_understood(f"the rows of {self._ref(2)} are no array: {short_text(value)}")

    def _note_bytes(self, raw: bytes) -> None:
        self.incomplete = True
        self.bytes_behind += len(raw)
        self.book.receive(1)
        self.book.leave_out(BYTES_BEHIND, raw)

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self.settings.obis, attribute)


def _not_understood(message: str) -> DlmsConnectorError:
    return DlmsConnectorError(
        message, layer=Layer.DATA, hint="the profile waits there; another access of the profile may read it"
    )


class ProfileTask:
    """Background work of a poller: keep one profile's record at the server without a hole.

    Args:
        deliver: hands rows over; False when they were not taken, and the cursor stays.
    """

    def __init__(
        self,
        reader: ProfileReader,
        device: DeviceSettings,
        state: StateStore,
        deliver: Callable[[Sequence[Reading]], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._reader = reader
        self._settings = reader.settings
        self._name = device.device_name
        self._state = state
        self._deliver = deliver
        # Live values wait while a slice is on the line: it may take a tenth of their period.
        period_s = device.poll_period_ms / 1000
        self._patience_s = min(max(period_s / 10, _SHORTEST_PATIENCE_S), _LONGEST_PATIENCE_S)
        self._slice_ms = self._smallest_slice_ms
        self._reaches_now = False
        self._refused_s = device.refused_register_period_ms / 1000
        self._clock = clock
        self._wall_ms = wall_ms
        self._due_s = 0.0
        cursor = state.get_all(device.device_name, _FACT_CURSOR).get(str(self._settings.obis))
        self._cursor_ms: int | None = cursor if isinstance(cursor, int) else None
        self._handed_over: deque[tuple[float, int]] = deque()
        # Where the next slice begins: behind the cursor by the overlap, once after each start.
        self._next_ms = None if self._cursor_ms is None else self._cursor_ms - self._settings.overlap_ms

    def due_s(self) -> float:
        """Monotonic seconds from which a slice is wanted."""
        return self._due_s

    @property
    def behind_ms(self) -> int | None:
        """How far the record lags behind now, None before the first row."""
        return None if self._cursor_ms is None else max(0, self._wall_ms() - self._cursor_ms)

    def step(self, session: MeterSession) -> None:
        """Read and hand over one slice. Raises LinkError; other faults postpone the next try."""
        self._settle()
        try:
            self._fill_slice(session)
        except LinkError:
            # A link that does not hold for so many rows may hold for half of them.
            self._halve_slice()
            raise
        except DlmsConnectorError as error:
            if self._reader.incomplete:
                self._reach_further()
            waits = isinstance(error, (ScalerUnknown, OrderUnknown))
            pause_s = _RETRY_S if waits else max(_RETRY_S, self._period_s())
            if isinstance(error, ObjectError) and not waits:
                pause_s = self._after_refusal(error, pause_s)
            self._due_s = self._clock() + pause_s
            raise

    def _fill_slice(self, session: MeterSession) -> None:
        now_ms = self._wall_ms()
        if self._cursor_ms is not None and self._cursor_ms > now_ms:
            # It was set while this machine's clock was ahead: nobody knows what is behind it.
            self._cursor_ms = self._next_ms = None
        self._reader.learn(session)
        oldest_ms = now_ms - max(self._settings.backfill_ms, int(self._newest_s() * 1000))
        from_ms = oldest_ms if self._next_ms is None else max(self._next_ms, oldest_ms)
        to_ms = min(from_ms + self._slice_ms, now_ms + _FUTURE_MS)
        reaches_now = self._reaches_now = to_ms >= now_ms
        began_s = self._clock()
        rows = self._reader.read(session, Window(from_ms, to_ms))
        self._fit_slice(self._clock() - began_s)
        taken = False
        try:
            layout = self._reader.layout or self._reader.learn(session)
            readings = [reading for row in rows for reading in row_readings(row, layout)]
            taken = not readings or self._deliver(readings)
        finally:
            self._reader.hand_over(rows, taken=taken)
        if not taken:
            self._due_s = self._clock() + _RETRY_S
            return
        if self._reader.incomplete and not self._reader.rises:
            # What was not understood may be rows of any time: the cursor stays, and the slice begins here again.
            self._next_ms, self._due_s = from_ms, self._clock() + max(_RETRY_S, self._period_s())
            self._reach_further()
            return
        if rows:
            # A meter that was ahead and is set right captures the time up to that row once more.
            self._advance(min(rows[-1].ts_ms, now_ms))
        if self._reader.incomplete:
            self._next_ms = min(rows[-1].ts_ms, now_ms) + 1
        else:
            # An empty or finished slice of the past is done; the newest one is read again from the last row on.
            self._next_ms = to_ms + 1 if not reaches_now else (self._cursor_ms or from_ms - 1) + 1
        self._due_s = self._next_poll_s() if reaches_now else self._clock()

    @property
    def _smallest_slice_ms(self) -> int:
        return min(self._settings.slice_ms, _SMALLEST_SLICE_MS)

    def _reach_further(self) -> None:
        """What is not understood here may stay so: the rows behind it are wanted all the same."""
        if not self._reaches_now:
            self._slice_ms *= 2

    def _halve_slice(self) -> None:
        self._slice_ms = max(self._slice_ms // 2, self._smallest_slice_ms)

    def _after_refusal(self, error: ObjectError, pause_s: float) -> float:
        """Seconds until the next try of a refused slice.

        Some meters refuse a stretch of time in which they hold no rows: one that has given rows before is asked
        for a longer stretch, until it reaches now.
        """
        if self._cursor_ms is None or self._reader.layout is None:
            return pause_s if error.transient else max(pause_s, self._refused_s)
        if self._reaches_now:
            return pause_s
        self._slice_ms *= 2
        return _RETRY_S

    def _fit_slice(self, took_s: float) -> None:
        """Ask for more at a time where the line is fast, and for less where live values had to wait."""
        if took_s > self._patience_s:
            self._halve_slice()
        elif took_s < _QUICK * self._patience_s:
            self._slice_ms = min(self._slice_ms * 2, self._settings.slice_ms)

    def _advance(self, ts_ms: int) -> None:
        if self._cursor_ms is None or ts_ms > self._cursor_ms:
            self._cursor_ms = ts_ms
            self._handed_over.append((self._clock(), ts_ms))

    def _settle(self) -> None:
        """Put on disk how far the gateway has had time to store what it was given.

        A slice of the past spans a day, so the overlap alone would not cover those that were still in memory when
        the process was killed.
        """
        settled: int | None = None
        while self._handed_over and self._clock() - self._handed_over[0][0] >= _SETTLE_S:
            settled = self._handed_over.popleft()[1]
        if settled is not None:
            key, ts_ms = str(self._settings.obis), settled
            self._reader.keeper.attempt(lambda: self._state.put(self._name, _FACT_CURSOR, key, ts_ms))

    def _period_s(self) -> float:
        if self._settings.poll_period_ms is not None:
            return self._settings.poll_period_ms / 1000
        layout = self._reader.layout
        return float(layout.capture_period_s) if layout and layout.capture_period_s else _EVENTS_PERIOD_S

    def _newest_s(self) -> float:
        """How far back a poll looks at least: without any backfill too, new rows are wanted."""
        layout = self._reader.layout
        return 2 * max(self._period_s(), layout.capture_period_s if layout else 0)

    def _next_poll_s(self) -> float:
        """A little after the next capture, each meter at its own moment."""
        period = self._period_s()
        into = self._reader.seconds_into(period)
        return self._clock() + period - into + min(period, 60.0) * (0.05 + 0.9 * phase_of(self._name))
