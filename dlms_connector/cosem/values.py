"""A-XDR data of COSEM attributes: bytes <-> plain Python values (Green Book 9.5, IEC 61334-6).

`decode` is the hot path and gives plain values; `decode_typed` keeps the type tags for tools and for
writing a value back as the meter has it. Both check every length against the bytes that are there,
so a hostile answer costs an error and never memory or time.

| A-XDR                          | Python                                  |
|--------------------------------|-----------------------------------------|
| null-data, don't-care          | None                                    |
| boolean                        | bool                                    |
| integers, enum, bcd            | int                                     |
| deltas                         | Delta (bytes): a difference, no number  |
| bcd with a nibble above 9      | OddBcd (bytes, one octet): no number    |
| float32, float64               | float                                   |
| octet-string                   | bytes                                   |
| visible-string, utf8-string    | str                                     |
| bit-string                     | BitString (a str of 0 and 1)            |
| date-time, date, time          | DateTime, Date, Time (bytes)            |
| array, compact-array           | list                                    |
| structure                      | tuple                                   |
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, Union

from dlms_connector.errors import DecodeError

MAX_DEPTH = 32
MAX_COMPACT_ITEMS = 100_000

Value = Union[None, bool, int, float, bytes, str, list["Value"], tuple["Value", ...]]  # noqa: UP007 (recursive)


class DataType(IntEnum):
    """Tags of the Data CHOICE."""

    NULL = 0
    ARRAY = 1
    STRUCTURE = 2
    BOOLEAN = 3
    BIT_STRING = 4
    INT32 = 5
    UINT32 = 6
    OCTET_STRING = 9
    VISIBLE_STRING = 10
    UTF8_STRING = 12
    BCD = 13
    INT8 = 15
    INT16 = 16
    UINT8 = 17
    UINT16 = 18
    COMPACT_ARRAY = 19
    INT64 = 20
    UINT64 = 21
    ENUM = 22
    FLOAT32 = 23
    FLOAT64 = 24
    DATE_TIME = 25
    DATE = 26
    TIME = 27
    DELTA_INT8 = 28
    DELTA_INT16 = 29
    DELTA_INT32 = 30
    DELTA_UINT8 = 31
    DELTA_UINT16 = 32
    DELTA_UINT32 = 33
    DONT_CARE = 255


# Members of an IntEnum are slow to reach; the decoder's inner loop compares with plain numbers.
_ARRAY = int(DataType.ARRAY)
_STRUCTURE = int(DataType.STRUCTURE)
_OCTET_STRING = int(DataType.OCTET_STRING)


class BitString(str):
    """A bit-string as text, first bit first."""

    __slots__ = ()


class OddBcd(bytes):
    """The octet of a BCD that holds a nibble above 9: told as it came, never as a number."""

    __slots__ = ()


class Delta(bytes):
    """The difference to the value of the row before, by the compact encoding of profiles; no value by itself."""

    __slots__ = ()

    @classmethod
    def of(cls, number: int) -> Delta:
        return cls(number.to_bytes(5, "big", signed=True))

    @property
    def number(self) -> int:
        return int.from_bytes(self, "big", signed=True)


class DateTime(bytes):
    """12 bytes of a date-time; see `clock`."""

    __slots__ = ()


class Date(bytes):
    """5 bytes of a date."""

    __slots__ = ()


class Time(bytes):
    """4 bytes of a time."""

    __slots__ = ()


class TypedValue(NamedTuple):
    """A value with its tag; arrays and structures hold TypedValues."""

    type: DataType
    value: Any


_Unpack = Callable[[bytes, int], tuple[Any, ...]]

_NUMBER_FORMATS: dict[DataType, str] = {
    DataType.BOOLEAN: ">?",
    DataType.INT32: ">i",
    DataType.UINT32: ">I",
    DataType.INT8: ">b",
    DataType.INT16: ">h",
    DataType.UINT8: ">B",
    DataType.UINT16: ">H",
    DataType.INT64: ">q",
    DataType.UINT64: ">Q",
    DataType.ENUM: ">B",
    DataType.FLOAT32: ">f",
    DataType.FLOAT64: ">d",
    DataType.DELTA_INT8: ">b",
    DataType.DELTA_INT16: ">h",
    DataType.DELTA_INT32: ">i",
    DataType.DELTA_UINT8: ">B",
    DataType.DELTA_UINT16: ">H",
    DataType.DELTA_UINT32: ">I",
}
_FIRST_DELTA, _LAST_DELTA = int(DataType.DELTA_INT8), int(DataType.DELTA_UINT32)


def _is_delta(tag: int) -> bool:
    return _FIRST_DELTA <= tag <= _LAST_DELTA


_NUMBERS: dict[int, tuple[int, _Unpack]] = {
    int(tag): (struct.calcsize(text), struct.Struct(text).unpack_from)
    for tag, text in _NUMBER_FORMATS.items()
    if not _is_delta(tag)
}


def _shortest_float32(data: bytes, offset: int) -> tuple[float]:
    """A float32 as the shortest decimal that means it: 230.1, not 230.10000610351562."""
    raw = data[offset : offset + 4]
    exact: float = struct.unpack(">f", raw)[0]
    for digits in (6, 7, 8, 9):
        short = float(f"{exact:.{digits}g}")
        if abs(short) < 3.4e38 and struct.pack(">f", short) == raw:
            return (short,)
    return (exact,)


_NUMBERS[DataType.FLOAT32] = (4, _shortest_float32)
NUMBER_FORMATS: dict[int, str] = {
    int(tag): text[1:]
    for tag, text in _NUMBER_FORMATS.items()
    if tag != DataType.FLOAT32 and not _is_delta(tag)
}
"""Tag -> format for `struct`, big-endian, of the types that `struct` alone decodes."""
_MOMENTS: dict[int, tuple[int, type[bytes]]] = {
    DataType.DATE_TIME: (12, DateTime),
    DataType.DATE: (5, Date),
    DataType.TIME: (4, Time),
}


def read_length(data: bytes, offset: int) -> tuple[int, int]:
    """Read an A-XDR length: `(length, offset behind it)`.

    Raises:
        DecodeError: truncated, or written in more than four bytes.
    """
    if offset >= len(data):
        raise DecodeError("length is missing", offset=offset)
    first = data[offset]
    if first < 0x80:
        return first, offset + 1
    size = first & 0x7F
    end = offset + 1 + size
    if not 1 <= size <= 4:
        raise DecodeError(f"length of {size} bytes", offset=offset)
    if end > len(data):
        raise DecodeError("length is truncated", offset=offset)
    return int.from_bytes(data[offset + 1 : end], "big"), end


def encode_length(length: int) -> bytes:
    """Write an A-XDR (and BER) length in its shortest form."""
    if length < 0x80:
        return bytes((length,))
    raw = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((0x80 | len(raw),)) + raw


def decode_all(data: bytes) -> Value:
    """Decode exactly one value; bytes behind it are an error."""
    value, end = decode(data)
    if end != len(data):
        raise DecodeError(f"{len(data) - end} bytes behind the value", offset=end)
    return value


def decode(data: bytes, offset: int = 0, depth: int = 0) -> tuple[Value, int]:
    """Decode one value: `(value, offset behind it)`. `depth` counts the containers around it.

    Raises:
        DecodeError: with the offset of the byte that is wrong.
    """
    if offset >= len(data):
        raise DecodeError("value is missing", offset=offset)
    tag = data[offset]
    number = _NUMBERS.get(tag)
    if number is not None:  # repeated from _decode_simple: nine of ten values are numbers
        end = offset + 1 + number[0]
        if end <= len(data):
            return number[1](data, offset + 1)[0], end
    if tag in (_STRUCTURE, _ARRAY):
        if depth >= MAX_DEPTH:
            raise DecodeError(f"nested deeper than {MAX_DEPTH}", offset=offset)
        count, position = read_length(data, offset + 1)
        if count > len(data) - position:
            raise DecodeError(f"{count} elements claimed in {len(data) - position} bytes", offset=offset)
        items: list[Value] = []
        append = items.append
        for _ in range(count):
            item, position = decode(data, position, depth + 1)
            append(item)
        return (tuple(items) if tag == _STRUCTURE else items), position
    if tag == DataType.COMPACT_ARRAY:
        return _decode_compact(data, offset, depth)
    return _decode_simple(data, tag, offset + 1)


def _decode_simple(data: bytes, tag: int, offset: int) -> tuple[Value, int]:
    """Decode the contents of a simple type; `offset` is behind the tag (compact arrays have none)."""
    number = _NUMBERS.get(tag)
    if number is not None:
        size, unpack = number
        end = offset + size
        if end > len(data):
            raise DecodeError(f"{DataType(tag).name} is truncated", offset=offset)
        value: Value = unpack(data, offset)[0]
        return value, end
    if tag == _OCTET_STRING:
        end, start = _string_bounds(data, offset)
        return data[start:end], end
    if tag == DataType.NULL or tag == DataType.DONT_CARE:
        return None, offset
    if tag == DataType.VISIBLE_STRING:
        end, start = _string_bounds(data, offset)
        return data[start:end].decode("latin-1"), end
    if tag == DataType.UTF8_STRING:
        end, start = _string_bounds(data, offset)
        return data[start:end].decode("utf-8", "replace"), end
    if tag == DataType.BIT_STRING:
        return _decode_bits(data, offset)
    if tag == DataType.BCD:
        if offset >= len(data):
            raise DecodeError("BCD is truncated", offset=offset)
        return _bcd(data[offset]), offset + 1
    if _is_delta(tag):
        return _decode_delta(data, tag, offset)
    moment = _MOMENTS.get(tag)
    if moment is not None:
        size, kind = moment
        if offset + size > len(data):
            raise DecodeError(f"{kind.__name__} is truncated", offset=offset)
        return kind(data[offset : offset + size]), offset + size
    raise DecodeError(f"unknown data type {tag}", offset=offset - 1)


def _string_bounds(data: bytes, offset: int) -> tuple[int, int]:
    length, start = read_length(data, offset)
    end = start + length
    if end > len(data):
        raise DecodeError(f"string of {length} bytes, only {len(data) - start} there", offset=offset)
    return end, start


def _decode_bits(data: bytes, offset: int) -> tuple[Value, int]:
    count, start = read_length(data, offset)
    end = start + (count + 7) // 8
    if end > len(data):
        raise DecodeError(f"bit-string of {count} bits is truncated", offset=offset)
    if count == 0:
        return BitString(), end
    number = int.from_bytes(data[start:end], "big")
    return BitString(f"{number:0{(end - start) * 8}b}"[:count]), end


def _decode_delta(data: bytes, tag: int, offset: int) -> tuple[Value, int]:
    text = _NUMBER_FORMATS[DataType(tag)]
    end = offset + struct.calcsize(text)
    if end > len(data):
        raise DecodeError(f"{DataType(tag).name} is truncated", offset=offset)
    return Delta.of(struct.unpack_from(text, data, offset)[0]), end


def _bcd(octet: int) -> int | bytes:
    high, low = octet >> 4, octet & 0x0F
    return high * 10 + low if high < 10 and low < 10 else OddBcd((octet,))


class Elements(NamedTuple):
    """The elements of an array as far as they could be read; `end` is where the bytes begin that were not."""

    items: list[Value]
    claimed: int
    end: int
    reason: str = ""


def read_elements(data: bytes) -> Elements:
    """The elements of an array that may be cut short or badly counted.

    Elements are taken until the data end or one of them fails. Behind the claimed count, structures are still
    taken: some meters count fewer rows or objects than they send.

    Raises:
        DecodeError: the value is no array, or not even its head can be read.
    """
    if not data or data[0] != _ARRAY:
        value, end = decode(data)
        if not isinstance(value, list):
            raise DecodeError("the value is no array", offset=0)
        return Elements(value, len(value), end)
    claimed, position = read_length(data, 1)
    items: list[Value] = []
    while position < len(data) and (len(items) < claimed or data[position] == _STRUCTURE):
        try:
            item, position = decode(data, position, 1)
        except DecodeError as error:
            return Elements(items, claimed, position, error.message)
        items.append(item)
    return Elements(items, claimed, position)


def decode_elements(data: bytes) -> tuple[list[Value], str]:
    """The elements of `read_elements`, and a note on what is wrong with the array: empty where all is well."""
    items, claimed, end, reason = read_elements(data)
    left = len(data) - end
    if len(items) == claimed and not left:
        return items, ""
    if data[0] != _ARRAY:
        return items, f"{left} bytes behind the array are not read"
    why = f" ({reason})" if reason else ""
    return items, f"the array says {claimed} elements, {len(items)} could be read; {left} bytes left{why}"


class _Description(NamedTuple):
    """The type of a compact-array's elements, written once; the values follow without tags."""

    tag: int
    elements: int
    parts: tuple[Any, ...]  # _Description of each element; arrays have one


