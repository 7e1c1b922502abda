"""The stand-in against a real MQTT client (paho), in both versions of the protocol."""

from __future__ import annotations

import json
import queue
import socket
import threading
from collections.abc import Iterator

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from dlms_connector.simulator.thingsboard import RpcTimeout, ThingsBoardStandIn
from dlms_connector.simulator.thingsboard_session import Fault

WAIT_S = 10.0
TOPICS = (
    "v1/devices/me/attributes",
    "v1/devices/me/attributes/response/+",
    "v1/devices/me/rpc/request/+",
    "v1/devices/me/rpc/response/+",
    "v1/gateway/attributes",
    "v1/gateway/attributes/response",
    "v1/gateway/rpc",
)


class Client:
    """A paho client that plays the gateway."""

    def __init__(self, port: int, version: int = paho.MQTTv5, user: str = "u") -> None:
        self.mqtt = paho.Client(CallbackAPIVersion.VERSION2, protocol=version, client_id="gateway")
        self.mqtt.username_pw_set(user)
        self.connected: queue.Queue[str] = queue.Queue()
        self.lost = threading.Event()
        self.granted: queue.Queue[list[int]] = queue.Queue()
        self.messages: queue.Queue[tuple[str, object]] = queue.Queue()
        self.mqtt.on_connect = lambda *a: self.connected.put(str(a[3]))
        self.mqtt.on_disconnect = lambda *a: self.lost.set()
        self.mqtt.on_subscribe = lambda *a: self.granted.put([code.value for code in a[3]])
        self.mqtt.on_message = lambda *a: self.messages.put((a[2].topic, json.loads(a[2].payload)))
        self.mqtt.connect("127.0.0.1", port, keepalive=30)
        self.mqtt.loop_start()

    def subscribe_all(self) -> list[int]:
        self.mqtt.subscribe([(topic, 2 if version_5(self) else 1) for topic in TOPICS[:1]])
        first = self.granted.get(timeout=WAIT_S)
        self.mqtt.subscribe([(topic, 1) for topic in TOPICS[1:]])
        return first + self.granted.get(timeout=WAIT_S)

    def send(self, topic: str, document: object, qos: int = 1) -> paho.MQTTMessageInfo:
        payload = document if isinstance(document, (str, bytes)) else json.dumps(document)
        return self.mqtt.publish(topic, payload, qos)

    def send_and_wait(self, topic: str, document: object) -> None:
        info = self.send(topic, document)
        info.wait_for_publish(WAIT_S)
        assert info.is_published()

    def receive(self) -> tuple[str, object]:
        return self.messages.get(timeout=WAIT_S)

    def stop(self) -> None:
        # The network thread ends itself; joining it would wait for its select.
        self.mqtt.disconnect()


def version_5(client: Client) -> bool:
    return client.mqtt.protocol == paho.MQTTv5


@pytest.fixture
def server() -> Iterator[ThingsBoardStandIn]:
    with ThingsBoardStandIn() as stand_in:
        yield stand_in


@pytest.fixture(params=[paho.MQTTv5, paho.MQTTv311], ids=["mqtt5", "mqtt311"])
def gateway(request: pytest.FixtureRequest, server: ThingsBoardStandIn) -> Iterator[Client]:
    client = Client(server.port, request.param)
    assert client.connected.get(timeout=WAIT_S) == "Success"
    assert client.subscribe_all() == [1] * len(TOPICS)
    yield client
    client.stop()


def test_telemetry_is_stored_as_thingsboard_casts_it(server: ThingsBoardStandIn, gateway: Client) -> None:
    gateway.send_and_wait("v1/gateway/connect", {"device": "m1", "type": "DLMS Meter"})
    values = (
        '{"serial":"00123456","long":0.30000000000000004,"u":230.12,"big":18446744073709551615,'
        '"none":null,"flag":true,"text":"1.2.3","object":{"a":1}}'
    )
    gateway.send_and_wait("v1/gateway/telemetry", '{"m1":[{"ts":1000,"values":' + values + "}]}")
    assert server.latest("m1") == {
        "serial": (1000, 123456),
        "long": (1000, "0.30000000000000004"),
        "u": (1000, 230.12),
        "big": (1000, "18446744073709551615"),
        "flag": (1000, True),
        "text": (1000, "1.2.3"),
        "object": (1000, '{"a":1}'),
    }
    device = server.devices()["m1"]
    assert (device.device_type, device.is_connected, device.datapoint_count) == ("DLMS Meter", True, 7)


