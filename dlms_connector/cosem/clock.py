"""COSEM date-time: 12 bytes with wildcards, deviation and status <-> parts and epoch milliseconds.

Blue Book 4.1.6.1. The deviation is UTC minus local time in minutes (so UTC+1 is -60) and covers daylight
saving; 0x8000 means "not specified", which is something else than 0. Some meters count it the other
way round; that is a setting and never guessed.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import NamedTuple

from dlms_connector.errors import DecodeError

DEVIATION_UNSPECIFIED = -0x8000
STATUS_UNSPECIFIED = 0xFF
STATUS_INVALID = 0x01
STATUS_DOUBTFUL = 0x02
STATUS_DST = 0x80
_MAX_DEVIATION_MIN = 840  # UTC+14 is the farthest zone
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MS = timedelta(milliseconds=1)


class ClockValue(NamedTuple):
    """The parts of a date-time; None where the meter wrote a wildcard.

    `month` is 1..12; 0xFD and 0xFE (daylight saving end and begin) and `day` 0xFD, 0xFE (second last and
    last day) only occur in schedules: they are kept and make the value no moment in time.
    """

    year: int | None
    month: int | None
    day: int | None
    weekday: int | None
    hour: int | None
    minute: int | None
    second: int | None
    hundredths: int | None
    deviation_min: int | None
    status: int | None

    @property
    def is_null(self) -> bool:
        """Nothing specified at all."""
        return all(part is None for part in self[:8])

    @property
    def is_invalid(self) -> bool:
        """The meter itself says that its clock is not valid."""
        return self.status is not None and bool(self.status & STATUS_INVALID)

    @property
    def is_dst(self) -> bool | None:
        """Daylight saving active, None where the meter does not say."""
        return None if self.status is None else bool(self.status & STATUS_DST)

    def to_epoch_ms(self, zone: tzinfo, *, deviation_reversed: bool = False) -> int | None:
        """The moment in milliseconds since 1970 UTC.

        None where date, hour or minute are wildcards, or no calendar has them.
        Without a deviation the local time is read in `zone`; in the hour that occurs twice the status
        byte's daylight saving bit decides, the first occurrence where it is not given.
        """
        if self.year is None or self.month is None or self.day is None:
            return None
        if self.hour is None or self.minute is None:
            return None
        try:
            local = datetime(
                self.year,
                self.month,
                self.day,
                self.hour,
                self.minute,
                self.second or 0,
                (self.hundredths or 0) * 10_000,
            )
        except ValueError:
            return None
        if self.deviation_min is None:
            moment = local.replace(tzinfo=zone, fold=1 if self.is_dst is False else 0)
            try:
                return (moment.astimezone(timezone.utc) - _EPOCH) // _MS
            except OverflowError:  # the first or last hours of the calendar, said for "never"
                return None
        minutes = -self.deviation_min if deviation_reversed else self.deviation_min
        return (local.replace(tzinfo=timezone.utc) - _EPOCH) // _MS + minutes * 60_000

    def isoformat(self) -> str:
        """Readable text; `**` for wildcards, the deviation as an offset from UTC."""

        def two(part: int | None, width: int = 2) -> str:
            return "*" * width if part is None else f"{part:0{width}d}"

        day = f"{two(self.year, 4)}-{two(self.month)}-{two(self.day)}"
        text = f"{day}T{two(self.hour)}:{two(self.minute)}:{two(self.second)}"
        if self.hundredths:
            text += f".{self.hundredths:02d}"
        if self.deviation_min is not None:
            sign = "-" if self.deviation_min > 0 else "+"
            text += f"{sign}{abs(self.deviation_min) // 60:02d}:{abs(self.deviation_min) % 60:02d}"
        return text


def decode_clock(raw: bytes, *, lenient: bool = False) -> ClockValue:
    """Decode a 12-byte date-time.

    Args:
        lenient: take a weekday, hundredths or a deviation that no clock can show for "not specified": the moment
            stands without them. Where it is in doubt that the bytes are a date-time at all they speak against it.

    Raises:
        DecodeError: another length, or a part that no clock can show.
    """
    if len(raw) != 12:
        raise DecodeError(f"a date-time has 12 bytes, not {len(raw)}", offset=0)
    year = int.from_bytes(raw[:2], "big")
    return ClockValue(
        None if year == 0xFFFF else year,
        _part(raw, 2, 1, 12, special=(0xFD, 0xFE)),
        _part(raw, 3, 1, 31, special=(0xFD, 0xFE)),
        _part(raw, 4, 0, 7, lenient=lenient),
        _part(raw, 5, 0, 23),
        _part(raw, 6, 0, 59),
        _part(raw, 7, 0, 59),
        _part(raw, 8, 0, 99, lenient=lenient),
        _deviation(raw, lenient),
        None if raw[11] == STATUS_UNSPECIFIED else raw[11],
    )


def _deviation(raw: bytes, lenient: bool) -> int | None:
    deviation = int.from_bytes(raw[9:11], "big", signed=True)
    if deviation == DEVIATION_UNSPECIFIED:
        return None
    if -_MAX_DEVIATION_MIN <= deviation <= _MAX_DEVIATION_MIN:
        return deviation
    if lenient:
        return None
    raise DecodeError(f"deviation of {deviation} minutes", offset=9)


def _part(
    raw: bytes, at: int, low: int, high: int, *, special: tuple[int, ...] = (), lenient: bool = False
) -> int | None:
    number = raw[at]
    if number == 0xFF:
        return None
    if low <= number <= high or number in special:
        return number
    if lenient:
        return None
    raise DecodeError(f"{number} is no part of a date-time", offset=at)


def encode_clock(epoch_ms: int, zone: tzinfo, *, deviation_reversed: bool = False) -> bytes:
    """12 bytes of the moment as the meter's local time in `zone`, with deviation and status."""
    local = (_EPOCH + timedelta(milliseconds=epoch_ms)).astimezone(zone)
    offset = local.utcoffset() or timedelta(0)
    east_min = int(offset.total_seconds() // 60)
    deviation = east_min if deviation_reversed else -east_min
    status = STATUS_DST if local.dst() else 0
    return encode_parts(local, deviation, status)


def encode_parts(local: datetime, deviation_min: int | None, status: int | None) -> bytes:
    """12 bytes from local time; None stands for "not specified"."""
    deviation = DEVIATION_UNSPECIFIED if deviation_min is None else deviation_min
    return (
        local.year.to_bytes(2, "big")
        + bytes(
            (
                local.month,
                local.day,
                local.isoweekday(),
                local.hour,
                local.minute,
                local.second,
                local.microsecond // 10_000,
            )
        )
        + deviation.to_bytes(2, "big", signed=True)
        + bytes((STATUS_UNSPECIFIED if status is None else status,))
    )


def date_text(raw: bytes) -> str:
    """A 5-byte COSEM date as text, wildcards as `*`."""
    year, month, day = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return f"{'****' if year == 0xFFFF else f'{year:04d}'}-{_wild(month)}-{_wild(day)}"


def time_text(raw: bytes) -> str:
    """A 4-byte COSEM time as text, wildcards as `*`."""
    text = ":".join(_wild(part) for part in raw[:3])
    return text if raw[3] in (0, 0xFF) else f"{text}.{raw[3]:02d}"


def _wild(part: int) -> str:
    return "**" if part == 0xFF else f"{part:02d}"
