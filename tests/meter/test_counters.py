"""Invocation counters: each once in the life of a key, whatever ends the process."""

from __future__ import annotations

import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dlms_connector.cosem.security import COUNTER_LIMIT
from dlms_connector.errors import SecurityError
from dlms_connector.meter.counters import WARN_AT, InvocationCounters
from dlms_connector.state import StateStore

KILLS = 300


def _use_counters(path: Path, pipe: Connection) -> None:
    """Use counters until killed; each is told before the next is taken."""
    counters = InvocationCounters(StateStore(path), "meter/1", lambda _: None)
    while True:
        number = counters.next()
        pipe.send_bytes(number.to_bytes(4, "big"))
        if number % 700 == 0:
            counters.raise_to(number + 50)


def test_no_kill_makes_a_counter_be_used_twice(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rng = random.Random(4)
    used: set[int] = set()
    highest = -1
    for _ in range(KILLS):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_use_counters, args=(tmp_path / "state.sqlite", theirs))
        process.start()
        theirs.close()
        assert ours.poll(20)
        time.sleep(rng.uniform(0, 0.01))  # the moment of the kill is what varies
        process.kill()
        numbers = _drain(ours)
        process.join()
        assert numbers
        assert min(numbers) > highest
        assert len(set(numbers)) == len(numbers)
        assert used.isdisjoint(numbers)
        used.update(numbers)
        highest = max(numbers)


def _drain(pipe: Connection) -> list[int]:
    numbers = []
    try:
        while True:
            numbers.append(int.from_bytes(pipe.recv_bytes(), "big"))
    except (EOFError, OSError):
        return numbers


@pytest.fixture
def state() -> StateStore:
    return StateStore(None)


def test_counters_grow_and_are_never_lowered(state: StateStore) -> None:
    counters = InvocationCounters(state, "meter/1", lambda _: None)
    assert not counters.known
    first = [counters.next() for _ in range(1200)]
    assert first == sorted(set(first))
    counters.raise_to(100)
    assert counters.next() > first[-1]
    counters.raise_to(50_000)
    assert counters.next() == 50_000
    assert counters.known
    assert InvocationCounters(state, "meter/1", lambda _: None).next() > 50_000


def test_each_client_of_each_meter_has_its_own(state: StateStore) -> None:
    InvocationCounters(state, "meter/1", lambda _: None).raise_to(9000)
    other = InvocationCounters(state, "meter/2", lambda _: None)
    assert not other.known
    assert other.next() == 0


def test_the_end_is_near_and_then_there(state: StateStore) -> None:
    warnings: list[str] = []
    counters = InvocationCounters(state, "meter/1", warnings.append)
    counters.raise_to(WARN_AT - 1)
    counters.next()
    assert not warnings
    counters.next()
    counters.next()
    assert len(warnings) == 1
    assert "change the key" in warnings[0]
    counters.raise_to(COUNTER_LIMIT)
    assert counters.next() == COUNTER_LIMIT
    for _ in range(2):
        with pytest.raises(SecurityError, match="used up"):
            counters.next()
