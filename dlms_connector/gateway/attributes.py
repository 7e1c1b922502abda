"""Shared attributes -> the meter: typed, scaled back exactly, once however often the gateway repeats them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from dlms_connector.config.reading import AttributeUpdate, ObjectDefinition
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, DlmsConnectorError
from dlms_connector.gateway.uplink import GatewayUplink
from dlms_connector.meter import operations
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Command, Log

_WRITE_WITHIN_S = 60.0


class AttributeUpdates:
    """Writes what `attributeUpdates` names; tells the outcome as the attribute `<key>_status` of the device."""

    def __init__(
        self, uplink: GatewayUplink, pollers: Callable[[], dict[str, DevicePoller]], log: Log
    ) -> None:
        self._uplink = uplink
        self._pollers = pollers
        self._log = log
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], Any] = {}  # value that is written or being written

    def keys(self, device_name: str) -> list[str]:
        """The shared attributes that this device takes."""
        poller = self._pollers().get(device_name)
        return [update.key for update in poller.device.attribute_updates] if poller else []

    def handle(self, device_name: str, values: dict[str, Any]) -> None:
        """Queue a write for each value that is new; returns at once."""
        poller = self._pollers().get(device_name)
        if poller is None:
            return
        for update in poller.device.attribute_updates:
            if update.key in values and self._is_new(device_name, update.key, values[update.key]):
                self._submit(poller, update, values[update.key])

    def _is_new(self, device_name: str, key: str, value: Any) -> bool:
        with self._lock:
            if self._last.get((device_name, key), _NEVER) == value:
                return False
            self._last[(device_name, key)] = value
            return True

    def _submit(self, poller: DevicePoller, update: AttributeUpdate, value: Any) -> None:
        device = poller.device
        definition = ObjectDefinition.model_validate(
            {
                "obis": str(update.obis),
                "class": update.class_id,
                "attribute": update.attribute,
                "scaler": update.scaler,
            }
        )

        def run(session: MeterSession) -> None:
            operations.write(session, definition, value, update.type)

        def done(_: Any, error: DlmsConnectorError | None) -> None:
            outcome = "written" if error is None else f"failed: {error.explain()}"
            self._log.warning(
                "AUDIT %s: attribute %s = %r to %s: %s",
                device.device_name,
                update.key,
                value,
                update.obis,
                outcome,
            )
            if error is not None:
                self._forget(device, update, error)
            now_ms = time.time_ns() // 1_000_000
            self._uplink.deliver(device, [], [Reading(f"{update.key}_status", outcome, "", now_ms)])

        poller.submit(Command(update.key, run, done, time.monotonic() + _WRITE_WITHIN_S))

    def _forget(self, device: DeviceSettings, update: AttributeUpdate, error: DlmsConnectorError) -> None:
        """A write that may work another time is tried again when the gateway repeats the value."""
        if error.transient or not isinstance(error, CommandError):
            with self._lock:
                self._last.pop((device.device_name, update.key), None)


_NEVER = object()
