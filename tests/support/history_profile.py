"""A load profile without sockets, with the habits that meters have: what it holds and how it tells it."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from datetime import datetime, timezone, tzinfo
from zoneinfo import ZoneInfo

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.obis import Obis
from tests.support.history_truth import Quantity, gurux, random_float, random_raw, random_scaler

PROFILE = Obis(1, 0, 99, 1, 0)
CLOCK, UNIX_CLOCK = AttributeRef(8, Obis(0, 0, 1, 0, 0), 2), AttributeRef(1, Obis(0, 0, 1, 1, 0), 2)
ZONES = ("UTC", "Asia/Kolkata", "America/Guatemala", "Europe/Madrid")
_NULL = b"\x00"


@dataclass
class Habits:
    """How a meter tells its rows.

    Args:
        empty_code: the result for a range without rows; 0 for an empty array.
        range_code, entry_code: the result for every such access; 0 where it is served.
        ends_code: the result for a range whose ends bear a deviation.
        extra: so many values behind the known columns.
        unsound: which field of the clocks no clock can show.
        told_period_s: the capture period as the meter tells it.
    """

    unix: bool = False
    newest_first: bool = False
    null_clocks: bool = False
    null_unchanged: bool = False
    true_nulls: bool = False
    extra: int = 0
    unsound: str = ""
    unreadable: float = 0.0
    empty_code: int = 0
    range_code: int = 0
    entry_code: int = 0
    ends_code: int = 0
    told_period_s: int = 900


def without_temporary_failures(habits: Habits) -> None:
    """Refusals that sound temporary and last become plain ones: believing them takes a cycle of its own."""
    for name in ("empty_code", "range_code", "entry_code"):
        if getattr(habits, name) == 2:
            setattr(habits, name, 250)


def random_habits(rng: random.Random, period_s: int) -> Habits:
    """Habits that come together by chance."""

    def some(share: float) -> bool:
        return rng.random() < share

    codes = (250, 11, 2, 3, 9, 12)
    null_clocks, null_unchanged = some(0.35), some(0.3)
    return Habits(
        unix=some(0.2),
        newest_first=some(0.4),
        null_clocks=null_clocks,
        null_unchanged=null_unchanged,
        true_nulls=some(0.1)
        and not null_clocks
        and not null_unchanged,  # nulls mean one thing in one profile
        extra=rng.choice((0, 0, 0, 1, 2)),
        unsound=rng.choice(("", "", "weekday", "hundredths", "deviation")),
        unreadable=0.05 if some(0.1) else 0.0,
        empty_code=rng.choice((0, *codes)),
        range_code=rng.choice((0, 0, 0, 0, *codes)),
        entry_code=rng.choice((0, 0, *codes)),
        ends_code=250 if some(0.15) else 0,
        told_period_s=0 if some(0.15) else period_s,
    )


@dataclass
class ProfileRow:
    """A captured row: its moment, the encoded values of its columns (the clock's apart), its clock's bytes."""

    ts_ms: int
    cells: list[bytes]
    clock: bytes
    readable: bool = True


class LoadProfile:
    """The rows that one meter captures, and its answers to the requests for them."""

    def __init__(self, rng: random.Random, from_ms: int, to_ms: int, *, scalers_odd: float = 0.05) -> None:
        self.period_s = rng.choice((900, 1800, 3600))
        self.habits = habits = random_habits(rng, self.period_s)
        self.zone_name = rng.choice(ZONES)
        self.zone = ZoneInfo(self.zone_name)
        self.columns = [_column(rng, number, scalers_odd) for number in range(rng.randint(1, 4))]
        self.clock_at = rng.randint(0, len(self.columns))
        self.clock = UNIX_CLOCK if habits.unix else CLOCK
        self.rows = self._capture(rng, from_ms, to_ms)
        self.rows_sent = 0
        self.attributes = {
            AttributeRef(7, PROFILE, 3): self._capture_objects(),
            AttributeRef(7, PROFILE, 4): struct.pack(">BI", 6, habits.told_period_s),
            AttributeRef(7, PROFILE, 5): bytes((0x16, 2 if habits.newest_first else 1)),
        }

    def _capture_objects(self) -> bytes:
        refs = [column.ref for column in self.columns]
        refs.insert(self.clock_at, self.clock)
        items = b"".join(
            struct.pack(
                ">BBBHBB6sBbBH", 2, 4, 0x12, ref.class_id, 9, 6, ref.obis.to_bytes(), 15, ref.attribute, 18, 0
            )
            for ref in refs
        )
        return bytes((1, len(refs))) + items

    def _capture(self, rng: random.Random, from_ms: int, to_ms: int) -> list[ProfileRow]:
        rows: list[ProfileRow] = []
        step_ms = self.period_s * 1000
        for ts_ms in range(from_ms // step_ms * step_ms, to_ms, step_ms):
            if rng.random() < 0.15:
                continue  # no power: no row
            cells = [
                rows[-1].cells[index] if rows and rng.random() < 0.3 else self._value(rng, column)
                for index, column in enumerate(self.columns)
            ]
            readable = rng.random() >= self.habits.unreadable
            rows.append(ProfileRow(ts_ms, cells, self._clock_bytes(ts_ms, readable), readable))
        return rows

    def _value(self, rng: random.Random, column: Quantity) -> bytes:
        if self.habits.true_nulls and rng.random() < 0.2:
            return _NULL
        is_float = column.raw[0] in (0x17, 0x18)
        return random_float(rng, column.raw[0], odd=0.03) if is_float else random_raw(rng, odd=0.0)

    def _clock_bytes(self, ts_ms: int, readable: bool) -> bytes:
        if self.habits.unix:
            return struct.pack(">BI", 6, ts_ms // 1000 if readable else 7)
        local = datetime.fromtimestamp(ts_ms / 1000, self.zone)
        offset = local.utcoffset()
        deviation = -int(offset.total_seconds() // 60) if offset else 0
        unsound = self.habits.unsound
        return b"\x09\x0c" + struct.pack(
            ">HBBBBBBBhB",
            local.year,
            local.month if readable else 13,
            local.day,
            8 if unsound == "weekday" else local.isoweekday(),
            local.hour,
            local.minute,
            local.second,
            100 if unsound == "hundredths" else 0,
            0x0F00 if unsound == "deviation" else deviation,
            0x80 if local.dst() else 0,
        )

    def answer(self, access: bytes, now_ms: int) -> bytes | int:
        """The buffer for a selective access (`00` for none), or the code of a refusal."""
        habits = self.habits
        rows = [row for row in self.rows if row.ts_ms <= now_ms]
        if habits.newest_first:
            rows.reverse()
        if access[0] and access[1] == 1:
            if habits.range_code:
                return habits.range_code
            _, first, last, _ = gurux(access[2:])
            if habits.ends_code and not habits.unix and bytes(first[9:11]) != b"\x80\x00":
                return habits.ends_code
            begin_ms, end_ms = _end_ms(first, self.zone), _end_ms(last, self.zone)
            rows = [row for row in rows if begin_ms <= row.ts_ms <= end_ms]
            if not rows and habits.empty_code:
                return habits.empty_code
        elif access[0]:
            if habits.entry_code:
                return habits.entry_code
            first, last, _, _ = gurux(access[2:])
            rows = rows[first - 1 : last or None]
        self.rows_sent += len(rows)
        return b"\x01" + _length(len(rows)) + b"".join(self._encoded(rows))

    def entries_in_use(self, now_ms: int) -> bytes:
        """Attribute 7."""
        return struct.pack(">BI", 6, sum(row.ts_ms <= now_ms for row in self.rows))

    def _encoded(self, rows: list[ProfileRow]) -> list[bytes]:
        """Rows as they are sent: nulls stand for what follows from the row sent before."""
        habits, step_ms = self.habits, self.period_s * (-1000 if self.habits.newest_first else 1000)
        encoded = []
        before: ProfileRow | None = None
        for row in rows:
            cells, clock = list(row.cells), row.clock
            if before is not None:
                if habits.null_unchanged:
                    pairs = zip(cells, before.cells, strict=True)
                    cells = [_NULL if cell == other else cell for cell, other in pairs]
                if habits.null_clocks and row.ts_ms - before.ts_ms == step_ms and row.readable:
                    clock = _NULL
            cells.insert(self.clock_at, clock)
            cells += [b"\x11\x07"] * habits.extra
            encoded.append(bytes((2, len(cells))) + b"".join(cells))
            before = row
        return encoded


def _column(rng: random.Random, number: int, odd: float) -> Quantity:
    class_id = rng.choice((3, 3, 3, 4, 5, 1))
    raw = bytes((rng.choice((0x06, 0x17, 0x18)),))
    return Quantity(
        AttributeRef(class_id, Obis(1, 1, number + 1, 29, 0), 2), raw, random_scaler(rng, odd=odd)
    )


def _end_ms(end: object, zone: tzinfo) -> int:
    if isinstance(end, int):
        return int(end) * 1000
    year, month, day, hour, minute, second, deviation = struct.unpack(">HBBxBBBxhx", bytes(end))  # type: ignore[call-overload]
    if deviation == -0x8000:
        return int(datetime(year, month, day, hour, minute, second, tzinfo=zone).timestamp()) * 1000
    utc = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc)
    return (int(utc.timestamp()) + deviation * 60) * 1000


def _length(count: int) -> bytes:
    return bytes((count,)) if count < 128 else b"\x82" + count.to_bytes(2, "big")
