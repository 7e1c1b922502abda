"""Load profiles and event logs (class 7): rows computed when they are asked for, with selective access.

A row's values are those of its capture time (see `quantities`), so a test knows every row. Blue Book clause
4.3.6: range_descriptor is selector 1, entry_descriptor selector 2; entry 1 is the oldest row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlms_connector.cosem.values import DataType, TypedValue, array, encode, encode_length, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.objects import AccessResult, CosemObject, Refused
from dlms_connector.simulator.quantities import QUANTITIES, raw_value_of_seed

LOAD_PROFILE = Obis(1, 0, 99, 1, 0)
DAILY_PROFILE = Obis(1, 0, 99, 2, 0)
BILLING_PROFILE = Obis(0, 0, 98, 1, 0)
EVENT_LOG = Obis(0, 0, 99, 98, 0)
RELAY_LOG = Obis(0, 0, 99, 98, 2)
_CLOCK = Obis(0, 0, 1, 0, 0)
_EVENT_CODE = Obis(0, 0, 96, 11, 0)
_STATUS = Obis(0, 0, 96, 10, 1)
_DAY_S = 86_400
_EVENT_PERIOD_S = 7_200
_EVENT_CODES = (1, 2, 3, 4, 5, 23, 24, 43)
_NULL = b"\x00"


@dataclass(frozen=True)
class Column:
    """One capture object; `encode` gives its cell for a capture time (seconds since the epoch)."""

    class_id: int
    obis: Obis
    attribute: int
    cell: Callable[[LogicalDevice, int], bytes]

    def capture_object(self) -> TypedValue:
        return structure(
            TypedValue(DataType.UINT16, self.class_id),
            TypedValue(DataType.OCTET_STRING, self.obis.to_bytes()),
            TypedValue(DataType.INT8, self.attribute),
            TypedValue(DataType.UINT16, 0),
        )


def _clock_cell(meter: LogicalDevice, at_s: int) -> bytes:
    return b"\x09\x0c" + meter.encode_moment(at_s)


def _register_column(key: str) -> Column:
    quantity = QUANTITIES[key]
    tag = quantity.data_type

    def cell(meter: LogicalDevice, at_s: int) -> bytes:
        every = meter.settings.profile_null_column_every
        if every and at_s // meter.settings.profile_period_s % every == 0:
            return _NULL
        return encode(TypedValue(tag, raw_value_of_seed(meter.seed, key, at_s)))

    return Column(3, Obis(1, 0, quantity.c, quantity.d, quantity.e), 2, cell)


def event_code(seed: int, at_s: int) -> int:
    """The event that the log of a meter holds for a moment."""
    return _EVENT_CODES[(seed + at_s // _EVENT_PERIOD_S) % len(_EVENT_CODES)]


_TIME = Column(8, _CLOCK, 2, _clock_cell)
_QUALITY = Column(1, _STATUS, 2, lambda meter, at_s: b"\x11\x00")
_EVENT = Column(1, _EVENT_CODE, 2, lambda meter, at_s: bytes((DataType.UINT8, event_code(meter.seed, at_s))))
_ENERGIES = ("active_energy", "active_energy_export", "reactive_energy", "reactive_energy_export")


@dataclass(frozen=True)
class ProfileKind:
    """What a profile captures; rows and period are None where the meter's settings say them."""

    obis: Obis
    columns: tuple[Column, ...]
    period_s: int | None
    rows: int | None
    is_log: bool = False

    def period_of(self, meter: LogicalDevice) -> int:
        return self.period_s or meter.settings.profile_period_s

    def rows_of(self, meter: LogicalDevice) -> int:
        return meter.settings.profile_rows if self.rows is None else self.rows

    def moments(self, meter: LogicalDevice) -> Sequence[int]:
        """Capture times of all rows in the order of their entries, seconds since the epoch."""
        period_s = self.period_of(meter)
        newest_s = int(meter.now_s()) // period_s * period_s
        oldest_s = newest_s - (self.rows_of(meter) - 1) * period_s
        first_s = -(-max(oldest_s, meter.controls.profile_start_s) // period_s) * period_s
        moments: Sequence[int] = range(first_s, newest_s + 1, period_s)
        gap = meter.settings.profile_gap
        if gap:
            moments = [at_s for at_s in moments if at_s not in gap]
        return moments[::-1] if meter.settings.profile_newest_first else moments


KINDS = (
    ProfileKind(LOAD_PROFILE, (_TIME, _QUALITY, *map(_register_column, _ENERGIES)), None, None),
    ProfileKind(DAILY_PROFILE, (_TIME, _QUALITY, *map(_register_column, _ENERGIES[:2])), _DAY_S, 60),
    ProfileKind(
        BILLING_PROFILE, (_TIME, *map(_register_column, (*_ENERGIES, "max_demand"))), 30 * _DAY_S, 12
    ),
    ProfileKind(EVENT_LOG, (_TIME, _EVENT), _EVENT_PERIOD_S, 100, is_log=True),
    ProfileKind(RELAY_LOG, (_TIME, _EVENT), _EVENT_PERIOD_S * 12, 20, is_log=True),
)


def profile_objects() -> list[CosemObject[LogicalDevice]]:
    events = CosemObject[LogicalDevice](
        1, _EVENT_CODE, {2: lambda meter: bytes((DataType.UINT8, event_code(meter.seed, int(meter.now_s()))))}
    )
    quality = CosemObject[LogicalDevice](1, _STATUS, {2: b"\x11\x00"})
    return [events, quality, *map(_profile, KINDS)]


def _profile(kind: ProfileKind) -> CosemObject[LogicalDevice]:
    def number(of: Callable[[LogicalDevice], int]) -> Callable[[LogicalDevice], bytes]:
        return lambda meter: encode(TypedValue(DataType.UINT32, of(meter)))

    def select(meter: LogicalDevice, selector: int, parameters: TypedValue) -> bytes:
        return _select(kind, meter, selector, parameters)

    def reset(meter: LogicalDevice, _: TypedValue | None) -> None:
        meter.controls.profile_start_s = int(meter.now_s())

    return CosemObject(
        7,
        kind.obis,
        {
            2: lambda meter: _whole(kind, meter),
            3: encode(array([column.capture_object() for column in kind.columns])),
            4: number(lambda meter: 0 if kind.is_log else kind.period_of(meter)),
            5: lambda meter: bytes((DataType.ENUM, 2 if meter.settings.profile_newest_first else 1)),
            6: encode(_TIME.capture_object()),
            7: number(lambda meter: len(kind.moments(meter))),
            8: number(kind.rows_of),
        },
        version=1,
        selective={2: ((1, 2), select)},
        methods={1: reset},
    )


def encode_rows(
    kind: ProfileKind, meter: LogicalDevice, moments: Sequence[int], columns: Sequence[Column]
) -> bytes:
    """An array of structures; with null timestamps only the first row of an answer bears its time."""
    head = b"\x02" + encode_length(len(columns))
    skip_time = meter.settings.profile_null_timestamps and not kind.is_log
    parts = [b"\x01" + encode_length(len(moments))]
    for index, at_s in enumerate(moments):
        parts.append(head)
        for column in columns:
            parts.append(_NULL if skip_time and index and column is _TIME else column.cell(meter, at_s))
    return b"".join(parts)


def _whole(kind: ProfileKind, meter: LogicalDevice) -> bytes:
    meter.counters.whole_reads += 1
    return encode_rows(kind, meter, kind.moments(meter), kind.columns)


def _select(kind: ProfileKind, meter: LogicalDevice, selector: int, parameters: TypedValue) -> bytes:
    if selector not in (1, 2) or (selector == 2 and meter.settings.quirks.no_entry_access):
        raise Refused(AccessResult.SCOPE_OF_ACCESS_VIOLATED)
    try:
        first, second, third, fourth = parameters.value
        if selector == 1:
            return _by_range(kind, meter, [first, second, third, fourth])
        return _by_entry(kind, meter, [field.value for field in (first, second, third, fourth)])
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        # The parameters are whatever the client sent.
        raise Refused(AccessResult.TYPE_UNMATCHED) from error


def _by_range(kind: ProfileKind, meter: LogicalDevice, fields: Sequence[TypedValue]) -> bytes:
    meter.counters.range_reads += 1
    restricting, first, last, selected = fields
    if restricting.value[1].value != _CLOCK.to_bytes():
        raise Refused(AccessResult.SCOPE_OF_ACCESS_VIOLATED)
    from_s, to_s = (meter.decode_moment(bound.value) for bound in (first, last))
    moments = [at_s for at_s in kind.moments(meter) if from_s <= at_s <= to_s]
    refusal = meter.settings.quirks.empty_range_result
    if refusal and not moments:
        raise Refused(refusal)
    return encode_rows(kind, meter, moments, _chosen(kind, selected))


def _chosen(kind: ProfileKind, selected: TypedValue) -> list[Column]:
    wanted = [(field.value[0].value, field.value[1].value, field.value[2].value) for field in selected.value]
    if not wanted:
        return list(kind.columns)
    return [
        column
        for column in kind.columns
        if (column.class_id, column.obis.to_bytes(), column.attribute) in wanted
    ]


def _by_entry(kind: ProfileKind, meter: LogicalDevice, fields: Sequence[int]) -> bytes:
    meter.counters.entry_reads += 1
    from_entry, to_entry, from_column, to_column = fields
    moments = kind.moments(meter)
    if not from_entry or (to_entry and to_entry < from_entry):
        raise Refused(AccessResult.SCOPE_OF_ACCESS_VIOLATED)
    rows = moments[from_entry - 1 : to_entry or len(moments)]
    columns = kind.columns[max(from_column, 1) - 1 : to_column or len(kind.columns)]
    return encode_rows(kind, meter, rows, columns)
