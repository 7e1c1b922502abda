"""Lines: turns, fairness, streams that outlive a meter's failure."""

from __future__ import annotations

import threading
import time

import pytest

from dlms_connector.errors import ConnectFailed, Interrupted, Layer, LinkTimeout
from dlms_connector.io.line import Line, LineRegistry, LineSettings, Priority
from dlms_connector.io.stream import ByteStream, Interrupt
from tests.support.link_peer import soon, wait_until


class NullStream:
    """A stream that only knows whether it is open."""

    layer = Layer.TCP
    bytes_sent = 0
    bytes_received = 0

    def __init__(self) -> None:
        self.closed = False
        self.sent_at_s: list[float] = []

    def send(self, data: bytes, deadline_s: float) -> None:
        self.sent_at_s.append(time.monotonic())

    def receive(self, deadline_s: float) -> bytes:
        return b"x"

    def discard_input(self) -> int:
        return 0

    def interrupt(self) -> None: ...

    def close(self) -> None:
        self.closed = True


def null_line(settings: LineSettings | None = None, users: int = 1) -> Line:
    line = Line(lambda deadline_s, interrupt: NullStream(), settings)
    line.users = users
    return line


def take(line: Line, owner: str, priority: Priority = Priority.POLL, wait_s: float = 5.0) -> None:
    with line.turn(owner, priority, deadline_s=soon(wait_s), interrupt=Interrupt()):
        pass


def queued(line: Line, order: list[str], *wanted: tuple[str, Priority]) -> list[threading.Thread]:
    """Threads that wait for a turn in this order of arrival, and note when they get it."""

    def run(owner: str, priority: Priority) -> None:
        with line.turn(owner, priority, deadline_s=soon(), interrupt=Interrupt()):
            order.append(owner)

    threads = []
    for owner, priority in wanted:
        thread = threading.Thread(target=run, args=(owner, priority), daemon=True)
        thread.start()
        threads.append(thread)
        wait_until(lambda: len(line._waiting) == len(threads))
    return threads


