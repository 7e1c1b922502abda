"""Reads the rows of one profile: its columns and scalers, and by whatever access the meter does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from dlms_connector.config.reading import ProfileSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import DataType, Value, decode, read_elements
from dlms_connector.errors import (
    DecodeError,
    DlmsConnectorError,
    Layer,
    ObjectError,
    ServiceRefused,
)
from dlms_connector.meter.facts import REFUSALS, REFUSED_OVER_MS, ScalerUnknown, Standing
from dlms_connector.meter.plan import scaler_ref
from dlms_connector.meter.profile.access import FUTURE_MS, AccessMemory, Answer, Window
from dlms_connector.meter.profile.book import (
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
from dlms_connector.meter.profile.columns import (
    CLOCK,
    PROFILE_CLASS,
    Layout,
    column_notes,
    parse_capture_objects,
)
from dlms_connector.meter.profile.entries import EntryAccess, OrderUnknown
from dlms_connector.meter.profile.rows import (
    Row,
    TimedRows,
    TimeRules,
    distinct_rows,
    has_no_number,
    has_null_clock,
    time_rows,
)
from dlms_connector.meter.profile.selection import HOUR_MS, range_ends, range_selection
from dlms_connector.meter.session import MeterSession
from dlms_connector.meter.zones import zone_for
from dlms_connector.state import StateStore
from dlms_connector.state.keeper import Keeper

_PASSING_RESULTS = (1, 2)  # hardware fault, temporary failure: no word on the way of access, at first
_ENDS_ORDER = ("deviation", "noDeviation", "wholeHours")
_PERIOD_AGAIN_MS = 300_000
_CONFIRMED_MS = 60_000  # so long nobody asks for the columns again because of rows that are longer or shorter
_ARRAY, _COMPACT_ARRAY = bytes((DataType.ARRAY,)), bytes((DataType.COMPACT_ARRAY,))


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
        self._access = AccessMemory(device, settings, state, self.keeper)
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
        latest_ms = now_ms if ends is not None or newest_first is not False else now_ms + FUTURE_MS
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
        newest_ms = self._wall_ms() + FUTURE_MS
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

    def _read(self, session: MeterSession, window: Window, layout: Layout) -> Answer:
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

    def _read_by(self, way: str, session: MeterSession, window: Window, layout: Layout) -> Answer:
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
            return Answer(buffer, way)
        return Answer(self._fetch(session), way)

    def _read_range(self, session: MeterSession, window: Window, layout: Layout) -> Answer:
        """By range of time, its ends written in one way after the other until the meter takes one."""
        index = layout.clock_index
        clock = CLOCK if index is None else layout.columns[index].ref
        kinds = [kind for kind in self._ends if clock.class_id == CLOCK.class_id or kind != "noDeviation"]
        kinds = kinds or ["deviation"]
        empty: Answer | None = None
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

    def _read_range_by(self, kind: str, session: MeterSession, window: Window, clock: AttributeRef) -> Answer:
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
        return Answer(buffer, "range", ends=ends, ends_kind=kind)

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
