"""What ThingsBoard's gateway page sends when an operator saves, renames, disables or deletes a connector."""

from __future__ import annotations

import re
import time
from typing import Any

from dlms_connector.simulator.thingsboard import ThingsBoardStandIn


def camel_case(name: str) -> str:
    """The UI's file name for a connector's name: lodash's camelCase."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return "".join(word.lower() if not index else word.capitalize() for index, word in enumerate(words))


class GatewayPage:
    """The page of one gateway; keeps which connectors are enabled, as the page does from its attributes."""

    def __init__(self, server: ThingsBoardStandIn, active: list[str] | None = None) -> None:
        self._server = server
        self.active = list(active or [])

    def document(
        self,
        name: str,
        configuration: dict[str, Any] | None,
        *,
        log_level: str | None = "INFO",
        class_name: str | None = "DLMSConnector",
        ts_ms: int | None = None,
        **overrides: Any,
    ) -> dict[str, Any]:
        """The value of the connector's shared attribute; None for what the page leaves out."""
        document: dict[str, Any] = {
            "name": name,
            "type": "custom",
            "class": class_name,
            "logLevel": log_level,
            "enableRemoteLogging": False,
            "sendDataOnlyOnChange": False,
            "configuration": f"{camel_case(name)}.json",
            "configurationJson": configuration if configuration is not None else {},
            "ts": ts_ms if ts_ms is not None else time.time_ns() // 1_000_000,
            **overrides,
        }
        return {key: value for key, value in document.items() if value is not None}

    def save(
        self,
        name: str,
        configuration: dict[str, Any] | None = None,
        *,
        active_first: bool = True,
        **options: Any,
    ) -> None:
        """Save an enabled connector; the two attributes arrive in either order."""
        if name not in self.active:
            self.active.append(name)
        document = self.document(name, configuration, **options)
        pushes: list[dict[str, Any]] = [{"active_connectors": list(self.active)}, {name: document}]
        for push in pushes if active_first else reversed(pushes):
            self._server.set_shared(push)

    def disable(self, name: str) -> None:
        self.active.remove(name)
        self._server.set_shared({"active_connectors": list(self.active)})

    def enable(self, name: str) -> None:
        self.active.append(name)
        self._server.set_shared({"active_connectors": list(self.active)})

    def delete(self, name: str) -> None:
        """The attribute disappears first, then the name from the list."""
        self._server.delete_shared([name])
        self.active.remove(name)
        self._server.set_shared({"active_connectors": list(self.active)})

    def rename(self, old: str, new: str, configuration: dict[str, Any], **options: Any) -> None:
        """The old attribute disappears, the new one comes, then the list."""
        self._server.delete_shared([old])
        self.active[self.active.index(old)] = new
        self._server.set_shared({new: self.document(new, configuration, **options)})
        self._server.set_shared({"active_connectors": list(self.active)})
