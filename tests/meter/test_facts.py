"""What is not confirmed is not believed: scalers, lists, writes."""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import InvalidAnswer, LinkError, StateError
from dlms_connector.meter import operations
from dlms_connector.meter.batch_result import BatchResult
from dlms_connector.meter.book import Book
from dlms_connector.meter.facts import REFUSED_OVER_MS, ScalerUnknown
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.state import StateStore
from tests.support.fact_meter import FactChannel, FactMeter

NOW_MS = 1_790_000_000_000
ENERGY = Obis(1, 0, 1, 8, 0)
CLOCK = AttributeRef(8, Obis(0, 0, 1, 0, 0), 2)
VALUE, SCALER = AttributeRef(3, ENERGY, 2), AttributeRef(3, ENERGY, 3)
WH = 30


def scaler(exponent: int, unit: int = WH, tag: int = 0x0F) -> bytes:
    return bytes((2, 2, tag, exponent & 0xFF, 0x16, unit))


class Bench:
    """A session to a FactMeter, with a wall clock that the test moves."""

    def __init__(self, meter: FactMeter, state: StateStore | None = None, **entry: Any) -> None:
        document = {
            "deviceName": "m",
            "transport": {"host": "h"},
            "timeseries": [{"key": "energy", "obis": "1-0:1.8.0"}],
            **entry,
        }
        loaded = load_document({"devices": [document]}, environment={"P": "12345678"})
        assert not loaded.errors, loaded.errors
        self.meter, self.now_ms, self.events = meter, NOW_MS, list[str]()
        self.state = state or StateStore(None)
        self.session = MeterSession(
            loaded.devices[0],
            lambda _: FactChannel(meter),
            self.state,
            on_event=self.events.append,
            wall_ms=lambda: self.now_ms,
        )
        self.book = Book()

    def cycle(self) -> BatchResult:
        """One poll of everything; an association is opened where there is none. Raises LinkError."""
        whole = BatchResult([])
        batches = self.session.plan.due(self.session.plan.periods_s, 0.0)
        left = sum(len(batch.registers) for batch in batches)
        self.book.asked += left
        try:
            for batch in batches:
                if not self.session.is_open:
                    self.session.open()
                result = self.session.read_batch(batch)
                left -= self.book.count(result, taken=True)
                whole.readings += result.readings
                for mine, theirs in (
                    (whole.refused, result.refused),
                    (whole.held, result.held),
                    (whole.failed, result.failed),
                ):
                    mine.update(theirs)
        finally:
            self.book.failed += left
        assert self.book.balances
        return whole

    def values(self) -> dict[str, Any]:
        return {reading.key: reading.value for reading in self.cycle().readings}


def refusing(codes: dict[AttributeRef, list[int]]) -> Any:
    """Refuses each attribute with its codes one after the other, then answers."""
    return lambda ref: codes[ref].pop(0) if codes.get(ref) else 0


def energy_meter(**more: Any) -> FactMeter:
    return FactMeter({VALUE: bytes.fromhex("0603d52722"), SCALER: scaler(-3)}, **more)


# part A


@pytest.mark.parametrize("code", [1, 2, 3, 4, 9, 11, 250])
def test_a_refused_scaler_holds_the_value_back_until_it_is_known(code: int) -> None:
    bench = Bench(energy_meter(refuse=refusing({SCALER: [code]})))
    held = bench.cycle()
    assert not held.readings
    assert isinstance(held.held["energy"], ScalerUnknown)
    assert bench.values() == {"energy": 64300.834}
    assert (bench.book.asked, bench.book.delivered, bench.book.held) == (2, 1, 1)


@pytest.mark.parametrize("code", [2, 250])
def test_an_rpc_read_says_why_and_the_next_is_right(code: int) -> None:
    bench = Bench(energy_meter(refuse=refusing({SCALER: [code, code]})))
    bench.session.open()
    definition = operations.object_definition(bench.session.device, {"obis": "1-0:1.8.0"})
    with pytest.raises(ScalerUnknown, match="scaler"):
        operations.read(bench.session, definition)
    assert operations.read(bench.session, definition) == 64300.834