def test_equal_timestamp_overwrites_and_first_telemetry_makes_a_default_device(
    server: ThingsBoardStandIn, gateway: Client
) -> None:
    for value in (1, 2):
        gateway.send_and_wait("v1/gateway/telemetry", {"m1": [{"ts": 5, "values": {"e": value}}]})
    gateway.send_and_wait("v1/gateway/telemetry", {"m1": [{"ts": 3, "values": {"e": 0}}]})
    gateway.send_and_wait("v1/gateway/connect", {"device": "m1", "type": "DLMS Meter"})
    assert server.telemetry("m1") == {"e": [(3, 0), (5, 2)]}
    device = server.devices()["m1"]
    assert (device.device_type, device.overwritten_count) == ("default", 1)


@pytest.mark.parametrize(
    "document",
    [
        {"": [{"ts": 1, "values": {"a": 1}}]},
        {"m1": [{"ts": "yesterday", "values": {"a": 1}}]},
        {"m1": [{"ts": True, "values": {"a": 1}}]},
        {"m1": {"a": 1}},
        "not json",
        {"m1": [{"a": "x" * 70_000}]},
    ],
    ids=["no name", "text ts", "bool ts", "no array", "no JSON", "too large"],
)
def test_bad_payload_ends_the_session_without_a_puback(
    server: ThingsBoardStandIn, gateway: Client, document: object
) -> None:
    gateway.send("v1/gateway/telemetry", document)
    assert gateway.lost.wait(WAIT_S)
    assert server.counters().session_refusals >= 1
    assert server.counters().pubacks == 0


def test_session_limits_and_attribute_requests(server: ThingsBoardStandIn, gateway: Client) -> None:
    gateway.send_and_wait("v1/devices/me/rpc/request/7", {"method": "getSessionLimits", "params": {}})
    topic, limits = gateway.receive()
    assert topic == "v1/devices/me/rpc/response/7"
    assert limits == {
        "maxPayloadSize": 65_536,
        "maxInflightMessages": 100,
        "rateLimits": {},
        "gatewayRateLimits": {},
    }
    server.set_shared({"active_connectors": ["DLMS"], "other": 1})
    assert gateway.receive() == ("v1/devices/me/attributes", {"active_connectors": ["DLMS"], "other": 1})
    gateway.send_and_wait("v1/devices/me/attributes", {"version": "1"})
    gateway.send("v1/devices/me/attributes/request/3", {"clientKeys": "version,x", "sharedKeys": "other"})
    assert gateway.receive() == (
        "v1/devices/me/attributes/response/3",
        {"client": {"version": 1}, "shared": {"other": 1}},
    )
    server.delete_shared(["other"])
    assert gateway.receive() == ("v1/devices/me/attributes", {"deleted": ["other"]})


def test_child_attributes_requested_and_pushed(server: ThingsBoardStandIn, gateway: Client) -> None:
    server.set_device_shared("m1", {"a": 1, "b": 2})
    request = {"id": 4, "device": "m1", "client": False}
    gateway.send("v1/gateway/attributes/request", {**request, "keys": ["a", "b", "c"]})
    topic, answer = gateway.receive()
    assert (topic, answer) == (
        "v1/gateway/attributes/response",
        {"id": 4, "device": "m1", "values": {"a": 1, "b": 2}},
    )
    gateway.send("v1/gateway/attributes/request", {**request, "keys": ["a"]})
    assert gateway.receive()[1] == {"id": 4, "device": "m1", "value": 1}
    server.set_device_shared("m1", {"a": 3})
    assert gateway.receive() == ("v1/gateway/attributes", {"device": "m1", "data": {"a": 3}})


def answer_next_rpc(gateway: Client, answer: object) -> None:
    def serve() -> None:
        topic, document = gateway.receive()
        assert isinstance(document, dict)
        if topic == "v1/gateway/rpc":
            reply = {"device": document["device"], "id": document["data"]["id"], "data": answer}
            gateway.send(topic, reply)
        else:
            gateway.send(topic.replace("request", "response"), answer)

    threading.Thread(target=serve, daemon=True).start()


