"""What must survive a restart, in one SQLite file: counters, cursors, scalers, what a meter refused.

Invocation counters are on disk before they are used (`reserve_counters`), so no kill at any moment makes
one be used twice. One connection, one lock: writes are rare (a few for each meter and start).
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from dlms_connector.errors import StateError

STATE_FILE = "dlms_connector.sqlite"
SCHEMA_VERSION = 1
COUNTER_BLOCK = 500
_CACHE_KIB = 256
_SCHEMA = """
CREATE TABLE IF NOT EXISTS counters (identity TEXT PRIMARY KEY, next INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS facts (
  device TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (device, kind, key)
) STRICT;
"""


def state_file(configured: str | None, gateway_directory: Path) -> Path:
    """Where a connector keeps its state: its stateDirectory, systemd's, or beside the gateway's configuration.

    The gateway and the command line follow this one rule, so both count in the same file.
    """
    if configured:
        return Path(configured) / STATE_FILE
    systemd = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if systemd:
        return Path(systemd) / "dlms" / STATE_FILE
    return gateway_directory / "dlms_state" / STATE_FILE


class StateStore:
    """The state file; thread-safe.

    Args:
        path: the file, created with mode 0600; None keeps the state in memory (tests, tools).

    Raises:
        StateError: it cannot be opened, or a newer release wrote it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.replaced: Path | None = None
        self._lock = threading.Lock()
        try:
            self._connection = self._open()
        except sqlite3.OperationalError as error:
            # Locked, full or unreadable: the counters in it are still the ones to continue from.
            raise StateError(f"the state cannot be opened: {error}") from error
        except sqlite3.DatabaseError as error:
            if path is None or not path.exists():
                raise StateError(f"the state cannot be opened: {error}") from error
            self.replaced = self._set_aside(path)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        name = ":memory:"
        if self.path is not None:
            try:
                if not self.path.parent.exists():
                    # The group may enter, for the status file; what is private has 0600.
                    self.path.parent.mkdir(parents=True)
                    self.path.parent.chmod(0o750)
                os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
                os.chmod(self.path, 0o600)
            except OSError as error:
                raise StateError(
                    f"the state file {self.path} cannot be used: {error.strerror}",
                    hint="the gateway's user must be able to write there; see stateDirectory",
                ) from error
            name = str(self.path)
        connection = sqlite3.connect(name, check_same_thread=False, isolation_level=None, timeout=10)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StateError(
                    f"the state file is of version {version}, this release knows {SCHEMA_VERSION}"
                )
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                # Found here and set aside; found by a poller, it would keep the whole fleet from starting.
                raise sqlite3.DatabaseError(verdict)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _set_aside(path: Path) -> Path:
        aside = path.with_name(f"{path.name}.broken-{int(time.time())}")
        path.replace(aside)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return aside

    def close(self) -> None:
        """Close the file; idempotent."""
        with self._lock:
            self._connection.close()

    def reserve_counters(self, identity: str, at_least: int = 0, count: int = COUNTER_BLOCK) -> range:
        """Take `count` invocation counters that nobody got before, none below `at_least`.

        The reservation is on disk when this returns. Raises StateError.
        """
        with self._lock, self._transaction():
            row = self._connection.execute(
                "SELECT next FROM counters WHERE identity = ?", (identity,)
            ).fetchone()
            first = max(at_least, row[0] if row else 0)
            self._connection.execute(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (identity) DO UPDATE SET next = excluded.next",
                (identity, first + count),
            )
        return range(first, first + count)

    def has_counter(self, identity: str) -> bool:
        """Whether counters were ever reserved for this identity."""
        with self._lock:
            row = self._execute("SELECT 1 FROM counters WHERE identity = ?", identity).fetchone()
        return row is not None

    def put(self, device: str, kind: str, key: str, value: Any) -> None:
        """Store a JSON value. Raises StateError."""
        with self._lock, self._transaction():
            self._execute(
                "INSERT INTO facts VALUES (?, ?, ?, ?) "
                "ON CONFLICT (device, kind, key) DO UPDATE SET value = excluded.value",
                device,
                kind,
                key,
                json.dumps(value),
            )

    def put_many(self, device: str, kind: str, values: dict[str, Any]) -> None:
        """Store several JSON values in one transaction. Raises StateError."""
        with self._lock, self._transaction():
            self._connection.executemany(
                "INSERT INTO facts VALUES (?, ?, ?, ?) "
                "ON CONFLICT (device, kind, key) DO UPDATE SET value = excluded.value",
                [(device, kind, key, json.dumps(value)) for key, value in values.items()],
            )

    def get_all(self, device: str, kind: str) -> dict[str, Any]:
        """Every stored value of this kind, by key. Raises StateError."""
        with self._lock:
            rows = self._execute(
                "SELECT key, value FROM facts WHERE device = ? AND kind = ?", device, kind
            ).fetchall()
        facts = {}
        for key, value in rows:
            try:
                facts[key] = json.loads(value)
            except ValueError:
                continue  # a bit that turned on the disk: every fact can be learned again
        return facts

    def forget(self, device: str, kind: str) -> None:
        """Drop every value of this kind. Raises StateError."""
        with self._lock, self._transaction():
            self._execute("DELETE FROM facts WHERE device = ? AND kind = ?", device, kind)

    def _execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise StateError(f"the state file cannot be used: {error}") from error

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection)


class _Transaction:
    """BEGIN IMMEDIATE .. COMMIT, with SQLite's errors as StateError."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise StateError(f"the state file cannot be written: {error}") from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._connection.execute("ROLLBACK" if kind else "COMMIT")
        except sqlite3.Error as failure:
            raise StateError(f"the state file cannot be written: {failure}") from failure
        if isinstance(error, sqlite3.Error):
            raise StateError(f"the state file cannot be written: {error}") from error
