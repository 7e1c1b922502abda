"""The second witness: the same gateway and connector against Mosquitto, an MQTT broker that is not ours.

A broker alone is not enough: without an answer to `getSessionLimits` the gateway sends nothing, and an echo of its own
attributes would make it start anew. So a small client answers that one RPC, and an ACL keeps the echo away.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest

from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from dlms_connector.simulator.gateway_process import Connector, GatewayProcess
from dlms_connector.simulator.meter import MeterSettings
from dlms_connector.simulator.quantities import scaled_value
from tests.gateway.conftest import WAIT_S, device_entry

pytestmark = pytest.mark.contract
TOKEN = "gateway-token"
SLOT_S = 3600
ACL = f"""
user {TOKEN}
topic write v1/#
topic read v1/devices/me/attributes/response/+
topic read v1/devices/me/rpc/request/+
topic read v1/devices/me/rpc/response/+
topic read v1/gateway/attributes
topic read v1/gateway/attributes/response
topic read v1/gateway/rpc
user server
topic readwrite v1/#
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        if os.environ.get("DLMS_REQUIRE_WITNESSES"):
            pytest.fail("mosquitto is not installed, and it is required here")
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    port = free_port()
    (tmp_path / "acl").write_text(ACL)
    (tmp_path / "acl").chmod(0o600)
    settings = f"listener {port} 127.0.0.1\nallow_anonymous true\nacl_file {tmp_path}/acl\nuser root\n"
    (tmp_path / "mosquitto.conf").write_text(settings)
    process = subprocess.Popen([program, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + WAIT_S
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            threading.Event().wait(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Server:
    """Answers `getSessionLimits` and keeps what the gateway publishes."""

    def __init__(self, port: int) -> None:
        self.connected: dict[str, str] = {}
        self.telemetry: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.attributes: dict[str, dict[str, Any]] = defaultdict(dict)
        self.changed = threading.Condition()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, "server", protocol=mqtt.MQTTv5)
        self._client.username_pw_set("server")
        self._client.on_connect = lambda client, *_: client.subscribe(
            [("v1/gateway/+", 1), ("v1/devices/me/rpc/request/+", 1)]
        )
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, client: mqtt.Client, _: object, message: mqtt.MQTTMessage) -> None:
        document = json.loads(message.payload)
        with self.changed:
            if message.topic.startswith("v1/devices/me/rpc/request/"):
                number = message.topic.rpartition("/")[2]
                if document.get("method") == "getSessionLimits":
                    limits = {
                        "maxPayloadSize": 65536,
                        "maxInflightMessages": 100,
                        "rateLimits": {},
                        "gatewayRateLimits": {},
                    }
                    client.publish(f"v1/devices/me/rpc/response/{number}", json.dumps(limits), 1)
            elif message.topic == "v1/gateway/connect":
                self.connected[document["device"]] = document["type"]
            elif message.topic == "v1/gateway/telemetry":
                for device, entries in document.items():
                    self.telemetry[device] += entries
            elif message.topic == "v1/gateway/attributes":
                for device, values in document.items():
                    self.attributes[device] |= values
            self.changed.notify_all()

    def wait_for(self, predicate: Any) -> bool:
        with self.changed:
            return bool(self.changed.wait_for(predicate, WAIT_S))


def test_telemetry_and_attributes_through_a_broker_that_is_not_ours(broker: int, tmp_path: Path) -> None:
    server = Server(broker)
    with SimulatedFleet(FleetSettings.uniform(2, template=MeterSettings("", slot_s=SLOT_S))) as fleet:
        devices = [device_entry(fleet, serial, deviceType="Contador") for serial in fleet.serials]
        gateway = GatewayProcess(
            tmp_path / "gateway", broker, [Connector("DLMS", {"devices": devices})], token=TOKEN
        )
        with gateway:
            for serial in fleet.serials:
                name = f"meter {serial}"
                assert server.wait_for(lambda name=name: len(server.telemetry[name]) >= 3), (
                    gateway.log_text()[-3000:]
                )
                assert server.wait_for(lambda name=name: "serialNumber" in server.attributes[name])
                assert server.connected[name] == "Contador"
                assert server.attributes[name]["serialNumber"].strip() == serial
                for entry in server.telemetry[name]:
                    values = entry["values"]
                    if "voltage_l1" in values:
                        at_s = entry["ts"] // 1000
                        assert values["voltage_l1"] == scaled_value(serial, "voltage_l1", at_s, SLOT_S)
                        assert values["active_energy"] == scaled_value(serial, "active_energy", at_s, SLOT_S)
    server.stop()
