"""Units of the Blue Book's enumeration (class Register, attribute scaler_unit), and exact scaling."""

from __future__ import annotations

from decimal import Context, Decimal
from typing import Final

from dlms_connector.cosem.values import Value

UNITS: dict[int, str] = {
    1: "a", 2: "mo", 3: "wk", 4: "d", 5: "h", 6: "min", 7: "s", 8: "°", 9: "°C", 10: "currency",
    11: "m", 12: "m/s", 13: "m³", 14: "m³", 15: "m³/h", 16: "m³/h", 17: "m³/d", 18: "m³/d", 19: "l",
    20: "kg", 21: "N", 22: "Nm", 23: "Pa", 24: "bar", 25: "J", 26: "J/h", 27: "W", 28: "VA", 29: "var",
    30: "Wh", 31: "VAh", 32: "varh", 33: "A", 34: "C", 35: "V", 36: "V/m", 37: "F", 38: "Ω", 39: "Ωm²/m",
    40: "Wb", 41: "T", 42: "A/m", 43: "H", 44: "Hz", 45: "1/Wh", 46: "1/varh", 47: "1/VAh", 48: "V²h",
    49: "A²h", 50: "kg/s", 51: "S", 52: "K", 53: "1/V²h", 54: "1/A²h", 55: "1/m³", 56: "%", 57: "Ah",
    60: "Wh/m³", 61: "J/m³", 62: "mol %", 63: "g/m³", 64: "Pa s", 65: "J/kg", 66: "g/cm²", 67: "atm",
    70: "dBm", 71: "dBµV", 72: "dB", 128: "in", 129: "ft", 130: "lb", 131: "°F", 132: "°R", 133: "in²",
    134: "ft²", 135: "ac", 136: "in³", 137: "ft³", 138: "acre ft", 139: "gal", 254: "other", 255: "",
}  # fmt: skip

MAX_EXPONENT: Final = 64
"""Scaling goes no further, and what it gives lies between 1e-64 and 1e64: beyond is no quantity of a meter."""
MAX_SCALER: Final = 32
"""Of a meter; the scalers of the Blue Book's examples are single digits."""

_EXACT = Context(prec=80)  # digits: more than an integer within the bounds has
_WIDE_BITS: Final = 64
_FAR_BITS: Final = 426  # of 10^128, which 10^-64 brings to 10^64
_WIDE_EXPONENT: Final = 40  # a number of 64 bits times 10^40 is within the bounds


def unit_text(code: int) -> str:
    """The unit's symbol, `unit 77` for a reserved code."""
    return UNITS.get(code, f"unit {code}")


def scale(value: int | Decimal, exponent: int) -> int | Decimal:
    """value x 10^exponent, exact: 23012 with -2 is Decimal('230.12'); an int stays one for exponents >= 0.

    NaN and infinity come back as they are.

    Raises:
        ValueError: the exponent is beyond 64, or the result not between 1e-64 and 1e64; told before any arithmetic.
    """
    if exponent == 0:
        return value
    if isinstance(value, int):
        if not (value.bit_length() <= _WIDE_BITS and -MAX_EXPONENT <= exponent <= _WIDE_EXPONENT):
            _check_bounds(value, exponent)
        if exponent > 0:
            return value * int(10**exponent)
    else:
        if not value.is_finite():
            return value
        _check_bounds(value, exponent)
    return _EXACT.scaleb(Decimal(value), exponent)


def _check_bounds(value: int | Decimal, exponent: int) -> None:
    """Raise ValueError where value x 10^exponent is nothing that a meter measures."""
    if not -MAX_EXPONENT <= exponent <= MAX_EXPONENT:
        raise ValueError(f"10^{exponent} is no scaler (10^{-MAX_EXPONENT} to 10^{MAX_EXPONENT})")
    if not value:
        return
    if isinstance(value, int):
        # A longer one never becomes a Decimal: that takes time.
        fits = (
            value.bit_length() <= _FAR_BITS
            and -MAX_EXPONENT <= Decimal(value).adjusted() + exponent < MAX_EXPONENT
        )
    else:
        fits = -MAX_EXPONENT <= value.adjusted() + exponent < MAX_EXPONENT
    if not fits:
        raise ValueError(f"the value x 10^{exponent} is not between 1e-{MAX_EXPONENT} and 1e{MAX_EXPONENT}")


def parse_scaler_unit(value: Value) -> tuple[int, str, str] | None:
    """A decoded scaler_unit as `(exponent, unit text, note)`; None where it cannot be used.

    Some meters send the scaler as an unsigned octet: 253 is then -3, and the note says so.
    """
    if not isinstance(value, tuple) or len(value) != 2:
        return None
    scaler, unit = value
    if type(scaler) is not int or type(unit) is not int or not 0 <= unit <= 255:  # bools are no numbers here
        return None
    note = ""
    if 128 <= scaler <= 255:
        note = f"the scaler came as an unsigned number ({scaler}), taken as {scaler - 256}"
        scaler -= 256
    if abs(scaler) > MAX_SCALER:
        return None
    return scaler, unit_text(unit), note


def unscale(value: Decimal, exponent: int) -> int:
    """The raw integer that a meter with this scaler holds for `value`.

    Raises:
        ValueError: when the value has more digits than the scaler can express, or is no number within bounds.
    """
    if not value.is_finite():
        raise ValueError(f"{value} is no number that a meter can hold")
    if not value:
        return 0
    _check_bounds(value, -exponent)
    raw = _EXACT.scaleb(value, -exponent)
    whole = int(raw)
    if raw != whole:
        raise ValueError(f"{value} has more digits than the meter's scaler of 10^{exponent} can hold")
    return whole
