"""The clock check: once a period, quietly, and what it finds is what the meter's clock shows."""

from __future__ import annotations

from typing import Any

import pytest

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, LinkClosed, ObjectError
from dlms_connector.meter import clock_check
from dlms_connector.meter.clock_check import ClockTask
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from tests.support.readers import Bench, device_settings, opened

DAY_S = 86_400.0


def device(**clock: Any) -> DeviceSettings:
    return DeviceSettings.model_validate(
        {"deviceName": "m", "transport": {"type": "tcp", "host": "h", "port": 1}, "clock": clock}
    )


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_the_offset_of_a_real_meter() -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        fleet.device(serial).controls.clock_shift_s = 90.0
        seen: list[float] = []
        settings = device_settings(fleet, serial)
        time = Time()
        task = ClockTask(settings, seen.append, clock=time)
        with opened(Bench().session(settings)) as session:
            task.step(session)
        assert seen == [pytest.approx(90.0, abs=2.0)]
        assert task.due_s() == time.now_s + DAY_S


NEVER_SET = {
    "nothing set": "000000000000000000000000",
    "an impossible deviation": "07ea0a19010c0000007fff00",
    "the year one": "000101010000000000800000",
    "the last year": "270f0c1f05173b3b00800000",
    "short": "07ea0a19",
}


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/Bogota"])
@pytest.mark.parametrize("name", NEVER_SET)
def test_a_clock_that_was_never_set_costs_neither_the_association_nor_another_look(
    name: str, zone: str
) -> None:
    """A fault of the link would be tried again at once, for ever, and the live values would pay for it."""
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        raw = bytes.fromhex(NEVER_SET[name])
        fleet.override(serial, 8, Obis(0, 0, 1, 0, 0), 2, bytes((9, len(raw))) + raw)
        seen: list[float] = []
        settings = device_settings(fleet, serial, clock={"timeZone": zone})
        time = Time()
        task = ClockTask(settings, seen.append, clock=time)
        with opened(Bench().session(settings)) as session:
            task.step(session)
            assert session.is_open
        assert task.due_s() == time.now_s + DAY_S
        assert len(seen) <= (name in ("the year one", "the last year"))  # in some zones they are moments


def test_the_first_look_comes_after_the_registers_and_not_for_all_meters_at_once() -> None:
    time = Time()
    due = ClockTask(device(), lambda _: None, clock=time).due_s() - time.now_s
    assert 60 <= due <= 300
    other = DeviceSettings.model_validate({**device().model_dump(by_alias=True), "deviceName": "n"})
    assert ClockTask(other, lambda _: None, clock=time).due_s() - time.now_s != due


def test_zero_switches_it_off() -> None:
    assert ClockTask(device(checkPeriod=0), lambda _: None).due_s() == float("inf")


@pytest.mark.parametrize(
    "answer",
    [
        ObjectError("denied", code=3, permanent=True),
        CommandError("the meter's clock is no date-time"),
        {"offsetMs": None},
    ],
)
def test_a_meter_without_a_readable_clock_is_no_fault(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_clock(_: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(clock_check.operations, "read_clock", read_clock)
    seen: list[float] = []
    time = Time()
    task = ClockTask(device(checkPeriod="1h"), seen.append, clock=time)
    task.step(None)  # type: ignore[arg-type]
    assert seen == []
    assert task.due_s() == time.now_s + 3600


def test_a_broken_link_is_told_and_the_look_stays_due(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_clock(_: Any) -> Any:
        raise LinkClosed("gone")

    monkeypatch.setattr(clock_check.operations, "read_clock", read_clock)
    task = ClockTask(device(), lambda _: None, clock=Time())
    before = task.due_s()
    with pytest.raises(LinkClosed):
        task.step(None)  # type: ignore[arg-type]
    assert task.due_s() == before
