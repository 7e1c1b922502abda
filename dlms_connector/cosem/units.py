"""Units of the Blue Book's enumeration (class Register, attribute scaler_unit), and exact scaling."""

from __future__ import annotations

from decimal import Context, Decimal

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

_EXACT = Context(prec=60)


def unit_text(code: int) -> str:
    """The unit's symbol, `unit 77` for a reserved code."""
    return UNITS.get(code, f"unit {code}")


def scale(value: int | Decimal, exponent: int) -> int | Decimal:
    """value x 10^exponent, exact: 23012 with -2 is Decimal('230.12'); an int stays one for exponents >= 0."""
    if exponent == 0:
        return value
    if isinstance(value, int) and 0 < exponent <= 40:
        return value * int(10**exponent)
    return _EXACT.scaleb(Decimal(value), exponent)


def unscale(value: Decimal, exponent: int) -> int:
    """The raw integer that a meter with this scaler holds for `value`.

    Raises:
        ValueError: when the value has more digits than the scaler can express.
    """
    raw = _EXACT.scaleb(value, -exponent)
    whole = int(raw)
    if raw != whole:
        raise ValueError(f"{value} has more digits than the meter's scaler of 10^{exponent} can hold")
    return whole