@pytest.mark.parametrize("code", [2, 3, 250])
def test_nothing_is_written_while_the_scaler_is_not_told(code: int) -> None:
    meter = FactMeter(
        {VALUE: bytes.fromhex("120000"), SCALER: scaler(-1)}, refuse=refusing({SCALER: [0, code]})
    )
    bench = Bench(meter, allowWrite=["1-0:1.8.0"])
    assert bench.values() == {"energy": 0.0}  # known from before, and still not enough to write
    definition = operations.object_definition(bench.session.device, {"obis": "1-0:1.8.0"})
    with pytest.raises(ScalerUnknown):
        operations.write(bench.session, definition, 253)
    assert meter.writes == []
    assert operations.write(bench.session, definition, 253)["raw"] == 2530
    assert meter.writes == [(VALUE, bytes.fromhex("1209e2"))]


def test_facts_of_another_client_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = energy_meter(refuse=lambda ref: 3 if ref == SCALER else 0)
    first = Bench(meter)
    for _ in range(4):
        first.cycle()
        first.now_ms += REFUSED_OVER_MS
    assert first.values() == {"energy": 64300834}
    assert first.session.unscaled == {"energy"}
    meter.refuse = lambda _: 0
    client = {"address": 1, "authentication": "low", "password": "${env:P}"}
    monkeypatch.setenv("P", "12345678")
    assert Bench(meter, first.state, client=client).values() == {"energy": 64300.834}


def test_one_bad_code_costs_its_neighbours_nothing() -> None:
    class EndsAtRefusal(FactMeter):
        def answer(self, apdu: bytes) -> bytes | None:
            answer = super().answer(apdu)
            if answer is None or apdu[:2] != b"\xc0\x03":
                return answer
            return bytes((0xC4, 3, apdu[2], apdu[3])) + b"\x01\x04" * apdu[3]

    codes = [Obis(1, 0, number, 7, 0) for number in (32, 52, 72, 31)]
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in codes}
    values |= {AttributeRef(3, obis, 3): scaler(-1, 35) for obis in codes}
    entries = [{"key": "bad", "obis": "1-0:99.99.99", "class": 3}]
    entries += [{"key": str(obis), "obis": str(obis), "class": 3} for obis in codes]
    bench = Bench(EndsAtRefusal(values), timeseries=entries)
    for _ in range(5):
        result = bench.cycle()
        assert {reading.key: reading.value for reading in result.readings} == {
            str(obis): 231.6 for obis in codes
        }


@pytest.mark.parametrize("policy", ["deliver", "withhold"])
def test_a_scaler_that_never_comes_is_decided_by_the_setting(policy: str) -> None:
    bench = Bench(energy_meter(refuse=lambda ref: 250 if ref == SCALER else 0), unscaled=policy)
    seen = []
    for _ in range(6):
        seen.append(bench.values())
        bench.now_ms += 60_000
    assert seen[:2] == [{}] * 2
    assert seen[-1] == ({"energy": 64300834} if policy == "deliver" else {})
    assert len([event for event in bench.events if '"scaler"' in event]) == 1
    bench.meter.refuse = lambda _: 0
    bench.now_ms += bench.session.device.refused_register_period_ms
    assert bench.values() == {"energy": 64300.834}
    assert not bench.session.unscaled


def test_a_clock_that_a_list_wraps_is_asked_for_alone() -> None:
    moment = bytes.fromhex("090c07ea0b19030c0000ff800000")

    class Wraps(FactMeter):
        def answer(self, apdu: bytes) -> bytes | None:
            answer = super().answer(apdu)
            return (
                answer
                if apdu[:2] != b"\xc0\x03" or answer is None
                else answer.replace(moment, b"\x09\x0e" + moment)
            )

    entries = [{"key": "clock", "obis": "0-0:1.0.0"}, {"key": "energy", "obis": "1-0:1.8.0"}]
    bench = Bench(Wraps({**energy_meter().values, CLOCK: moment}), timeseries=entries)
    for _ in range(6):
        assert bench.values() == {"clock": "2026-11-25T12:00:00", "energy": 64300.834}
    bench.meter.values[CLOCK] = b"\x06\x00\x00\x00\x01"
    assert "clock" in bench.cycle().failed


