"""The wrapper: cut by length, ports checked, bounded."""

from __future__ import annotations

import random
import time

import pytest
from gurux_dlms import GXDLMSClient
from gurux_dlms.enums import Authentication, InterfaceType
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.errors import FrameError, LinkClosed, LinkTimeout
from dlms_connector.io.stream import Interrupt
from dlms_connector.io.tcp import open_tcp
from dlms_connector.io.wrapper import WrapperClient, WrapperReader, encode_wrapper
from tests.support.link_peer import ChunkStream, SocketPipe, soon, tcp_peer, wait_until

CLIENT, SERVER = 16, 1
messages = st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=100))


def read_request(pipe: SocketPipe) -> bytes:
    reader = WrapperReader()
    while (message := reader.next()) is None:
        data = pipe.receive()
        if not data:
            return b""
        reader.feed(data)
    assert message[:2] == (CLIENT, SERVER)
    return message[2]


@given(st.lists(messages, min_size=1, max_size=4), st.integers(1, 20))
def test_messages_come_back_however_they_are_cut(sent: list[tuple[int, int, bytes]], step: int) -> None:
    stream = b"".join(encode_wrapper(*message) for message in sent)
    reader, seen = WrapperReader(), []
    for start in range(0, len(stream), step):
        reader.feed(stream[start : start + step])
        while (message := reader.next()) is not None:
            seen.append(message)
    assert seen == sent
    assert not reader.is_mid_message


def test_gurux_wraps_alike() -> None:
    client = GXDLMSClient(True, CLIENT, SERVER, Authentication.NONE, None, InterfaceType.WRAPPER)
    raw = bytes(client.aarqRequest()[0])
    reader = WrapperReader()
    reader.feed(raw)
    message = reader.next()
    assert message is not None
    assert message[:2] == (CLIENT, SERVER)
    assert message[2][0] == 0x60
    assert encode_wrapper(*message) == raw


@pytest.mark.parametrize("ports", [(0x10000, 1), (1, -1)])
def test_what_does_not_fit_is_told(ports: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="wrapper"):
        encode_wrapper(*ports, b"")
    with pytest.raises(ValueError, match="wrapper"):
        WrapperClient(*ports)
    with pytest.raises(ValueError, match="65535"):
        encode_wrapper(1, 1, bytes(0x10000))


@pytest.mark.parametrize("wire", ["7ea0210002002303", "0002000100010001", "000100010010ffff"])
def test_a_stream_out_of_beat_is_told(wire: str) -> None:
    reader = WrapperReader(max_apdu_bytes=1000)
    reader.feed(bytes.fromhex(wire))
    with pytest.raises(FrameError):
        reader.next()


def test_foreign_and_stale_answers_are_never_taken() -> None:
    def script(pipe: SocketPipe) -> None:
        assert read_request(pipe) == b"first"
        pipe.send(encode_wrapper(SERVER, CLIENT, b"one") + encode_wrapper(SERVER, CLIENT, b"one again"))
        assert read_request(pipe) == b"second"
        pipe.send(encode_wrapper(SERVER + 1, CLIENT, b"foreign"))
        pipe.send(encode_wrapper(SERVER, CLIENT + 1, b"foreign"))
        pipe.send(encode_wrapper(SERVER, CLIENT, b"notification"))
        pipe.send(encode_wrapper(SERVER, CLIENT, b"two"))
        pipe.receive()

    with tcp_peer(script) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        client = WrapperClient(CLIENT, SERVER)
        assert client.exchange(stream, b"first", soon()) == b"one"
        wait_until(lambda: stream.bytes_received + stream.discard_input() >= 8 + 3 + 8 + 9)
        assert client.exchange(stream, b"second", soon()) == b"notification"
        assert client.receive(stream, soon()) == b"two"
        assert client.foreign_frames == 2
        stream.close()


