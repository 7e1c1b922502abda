"""Load profiles: every gap is filled, right to the second, by whatever access the meter does, and not twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dlms_connector.cosem.clock import decode_clock
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import TypedValue, decode_typed, encode
from dlms_connector.errors import DlmsConnectorError, LinkError, LinkTimeout, ObjectError
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.columns import CLOCK, Column, Layout
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import timed_rows
from dlms_connector.meter.profile.task import ProfileTask
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.fleet import FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings, Quirks
from dlms_connector.simulator.objects import AccessResult, Refused
from dlms_connector.simulator.profiles import event_code
from dlms_connector.simulator.quantities import scaled_value, seed_of
from tests.support.pollers import RunningPollers, wait_until
from tests.support.readers import Bench, device_settings

SERIAL = "00000001"
MADRID = ZoneInfo("Europe/Madrid")
NOW_S = 1_790_000_200
QUARTER_S = 900
PROFILE = Obis(1, 0, 99, 1, 0)
ROW_BYTES = 50
COLUMNS = {"1-0:1.8.0": "energy", "1-0:2.8.0": "energy_export"}
MODEL = {"energy": "active_energy", "energy_export": "active_energy_export"}


class SimulatedTime:
    """One clock for meter and connector."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)

    def wall_s(self) -> float:
        return self.now_s


