"""The columns of a profile generic (class 7, Blue Book 4.3.6): what it captures, and under which keys it goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import Value
from dlms_connector.errors import DecodeError
from dlms_connector.obis import Obis

PROFILE_CLASS = 7
CLOCK_CLASS = 8
DATA_CLASS = 1
DEMAND_CLASS = 5
CLOCK = AttributeRef(CLOCK_CLASS, Obis(0, 0, 1, 0, 0), 2)
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

    @property
    def is_unix_clock(self) -> bool:
        """Seconds since 1970 in a data object: 0-0:1.1.0, or the clock's own name 0-0:1.0.0."""
        return is_unix_clock(self.ref)


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and the capture period in seconds (0 where there is none, or the meter does not say)."""

    columns: tuple[Column, ...]
    capture_period_s: int

    @property
    def clock_index(self) -> int | None:
        """Which column is the row's time: the meter's own clock's, another clock object's, seconds since 1970."""
        clocks = [index for index, column in enumerate(self.columns) if column.ref == CLOCK]
        clocks += [index for index, column in enumerate(self.columns) if column.is_clock]
        clocks += [index for index, column in enumerate(self.columns) if column.is_unix_clock]
        return clocks[0] if clocks else None


def is_unix_clock(ref: AttributeRef) -> bool:
    """Whether an attribute by its name holds seconds since 1970 (Blue Book: UNIX clock, 0-b:1.1.0)."""
    names = ((1, 1, 0), (1, 0, 0))
    return (
        ref.class_id == DATA_CLASS
        and ref.attribute == 2
        and (ref.obis.a, ref.obis[2:5]) in [(0, name) for name in names]
    )


def parse_capture_objects(value: Value, keys: Mapping[str, str | None]) -> tuple[Column, ...]:
    """Columns from attribute 3. `keys` maps OBIS or OBIS#attribute to a key or None; empty takes all.

    A plain OBIS code means the value of its object. Parts of one attribute under one key are told apart by their
    data index; any other column under a key that is taken has none.

    Raises:
        DecodeError: not an array of capture object definitions.
    """
    if not isinstance(value, list) or len(value) > MAX_COLUMNS:
        raise DecodeError("capture_objects is no array of a usable size", offset=0)
    captured: list[tuple[AttributeRef, int]] = []
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
        captured.append((ref, data_index))
    wanted = {_normal(name): key for name, key in keys.items()}
    refs = {ref for ref, _ in captured}
    return _under_distinct_keys([Column(ref, part, _key_for(ref, wanted, refs)) for ref, part in captured])


def _under_distinct_keys(columns: Sequence[Column]) -> tuple[Column, ...]:
    often = Counter(column.key for column in columns)
    taken: set[str] = set()
    distinct = []
    for column in columns:
        key = column.key
        if key is not None and often[key] > 1 and column.data_index > 0:
            key = f"{key}[{column.data_index}]"
        if key in taken:
            key = None
        if key is not None:
            taken.add(key)
        distinct.append(replace(column, key=key))
    return tuple(distinct)


def column_notes(columns: Sequence[Column], keys: Mapping[str, str | None]) -> list[str]:
    """What is odd about the columns, a sentence each: one that has no key of its own, or is not captured at all."""
    wanted = {_normal(name): key for name, key in keys.items()}
    refs = {column.ref for column in columns}
    names = {str(ref.obis) for ref in refs} | {_exact(ref) for ref in refs}
    notes = [f'the profile has no column "{name}"' for name in wanted if name not in names]
    for column in columns:
        meant = _key_for(column.ref, wanted, refs)
        where = f"{_exact(column.ref)}, data index {column.data_index}"
        if meant is not None and column.key is None:
            notes.append(f'the column {where} is left out: "{meant}" is the key of another column')
        elif column.key != meant:
            notes.append(f'the column {where} is delivered as "{column.key}"')
    return notes


def _exact(ref: AttributeRef) -> str:
    return f"{ref.obis}#{ref.attribute}"


def _normal(name: str) -> str:
    obis, _, attribute = name.partition("#")
    return f"{Obis.parse(obis)}#{attribute}" if attribute else str(Obis.parse(obis))


def _key_for(
    ref: AttributeRef, wanted: Mapping[str, str | None], captured: Collection[AttributeRef]
) -> str | None:
    exact, plain = _exact(ref), str(ref.obis)
    if exact in wanted:
        return wanted[exact]
    if plain in wanted and _is_value(ref, captured):
        return wanted[plain]
    if wanted or is_unix_clock(ref) or (ref.class_id == CLOCK_CLASS and ref.attribute == 2):
        return None
    return plain if ref.attribute == 2 else exact


def _is_value(ref: AttributeRef, captured: Collection[AttributeRef]) -> bool:
    """Whether the attribute holds its object's value; a demand register's last average where that alone is captured."""
    if ref.class_id == DEMAND_CLASS and ref.attribute == 3:
        return AttributeRef(ref.class_id, ref.obis, 2) not in captured
    return ref.attribute == 2
