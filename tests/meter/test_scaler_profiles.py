"""Scalers from the scaler profiles of IS 15959: buffers made by hand, and meters that tell them there alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dlms_connector.cosem.values import decode_all
from dlms_connector.meter import operations
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import row_readings
from dlms_connector.meter.scaler_profiles import SCALER_PROFILES, scalers_of
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import SimulatedFleet
from dlms_connector.simulator.quantities import raw_value
from tests.support.readers import Bench, device_settings, opened, read_all
from tests.support.simulated import SERIAL, one_meter

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


# read from a meter

KEYS = {"voltage_l1": Obis(1, 0, 32, 7, 0), "active_energy": Obis(1, 0, 1, 8, 0)}
RAW = {"voltage_l1": bytes.fromhex("12094C"), "active_energy": bytes.fromhex("0603D52722")}
RIGHT = {"voltage_l1": 238.0, "active_energy": 64300.834}
COLUMNS = "0102" + "".join(f"020412000309060100{part}FF0F03120000" for part in ("200700", "010800"))
ROW = "01010202 02020FFF1623 02020FFD161E".replace(" ", "")


@contextmanager
def indian_meter(columns: str, row: str, **entry: Any) -> Iterator[tuple[SimulatedFleet, MeterSession]]:
    """A meter that refuses the scalers of its registers, with these bytes in its scaler profile."""
    with one_meter() as fleet:
        for key, obis in KEYS.items():
            fleet.override(SERIAL, 3, obis, 2, RAW[key])
            fleet.refuse(SERIAL, 3, obis, 3, 3)
        fleet.override(SERIAL, 7, SCALER_PROFILES[0], 3, bytes.fromhex(columns))
        fleet.override(SERIAL, 7, SCALER_PROFILES[0], 2, bytes.fromhex(row))
        with opened(Bench().session(device_settings(fleet, SERIAL, timeseries=list(KEYS), **entry))) as made:
            yield fleet, made


def values(session: MeterSession) -> dict[str, Any]:
    return {key: reading.value for key, reading in read_all(session).items()}


@pytest.mark.parametrize("lists", [True, False])
def test_a_meter_without_readable_scalers_is_read_by_its_scaler_profile(lists: bool) -> None:
    with indian_meter(COLUMNS, ROW, client={"useLists": lists}) as (fleet, session):
        readings = read_all(session)
        assert {key: reading.value for key, reading in readings.items()} == RIGHT
        assert {key: reading.unit for key, reading in readings.items()} == {
            "voltage_l1": "V",
            "active_energy": "Wh",
        }
        whole = fleet.counters(SERIAL)
        assert values(session) == RIGHT
        after = fleet.counters(SERIAL)
        asked = after.gets + after.get_lists - whole.gets - whole.get_lists
        assert asked == (1 if lists else 2), "the scaler profile is asked for once"
        definition = operations.object_definition(session.device, {"obis": "1-0:1.8.0"})
        assert operations.read(session, definition) == RIGHT["active_energy"]


def test_rows_of_a_load_profile_take_their_scalers_from_the_scaler_profile() -> None:
    with indian_meter(COLUMNS, ROW, profiles=[{"obis": "1-0:99.1.0", "columns": {"1-0:1.8.0": "e"}}]) as (
        fleet,
        session,
    ):
        for obis in ("1-0:2.8.0", "1-0:3.8.0", "1-0:4.8.0"):
            fleet.override(SERIAL, 3, obis, 3, bytes.fromhex("02020F00161E"))
        device = session.device
        reader = ProfileReader(device, device.profiles[0], session.state)
        now_ms = time.time_ns() // 1_000_000
        rows = reader.rows(session, Window(now_ms - 3_600_000, now_ms))
        readings = [item for row in rows for item in row_readings(row, reader.learn(session))]
        assert len(readings) == len(rows) >= 3
        for reading in readings:
            raw = raw_value(SERIAL, "active_energy", reading.ts_ms // 1000)
            assert float(str(reading.value)) == raw / 1000


ODD: dict[str, tuple[str, str, set[str]]] = {
    "no columns": ("0100", ROW, set()),
    "no row": (COLUMNS, "0100", set()),
    "null": ("00", "00", set()),
    "a number": ("120001", "120001", set()),
    "null in the row": (COLUMNS, "01010202 00 02020FFD161E", {"active_energy"}),
    "a short row": (COLUMNS, "01010201 02020FFF1623", set()),
    "an exponent that is none": (COLUMNS, "01010202 02020F641623 02020FFD161E", {"active_energy"}),
    "a text for a scaler": (COLUMNS, "01010202 0A022D31 02020FFD161E", {"active_energy"}),
    "columns of attribute 2": (COLUMNS.replace("0F03", "0F02"), ROW, set()),
    "cut off": (COLUMNS, "01010202 02020FFF", set()),
    "columns cut off": (COLUMNS[:-20], ROW, set()),
    "bytes behind": (COLUMNS, ROW + "0000", set(KEYS)),
}


@pytest.mark.parametrize("case", ODD)
def test_a_scaler_profile_that_is_odd_makes_no_wrong_value(case: str) -> None:
    columns, row, known = ODD[case]
    with indian_meter(columns, row) as (_, session):
        for _ in range(3):
            got = values(session)
            assert {key: RIGHT[key] for key in got} == got
            assert set(got) <= known
        if case != "bytes behind":
            assert set(got) == known


@pytest.mark.parametrize(("attribute", "code"), [(2, 1), (2, 2), (2, 250), (3, 3), (3, 250)])
def test_a_refused_scaler_profile_holds_values_back_until_it_is_read(attribute: int, code: int) -> None:
    with indian_meter(COLUMNS, ROW) as (fleet, session):
        fleet.refuse(SERIAL, 7, SCALER_PROFILES[0], attribute, code, times=1)
        assert values(session) == {}
        assert values(session) == RIGHT