def _read_description(data: bytes, offset: int, depth: int) -> tuple[_Description, int]:
    if offset >= len(data):
        raise DecodeError("type description is missing", offset=offset)
    if depth >= MAX_DEPTH:
        raise DecodeError(f"nested deeper than {MAX_DEPTH}", offset=offset)
    tag = data[offset]
    if tag == DataType.ARRAY:
        if offset + 3 > len(data):
            raise DecodeError("type description is truncated", offset=offset)
        part, end = _read_description(data, offset + 3, depth + 1)
        return _Description(tag, int.from_bytes(data[offset + 1 : offset + 3], "big"), (part,)), end
    if tag == DataType.STRUCTURE:
        count, position = read_length(data, offset + 1)
        if count > len(data) - position:
            raise DecodeError(f"{count} elements described in {len(data) - position} bytes", offset=offset)
        parts = []
        for _ in range(count):
            part, position = _read_description(data, position, depth + 1)
            parts.append(part)
        return _Description(tag, count, tuple(parts)), position
    return _Description(tag, 0, ()), offset + 1


def _decode_compact(data: bytes, offset: int, depth: int) -> tuple[Value, int]:
    description, position = _read_description(data, offset + 1, depth)
    end, start = _string_bounds(data, position)
    contents = data[:end]
    budget = [MAX_COMPACT_ITEMS]
    items: list[Value] = []
    position = start
    while position < end:
        before = position
        item, position = _decode_described(contents, position, description, budget)
        if position == before:
            raise DecodeError("compact-array of elements without contents", offset=before)
        items.append(item)
    return items, end


