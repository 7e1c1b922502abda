"""Readings -> the gateway's ConvertedData: keys, timestamps, and only values that ThingsBoard can take.

One value that the server cannot store stops the gateway's whole queue for ever, so nothing leaves here that
is not a str, bool, 64-bit int or finite float of bounded size. Which numbers leave as text: `numbers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from functools import lru_cache

import simplejson
from thingsboard_gateway.gateway.entities.converted_data import ConvertedData
from thingsboard_gateway.gateway.entities.datapoint_key import DatapointKey
from thingsboard_gateway.gateway.entities.report_strategy_config import ReportStrategyConfig
from thingsboard_gateway.gateway.entities.telemetry_entry import TelemetryEntry

from dlms_connector.config.reading import ReportStrategy
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.gateway import numbers
from dlms_connector.meter.reading import Plain, Reading

TelemetryValue = str | bool | int | float
MAX_TEXT_BYTES = 4096
# What ThingsBoard takes for a number when it comes as text (its type cast): digits, at most one point.
_CAST_TO_NUMBER = re.compile(r"-?\d+(\.\d+)?|-?\.\d+|-?\d+\.")
_KEEP_TEXT_SUFFIX = " "


class UplinkConverter:
    """Converts the readings of one device.

    Args:
        on_dropped: told of a value that cannot be sent: key and reason.
    """

    def __init__(self, device: DeviceSettings, on_dropped: Callable[[str, str], None]) -> None:
        self._name = device.device_name
        self._type = device.device_type
        self._on_dropped = on_dropped
        self._default = device.report_strategy
        self._keys = {
            entry.key: _datapoint_key(entry.key, entry.report_strategy or self._default)
            for entry in (*device.timeseries, *device.attributes)
        }

    def convert(
        self, telemetry: Sequence[Reading], attributes: Sequence[Reading], received_ms: int
    ) -> ConvertedData | None:
        """Live readings; None when nothing of them can be sent."""
        data = ConvertedData(self._name, self._type, metadata={"receivedTs": received_ms})
        self._add_telemetry(data, telemetry, self._key)
        for reading in attributes:
            value = self._value(reading)
            if value is not None:
                data.add_to_attributes(self._key(reading.key), value)
        return data if data.telemetry or len(data.attributes) else None

    def convert_rows(self, readings: Sequence[Reading], received_ms: int) -> ConvertedData | None:
        """Rows of a profile: the meter's timestamps, kept by every report strategy (ON_RECEIVED)."""
        data = ConvertedData(self._name, self._type, metadata={"receivedTs": received_ms})
        self._add_telemetry(data, readings, _row_key)
        return data if data.telemetry else None

    def _add_telemetry(
        self, data: ConvertedData, readings: Iterable[Reading], key_of: Callable[[str], DatapointKey]
    ) -> None:
        by_ts: dict[int, dict[DatapointKey, TelemetryValue]] = {}
        for reading in readings:
            value = self._value(reading)
            if value is not None:
                by_ts.setdefault(reading.ts_ms, {})[key_of(reading.key)] = value
        for ts_ms, values in by_ts.items():
            data.add_to_telemetry(TelemetryEntry(values, ts_ms))

    def _key(self, key: str) -> DatapointKey:
        known = self._keys.get(key)
        if known is None:
            known = self._keys[key] = _datapoint_key(key, self._default)
        return known

    def _value(self, reading: Reading) -> TelemetryValue | None:
        value = to_telemetry(reading.value)
        if isinstance(value, str) and len(value.encode()) > MAX_TEXT_BYTES:
            self._on_dropped(reading.key, f"its text is longer than {MAX_TEXT_BYTES} bytes")
            return None
        return value


def to_telemetry(value: Plain) -> TelemetryValue | None:
    """A value as ThingsBoard stores it unchanged; None for what is no value (null, NaN, infinity).

    Text that ThingsBoard would cast to a number ("00123456") gets a trailing blank, which its cast does not take.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float, Decimal)):
        return numbers.stored(value)
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode()
        return text + _KEEP_TEXT_SUFFIX if _CAST_TO_NUMBER.fullmatch(text) else text
    return simplejson.dumps(value, use_decimal=True, ignore_nan=True)


# The meters of a fleet have the same keys: each is made once for all of them.


@lru_cache(maxsize=4096)
def _row_key(key: str) -> DatapointKey:
    return DatapointKey(key, ReportStrategyConfig({"type": "ON_RECEIVED"}))


@lru_cache(maxsize=4096)
def _datapoint_key(key: str, strategy: ReportStrategy | None) -> DatapointKey:
    return DatapointKey(key, None if strategy is None else _strategy(strategy))


def _strategy(settings: ReportStrategy) -> ReportStrategyConfig:
    config: dict[str, str | int] = {"type": settings.type}
    if settings.report_period_ms is not None:
        config["reportPeriod"] = settings.report_period_ms
    return ReportStrategyConfig(config)
