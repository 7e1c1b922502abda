"""A JSON value -> the A-XDR value that a meter takes: typed, scaled back exactly, or an error in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any

from dlms_connector.cosem.clock import encode_clock
from dlms_connector.cosem.units import unscale
from dlms_connector.cosem.values import DataType, Date, DateTime, Time, TypedValue, encode
from dlms_connector.errors import CommandError

_INTEGERS = frozenset(
    (
        DataType.INT8,
        DataType.INT16,
        DataType.INT32,
        DataType.INT64,
        DataType.UINT8,
        DataType.UINT16,
        DataType.UINT32,
        DataType.UINT64,
        DataType.ENUM,
        DataType.BCD,
    )
)
_ALIASES = {
    "integer": DataType.INT8,
    "long": DataType.INT16,
    "double-long": DataType.INT32,
    "long64": DataType.INT64,
    "unsigned": DataType.UINT8,
    "long-unsigned": DataType.UINT16,
    "double-long-unsigned": DataType.UINT32,
    "long64-unsigned": DataType.UINT64,
    "null-data": DataType.NULL,
    "bool": DataType.BOOLEAN,
    "string": DataType.VISIBLE_STRING,
    "octets": DataType.OCTET_STRING,
}
_MAY_BE_HEX = re.compile("([0-9A-Fa-f]{2})+")
_TRUE, _FALSE = ("true", "1", "on"), ("false", "0", "off")


def data_type(name: str) -> DataType:
    """The A-XDR type of a name such as `uint32`, `double-long-unsigned` or `octet-string`.

    Raises:
        CommandError: no such type.
    """
    plain = name.strip().lower()
    if plain in _ALIASES:
        return _ALIASES[plain]
    try:
        return DataType[plain.replace("-", "_").upper()]
    except KeyError:
        known = ", ".join(sorted([*_ALIASES, *(kind.name.lower().replace("_", "-") for kind in DataType)]))
        raise CommandError(f'there is no data type "{name}"', hint=f"known: {known}") from None


def to_typed(
    value: Any, kind: DataType, *, exponent: int = 0, deviation_reversed: bool = False
) -> TypedValue:
    """`value` as `kind`; numbers are scaled back by 10^exponent without rounding.

    A dict `{"type": ..., "value": ...}` names its own type and is raw: no scaler is applied to it.

    Args:
        deviation_reversed: the meter's clocks tell their deviation as an offset from GMT, not to it.

    Raises:
        CommandError: the value does not fit the type.
    """
    if is_raw(value):
        return to_typed(value["value"], data_type(str(value["type"])), deviation_reversed=deviation_reversed)
    try:
        typed = TypedValue(kind, _convert(value, kind, exponent, deviation_reversed))
        encode(typed)
    except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
        raise CommandError(f"the value does not fit {kind.name.lower()}: {error}") from error
    return typed


def is_raw(value: Any) -> bool:
    """Whether a value names its own type, and is meant as the meter holds it."""
    return isinstance(value, dict) and set(value) == {"type", "value"}


def _convert(value: Any, kind: DataType, exponent: int, deviation_reversed: bool) -> Any:
    if kind in (DataType.ARRAY, DataType.STRUCTURE):
        return _items(value, deviation_reversed)
    if kind in _INTEGERS:
        return unscale(_number(value), exponent)
    if kind in (DataType.FLOAT32, DataType.FLOAT64):
        number = float(_number(value).scaleb(-exponent))
        if not isfinite(number):
            raise ValueError("the number is too large")
        return number
    if kind is DataType.BOOLEAN:
        return _boolean(value)
    if kind is DataType.OCTET_STRING:
        return _octets(value, deviation_reversed)
    if kind in (DataType.DATE_TIME, DataType.DATE, DataType.TIME):
        wrapper = {DataType.DATE_TIME: DateTime, DataType.DATE: Date, DataType.TIME: Time}[kind]
        return wrapper(_octets(value, deviation_reversed))
    if kind in (DataType.NULL, DataType.DONT_CARE):
        if value is not None:
            raise TypeError("null holds no value; name the type to write")
        return None
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    return value


def _items(value: Any, deviation_reversed: bool) -> list[TypedValue]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError('a list of {"type": ..., "value": ...} is needed')
    items = []
    for item in value:
        if not is_raw(item):
            raise TypeError('each element is {"type": ..., "value": ...}')
        items.append(to_typed(item, DataType.NULL, deviation_reversed=deviation_reversed))
    return items


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise TypeError(f"a number is needed, not {type(value).__name__}")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite():
        raise ValueError("a finite number is needed")
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ValueError("true or false is needed")


def _octets(value: Any, deviation_reversed: bool) -> bytes:
    """`hex:...` is bytes, `text:...` a text, an ISO moment a date-time; else the text, unless it may be either."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if not isinstance(value, str):
        raise TypeError(f"a text is needed, not {type(value).__name__}")
    if value.startswith("hex:"):
        return bytes.fromhex(value[4:])
    if value.startswith("text:"):
        return value[5:].encode()
    if _MAY_BE_HEX.fullmatch(value):
        raise ValueError(f'"{value}" may be octets or a text: write "hex:{value}" or "text:{value}"')
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return value.encode()
    if moment.tzinfo is None:
        raise ValueError("a moment needs its offset from UTC, e.g. 2026-01-31T12:00:00-05:00")
    return encode_clock(int(moment.timestamp() * 1000), moment.tzinfo, deviation_reversed=deviation_reversed)
