"""What an operator writes becomes exactly what the meter holds, or an error in words."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem.units import scale
from dlms_connector.cosem.values import DataType, decode_all, encode
from dlms_connector.errors import CommandError
from dlms_connector.meter.writing import data_type, to_typed


@given(st.integers(-(2**31), 2**31 - 1), st.integers(-6, 3))
def test_a_scaled_value_goes_back_to_the_same_raw_number(raw: int, exponent: int) -> None:
    shown = scale(raw, exponent)
    for value in (shown, str(shown), float(shown)):
        assert to_typed(value, DataType.INT32, exponent=exponent).value == raw


@pytest.mark.parametrize("kind", [DataType.FLOAT32, DataType.FLOAT64])
def test_a_number_of_floating_point_is_scaled_back_as_well(kind: DataType) -> None:
    assert to_typed(5000, kind, exponent=3).value == 5.0
    assert to_typed("231.5", kind, exponent=-1).value == 2315.0


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        ("42", DataType.UINT8, 42),
        (True, DataType.BOOLEAN, True),
        ("off", DataType.BOOLEAN, False),
        ("hex:0102FF", DataType.OCTET_STRING, b"\x01\x02\xff"),
        ("abc", DataType.OCTET_STRING, b"abc"),
        ("text:2026-01-01T00:00:00+00:00", DataType.OCTET_STRING, b"2026-01-01T00:00:00+00:00"),
        ("2026-01-31T12:00:00-05:00", DataType.OCTET_STRING, bytes.fromhex("07EA011F060C000000012C00")),
        ({"type": "uint16", "value": 7}, DataType.INT8, 7),
        ([{"type": "int8", "value": 1}, {"type": "null", "value": None}], DataType.STRUCTURE, (1, None)),
    ],
)
def test_values_and_types(value: Any, kind: DataType, expected: Any) -> None:
    assert decode_all(encode(to_typed(value, kind))) == expected


@pytest.mark.parametrize(
    ("value", "kind", "exponent"),
    [
        (256, DataType.UINT8, 0),
        ("1.234", DataType.INT32, -2),
        (Decimal("NaN"), DataType.INT32, 0),
        ("many", DataType.INT32, 0),
        (True, DataType.INT32, 0),
        (5, DataType.VISIBLE_STRING, 0),
        ("perhaps", DataType.BOOLEAN, 0),
        ("hex:0", DataType.OCTET_STRING, 0),
        ("2026-01-31T12:00:00", DataType.OCTET_STRING, 0),
        ([1, 2], DataType.ARRAY, 0),
        ("ab", DataType.STRUCTURE, 0),
        (None, DataType.FLOAT32, 0),
        (5, DataType.NULL, 0),
        ("1e400", DataType.FLOAT64, 0),
        ("1e40", DataType.FLOAT32, 0),
    ],
)
def test_what_does_not_fit_is_told_and_never_rounded(value: Any, kind: DataType, exponent: int) -> None:
    with pytest.raises(CommandError, match="does not fit"):
        to_typed(value, kind, exponent=exponent)


def test_names_of_types() -> None:
    assert data_type("double-long-unsigned") is data_type("UINT32") is DataType.UINT32
    assert data_type("octet-string") is DataType.OCTET_STRING
    with pytest.raises(CommandError, match='no data type "int33"'):
        data_type("int33")