@pytest.mark.parametrize(
    ("raw", "right"), [(scaler(-3, tag=0x11), 64300.834), (scaler(3, tag=0x11), 64300834000)]
)
def test_an_unsigned_scaler_is_read_as_it_is_meant(raw: bytes, right: float) -> None:
    bench = Bench(FactMeter({VALUE: bytes.fromhex("0603d52722"), SCALER: raw}))
    assert bench.values() == {"energy": right}


@pytest.mark.parametrize(
    "raw", [scaler(100), scaler(-100), b"\x02\x02\x00\x16\x1e", b"\x12\x00\x01", b"\x00", b"\x99"]
)
def test_what_is_no_scaler_makes_no_number(raw: bytes) -> None:
    bench = Bench(FactMeter({VALUE: bytes.fromhex("0603d52722"), SCALER: raw}))
    assert "energy" in bench.cycle().held


@pytest.mark.parametrize(
    "raw",
    [
        "177fc00000",
        "177f800000",
        "17ff800000",
        "187ff8000000000000",
        "00",
        "99",
        "1c05",
        "200007",
        "02011c05",
    ],
)
def test_what_is_no_value_fails_with_a_reason(raw: str) -> None:
    bench = Bench(FactMeter({VALUE: bytes.fromhex(raw), SCALER: scaler(-3)}))
    result = bench.cycle()
    assert not result.readings
    assert result.failed["energy"].message
    bench.meter.values[VALUE] = bytes.fromhex("0603d52722")
    assert bench.values() == {"energy": 64300.834}


# part B


@pytest.mark.parametrize("limit", [1, 2, 5, 16, 23])
def test_lists_are_halved_until_they_work(limit: int) -> None:
    codes = [Obis(1, 0, number, 8, 0) for number in range(1, 25)]
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in codes}
    values |= {AttributeRef(3, obis, 3): scaler(-1) for obis in codes}
    entries = [{"key": str(obis), "obis": str(obis), "class": 3} for obis in codes]
    bench = Bench(FactMeter(values, max_list=limit), timeseries=entries)
    whole = []
    for _ in range(14):
        try:
            whole.append(len(bench.values()) == len(codes))
        except LinkError:
            whole.append(False)
    assert all(map(any, pairwise(whole))), "of two cycles one is whole"
    assert whole.count(False) <= 5
    assert all(whole[-3:])
    again = Bench(bench.meter, bench.state, timeseries=entries)
    assert len(again.values()) == len(codes), "the size that works is kept"


def test_the_limit_is_settable() -> None:
    codes = [Obis(1, 0, number, 8, 0) for number in range(1, 25)]
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in codes}
    values |= {AttributeRef(3, obis, 3): scaler(-1) for obis in codes}
    entries = [{"key": str(obis), "obis": str(obis), "class": 3} for obis in codes]
    bench = Bench(FactMeter(values, max_list=5), timeseries=entries, client={"maxListSize": 5})
    assert len(bench.values()) == len(codes)
    assert not bench.events


# the meter's identity, what is forgotten, old files


def test_another_firmware_has_its_scalers_asked_again() -> None:
    firmware = AttributeRef(1, Obis(1, 0, 0, 2, 0), 2)
    entries = [{"key": "energy", "obis": "1-0:1.8.0"}, {"key": "fw", "obis": "1-0:0.2.0", "class": 1}]
    bench = Bench(FactMeter({**energy_meter().values, firmware: b"\x0a\x02V1"}), timeseries=entries)
    assert bench.values()["energy"] == 64300.834
    bench.meter.values |= {firmware: b"\x0a\x02V2", SCALER: scaler(-2)}
    assert "energy" not in bench.values(), (
        "the scaler of the old firmware is not believed in this answer either"
    )
    assert bench.values()["energy"] == 643008.34


def test_forgetting_one_meter_leaves_others_alone() -> None:
    bench = Bench(energy_meter())
    bench.cycle()
    bench.state.put("other", "scalers", str(SCALER), [-3, "Wh"])
    bench.session.forget_facts()
    assert not bench.state.get_all("m", "scalers")
    assert bench.state.get_all("other", "scalers")
    assert bench.values() == {"energy": 64300.834}


