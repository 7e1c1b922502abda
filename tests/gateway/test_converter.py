"""Nothing leaves that ThingsBoard cannot store, and what it would change is protected."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orjson import dumps, loads
from thingsboard_gateway.gateway.constants import ReportStrategy

from dlms_connector.config.loader import load_document
from dlms_connector.gateway.converter import MAX_TEXT_BYTES, UplinkConverter, to_telemetry
from dlms_connector.gateway.rpc import json_safe
from dlms_connector.meter.reading import Reading
from dlms_connector.simulator.thingsboard_record import cast_value, parse

plain = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**64), 2**65),
        st.floats(),
        st.decimals(allow_nan=True, allow_infinity=True),
        st.text(st.characters(codec=None)),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(plain)
def test_whatever_a_meter_says_the_gateway_can_write(value: Any) -> None:
    sent = to_telemetry(value)
    assert sent is None or isinstance(sent, (str, bool, int, float))
    if sent is not None:
        assert cast_value(parse(dumps(sent))) is not None


@given(st.from_regex(r"-?[0-9]{1,20}(\.[0-9]{1,20})?", fullmatch=True))
def test_digits_of_an_identifier_stay_text_at_the_server(text: str) -> None:
    stored = cast_value(parse(dumps(to_telemetry(text))))
    assert isinstance(stored, str)
    assert stored.rstrip() == text


@given(st.integers(-(10**12), 10**12), st.integers(-6, 0))
def test_scaled_numbers_arrive_as_they_were_read(raw: int, exponent: int) -> None:
    value = Decimal(raw).scaleb(exponent)
    stored = cast_value(parse(dumps(to_telemetry(value))))
    assert isinstance(stored, (int, float))
    assert Decimal(repr(stored)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), Decimal("NaN"), None])
def test_what_is_no_value_is_not_sent(value: Any) -> None:
    assert to_telemetry(value) is None


NUMBERS = [
    (2**63 - 1, 2**63 - 1),
    (-(2**63), -(2**63)),
    (2**63, "9223372036854775808"),
    (2**64 - 1, "18446744073709551615"),
    (-(2**63) - 1, "-9223372036854775809"),
    (Decimal(2**64 - 1).scaleb(1), "184467440737095516150"),
    (Decimal(2**63 * 10 + 5).scaleb(-1), "9223372036854775808.5 "),
    (1e20, "100000000000000000000"),
    (Decimal(5).scaleb(-16), 5e-16),
    (Decimal(5).scaleb(-20), "0.00000000000000000005 "),
    (Decimal(-5).scaleb(-20), "-0.00000000000000000005 "),
    (Decimal(12345678).scaleb(-17), "0.00000000012345678 "),
    (Decimal(123456789).scaleb(-17), 1.2345679e-09),
    (0.1 + 0.2, 0.3),
    (9.99999993922529e-09, 9.9999999e-09),  # 1e-8 in single precision
    (5e-324, f"{Decimal('5e-324'):f} "),
    (Decimal("0E-20"), 0.0),
]


@pytest.mark.parametrize(("value", "sent"), NUMBERS)
def test_a_number_arrives_as_it_is_or_as_text_of_all_its_digits(value: Any, sent: Any) -> None:
    assert to_telemetry(value) == sent
    assert cast_value(parse(dumps(to_telemetry(value)))) == sent


@given(st.integers(-(2**70), 2**70), st.integers(-25, 25))
def test_no_scaler_makes_a_number_of_another_size(raw: int, exponent: int) -> None:
    value = Decimal(raw).scaleb(exponent)
    stored = cast_value(parse(dumps(to_telemetry(value))))
    if isinstance(stored, str):
        assert Decimal(stored.rstrip()) == value
    else:
        assert abs(Decimal(repr(stored)) - value) <= abs(value) * Decimal("1e-7")


@given(st.integers(-(2**70), 2**70), st.integers(-25, 25))
def test_an_answer_tells_all_digits(raw: int, exponent: int) -> None:
    value = Decimal(raw).scaleb(exponent)
    told = json_safe({"value": [value]})["value"][0]
    assert Decimal(told if isinstance(told, str) else repr(told)) == value
    assert loads(dumps(told)) == told


def converter(dropped: list[str], **more: Any) -> UplinkConverter:
    document = {
        "devices": [
            {
                "deviceName": "meter",
                "deviceType": "Kind",
                "transport": {"type": "tcp", "host": "h"},
                "timeseries": [
                    "voltage_l1",
                    {"key": "energy", "obis": "1-0:1.8.0", "reportStrategy": {"type": "ON_CHANGE"}},
                ],
                **more,
            }
        ]
    }
    configuration = load_document(document)
    assert not configuration.problems
    return UplinkConverter(configuration.devices[0], lambda key, reason: dropped.append(f"{key}: {reason}"))


def test_one_entry_a_moment_and_strategies_per_key() -> None:
    made = converter([], reportStrategy={"type": "ON_REPORT_PERIOD", "reportPeriod": 5000})
    readings = [
        Reading("voltage_l1", Decimal("230.1"), "V", 1000),
        Reading("energy", 5, "Wh", 1000),
        Reading("voltage_l1", Decimal("230.2"), "V", 2000),
    ]
    data = made.convert(readings, [Reading("serial", "7", "", 1000)], 3000)
    assert data is not None
    assert (data.device_name, data.device_type) == ("meter", "Kind")
    assert [entry.ts for entry in data.telemetry] == [1000, 2000]
    strategies = {key.key: key.report_strategy.report_strategy for key in data.telemetry[0].values}
    assert strategies == {"voltage_l1": ReportStrategy.ON_REPORT_PERIOD, "energy": ReportStrategy.ON_CHANGE}
    assert {key.key: value for key, value in data.attributes.values.items()} == {"serial": "7 "}


def test_rows_of_a_profile_are_always_received() -> None:
    made = converter([], reportStrategy={"type": "ON_CHANGE"})
    data = made.convert_rows(
        [Reading("energy", 5, "", 900_000), Reading("energy", 5, "", 1_800_000)], 2_000_000
    )
    assert data is not None
    assert [entry.ts for entry in data.telemetry] == [900_000, 1_800_000]
    for entry in data.telemetry:
        (key,) = entry.values
        assert key.report_strategy.report_strategy is ReportStrategy.ON_RECEIVED


def test_a_poison_pill_is_dropped_and_told() -> None:
    dropped: list[str] = []
    made = converter(dropped)
    big = Reading("log", "x" * (MAX_TEXT_BYTES + 1), "", 1)
    assert made.convert([big], [], 1) is None
    assert dropped == [f"log: its text is longer than {MAX_TEXT_BYTES} bytes"]
