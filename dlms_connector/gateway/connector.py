"""DLMSConnector: the class that the ThingsBoard IoT Gateway loads. Life cycle and routing, nothing else.

The gateway's threads call every method here; none of them waits for a meter, none of them raises.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from thingsboard_gateway.connectors.connector import Connector
from thingsboard_gateway.tb_utility.tb_logger import init_logger

from dlms_connector.config.loader import Configuration, load_document
from dlms_connector.config.settings import ConnectorSettings
from dlms_connector.config.shard import take_share
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.gateway import delivery, device_list
from dlms_connector.gateway.attributes import AttributeUpdates
from dlms_connector.gateway.connector_rpc import ConnectorRpc
from dlms_connector.gateway.fleet import Fleet
from dlms_connector.gateway.metrics import HealthCollector, MetricsEndpoint
from dlms_connector.gateway.rpc import DeviceRpc
from dlms_connector.gateway.status import StatusFiles
from dlms_connector.gateway.uplink import GatewayUplink
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.state import StateStore, state_file

CLOSE_S = 3.8


class DLMSConnector(Connector):  # type: ignore[misc]  # the gateway ships no types
    """DLMS/COSEM meters as devices of one gateway.

    Contract (thingsboard-gateway 3.8): constructed and opened on the gateway's threads; `close` may be called
    thousands of times in a busy loop until `is_stopped`; `name` and `statistics` are read and written by the gateway.
    """

    def __init__(self, gateway: Any, config: dict[str, Any], connector_type: str) -> None:
        super().__init__()
        self._gateway = gateway
        self._config = config
        self._connector_type = connector_type
        self.name: str = config.get("name") or "DLMS"
        self._id = str(config.get("id") or self.name)
        self._log = init_logger(
            gateway,
            self.name,
            config.get("logLevel") or "INFO",
            enable_remote_logging=bool(config.get("enableRemoteLogging", False)),
            is_connector_logger=True,
        )
        self._lock = threading.Lock()
        self._closing = False
        self._stopped = threading.Event()
        self._fleet: Fleet | None = None
        self._status: StatusFiles | None = None
        self._metrics: MetricsEndpoint | None = None
        self._configuration: Configuration = load_document(
            config, base_directory=Path(gateway.get_config_path())
        )
        self._uplink = GatewayUplink(
            gateway,
            self.get_name,
            self._id,
            self._log,
            queue_limit=self._configuration.connector.backpressure.queue_limit,
            wall_ms=lambda: time.time_ns() // 1_000_000,
        )
        self._device_rpc = DeviceRpc(self._reply, self._pollers, self._log)
        self._connector_rpc = ConnectorRpc(self._connector_type, self._pollers, lambda: self._configuration)
        self._attribute_updates = AttributeUpdates(self._uplink, self._pollers, self._log)

    def _pollers(self) -> dict[str, DevicePoller]:
        fleet = self._fleet
        return fleet.pollers if fleet is not None else {}

    def _reply(self, device: str, request_id: Any, content: dict[str, Any]) -> None:
        if not self._stopped.is_set():
            self._gateway.send_rpc_reply(device=device, req_id=request_id, content=content)

    @property
    def statistics(self) -> dict[str, int]:
        """Counts that the gateway reads."""
        return {
            "MessagesReceived": self._uplink.messages_received,
            "MessagesSent": self._uplink.messages_sent,
        }

    def open(self) -> None:
        """Start a poller for each valid device; what is wrong is told and left out."""
        with self._lock:
            if self._closing or self._fleet is not None:
                return
            self._tell_problems()
            settings = self._configuration.connector
            self._mend_gateway(settings)
            devices = [
                device for device in take_share(self._configuration.devices, settings.shard) if device.enabled
            ]
            if not devices:
                self._log.info("%s: no devices configured", self.name)
                return
            try:
                state = StateStore(
                    state_file(settings.state_directory, Path(self._gateway.get_config_path()))
                )
                if state.replaced is not None:
                    self._log.error("%s: the state file was broken and is now %s", self.name, state.replaced)
                self._fleet = Fleet(settings, self._uplink, state, self._log)
                self._fleet.start(devices)
            except DlmsConnectorError as error:
                self._log.error("%s cannot start: %s", self.name, error.explain())
                return
            self._show_locally(state.path)
            self._log.info("%s: polling %d meters", self.name, len(devices))

    def _mend_gateway(self, settings: ConnectorSettings) -> None:
        if settings.delivery.await_puback:
            delivery.install(self._gateway, settings.delivery.puback_timeout_ms / 1000, self._log)
        else:
            delivery.uninstall()
        if settings.device_list.collect_changes:
            device_list.install(self._gateway, self._log)
        else:
            device_list.uninstall(self._gateway)

    def _show_locally(self, state_path: Path | None) -> None:
        """Status file and metrics, as far as the configuration wants them."""
        settings, problems = self._configuration.connector, self._configuration.problems
        if settings.status.enabled and state_path is not None:
            self._status = StatusFiles(
                self.name, settings.status, state_path.parent, self._pollers, problems, self._log
            )
            self._status.start()
        if settings.prometheus.enabled:
            collector = HealthCollector(self.name, self._pollers, problems)
            self._metrics = MetricsEndpoint(settings.prometheus, collector, self._log)
            self._metrics.start()

    def _tell_problems(self) -> None:
        for problem in self._configuration.problems:
            tell = self._log.error if problem.severity == "error" else self._log.warning
            tell("%s: %s", self.name, problem)

    def close(self) -> None:
        """End every poller within 4 s; idempotent and silent after the first call."""
        with self._lock:
            first = not self._closing
            self._closing = True
            fleet = self._fleet
        if not first:
            # The gateway calls in a busy loop; waiting here keeps it from burning a core.
            self._stopped.wait(CLOSE_S)
            return
        began_s = time.monotonic()
        self._uplink.close()
        for shown in (self._metrics, self._status):
            if shown is not None:
                shown.stop()
        left = fleet.stop(began_s + CLOSE_S) if fleet is not None else []
        self._device_rpc.close()
        for name in left:
            self._log.warning("%s: its poller is still waiting for the system and will end by itself", name)
        self._log.info("%s: closed (%.1f s)", self.name, time.monotonic() - began_s)
        self._log.stop()
        self._stopped.set()

    def get_id(self) -> str:
        return self._id

    def get_name(self) -> str:
        return self.name

    def get_type(self) -> str:
        return self._connector_type

    def get_config(self) -> dict[str, Any]:
        return self._config

    def is_connected(self) -> bool:
        """Open for work; each meter's own state is told by its device."""
        return self._fleet is not None and not self._closing

    def is_stopped(self) -> bool:
        """False until `close` is through: a connector that says stopped too early is forgotten, never closed."""
        return self._stopped.is_set()

    def on_attributes_update(self, content: dict[str, Any]) -> None:
        """Shared attributes of a device: `{"device": ..., "data": {...}}`, repeated two to four times."""
        try:
            self._attribute_updates.handle(content["device"], content["data"])
        except Exception as error:  # noqa: BLE001 (an exception here would end the gateway's own thread)
            self._log.error("%s: attribute update not understood: %r", self.name, error)

    def get_device_shared_attributes_keys(self, device_name: str) -> list[str]:
        """Which shared attributes of this device are written to the meter."""
        return self._attribute_updates.keys(device_name)

    def server_side_rpc_handler(self, content: dict[str, Any]) -> Any:
        """An RPC to a device (answered later, returns None) or to the connector (the return value answers)."""
        try:
            if "device" not in content:
                return self._connector_rpc.handle(content)
            data = content["data"]
            self._device_rpc.handle(content["device"], data["id"], data["method"], data.get("params"))
        except Exception as error:  # noqa: BLE001 (an exception here would end the gateway's RPC thread)
            self._log.error("%s: RPC not understood: %r", self.name, error)
        return None
