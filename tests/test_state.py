"""The state file: durable, private, and never giving a counter twice (kills: tests/meter/test_counters.py)."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from dlms_connector.errors import StateError
from dlms_connector.state import StateStore


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


def test_a_file_with_a_broken_page_is_set_aside_at_the_start(tmp_path: Path) -> None:
    """Found later, by the pollers, it would keep the whole fleet from starting."""
    path = tmp_path / "state.sqlite"
    store = StateStore(path)
    for number in range(200):
        store.put(f"meter {number}", "kind", "key", "x" * 100)
    store.close()
    content = bytearray(path.read_bytes())
    for page in range(3, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    path.write_bytes(content)
    again = StateStore(path)
    assert again.replaced is not None
    assert again.get_all("meter 1", "kind") == {}
    again.put("meter 1", "kind", "key", 1)


def test_a_fact_that_cannot_be_read_is_as_if_it_were_not_there(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = StateStore(path)
    store.put_many("meter", "kind", {"good": 1, "bad": 2})
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE facts SET value = '{\"' WHERE key = 'bad'")
    connection.close()
    assert StateStore(path).get_all("meter", "kind") == {"good": 1}


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
