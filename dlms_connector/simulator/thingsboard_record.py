"""What ThingsBoard keeps of a message: devices, telemetry, attributes, with its casts and its refusals.

Follows ThingsBoard's JsonConverter and GatewaySessionHandler: numbers in strings become numbers, numbers
that no double or 64-bit integer holds become strings, an equal (key, ts) is overwritten, and a payload that
cannot be understood ends the session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Value = bool | int | float | str

_MAX_DECIMALS = 16
_INT64 = range(-(2**63), 2**63)
# Apache Commons' NumberUtils.isParsable: no exponent, no plus sign, digits after the point.
_PARSABLE = re.compile(r"-?(\d+(\.\d+)?|\.\d+)")
DEFAULT_TYPE = "default"


class BadPayload(Exception):
    """ThingsBoard closes the session on this message, without a PUBACK."""


def cast_number(text: str) -> int | float | str:
    """A number's text as ThingsBoard stores it: 64-bit integer, double, or string when neither holds it."""
    has_exponent = "e" in text or "E" in text
    if not has_exponent and "." not in text:
        whole = int(text)
        return whole if whole in _INT64 else format(Decimal(text), "f")
    if not has_exponent and len(text) <= _MAX_DECIMALS + 1:
        return float(text)  # too short for too many decimals: the usual case, without Decimal
    number = Decimal(text)
    if has_exponent and number == number.to_integral_value():
        return int(number) if int(number) in _INT64 else format(number, "f")
    exponent = number.as_tuple().exponent
    if isinstance(exponent, int) and -exponent <= _MAX_DECIMALS:
        return float(text)
    return format(number, "f")


def cast_value(value: Json) -> Value | None:
    """A JSON value as it is stored; None for null, which is not stored at all. Objects stay JSON text."""
    if isinstance(value, str):
        return cast_number(value) if _PARSABLE.fullmatch(value) else value
    if isinstance(value, (dict, list)):
        return json.dumps(value, separators=(",", ":"))
    return value


_decode = json.JSONDecoder(parse_float=cast_number, parse_int=cast_number).decode


def parse(payload: bytes) -> Json:
    """JSON with ThingsBoard's view of numbers. Raises BadPayload."""
    try:
        document: Json = _decode(payload.decode())
    except ValueError as error:
        raise BadPayload("not JSON") from error
    return document


def mapping(document: Json, what: str) -> dict[str, Json]:
    """The document as an object. Raises BadPayload."""
    if not isinstance(document, dict):
        raise BadPayload(f"{what} is not an object")
    return document


def device_name(document: Mapping[str, Json]) -> str:
    """The `device` member. Raises BadPayload when it is missing or empty."""
    name = document.get("device")
    if not isinstance(name, str) or not name:
        raise BadPayload("the device's name is missing or empty")
    return name


def _timestamp_ms(value: Json) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise BadPayload("ts is not a number")
    try:
        return int(value)
    except ValueError as error:
        raise BadPayload("ts is not a number") from error


@dataclass
class DeviceRecord:
    """One device as ThingsBoard knows it.

    `telemetry` is key -> {ts in ms: (value, arrival in ms)}; a bounded record keeps the youngest arrivals.
    """

    name: str
    device_type: str = DEFAULT_TYPE
    is_connected: bool = False
    connect_count: int = 0
    telemetry: dict[str, dict[int, tuple[Value, int]]] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)
    shared: dict[str, Json] = field(default_factory=dict)
    message_count: int = 0
    datapoint_count: int = 0
    overwritten_count: int = 0
    first_arrival_ms: int = 0
    last_arrival_ms: int = 0

    def add_telemetry(self, entries: Json, arrival_ms: int, keep_last: int | None) -> int:
        """Store one device's telemetry (object or list, with or without ts); returns the data points."""
        stored = 0
        for entry in entries if isinstance(entries, list) else [entries]:
            document = mapping(entry, "a telemetry entry")
            if "ts" in document:
                ts_ms = _timestamp_ms(document["ts"])
                values = mapping(document.get("values"), "values")
            else:
                ts_ms, values = arrival_ms, document
            for key, raw in values.items():
                value = cast_value(raw)
                if value is not None:
                    self._keep(key, ts_ms, value, arrival_ms, keep_last)
                    stored += 1
        self._arrived(arrival_ms)
        self.datapoint_count += stored
        return stored

    def _keep(self, key: str, ts_ms: int, value: Value, arrival_ms: int, keep_last: int | None) -> None:
        if keep_last == 0:
            return
        series = self.telemetry.setdefault(key, {})
        if ts_ms in series:
            self.overwritten_count += 1
        series[ts_ms] = (value, arrival_ms)
        if keep_last is not None and len(series) > keep_last:
            del series[next(iter(series))]

    def add_attributes(self, document: Json, arrival_ms: int) -> None:
        """Store client-side attributes. Raises BadPayload."""
        for key, raw in mapping(document, "attributes").items():
            value = cast_value(raw)
            if value is not None:
                self.attributes[key] = value
        self._arrived(arrival_ms)

    def _arrived(self, arrival_ms: int) -> None:
        self.message_count += 1
        self.first_arrival_ms = self.first_arrival_ms or arrival_ms
        self.last_arrival_ms = arrival_ms

    def series(self) -> dict[str, list[tuple[int, Value]]]:
        """key -> [(ts in ms, value)], oldest first."""
        return {
            key: [(ts_ms, value) for ts_ms, (value, _) in sorted(points.items())]
            for key, points in self.telemetry.items()
        }


def requested(store: Mapping[str, Any], keys: list[str] | None) -> dict[str, Any]:
    """The attributes asked for; all of them when `keys` is None."""
    if keys is None:
        return dict(store)
    return {key: store[key] for key in keys if key in store}
