"""Raw values as the operator asked for them: exact scaling, text, paths, types."""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.cosem.units import scale, unscale
from dlms_connector.cosem.values import BitString, Date, DateTime, Time, decode_all
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