def test_rpc_waits_for_the_device_and_returns_its_answer(server: ThingsBoardStandIn, gateway: Client) -> None:
    with pytest.raises(RpcTimeout, match="not sent"):
        server.rpc("m1", "get", timeout_s=0.05)
    answer_next_rpc(gateway, {"result": 42})
    threading.Timer(0.1, gateway.send, ("v1/gateway/connect", {"device": "m1", "type": "t"})).start()
    assert server.rpc("m1", "get", "key=a", timeout_s=WAIT_S) == {"result": 42}
    answer_next_rpc(gateway, {"result": "pong"})
    assert server.gateway_rpc("gateway_ping", timeout_s=WAIT_S) == {"result": "pong"}
    with pytest.raises(RpcTimeout, match="not answered"):
        server.rpc("m1", "get", timeout_s=0.05)


@pytest.mark.parametrize("version", [paho.MQTTv5, paho.MQTTv311])
def test_wrong_token_is_refused(version: int) -> None:
    with ThingsBoardStandIn(tokens=["right"]) as server:
        client = Client(server.port, version, user="wrong")
        assert client.connected.get(timeout=WAIT_S) == "Not authorized"
        client.stop()


def test_nothing_is_acknowledged_in_the_black_hole_and_it_ends_with_a_reset(
    server: ThingsBoardStandIn, gateway: Client
) -> None:
    with server.failing(Fault.BLACK_HOLE):
        before = server.counters().bytes_received
        info = gateway.send("v1/gateway/telemetry", {"m1": [{"ts": 1, "values": {"a": 1}}]})
        assert server.wait_for(lambda: server.counters().bytes_received > before, WAIT_S)
        info.wait_for_publish(0.3)
        assert not info.is_published()
        assert server.devices() == {}
    assert gateway.lost.wait(WAIT_S)


def test_no_puback_stores_and_delay_acknowledges_late(server: ThingsBoardStandIn, gateway: Client) -> None:
    server.set_fault(Fault.NO_PUBACK)
    info = gateway.send("v1/gateway/telemetry", {"m1": [{"ts": 1, "values": {"a": 1}}]})
    assert server.wait_for(lambda: server.telemetry("m1") != {}, WAIT_S)
    info.wait_for_publish(0.2)
    assert not info.is_published()
    server.set_fault(Fault.NONE)
    server.delay_pubacks(0.3)
    late = gateway.send("v1/gateway/telemetry", {"m1": [{"ts": 2, "values": {"a": 1}}]})
    assert server.wait_for(lambda: len(server.telemetry("m1")["a"]) == 2, WAIT_S)
    assert not late.is_published()
    late.wait_for_publish(WAIT_S)
    assert late.is_published()


def test_stalled_bytes_arrive_when_the_stall_ends(server: ThingsBoardStandIn, gateway: Client) -> None:
    with server.failing(Fault.STALL):
        info = gateway.send("v1/gateway/telemetry", {"m1": [{"ts": 1, "values": {"a": 1}}]})
        info.wait_for_publish(0.2)
        assert server.devices() == {}
    info.wait_for_publish(WAIT_S)
    assert server.telemetry("m1") == {"a": [(1, 1)]}


def test_down_refuses_the_port_and_comes_back_on_it(server: ThingsBoardStandIn, gateway: Client) -> None:
    with server.failing(Fault.DOWN):
        assert gateway.lost.wait(WAIT_S)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S)
    assert gateway.connected.get(timeout=WAIT_S) == "Success"
    with server.failing(Fault.REFUSE):
        server.drop_connections()
        assert "unavailable" in gateway.connected.get(timeout=WAIT_S).lower()


def test_bounded_record_keeps_the_youngest_and_counts_all() -> None:
    with ThingsBoardStandIn(keep_last=2) as server:
        client = Client(server.port)
        for ts in range(5):
            client.send_and_wait("v1/gateway/telemetry", {"m1": [{"ts": ts, "values": {"a": ts}}]})
        assert server.telemetry("m1") == {"a": [(3, 3), (4, 4)]}
        assert server.counters().datapoints == 5
        client.stop()


def test_disconnect_of_child_and_of_session_is_seen(server: ThingsBoardStandIn, gateway: Client) -> None:
    for name in ("m1", "m2"):
        gateway.send_and_wait("v1/gateway/connect", {"device": name, "type": "t"})
    gateway.send_and_wait("v1/gateway/disconnect", {"device": "m1"})
    assert [device.is_connected for device in server.devices().values()] == [False, True]
    gateway.stop()
    assert server.wait_for(lambda: not server.devices()["m2"].is_connected, WAIT_S)
