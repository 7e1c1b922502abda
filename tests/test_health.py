"""Back-off, breaker, watchdog: every rule with a clock of its own."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.config.settings import BackoffSettings, BreakerSettings, WatchdogSettings
from dlms_connector.errors import LinkTimeout
from dlms_connector.polling.health import Backoff, Breaker, Health, MeterState, Watchdog


def backoff_settings(initial: int, maximum: int) -> BackoffSettings:
    return BackoffSettings.model_validate({"initial": initial, "maximum": maximum})


@given(st.integers(10, 10_000), st.integers(10, 100_000), st.integers(1, 200))
def test_back_off_grows_is_jittered_and_capped(initial: int, maximum: int, failures: int) -> None:
    backoff = Backoff(backoff_settings(initial, maximum), random.Random(failures))
    for number in range(failures):
        step_s = min(maximum, initial * 2**number) / 1000
        assert step_s / 2 <= backoff.next_pause_s() <= step_s
    backoff.reset()
    assert backoff.next_pause_s() <= min(initial, maximum) / 1000


def test_different_meters_do_not_come_back_at_the_same_moment() -> None:
    pauses = {Backoff(backoff_settings(1000, 1000), random.Random(seed)).next_pause_s() for seed in range(50)}
    assert len(pauses) == 50


def breaker() -> Breaker:
    return Breaker(BreakerSettings.model_validate({"reconnects": 3, "window": "1h", "pause": "5m"}))


def fail(breaker: Breaker, now_s: float) -> None:
    breaker.attempt(now_s)
    breaker.failed(now_s)


def test_breaker_opens_after_its_budget_then_probes_once() -> None:
    tested = breaker()
    fail(tested, 0)
    fail(tested, 10)
    assert (tested.state(10), tested.wait_s(10)) == ("closed", 0)
    fail(tested, 20)
    assert (tested.state(20), tested.wait_s(20)) == ("open", 300)
    assert (tested.state(320), tested.wait_s(320)) == ("half-open", 0)
    fail(tested, 320)  # the probe fails: open again at once
    assert tested.wait_s(320) == 300
    tested.succeeded()
    assert (tested.state(321), tested.wait_s(321)) == ("closed", 0)
    fail(tested, 322)  # and the budget is whole again
    assert tested.state(322) == "closed"


def test_attempts_outside_the_window_do_not_count() -> None:
    tested = breaker()
    fail(tested, 0)
    fail(tested, 10)
    fail(tested, 3700)
    assert tested.state(3700) == "closed"


def watchdog() -> Watchdog:
    settings = {"maxSilence": "10m", "failedCycles": 3, "linkErrors": 4}
    return Watchdog(WatchdogSettings.model_validate(settings), 0.0)


def test_watchdog_speaks_for_each_reason_once() -> None:
    silent = watchdog()
    assert silent.verdict(599) is None
    assert "600 s" in str(silent.verdict(601))
    assert silent.verdict(602) is None
    failing = watchdog()
    for _ in range(3):
        failing.failed_cycle()
    assert "3 failed cycles" in str(failing.verdict(1))
    broken = watchdog()
    for _ in range(4):
        broken.link_error()
    assert "4 link errors" in str(broken.verdict(1))
    broken.link_error()
    broken.good(2)
    assert broken.verdict(3) is None


def test_the_watchdog_knows_that_a_fresh_connection_did_not_help() -> None:
    tested = watchdog()
    assert tested.verdict(601) is not None
    assert not tested.in_vain
    assert tested.verdict(1202) is not None
    assert tested.in_vain
    tested.good(1203)
    assert tested.verdict(1804) is not None
    assert not tested.in_vain


def test_health_tells_what_thingsboard_shows() -> None:
    health = Health()
    for good in (True, True, False, True):
        health.cycle(good, 100.0)
    assert health.error(LinkTimeout("no answer", hint="look at the cable"))
    assert not health.error(LinkTimeout("no answer", hint="look at the cable"))
    health.state = MeterState.OFFLINE
    values = health.values()
    assert values["dlms_state"] == "offline"
    assert values["dlms_lastError"] == "tcp: no answer (look at the cable)"
    assert values["dlms_successRate"] == 75.0
    assert values["dlms_latencyMs"] == 100.0
