"""The life of a poller: no fault ends it, no background work holds up its polls, none of its commands is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, DecodeError, Interrupted, LinkClosed, ServiceRefused
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.clock_check import ClockTask
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Command, Errand
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from tests.support.pollers import RunningPollers, wait_until
from tests.support.readers import device_settings

KEYS = ["voltage_l1", "active_energy"]
PERIOD_S = 0.1


def fleet_of(count: int = 1) -> SimulatedFleet:
    return SimulatedFleet(FleetSettings.uniform(count))


def entry(fleet: SimulatedFleet, **more: Any) -> DeviceSettings:
    settings = {
        "pollPeriod": int(PERIOD_S * 1000),
        "timeout": 1000,
        "timeseries": KEYS,
        "backoff": {"initial": 20, "maximum": 60_000},
        **more,
    }
    return device_settings(fleet, fleet.serials[0], **settings)


class Failing:
    """Background work that goes wrong each time, in a way to choose."""

    def __init__(self, fault: Callable[[MeterSession], Exception]) -> None:
        self.steps = 0
        self._fault = fault

    def due_s(self) -> float:
        return 0.0

    def step(self, session: MeterSession) -> None:
        self.steps += 1
        raise self._fault(session)


def _unplugged(session: MeterSession) -> Exception:
    session.abandon()
    return LinkClosed("the meter hangs up when it is asked that")


FAULTS: dict[str, Callable[[MeterSession], Exception]] = {
    "the link breaks": _unplugged,
    "no decoder takes it": lambda session: DecodeError("noise", offset=0),
    "a fault of ours": lambda session: ZeroDivisionError("of all things"),
    "the calendar ends": lambda session: OverflowError("date value out of range"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_background_work_that_always_fails_costs_no_live_value(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the polls nor the other tasks stop for it, and it does not use up the breaker's budget."""
    monkeypatch.setattr("dlms_connector.polling.poller._CRASH_PAUSE_S", 0.05)
    failing, seen = Failing(FAULTS[name]), list[float]()
    with fleet_of() as fleet:
        device = entry(fleet)
        clock = ClockTask(device, seen.append)
        clock._due_s = 0.0
        running = RunningPollers(fleet)
        poller = running.add(device, tasks=[failing, clock])
        with running:
            running.wait_for_readings(more=len(KEYS))
            wait_until(lambda: failing.steps == 3)
            running.wait_for_readings(more=15 * len(KEYS))
            assert failing.steps == 3
            assert len(seen) == 1
            assert poller.health.breaker == "closed"
            assert poller.health.connects <= 1 + failing.steps
            running.check_values()
            told = running.log.of("error")
            assert all("starts again" in line for line in told)
            assert bool(told) is (name in ("a fault of ours", "the calendar ends"))
            running.log.lines.clear()


def test_an_errand_rests_longer_and_longer_and_a_success_ends_that() -> None:
    now_s = 1000.0
    fault: Exception | None = LinkClosed("gone")

    def clock() -> float:
        return now_s

    class Task:
        def due_s(self) -> float:
            return 0.0

        def step(self, _: Any) -> None:
            if fault is not None:
                raise fault

    errand = Errand(Task(), 60.0)
    rests = []
    for _ in range(12):
        with pytest.raises(LinkClosed):
            errand.step(None, clock)  # type: ignore[arg-type]
        rests.append(max(0.0, errand.due_s() - now_s))
        now_s = max(now_s, errand.due_s())
    assert rests == [0, 0, 60, 120, 240, 480, 960, 1920, 1920, 1920, 1920, 1920]
    fault = ServiceRefused("not that")  # an answer: the link holds
    with pytest.raises(ServiceRefused):
        errand.step(None, clock)  # type: ignore[arg-type]
    fault = None
    errand.step(None, clock)  # type: ignore[arg-type]
    fault = LinkClosed("gone")
    with pytest.raises(LinkClosed):
        errand.step(None, clock)  # type: ignore[arg-type]
    assert errand.due_s() <= now_s


CRASHES: dict[str, Callable[[], BaseException]] = {
    "an error of ours": lambda: KeyError("absent"),
    "memory": MemoryError,
    "recursion": lambda: RecursionError("too deep"),
    "an interrupt that nobody sent": lambda: Interrupted("out of the blue"),
}


