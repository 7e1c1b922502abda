"""The bridge's SQLite database, read-only and in all its variants: which meters it polls, and how.

No column can be relied upon: copies differ in their columns, nothing has a DEFAULT, any value may be NULL.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from dlms_connector.errors import CommandError

_HEADER: Final = b"SQLite format 3\x00"
_BUSY_TIMEOUT_S: Final = 5.0
_MAX_METERS: Final = 100_000
_TABLES: Final = ("meters", "meter_configs")


@dataclass(frozen=True)
class Token:
    """A device's access token: compared with ThingsBoard's, never printed or written."""

    _value: str = field(repr=False)

    def reveal(self) -> str:
        """The token itself, for the comparison alone."""
        return self._value

    def __str__(self) -> str:
        return "***"


@dataclass(frozen=True)
class BridgeRow:
    """One row of meter_configs: a measurement as it was entered."""

    id: int
    measurement: str | None
    obis: str | None
    enabled: bool
    sampling_s: float | None
    tb_key: str | None


@dataclass(frozen=True)
class BridgeMeter:
    """One row of meters with its measurements, in the order of their ids; None is NULL or no such column.

    `polled` is what the bridge makes of tb_enabled (0 and NULL: not polled); a copy without that column
    polls every meter, and `switchable` is False: none can be taken away from it one by one.
    """

    id: int
    name: str
    host: str | None
    port: int | None
    client_id: int | None
    server_id: int | None
    polled: bool
    switchable: bool
    tb_host: str | None
    tb_port: int | None
    tb_device_name: str | None
    token: Token | None
    model: str | None
    serial_number: str | None
    firmware_version: str | None
    rows: tuple[BridgeRow, ...]


def read_bridge(path: Path) -> tuple[BridgeMeter, ...]:
    """Every meter of the database, in one read transaction; the file is not written.

    Raises:
        CommandError: not there, not a SQLite database, not the bridge's, damaged, or locked for 5 s.
    """
    _require_database(path)
    try:
        with _read_only(path) as connection:
            columns = {table: _columns(connection, table) for table in _TABLES}
            missing = [table for table in _TABLES if not columns[table]]
            if missing:
                raise CommandError(
                    f"{path} has no table {' and no table '.join(missing)}",
                    hint="the bridge's database is usually data/admin.db",
                )
            meters = _select(connection, "meters", columns["meters"])
            rows = _select(connection, "meter_configs", columns["meter_configs"])
    except sqlite3.Error as error:
        raise _told(path, error) from error
    rows_by_meter: dict[Any, list[BridgeRow]] = {}
    for row in rows:
        rows_by_meter.setdefault(_whole(row.get("meter_id")), []).append(_row(row))
    return tuple(_meter(meter, rows_by_meter) for meter in meters)


def _require_database(path: Path) -> None:
    try:
        with path.open("rb") as stream:
            header = stream.read(len(_HEADER))
    except OSError as error:
        reason = "is a directory" if path.is_dir() else f"cannot be read: {error.strerror}"
        raise CommandError(
            f"{path} {reason}", hint="the bridge's database is usually data/admin.db"
        ) from error
    if not header:
        raise CommandError(f"{path} is empty", hint="is it the file that the bridge uses?")
    if header != _HEADER:
        raise CommandError(
            f"{path} is not a SQLite database", hint="the bridge's database is usually data/admin.db"
        )


@contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    uri = f"file:{quote(str(path.resolve()))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        yield connection
    finally:
        connection.close()


def _told(path: Path, error: sqlite3.Error) -> CommandError:
    words = str(error)
    if "locked" in words or "busy" in words:
        return CommandError(
            f"{path} is being written by another process", hint="try again; stop the bridge if it stays so"
        )
    if "malformed" in words or "not a database" in words:
        return CommandError(f"{path} is damaged: {words}", hint="use a copy that the bridge can still read")
    if "readonly" in words or "unable to open" in words:
        return CommandError(
            f"{path} was left in the middle of a write: {words}",
            hint="let the bridge open it once, or give this user access to its folder",
        )
    return CommandError(f"{path} cannot be read: {words}")


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row["name"]) for row in connection.execute(f"PRAGMA table_info({table})")]


def _select(connection: sqlite3.Connection, table: str, columns: list[str]) -> list[dict[str, Any]]:
    names = ", ".join(f'"{name}"' for name in columns if '"' not in name)
    # Names of tables are ours and those of columns are quoted: nothing here comes from outside.
    query = f"SELECT {names} FROM {table} ORDER BY id LIMIT {_MAX_METERS}"  # noqa: S608
    return [dict(row) for row in connection.execute(query)]


def _meter(row: dict[str, Any], rows_by_meter: dict[Any, list[BridgeRow]]) -> BridgeMeter:
    meter_id = _whole(row.get("id")) or 0
    token = _text(row.get("tb_token"))
    return BridgeMeter(
        id=meter_id,
        name=_text(row.get("name")) or f"meter {meter_id}",
        host=_text(row.get("ip_address")),
        port=_whole(row.get("port")),
        client_id=_whole(row.get("client_id")),
        server_id=_whole(row.get("server_id")),
        polled=_flag(row["tb_enabled"]) if "tb_enabled" in row else True,
        switchable="tb_enabled" in row,
        tb_host=_text(row.get("tb_host")),
        tb_port=_whole(row.get("tb_port")),
        tb_device_name=_text(row.get("tb_device_name")),
        token=Token(token) if token else None,
        model=_text(row.get("model")),
        serial_number=_text(row.get("serial_number")),
        firmware_version=_text(row.get("firmware_version")),
        rows=tuple(rows_by_meter.get(meter_id, ())),
    )


def _row(row: dict[str, Any]) -> BridgeRow:
    return BridgeRow(
        id=_whole(row.get("id")) or 0,
        measurement=_text(row.get("measurement_name")),
        obis=_text(row.get("obis_code")),
        enabled=_flag(row["enabled"]) if "enabled" in row else True,
        sampling_s=_number(row.get("sampling_interval")),
        tb_key=_text(row.get("tb_key")),
    )


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip() or None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _whole(value: Any) -> int | None:
    try:
        return None if value is None else int(value)
    except (ValueError, OverflowError):
        return None


def _flag(value: Any) -> bool:
    """SQLAlchemy stores 1 and 0; hand-made copies have texts as well."""
    return str(value).strip().lower() in ("1", "true", "t", "yes") if value is not None else False
