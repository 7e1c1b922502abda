"""Telemetry to be compared: points by device and key, from ThingsBoard or from an export (CSV, JSON).

An export is one of

* CSV, long: `ts`, `key`, `value`, and where there are several `device`; optional `receivedTs`;
* CSV, wide, as ThingsBoard's tables export it: `ts` (or `Timestamp`) and a column for each key;
* JSON as the REST API answers, `{"key": [{"ts", "value"}]}`, or by device `{"device": {"key": [...]}}`;
* JSON as gateways send it, `{"device": [{"ts", "values": {"key": value}}]}`;
* JSON, a list of records with the columns of the long CSV.

A time is milliseconds since 1970 or an ISO date; a date without an offset is UTC.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from dlms_connector.config.jsonfile import parse_json
from dlms_connector.errors import CommandError

_TIME_COLUMNS: Final = ("ts", "timestamp", "time", "date")
_DEVICE_COLUMNS: Final = ("device", "devicename", "entityname", "entity name")
_RECEIVED_COLUMNS: Final = ("receivedts", "received")


@dataclass(frozen=True)
class Point:
    """One value: when it was read, a number where it is one, and when it was received where that is known."""

    ts_ms: int
    value: float | str
    received_ms: int | None = None


Telemetry = dict[tuple[str, str], list[Point]]
"""(device, key): its points, oldest first, one for each time."""


def read_export(path: Path, device: str | None = None) -> Telemetry:
    """The points of an export; `device` names its meter where the file does not (else the file's name does).

    Raises:
        CommandError: unreadable, or none of the forms; with the line where there is one.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the export {path} cannot be read: {error}") from error
    if not text.strip():
        raise CommandError(f"the export {path} is empty")
    fallback = device or path.stem
    try:
        if text.lstrip()[0] in "{[":
            return gather(_from_json(text, path, fallback))
        return gather(_from_csv(text, fallback))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(
            f"the export {path} cannot be understood: {error}", hint="docs/migration.md has its forms"
        ) from error


def gather(points: Iterator[tuple[str, str, Point]]) -> Telemetry:
    """Points sorted into series; of two at one time the later one counts, as in ThingsBoard."""
    by_time: dict[tuple[str, str], dict[int, Point]] = {}
    for device, key, point in points:
        by_time.setdefault((device, key), {})[point.ts_ms] = point
    return {name: [series[ts] for ts in sorted(series)] for name, series in by_time.items()}


def number_or_text(value: Any) -> float | str:
    """ThingsBoard's values come as JSON or as texts; what is a finite number is one."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    try:
        number = float(value)
    except (ValueError, TypeError):
        return str(value)
    return number if math.isfinite(number) else str(value)


def time_ms(value: Any) -> int:
    """Milliseconds since 1970 of a number or an ISO date. Raises ValueError."""
    text = str(value).strip()
    if text.lstrip("-").isdigit():
        return int(text)
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def _from_csv(text: str, device: str) -> Iterator[tuple[str, str, Point]]:
    lines = text.splitlines()
    delimiter = max(",;\t", key=lines[0].count)
    reader = csv.DictReader(lines, delimiter=delimiter)
    names = {name.strip().lower(): name for name in reader.fieldnames or () if name}
    time_column = _column(names, _TIME_COLUMNS)
    if time_column is None:
        raise ValueError(f"no column of times among {', '.join(names) or 'none'}")
    device_column = _column(names, _DEVICE_COLUMNS)
    received_column = _column(names, _RECEIVED_COLUMNS)
    is_long = "key" in names and "value" in names
    taken = {time_column, device_column, received_column}
    keys = [name for name in names.values() if name not in taken]
    for number, row in enumerate(reader, 2):
        try:
            ts_ms = time_ms(row[time_column])
            received = row[received_column] if received_column else None
            received_ms = time_ms(received) if received else None
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        owner = (row[device_column] if device_column else None) or device
        cells = [(row[names["key"]], row[names["value"]])] if is_long else [(key, row[key]) for key in keys]
        for key, value in cells:
            if value not in (None, ""):
                yield owner, key.strip(), Point(ts_ms, number_or_text(value), received_ms)


def _column(names: Mapping[str, str], wanted: Sequence[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _from_json(text: str, path: Path, device: str) -> Iterator[tuple[str, str, Point]]:
    document, problems = parse_json(text, path.name)
    if problems:
        raise ValueError(problems[0].message)
    if isinstance(document, list):
        for record in document:
            yield str(record.get("device") or device), str(record["key"]), _point(record)
        return
    for name, content in document.items():
        if isinstance(content, dict):
            for key, points in content.items():
                yield from ((name, key, _point(point)) for point in points)
        else:
            for entry in content:
                if "values" in entry:
                    for key, value in entry["values"].items():
                        yield name, key, _point({**entry, "value": value})
                else:
                    yield device, name, _point(entry)


def _point(record: Mapping[str, Any]) -> Point:
    received = record.get("receivedTs")
    return Point(
        time_ms(record["ts"]),
        number_or_text(record["value"]),
        None if received is None else time_ms(received),
    )