@given(messages, st.integers(-2, 2), st.booleans())
def test_an_answer_is_the_same_in_one_piece_and_in_two(
    message: tuple[int, int, bytes], more: int, ours: bool
) -> None:
    apdu = message[2]
    source, destination = (SERVER, CLIENT) if ours else message[:2]
    wire = (encode_wrapper(source, destination, apdu) + b"\x00\x01")[: len(apdu) + 8 + more]

    def outcome(*chunks: bytes) -> tuple[object, ...]:
        client = WrapperClient(CLIENT, SERVER, max_apdu_bytes=90)
        try:
            answer: object = client.receive(ChunkStream(list(chunks)), 0.0)
        except (FrameError, LinkClosed) as error:
            answer = type(error)
        return answer, client.foreign_frames, client.is_mid_message

    assert outcome(wire) == outcome(wire[:1], wire[1:])


def test_drip_silence_and_end_of_file() -> None:
    def script(pipe: SocketPipe) -> None:
        read_request(pipe)
        for value in encode_wrapper(SERVER, CLIENT, b"drop by drop"):
            pipe.send(bytes((value,)))
            time.sleep(0.002)
        read_request(pipe)
        pipe.send(encode_wrapper(SERVER, CLIENT, b"cut")[:-1])
        read_request(pipe)

    with tcp_peer(script) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        client = WrapperClient(CLIENT, SERVER)
        assert client.exchange(stream, b"x", soon()) == b"drop by drop"
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            client.exchange(stream, b"x", started_s + 0.2)
        assert 0.19 < time.monotonic() - started_s < 2
        assert client.is_mid_message
        with pytest.raises(LinkClosed):
            client.exchange(stream, b"x", soon(30))
        stream.close()


def test_five_thousand_values_full_of_flags() -> None:
    source = random.Random(5)
    values = [
        source.randbytes(source.randrange(1, 40)) + b"\x7e\x7e" + source.randbytes(2) for _ in range(5_000)
    ]

    def script(pipe: SocketPipe) -> None:
        for value in values:
            assert read_request(pipe) == value
            pipe.send(encode_wrapper(SERVER, CLIENT, value))
        pipe.receive()

    with tcp_peer(script) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        client = WrapperClient(CLIENT, SERVER)
        for value in values:
            assert client.exchange(stream, value, soon()) == value
        stream.close()


@pytest.mark.parametrize("cut", [0, 1, 5, 9, 20])
def test_what_comes_before_a_numbered_request_is_left_to_who_knows_the_numbers(cut: int) -> None:
    """A notification that comes while nothing is asked is not thrown away with the leftovers, however it was cut."""
    notification = encode_wrapper(SERVER, CLIENT, b"notification")

    def script(pipe: SocketPipe) -> None:
        assert read_request(pipe) == b"first"
        pipe.send(encode_wrapper(SERVER, CLIENT, b"one") + notification[:cut])
        assert read_request(pipe) == b"second"
        pipe.send(notification[cut:] + encode_wrapper(SERVER, CLIENT, b"two"))
        pipe.receive()

    with tcp_peer(script) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        client = WrapperClient(CLIENT, SERVER)
        assert client.exchange(stream, b"first", soon(), numbered=True) == b"one"
        assert client.exchange(stream, b"second", soon(), numbered=True) == b"notification"
        assert client.receive(stream, soon()) == b"two"
        stream.close()


def test_a_peer_that_once_sent_rubbish_behind_an_answer_is_cleaned_up_after() -> None:
    def script(pipe: SocketPipe) -> None:
        for number in range(5):
            assert read_request(pipe) == b"%d" % number
            pipe.send(encode_wrapper(SERVER, CLIENT, b"answer %d" % number) + b"\x00\x55")
        pipe.receive()

    with tcp_peer(script) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        client = WrapperClient(CLIENT, SERVER)
        for number in range(5):
            assert client.exchange(stream, b"%d" % number, soon(), numbered=True) == b"answer %d" % number
        stream.close()
