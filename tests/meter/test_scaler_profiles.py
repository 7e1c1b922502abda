"""Scalers from the scaler profiles of IS 15959, with buffers made by hand."""

from typing import Any

import pytest

from dlms_connector.cosem.values import decode_all
from dlms_connector.meter.scaler_profiles import SCALER_PROFILES, scalers_of
from dlms_connector.obis import Obis

VOLTAGE = Obis(1, 0, 12, 27, 0)
ENERGY = Obis(1, 0, 1, 29, 0)
DEMAND = Obis(1, 0, 1, 4, 0)


def column(obis: Obis, class_id: int = 3, attribute: int = 3, index: int = 0) -> tuple[Any, ...]:
    return (class_id, obis.to_bytes(), attribute, index)


def test_the_bytes_of_a_block_load_scaler_profile() -> None:
    columns = decode_all(
        bytes.fromhex(
            "01020204 120003 0906 01000C1B00FF 0F03 1200000204 120003 0906 0100011D00FF 0F03 120000".replace(
                " ", ""
            )
        )
    )
    buffer = decode_all(bytes.fromhex("0101 0202 0202 0FFE 1623 0202 0F01 161E".replace(" ", "")))
    assert scalers_of(columns, buffer) == {(3, VOLTAGE): (-2, "V", ""), (3, ENERGY): (1, "Wh", "")}


def test_columns_that_are_no_scaler_unit_are_left_out() -> None:
    columns = [
        column(Obis(0, 0, 1, 0, 0), 8, 2),
        column(VOLTAGE, attribute=2),
        column(VOLTAGE, index=1),
        column(DEMAND, 5, 3),
        column(DEMAND, 5, 4),
        column(ENERGY, 4),
    ]
    buffer = [(b"\0" * 12, (-1, 35), (-1, 35), (-1, 27), (-3, 27), (0, 30))]
    assert scalers_of(columns, buffer) == {(5, DEMAND): (-3, "W", ""), (4, ENERGY): (0, "Wh", "")}


def test_an_unusable_value_costs_its_column_alone() -> None:
    columns = [column(VOLTAGE), column(ENERGY), column(DEMAND, 5, 4)]
    scalers = scalers_of(columns, [(None, (253, 30), (100, 27)), ((0, 35), (0, 30), (0, 27))])
    assert list(scalers) == [(3, ENERGY)]
    assert scalers[3, ENERGY][:2] == (-3, "Wh")
    assert "253" in scalers[3, ENERGY][2]


def test_a_row_of_another_length_tells_nothing() -> None:
    """Nobody knows which column is missing: the scaler may be another register's."""
    assert scalers_of([column(VOLTAGE), column(ENERGY)], [((-1, 35),)]) == {}


@pytest.mark.parametrize(
    "columns", [None, 5, [], [None, (3,), ("a", b"", 3, 0), (3, b"short", 3, 0), (1, bytes(6), None, 0)]]
)
@pytest.mark.parametrize("buffer", [None, 5, [], [5], [()], [((-1, 35),) * 5]])
def test_anything_else_gives_no_scaler(columns: Any, buffer: Any) -> None:
    assert scalers_of(columns, buffer) == {}


def test_the_profiles_of_the_standard() -> None:
    assert [str(obis) for obis in SCALER_PROFILES] == [f"1-0:94.91.{number}" for number in (3, 4, 5, 6)]
