"""The server's half of MQTT 3.1.1 and 5 packets: bytes in, typed packets out, and back.

Only what a ThingsBoard transport needs: QoS 0 and 1, no retained messages, no wills acted upon, no
topic aliases. Clauses named here are of the OASIS standard "MQTT Version 5.0"; version 3.1.1 differs by the
missing properties and by its return codes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MQTT_3_1_1 = 4
MQTT_5 = 5

_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE, _UNSUBSCRIBE, _PINGREQ, _DISCONNECT = 1, 3, 4, 8, 10, 12, 14
_USER_NAME_FLAG, _PASSWORD_FLAG, _WILL_FLAG = 0x80, 0x40, 0x04
_MAX_LENGTH_BYTES = 4
# The length of one packet before the client said who it is; CONNECT is small.
_MAX_CONNECT_BYTES = 8192


class MqttError(Exception):
    """The peer sent something that is not MQTT, or more of it than was agreed."""


class Connect(NamedTuple):
    version: int
    client_id: str
    user_name: str | None
    keep_alive_s: int


class Publish(NamedTuple):
    topic: str
    payload: bytes
    qos: int
    packet_id: int
    duplicate: bool


class Subscribe(NamedTuple):
    packet_id: int
    filters: tuple[tuple[str, int], ...]


class Unsubscribe(NamedTuple):
    packet_id: int
    filters: tuple[str, ...]


class PubAck(NamedTuple):
    packet_id: int


class PingReq(NamedTuple):
    pass


class Disconnect(NamedTuple):
    pass


Packet = Connect | Publish | Subscribe | Unsubscribe | PubAck | PingReq | Disconnect


class _Body:
    """A cursor over one packet's variable header and payload; every read is bounds-checked."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, size_bytes: int) -> bytes:
        end = self.at + size_bytes
        if end > len(self.raw):
            raise MqttError("packet shorter than its fields")
        part = self.raw[self.at : end]
        self.at = end
        return part

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        try:
            return self.binary().decode()
        except UnicodeDecodeError as error:
            raise MqttError("a string is not UTF-8") from error

    def skip_properties(self) -> None:
        length, shift = 0, 0
        while True:
            octet = self.u8()
            length |= (octet & 0x7F) << shift
            if not octet & 0x80:
                break
            shift += 7
            if shift > 21:
                raise MqttError("property length has more than 4 bytes")
        self.take(length)

    @property
    def rest(self) -> bytes:
        return self.raw[self.at :]


def _connect(body: _Body) -> Connect:
    name = body.text()
    version = body.u8()
    if name != "MQTT" or version not in (MQTT_3_1_1, MQTT_5):
        raise MqttError(f"protocol {name!r} version {version} is not spoken here")
    flags = body.u8()
    keep_alive_s = body.u16()
    if version == MQTT_5:
        body.skip_properties()
    client_id = body.text()
    if flags & _WILL_FLAG:
        if version == MQTT_5:
            body.skip_properties()
        body.text()
        body.binary()
    user_name = body.text() if flags & _USER_NAME_FLAG else None
    if flags & _PASSWORD_FLAG:
        body.binary()
    return Connect(version, client_id, user_name, keep_alive_s)


def _publish(flags: int, raw: bytes, version: int) -> Publish:
    qos = flags >> 1 & 3
    if qos > 1:
        raise MqttError("QoS 2 is not offered")
    body = _Body(raw)
    topic = body.text()
    packet_id = body.u16() if qos else 0
    if version == MQTT_5:
        body.skip_properties()
    return Publish(topic, body.rest, qos, packet_id, bool(flags & 8))


def _subscribe(body: _Body, version: int) -> Subscribe:
    packet_id = body.u16()
    if version == MQTT_5:
        body.skip_properties()
    filters = []
    while body.rest:
        topic_filter = body.text()
        filters.append((topic_filter, body.u8() & 3))
    return Subscribe(packet_id, tuple(filters))


def _unsubscribe(body: _Body, version: int) -> Unsubscribe:
    packet_id = body.u16()
    if version == MQTT_5:
        body.skip_properties()
    filters = []
    while body.rest:
        filters.append(body.text())
    return Unsubscribe(packet_id, tuple(filters))


