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
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.units import unit_text
from dlms_connector.cosem.values import Value
from dlms_connector.errors import DlmsConnectorError, Layer, LinkError, ObjectError, ServiceRefused
from dlms_connector.meter.plan import scaler_ref
from dlms_connector.meter.profile_entries import EntryAccess
from dlms_connector.meter.profile_rows import (
    PROFILE_CLASS,
    Layout,
    Row,
    is_of_another_layout,
    parse_capture_objects,
    range_selection,
    row_readings,
    timed_rows,
)
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.schedule import phase_of
from dlms_connector.meter.session import MeterSession
from dlms_connector.meter.zones import zone_for
from dlms_connector.state import StateStore

_FACT_CURSOR = "cursor"
_FACT_ACCESS = "profile access"
_EVENTS_PERIOD_S = 300.0
_RETRY_S = 60.0
_SETTLE_S = 60.0  # from the hand-over to the gateway's disk: less than one, but seconds behind a long queue
_FUTURE_MS = 86_400_000
_SMALLEST_SLICE_MS = 3_600_000
_SHORTEST_PATIENCE_S, _LONGEST_PATIENCE_S = 1.0, 5.0
_QUICK = 0.3
_ACCESS_ORDER = ("range", "entry", "whole")
_PASSING_RESULTS = (1, 2)  # hardware fault, temporary failure: no word on the way of access


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time to read, epoch milliseconds, both ends included."""

    from_ms: int
    to_ms: int


class ProfileReader:
    """Reads one profile of one meter: layout, rows of a window by whatever access the meter does."""

    def __init__(
        self,
        device: DeviceSettings,
        settings: ProfileSettings,
        state: StateStore,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.settings = settings
        self._wall_ms = wall_ms
        self.layout: Layout | None = None
        self._device = device
        self._state = state
        self._zone = zone_for(device.clock.time_zone)
        self._reversed = device.clock.deviation_sign == "reversed"
        self._entries = EntryAccess(settings.obis, wall_ms)
        known = state.get_all(device.device_name, _FACT_ACCESS).get(str(settings.obis))
        self._access = settings.access if settings.access != "auto" else known or "range"

    @property
    def access(self) -> str:
        """How rows are asked for now: "range", "entry" or "whole"; the first read may find another way."""
        return self._access

    def seconds_into(self, period_s: float) -> float:
        """How long ago the meter's local time was a multiple of the period: a day's row is captured at its midnight."""
        now_s = self._wall_ms() / 1000
        offset = datetime.fromtimestamp(now_s, self._zone).utcoffset()
        return (now_s + (offset.total_seconds() if offset else 0.0)) % period_s

    def learn(self, session: MeterSession) -> Layout:
        """Read the profile's columns and capture period once.

        Raises:
            ObjectError: there is no such profile for this client.
            DlmsConnectorError: none of its columns is a clock.
        """
        if self.layout is None:
            columns = parse_capture_objects(session.get(self._ref(3)), self.settings.columns)
            period = session.get(self._ref(4))
            scaled = []
            for column in columns:
                ref = scaler_ref(column.ref)
                if ref is None or column.key is None:
                    scaled.append(column)
                    continue
                exponent, unit = _scaler(session, ref)
                scaled.append(replace(column, exponent=exponent, unit=unit))
            layout = Layout(tuple(scaled), period if isinstance(period, int) else 0)
            if layout.clock_index is None:
                raise DlmsConnectorError(
                    f"the profile {self.settings.obis} has no clock among its columns: its rows bear no time",
                    layer=Layer.DATA,
                )
            self.layout = layout
        return self.layout

    def rows(self, session: MeterSession, window: Window) -> list[Row]:
        """Rows of the window, oldest first.

        Raises:
            LinkError, ObjectError, ServiceRefused: none of the ways of access works.
        """
        layout = self.learn(session)
        buffer = self._read(session, window, layout)
        if is_of_another_layout(buffer, layout):
            self.layout = None  # somebody has given the meter other columns to capture
            layout = self.learn(session)
        rows = self._timed(buffer, layout)
        inside = [row for row in rows if window.from_ms <= row.ts_ms <= window.to_ms]
        return sorted(inside, key=lambda row: row.ts_ms)

    def _timed(self, buffer: Value, layout: Layout) -> list[Row]:
        return list(
            timed_rows(
                buffer,
                layout,
                self._zone,
                deviation_reversed=self._reversed,
                events=self.settings.kind == "events",
            )
        )

    def _read(self, session: MeterSession, window: Window, layout: Layout) -> Value:
        ways = _ACCESS_ORDER[_ACCESS_ORDER.index(self._access) :]
        for way in ways:
            try:
                buffer = self._read_by(way, session, window, layout)
            except (ObjectError, ServiceRefused) as error:
                passing = isinstance(error, ObjectError) and error.code in _PASSING_RESULTS
                if passing or way == ways[-1] or self.settings.access != "auto":
                    raise
                continue
            if way != self._access:
                self._access = way
                self._state.put(self._device.device_name, _FACT_ACCESS, str(self.settings.obis), way)
            return buffer
        return None

    def _read_by(self, way: str, session: MeterSession, window: Window, layout: Layout) -> Value:
        buffer = self._ref(2)
        if way == "range":
            index = layout.clock_index
            selection = range_selection(
                window.from_ms,
                window.to_ms,
                self._zone,
                deviation_reversed=self._reversed,
                **({"clock": layout.columns[index].ref} if index is not None else {}),
            )
            return session.get(buffer, selection)
        if way == "entry":
            return self._entries.read(
                session,
                window.from_ms,
                window.to_ms,
                period_s=layout.capture_period_s,
                timed=lambda rows: self._timed(rows, layout),
            )
        return session.get(buffer)

    def _ref(self, attribute: int) -> AttributeRef:
        return AttributeRef(PROFILE_CLASS, self.settings.obis, attribute)


def _scaler(session: MeterSession, ref: AttributeRef) -> tuple[int, str]:
    try:
        value = session.get(ref)
    except ObjectError:
        return 0, ""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], int):
        return value[0], unit_text(value[1]) if isinstance(value[1], int) else ""
    return 0, ""


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
            pause_s = max(_RETRY_S, self._period_s())
            if isinstance(error, ObjectError) and not error.transient:
                pause_s = max(pause_s, self._refused_s)
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
        reaches_now = to_ms >= now_ms
        began_s = self._clock()
        rows = self._reader.rows(session, Window(from_ms, to_ms))
        self._fit_slice(self._clock() - began_s)
        layout = self._reader.learn(session)
        readings = [reading for row in rows for reading in row_readings(row, layout)]
        if readings and not self._deliver(readings):
            self._due_s = self._clock() + _RETRY_S
            return
        if rows:
            # A meter that was ahead and is set right captures the time up to that row once more.
            self._advance(min(rows[-1].ts_ms, now_ms))
        # An empty or finished slice of the past is done; the newest one is read again from the last row on.
        self._next_ms = to_ms + 1 if not reaches_now else (self._cursor_ms or from_ms - 1) + 1
        self._due_s = self._next_poll_s() if reaches_now else self._clock()

    @property
    def _smallest_slice_ms(self) -> int:
        return min(self._settings.slice_ms, _SMALLEST_SLICE_MS)

    def _halve_slice(self) -> None:
        self._slice_ms = max(self._slice_ms // 2, self._smallest_slice_ms)

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
            self._state.put(self._name, _FACT_CURSOR, str(self._settings.obis), settled)

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
