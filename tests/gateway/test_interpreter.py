"""What the collector sees while connectors are open, and how long a thread waits for its turn to run."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Iterator

import pytest

from dlms_connector.gateway.interpreter import FULL_WALK_S, WAKE_UPS_A_S, Interpreter


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Knot:
    """Garbage that a reference count does not free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def clock() -> Iterator[Clock]:
    callbacks = list(gc.callbacks)
    gc.disable()  # only the collections that a test asks for
    yield Clock()
    gc.enable()
    gc.callbacks[:] = callbacks
    gc.unfreeze()
    gc.collect()


def test_what_a_full_collection_leaves_over_is_not_walked_again(clock: Clock) -> None:
    kept = Interpreter(clock)
    kept.suit(self := object(), 1)
    assert gc.get_freeze_count() > 1000
    made = [[] for _ in range(5000)]  # type: ignore[var-annotated]
    assert len(gc.get_objects()) >= 5000
    gc.collect()
    assert len(gc.get_objects()) < 1000
    assert len(made) == 5000
    kept.release(self)
    assert gc.get_freeze_count() == 0


def test_new_garbage_is_collected_at_once_and_old_garbage_by_the_next_full_walk(clock: Clock) -> None:
    kept = Interpreter(clock)
    kept.suit(self := object(), 1)
    fresh = weakref.ref(Knot())
    old_knot = Knot()
    old = weakref.ref(old_knot)
    gc.collect()
    assert fresh() is None
    del old_knot
    gc.collect()
    assert old() is not None  # frozen before it became garbage
    clock.now_s += FULL_WALK_S + 1
    gc.collect()
    gc.collect()
    assert old() is None
    assert gc.get_freeze_count() > 1000  # and out of sight again
    kept.release(self)


def test_the_last_user_takes_the_habit_along(clock: Clock) -> None:
    kept, before = Interpreter(clock), len(gc.callbacks)
    first, second = object(), object()
    kept.suit(first, 1)
    kept.suit(second, 1)
    assert len(gc.callbacks) == before + 1
    kept.release(first)
    kept.release(first)
    gc.collect()
    assert gc.get_freeze_count() > 0
    kept.release(second)
    kept.release(second)
    assert len(gc.callbacks) == before
    gc.collect()
    assert gc.get_freeze_count() == 0


def test_thousands_of_threads_ask_for_the_interpreter_more_rarely(clock: Clock) -> None:
    kept, usual_s = Interpreter(clock), sys.getswitchinterval()
    small, large, larger = object(), object(), object()
    kept.suit(small, 100)
    assert sys.getswitchinterval() == pytest.approx(usual_s)
    kept.suit(large, 3000)
    kept.suit(larger, 6900)
    assert sys.getswitchinterval() == pytest.approx(10_000 / WAKE_UPS_A_S)
    for user in (larger, large, small):
        kept.release(user)
    assert sys.getswitchinterval() == pytest.approx(usual_s)
