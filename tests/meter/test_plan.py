"""What a plan prepares: encoded requests shared by meters that read the same, readings filled in one step."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.config.loader import load_document
from dlms_connector.meter.plan import Batch, ReadPlan
from dlms_connector.meter.reading import Reading

TS_MS = 1_700_000_000_000


def plan_of(*entries: dict[str, Any]) -> ReadPlan:
    document = {
        "devices": [{"deviceName": "m", "transport": {"host": "127.0.0.1"}, "timeseries": list(entries)}]
    }
    configuration = load_document(document)
    assert not configuration.errors, configuration.errors
    return ReadPlan(configuration.devices[0])


def list_of(plan: ReadPlan) -> Batch:
    (batch,) = plan.due(plan.periods_s, 0.0)
    return batch


def registers(*exponents: int) -> Batch:
    plan = plan_of(*({"key": f"r{index}", "obis": f"1-0:{index + 1}.8.0"} for index in range(len(exponents))))
    for register, exponent in zip(plan.registers, exponents, strict=True):
        register.learn(exponent, f"unit {register.key}")
    return list_of(plan)


@given(st.lists(st.tuples(st.integers(-30, 6), st.integers(-(2**64), 2**64)), min_size=2, max_size=12))
def test_readings_filled_in_one_step_are_those_made_one_by_one(pairs: list[tuple[int, int]]) -> None:
    batch = registers(*(exponent for exponent, _ in pairs))
    results = [raw for _, raw in pairs]
    expected = [
        Reading(register.key, register.present(raw), register.unit, TS_MS)
        for register, raw in zip(batch.registers, results, strict=True)
    ]
    for reading, (exponent, raw) in zip(expected, pairs, strict=True):
        value = reading.value
        assert float(str(value)) == float(Decimal(raw).scaleb(exponent))
    filled = batch.columns.fill(results, TS_MS) if batch.columns is not None else None
    if filled is not None:
        assert filled == expected
        assert [type(reading.value) for reading in filled] == [type(reading.value) for reading in expected]
        assert all(isinstance(reading, Reading) for reading in filled)


@pytest.mark.parametrize("odd", [True, 1.5, "text", b"octets", None, 2**53, -(2**53), [1]])
def test_one_result_that_is_no_exact_integer_takes_the_long_way(odd: Any) -> None:
    batch = registers(-2, -2, 0)
    assert batch.columns is not None
    assert batch.columns.fill([1, odd, 3], TS_MS) is None
    assert batch.columns.fill([1, 2, 3], TS_MS) is not None


@pytest.mark.parametrize(
    "more", [{"multiplier": 0.5}, {"round": 1}, {"type": "text"}, {"path": [0]}, {"scaler": 30}]
)
def test_a_register_with_more_than_a_scaler_takes_the_long_way(more: dict[str, Any]) -> None:
    plan = plan_of({"key": "a", "obis": "1-0:1.8.0"}, {"key": "b", "obis": "1-0:2.8.0", **more})
    for register in plan.registers:
        register.learn(-1, "Wh")
    assert list_of(plan).columns is None


def test_columns_wait_for_the_last_scaler() -> None:
    plan = plan_of({"key": "a", "obis": "1-0:1.8.0"}, {"key": "b", "obis": "1-0:2.8.0"})
    batch = list_of(plan)
    plan.registers[0].learn(-1, "Wh")
    assert batch.columns is None
    plan.registers[1].learn(-3, "kWh")
    assert batch.columns is not None
    assert batch.columns.fill([10, 10], TS_MS) == [
        Reading("a", 1.0, "Wh", TS_MS),
        Reading("b", 0.01, "kWh", TS_MS),
    ]


def test_meters_that_read_the_same_share_what_is_encoded() -> None:
    first, second = registers(-1, -2), registers(-1, -2)
    assert first.list_request is second.list_request
    assert first.columns is second.columns
