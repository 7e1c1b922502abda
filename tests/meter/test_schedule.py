"""The grid: fixed, spread by name, never queueing late cycles."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.meter.schedule import Schedule, phase_of

periods = st.sampled_from([0.5, 1.0, 5.0, 60.0, 900.0])


def make(name: str, *periods_s: float, wall_s: float = 1_000_000.25, first_s: float = 0.0) -> Schedule:
    return Schedule(periods_s, name, wall_s=wall_s, now_s=0.0, first_s=first_s)


@given(st.text(min_size=1), periods, st.floats(0, 1e9))
def test_due_times_lie_on_the_grid(name: str, period: float, wall_s: float) -> None:
    schedule = make(name, period, wall_s=wall_s)
    schedule.due(0.0)
    for _ in range(5):
        due_s = schedule.next_s
        position = (wall_s + due_s - phase_of(name) * period) % period
        assert min(position, period - position) < 1e-3
        assert schedule.due(due_s)[0] == (period,)


def test_names_spread_over_the_period() -> None:
    phases = sorted(phase_of(f"meter_{number}") for number in range(300))
    gaps = [later - earlier for earlier, later in pairwise(phases)]
    assert phases[0] < 0.05
    assert phases[-1] > 0.95
    assert max(gaps) < 0.05


def test_everything_is_read_first_then_each_period_by_itself() -> None:
    schedule = make("m", 1.0, 10.0, first_s=0.5)
    assert schedule.due(0.4) == ((), 0.0, 0)
    assert schedule.due(0.5)[0] == (1.0, 10.0)
    reads = {1.0: 0, 10.0: 0}
    now = 0.5
    while now < 100:
        now = schedule.next_s
        for period in schedule.due(now)[0]:
            reads[period] += 1
    assert reads[1.0] == 100
    assert reads[10.0] == 10


@given(st.floats(0.01, 1000))
def test_a_late_cycle_is_skipped_and_counted(delay_s: float) -> None:
    schedule = make("m", 1.0)
    schedule.due(0.0)
    due_s = schedule.next_s
    _, lateness, missed = schedule.due(due_s + delay_s)
    assert abs(lateness - delay_s) < 1e-6
    assert missed == int(due_s + delay_s - due_s)
    assert 0 < schedule.next_s - (due_s + delay_s) <= 1.0


def test_nothing_to_read_is_never_due() -> None:
    assert make("m").next_s == float("inf")