def _decode_described(
    data: bytes, offset: int, description: _Description, budget: list[int]
) -> tuple[Value, int]:
    budget[0] -= 1
    if budget[0] < 0:
        raise DecodeError(f"compact-array with more than {MAX_COMPACT_ITEMS} elements", offset=offset)
    if description.tag not in (DataType.ARRAY, DataType.STRUCTURE):
        return _decode_simple(data, description.tag, offset)
    parts = (
        description.parts * description.elements if description.tag == DataType.ARRAY else description.parts
    )
    items: list[Value] = []
    for part in parts:
        item, offset = _decode_described(data, offset, part, budget)
        items.append(item)
    return (tuple(items) if description.tag == DataType.STRUCTURE else items), offset


def decode_typed(data: bytes, offset: int = 0, depth: int = 0) -> tuple[TypedValue, int]:
    """Decode one value and keep its tags: `(typed value, offset behind it)`.

    A compact-array keeps its outer tag only. Raises DecodeError like `decode`.
    """
    if offset >= len(data):
        raise DecodeError("value is missing", offset=offset)
    tag = data[offset]
    if tag not in (DataType.ARRAY, DataType.STRUCTURE):
        value, end = decode(data, offset, depth)
        return TypedValue(DataType(tag), value.number if isinstance(value, Delta) else value), end
    if depth >= MAX_DEPTH:
        raise DecodeError(f"nested deeper than {MAX_DEPTH}", offset=offset)
    count, position = read_length(data, offset + 1)
    if count > len(data) - position:
        raise DecodeError(f"{count} elements claimed in {len(data) - position} bytes", offset=offset)
    items = []
    for _ in range(count):
        item, position = decode_typed(data, position, depth + 1)
        items.append(item)
    return TypedValue(DataType(tag), items), position


