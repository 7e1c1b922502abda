"""The emergency brake: it ends pauses and waits for good, whoever pulls it and how often."""

from __future__ import annotations

import threading
import time

import pytest

from dlms_connector.errors import Interrupted
from dlms_connector.io.stream import Interrupt


def test_a_pause_without_a_brake_lasts_as_long_as_it_should() -> None:
    brake = Interrupt()
    began_s = time.monotonic()
    brake.sleep(0.05)
    assert time.monotonic() - began_s >= 0.05
    brake.sleep(-1.0)
    brake.check()
    assert not brake.is_set


def test_the_brake_ends_every_pause_for_good_even_a_boundless_one() -> None:
    brake = Interrupt()
    ended: list[int] = []
    started = threading.Barrier(6)

    def pause(number: int) -> None:
        started.wait(5)
        with pytest.raises(Interrupted):
            brake.sleep(float("inf"))
        ended.append(number)

    threads = [threading.Thread(target=pause, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    started.wait(5)
    pullers = [threading.Thread(target=brake.set) for _ in range(5)]
    for puller in pullers:
        puller.start()
    for thread in (*threads, *pullers):
        thread.join(5)
        assert not thread.is_alive()
    assert sorted(ended) == [0, 1, 2, 3, 4]
    with pytest.raises(Interrupted):
        brake.sleep(0.0)
    with pytest.raises(Interrupted):
        brake.watch(lambda: None)


def test_a_wait_that_is_watched_is_woken_and_one_that_is_over_is_not() -> None:
    brake, woken = Interrupt(), threading.Event()
    brake.watch(woken.set)
    brake.unwatch()
    brake.watch(woken.set)
    brake.set()
    assert woken.is_set()
    woken.clear()
    brake.unwatch()
    brake.set()
    assert not woken.is_set()
