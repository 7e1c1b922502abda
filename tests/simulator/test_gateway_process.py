"""The real gateway, without connectors, against the stand-in."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlms_connector.simulator.gateway_process import MEMORY_STORAGE, Connector, GatewayProcess
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn

pytestmark = pytest.mark.contract
WAIT_S = 60.0

# The smallest connector that sends: enough to see the gateway's way with devices and data.
PROBE = """
from threading import Thread
from thingsboard_gateway.connectors.connector import Connector
from thingsboard_gateway.gateway.entities.converted_data import ConvertedData
from thingsboard_gateway.gateway.entities.telemetry_entry import TelemetryEntry

class ProbeConnector(Connector, Thread):
    def __init__(self, gateway, config, connector_type):
        super().__init__(daemon=True)
        self.gateway, self.config, self._connector_type = gateway, config, connector_type
        self.name = config["name"]
        self.statistics = {"MessagesReceived": 0, "MessagesSent": 0}
        self.stopped = False
    def open(self):
        self.start()
    def run(self):
        data = ConvertedData(device_name="meter 1", device_type="Probe")
        data.add_to_telemetry(TelemetryEntry({"energy": 12.5}, 1700000000000))
        data.add_to_attributes({"serial": "x1"})
        self.gateway.send_to_storage(self.name, self.get_id(), data)
    def close(self):
        self.stopped = True
    def get_id(self): return self.config.get("id")
    def get_name(self): return self.name
    def get_type(self): return self._connector_type
    def get_config(self): return self.config
    def is_connected(self): return True
    def is_stopped(self): return self.stopped
    def on_attributes_update(self, content): pass
    def server_side_rpc_handler(self, content):
        device, request_id = content["device"], content["data"]["id"]
        self.gateway.send_rpc_reply(device=device, req_id=request_id, content={"result": 7})
"""


@pytest.mark.parametrize("storage", [MEMORY_STORAGE, None], ids=["memory", "sqlite"])
def test_gateway_delivers_a_connectors_data_and_answers_rpc(
    tmp_path: Path, storage: dict[str, object] | None
) -> None:
    extension = tmp_path / "probe_connector.py"
    extension.write_text(PROBE)
    connector = Connector("Probe", {"name": "Probe"}, file="probe.json", class_name="ProbeConnector")
    with ThingsBoardStandIn(tokens=["gateway-token"]) as server:
        gateway = GatewayProcess(
            tmp_path / "gateway",
            server.port,
            [connector],
            extensions=[extension],
            remote_configuration=True,
        )
        if storage is not None:
            gateway.storage = dict(storage)
        with gateway:
            assert server.wait_for(lambda: bool(server.telemetry("meter 1")), WAIT_S), gateway.log_text()
            assert server.telemetry("meter 1") == {"energy": [(1700000000000, 12.5)]}
            assert server.devices()["meter 1"].device_type == "Probe"
            attributes = {"connectorType": "custom", "connectorName": "Probe", "serial": "x1"}
            assert server.wait_for(lambda: server.attributes("meter 1") == attributes, WAIT_S)
            # The gateway subscribes before it has handlers; what comes in between is dropped without a word.
            assert gateway.wait_for_log("Gateway started.", WAIT_S)
            assert server.rpc("meter 1", "read", timeout_s=WAIT_S) == {"result": 7}
            assert server.wait_for(lambda: "active_connectors" in server.gateway().attributes, WAIT_S)
            server.drop_connections()
            assert server.wait_for(lambda: server.counters().connections == 2, WAIT_S)
        assert gateway.process is not None
        assert gateway.process.returncode == 0
