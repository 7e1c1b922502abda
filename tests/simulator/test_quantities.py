"""The measured values are a pure function of serial number, quantity and time."""

from __future__ import annotations

from math import hypot

from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.simulator.quantities import QUANTITIES, raw_value, scaled_value

MOMENT_S = 1_790_000_000
serials = st.text("0123456789", min_size=1, max_size=12)
moments = st.integers(1_710_000_000, 2_000_000_000)


def test_known_values_stay_what_they_are() -> None:
    """Anybody who recorded a value must find it again."""
    assert raw_value("00000001", "voltage_l1", MOMENT_S) == 22_470
    assert scaled_value("00000001", "voltage_l1", MOMENT_S) == 224.7
    assert raw_value("00000001", "voltage_l1", MOMENT_S + 59, slot_s=60) == raw_value(
        "00000001", "voltage_l1", (MOMENT_S + 59) // 60 * 60
    )


@given(serials, moments)
def test_values_are_plausible_and_fit_their_types(serial: str, at_s: int) -> None:
    for key, quantity in QUANTITIES.items():
        raw = raw_value(serial, key, at_s)
        limit = 2**15 if quantity.data_type.name.endswith("16") else 2**31
        assert 0 <= raw < limit, key
    value = {key: scaled_value(serial, key, at_s) for key in QUANTITIES}
    for phase in ("_l1", "_l2", "_l3", ""):
        active, reactive = value[f"active_power{phase}"], value[f"reactive_power{phase}"]
        assert abs(hypot(active, reactive) - value[f"apparent_power{phase}"]) <= 0.05 * active + 10
    assert 224 <= value["voltage_l2"] <= 236


@given(serials, moments, st.integers(1, 10_000_000))
def test_energies_only_grow(serial: str, at_s: int, later_s: int) -> None:
    for key in QUANTITIES:
        if "energy" in key:
            assert raw_value(serial, key, at_s) <= raw_value(serial, key, at_s + later_s)


def test_meters_differ() -> None:
    assert len({raw_value(f"{number:08d}", "active_energy", MOMENT_S) for number in range(200)}) == 200
