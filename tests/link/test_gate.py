"""The gate: so many at a time, first come first served, and nobody who leaves takes a place along."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from dlms_connector.errors import Interrupted
from dlms_connector.io.gate import Gate
from dlms_connector.io.stream import Interrupt
from tests.support.link_peer import wait_until


class Visitor:
    """Takes a place in a thread of its own and keeps it until told to go."""

    def __init__(self, gate: Gate) -> None:
        self.brake, self.inside, self.go = Interrupt(), threading.Event(), threading.Event()
        self._gate = gate
        self.thread = threading.Thread(target=self._visit)
        self.thread.start()

    def _visit(self) -> None:
        with suppress(Interrupted), self._gate.place(self.brake):
            self.inside.set()
            self.go.wait(10)

    def leave(self) -> None:
        self.go.set()
        self.thread.join(5)
        assert not self.thread.is_alive()


def queued(gate: Gate) -> int:
    return len(gate._queue)


def test_places_are_given_in_the_order_of_arrival() -> None:
    gate = Gate(2)
    visitors = []
    for number in range(6):
        visitors.append(Visitor(gate))
        wait_until(
            lambda number=number: (
                visitors[number].inside.is_set() if number < 2 else queued(gate) == number - 1
            )
        )  # type: ignore[misc]
    for number, visitor in enumerate(visitors):
        assert visitor.inside.wait(5)
        assert [other.inside.is_set() for other in visitors] == [index < number + 2 for index in range(6)]
        visitor.leave()
        wait_until(lambda number=number: number + 2 >= 6 or visitors[number + 2].inside.is_set())  # type: ignore[misc]
    assert gate._free == 2


def test_whoever_is_interrupted_leaves_the_queue_or_passes_the_place_on() -> None:
    gate = Gate(1)
    first = Visitor(gate)
    assert first.inside.wait(5)
    waiting = [Visitor(gate) for _ in range(5)]
    wait_until(lambda: queued(gate) == 5)
    for visitor in waiting[:4]:
        visitor.brake.set()
        visitor.thread.join(5)
        assert not visitor.thread.is_alive()
        assert not visitor.inside.is_set()
    assert queued(gate) == 1
    first.leave()
    assert waiting[4].inside.wait(5)
    waiting[4].leave()
    assert gate._free == 1


def test_a_brake_that_was_pulled_before_takes_no_place() -> None:
    gate = Gate(1)
    brake = Interrupt()
    brake.set()
    first = Visitor(gate)
    assert first.inside.wait(5)
    with pytest.raises(Interrupted), gate.place(brake):
        raise AssertionError("was let in")
    assert queued(gate) == 0
    first.leave()
    assert gate._free == 1


def test_a_fault_inside_gives_the_place_back() -> None:
    gate = Gate(1)
    with pytest.raises(ZeroDivisionError), gate.place(Interrupt()):
        raise ZeroDivisionError
    assert gate._free == 1


def test_places_survive_a_crowd_that_is_interrupted_at_any_moment() -> None:
    gate = Gate(3)
    inside, most, lock = [0], [0], threading.Lock()
    brakes = [Interrupt() for _ in range(40)]

    def visit(brake: Interrupt) -> None:
        with suppress(Interrupted):
            for _ in range(50):
                with gate.place(brake):
                    with lock:
                        inside[0] += 1
                        most[0] = max(most[0], inside[0])
                    with lock:
                        inside[0] -= 1

    threads = [threading.Thread(target=visit, args=(brake,)) for brake in brakes]
    for thread in threads:
        thread.start()
    for brake in brakes[::2]:
        brake.set()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert 1 <= most[0] <= 3
    assert (gate._free, queued(gate)) == (3, 0)
