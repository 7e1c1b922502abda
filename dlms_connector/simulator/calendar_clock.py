"""Date-times of the simulated clock: own code, so that meter and client do not share a mistake.

Blue Book clause 4.1.6.1: deviation is local time to GMT in minutes, so it is negative east of Greenwich; bit
7 of the clock status says that daylight saving is active.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone, tzinfo
from struct import Struct

_DATE_TIME = Struct(">H7BhB")
_DST_ACTIVE = 0x80
UNKNOWN_DEVIATION = b"\x80\x00"


def encode_moment(epoch_s: float, zone: tzinfo) -> bytes:
    """12 bytes: local time in `zone`, day of week, deviation and status."""
    local = datetime.fromtimestamp(epoch_s, zone)
    offset = local.utcoffset() or timedelta()
    return _DATE_TIME.pack(
        local.year,
        local.month,
        local.day,
        local.isoweekday(),
        local.hour,
        local.minute,
        local.second,
        local.microsecond // 10_000,
        -(offset // timedelta(minutes=1)),
        _DST_ACTIVE if local.dst() else 0,
    )


def decode_moment(raw: bytes, zone: tzinfo) -> float:
    """Seconds since the epoch; an unspecified deviation means the meter's own zone.

    Wildcards below the hour count as zero. Raises ValueError for a date that names no moment.
    """
    if len(raw) != _DATE_TIME.size:
        raise ValueError("a date-time has 12 bytes")
    year, month, day = int.from_bytes(raw[:2], "big"), raw[2], raw[3]
    status = raw[11]
    hour, minute, second, hundredths = (0 if part == 0xFF else part for part in raw[5:9])
    local = datetime(year, month, day, hour, minute, second, hundredths * 10_000)
    if raw[9:11] != UNKNOWN_DEVIATION:
        deviation_min = int.from_bytes(raw[9:11], "big", signed=True)
        return local.replace(tzinfo=timezone.utc).timestamp() + deviation_min * 60
    is_dst = bool(status != 0xFF and status & _DST_ACTIVE)
    return local.replace(tzinfo=zone, fold=0 if is_dst or status == 0xFF else 1).timestamp()
