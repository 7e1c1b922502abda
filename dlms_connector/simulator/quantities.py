"""What a simulated three-phase meter measures: a pure function of serial number, quantity and time.

A test computes the same number from the same three, without asking the meter. Energies only grow; powers
follow from voltage, current and power factor of the same moment, so that a person sees a plausible meter.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt
from typing import NamedTuple
from zlib import crc32

from dlms_connector.cosem.values import DataType

# Blue Book, clause 4.3.2.2 (unit).
VOLT, AMPERE, HERTZ, WATT, VOLT_AMPERE, VAR = 35, 33, 44, 27, 28, 29
WATT_HOUR, VOLT_AMPERE_HOUR, VAR_HOUR, NO_UNIT = 30, 31, 32, 255

ENERGY_START_S = 1_704_067_200
"""1 January 2024: the counters started here, at a value that depends on the serial number."""


class Quantity(NamedTuple):
    """One measured quantity; its OBIS code is A=1, B=0 or 1, C.D.E, F=255."""

    key: str
    c: int
    d: int
    e: int
    unit: int
    scaler: int
    data_type: DataType


def _noise(seed: int, key: str, at_s: int, amplitude: int) -> int:
    """A number in -amplitude..amplitude that looks random and is not."""
    return crc32(b"%d" % at_s, crc32(key.encode(), seed)) % (2 * amplitude + 1) - amplitude


def _voltage(seed: int, phase: int, at_s: int) -> int:
    return 23_000 + _noise(seed, f"u{phase}", at_s, 600)


def _current(seed: int, phase: int, at_s: int) -> int:
    return 5_000 + _noise(seed, f"i{phase}", at_s, 4_000)


def _power_factor(seed: int, phase: int, at_s: int) -> int:
    return 950 + _noise(seed, f"pf{phase}", at_s, 50)


def _apparent(seed: int, phase: int, at_s: int) -> int:
    return _voltage(seed, phase, at_s) * _current(seed, phase, at_s) // 100_000


def _active(seed: int, phase: int, at_s: int) -> int:
    return _apparent(seed, phase, at_s) * _power_factor(seed, phase, at_s) // 1_000


def _reactive(seed: int, phase: int, at_s: int) -> int:
    return isqrt(_apparent(seed, phase, at_s) ** 2 - _active(seed, phase, at_s) ** 2)


def _total(of_phase: Callable[[int, int, int], int]) -> Callable[[int, int], int]:
    return lambda seed, at_s: sum(of_phase(seed, phase, at_s) for phase in (1, 2, 3))


def _phase(of_phase: Callable[[int, int, int], int], phase: int) -> Callable[[int, int], int]:
    return lambda seed, at_s: of_phase(seed, phase, at_s)


def _total_power_factor(seed: int, at_s: int) -> int:
    return _total(_active)(seed, at_s) * 1_000 // (_total(_apparent)(seed, at_s) or 1)


def _frequency(seed: int, at_s: int) -> int:
    return 5_000 + _noise(seed, "f", at_s, 10)


def _energy(key: str, mean_w: int) -> Callable[[int, int], int]:
    def value(seed: int, at_s: int) -> int:
        base = crc32(key.encode(), seed) % 10_000_000
        power_w = mean_w // 2 + crc32(b"rate" + key.encode(), seed) % mean_w
        return base + max(at_s - ENERGY_START_S, 0) * power_w // 3_600

    return value


def _demand(seed: int, at_s: int) -> int:
    return _total(_active)(seed, at_s - at_s % 900)


_Rule = Callable[[int, int], int]
_PhaseRule = Callable[[int, int, int], int]
_PHASE_CODES = {1: 20, 2: 40, 3: 60}

# key without phase, C without phase, unit, scaler, type, rule
_PER_PHASE: list[tuple[str, int, int, int, DataType, _PhaseRule]] = [
    ("voltage", 12, VOLT, -2, DataType.UINT32, _voltage),
    ("current", 11, AMPERE, -3, DataType.UINT32, _current),
    ("active_power", 1, WATT, 0, DataType.INT32, _active),
    ("reactive_power", 3, VAR, 0, DataType.INT32, _reactive),
    ("apparent_power", 9, VOLT_AMPERE, 0, DataType.UINT32, _apparent),
    ("power_factor", 13, NO_UNIT, -3, DataType.INT16, _power_factor),
]

# key, C.D.E, unit, scaler, type, rule
_WHOLE: list[tuple[str, str, int, int, DataType, _Rule]] = [
    ("frequency", "14.7.0", HERTZ, -2, DataType.UINT16, _frequency),
    ("active_power", "1.7.0", WATT, 0, DataType.INT32, _total(_active)),
    ("active_power_export", "2.7.0", WATT, 0, DataType.INT32, lambda seed, at_s: 0),
    ("reactive_power", "3.7.0", VAR, 0, DataType.INT32, _total(_reactive)),
    ("apparent_power", "9.7.0", VOLT_AMPERE, 0, DataType.UINT32, _total(_apparent)),
    ("power_factor", "13.7.0", NO_UNIT, -3, DataType.INT16, _total_power_factor),
    ("active_energy", "1.8.0", WATT_HOUR, 0, DataType.UINT32, _energy("1.8.0", 3_000)),
    ("active_energy_t1", "1.8.1", WATT_HOUR, 0, DataType.UINT32, _energy("1.8.1", 2_000)),
    ("active_energy_t2", "1.8.2", WATT_HOUR, 0, DataType.UINT32, _energy("1.8.2", 1_000)),
    ("active_energy_export", "2.8.0", WATT_HOUR, 0, DataType.UINT32, _energy("2.8.0", 300)),
    ("reactive_energy", "3.8.0", VAR_HOUR, 0, DataType.UINT32, _energy("3.8.0", 900)),
    ("reactive_energy_export", "4.8.0", VAR_HOUR, 0, DataType.UINT32, _energy("4.8.0", 90)),
    ("apparent_energy", "9.8.0", VOLT_AMPERE_HOUR, 1, DataType.UINT64, _energy("9.8.0", 3_200)),
    ("max_demand", "1.6.0", WATT, 0, DataType.UINT32, _demand),
    ("average_demand", "1.4.0", WATT, 0, DataType.UINT32, _demand),
]


def _catalogue() -> list[tuple[Quantity, _Rule]]:
    rules: list[tuple[Quantity, _Rule]] = []
    for key, c, unit, scaler, kind, of_phase in _PER_PHASE:
        for phase, offset in _PHASE_CODES.items():
            quantity = Quantity(f"{key}_l{phase}", c + offset, 7, 0, unit, scaler, kind)
            rules.append((quantity, _phase(of_phase, phase)))
    for key, code, unit, scaler, kind, rule in _WHOLE:
        c, d, e = (int(part) for part in code.split("."))
        rules.append((Quantity(key, c, d, e, unit, scaler, kind), rule))
    return rules


_RULES = _catalogue()
QUANTITIES: dict[str, Quantity] = {quantity.key: quantity for quantity, _ in _RULES}
_RULE_BY_KEY: dict[str, _Rule] = {quantity.key: rule for quantity, rule in _RULES}


def seed_of(serial: str) -> int:
    """The number that stands for a serial number in `raw_value_of_seed`."""
    return crc32(serial.encode())


def raw_value_of_seed(seed: int, key: str, at_s: int) -> int:
    """As `raw_value`, for a caller that reads one meter often."""
    return _RULE_BY_KEY[key](seed, at_s)


def raw_value(serial: str, key: str, at_s: int, slot_s: int = 1) -> int:
    """The number in the register before its scaler, at a moment (seconds since the epoch, UTC).

    Args:
        slot_s: the meter's value holds for that long; a slot begins at each multiple of it.

    Raises:
        KeyError: no such quantity.
    """
    return _RULE_BY_KEY[key](seed_of(serial), at_s - at_s % slot_s)


def scaled_value(serial: str, key: str, at_s: int, slot_s: int = 1) -> int | float:
    """The value in the quantity's unit, rounded to what the scaler can express."""
    scaler = QUANTITIES[key].scaler
    raw = raw_value(serial, key, at_s, slot_s)
    return round(raw / 10.0**-scaler, -scaler) if scaler < 0 else raw * int(10**scaler)
