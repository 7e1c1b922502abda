"""The state file: durable, private, and never giving a counter twice whatever kills the process."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dlms_connector.errors import SecurityError, StateError
from dlms_connector.meter.counters import WARN_AT, InvocationCounters
from dlms_connector.state import COUNTER_BLOCK, StateStore

KILLS = 300
# Prints each counter as it would go out, until killed; flushed line by line.
_USER = """
import sys
from pathlib import Path
from dlms_connector.meter.counters import InvocationCounters
from dlms_connector.state import StateStore
counters = InvocationCounters(StateStore(Path(sys.argv[1])), "meter", print)
while True:
    sys.stdout.write(f"{counters.next()}\\n")
    sys.stdout.flush()
"""


def test_facts_survive(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.sqlite"
    store = StateStore(path)
    store.put("meter", "scalers", "a", [-2, "V"])
    store.put_many("meter", "scalers", {"b": [0, ""], "a": [-1, "V"]})
    store.put("other", "scalers", "a", 1)
    store.close()
    again = StateStore(path)
    assert again.get_all("meter", "scalers") == {"a": [-1, "V"], "b": [0, ""]}
    again.forget("meter", "scalers")
    assert again.get_all("meter", "scalers") == {}
    assert again.get_all("other", "scalers") == {"a": 1}


def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "state.sqlite"
    before = os.umask(0o077)
    try:
        store = StateStore(path)
        store.put("meter", "kind", "key", 1)
    finally:
        os.umask(before)
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750


def test_counters_are_never_given_twice_nor_lowered(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    first, second = StateStore(path), StateStore(path)
    a = first.reserve_counters("meter")
    b = second.reserve_counters("meter")
    assert set(a).isdisjoint(b)
    assert first.reserve_counters("meter", at_least=10).start >= b.stop
    assert first.reserve_counters("meter", at_least=10**6).start == 10**6
    assert first.reserve_counters("other").start == 0


def test_a_broken_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to look at" * 10)
    store = StateStore(path)
    assert store.replaced is not None
    assert store.replaced.read_bytes().startswith(b"this is no database")
    store.put("meter", "kind", "key", 1)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(StateError, match="version 99"):
        StateStore(path)


def test_an_unusable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError) as caught:
        StateStore(tmp_path / "file" / "state.sqlite")
    assert "stateDirectory" in caught.value.hint


def test_counter_source_warns_near_the_end_and_stops_at_it() -> None:
    warnings: list[str] = []
    state = StateStore(None)
    counters = InvocationCounters(state, "meter", warnings.append)
    counters.raise_to(WARN_AT)
    assert counters.next() == WARN_AT
    assert counters.next() == WARN_AT + 1
    assert len(warnings) == 1
    counters.raise_to(2**32)
    with pytest.raises(SecurityError, match="used up"):
        counters.next()


def test_raising_to_a_lower_number_changes_nothing() -> None:
    counters = InvocationCounters(StateStore(None), "meter", print)
    counters.raise_to(1000)
    assert counters.next() == 1000
    counters.raise_to(500)
    assert counters.next() == 1001


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_at_any_moment_never_reuses_a_counter(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    used: set[int] = set()
    for kill in range(KILLS):
        process = subprocess.Popen([sys.executable, "-c", _USER, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        # let it give out a varying number, in some runs just past a new reservation
        wanted = 1 + (kill * 37) % (COUNTER_BLOCK + 20)
        lines = [process.stdout.readline() for _ in range(wanted)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.read().split(b"\n")[:-1]
        process.wait()
        process.stdout.close()
        numbers = [int(line) for line in lines]
        assert len(numbers) >= wanted
        assert len(set(numbers)) == len(numbers)
        assert used.isdisjoint(numbers)
        used.update(numbers)
