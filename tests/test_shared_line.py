"""Thirty-two meters on one slow line, some of them dead: fair, one at a time, and nobody starves."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.obis import Obis
from dlms_connector.polling.ports import Command
from dlms_connector.simulator.faults import Fault, FaultKind
from dlms_connector.simulator.fleet import HDLC, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings
from tests.support.pollers import RunningPollers, wait_until
from tests.support.readers import device_settings

METERS = 32
DEAD = 5
BAUD = 9600
PERIOD_S = 10.0
KEYS = ["voltage_l1", "active_energy"]


def bus(count: int = METERS, *, meter: dict[str, Any] | None = None, **line: Any) -> SimulatedFleet:
    meters = tuple(
        MeterSettings(
            f"{index:08d}", logical_address=1, physical_address=100 + index, address_size=4, **(meter or {})
        )
        for index in range(1, count + 1)
    )
    return SimulatedFleet(FleetSettings((LineSettings(meters, framing=HDLC, **line),)))


def entry(fleet: SimulatedFleet, serial: str, **more: Any) -> DeviceSettings:
    settings: dict[str, Any] = {
        "timeseries": [{"key": key, "obis": code, "scaler": scaler} for key, code, scaler in _REGISTERS],
        "pollPeriod": int(PERIOD_S * 1000),
        "timeout": 700,
        "backoff": {"initial": 1000, "maximum": 60_000},
        **more,
    }
    return device_settings(fleet, serial, **settings)


_REGISTERS = (("voltage_l1", "1-0:32.7.0", -2), ("active_energy", "1-0:1.8.0", 0))


@pytest.mark.slow
@pytest.mark.parametrize("arrangement", ["side by side", "one connection", "exclusive"])
def test_thirty_two_meters_five_of_them_dead(arrangement: str) -> None:
    transport: dict[str, Any] = {"interFrameDelay": 2}
    if arrangement == "exclusive":
        transport["exclusive"] = True
    single = arrangement != "side by side"
    baud = BAUD * 4 if arrangement == "exclusive" else BAUD  # associating anew each time is what costs there
    with bus(baud=baud, single_connection=single) as fleet:
        dead = fleet.serials[::7][:DEAD]
        living = [serial for serial in fleet.serials if serial not in dead]
        fleet.power(False, dead)
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(entry(fleet, serial, transport=transport))
        with running:
            running.wait_for_readings(living, len(KEYS))
            skipped = {serial: running.pollers[serial].health.skipped_cycles for serial in living}
            probed = {serial: len(_attempts(running, serial)) for serial in dead}
            began_s = time.monotonic()
            running.wait_for_readings(living, 2 * len(KEYS), 4 * PERIOD_S)
            assert time.monotonic() - began_s < 3 * PERIOD_S
            for serial in living:
                health = running.pollers[serial].health
                assert health.skipped_cycles == skipped[serial], serial
                assert health.lateness_s < PERIOD_S
                assert health.last_error == "", health.last_error
            for serial in dead:
                assert len(_attempts(running, serial)) - probed[serial] <= 4
            running.check_values(slack_s=3)
            if single:
                assert fleet.line_counters(living[0]).connections_refused == 0
            assert fleet.line_counters(living[0]).overlaps == 0
            assert fleet.totals().meters.associations_open_max == 1
            if arrangement == "exclusive":
                assert fleet.line_counters(living[0]).connections <= 3


def _attempts(running: RunningPollers, serial: str) -> range:
    return range(running.pollers[serial].health.reconnects)


def test_dead_meters_are_probed_ever_more_rarely() -> None:
    with bus(4) as fleet:
        dead = fleet.serials[0]
        fleet.power(False, [dead])
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(
                entry(
                    fleet, serial, timeout=100, pollPeriod=200, backoff={"initial": 100, "maximum": 100_000}
                )
            )
        moments: list[float] = []
        session = running.pollers[dead].session
        open_session = session.open

        def watched() -> None:
            moments.append(time.monotonic())
            open_session()

        session.open = watched  # type: ignore[method-assign]
        with running:
            wait_until(lambda: len(moments) >= 6)
            pauses = [after - before for before, after in itertools.pairwise(moments)]
            assert pauses[-1] > 3 * pauses[0]
            for serial in fleet.serials[1:]:
                assert running.count(serial) > 4


def test_a_command_goes_before_the_polls_of_others() -> None:
    with bus(12, baud=BAUD) as fleet:
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(entry(fleet, serial, pollPeriod=500, timeout=2000))  # more than the line can do
        with running:
            running.wait_for_readings(more=len(KEYS))
            for serial in fleet.serials[:6]:
                answers: list[tuple[Any, DlmsConnectorError | None]] = []
                began_s = time.monotonic()
                running.pollers[serial].submit(
                    Command(
                        "get",
                        lambda session: session.get(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)),
                        lambda result, error, answers=answers: answers.append((result, error)),
                        began_s + 5,
                    )
                )
                wait_until(lambda answers=answers: bool(answers), 5)
                assert answers[0][1] is None
                assert time.monotonic() - began_s < 1.0
            counts = [running.count(serial) for serial in fleet.serials]
            assert min(counts) > 0.4 * max(counts)  # nobody starves on a line that is too slow


def test_a_command_does_not_wait_behind_a_line_for_ever() -> None:
    with bus(2, baud=BAUD) as fleet:
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(entry(fleet, serial, pollPeriod=60_000, timeout=5000))
        first, second = fleet.serials
        with running:
            running.wait_for_readings(more=len(KEYS))
            fleet.freeze(first)
            answers: list[DlmsConnectorError | None] = []

            def ask(serial: str, patience_s: float) -> None:
                running.pollers[serial].submit(
                    Command(
                        "get",
                        lambda session: session.get(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)),
                        lambda _, error: answers.append(error),
                        time.monotonic() + patience_s,
                    )
                )

            ask(first, 10)
            wait_until(lambda: running.lines[first]._turn is not None)
            ask(second, 0.5)
            wait_until(lambda: bool(answers), 3)
            assert "busy" in str(answers[0])
            assert running.pollers[second].session.is_open  # its association is not to blame
            fleet.thaw(first)


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_inactivity_timeout_is_kept(exclusive: bool) -> None:
    """The meter would end the association after 1.5 s; the pollers, every 3 s, leave before."""
    with bus(3, meter={"inactivity_timeout_s": 1.5}) as fleet:
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(
                entry(
                    fleet,
                    serial,
                    pollPeriod=3000,
                    transport={"inactivityTimeout": 1500, "exclusive": exclusive},
                )
            )
        with running:
            running.wait_for_readings(more=3 * len(KEYS))
            for poller in running.pollers.values():
                assert poller.health.reconnects == 0
                assert poller.health.last_error == ""
            running.check_values()


@pytest.mark.parametrize("exclusive", [False, True])
def test_the_wait_after_an_unclean_end_is_longer_than_the_timeout(exclusive: bool) -> None:
    with bus(2, meter={"recovery_s": 1.0, "exclusive": True}) as fleet:
        running = RunningPollers(fleet)
        transport = {"reassociationDelay": 1200, "exclusive": exclusive}
        for serial in fleet.serials:
            running.add(
                entry(
                    fleet,
                    serial,
                    pollPeriod=300,
                    timeout=400,
                    transport=transport,
                    backoff={"initial": 20, "maximum": 50},
                )
            )
        with running:
            running.wait_for_readings(more=len(KEYS))
            refused = fleet.totals().meters.associations_refused
            fleet.drop_connections(fleet.serials[0])
            running.wait_for_readings(more=3 * len(KEYS), timeout_s=10)
            assert fleet.totals().meters.associations_refused == refused
            assert fleet.totals().meters.associations_open_max == 1
            for poller in running.pollers.values():
                assert poller.health.reconnects <= 2


@pytest.mark.parametrize("exclusive", [False, True])
def test_profiles_are_read_where_the_association_is_given_up_between_polls(exclusive: bool) -> None:
    with bus(3) as fleet:
        running = RunningPollers(fleet)
        more = {"exclusive": True} if exclusive else {"inactivityTimeout": 1000}
        for serial in fleet.serials:
            device = entry(
                fleet,
                serial,
                pollPeriod=2000,
                transport=more,
                profiles=[{"obis": "1-0:99.1.0", "backfill": "2h", "pollPeriod": 3000}],
            )
            running.add(device)
        with running:
            wait_until(lambda: all(len(running.uplink.rows[serial]) >= 8 for serial in fleet.serials))
            running.wait_for_readings(more=2 * len(KEYS))
            assert not running.log.of("warning")


def test_a_meter_of_which_only_a_profile_is_read() -> None:
    with bus(1) as fleet:
        running = RunningPollers(fleet)
        serial = fleet.serials[0]
        profile = {"obis": "1-0:99.1.0", "backfill": "2h", "pollPeriod": 1000}
        running.add(entry(fleet, serial, timeseries=[], profiles=[profile]))
        with running:
            wait_until(lambda: len(running.uplink.rows[serial]) >= 8)
            assert running.pollers[serial].health.state == "online"


_SPOILT = (
    FaultKind.SILENT,
    FaultKind.LATE,
    FaultKind.DUPLICATE,
    FaultKind.TRUNCATED,
    FaultKind.WRONG_ADDRESS,
    FaultKind.GARBAGE,
    FaultKind.BAD_FCS,
    FaultKind.WRONG_INVOKE_ID,
    FaultKind.RESET,
)


@pytest.mark.slow
def test_late_and_spoilt_answers_of_one_meter_never_become_values_of_another() -> None:
    rng = random.Random(3)
    with bus(8) as fleet:
        running = RunningPollers(fleet)
        registers = [
            {"key": key, "obis": code, "scaler": scaler, "pollPeriod": 200 + 100 * index}
            for index, (key, code, scaler) in enumerate(_REGISTERS)
        ]
        for serial in fleet.serials:
            running.add(
                entry(
                    fleet,
                    serial,
                    timeseries=registers,
                    pollPeriod=200,
                    timeout=150,
                    backoff={"initial": 20, "maximum": 100},
                    breaker={"reconnects": 10_000},
                )
            )
        with running:
            running.wait_for_readings()
            for _ in range(150):
                serial = rng.choice(fleet.serials)
                fleet.inject(serial, Fault(rng.choice(_SPOILT), delay_s=rng.uniform(0.1, 0.5)))
                meters = fleet.device(serial)
                wait_until(lambda meters=meters: not meters.faults, 10)
            running.wait_for_readings(more=8, timeout_s=15)
            assert running.check_values(slack_s=3) > 200
