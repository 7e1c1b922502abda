"""A-XDR values: round trips, gurux_dlms as the other witness, and hostile bytes."""

import time
from typing import Any

import pytest
from gurux_dlms.GXByteBuffer import GXByteBuffer
from gurux_dlms.internal._GXCommon import _GXCommon
from gurux_dlms.internal._GXDataInfo import _GXDataInfo
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem.values import (
    BitString,
    DataType,
    DateTime,
    Delta,
    OddBcd,
    TypedValue,
    array,
    decode,
    decode_all,
    decode_elements,
    decode_typed,
    encode,
    structure,
)
from dlms_connector.errors import DecodeError

T = DataType
_INTEGERS = {
    T.INT8: (-(2**7), 2**7 - 1), T.UINT8: (0, 2**8 - 1), T.INT16: (-(2**15), 2**15 - 1), T.UINT16: (0, 2**16 - 1),
    T.INT32: (-(2**31), 2**31 - 1), T.UINT32: (0, 2**32 - 1), T.INT64: (-(2**63), 2**63 - 1),
    T.UINT64: (0, 2**64 - 1), T.ENUM: (0, 255), T.BCD: (0, 99),
    T.DELTA_INT8: (-(2**7), 2**7 - 1), T.DELTA_UINT32: (0, 2**32 - 1),
}  # fmt: skip

simple = st.one_of(
    *[
        st.integers(low, high).map(lambda number, tag=tag: TypedValue(tag, number))
        for tag, (low, high) in _INTEGERS.items()
    ],
    st.just(TypedValue(T.NULL, None)),
    st.booleans().map(lambda value: TypedValue(T.BOOLEAN, value)),
    st.binary(max_size=300).map(lambda value: TypedValue(T.OCTET_STRING, value)),
    st.text(st.characters(max_codepoint=255), max_size=40).map(
        lambda text: TypedValue(T.VISIBLE_STRING, text)
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(
        lambda text: TypedValue(T.UTF8_STRING, text)
    ),
    st.text("01", max_size=40).map(lambda bits: TypedValue(T.BIT_STRING, bits)),
    st.floats(allow_nan=False).map(lambda number: TypedValue(T.FLOAT64, number)),
    st.binary(min_size=12, max_size=12).map(lambda raw: TypedValue(T.DATE_TIME, DateTime(raw))),
)
typed = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6).map(array),
        st.lists(inner, max_size=6).map(lambda items: structure(*items)),
    ),
    max_leaves=30,
)


def plain(value: TypedValue) -> Any:
    if value.type is T.ARRAY:
        return [plain(item) for item in value.value]
    if value.type is T.STRUCTURE:
        return tuple(plain(item) for item in value.value)
    return Delta.of(value.value) if value.type in (T.DELTA_INT8, T.DELTA_UINT32) else value.value


@given(typed)
def test_round_trip(value: TypedValue) -> None:
    raw = encode(value)
    assert decode_all(raw) == plain(value)
    again, end = decode_typed(raw)
    assert end == len(raw)
    assert encode(again) == raw


@given(typed, st.binary(max_size=5))
def test_decoding_stops_at_the_value_s_end(value: TypedValue, rest: bytes) -> None:
    raw = encode(value)
    assert decode(b"\x99" + raw + rest, 1)[1] == len(raw) + 1


def gurux_value(raw: bytes) -> Any:
    value = _GXCommon.getData(None, GXByteBuffer(raw), _GXDataInfo())
    return bytes(value) if isinstance(value, bytearray) else value


@given(
    st.one_of(
        *[
            st.integers(low, high).map(lambda number, tag=tag: TypedValue(tag, number))
            for tag, (low, high) in _INTEGERS.items()
            if tag not in (T.BCD, T.DELTA_INT8, T.DELTA_UINT32)
        ],
        st.binary(min_size=1, max_size=200).map(lambda value: TypedValue(T.OCTET_STRING, value)),
        st.text("abcXYZ 019", min_size=1, max_size=40).map(lambda text: TypedValue(T.VISIBLE_STRING, text)),
    )
)
def test_gurux_reads_the_same(value: TypedValue) -> None:
    raw = encode(value)
    assert gurux_value(raw) == value.value == decode_all(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("00", None),
        ("0301", True),
        ("0f80", -128),
        ("120102", 258),
        ("1600", 0),
        ("174366199A", 230.1),
        ("18406CC33333333333", 230.1),
        ("0406A8", BitString("101010")),
        ("0400", BitString("")),
        ("0905000102037e", b"\x00\x01\x02\x03\x7e"),
        ("0A03414243", "ABC"),
        ("0C03e282ac", "\u20ac"),
        ("0D42", 42),
        ("0D99", 99),
        ("0D9A", OddBcd(b"\x9a")),
        ("0DA9", OddBcd(b"\xa9")),
        ("02020f02161e", (2, 30)),
        ("0102120001120002", [1, 2]),
        ("0100", []),
        ("1C ff", Delta.of(-1)),
        ("20 0102", Delta.of(258)),
        ("ff", None),
        # compact-array of long-unsigned: 3 values, and of structure {unsigned, octet-string}
        ("1312 06 000100020003", [1, 2, 3]),
        ("13 02 02 11 09 07 05 02 6162 06 01 63", [(5, b"ab"), (6, b"c")]),
    ],
)
def test_published_and_handmade_bytes(raw: str, value: Any) -> None:
    assert decode_all(bytes.fromhex(raw.replace(" ", ""))) == value