class PacketReader:
    """Cuts a byte stream into packets.

    Args:
        max_packet_bytes: a longer packet is refused as soon as its length is known, as
            ThingsBoard's transport does with `maxPayloadSize`.
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self.version = 0
        self._max_packet_bytes = max_packet_bytes
        self._buffer = bytearray()

    def feed(self, received: bytes) -> Iterator[Packet]:
        """Yield each packet that is complete now. Raises MqttError on anything malformed or too long."""
        self._buffer += received
        while True:
            cut = self._cut()
            if cut is None:
                return
            first_byte, raw = cut
            yield self._parse(first_byte, raw)

    def _cut(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if not self.version and buffer and buffer[0] != _CONNECT << 4:
            raise MqttError("the first packet is not CONNECT")
        length, shift = 0, 0
        for at in range(1, _MAX_LENGTH_BYTES + 1):
            if at >= len(buffer):
                return None
            octet = buffer[at]
            length |= (octet & 0x7F) << shift
            if not octet & 0x80:
                break
            shift += 7
        else:
            raise MqttError("remaining length has more than 4 bytes")
        limit = self._max_packet_bytes if self.version else _MAX_CONNECT_BYTES
        if length > limit:
            raise MqttError(f"a packet of {length} bytes is longer than {limit}")
        end = at + 1 + length
        if len(buffer) < end:
            return None
        cut = buffer[0], bytes(buffer[at + 1 : end])
        del buffer[:end]
        return cut

    def _parse(self, first_byte: int, raw: bytes) -> Packet:
        kind = first_byte >> 4
        if kind == _PUBLISH:
            return _publish(first_byte & 0x0F, raw, self.version)
        body = _Body(raw)
        if kind == _CONNECT and not self.version:
            connect = _connect(body)
            self.version = connect.version
            return connect
        if kind == _PUBACK:
            return PubAck(body.u16())
        if kind == _SUBSCRIBE:
            return _subscribe(body, self.version)
        if kind == _UNSUBSCRIBE:
            return _unsubscribe(body, self.version)
        if kind == _PINGREQ:
            return PingReq()
        if kind == _DISCONNECT:
            return Disconnect()
        raise MqttError(f"packet type {kind} is not for a server")


def _packet(first_byte: int, body: bytes) -> bytes:
    length = len(body)
    head = bytearray((first_byte,))
    while True:
        octet, length = length & 0x7F, length >> 7
        head.append(octet | 0x80 if length else octet)
        if not length:
            return bytes(head) + body


def connack(code: int, version: int) -> bytes:
    """`code`: 3.1.1 return code or 5 reason code; 0 accepts."""
    return _packet(0x20, bytes((0, code, 0)) if version == MQTT_5 else bytes((0, code)))


def publish(topic: str, payload: bytes, packet_id: int, version: int) -> bytes:
    """A message to the client; QoS 1 if there is a packet id, else 0."""
    name = topic.encode()
    body = struct.pack(">H", len(name)) + name
    if packet_id:
        body += struct.pack(">H", packet_id)
    if version == MQTT_5:
        body += b"\x00"
    return _packet(0x32 if packet_id else 0x30, body + payload)


def puback(packet_id: int) -> bytes:
    """Both versions: the reason code may be left out on success (3.4.2.1)."""
    return struct.pack(">BBH", 0x40, 2, packet_id)


def suback(packet_id: int, granted_qos: list[int], version: int) -> bytes:
    properties = b"\x00" if version == MQTT_5 else b""
    return _packet(0x90, struct.pack(">H", packet_id) + properties + bytes(granted_qos))


def unsuback(packet_id: int, count: int, version: int) -> bytes:
    reasons = b"\x00" + bytes(count) if version == MQTT_5 else b""
    return _packet(0xB0, struct.pack(">H", packet_id) + reasons)


PINGRESP = b"\xd0\x00"


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Wildcards `+` and `#` (clause 4.7.1)."""
    if topic_filter == topic:
        return True
    levels = topic.split("/")
    wanted = topic_filter.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(levels) == len(wanted)
