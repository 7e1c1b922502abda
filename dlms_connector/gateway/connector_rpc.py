"""Connector RPC `<type>_status`, `_devices`, `_pause`, `_resume`, `_probe`, `_forget`: the return value is the answer.

Runs on the gateway's MQTT thread and for every connector of the same type, so it only looks at what is there and
says nothing (None) to methods that are another connector's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dlms_connector.config.loader import Configuration
from dlms_connector.gateway.status import told, totals
from dlms_connector.polling.poller import DevicePoller


class ConnectorRpc:
    """Answers from what is already known; nothing here waits for a meter."""

    def __init__(
        self,
        connector_type: str,
        pollers: Callable[[], dict[str, DevicePoller]],
        configuration: Callable[[], Configuration],
    ) -> None:
        self._prefix = f"{connector_type}_"
        self._pollers = pollers
        self._configuration = configuration
        self._methods: dict[str, Callable[[Any], dict[str, Any]]] = {
            "status": self._status,
            "devices": self._devices,
            "pause": lambda params: self._each(params, "paused", DevicePoller.pause),
            "resume": lambda params: self._each(params, "resumed", DevicePoller.resume),
            "forget": lambda params: self._each(params, "forgotten", DevicePoller.forget),
            "probe": lambda params: self._each(params, "probing", DevicePoller.probe),
        }

    def handle(self, content: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, None for what is not ours."""
        method = str(content.get("method", ""))
        if not method.startswith(self._prefix):
            return None
        known = self._methods.get(method[len(self._prefix) :])
        return None if known is None else known(content.get("params"))

    def _status(self, _: Any) -> dict[str, Any]:
        meters = [poller.status() for poller in self._pollers().values()]
        return {**totals(meters), "problems": told(self._configuration().problems)}

    def _devices(self, params: Any) -> dict[str, Any]:
        chosen, unknown = self._choose(params)
        listed = {
            name: {
                key: poller.status()[key]
                for key in ("dlms_state", "dlms_lastError", "dlms_successRate", "lastReadTs")
            }
            for name, poller in chosen.items()
        }
        return {"devices": listed, **({"unknown": unknown} if unknown else {})}

    def _each(self, params: Any, word: str, action: Callable[[DevicePoller], None]) -> dict[str, Any]:
        chosen, unknown = self._choose(params)
        for poller in chosen.values():
            action(poller)
        return {word: len(chosen), **({"unknown": unknown} if unknown else {})}

    def _choose(self, params: Any) -> tuple[dict[str, DevicePoller], list[str]]:
        """Devices named by `params`: a name, a list, `{"devices": [...]}` or `{"device": ...}`; all for nothing."""
        pollers = self._pollers()
        if isinstance(params, dict):
            params = params.get("devices", params.get("device"))
        if params in (None, "", "{}"):
            return dict(pollers), []
        names = [params] if isinstance(params, str) else params if isinstance(params, list) else []
        names = [str(name) for name in names]
        return (
            {name: pollers[name] for name in names if name in pollers},
            [name for name in names if name not in pollers],
        )
