"""Raw values as the operator asked for them: exact scaling, text, paths, types."""

from __future__ import annotations

import json
import math
import struct
import time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cli.output import cell, to_json
from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.cosem.units import parse_scaler_unit, scale, unscale
from dlms_connector.cosem.values import BitString, Date, DateTime, OddBcd, Time, decode_all
from dlms_connector.meter.reading import apply_definition, to_plain


def definition(**more: Any) -> ObjectDefinition:
    return ObjectDefinition.model_validate({"obis": "1-0:1.8.0", **more})


@given(st.integers(-(2**63), 2**64 - 1), st.integers(-20, 20))
def test_scaling_is_exact_and_reversible(raw: int, exponent: int) -> None:
    scaled = scale(raw, exponent)
    assert Decimal(scaled) == Decimal(raw).scaleb(exponent)
    assert unscale(Decimal(scaled), exponent) == raw


@pytest.mark.parametrize(
    ("raw", "more", "exponent", "expected"),
    [
        (23012, {}, -2, Decimal("230.12")),
        (5, {}, 3, 5000),
        (7, {}, 0, 7),
        (23012, {"scaler": -1}, -2, Decimal("2301.2")),
        (23012, {"scaler": None}, -2, 23012),
        (1234, {"multiplier": "0.001"}, 0, Decimal("1.234")),
        (1234, {"multiplier": 0.1}, 0, Decimal("123.4")),
        (123456, {"round": 1}, -3, Decimal("123.5")),
        (True, {}, -2, True),
        ("00123456", {}, -2, "00123456"),
        ("00123456", {"type": "number"}, 0, Decimal("123456")),
        (42, {"type": "text"}, 0, "42"),
        (1, {"type": "boolean"}, 0, True),
        (0, {"type": "boolean"}, 0, False),
        ((1, [2, 3]), {"path": [1, 0]}, -1, Decimal("0.2")),
        ((1, [2, 3]), {"path": [5]}, -1, None),
        (2**64 - 1, {}, -3, Decimal("18446744073709551.615")),
        (-(2**63), {}, 2, -(2**63) * 100),
        (1e300, {"round": 2}, 0, Decimal("1E+300")),
        (b"1e999999", {"type": "number"}, 0, "1e999999"),
        (b"1e64", {"type": "number"}, 0, Decimal("1e64")),
        (b"1e65", {"type": "number"}, 0, "1e65"),
        (b"-12.50", {"type": "number"}, 0, Decimal("-12.50")),
        (b"9" * 40, {"type": "number"}, 0, Decimal("9" * 40)),
        (b"9" * 41, {"type": "number"}, 0, "9" * 41),
        ("NaN", {"type": "number"}, 0, "NaN"),
        ("1_000", {"type": "number"}, 0, "1_000"),
        (OddBcd(b"J"), {}, -1, "4A"),
        (b"", {}, 0, ""),
        (b"ABC123\x00\x00", {}, 0, "ABC123"),
        (b"\x01\x02\xff", {}, 0, "0102FF"),
        (b"\x01\x00\x01\x08\x00\xff", {}, 0, "1-0:1.8.0"),
        ([1, (b"\x00\x01", None)], {}, 0, [1, ["0001", None]]),
    ],
)
def test_definitions(raw: Any, more: dict[str, Any], exponent: int, expected: Any) -> None:
    value = apply_definition(raw, definition(**more), exponent)
    assert value == expected
    assert type(value) is type(expected)


def test_moments_are_told_as_text() -> None:
    raw = bytes.fromhex("07E90701020C000000FF8880")
    assert to_plain(DateTime(raw)) == "2025-07-01T12:00:00+02:00"
    assert to_plain(raw) == "2025-07-01T12:00:00+02:00"
    assert to_plain(Date(raw[:5])) == "2025-07-01"
    assert to_plain(Time(raw[5:9])) == "12:00:00"
    assert to_plain(BitString("0101")) == "0101"


def test_twelve_octets_that_are_no_moment_stay_octets() -> None:
    assert to_plain(b"ABCDEFGHIJKL") == "ABCDEFGHIJKL"
    assert to_plain(b"\xff\xfe" * 6) == "FFFE" * 6


