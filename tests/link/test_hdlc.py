"""The HDLC client in good weather: connecting, segments, windows, numbers."""

from __future__ import annotations

import random

import pytest

from dlms_connector.framing.control import DISC, DM, SNRM, UA
from dlms_connector.framing.control import receive_ready as rr
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import HdlcSettings
from tests.support.hdlc_meter import (
    COMMAND,
    RESPONSE,
    WIDE,
    WIDE_UA,
    connection,
    i,
    meter,
)
from tests.support.link_peer import HdlcPeer, soon


def test_request_and_answer_carry_llc_headers_and_numbers() -> None:
    def script(peer: HdlcPeer) -> None:
        for number in range(10):
            frame = peer.expect(i(number % 8, number % 8))
            assert frame.information == COMMAND + bytes((number,))
            assert not frame.segmented
            peer.send(i(number % 8, (number + 1) % 8), RESPONSE + bytes((number, number)))

    with connection(script) as (client, stream):
        for number in range(10):
            assert client.exchange(stream, bytes((number,)), soon()) == bytes((number, number))
        assert client.counters.repeated == 0


def test_snrm_without_parameters_when_they_are_the_defaults() -> None:
    def script(peer: HdlcPeer) -> None:
        assert peer.expect(SNRM).information == b""
        peer.send(UA, LinkParameters(64, 62, 1, 1).encode())

    with meter(script) as (client, stream):
        assert client.connect(stream, soon()) == LinkParameters(62, 64, 1, 1)


def test_snrm_proposes_and_a_ua_without_parameters_means_the_defaults() -> None:
    wanted = LinkParameters(512, 512, 7, 7)

    def script(peer: HdlcPeer) -> None:
        assert LinkParameters.decode(peer.expect(SNRM).information) == wanted
        peer.send(UA)

    with meter(script, HdlcSettings(wanted)) as (client, stream):
        assert client.connect(stream, soon()) == LinkParameters()


def test_numbers_are_fresh_for_each_connection() -> None:
    def once(peer: HdlcPeer) -> None:
        peer.expect(SNRM)
        peer.send(UA)
        peer.expect(i(0, 0))
        peer.send(i(0, 1), RESPONSE + b"a")
        peer.expect(DISC)
        peer.send(UA)

    def script(peer: HdlcPeer) -> None:
        once(peer)
        once(peer)

    with meter(script) as (client, stream):
        for _ in range(2):
            client.connect(stream, soon())
            assert client.exchange(stream, b"x", soon()) == b"a"
            client.disconnect(stream, soon())


def test_dm_confirms_a_disconnect() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(DISC)
        peer.send(DM)

    with connection(script) as (client, stream):
        client.disconnect(stream, soon())


@pytest.mark.parametrize("llc", [RESPONSE, COMMAND, b""])
def test_odd_llc_headers_of_answers_are_taken(llc: bytes) -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), llc + b"\xc4\x01")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"\xc4\x01"


def test_segmented_answer() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), RESPONSE + b"one ", segmented=True)
        peer.expect(rr(1))
        peer.send(i(1, 1), b"two ", segmented=True)
        peer.expect(rr(2))
        peer.send(i(2, 1), b"three")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"one two three"


def test_segmented_request() -> None:
    request = bytes(range(256))

    def script(peer: HdlcPeer) -> None:
        whole = b""
        for number in range(4):
            frame = peer.expect(i(number, 0))
            whole += frame.information
            assert len(frame.information) <= 80
            assert frame.segmented is (number < 3)
            if number < 3:
                peer.send(rr(number + 1))
        assert whole == COMMAND + request
        peer.send(i(0, 4), RESPONSE + b"ok")

    with connection(script, ua=LinkParameters(80, 80, 1, 1).encode()) as (client, stream):
        assert client.exchange(stream, request, soon()) == b"ok"


def test_window_of_three_both_ways() -> None:
    def script(peer: HdlcPeer) -> None:
        for number in range(5):
            frame = peer.expect(i(number, 0, poll=number in (2, 4)))
            assert frame.segmented is (number < 4)
            if number == 2:
                peer.send(rr(3))
        for number in range(5):
            peer.send(i(number, 5, poll=number in (2, 4)), bytes((number,)), segmented=number < 4)
            if number == 2:
                peer.expect(rr(3))

    with connection(script, WIDE, WIDE_UA) as (client, stream):
        assert client.exchange(stream, bytes(80), soon()) == bytes(range(5))


def test_a_frame_lost_within_a_window_is_asked_for_again() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1, poll=False), b"0", segmented=True)
        peer.send(i(2, 1), b"2")
        peer.expect(rr(1))
        peer.send(i(1, 1, poll=False), b"1", segmented=True)
        peer.send(i(2, 1), b"2")

    with connection(script, WIDE, WIDE_UA) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"012"


def test_a_window_that_arrived_in_part_goes_on_from_there() -> None:
    def script(peer: HdlcPeer) -> None:
        for number in range(3):
            peer.expect(i(number, 0, poll=number == 2))
        peer.send(rr(1))
        for number in (1, 2, 3):
            peer.expect(i(number, 0, poll=number == 3))
        peer.send(i(0, 4), b"done")

    with connection(script, WIDE, WIDE_UA) as (client, stream):
        assert client.exchange(stream, bytes(70), soon()) == b"done"


def test_five_thousand_values_full_of_flags() -> None:
    source = random.Random(11)
    values = []
    for _ in range(5_000):
        value = bytearray(source.randbytes(source.randrange(1, 60)))
        value[source.randrange(len(value)) :] += b"\x7e\x7e" * source.randrange(3)
        values.append(bytes(value))

    def script(peer: HdlcPeer) -> None:
        for number, value in enumerate(values):
            frame = peer.expect(i(number % 8, number % 8))
            assert frame.information == COMMAND + value
            peer.send(i(number % 8, (number + 1) % 8), RESPONSE + value)

    with connection(script) as (client, stream):
        for value in values:
            assert client.exchange(stream, value, soon()) == value
        assert client.counters.repeated == 0
