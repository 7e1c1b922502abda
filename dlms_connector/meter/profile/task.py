"""Load profiles and event logs as the second memory: a cursor on disk, every gap filled in small steps.

The cursor stands at the newest row that was handed over; on disk it follows a minute later, when the gateway
has stored that row too. After a restart the rows behind it and those of the `overlap` before it are read again:
ThingsBoard overwrites equal timestamps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import (
    DlmsConnectorError,
    LinkError,
    ObjectError,
)
from dlms_connector.meter.facts import ScalerUnknown
from dlms_connector.meter.profile.access import FUTURE_MS, Window
from dlms_connector.meter.profile.entries import OrderUnknown
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import (
    row_readings,
)
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.schedule import phase_of
from dlms_connector.meter.session import MeterSession
from dlms_connector.state import StateStore

_FACT_CURSOR = "cursor"
_EVENTS_PERIOD_S = 300.0
_RETRY_S = 60.0
_SETTLE_S = 60.0  # from the hand-over to the gateway's disk: less than one, but seconds behind a long queue
_SMALLEST_SLICE_MS = 3_600_000
_SHORTEST_PATIENCE_S, _LONGEST_PATIENCE_S = 1.0, 5.0
_QUICK = 0.3


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
        to_ms = min(from_ms + self._slice_ms, now_ms + FUTURE_MS)
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
