"""A reading: one value of one meter at one moment, on its way to ThingsBoard."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from itertools import repeat
from typing import Any, NamedTuple, Union

from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.cosem import clock
from dlms_connector.cosem.units import MAX_EXPONENT, scale
from dlms_connector.cosem.values import BitString, Date, DateTime, Delta, OddBcd, Time, Value
from dlms_connector.errors import DecodeError
from dlms_connector.obis import Obis

Plain = Union[None, bool, int, float, Decimal, str, list["Plain"], dict[str, "Plain"]]  # noqa: UP007 (recursive)
_PRINTABLE = re.compile(rb"[\x20-\x7e]+")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE](?P<exponent>[+-]?[0-9]{1,3}))?")
_MAX_DIGITS = 40  # of a text that becomes a number
_TRUE, _FALSE = ("true", "1", "on", "yes"), ("false", "0", "off", "no", "")
_NO_NUMBER = math.nan  # as a meter says it


class Reading(NamedTuple):
    """A value under its key; `ts_ms` is when the meter answered, or the row's own time in a profile."""

    key: str
    value: Plain
    unit: str
    ts_ms: int


_new = tuple.__new__


def readings_of(
    keys: Iterable[str], values: Iterable[Plain], units: Iterable[str], ts_ms: Iterable[int]
) -> list[Reading]:
    """Many readings from their columns, as many as the shortest has: at half the price of the constructor."""
    return list(map(_new, repeat(Reading), zip(keys, values, units, ts_ms)))  # noqa: B905 (an argument costs)


def to_plain(value: Value) -> Plain:
    """Any A-XDR value as something that JSON can tell.

    Octets become text where all are printable, an OBIS code where they look like a logical name, a moment
    where they are a plausible date-time, and hexadecimal otherwise. Structures and arrays become lists.
    NaN and infinity stay floats: whoever hands the value on decides about them.
    """
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, bytes):
        return _octets(value)
    if isinstance(value, str):
        return value.rstrip("\0")
    return value


def _octets(raw: bytes) -> str:
    if isinstance(raw, DateTime) or (len(raw) == 12 and _plausible_moment(raw)):
        try:
            return clock.decode_clock(raw).isoformat()
        except DecodeError:
            return raw.hex().upper()
    if isinstance(raw, Date):
        return clock.date_text(raw)
    if isinstance(raw, Time):
        return clock.time_text(raw)
    if isinstance(raw, OddBcd):
        return raw.hex().upper()
    if isinstance(raw, Delta):
        return f"difference {raw.number:+d}"
    text = raw.rstrip(b"\0")
    if not text:
        return "" if not raw else raw.hex().upper()
    if _PRINTABLE.fullmatch(text):
        return text.decode("ascii")
    if len(raw) == 6 and raw[5] == 0xFF:
        return str(Obis.from_bytes(raw))
    return raw.hex().upper()


def _plausible_moment(raw: bytes) -> bool:
    year = int.from_bytes(raw[:2], "big")
    if not (1990 <= year <= 2200 or year == 0xFFFF):
        return False
    try:
        clock.decode_clock(raw)
    except DecodeError:
        return False
    return True


def apply_definition(value: Value, definition: ObjectDefinition, exponent: int) -> Plain:
    """A raw value as the operator asked for it: path, scaler, multiplier, rounding, type.

    `exponent` is the power of ten from the meter (0 for none); a number in the definition wins over it.
    A float that is NaN or infinite comes back as it is, whatever the type; NaN also stands for a number that
    the scaler would carry out of all bounds (`units.scale`).

    Raises:
        ValueError: it is the difference to a value that is not there.
    """
    for position in definition.path:
        if not isinstance(value, (list, tuple)) or position >= len(value):
            return None
        value = value[position]
    if _is_difference(value):
        raise ValueError("it is the difference to a value that is not there")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _typed(_for_type(value, definition.type), definition.type)
    if isinstance(value, float) and not math.isfinite(value):
        return value
    number: Any = value if isinstance(value, int) else Decimal(repr(value))
    if definition.scaler is not None:
        try:
            number = scale(number, exponent if definition.scaler == "auto" else definition.scaler)
        except ValueError:
            return _NO_NUMBER
    if definition.multiplier is not None:
        number = number * definition.multiplier
    if definition.round is not None and isinstance(number, Decimal):
        number = _rounded(number, definition.round)
    return _typed(number, definition.type)


def _for_type(value: Value, wanted: str) -> Plain:
    """What a type is made of: octets and bits are truth by any bit that is set, and never digits of a number.

    Raises:
        ValueError: octets that are no text, or bits, as a number; a text that is no truth value.
    """
    plain = to_plain(value)
    if wanted == "boolean":
        if isinstance(value, BitString):
            return "1" in value
        if isinstance(value, bytes) and not _PRINTABLE.fullmatch(value):
            return any(value)
        if isinstance(plain, str):
            return _truth(plain)
    is_octets = isinstance(value, bytes) and not _PRINTABLE.fullmatch(value.rstrip(b"\0"))
    if wanted == "number" and (is_octets or isinstance(value, BitString)):
        raise ValueError(f"{plain} is no number")
    return plain


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f'"{text}" is neither true nor false')


def _is_difference(value: Value) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_is_difference, value))
    return isinstance(value, Delta)


def _rounded(number: Decimal, digits: int) -> Decimal:
    """Rounded to digits after the point; a number too large to have any stays as it is."""
    try:
        return round(number, digits)
    except InvalidOperation:
        return number


def _typed(value: Plain, wanted: str) -> Plain:
    if value is None or wanted in ("auto", "json"):
        return value
    if wanted == "text":
        return value if isinstance(value, str) else str(value)
    if wanted == "boolean":
        return bool(value)
    if isinstance(value, str):
        return _number_of(value)
    return int(value) if isinstance(value, bool) else value


def _number_of(text: str) -> Plain:
    """The exact number that a text writes, within 40 digits and exponents of 64; else the text."""
    stripped = text.strip()
    match = _NUMBER.fullmatch(stripped) if len(stripped) <= _MAX_DIGITS + 8 else None
    if match is None or abs(int(match["exponent"] or 0)) > MAX_EXPONENT:
        return text
    number = Decimal(stripped)
    return number if len(match[1].replace(".", "")) <= _MAX_DIGITS else text