def test_poisoned_zeros_of_version_1_are_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "dlms_connector.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE counters (identity TEXT PRIMARY KEY, next INTEGER NOT NULL) STRICT;"
        "CREATE TABLE facts (device TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,"
        " PRIMARY KEY (device, kind, key)) STRICT;"
        "INSERT INTO counters VALUES ('m/1', 4711); PRAGMA user_version=1;"
    )
    rows = [
        ("m", "scalers", str(SCALER), '[0, ""]'),
        ("m", "scalers", "1-0:2.8.0 (class 3, attribute 3)", '[-3, "Wh"]'),
        ("m", "abilities", "lists", "false"),
        ("m", "cursor", "1-0:99.1.0", "5"),
        ("m", "profile access", "1-0:99.1.0", '"whole"'),
    ]
    connection.executemany("INSERT INTO facts VALUES (?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    bench = Bench(energy_meter(), StateStore(path))
    assert bench.values() == {"energy": 64300.834}
    assert bench.state.reserve_counters("m/1")[0] == 4711
    assert bench.state.get_all("m", "cursor") == {"1-0:99.1.0": 5}
    assert len(bench.state.get_all("m", "scalers")) == 2
    assert not bench.state.get_all("m", "profile access")


# a state file that cannot be written

UNWRITABLE = {"read-only": "PRAGMA query_only = ON", "full disk": "PRAGMA max_page_count = 1"}
"""What SQLite then answers to a write is what it answers there."""


@pytest.mark.parametrize("pragma", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_state_file_that_cannot_be_written_costs_no_value(tmp_path: Path, pragma: str) -> None:
    state = _unwritable(tmp_path, pragma)
    codes = [Obis(1, 0, number, 8, 0) for number in range(1, 25)]
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in codes}
    values |= {AttributeRef(3, obis, 3): scaler(-1) for obis in codes}
    entries = [{"key": str(obis), "obis": str(obis), "class": 3} for obis in codes]
    right = {str(obis): 231.6 for obis in codes}
    asked: list[AttributeRef] = []
    meter = FactMeter(values, refuse=lambda ref: asked.append(ref) or 0)  # type: ignore[func-returns-value]
    bench = Bench(meter, state, timeseries=entries)
    assert bench.values() == right
    told = [event for event in bench.events if "is not kept" in event]
    assert len(told) == 1, bench.events
    asked.clear()
    for _ in range(3):
        assert bench.values() == right
    assert {ref.attribute for ref in asked} == {2}, "known until the process ends, so not asked again"
    meter.values[SCALER] = scaler(-2)
    bench.session.forget_facts()
    assert bench.values() == right | {str(ENERGY): 23.16}
    assert [event for event in bench.events if "is not kept" in event] == told
    assert not state.get_all("m", "scalers"), "nothing was written, so the next process asks anew"
    assert Bench(meter, state, timeseries=entries).values() == right | {str(ENERGY): 23.16}


@pytest.mark.parametrize("pragma", UNWRITABLE.values(), ids=UNWRITABLE)
def test_on_an_unwritable_disk_the_length_of_lists_is_known_until_the_end(
    tmp_path: Path, pragma: str
) -> None:
    codes = [Obis(1, 0, number, 8, 0) for number in range(1, 25)]
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in codes}
    values |= {AttributeRef(3, obis, 3): scaler(-1) for obis in codes}
    entries = [{"key": str(obis), "obis": str(obis), "class": 3} for obis in codes]
    bench = Bench(FactMeter(values, max_list=5), _unwritable(tmp_path, pragma), timeseries=entries)
    failures = 0
    for _ in range(20):
        try:
            bench.cycle()
        except LinkError:
            failures += 1
    assert failures <= 5
    assert bench.values() == {str(obis): 231.6 for obis in codes}
    assert bench.session.facts.list_limit == 3


@pytest.mark.parametrize("pragma", UNWRITABLE.values(), ids=UNWRITABLE)
def test_on_an_unwritable_disk_refused_scalers_still_make_no_wrong_value(tmp_path: Path, pragma: str) -> None:
    bench = Bench(energy_meter(refuse=lambda ref: 250 if ref == SCALER else 0), _unwritable(tmp_path, pragma))
    for _ in range(2):
        assert "energy" in bench.cycle().held
        bench.now_ms += REFUSED_OVER_MS
    assert bench.values() == {"energy": 64300834}
    bench.session.facts.mark(bench.session.unscaled)
    assert bench.session.facts.marked == {"energy"}
    bench.meter.refuse = lambda _: 0
    bench.now_ms += bench.session.device.refused_register_period_ms
    assert bench.values() == {"energy": 64300.834}
    assert not bench.session.unscaled


