"""Random meters with random faults: no value is wrong, none is lost in silence, and all arrive at the end.

A failing history tells its name. Play it again alone with
HISTORY=name python -m pytest tests/meter/test_histories.py
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from tests.support.history import WAYS, History

CHUNK = 250
_ALONE = os.environ.get("HISTORY", "")


def play(story: Callable[[random.Random], Counter[str]], name: str, seeds: Sequence[int]) -> Counter[str]:
    """One history for each seed; the first that fails says how to play it again. Gives how much was compared."""
    checked: Counter[str] = Counter()
    for seed in seeds:
        try:
            checked += story(random.Random(f"{name}-{seed}"))
        except Exception as error:
            raise AssertionError(
                f"history {name}-{seed}: {error!r}; play it again with "
                f"HISTORY={name}-{seed} python -m pytest {__name__.replace('.', '/')}.py"
            ) from error
    return checked


def any_history(rng: random.Random) -> Counter[str]:
    """All ways at once, everything refused at random; afterwards everything arrives within two cycles."""
    history = History(rng, WAYS)
    history.random_faults()
    for _ in range(rng.randint(2, 8)):
        history.takes = rng.random() < 0.9
        history.step(rng.choice(WAYS))
        history.now_ms += rng.choice((100, 5_000, 61_000, 300_000))
        if rng.random() < 0.05:
            history.session.forget_facts()
        if rng.random() < 0.05:
            history.restart()
    history.heal()
    history.cycle()
    history.cycle()
    assert not history.missing()
    return history.checked


def scaler_history(rng: random.Random, way: str) -> Counter[str]:
    """One way, and scalers alone refused."""
    ways = (way, "live") if way in ("read", "write") and rng.random() < 0.5 else (way,)
    history = History(rng, ways, plain=True)
    history.refused_scaler()
    for _ in range(rng.randint(2, 6)):
        history.step(rng.choice(ways))
        history.now_ms += rng.choice((100, 5_000, 61_000, 121_000))
        if rng.random() < 0.1:
            history.session.forget_facts()
        if rng.random() < 0.1:
            history.restart()
    history.heal()
    history.cycle()
    history.cycle()
    assert not history.missing()
    return history.checked


many = pytest.mark.skipif(bool(_ALONE), reason="HISTORY names one")


@many
@pytest.mark.parametrize("chunk", range(8))
def test_no_history_gives_a_wrong_value_or_loses_one(chunk: int) -> None:
    checked = play(any_history, "any", range(chunk * CHUNK, (chunk + 1) * CHUNK))
    assert checked["values"] > 10 * CHUNK, checked
    assert checked["writes"] > CHUNK // 10, checked


@many
@pytest.mark.parametrize("chunk", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_a_refused_scaler_makes_no_wrong_value_and_no_wrong_write(way: str, chunk: int) -> None:
    checked = play(partial(scaler_history, way=way), way, range(chunk * CHUNK, (chunk + 1) * CHUNK))
    assert checked["writes" if way == "write" else "values"] > CHUNK // 3, checked


@pytest.mark.skipif(not _ALONE, reason="HISTORY names none")
def test_the_history_that_is_named() -> None:
    name, _, seed = _ALONE.partition("-")
    play(any_history if name == "any" else partial(scaler_history, way=name), name, [int(seed)])