def encode(typed: TypedValue) -> bytes:
    """Encode a typed value, the inverse of `decode_typed`.

    Raises:
        ValueError: when the value does not fit its type (never a struct.error or OverflowError).
    """
    tag, value = typed
    head = bytes((tag,))
    text = _NUMBER_FORMATS.get(tag)
    if text is not None:
        return head + _pack_number(tag, text, value)
    if tag in (DataType.NULL, DataType.DONT_CARE):
        return head
    if tag in (DataType.ARRAY, DataType.STRUCTURE):
        return head + encode_length(len(value)) + b"".join(map(encode, value))
    if tag == DataType.BIT_STRING:
        return head + encode_length(len(value)) + _pack_bits(value)
    if tag == DataType.BCD:
        return head + _pack_bcd(value)
    moment = _MOMENTS.get(tag)
    if moment is not None:
        if len(value) != moment[0]:
            raise ValueError(f"{tag.name} has {moment[0]} bytes, not {len(value)}")
        return head + bytes(value)
    if tag in (DataType.OCTET_STRING, DataType.VISIBLE_STRING, DataType.UTF8_STRING):
        raw = _string_bytes(tag, value)
        return head + encode_length(len(raw)) + raw
    raise ValueError(f"values of type {DataType(tag).name} cannot be written")


def structure(*items: TypedValue) -> TypedValue:
    """A structure of the items."""
    return TypedValue(DataType.STRUCTURE, items)


def array(items: Sequence[TypedValue]) -> TypedValue:
    """An array of the items."""
    return TypedValue(DataType.ARRAY, items)


def _pack_number(tag: DataType, text: str, value: Any) -> bytes:
    if tag not in (DataType.FLOAT32, DataType.FLOAT64) and not isinstance(value, int):
        raise ValueError(f"{tag.name} takes a whole number, not {value!r}")
    try:
        return struct.pack(text, value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value!r} does not fit {tag.name}") from error


def _pack_bcd(value: Any) -> bytes:
    if isinstance(value, OddBcd):
        return bytes(value)
    if not isinstance(value, int) or not 0 <= value <= 99:
        raise ValueError(f"{value!r} does not fit BCD (0 to 99)")
    return bytes((value // 10 << 4 | value % 10,))


def _pack_bits(bits: str) -> bytes:
    if set(bits) - {"0", "1"}:
        raise ValueError("a bit-string is a text of 0 and 1")
    size = (len(bits) + 7) // 8
    return int(bits.ljust(size * 8, "0") or "0", 2).to_bytes(size, "big")


def _string_bytes(tag: DataType, value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode("utf-8" if tag == DataType.UTF8_STRING else "latin-1")
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!r} has characters that {tag.name} cannot hold") from error
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    raise ValueError(f"{tag.name} takes text or bytes, not {type(value).__name__}")
