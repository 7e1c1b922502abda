"""Selective access to the rows of a profile: by range of time and by entry (Blue Book 4.3.6)."""

from __future__ import annotations

from datetime import datetime, tzinfo

from dlms_connector.cosem.clock import encode_clock, encode_parts
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import DataType, TypedValue, array, structure
from dlms_connector.meter.profile.columns import CLOCK, DATA_CLASS

RANGE, ENTRY = 1, 2
HOUR_MS = 3_600_000


def range_ends(from_ms: int, to_ms: int, ends: str, zone: tzinfo) -> tuple[int, int]:
    """The moments that a range request names, epoch milliseconds: whole seconds or hours, outwards.

    Some meters refuse hundredths, and events of one second stay together. An end without deviation in the hour that
    occurs twice may be understood as either: it moves outwards by that hour.
    """
    if ends == "wholeHours":
        return _floor(from_ms, HOUR_MS, zone), -_floor(-to_ms, HOUR_MS, zone, sign=-1)
    first, last = from_ms // 1000 * 1000, -(-to_ms // 1000) * 1000
    if ends == "noDeviation":
        first -= HOUR_MS if _occurs_twice(first, zone) else 0
        last += HOUR_MS if _occurs_twice(last, zone) else 0
    return first, last


def _floor(moment_ms: int, unit_ms: int, zone: tzinfo, *, sign: int = 1) -> int:
    offset = _local(sign * moment_ms, zone).utcoffset()
    offset_ms = sign * int(offset.total_seconds() * 1000) if offset else 0
    return (moment_ms + offset_ms) // unit_ms * unit_ms - offset_ms


def _local(moment_ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(moment_ms // 1000, zone)


def _occurs_twice(moment_ms: int, zone: tzinfo) -> bool:
    local = _local(moment_ms, zone)
    return local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()


def range_selection(
    from_ms: int,
    to_ms: int,
    zone: tzinfo,
    *,
    deviation_reversed: bool,
    clock: AttributeRef = CLOCK,
    ends: str = "deviation",
) -> Selection:
    """Selective access by range of the clock column, both ends included; `ends` as in `rangeEnds`."""
    restricting = structure(
        TypedValue(DataType.UINT16, clock.class_id),
        TypedValue(DataType.OCTET_STRING, clock.obis.to_bytes()),
        TypedValue(DataType.INT8, clock.attribute),
        TypedValue(DataType.UINT16, 0),
    )

    def end(moment_ms: int) -> TypedValue:
        if clock.class_id == DATA_CLASS:
            return TypedValue(DataType.UINT32, min(max(0, moment_ms // 1000), 0xFFFFFFFF))
        if ends == "noDeviation":
            return TypedValue(DataType.OCTET_STRING, encode_parts(_local(moment_ms, zone), None, None))
        encoded = encode_clock(moment_ms, zone, deviation_reversed=deviation_reversed)
        return TypedValue(DataType.OCTET_STRING, encoded)

    first, last = range_ends(from_ms, to_ms, ends, zone)
    return Selection(RANGE, structure(restricting, end(first), end(last), array([])))


def entry_selection(first: int, last: int) -> Selection:
    """Selective access by entry, counted from 1; 0 as `last` means the newest."""
    return Selection(
        ENTRY,
        structure(
            TypedValue(DataType.UINT32, first),
            TypedValue(DataType.UINT32, last),
            TypedValue(DataType.UINT16, 1),
            TypedValue(DataType.UINT16, 0),
        ),
    )
