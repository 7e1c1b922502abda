"""One meter's history: polls, profiles, reads and writes by hand, with faults at random moments.

Everything that arrives is compared at once with what gurux_dlms makes of the meter's bytes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.meter import operations
from dlms_connector.meter.book import Book
from dlms_connector.meter.facts import REFUSALS, REFUSED_OVER_MS, Standing
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.task import ProfileTask
from dlms_connector.meter.reading import Plain, Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.state import StateStore
from tests.support.fact_meter import FactChannel
from tests.support.history_meter import HistoryMeter, random_list_habits, random_refusals, scaler_refusals
from tests.support.history_profile import LoadProfile, ProfileRow, without_temporary_failures
from tests.support.history_settings import device_settings, named
from tests.support.history_truth import Quantity, is_same, number_of, random_quantity

WAYS = ("live", "profile", "read", "write")
NOW_MS = 1_790_000_000_000
PERIOD_MS = 60_000
REFUSED_MS = 600_000
_HOUR_MS = 3_600_000


class History:
    """A random meter and its connector, on one clock that only the history moves."""

    def __init__(self, rng: random.Random, ways: Sequence[str], *, plain: bool = False) -> None:
        self.rng, self.ways = rng, ways
        self.now_ms = NOW_MS + rng.randint(0, 24 * _HOUR_MS)
        self.began_ms = self.now_ms
        self.events: list[str] = []
        self.state = StateStore(None)
        odd = 0.0 if plain else 0.1
        self.quantities = {
            f"q{number}": random_quantity(rng, number, odd=odd) for number in range(rng.randint(1, 9))
        }
        values = {item.ref: item.raw for item in self.quantities.values()}
        values |= {item.scaler_ref: item.scaler for item in self.quantities.values() if item.scaler_ref}
        self.profile: LoadProfile | None = None
        if "profile" in ways:
            from_ms, to_ms = self.now_ms - 13 * _HOUR_MS, self.now_ms + 10 * _HOUR_MS
            self.profile = LoadProfile(rng, from_ms, to_ms, scalers_odd=0.0 if plain else 0.05)
            values |= self.profile.attributes
            values |= {item.scaler_ref: item.scaler for item in self.profile.columns if item.scaler_ref}
        self.meter = HistoryMeter(values, profile=self.profile, now_ms=lambda: self.now_ms)
        if not plain:
            self.meter.lists = random_list_habits(rng)
            if self.profile is not None and self.meter.lists.over == "silence":
                without_temporary_failures(
                    self.profile.habits
                )  # a lost list may take the other of two cycles
            if rng.random() < 0.15:
                self.meter.excepted = rng.choice(list(self.quantities.values())).ref
        self.unscaled_policy = rng.choice(("deliver", "deliver", "withhold"))
        self.device = device_settings(rng, self.quantities, self.profile, self.unscaled_policy)
        self.arrived: set[tuple[str, int]] = set()
        self.live_arrived: set[str] = set()
        self.checked: Counter[str] = Counter()
        self.takes, self.healed = True, False
        self.restart()

    def restart(self) -> None:
        """A new process with the same state file."""
        self.session = MeterSession(
            self.device,
            lambda _: FactChannel(self.meter),
            self.state,
            on_event=self.events.append,
            clock=self._clock,
            wall_ms=lambda: self.now_ms,
        )
        self.book = Book()
        self.task: ProfileTask | None = None
        if self.profile is not None:
            self.reader = ProfileReader(
                self.device,
                self.device.profiles[0],
                self.state,
                lambda: self.now_ms,
                on_event=self.events.append,
            )
            self.book.profiles.append(self.reader.book)
            self.task = ProfileTask(
                self.reader,
                self.device,
                self.state,
                self._take_rows,
                clock=self._clock,
                wall_ms=lambda: self.now_ms,
            )

    def _clock(self) -> float:
        return (self.now_ms - self.began_ms) / 1000

    def _open(self) -> None:
        if not self.session.is_open:
            self.session.open()

    # the ways to a value

    def step(self, way: str) -> None:
        """One use of the meter; faults of the meter are told as errors, everything else fails the test."""
        with suppress(DlmsConnectorError):
            {"live": self.live, "profile": self.fill, "read": self.read, "write": self.write}[way]()
        assert self.book.balances, self.book

    def live(self) -> None:
        """One poll as the poller makes it."""
        batches = self.session.plan.due(self.session.plan.periods_s, self._clock())
        left = sum(len(batch.registers) for batch in batches)
        self.book.asked += left
        try:
            for batch in batches:
                self._open()
                result = self.session.read_batch(batch)
                booked = self.book.count(result, taken=True)
                assert booked == len(batch.registers)
                told = {reading.key for reading in result.readings} | set(result.problems())
                assert told == {register.key for register in batch.registers}
                left -= booked
                for reading in result.readings:
                    marked = reading.key in self.session.unscaled
                    self._check(self.quantities[reading.key], None, reading.value, marked)
                    if not marked:
                        self.live_arrived.add(reading.key)
        finally:
            self.book.failed += left

    def fill(self) -> None:
        """The profile's task until it rests."""
        assert self.task is not None
        assert self.profile is not None
        for _ in range(60):
            if self.task.due_s() > self._clock():
                return
            self.profile.rows_sent = 0
            received = self.reader.book.received
            delivered = self.reader.book.delivered
            self._moments: set[int] = set()
            self._open()
            self.task.step(self.session)
            assert self.reader.book.received - received == self.profile.rows_sent, "rows that nobody counted"
            self._withheld()
            if self.takes:
                self._check_moments(self.reader.book.delivered - delivered)
        raise AssertionError("the profile's task never rests")

    def _check_moments(self, delivered: int) -> None:
        """What the book calls delivered was handed over, but for rows that hold nothing at all."""
        assert len(self._moments) <= delivered
        if not (self.profile and self.profile.habits.true_nulls) and self._every_column_is_read():
            assert len(self._moments) == delivered, "rows that are booked and not handed over"

    def _every_column_is_read(self) -> bool:
        assert self.profile is not None
        return self.unscaled_policy == "deliver" and all(
            column.exponent is not None and column.raw[0] == 0x06 for column in self.profile.columns
        )

    def _take_rows(self, readings: Sequence[Reading]) -> bool:
        assert self.profile is not None
        rows = {row.ts_ms: row for row in self.profile.rows if row.ts_ms <= self.now_ms}
        columns = {str(column.ref.obis): index for index, column in enumerate(self.profile.columns)}
        if not self.takes:
            return False
        for reading in readings:
            row = rows.get(reading.ts_ms)
            assert row is not None, f"no row was captured at {reading.ts_ms}"
            index = columns[reading.key]
            marked = reading.key in self.session.unscaled
            self._check(self.profile.columns[index], row.cells[index], reading.value, marked)
            self._moments.add(reading.ts_ms)
            self.arrived.add((reading.key, reading.ts_ms))
        return True

    def _withheld(self) -> None:
        """Columns whose scaler was refused for good are left out of rows where the setting says so."""
        assert self.profile is not None
        assert self.task is not None
        read_ms = self.now_ms - (self.task.behind_ms or 0)
        for column in self.profile.columns:
            if self.healed and column.exponent is not None:
                continue  # it is told again, so it is wanted again
            ref = column.scaler_ref
            if (
                self.unscaled_policy == "withhold"
                and ref
                and self.session.facts.standing(ref) is Standing.NONE
            ):
                assert self._was_refused_for_good(ref), f"{column.ref}: withheld too soon"
                self.arrived |= {
                    (str(column.ref.obis), row.ts_ms) for row in self.profile.rows if row.ts_ms <= read_ms
                }

    def read(self) -> None:
        """A read by hand."""
        item = self._any()
        self._open()
        value = operations.read(self.session, self._definition(item))
        if isinstance(value, dict):
            assert value["unscaled"] is True
            self._check(item, None, value["value"], True)
        else:
            self._check(item, None, value, False)

    def write(self) -> None:
        """A write by hand; nothing is sent but with the right scaler."""
        item = self._any()
        value = self.rng.choice((5000, 70_000_000, -300_000, "12.5", 0.25, 2530))
        kind = self.rng.choice(("auto", "auto", "double-long", "long64", "float64"))
        self.meter.writes.clear()
        self._open()
        try:
            operations.write(self.session, self._definition(item), value, kind)
        finally:
            for ref, raw in self.meter.writes:
                assert ref == item.ref
                self._check_written(item, raw, value)
        assert self.meter.writes

    def _check_written(self, item: Quantity, raw: bytes, value: Any) -> None:
        number = number_of(raw)
        if number is None:
            assert item.scaler_ref is None, "a number was wanted"
            return
        assert item.exponent is not None, f"{item.ref}: written without a scaler"
        self.checked["writes"] += 1
        meant = number.scaleb(item.exponent)
        assert float(meant) == float(value), f"{item.ref}: {value} was written as {number}"

    def _any(self) -> Quantity:
        return self.rng.choice(list(self.quantities.values()))

    def _definition(self, item: Quantity) -> Any:
        return operations.object_definition(self.device, named(item))

    def _check(self, item: Quantity, raw: bytes | None, value: Plain, marked: bool) -> None:
        """A value that arrived is the meter's."""
        if marked:
            assert self.unscaled_policy == "deliver"
            assert self._was_refused_for_good(item.scaler_ref), f"{item.ref}: taken as unscaled too soon"
            truth: Any = item.unscaled(raw)
        else:
            truth = item.truth(raw)
        self.checked["marked" if marked else "values"] += 1
        assert truth is not None, f"{item.ref}: {value!r} arrived and the meter tells no value"
        assert is_same(value, truth), f"{item.ref}: {value!r} arrived, the meter holds {truth!r}"

    def _was_refused_for_good(self, ref: AttributeRef | None) -> bool:
        if ref is None:
            return False
        item = next(item for item in self._all() if item.scaler_ref == ref)
        times = self.meter.refusals.get(ref, [])
        return item.exponent is None or (len(times) >= REFUSALS and times[-1] - times[0] >= REFUSED_OVER_MS)

    def _all(self) -> list[Quantity]:
        return [*self.quantities.values(), *(self.profile.columns if self.profile else ())]

    # what is to have arrived at the end

    def missing(self) -> list[str]:
        """What has a value in the meter and has not arrived."""
        missing: list[str] = []
        if "live" in self.ways:
            missing += [
                key
                for key, item in self.quantities.items()
                if item.truth() is not None
                and item.ref != self.meter.excepted
                and key not in self.live_arrived
            ]
        if self.profile is not None:
            missing += [f"{key} of {ts_ms}" for key, ts_ms in self._expected_rows() - self.arrived]
        return missing

    def _expected_rows(self) -> set[tuple[str, int]]:
        assert self.profile is not None
        oldest_ms = self.now_ms - 12 * _HOUR_MS
        return {
            (str(column.ref.obis), row.ts_ms)
            for row in self._sure_rows()
            for column, cell in zip(self.profile.columns, row.cells, strict=True)
            if oldest_ms <= row.ts_ms <= self.filled_ms and column.truth(cell) is not None
        }

    def _sure_rows(self) -> list[ProfileRow]:
        """Rows whose time can be told: not those that have, or follow, a clock without a time."""
        assert self.profile is not None
        habits = self.profile.habits
        unreadable = any(not row.readable for row in self.profile.rows)
        if habits.null_clocks and (unreadable or not habits.told_period_s):
            return []
        return [row for row in self.profile.rows if row.readable]

    # faults

    def random_faults(self) -> None:
        """From now on any attribute may be refused, unanswered, or answered with an exception."""
        self.meter.refuse = random_refusals(self.rng)

    def refused_scaler(self) -> None:
        """A few scalers are refused at a random moment, a few times; nothing else is."""
        places = sorted({item.scaler_ref for item in self._all() if item.scaler_ref})
        self.meter.refuse = scaler_refusals(self.rng, places)

    def heal(self) -> None:
        """The faults end, and what they caused to wait has waited.

        A column whose scaler is none at all stays a fault until it was refused often enough.
        """
        self.meter.refuse = lambda _: 0
        self.healed = self.takes = True
        self.now_ms += REFUSED_MS + _HOUR_MS
        if self.profile is not None and any(column.exponent is None for column in self.profile.columns):
            for _ in range(REFUSALS):
                self.cycle()
        self.live_arrived.clear()

    def cycle(self) -> None:
        """Everything that is due, then the time until it is due again."""
        self.filled_ms = self.now_ms
        for way in self.ways:
            if way in ("live", "profile"):
                self.step(way)
        wait_s = 0.0 if self.task is None else self.task.due_s() - self._clock()
        self.now_ms += max(PERIOD_MS, int(wait_s * 1000) + 1)
