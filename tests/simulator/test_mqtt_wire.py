"""MQTT packets as a server reads them: cut anywhere, malformed, too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.simulator import mqtt_wire as wire

CONNECT_5 = bytes.fromhex("101a00044d51545405c2000f0000036162630005746f6b656e000170")
CONNECT_311 = bytes.fromhex("101300044d5154540480000f00000005746f6b656e")
PUBLISH = bytes.fromhex("32080001740007007b7d")


def read(data: bytes, max_packet_bytes: int = 1000) -> list[wire.Packet]:
    return list(wire.PacketReader(max_packet_bytes).feed(data))


def test_connect_in_both_versions() -> None:
    assert read(CONNECT_5) == [wire.Connect(5, "abc", "token", 15)]
    assert read(CONNECT_311) == [wire.Connect(4, "", "token", 15)]


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40))
def test_any_cut_gives_the_same_packets(sizes: list[int]) -> None:
    stream = CONNECT_5 + PUBLISH + b"\xc0\x00" + PUBLISH + b"\xe0\x00"
    whole = read(stream)
    assert whole[1:3] == [wire.Publish("t", b"{}", 1, 7, False), wire.PingReq()]
    reader = wire.PacketReader(1000)
    found: list[wire.Packet] = []
    while stream:
        size = sizes[len(found) % len(sizes)]
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == whole


@pytest.mark.parametrize(
    "data",
    [
        PUBLISH,
        CONNECT_5 * 2,
        CONNECT_5 + b"\x30\xff\xff\xff\xff\x01",
        CONNECT_5 + b"\x30\xe9\x07",
        CONNECT_5 + b"\x34\x05\x00\x01t\x00\x00",
        CONNECT_5 + b"\x30\x02\x00\x05",
        CONNECT_5 + b"\x30\x05\x00\x01t\xff\xff",
        CONNECT_5 + b"\x50\x02\x00\x01",
        b"\x10\x08\x00\x04MQTX\x05\x00",
        b"\x10\xff\xff\x7f",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_malformed_streams_are_refused(data: bytes) -> None:
    with pytest.raises(wire.MqttError):
        read(data)


@given(st.binary(max_size=200))
def test_random_bytes_never_do_worse_than_mqtt_error(data: bytes) -> None:
    for prefix in (b"", CONNECT_5, CONNECT_311):
        try:
            read(prefix + data)
        except wire.MqttError:
            pass


@pytest.mark.parametrize(
    ("topic_filter", "topic", "matches"),
    [
        ("v1/devices/me/rpc/request/+", "v1/devices/me/rpc/request/12", True),
        ("v1/devices/me/rpc/request/+", "v1/devices/me/rpc/request", False),
        ("v1/#", "v1/gateway/rpc", True),
        ("v1/gateway/rpc", "v1/gateway/rpc/x", False),
        ("+/gateway/+", "v1/gateway/rpc", True),
    ],
)
def test_topic_filters(topic_filter: str, topic: str, matches: bool) -> None:
    assert wire.topic_matches(topic_filter, topic) is matches
