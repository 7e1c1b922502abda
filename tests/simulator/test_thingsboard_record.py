"""ThingsBoard's casts, after its JsonConverter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.simulator.thingsboard_record import BadPayload, DeviceRecord, Json, cast_value, parse


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("1", 1),
        ("-7", -7),
        ("1.0", 1.0),
        ("1e3", 1000),
        ("1.5e3", 1500),
        ("1.5e-3", 0.0015),
        ("0.1", 0.1),
        ("0.30000000000000004", "0.30000000000000004"),
        ("1.2345678901234567", 1.2345678901234567),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("1e30", "1" + "0" * 30),
        ('"00123456"', 123456),
        ('"-3.50"', -3.5),
        ('"+5"', "+5"),
        ('"1e5"', "1e5"),
        ('"5."', "5."),
        ('" 5"', " 5"),
        ('"abc"', "abc"),
        ('""', ""),
        ("true", True),
        ('{"a": [1, null]}', '{"a":[1,null]}'),
        ("null", None),
    ],
)
def test_casts(text: str, stored: object) -> None:
    value = cast_value(parse(text.encode()))
    assert value == stored
    assert type(value) is type(stored)


@given(st.floats(-1e12, 1e12).map(lambda number: round(number, 6)))
def test_rounded_numbers_stay_numbers(number: float) -> None:
    assert cast_value(parse(repr(number).encode())) == number


@pytest.mark.parametrize(
    "entry", [[1], [{"ts": 1}], [{"ts": [], "values": {}}], [{"ts": "", "values": {}}], "x"]
)
def test_entries_that_end_the_session(entry: Json) -> None:
    with pytest.raises(BadPayload):
        DeviceRecord("m").add_telemetry(entry, 5, None)


def test_entries_without_ts_take_the_arrival() -> None:
    record = DeviceRecord("m")
    assert record.add_telemetry({"a": 1, "b": None}, 5, None) == 1
    assert record.series() == {"a": [(5, 1)]}
    record.add_telemetry([{"ts": "7", "values": {"a": 2}}], 9, None)
    assert record.series() == {"a": [(5, 1), (7, 2)]}
