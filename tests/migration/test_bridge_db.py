import hashlib
import sqlite3
import subprocess
import sys

import pytest

from dlms_connector.errors import CommandError
from dlms_connector.migration.bridge_db import read_bridge
from tests.support.bridge_database import VARIANTS, make_bridge, meter, row


def digest_of(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_read_and_not_a_byte_is_changed(tmp_path, variant):
    make_bridge(tmp_path / "admin.db", [meter(1), meter(2)], [row(1, 1), row(2, 2), row(3, 2)], variant)
    before = digest_of(tmp_path)
    meters = read_bridge(tmp_path / "admin.db")
    assert [(each.name, each.host, each.port, len(each.rows)) for each in meters] == [
        ("medidor_1", "192.168.1.127", 3333, 1),
        ("medidor_2", "192.168.1.128", 3333, 2),
    ]
    assert all(each.polled for each in meters)
    assert [each.switchable for each in meters] == [variant != "without tb columns"] * 2
    assert digest_of(tmp_path) == before


def test_null_is_possible_everywhere(tmp_path):
    path = make_bridge(
        tmp_path / "a.db", [{"id": 1}], [{"id": 1, "meter_id": 1}, {"id": 2}], "nothing but NULL"
    )
    (only,) = read_bridge(path)
    assert (only.name, only.host, only.port, only.token, only.polled) == ("meter 1", None, None, None, False)
    assert (only.rows[0].measurement, only.rows[0].sampling_s, only.rows[0].enabled) == (None, None, False)


@pytest.mark.parametrize(
    ("value", "polled"), [(1, True), ("1", True), ("true", True), (0, False), (None, False)]
)
def test_tb_enabled_zero_and_null_both_mean_not_polled(tmp_path, value, polled):
    path = make_bridge(tmp_path / "a.db", [meter(1, tb_enabled=value)])
    assert read_bridge(path)[0].polled is polled


def test_values_of_any_type_are_survived(tmp_path):
    odd = meter(1, port="not a port", client_id="x", tb_token=b"\xff\xfe", model=5)
    (only,) = read_bridge(make_bridge(tmp_path / "a.db", [odd], [row(1, 1, sampling_interval="fast")]))
    assert (only.port, only.client_id, only.model) == (None, None, "5")
    assert only.rows[0].sampling_s is None


def test_a_token_cannot_be_printed(tmp_path):
    meters = read_bridge(make_bridge(tmp_path / "a.db", [meter(1)]))
    assert meters[0].token.reveal() == "TOKEN-CANARY-1"
    assert "CANARY" not in f"{meters!r}{meters[0].token}{meters[0].token!r}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b"id,name\n1,x\n", "is not a SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, "is damaged"),
    ],
)
def test_what_is_no_database_is_told(tmp_path, content, words):
    path = tmp_path / "a.db"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=words):
        read_bridge(path)


def test_a_directory_and_a_foreign_database_are_told(tmp_path):
    with pytest.raises(CommandError, match="is a directory"):
        read_bridge(tmp_path)
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE other (id INTEGER)")
    with pytest.raises(CommandError, match="has no table meters and no table meter_configs"):
        read_bridge(tmp_path / "x.db")


WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = " + sys.argv[2])
connection.execute(sys.argv[3])
connection.execute("UPDATE meters SET last_seen = 'now', name = 'half-written'")
print("writing", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer():
    processes = []

    def start(path, mode, begin):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), mode, begin],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"writing\n"

    yield start
    for process in processes:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_a_database_that_is_being_written_gives_what_was_committed(tmp_path, writer, mode):
    path = make_bridge(tmp_path / "a.db", [meter(1)])
    writer(path, mode, "BEGIN IMMEDIATE")
    before = path.read_bytes()
    assert read_bridge(path)[0].name == "medidor_1"
    assert path.read_bytes() == before


def test_a_locked_database_is_told(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("dlms_connector.migration.bridge_db._BUSY_TIMEOUT_S", 0.1)
    path = make_bridge(tmp_path / "a.db", [meter(1)])
    writer(path, "DELETE", "BEGIN EXCLUSIVE")
    with pytest.raises(CommandError, match="being written by another process"):
        read_bridge(path)
