"""The MQTT side of one gateway's session: sign-in, subscriptions, acknowledgements, and their faults."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from dlms_connector.simulator import mqtt_wire as wire
from dlms_connector.simulator.reset import reset
from dlms_connector.simulator.thingsboard_record import (
    DEFAULT_TYPE,
    BadPayload,
    DeviceRecord,
    Json,
)

_MQTT_3_REFUSED_NOT_AUTHORIZED, _MQTT_5_NOT_AUTHORIZED = 5, 0x87
_MQTT_3_SERVER_UNAVAILABLE, _MQTT_5_SERVER_UNAVAILABLE = 3, 0x88


class Fault(str, Enum):
    """What the server does wrong from now on."""

    NONE = "none"
    DOWN = "down"  # not listening, every connection reset
    REFUSE = "refuse"  # CONNECT is answered with "server unavailable"
    BLACK_HOLE = "black hole"  # bytes are accepted and thrown away, nothing is answered
    STALL = "stall"  # bytes stay in the socket buffers and are read when the stall ends
    NO_PUBACK = "no puback"  # messages are stored but never acknowledged


@dataclass
class Counters:
    """Totals since the start; `session_refusals` counts sessions closed for a bad payload."""

    connections: int = 0
    connections_now: int = 0
    messages: int = 0
    duplicate_messages: int = 0
    datapoints: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    pubacks: int = 0
    session_refusals: int = 0
    last_refusal: str = ""


@dataclass
class Store:
    """Everything that outlives a session. Guarded by the stand-in's lock."""

    gateway: DeviceRecord = field(default_factory=lambda: DeviceRecord("gateway"))
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    keep_last: int | None = None

    def device(self, name: str, device_type: str = DEFAULT_TYPE) -> DeviceRecord:
        """The device of that name; created with `device_type` when it is new, as ThingsBoard does."""
        record = self.devices.get(name)
        if record is None:
            record = self.devices[name] = DeviceRecord(name, device_type)
        return record


class Host(Protocol):
    """What a session needs of the server that runs it."""

    store: Store
    fault: Fault
    puback_delay_s: float
    max_payload_bytes: int
    session_limits: dict[str, Json]

    def accepts(self, token: str | None) -> bool: ...
    def opened(self, session: MqttSession) -> None: ...
    def closed(self, session: MqttSession) -> None: ...
    def child_joined(self, session: MqttSession, name: str) -> None: ...
    def rpc_answered(self, device: str | None, request_id: int, answer: Json) -> None: ...
    def changed(self) -> None: ...
    def locked(self, work: Callable[[], None]) -> None: ...


class MqttSession(asyncio.Protocol, ABC):
    """One connection, whatever its topics mean. Lives on the loop's thread."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._reader = wire.PacketReader(host.max_payload_bytes)
        self._filters: list[str] = []
        self._out = bytearray()
        self._next_packet_id = 1
        self._transport: asyncio.Transport | None = None
        self.children: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server gives nothing else
        self._transport = transport
        counters = self.host.store.counters
        counters.connections += 1
        counters.connections_now += 1
        if self.host.fault is Fault.STALL:
            transport.pause_reading()
        self.host.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.host.store.counters.connections_now -= 1
        for name in self.children:
            self.host.store.device(name).is_connected = False
        self.host.closed(self)
        self.host.changed()

    def data_received(self, data: bytes) -> None:
        self.host.store.counters.bytes_received += len(data)
        if self.host.fault is not Fault.BLACK_HOLE:
            self.host.locked(lambda: self._handle_all(data))
        self.host.changed()

    def _handle_all(self, data: bytes) -> None:
        try:
            for packet in self._reader.feed(data):
                self._handle(packet)
                if self._transport is None or self._transport.is_closing():
                    return
        except (wire.MqttError, BadPayload) as error:
            counters = self.host.store.counters
            counters.session_refusals += 1
            counters.last_refusal = str(error)
            self._flush()
            self.close()
            return
        self._flush()

    def _flush(self) -> None:
        if self._out and self._transport is not None:
            self.host.store.counters.bytes_sent += len(self._out)
            self._transport.write(bytes(self._out))
        self._out.clear()

    def close(self) -> None:
        """End in the orderly way, after what is already written."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection."""
        if self._transport is not None:
            reset(self._transport)

    def pause(self, paused: bool) -> None:
        """Leave the peer's bytes in the socket buffers, or read them again."""
        if self._transport is None or self._transport.is_closing():
            return
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _handle(self, packet: wire.Packet) -> None:
        if isinstance(packet, wire.Publish):
            self._handle_publish(packet)
        elif isinstance(packet, wire.Connect):
            self._handle_connect(packet)
        elif isinstance(packet, wire.Subscribe):
            self._filters += [topic_filter for topic_filter, _ in packet.filters]
            granted = [min(qos, 1) for _, qos in packet.filters]
            self._out += wire.suback(packet.packet_id, granted, self._reader.version)
        elif isinstance(packet, wire.Unsubscribe):
            self._filters = [one for one in self._filters if one not in packet.filters]
            self._out += wire.unsuback(packet.packet_id, len(packet.filters), self._reader.version)
        elif isinstance(packet, wire.PingReq):
            self._out += wire.PINGRESP
        elif isinstance(packet, wire.Disconnect):
            self._flush()
            self.close()

    def _handle_connect(self, connect: wire.Connect) -> None:
        is_5 = connect.version == wire.MQTT_5
        code = 0
        if self.host.fault is Fault.REFUSE:
            code = _MQTT_5_SERVER_UNAVAILABLE if is_5 else _MQTT_3_SERVER_UNAVAILABLE
        elif not self.host.accepts(connect.user_name):
            code = _MQTT_5_NOT_AUTHORIZED if is_5 else _MQTT_3_REFUSED_NOT_AUTHORIZED
        self._out += wire.connack(code, connect.version)
        if code:
            self._flush()
            self.close()
        else:
            self.host.store.gateway.connect_count += 1

    def _handle_publish(self, message: wire.Publish) -> None:
        counters = self.host.store.counters
        counters.messages += 1
        counters.duplicate_messages += message.duplicate
        self.take(message.topic, message.payload)
        if not message.qos or self.host.fault is Fault.NO_PUBACK:
            return
        counters.pubacks += 1
        acknowledgement = wire.puback(message.packet_id)
        if self.host.puback_delay_s > 0:
            asyncio.get_running_loop().call_later(self.host.puback_delay_s, self._send, acknowledgement)
        else:
            self._out += acknowledgement

    @abstractmethod
    def take(self, topic: str, payload: bytes) -> None:
        """Act on one message. Raises BadPayload, which ends the session without a PUBACK."""

    def _send(self, raw: bytes) -> None:
        if self.host.fault is not Fault.BLACK_HOLE:
            self._out += raw
            self._flush()

    def is_subscribed(self, topic: str) -> bool:
        return any(wire.topic_matches(topic_filter, topic) for topic_filter in self._filters)

    def publish(self, topic: str, document: Json) -> bool:
        """Send to the client if it subscribed to the topic; True if it was sent."""
        if self._transport is None or not self.is_subscribed(topic) or self.host.fault is Fault.BLACK_HOLE:
            return False
        payload = json.dumps(document, separators=(",", ":")).encode()
        self._out += wire.publish(topic, payload, self._next_packet_id, self._reader.version)
        self._next_packet_id = self._next_packet_id % 0xFFFF + 1
        self._flush()
        return True