def test_turns_go_by_priority_and_then_by_arrival() -> None:
    line, order = null_line(users=6), list[str]()
    with line.turn("holder", Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
        threads = queued(
            line,
            order,
            ("dead", Priority.PROBE),
            ("filling", Priority.BACKFILL),
            ("first", Priority.POLL),
            ("second", Priority.POLL),
            ("command", Priority.RPC),
        )
    for thread in threads:
        thread.join(5)
    assert order == ["command", "first", "second", "filling", "dead"]


def test_waiting_long_raises_the_priority_but_never_above_a_command() -> None:
    line = null_line()
    probe = line.turn("dead", Priority.PROBE, deadline_s=soon(), interrupt=Interrupt())
    probe.since_s = 1000.0
    assert probe.rank(1000.0)[0] == Priority.PROBE
    assert probe.rank(1016.0)[0] == Priority.BACKFILL
    assert probe.rank(9000.0)[0] == Priority.POLL
    command = line.turn("x", Priority.RPC, deadline_s=soon(), interrupt=Interrupt())
    assert command.rank(9000.0)[0] == Priority.RPC


def test_many_meters_take_equal_turns_and_never_two_at_once() -> None:
    line = null_line(users=8)
    counts = dict.fromkeys("abcdefgh", 0)
    inside = 0
    overlaps = 0
    stop = threading.Event()

    def poll(owner: str) -> None:
        nonlocal inside, overlaps
        while not stop.is_set():
            with line.turn(owner, Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
                inside += 1
                overlaps += inside != 1
                time.sleep(0.0002)
                inside -= 1
                counts[owner] += 1

    threads = [threading.Thread(target=poll, args=(owner,)) for owner in counts]
    for thread in threads:
        thread.start()
    wait_until(lambda: min(counts.values()) >= 20, 20)
    stop.set()
    for thread in threads:
        thread.join(5)
    assert overlaps == 0
    assert max(counts.values()) <= 3 * min(counts.values()) + 8


def test_a_turn_that_does_not_come_costs_the_deadline() -> None:
    line = null_line(users=2)
    with line.turn("a", Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout, match="not free"):
            take(line, "b", wait_s=0.1)
        assert 0.09 < time.monotonic() - started_s < 2
    take(line, "b")


def test_waiting_for_a_turn_can_be_interrupted() -> None:
    line, interrupt = null_line(users=2), Interrupt()
    timer = threading.Timer(0.1, interrupt.set)
    with line.turn("a", Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
        timer.start()
        waiting = line.turn("b", Priority.POLL, deadline_s=soon(30), interrupt=interrupt)
        with pytest.raises(Interrupted), waiting:
            raise AssertionError("the turn was given to somebody who had left")
        timer.join()
    take(line, "c")


def test_a_budget_ends_a_turn_only_when_somebody_waits() -> None:
    line, order = null_line(users=2), list[str]()
    with line.turn("a", Priority.POLL, deadline_s=soon(), interrupt=Interrupt(), budget_s=0.0) as turn:
        assert not turn.is_over
        (thread,) = queued(line, order, ("b", Priority.POLL))
        assert turn.is_over
    thread.join(5)
    assert order == ["b"]


def test_an_exclusive_line_serves_only_the_one_that_is_associated() -> None:
    line, order = null_line(LineSettings(exclusive=True), users=2), list[str]()
    with line.turn("a", Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
        line.associate("a")
    (thread,) = queued(line, order, ("b", Priority.RPC))
    assert line.is_wanted
    take(line, "a")
    assert order == []
    line.dissociate("a", clean=True)
    thread.join(5)
    assert order == ["b"]


def test_an_unclean_end_delays_the_next_association_of_that_meter_alone() -> None:
    line = null_line(LineSettings(reassociation_delay_s=10))
    line.dissociate("clean", clean=True)
    assert line.association_allowed_at_s("clean") == 0
    line.dissociate("unclean", clean=False)
    assert 9 < line.association_allowed_at_s("unclean") - time.monotonic() <= 10
    assert line.association_allowed_at_s("other") == 0


def stream_of(line: Line) -> NullStream:
    stream = line.open_stream(soon(), Interrupt())
    assert isinstance(stream, NullStream)
    return stream


def test_a_line_of_ones_own_is_closed_by_a_failure() -> None:
    line = null_line()
    stream = stream_of(line)
    generation = line.generation
    assert line.stream_of(generation) is stream
    line.failed("a", stream_sound=True)
    assert stream.closed
    assert line.stream_of(generation) is None
    assert stream_of(line) is not stream
    assert line.generation == generation + 1
    assert line.stream_of(generation) is None


def test_a_shared_line_survives_one_silent_meter_but_not_a_broken_stream() -> None:
    line = null_line(users=4)
    stream = stream_of(line)
    for _ in range(10):
        line.failed("dead", stream_sound=True)
    assert not stream.closed
    line.failed("other", stream_sound=False)
    assert stream.closed


def test_a_shared_line_on_which_most_fell_silent_gets_a_fresh_stream() -> None:
    line = null_line(users=4)
    stream = stream_of(line)
    line.failed("a", stream_sound=True)
    line.failed("b", stream_sound=True)
    line.succeeded()
    line.failed("a", stream_sound=True)
    line.failed("b", stream_sound=True)
    assert not stream.closed
    line.failed("c", stream_sound=True)
    assert stream.closed


def test_the_pause_between_frames_is_kept_and_can_be_interrupted() -> None:
    below = NullStream()
    line = Line(lambda deadline_s, interrupt: below, LineSettings(inter_frame_delay_s=0.1))
    stream: ByteStream = line.open_stream(soon(), Interrupt())
    stream.send(b"first", soon())
    stream.receive(soon())
    received_at_s = time.monotonic()
    stream.send(b"second", soon())
    assert below.sent_at_s[1] - received_at_s > 0.09
    stream.receive(soon())
    with pytest.raises(LinkTimeout):
        stream.send(b"third", soon(0.01))
    stream.interrupt()
    with pytest.raises(Interrupted):
        stream.send(b"third", soon())


def test_a_registry_counts_users_and_closes_after_the_last() -> None:
    registry = LineRegistry()
    key = ("tcp", "converter", 4059)
    line = registry.get(key, null_line)
    assert not line.is_shared
    assert registry.get(key, null_line) is line
    assert line.is_shared
    assert registry.get(("tcp", "converter", 4060), null_line) is not line
    stream = stream_of(line)
    registry.release(key)
    assert not line.is_shared
    assert not stream.closed
    registry.release(key)
    assert stream.closed
    assert registry.get(key, null_line) is not line


def test_a_stream_that_cannot_be_opened_leaves_the_line_as_it_was() -> None:
    def refuse(deadline_s: float, interrupt: Interrupt) -> ByteStream:
        raise ConnectFailed("refused")

    line = Line(refuse)
    with pytest.raises(ConnectFailed):
        line.open_stream(soon(), Interrupt())
    assert line.generation == 0