@dataclass
class Scene:
    """A meter with its profile task; `rows` is what was handed over, `refusing` a gateway that takes nothing."""

    fleet: SimulatedFleet
    time: SimulatedTime
    bench: Bench
    entry: dict[str, Any]
    profile: dict[str, Any]
    rows: list[Reading] = field(default_factory=list)
    refusing: bool = False

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """A new process with the same state file."""
        self.device = device_settings(self.fleet, SERIAL, profiles=[self.profile], **self.entry)
        self.session = self.bench.session(self.device)
        settings = self.device.profiles[0]
        self.reader = ProfileReader(self.device, settings, self.bench.state, wall_ms=self.time.wall_ms)
        self.task = ProfileTask(
            self.reader,
            self.device,
            self.bench.state,
            self._deliver,
            clock=self.time.wall_s,
            wall_ms=self.time.wall_ms,
        )

    def _deliver(self, readings: Any) -> bool:
        if self.refusing:
            return False
        self.rows += readings
        return True

    @contextmanager
    def associated(self) -> Iterator[MeterSession]:
        self.session.open()
        try:
            yield self.session
        finally:
            self.session.close(time.monotonic() + 2)

    def fill(self) -> int:
        """Step while slices are due; returns how many steps it took."""
        steps = 0
        with self.associated() as session:
            while self.task.due_s() <= self.time.now_s:
                self.task.step(session)
                steps += 1
                assert steps < 100
        return steps

    def moments(self, key: str = "energy") -> list[int]:
        """Distinct row times in seconds, sorted."""
        assert all(row.ts_ms % 1000 == 0 for row in self.rows)
        return sorted({row.ts_ms // 1000 for row in self.rows if row.key == key})

    def check_values(self) -> None:
        for row in self.rows:
            if row.key in MODEL:
                assert float(row.value) == scaled_value(SERIAL, MODEL[row.key], row.ts_ms // 1000)  # type: ignore[arg-type]


@contextmanager
def scene(
    now_s: float,
    *,
    entry: dict[str, Any] | None = None,
    profile: dict[str, Any] | None = None,
    quirks: Quirks | None = None,
    **meter: Any,
) -> Iterator[Scene]:
    moment = SimulatedTime(now_s)
    settings = MeterSettings(SERIAL, quirks=quirks or Quirks(), **meter)
    with SimulatedFleet(FleetSettings((LineSettings((settings,)),)), clock=moment.wall_s) as fleet:
        made = {"obis": "1-0:99.1.0", "columns": COLUMNS, "backfill": "26h", **(profile or {})}
        yield Scene(fleet, moment, Bench(), entry or {}, made)


DAYS = {
    "23 hours": ((2026, 3, 29), 92),
    "24 hours": ((2026, 6, 10), 96),
    "25 hours": ((2026, 10, 25), 100),
}
HABITS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "standard": ({}, {}),
    "no deviation": ({"quirks": Quirks(unknown_deviation=True)}, {"timeZone": "Europe/Madrid"}),
    "reversed deviation": (
        {"quirks": Quirks(reversed_deviation=True)},
        {"deviationSign": "reversed", "timeZone": "Europe/Madrid"},
    ),
    "null timestamps": ({"profile_null_timestamps": True}, {"timeZone": "Europe/Madrid"}),
    "null columns": ({"profile_null_column_every": 5}, {}),
}


@pytest.mark.parametrize("access", ["auto", "entry", "whole"])
@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.parametrize("day", DAYS)
def test_a_day_without_link_is_filled_to_the_second(day: str, habit: str, access: str) -> None:
    (date, count) = DAYS[day]
    meter, clock = HABITS[habit]
    midnight = datetime(*date, tzinfo=MADRID)
    following = datetime(*date, tzinfo=MADRID) + timedelta(days=1)
    first_s, end_s = int(midnight.timestamp()), int(following.timestamp())
    assert (end_s - first_s) // QUARTER_S == count
    with scene(
        first_s - 30,
        entry={"clock": clock},
        profile={"access": access},
        zone=MADRID,
        profile_rows=400,
        **meter,
    ) as at:
        at.fill()
        at.rows.clear()
        at.time.now_s = end_s - 1  # the link was down for the whole local day
        at.fill()
        wanted = set(range(first_s, end_s, QUARTER_S))
        got = [moment for moment in at.moments() if moment >= first_s]
        if habit == "null columns":
            wanted -= {moment for moment in wanted if moment // QUARTER_S % 5 == 0}
        else:
            assert len(got) == count
        assert set(got) == wanted
        at.check_values()


def test_live_rows_come_one_by_one_after_their_capture() -> None:
    with scene(NOW_S) as at:
        at.fill()
        before = at.moments()
        for step in range(1, 9):
            at.time.now_s = max(at.time.now_s + 1, at.task.due_s())
            requests = at.fleet.counters(SERIAL).requests
            at.fill()
            assert len(at.moments()) == len(before) + step
            assert at.fleet.counters(SERIAL).requests - requests <= 12
        at.check_values()
        assert len(at.rows) == len({(row.key, row.ts_ms) for row in at.rows})  # none twice


def test_a_profile_longer_than_the_gap_is_not_read_in_full() -> None:
    for access in ("auto", "entry"):
        with scene(NOW_S, profile={"access": access}, profile_rows=3000) as at:
            at.fill()
            at.time.now_s += 2 * 3600
            before = at.fleet.counters(SERIAL).bytes_sent
            at.fill()
            assert at.fleet.counters(SERIAL).bytes_sent - before < 3000  # 8 rows; all of them are 140 kB
            at.check_values()


@pytest.mark.parametrize("access", ["range", "entry"])
def test_slices_are_of_a_day_at_most(access: str) -> None:
    with scene(NOW_S, profile={"backfill": "7d", "access": access}) as at:
        with at.associated() as session:
            at.reader.learn(session)
            sent: list[int] = []
            while at.task.due_s() <= at.time.now_s:
                before = at.fleet.counters(SERIAL).bytes_sent
                at.task.step(session)
                sent.append(at.fleet.counters(SERIAL).bytes_sent - before)
        assert sent[0] < 20 * ROW_BYTES  # an hour first: the line may be slow
        assert max(sent) < 110 * ROW_BYTES
        assert len(sent) == 11  # 1, 2, 4, 8, 16 hours, then days
        assert len(at.moments()) == 7 * 96
        at.check_values()


RECORDS: dict[str, dict[str, Any]] = {
    "newest entry first": {"profile_newest_first": True},
    "three days without power": {"profile_gap": range(NOW_S - 5 * 86_400, NOW_S - 2 * 86_400)},
    "hours without power": {"profile_gap": range(NOW_S - 3 * 3600, NOW_S - 600)},
    "both": {
        "profile_newest_first": True,
        "profile_gap": range(NOW_S - 4 * 86_400, NOW_S - 86_400),
    },
}


@pytest.mark.parametrize("access", ["range", "entry", "whole"])
@pytest.mark.parametrize("record", RECORDS)
def test_records_of_another_order_or_with_gaps_are_read_without_loss(record: str, access: str) -> None:
    gap = RECORDS[record].get("profile_gap", range(0))
    with scene(
        NOW_S, profile={"backfill": "7d", "access": access}, profile_rows=700, **RECORDS[record]
    ) as at:
        at.fill()
        first_s = -(-(NOW_S - 7 * 86_400) // QUARTER_S) * QUARTER_S
        wanted = [moment for moment in range(first_s, NOW_S, QUARTER_S) if moment not in gap]
        assert at.moments() == wanted
        at.time.now_s = at.task.due_s() + QUARTER_S
        before = at.fleet.counters(SERIAL).bytes_sent
        at.fill()
        assert (
            at.moments()
            == [*wanted, *range(wanted[-1] + QUARTER_S, int(at.time.now_s), QUARTER_S)][-len(at.moments()) :]
        )
        assert at.moments()[-1] > at.time.now_s - QUARTER_S
        if access != "whole":
            assert at.fleet.counters(SERIAL).bytes_sent - before < 40 * ROW_BYTES
        at.check_values()


def test_entries_are_found_where_the_capture_period_was_another() -> None:
    """The period says where entries should be; what they say themselves counts."""
    with scene(NOW_S, profile={"backfill": "10h", "access": "entry"}, profile_rows=700) as at:
        at.fleet.override(SERIAL, 7, PROFILE, 4, bytes.fromhex("0600000e10"))  # an hour, since lately
        at.fill()
        assert len(at.moments()) == 40
        at.check_values()


def test_an_event_log_read_by_entry_is_not_read_in_full_each_time() -> None:
    log = {"obis": "0-0:99.98.0", "kind": "events", "columns": {"0-0:96.11.0": "event"}, "backfill": "2d"}
    with scene(NOW_S, profile={**log, "access": "entry"}) as at:
        at.fill()
        assert len(at.rows) == 24
        for _ in range(3):
            at.time.now_s += 7200
            before = at.fleet.counters(SERIAL).bytes_sent
            at.fill()
            assert at.fleet.counters(SERIAL).bytes_sent - before < 20 * ROW_BYTES  # the log has a hundred
        assert len(at.rows) == 27


def test_a_clock_that_was_ahead_and_is_set_right_costs_no_row() -> None:
    with scene(NOW_S) as at:

        def shift(shift_s: float) -> None:
            at.fleet.call(lambda: setattr(at.fleet.device(SERIAL).controls, "clock_shift_s", shift_s))

        shift(3 * 3600.0)
        at.fill()
        at.time.now_s = at.task.due_s()
        before = at.fleet.counters(SERIAL).bytes_sent
        at.fill()
        assert at.fleet.counters(SERIAL).bytes_sent - before < 40 * ROW_BYTES  # not all of it again each time
        set_right_s = at.time.now_s
        shift(0.0)
        at.rows.clear()
        while at.time.now_s < set_right_s + 4 * 3600:
            at.time.now_s = at.task.due_s()
            at.fill()
        wanted = range(-(-int(set_right_s) // QUARTER_S) * QUARTER_S, int(at.time.now_s), QUARTER_S)
        assert set(wanted) <= set(at.moments())


def test_a_cursor_of_the_future_is_not_believed() -> None:
    """This machine's clock was ahead when it was written; what is behind it is read again, not given up."""
    with scene(NOW_S) as at:
        at.bench.state.put(SERIAL, "cursor", str(PROFILE), (NOW_S + 30 * 86_400) * 1000)
        at.restart()
        at.fill()
        assert len(at.moments()) == 26 * 4


@pytest.mark.parametrize("backfill", [0, "1m"])
def test_without_backfill_new_rows_are_read_all_the_same(backfill: Any) -> None:
    with scene(NOW_S, profile={"backfill": backfill}) as at:
        at.fill()
        began_s = at.time.now_s
        while at.time.now_s < began_s + 4 * QUARTER_S:
            at.time.now_s = at.task.due_s()
            at.fill()
        wanted = range(-(-int(began_s) // QUARTER_S) * QUARTER_S, int(at.time.now_s), QUARTER_S)
        assert set(wanted) <= set(at.moments())
        assert at.moments()[0] >= began_s - 2 * QUARTER_S


def test_a_profile_without_a_clock_is_told() -> None:
    with scene(NOW_S) as at, at.associated() as session:
        without = bytes.fromhex("0101 0204 120003 09060100010800ff 0f02 120000".replace(" ", ""))
        at.fleet.override(SERIAL, 7, PROFILE, 3, without)
        with pytest.raises(DlmsConnectorError, match="no clock"):
            at.task.step(session)
        assert at.task.due_s() >= at.time.now_s + 60
        assert session.is_open


def test_columns_that_were_changed_in_the_meter_are_learned_anew() -> None:
    with scene(NOW_S) as at, at.associated() as session:
        former = bytes.fromhex(
            "0102 0204 120008 09060000010000ff 0f02 120000 0204 120003 09060100010800ff 0f02 120000".replace(
                " ", ""
            )
        )
        at.fleet.override(SERIAL, 7, PROFILE, 3, former)
        at.reader.learn(session)
        at.fleet.heal(SERIAL)
        while at.task.due_s() <= at.time.now_s:
            at.task.step(session)
        assert len(at.moments()) == 26 * 4
        assert len(at.moments("energy_export")) == 26 * 4
        at.check_values()


def test_a_profile_that_is_refused_for_good_is_asked_for_rarely() -> None:
    with scene(NOW_S, entry={"refusedRegisterPeriod": "2h"}) as at, at.associated() as session:
        at.fleet.refuse(SERIAL, 7, PROFILE, 3, 3)
        with pytest.raises(ObjectError):
            at.task.step(session)
        assert at.task.due_s() == at.time.now_s + 7200


def test_a_slice_takes_no_more_of_the_line_than_live_values_can_spare() -> None:
    """A tenth of the poll period, 1 s at least; and a day again once the line is quick."""
    with scene(NOW_S, profile={"backfill": "7d"}) as at:
        asked: list[float] = []
        rows, seconds_an_hour = at.reader.read, [0.6]

        def slow(session: MeterSession, window: Window) -> Any:
            hours = (window.to_ms - window.from_ms) / 3_600_000
            asked.append(hours)
            at.time.now_s += hours * seconds_an_hour[0]
            return rows(session, window)

        at.reader.read = slow  # type: ignore[method-assign]
        with at.associated() as session:
            for _ in range(12):
                at.task.step(session)
            assert asked[:3] == [1, 2, 4]
            assert max(asked) * 0.6 <= 2 * 5  # period 60 s: at most 5 s, and once the double
            seconds_an_hour[0] = 0.01
            at.fill()
        assert max(asked) == 24
        assert len(at.moments()) >= 7 * 96
        at.check_values()


def test_a_link_that_does_not_hold_for_a_day_of_rows_is_asked_for_less() -> None:
    with scene(NOW_S, entry={"timeout": 300}) as at:
        at.fill()
        at.time.now_s += 86_400
        asked: list[float] = []
        rows = at.reader.read

        def watched(session: MeterSession, window: Window) -> Any:
            asked.append((window.to_ms - window.from_ms) / 3_600_000)
            return rows(session, window)

        at.reader.read = watched  # type: ignore[method-assign]
        for _ in range(3):
            with at.associated() as session:
                at.fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.GET))
                with pytest.raises(LinkError):
                    at.task.step(session)
        at.fill()
        assert asked[:4] == [24, 12, 6, 3]
        assert max(asked[4:]) > 3  # and more again when it holds
        assert len(at.moments()) == (26 + 24) * 4


def test_a_row_of_each_day_is_asked_for_after_the_meters_midnight() -> None:
    daily = {"obis": "1-0:99.2.0", "columns": {}, "backfill": "3d"}
    with scene(NOW_S, entry={"clock": {"timeZone": "America/Bogota"}}, profile=daily) as at:
        at.fill()
        due = datetime.fromtimestamp(at.task.due_s(), ZoneInfo("America/Bogota"))
        assert (due.hour, due.minute) in ((0, 0), (0, 1))


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Bogota", "Europe/Madrid"])
def test_dates_that_stand_for_never_cost_their_row_alone(zone: str) -> None:
    layout = Layout(
        (Column(CLOCK, 0, None), Column(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2), 0, "energy")), 900
    )
    dates = (
        "0001010100000000008000ff",
        "270f0c1f053b3b3b008000ff",
        "270f0c1f05173b3b008000ff",
        "000000000000000000000000",
        "ffffffffffffffffff8000ff",
        "07ea0a19010c0000008000ff",
    )
    buffer = [(bytes.fromhex(date), 1) for date in dates]
    rows = list(timed_rows(buffer, layout, ZoneInfo(zone), deviation_reversed=False, events=False))
    assert datetime.fromtimestamp(rows[-1].ts_ms / 1000, ZoneInfo(zone)) == datetime(
        2026, 10, 25, 12, tzinfo=ZoneInfo(zone)
    )


def test_the_overlap_is_read_again_after_a_restart_and_no_more() -> None:
    with scene(NOW_S, profile={"overlap": "1h"}) as at:
        at.fill()
        at.time.now_s = at.task.due_s() + 1
        at.fill()  # what was handed over long ago is on disk now
        at.time.now_s += 60
        newest = at.moments()[-1]
        at.rows.clear()
        at.restart()
        at.fill()
        assert at.moments()[0] >= newest - 3600 - 2 * QUARTER_S
        assert len(at.moments()) <= 7
        assert set(range(newest - 3600, newest + 1, QUARTER_S)) <= set(at.moments())


def test_a_kill_right_after_the_hand_over_costs_no_row() -> None:
    """What the gateway may not have stored is read again, however many days of rows that are."""
    with scene(NOW_S, profile={"backfill": "7d", "overlap": "1h"}) as at:
        with at.associated() as session:
            for _ in range(4):
                at.task.step(session)
                at.time.now_s += 0.2
        at.rows.clear()  # in the memory of the process that was killed
        at.restart()
        at.fill()
        assert len(at.moments()) == 7 * 96
        at.check_values()


def test_rows_that_the_gateway_does_not_take_are_read_again() -> None:
    with scene(NOW_S) as at:
        at.refusing = True
        at.fill()
        assert not at.rows
        at.refusing = False
        at.time.now_s = at.task.due_s()
        at.fill()
        assert len(at.moments()) == 26 * 4
        assert at.task.behind_ms is not None
        assert at.task.behind_ms < QUARTER_S * 1000


@pytest.mark.parametrize("refused", ["range", "both"])
def test_meters_that_refuse_a_way_of_access(refused: str) -> None:
    """The next way is tried; access by entry is remembered over a restart, the whole buffer is no way for good."""
    with scene(NOW_S, profile_rows=200, profile={"backfill": "10h"}) as at:
        selectors = (1,) if refused == "range" else (1, 2)
        _refuse_selectors(at.fleet, selectors)
        at.fill()
        way = {"range": "entry", "both": "whole"}[refused]
        assert at.reader.access == way
        assert len(at.moments()) == 40
        at.check_values()
        at.restart()
        assert at.reader.access == ("entry" if way == "entry" else "range")


def _refuse_selectors(fleet: SimulatedFleet, selectors: tuple[int, ...]) -> None:
    device = fleet.device(SERIAL)
    read_selected = device.read_selected

    def refusing(key: bytes, selector: int, parameters: Any) -> bytes:
        if selector in selectors:
            raise Refused(AccessResult.SCOPE_OF_ACCESS_VIOLATED)
        return read_selected(key, selector, parameters)

    fleet.call(lambda: setattr(device, "read_selected", refusing))


@pytest.mark.parametrize("code", [4, 11, 250])
def test_a_hole_in_the_record_does_not_stop_a_meter_that_refuses_empty_ranges(code: int) -> None:
    """By range alone, as the operator said: the next try asks for a longer stretch, until rows are in it."""
    settings = {"access": "range", "rangeEnds": "deviation", "slice": "6h"}
    with scene(NOW_S, profile=settings) as at:
        at.fill()
        known = len(at.moments())
        outage = (NOW_S, NOW_S + 5 * 86_400)
        _lose_rows(at.fleet, outage, AccessResult(code))
        at.time.now_s = outage[1] + 7200
        for _ in range(10):
            with at.associated() as session:
                while at.task.due_s() <= at.time.now_s:
                    try:
                        at.task.step(session)
                    except ObjectError:
                        break
            at.time.now_s = max(at.time.now_s, min(at.task.due_s(), at.time.now_s + 60))
        assert len(at.moments()) - known >= 8
        assert at.moments()[-1] >= outage[1] + 3600
        at.check_values()


def _moment_s(raw: bytes) -> float:
    moment_ms = decode_clock(raw).to_epoch_ms(timezone.utc)
    assert moment_ms is not None
    return moment_ms / 1000


def _lose_rows(fleet: SimulatedFleet, outage: tuple[float, float], result: AccessResult) -> None:
    """The meter captured nothing in this time, and refuses a range without rows."""
    device = fleet.device(SERIAL)
    read_selected = device.read_selected

    def without(key: bytes, selector: int, parameters: Any) -> bytes:
        rows = decode_typed(read_selected(key, selector, parameters))[0]
        kept = [row for row in rows.value if not outage[0] <= _moment_s(row.value[0].value) <= outage[1]]
        if not kept:
            raise Refused(result)
        return encode(TypedValue(rows.type, kept))

    fleet.call(lambda: setattr(device, "read_selected", without))


def test_a_passing_fault_changes_neither_the_way_nor_the_record() -> None:
    with scene(NOW_S) as at:
        with at.associated() as session:
            at.reader.learn(session)
            at.fleet.inject(SERIAL, Fault(FaultKind.ACCESS_ERROR, Stage.GET, code=2))
            with pytest.raises(DlmsConnectorError):
                at.task.step(session)
        assert at.reader.access == "range"
        at.time.now_s = at.task.due_s()
        at.fill()
        at.check_values()
        assert len(at.moments()) >= 26 * 4 - 1


def test_a_block_that_is_lost_costs_the_slice_and_nothing_else() -> None:
    with scene(NOW_S, entry={"timeout": 300}, max_pdu_bytes=300) as at:
        at.fill()
        known = len(at.rows)
        at.time.now_s += 86_400
        with at.associated() as session:
            at.fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.GET_NEXT, skip=2))
            with pytest.raises(LinkTimeout):
                at.task.step(session)
            assert len(at.rows) == known
        at.fill()
        assert len(at.moments()) == (26 + 24) * 4
        at.check_values()


def test_rows_of_an_impossible_time_are_left_out() -> None:
    with scene(NOW_S) as at, at.associated() as session:
        now_ms = at.time.wall_ms()
        at.fleet.call(lambda: setattr(at.fleet.device(SERIAL).controls, "clock_shift_s", 90 * 86_400.0))
        at.reader.learn(session)
        rows = at.reader.rows(session, Window(now_ms - 86_400_000, now_ms))
        assert all(now_ms - 86_400_000 <= row.ts_ms <= now_ms for row in rows)


def test_events_are_handed_over_once_each_with_their_code() -> None:
    log = {"obis": "0-0:99.98.0", "kind": "events", "columns": {"0-0:96.11.0": "event"}, "backfill": "2d"}
    with scene(NOW_S, profile=log) as at:
        at.fill()
        first = {row.ts_ms: row.value for row in at.rows}
        assert len(first) == 24
        for _ in range(5):
            at.time.now_s += 7200
            at.fill()
        assert len(at.rows) == 29
        for row in at.rows:
            assert row.value == event_code(seed_of(SERIAL), row.ts_ms // 1000)


def test_back_pressure_stops_the_filling_and_not_the_polls() -> None:
    with SimulatedFleet(FleetSettings((LineSettings((MeterSettings(SERIAL),)),))) as fleet:
        running = RunningPollers(fleet)
        profile = {"obis": "1-0:99.1.0", "backfill": "30d", "columns": COLUMNS}
        running.add(device_settings(fleet, SERIAL, pollPeriod=200, profiles=[profile]))
        running.uplink.congested = True
        with running:
            running.wait_for_readings(more=10)
            assert not running.uplink.rows[SERIAL]
            running.uplink.congested = False
            wait_until(lambda: len(running.uplink.rows[SERIAL]) >= 2 * 96 * 29)
            assert running.pollers[SERIAL].health.skipped_cycles == 0
