"""Rows of a profile generic (class 7, Blue Book 4.3.6): layout, selective access, rows -> readings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo

from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.cosem.clock import decode_clock, encode_clock
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import DataType, TypedValue, Value, array, structure
from dlms_connector.errors import DecodeError
from dlms_connector.meter.reading import Plain, Reading, apply_definition
from dlms_connector.obis import Obis

PROFILE_CLASS = 7
CLOCK_CLASS = 8
CLOCK = AttributeRef(CLOCK_CLASS, Obis(0, 0, 1, 0, 0), 2)
RANGE, ENTRY = 1, 2
MAX_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class Column:
    """One capture object: where its values come from and under which key they go."""

    ref: AttributeRef
    data_index: int
    key: str | None
    exponent: int = 0
    unit: str = ""

    @property
    def is_clock(self) -> bool:
        return self.ref.class_id == CLOCK_CLASS and self.ref.attribute == 2


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and the capture period in seconds (0 for logs that are not periodic)."""

    columns: tuple[Column, ...]
    capture_period_s: int

    @property
    def clock_index(self) -> int | None:
        """Which column is the row's time."""
        return next((index for index, column in enumerate(self.columns) if column.is_clock), None)


def parse_capture_objects(value: Value, keys: Mapping[str, str | None]) -> tuple[Column, ...]:
    """Columns from attribute 3. `keys` maps OBIS or OBIS#attribute to a key or None; empty takes all.

    Raises:
        DecodeError: not an array of capture object definitions.
    """
    if not isinstance(value, list) or len(value) > MAX_COLUMNS:
        raise DecodeError("capture_objects is no array of a usable size", offset=0)
    wanted = {_normal(name): key for name, key in keys.items()}
    columns = []
    for item in value:
        if not isinstance(item, tuple) or len(item) < 4:
            raise DecodeError("a capture object is no structure of four", offset=0)
        class_id, name, attribute, data_index = item[:4]
        if not (
            isinstance(class_id, int)
            and isinstance(name, bytes)
            and len(name) == 6
            and isinstance(attribute, int)
            and isinstance(data_index, int)
        ):
            raise DecodeError("a capture object has parts of wrong types", offset=0)
        ref = AttributeRef(class_id, Obis.from_bytes(name), attribute)
        columns.append(Column(ref, data_index, _key_for(ref, wanted)))
    return tuple(columns)


def _normal(name: str) -> str:
    obis, _, attribute = name.partition("#")
    return f"{Obis.parse(obis)}#{attribute}" if attribute else str(Obis.parse(obis))


def _key_for(ref: AttributeRef, wanted: Mapping[str, str | None]) -> str | None:
    exact = f"{ref.obis}#{ref.attribute}"
    plain = str(ref.obis)
    if exact in wanted:
        return wanted[exact]
    if plain in wanted and ref.attribute in (2, 3):
        return wanted[plain]
    if wanted or (ref.class_id == CLOCK_CLASS and ref.attribute == 2):
        return None
    return plain if ref.attribute == 2 else exact


def range_selection(
    from_ms: int, to_ms: int, zone: tzinfo, *, deviation_reversed: bool, clock: AttributeRef = CLOCK
) -> Selection:
    """Selective access by range of the clock column, both ends included.

    The ends are whole seconds, outwards: some meters refuse hundredths, and events of one second stay together.
    """
    restricting = structure(
        TypedValue(DataType.UINT16, clock.class_id),
        TypedValue(DataType.OCTET_STRING, clock.obis.to_bytes()),
        TypedValue(DataType.INT8, clock.attribute),
        TypedValue(DataType.UINT16, 0),
    )
    ends = [
        TypedValue(DataType.OCTET_STRING, encode_clock(moment, zone, deviation_reversed=deviation_reversed))
        for moment in (from_ms // 1000 * 1000, -(-to_ms // 1000) * 1000)
    ]
    return Selection(RANGE, structure(restricting, *ends, array([])))


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


def is_of_another_layout(buffer: Value, layout: Layout) -> bool:
    """No row has as many values as the layout has columns: the meter captures something else by now."""
    if not isinstance(buffer, list) or not buffer:
        return False
    return not any(isinstance(row, (tuple, list)) and len(row) == len(layout.columns) for row in buffer)


@dataclass(frozen=True, slots=True)
class Row:
    """A row with its time in epoch milliseconds."""

    ts_ms: int
    values: Sequence[Value]


def timed_rows(
    buffer: Value, layout: Layout, zone: tzinfo, *, deviation_reversed: bool, events: bool
) -> Iterator[Row]:
    """Rows with their moments; a row that has none, or another shape, is left out.

    A null timestamp means one capture period after the row before. Two events of the same moment are put one
    millisecond apart, because ThingsBoard keeps one value for a key and moment.
    """
    clock_index = layout.clock_index
    if not isinstance(buffer, list) or clock_index is None:
        return
    previous: int | None = None
    for row in buffer:
        if not isinstance(row, (tuple, list)) or len(row) != len(layout.columns):
            continue
        moment = _moment(row[clock_index], zone, deviation_reversed)
        if moment is None and row[clock_index] is None and previous is not None:
            moment = previous + layout.capture_period_s * 1000
        if moment is None:
            continue
        if events and previous is not None and moment <= previous < moment + 1000:
            moment = previous + 1
        previous = moment
        yield Row(moment, row)


def _moment(value: Value, zone: tzinfo, deviation_reversed: bool) -> int | None:
    if not isinstance(value, bytes):
        return None
    try:
        return decode_clock(value).to_epoch_ms(zone, deviation_reversed=deviation_reversed)
    except DecodeError:
        return None


_AS_IT_IS = ObjectDefinition.model_construct(
    obis=Obis(0, 0, 0, 0, 0), class_id=None, attribute=2, scaler="auto", multiplier=None, round=None,
    type="auto", path=(), report_strategy=None,
)  # fmt: skip


def row_readings(row: Row, layout: Layout) -> list[Reading]:
    """The readings of one row; null columns give none."""
    readings = []
    for column, value in zip(layout.columns, row.values, strict=True):
        if column.key is None or value is None:
            continue
        plain: Plain = apply_definition(value, _AS_IT_IS, column.exponent)
        readings.append(Reading(column.key, plain, column.unit, row.ts_ms))
    return readings
