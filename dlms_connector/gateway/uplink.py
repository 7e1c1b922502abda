"""The way to the gateway's storage: one gate that closes with the connector."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from thingsboard_gateway.gateway.constant_enums import Status
from thingsboard_gateway.gateway.statistics.statistics_service import StatisticsService

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.gateway.converter import UplinkConverter
from dlms_connector.meter.reading import Reading
from dlms_connector.polling.health import Health
from dlms_connector.polling.ports import Log


class GatewayUplink:
    """Hands readings to the gateway core; nothing passes after `close`.

    A reading that reached the gateway after its connector was removed would make the server create the device
    anew with the type "default", so the check and the hand-over are one step under a lock.
    """

    def __init__(
        self,
        gateway: Any,
        connector_name: Callable[[], str],
        connector_id: str,
        log: Log,
        *,
        queue_limit: int,
        wall_ms: Callable[[], int],
    ) -> None:
        self.messages_received = 0
        self.messages_sent = 0
        self._gateway = gateway
        self._name = connector_name
        self._id = connector_id
        self._log = log
        self._queue_limit = queue_limit
        self._wall_ms = wall_ms
        self._converters: dict[str, UplinkConverter] = {}
        self._open = True
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let nothing pass any more; returns when no hand-over is under way."""
        with self._lock:
            self._open = False

    def add_device(self, device: DeviceSettings) -> None:
        """Prepare the keys of a device."""

        def dropped(key: str, reason: str) -> None:
            self._log.error('%s: "%s" is not sent: %s', device.device_name, key, reason)

        self._converters[device.device_name] = UplinkConverter(device, dropped)

    def deliver(
        self, device: DeviceSettings, telemetry: Sequence[Reading], attributes: Sequence[Reading]
    ) -> bool:
        """Live readings; False when the gateway did not take them."""
        data = self._converters[device.device_name].convert(telemetry, attributes, self._wall_ms())
        return True if data is None else self._send(device, data)

    def deliver_rows(self, device: DeviceSettings, readings: Sequence[Reading]) -> bool:
        """Rows of a profile with the meter's own timestamps."""
        data = self._converters[device.device_name].convert_rows(readings, self._wall_ms())
        return True if data is None else self._send(device, data)

    def deliver_health(self, device: DeviceSettings, health: Health, *, state_only: bool) -> None:
        """Health as attributes, and as telemetry unless only the state changed."""
        settings = device.health
        values = health.values()
        now_ms = self._wall_ms()
        attributes = [Reading(key, values[key], "", now_ms) for key in settings.attributes if key in values]
        telemetry = [
            Reading(key, values[key], "", now_ms)
            for key in settings.telemetry
            if key in values and not state_only
        ]
        self.deliver(device, telemetry, attributes)

    def is_congested(self) -> bool:
        """The gateway has a long queue: backfill waits."""
        return bool(self._gateway.get_converted_data_queue().qsize() > self._queue_limit)

    def _send(self, device: DeviceSettings, data: Any) -> bool:
        self.messages_received += 1
        with self._lock:
            if not self._open:
                return False
            status = self._gateway.send_to_storage(self._name(), self._id, data)
        if status is not Status.SUCCESS:
            self._log.error("%s: the gateway did not take its data: %s", device.device_name, status)
            return False
        self.messages_sent += 1
        StatisticsService.count_connector_message(self._name(), stat_parameter_name="storageMsgPushed")
        return True
