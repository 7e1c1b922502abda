"""The contact with one meter: found when it comes, left alone when it must be, distrusted when it gives nothing."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.io import resolver
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings
from tests.support.pollers import Attempts, RunningPollers, wait_until
from tests.support.readers import device_settings

KEYS = ["voltage_l1", "active_energy"]
CODES = (Obis(1, 0, 32, 7, 0), Obis(1, 0, 1, 8, 0))
TEMPORARY_FAILURE = 2


def entry(fleet: SimulatedFleet, serial: str, **more: Any) -> DeviceSettings:
    settings = {
        "pollPeriod": 100,
        "timeout": 1000,
        "timeseries": KEYS,
        "backoff": {"initial": 20, "maximum": 100},
        **more,
    }
    return device_settings(fleet, serial, **settings)


def test_a_meter_that_is_off_at_the_start_is_found_when_it_comes_and_announced_then() -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        running = RunningPollers(fleet)
        fleet.power(False)
        poller = running.add(entry(fleet, serial))
        attempts = Attempts(poller.session)
        with running:
            wait_until(lambda: len(attempts.moments_s) >= 5)
            assert poller.health.state == "offline"
            assert not running.uplink.states[serial]  # nobody is told of a device that was never there
            assert not poller.contact.announced
            fleet.power(True)
            running.wait_for_readings(more=len(KEYS), timeout_s=3)
            assert poller.contact.announced
            assert poller.health.state == "online"
            assert running.uplink.states[serial][0] == "online"
            assert abs(poller.health.last_read_ms - time.time() * 1000) < 2000
            read_ms = poller.health.last_read_ms
            fleet.power(False)
            wait_until(lambda: running.uplink.states[serial][-1] == "offline")
            assert read_ms <= poller.health.last_read_ms < time.time() * 1000


def test_the_breaker_leaves_a_meter_alone_and_probes_once() -> None:
    pause_s = 0.8
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        running = RunningPollers(fleet)
        fleet.power(False)
        poller = running.add(
            entry(fleet, serial, breaker={"reconnects": 3, "pause": int(pause_s * 1000), "window": "1h"})
        )
        attempts = Attempts(poller.session)
        moments_s = attempts.moments_s
        with running:
            wait_until(lambda: len(moments_s) >= 6)
            assert poller.health.state == "breaker open"
            # the first, its budget of three, and then one probe after each pause
            assert moments_s[3] - moments_s[0] < pause_s
            for before_s, after_s in itertools.pairwise(moments_s[3:]):
                assert after_s - before_s >= pause_s
            fleet.power(True)
            running.wait_for_readings(more=len(KEYS), timeout_s=pause_s + 3)
            assert (poller.health.state, poller.health.breaker) == ("online", "closed")


def test_an_operator_need_not_wait_for_the_breaker() -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        running = RunningPollers(fleet)
        fleet.power(False)
        poller = running.add(entry(fleet, serial, breaker={"reconnects": 1, "pause": "1h"}))
        with running:
            wait_until(lambda: poller.health.state == "breaker open")
            fleet.power(True)
            poller.probe()
            running.wait_for_readings(more=len(KEYS), timeout_s=3)


def test_a_meter_that_gives_nothing_is_not_called_online_and_gets_a_fresh_association_then_a_fresh_stream() -> (
    None
):
    """Two meters behind one converter: the other one keeps its association as long as that may help."""
    meters = tuple(MeterSettings(f"{number:08d}", logical_address=number) for number in (1, 2))
    with SimulatedFleet(FleetSettings((LineSettings(meters, framing=WRAPPER),))) as fleet:
        dumb, fine = fleet.serials
        running = RunningPollers(fleet)
        for serial in fleet.serials:
            running.add(entry(fleet, serial, watchdog={"failedCycles": 4}))
        poller = running.pollers[dumb]
        with running:
            running.wait_for_readings(more=len(KEYS))
            opened = fleet.counters(dumb).associations_opened
            for code in CODES:
                fleet.refuse(dumb, 3, code, 2, TEMPORARY_FAILURE)
            wait_until(lambda: fleet.counters(dumb).associations_opened > opened)
            assert fleet.line_counters(dumb).connections == 1
            wait_until(lambda: running.uplink.states[dumb][-1] == "offline")
            assert "failed cycles" in poller.health.last_error
            wait_until(lambda: fleet.line_counters(dumb).connections == 2)
            told = [line for line in running.log.of("warning") if dumb in line]
            assert len(told) == 1
            running.wait_for_readings([fine], 4 * len(KEYS))
            assert running.pollers[fine].health.state == "online"
            fleet.heal(dumb)
            running.wait_for_readings([dumb], len(KEYS), 3)
            wait_until(lambda: running.uplink.states[dumb][-1] == "online")
            running.check_values()
        assert fleet.totals().meters.associations_open_max == 1


def test_silence_of_a_link_that_stands_is_noticed() -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        (serial,) = fleet.serials
        running = RunningPollers(fleet)
        poller = running.add(entry(fleet, serial, watchdog={"maxSilence": "1s", "failedCycles": 1000}))
        with running:
            running.wait_for_readings(more=len(KEYS))
            for code in CODES:
                fleet.refuse(serial, 3, code, 2, TEMPORARY_FAILURE)
            wait_until(lambda: fleet.line_counters(serial).connections == 2, 5)
            assert "no good reading for 1 s" in poller.health.last_error


def test_a_host_is_resolved_anew_at_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name stays, the meter behind it moves: what was found before is never used again."""
    with SimulatedFleet(FleetSettings.uniform(2)) as fleet:
        before, after = fleet.serials
        place = {"port": fleet.port(before)}
        _answer_names(monkeypatch, lambda: ("127.0.0.1", place["port"]))
        running = RunningPollers(fleet)
        running.add(entry(fleet, before, transport={"host": "meter.example", "port": 4059}))
        with running:
            running.wait_for_readings(more=len(KEYS))
            assert fleet.counters(after).associations_opened == 0
            place["port"] = fleet.port(after)
            fleet.drop_connections(before)
            running.wait_for_readings(more=2 * len(KEYS))
            assert fleet.counters(after).associations_opened == 1


def _answer_names(monkeypatch: pytest.MonkeyPatch, where: Callable[[], tuple[str, int]]) -> None:
    def answer(host: str, *_: object, **options: int) -> list[Any]:
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where())]

    monkeypatch.setattr(resolver.socket, "getaddrinfo", answer)
