"""Which numbers leave as numbers: those that ThingsBoard, or a reader of JSON, holds as the meter said them.

ThingsBoard stores a number as a signed 64-bit integer or as a double of at most 16 decimals, and makes text of any
other (its `JsonConverter`). What it cannot hold therefore leaves as text here already, with all of its digits:

* integers below -2^63 or from 2^63 on, such as the upper half of an unsigned 64-bit register;
* numbers below one that would keep less than seven significant digits in 16 decimals.

A number between them is the double nearest to it: 15 significant digits at least.
"""

from __future__ import annotations

from decimal import Decimal
from math import inf, isfinite, nan

INT64 = range(-(2**63), 2**63)
_LIMIT = 2.0**63
_DECIMALS = 16  # of ThingsBoard's doubles
_KEPT = 10**7  # what may be cut off is smaller than the value by this factor
_BLANK = " "
"""Behind text that ThingsBoard would take for a number and round; its cast takes none with a blank."""


def stored(value: float | Decimal) -> int | float | str | None:
    """A number as telemetry: a number that arrives as it is, exact text, or None for NaN and infinity.

    A series keeps its type: 230.00 is 230.0.
    """
    if isinstance(value, int) and value in INT64:
        return value
    if isinstance(value, float) and 1.0 <= abs(value) < _LIMIT:
        return value
    near = _float(value)
    size = abs(near)
    if 1.0 <= size < _LIMIT:
        return near
    rounded = round(near, _DECIMALS)
    if size < 1.0 and rounded == near and (near or not value):
        return near
    number = Decimal(value) if isinstance(value, int) else as_decimal(value)
    if not number.is_finite():
        return None
    if size >= _LIMIT or abs(as_decimal(rounded) - number) * _KEPT > abs(number):
        return _text(number)
    return rounded


def answered(value: float | Decimal) -> int | float | str:
    """A number in an answer: exact as a number of JSON, or as text where a double would round it."""
    if isinstance(value, int):
        return value if value in INT64 else str(value)
    if not value.is_finite() if isinstance(value, Decimal) else not isfinite(value):
        return str(value)
    if isinstance(value, float):
        return value
    if value == value.to_integral_value() and abs(value) < _LIMIT:
        return int(value)
    near = _float(value)
    return near if isfinite(near) and as_decimal(near) == value else f"{value:f}"


def _float(value: float | Decimal) -> float:
    try:
        return float(value)
    except OverflowError:
        return inf
    except ValueError:
        return nan  # a signalling NaN


def as_decimal(value: float | Decimal) -> Decimal:
    """The number that a float prints."""
    return value if isinstance(value, Decimal) else Decimal(repr(value))


def _text(number: Decimal) -> str:
    text = f"{number:f}"
    is_whole = number == number.to_integral_value()
    return text if is_whole and "." not in text else text + _BLANK