@pytest.mark.parametrize("name", CRASHES)
def test_a_poller_that_dies_is_started_again_and_it_is_told(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlms_connector.polling.poller._CRASH_PAUSE_S", 0.05)
    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        poller = running.add(entry(fleet))
        with running:
            running.wait_for_readings(more=len(KEYS))
            read = poller.session.read_batch
            crashes = [CRASHES[name]() for _ in range(3)]

            def broken(batch: Any) -> Any:
                if crashes:
                    raise crashes.pop()
                return read(batch)

            monkeypatch.setattr(poller.session, "read_batch", broken)
            wait_until(lambda: not crashes)
            running.wait_for_readings(more=2 * len(KEYS))
            assert poller.health.state == "online"
            told = running.log.of("error")
            assert len(told) == 3
            assert all(fleet.serials[0] in line and "starts again" in line for line in told)
            running.log.lines.clear()


def test_leaving_that_fails_too_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A serial adapter that was pulled out raises from wherever it is touched, also from the clearing up."""
    monkeypatch.setattr("dlms_connector.polling.poller._CRASH_PAUSE_S", 0.05)
    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        poller = running.add(entry(fleet))
        with running:
            running.wait_for_readings(more=len(KEYS))
            session = poller.session

            def unplugged(*_: object) -> Any:
                raise OSError(5, "Input/output error")

            with monkeypatch.context() as patch:
                for name in ("read_batch", "close", "abandon"):
                    patch.setattr(session, name, unplugged)
                wait_until(lambda: len(running.log.of("error")) >= 2)
            running.wait_for_readings(more=2 * len(KEYS))
            running.log.lines.clear()


def test_a_pause_in_mid_cycle_releases_the_meter() -> None:
    """Without health to be told, nothing else would wake the poller until it is resumed."""
    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        poller = running.add(entry(fleet, health={"enabled": False}))
        deliver = running.uplink.deliver

        def pausing(*data: Any) -> bool:
            poller.pause()
            return deliver(*data)

        running.uplink.deliver = pausing  # type: ignore[method-assign]
        with running:
            wait_until(lambda: poller.health.state == "paused", 5)
            assert fleet.counters(fleet.serials[0]).associations_open == 0
            read = running.count(fleet.serials[0])
            running.uplink.deliver = deliver  # type: ignore[method-assign]
            poller.resume()
            running.wait_for_readings(more=len(KEYS))
            assert read == len(KEYS)


def test_registers_that_are_set_aside_are_no_failed_polls() -> None:
    """A fast period whose only register is refused costs neither the success rate nor the connection."""
    with fleet_of() as fleet:
        (serial,) = fleet.serials
        fleet.refuse(serial, 3, Obis(1, 0, 32, 7, 0), 2, 4)
        running = RunningPollers(fleet)
        fast = {"key": "voltage_l1", "obis": "1-0:32.7.0", "pollPeriod": 100}
        device = entry(
            fleet, pollPeriod=1000, timeseries=[fast, "active_energy"], watchdog={"failedCycles": 3}
        )
        poller = running.add(device)
        with running:
            running.wait_for_readings(more=3)
            assert poller.health.connects == 1
            assert poller.health.success_rate == 100.0
            assert not running.log.of("warning")
            fleet.heal(serial)


def test_a_command_that_comes_while_the_poller_leaves_is_answered() -> None:
    """Between the question whether it is closing and the queue, the poller may have gone."""
    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        poller = running.add(entry(fleet))
        with running:
            running.wait_for_readings(more=len(KEYS))
        assert not poller.thread.is_alive()
        poller._leaving = Interrupt()  # what submit saw a moment before
        answers: list[Any] = []
        poller.submit(Command("get", lambda _: None, lambda *answer: answers.append(answer), 1e12))
        assert len(answers) == 1
        assert isinstance(answers[0][1], CommandError)


def test_a_poller_waits_for_the_one_before_and_can_be_stopped_meanwhile() -> None:
    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        first = running.add(entry(fleet))
        with running:
            running.wait_for_readings(more=len(KEYS))
            second = DevicePoller(
                first.device, first.session, first.contact.line, running.around, predecessor=first.thread
            )
            second.start()
            third = DevicePoller(
                first.device, first.session, first.contact.line, running.around, predecessor=first.thread
            )
            third.start()
            third.stop()
            third.thread.join(2)
            assert not third.thread.is_alive()
            assert second.thread.is_alive()
            assert second.health.cycles == 0
            second.stop()
            second.thread.join(2)
            assert not second.thread.is_alive()


def test_the_meter_is_left_in_the_orderly_way_at_every_end() -> None:
    """Recovery would keep the next association out: nothing here may end uncleanly."""
    settings = FleetSettings.uniform(2)
    with SimulatedFleet(settings) as fleet:
        ends: list[bool] = []
        for serial in fleet.serials:
            device = fleet.device(serial)
            closed = device.closed

            def watched(
                association: Any, *, cleanly: bool, device: Any = device, closed: Any = closed
            ) -> None:
                if association in device.associations:
                    ends.append(cleanly)
                closed(association, cleanly=cleanly)

            fleet.call(lambda device=device, watched=watched: setattr(device, "closed", watched))
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(device_settings(fleet, serial, pollPeriod=200, timeseries=KEYS))
        with running:
            running.wait_for_readings(more=len(KEYS))
            running.pollers[fleet.serials[0]].pause()
            wait_until(lambda: len(ends) == 1)
        assert ends == [True, True]


def test_background_work_takes_turns() -> None:
    """A profile with a year to fill does not keep the others from their first row."""
    order: list[str] = []

    class Task:
        def __init__(self, name: str, steps: int) -> None:
            self._name = name
            self._steps = steps
            self._due_s = 0.0

        def due_s(self) -> float:
            return self._due_s if self._steps else float("inf")

        def step(self, _: MeterSession) -> None:
            order.append(self._name)
            self._steps -= 1
            self._due_s = time.monotonic()

    with fleet_of() as fleet:
        running = RunningPollers(fleet)
        running.add(entry(fleet), tasks=[Task("long", 20), Task("short", 2)])
        with running:
            wait_until(lambda: len(order) == 22)
        assert "short" in order[:2]
        assert order[:4].count("short") == 2