def _unwritable(folder: Path, pragma: str) -> StateStore:
    """A state file that was made well and takes nothing more."""
    state = StateStore(folder / "dlms_connector.sqlite")
    state._connection.execute(pragma)
    for number in range(10_000):  # until the pages that are there are full
        try:
            state.put("m", "filler", f"{number:05d}", number)
        except StateError:
            return state
    raise AssertionError("it takes all that it is given")


# profiles


@pytest.mark.parametrize("policy", ["deliver", "withhold"])
def test_a_column_without_a_scaler_is_right_once_the_meter_tells_it(policy: str) -> None:
    meter = profile_meter(refuse=lambda ref: 3 if ref == SCALER else 0)
    bench = Bench(meter, profiles=[{"obis": "1-0:99.1.0", "access": "whole"}], unscaled=policy)
    rows = profile_rows(bench)
    for _ in range(2):
        with pytest.raises(ScalerUnknown):
            rows()
        bench.now_ms += REFUSED_OVER_MS
    assert rows() == ({str(ENERGY): 64300834} if policy == "deliver" else {})
    meter.refuse = lambda _: 0
    bench.now_ms += bench.session.device.refused_register_period_ms
    assert rows() == {str(ENERGY): Decimal("64300.834")}


def test_rows_of_a_profile_wait_for_their_scaler() -> None:
    bench = Bench(
        profile_meter(refuse=refusing({SCALER: [2]})), profiles=[{"obis": "1-0:99.1.0", "access": "whole"}]
    )
    rows = profile_rows(bench)
    with pytest.raises(ScalerUnknown):
        rows()
    assert rows() == {str(ENERGY): Decimal("64300.834")}


def profile_rows(bench: Bench) -> Any:
    """Reads the profile by hand; gives the values of its only row."""
    bench.session.open()
    device = bench.session.device
    reader = ProfileReader(device, device.profiles[0], bench.state, lambda: NOW_MS + 10**10)
    window = Window(0, NOW_MS + 10**10)

    def values() -> Any:
        (row,) = operations.read_profile(reader, bench.session, window, 5)
        assert isinstance(row, dict)
        return row["values"]

    return values


def profile_meter(**more: Any) -> FactMeter:
    profile = Obis(1, 0, 99, 1, 0)
    moment = bytes.fromhex("090c07ea0b19030c0000ff000000")
    columns = (
        b"\x01\x02\x02\x04\x12\x00\x08\x09\x06" + CLOCK.obis.to_bytes() + b"\x0f\x02\x12\x00\x00"
        b"\x02\x04\x12\x00\x03\x09\x06" + ENERGY.to_bytes() + b"\x0f\x02\x12\x00\x00"
    )
    values = {
        SCALER: scaler(-3),
        AttributeRef(7, profile, 2): b"\x01\x01\x02\x02" + moment + bytes.fromhex("0603d52722"),
        AttributeRef(7, profile, 3): columns,
        AttributeRef(7, profile, 4): b"\x06\x00\x00\x03\x84",
    }
    return FactMeter(values, **more)


@pytest.mark.parametrize(
    "raw", ["07ea0b19080c000000000000", "07ea0b19030c000064000000", "07ea0b19030c000000800000"]
)
def test_the_sound_parts_of_a_clock_are_told(raw: str) -> None:
    bench = Bench(FactMeter({CLOCK: bytes.fromhex(f"090c{raw}")}), clock={"timeZone": "UTC"})
    bench.session.open()
    assert operations.read_clock(bench.session)["epochMs"] == 1_795_608_000_000
    assert bench.session.is_open


@pytest.mark.parametrize(
    "raw", ["090c07ea0d19030c000000000000", "090b07ea0b19030c0000000000", "0600000001", "00"]
)
def test_what_is_no_clock_is_the_objects_fault_alone(raw: str) -> None:
    bench = Bench(FactMeter({CLOCK: bytes.fromhex(raw)}))
    bench.session.open()
    with pytest.raises(InvalidAnswer):
        operations.read_clock(bench.session)
    assert bench.session.is_open