@given(st.floats(-(2.0**126), 2.0**126, width=32))
def test_float32_has_no_binary_noise(number: float) -> None:
    raw = struct.pack(">f", number)
    value = decode_all(b"\x17" + raw)
    assert isinstance(value, float)
    assert struct.pack(">f", value) == raw
    assert len(repr(value).lstrip("-").replace(".", "").split("e")[0].strip("0")) <= 9


@pytest.mark.parametrize("raw", ["177FC00000", "17FF800000", "187FF0000000000000"])
@pytest.mark.parametrize("more", [{}, {"round": 1, "multiplier": 0}, {"scaler": -1}, {"type": "text"}])
def test_what_is_no_number_stays_a_float_and_becomes_null(raw: str, more: dict[str, Any]) -> None:
    value = apply_definition(decode_all(bytes.fromhex(raw)), definition(**more), -3)
    assert isinstance(value, float)
    assert not math.isfinite(value)
    assert json.loads(to_json({"value": value, "all": [value, 1]})) == {"value": None, "all": [None, 1]}
    assert cell([value]) == "[null]"


def test_json_keeps_finite_numbers_exact() -> None:
    document = {"a": Decimal("18446744073709551.615"), "b": (1.5, 2**64 - 1), "c": Decimal("NaN")}
    assert json.loads(to_json(document), parse_float=Decimal) == {
        "a": Decimal("18446744073709551.615"),
        "b": [Decimal("1.5"), 2**64 - 1],
        "c": None,
    }
    assert "1E+400" in to_json([Decimal("1e400")])


@pytest.mark.parametrize("value", [Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity")])
def test_scaling_leaves_what_is_no_number(value: Decimal) -> None:
    assert scale(value, -2) is value
    with pytest.raises(ValueError, match="no number"):
        unscale(value, -2)


@pytest.mark.parametrize(
    ("value", "exponent"),
    [
        (1, 65),
        (1, -65),
        (0, 253),
        (10, 63),
        pytest.param(1 << 4_000_000, -1, id="long"),
        (Decimal("1e70"), -1),
        (Decimal("1e-70"), 1),
        (Decimal("1e999999"), -64),
    ],
)
def test_scaling_has_bounds_and_is_never_slow(value: Any, exponent: int) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"10\^"):
        scale(value, exponent)
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize(
    ("value", "exponent", "expected"),
    [
        (1, 63, 10**63),
        (1, -64, Decimal("1e-64")),
        (0, 64, 0),
        (2**64 - 1, 41, (2**64 - 1) * 10**41),
        (10**70, -20, Decimal("1e50")),
        (Decimal("1e-70"), 10, Decimal("1e-60")),
    ],
)
def test_scaling_at_the_bounds(value: Any, exponent: int, expected: Any) -> None:
    assert scale(value, exponent) == expected


def test_writing_has_the_same_bounds() -> None:
    with pytest.raises(ValueError, match="not between"):
        unscale(Decimal("1e999999"), 0)
    assert unscale(Decimal("0E+999999"), -2) == 0
    assert unscale(Decimal("12.34"), -2) == 1234


def test_a_scaler_out_of_all_bounds_gives_no_number() -> None:
    value = apply_definition(1234, definition(scaler=253), 0)
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((-3, 30), (-3, "Wh", "")),
        ((0, 255), (0, "", "")),
        ((127, 30), None),
        ((32, 30), (32, "Wh", "")),
        ((33, 30), None),
        ((253, 30), (-3, "Wh", "the scaler came as an unsigned number (253), taken as -3")),
        ((224, 30), (-32, "Wh", "the scaler came as an unsigned number (224), taken as -32")),
        ((223, 30), None),
        ((256, 30), None),
        ((-3, 77), (-3, "unit 77", "")),
        ((-3, 256), None),
        ((-3, -1), None),
        ((True, 30), None),
        ((-3, False), None),
        ((-3, 30, 1), None),
        ((-3,), None),
        ([-3, 30], None),
        (None, None),
        (("a", 30), None),
        ((-3.0, 30), None),
    ],
)
def test_scaler_units_as_meters_send_them(value: Any, expected: Any) -> None:
    assert parse_scaler_unit(value) == expected
