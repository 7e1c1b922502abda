"""What the topics of ThingsBoard's device and gateway MQTT API do.

After docs "MQTT Device API" and "MQTT Gateway API", and ThingsBoard's GatewaySessionHandler where they are
silent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from dlms_connector.simulator.thingsboard_record import (
    DEFAULT_TYPE,
    BadPayload,
    DeviceRecord,
    Json,
    device_name,
    mapping,
    parse,
    requested,
)
from dlms_connector.simulator.thingsboard_session import Host, MqttSession

_ME_ATTRIBUTES = "v1/devices/me/attributes"
_ME_ATTRIBUTES_REQUEST = "v1/devices/me/attributes/request/"
_ME_ATTRIBUTES_RESPONSE = "v1/devices/me/attributes/response/"
_ME_TELEMETRY = "v1/devices/me/telemetry"
_ME_RPC_REQUEST = "v1/devices/me/rpc/request/"
_ME_RPC_RESPONSE = "v1/devices/me/rpc/response/"
_GATEWAY_ATTRIBUTES = "v1/gateway/attributes"
_GATEWAY_ATTRIBUTES_RESPONSE = "v1/gateway/attributes/response"
_GATEWAY_RPC = "v1/gateway/rpc"


def _plain(payload: bytes) -> Json:
    try:
        document: Json = json.loads(payload)
    except ValueError as error:
        raise BadPayload("not JSON") from error
    return document


class GatewaySession(MqttSession):
    """A gateway's session: its own topics, and those of the devices behind it (its children)."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._topics: dict[str, Callable[[bytes], None]] = {
            "v1/gateway/connect": self._child_connect,
            "v1/gateway/disconnect": self._child_disconnect,
            "v1/gateway/telemetry": self._child_telemetry,
            "v1/gateway/attributes": self._child_attributes,
            "v1/gateway/attributes/request": self._child_attributes_request,
            "v1/gateway/rpc": self._child_rpc_answer,
            _ME_TELEMETRY: self._own_telemetry,
            _ME_ATTRIBUTES: self._own_attributes,
        }

    def take(self, topic: str, payload: bytes) -> None:
        handler = self._topics.get(topic)
        if handler is not None:
            handler(payload)
        elif topic.startswith(_ME_RPC_REQUEST):
            self._client_rpc(topic[len(_ME_RPC_REQUEST) :], payload)
        elif topic.startswith(_ME_RPC_RESPONSE):
            request_id = topic[len(_ME_RPC_RESPONSE) :]
            if not request_id.isdigit():
                raise BadPayload("the RPC's id is not a number")
            self.host.rpc_answered(None, int(request_id), _plain(payload))
        elif topic.startswith(_ME_ATTRIBUTES_REQUEST):
            self._own_attributes_request(topic[len(_ME_ATTRIBUTES_REQUEST) :], payload)
        else:
            raise BadPayload(f"topic {topic!r} is not one of ThingsBoard's")

    def _child(self, name: str, device_type: str = DEFAULT_TYPE) -> DeviceRecord:
        if not name:
            raise BadPayload("the device's name is empty")
        record = self.host.store.device(name, device_type)
        record.is_connected = True
        if name not in self.children:
            self.children.add(name)
            self.host.child_joined(self, name)
        return record

    def _child_connect(self, payload: bytes) -> None:
        document = mapping(_plain(payload), "connect")
        device_type = document.get("type")
        name = device_name(document)
        record = self._child(
            name, device_type if isinstance(device_type, str) and device_type else DEFAULT_TYPE
        )
        record.connect_count += 1

    def _child_disconnect(self, payload: bytes) -> None:
        name = device_name(mapping(_plain(payload), "disconnect"))
        self.children.discard(name)
        if name in self.host.store.devices:
            self.host.store.devices[name].is_connected = False

    def _child_telemetry(self, payload: bytes) -> None:
        store = self.host.store
        arrival_ms = time.time_ns() // 1_000_000
        for name, entries in mapping(parse(payload), "gateway telemetry").items():
            if not isinstance(entries, list):
                raise BadPayload("a device's telemetry is not an array")
            record = self._child(name)
            store.counters.datapoints += record.add_telemetry(entries, arrival_ms, store.keep_last)

    def _child_attributes(self, payload: bytes) -> None:
        arrival_ms = time.time_ns() // 1_000_000
        for name, attributes in mapping(parse(payload), "gateway attributes").items():
            self._child(name).add_attributes(attributes, arrival_ms)

    def _child_attributes_request(self, payload: bytes) -> None:
        document = mapping(_plain(payload), "attributes request")
        name = device_name(document)
        record = self._child(name)
        keys = document.get("keys", [document.get("key")])
        if not isinstance(keys, list):
            raise BadPayload("keys is not an array")
        names = [key for key in keys if isinstance(key, str)]
        found = requested(record.attributes if document.get("client") else record.shared, names)
        answer: dict[str, Json] = {"id": document.get("id"), "device": name}
        if len(names) > 1 and found:
            answer["values"] = found
        elif found:
            answer["value"] = found[names[0]]
        self.publish(_GATEWAY_ATTRIBUTES_RESPONSE, answer)

    def _child_rpc_answer(self, payload: bytes) -> None:
        document = mapping(_plain(payload), "RPC answer")
        request_id = document.get("id")
        if not isinstance(request_id, int):
            raise BadPayload("the RPC's id is not a number")
        self.host.rpc_answered(device_name(document), request_id, document.get("data"))

    def _own_telemetry(self, payload: bytes) -> None:
        store = self.host.store
        arrival_ms = time.time_ns() // 1_000_000
        store.counters.datapoints += store.gateway.add_telemetry(parse(payload), arrival_ms, store.keep_last)

    def _own_attributes(self, payload: bytes) -> None:
        self.host.store.gateway.add_attributes(parse(payload), time.time_ns() // 1_000_000)

    def _own_attributes_request(self, request_id: str, payload: bytes) -> None:
        document = mapping(_plain(payload), "attributes request")
        gateway = self.host.store.gateway
        answer: dict[str, Json] = {}
        for scope, store in (("client", gateway.attributes), ("shared", gateway.shared)):
            keys = document.get(f"{scope}Keys")
            if document and keys is None:
                continue
            found = requested(store, str(keys).split(",") if keys is not None else None)
            if found:
                answer[scope] = found
        self.publish(_ME_ATTRIBUTES_RESPONSE + request_id, answer)

    def _client_rpc(self, request_id: str, payload: bytes) -> None:
        method = mapping(_plain(payload), "RPC").get("method")
        answer: Json = self.host.session_limits if method == "getSessionLimits" else {"error": "no rule"}
        self.publish(_ME_RPC_RESPONSE + request_id, answer)

    def push_own_attributes(self, document: dict[str, Json]) -> bool:
        return self.publish(_ME_ATTRIBUTES, document)

    def push_child_attributes(self, name: str, data: dict[str, Json]) -> bool:
        return self.publish(_GATEWAY_ATTRIBUTES, {"device": name, "data": data})

    def request_own_rpc(self, request_id: int, method: str, params: Json) -> bool:
        return self.publish(f"{_ME_RPC_REQUEST}{request_id}", {"method": method, "params": params})

    def request_child_rpc(self, name: str, request_id: int, method: str, params: Json) -> bool:
        data: Json = {"id": request_id, "method": method, "params": params}
        return self.publish(_GATEWAY_RPC, {"device": name, "data": data})
