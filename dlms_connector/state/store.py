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
from typing import Any, NamedTuple

from dlms_connector.errors import StateError
from dlms_connector.state import to_version_2

STATE_FILE = "dlms_connector.sqlite"
SCHEMA_VERSION = 2
COUNTER_BLOCK = 500
_CACHE_KIB = 256
_VERSION_1 = (
    "CREATE TABLE IF NOT EXISTS counters (identity TEXT PRIMARY KEY, next INTEGER NOT NULL) STRICT",
    """CREATE TABLE IF NOT EXISTS facts (
  device TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (device, kind, key)
) STRICT""",
)
_MIGRATIONS = {2: to_version_2.migrate}
"""Version -> what brings a file of the version before up to it."""
_PUT = (
    "INSERT INTO facts (device, kind, key, value, cause, until_ms) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (device, kind, key) DO UPDATE SET "
    "value = excluded.value, cause = excluded.cause, until_ms = excluded.until_ms"
)


class StoredFact(NamedTuple):
    """A value with its cause ("" where it is not known) and its end in epoch milliseconds (0 for none)."""

    value: Any
    cause: str
    until_ms: int


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
            self._bring_up(connection, version)
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                # Found here and set aside; found by a poller, it would keep the whole fleet from starting.
                raise sqlite3.DatabaseError(verdict)
        except BaseException:
            connection.close()
            raise
        return connection

    @staticmethod
    def _bring_up(connection: sqlite3.Connection, version: int) -> None:
        """From any earlier version to this one, in one transaction: a kill leaves the old file or the new."""
        if version == SCHEMA_VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _VERSION_1:
                connection.execute(statement)
            for target in range(max(version, 1) + 1, SCHEMA_VERSION + 1):
                _MIGRATIONS[target](connection)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

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

    def put(
        self, device: str, kind: str, key: str, value: Any, *, cause: str = "", until_ms: int = 0
    ) -> None:
        """Store a JSON value. Raises StateError."""
        self.put_many(device, kind, {key: value}, cause=cause, until_ms=until_ms)

    def put_many(
        self, device: str, kind: str, values: dict[str, Any], *, cause: str = "", until_ms: int = 0
    ) -> None:
        """Store several JSON values in one transaction. Raises StateError."""
        with self._lock, self._transaction():
            self._connection.executemany(
                _PUT,
                [(device, kind, key, json.dumps(value), cause, until_ms) for key, value in values.items()],
            )

    def get_all(self, device: str, kind: str) -> dict[str, Any]:
        """Every stored value of this kind, by key. Raises StateError."""
        return {key: fact.value for key, fact in self.get_facts(device, kind).items()}

    def get_facts(self, device: str, kind: str) -> dict[str, StoredFact]:
        """Every stored value of this kind with its cause and end, by key. Raises StateError."""
        with self._lock:
            rows = self._execute(
                "SELECT key, value, cause, until_ms FROM facts WHERE device = ? AND kind = ?", device, kind
            ).fetchall()
        facts = {}
        for key, value, cause, until_ms in rows:
            try:
                facts[key] = StoredFact(json.loads(value), cause, until_ms)
            except ValueError:
                continue  # a bit that turned on the disk: every fact can be learned again
        return facts

    def forget(self, device: str, kind: str, key: str | None = None) -> None:
        """Drop every value of this kind, or one. Raises StateError."""
        with self._lock, self._transaction():
            if key is None:
                self._execute("DELETE FROM facts WHERE device = ? AND kind = ?", device, kind)
            else:
                self._execute(
                    "DELETE FROM facts WHERE device = ? AND kind = ? AND key = ?", device, kind, key
                )

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