@pytest.mark.parametrize(
    "raw",
    [
        "", "06", "060000", "0905aabb", "09", "0984ffffffff00", "01840fffffff", "0184ffffffff", "02", "0201",
        "0185000000000100", "0180", "63", "04ff", "19aa", "0d", "13", "1301", "1312", "131205aabb",
        "130003000000", "1384", "1302ff",
    ],
)  # fmt: skip
def test_malformed_is_told_with_its_offset(raw: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_all(bytes.fromhex(raw))
    assert 0 <= caught.value.offset <= len(raw) // 2


@given(st.binary(max_size=200))
def test_anything_decodes_or_is_a_decode_error(data: bytes) -> None:
    for entry in (decode, decode_typed):
        try:
            entry(data)
        except DecodeError:
            pass


def test_nesting_and_claims_cost_nothing() -> None:
    began = time.process_time()
    for raw in (
        b"\x01\x01" * 5000,
        b"\x02\x84\xff\xff\xff\xff" * 100,
        b"\x13" + b"\x01\xff\xff" * 20 + b"\x11\x05aaaaa",
    ):
        with pytest.raises(DecodeError):
            decode(raw)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "value",
    [
        TypedValue(T.UINT8, 256),
        TypedValue(T.UINT8, -1),
        TypedValue(T.INT32, "5"),
        TypedValue(T.INT16, 1.5),
        TypedValue(T.BIT_STRING, "012"),
        TypedValue(T.VISIBLE_STRING, "\u20ac"),
        TypedValue(T.OCTET_STRING, 5),
        TypedValue(T.DATE_TIME, b"\0" * 11),
        TypedValue(T.BCD, 100),
        TypedValue(T.BCD, b"\x9a"),
        TypedValue(T.COMPACT_ARRAY, []),
    ],
)
def test_what_does_not_fit_is_a_value_error(value: TypedValue) -> None:
    with pytest.raises(ValueError):
        encode(value)


def test_a_bcd_that_is_none_is_written_back_as_it_came() -> None:
    raw = bytes.fromhex("0DFA")
    assert encode(decode_typed(raw)[0]) == raw


@pytest.mark.parametrize(
    ("raw", "values", "note"),
    [
        ("0102 1101 1102", [1, 2], ""),
        ("0100", [], ""),
        ("1312 06 000100020003", [1, 2, 3], ""),
        ("0103 1101 1102", [1, 2], "the array says 3 elements, 2 could be read; 0 bytes left"),
        ("0103 1101 120001 1200", [1, 1], "3 elements, 2 could be read; 2 bytes left (UINT16 is truncated"),
        ("0184ffffffff 1101", [1], "the array says 4294967295 elements, 1 could be read; 0 bytes left"),
        ("0102 1101 63 1102", [1], "the array says 2 elements, 1 could be read; 3 bytes left (unknown"),
        ("0101 1101 0000", [1], "the array says 1 elements, 1 could be read; 2 bytes left"),
        ("0100 02011105 02011106", [(5,), (6,)], "the array says 0 elements, 2 could be read; 0 bytes left"),
        ("0100 02011105 0203", [(5,)], "the array says 0 elements, 1 could be read; 2 bytes left"),
        ("1312 06 000100020003 aa", [1, 2, 3], "1 bytes behind the array are not read"),
    ],
)
def test_an_array_gives_what_can_be_read_of_it(raw: str, values: list[Any], note: str) -> None:
    found, said = decode_elements(bytes.fromhex(raw.replace(" ", "")))
    assert found == values
    assert note in said
    assert bool(note) == bool(said)


@pytest.mark.parametrize("raw", ["", "1105", "0201 1105", "0184ff", "01"])
def test_what_is_no_array_is_told(raw: str) -> None:
    with pytest.raises(DecodeError):
        decode_elements(bytes.fromhex(raw.replace(" ", "")))


@given(st.binary(max_size=200))
def test_elements_of_anything_end(data: bytes) -> None:
    try:
        values, _ = decode_elements(b"\x01" + data)
    except DecodeError:
        return
    assert len(values) <= len(data)
