"""The HDLC client against a meter played frame by frame on a real socket."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dlms_connector.errors import FrameError, LinkClosed, LinkRejected, LinkTimeout
from dlms_connector.link.addresses import HdlcAddress
from dlms_connector.link.control import DISC, DM, FRMR, SNRM, UA, UI, information, reject
from dlms_connector.link.control import receive_not_ready as rnr
from dlms_connector.link.control import receive_ready as rr
from dlms_connector.link.frames import encode_frame
from dlms_connector.link.hdlc import HdlcClient, HdlcSettings
from dlms_connector.link.parameters import LinkParameters
from dlms_connector.link.stream import ByteStream, Interrupt
from dlms_connector.link.tcp import open_tcp
from tests.support.link_peer import HdlcPeer, SocketPipe, soon, tcp_peer

ADDRESS = HdlcAddress(1, 17, 2)
SERVER = ADDRESS.encode()
CLIENT = b"\x21"
COMMAND = b"\xe6\xe6\x00"
RESPONSE = b"\xe6\xe7\x00"
PATIENT = HdlcSettings()
QUICK = HdlcSettings(response_timeout_s=0.25)

Script = Callable[[HdlcPeer], None]


def i(send: int, receive: int, *, poll: bool = True) -> int:
    return information(send, receive, poll=poll)


def connected(script: Script, ua: bytes = b"") -> Script:
    """SNRM and UA first, then the script, then until the client leaves."""

    def play(peer: HdlcPeer) -> None:
        peer.expect(SNRM)
        peer.send(UA, ua)
        script(peer)

    return play


@contextmanager
def meter(script: Script, settings: HdlcSettings = PATIENT) -> Iterator[tuple[HdlcClient, ByteStream]]:
    def run(pipe: SocketPipe) -> None:
        script(HdlcPeer(pipe, SERVER, CLIENT))

    with tcp_peer(run) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        try:
            yield HdlcClient(16, ADDRESS, settings), stream
        finally:
            stream.close()


@contextmanager
def connection(
    script: Script, settings: HdlcSettings = PATIENT, ua: bytes = b""
) -> Iterator[tuple[HdlcClient, ByteStream]]:
    with meter(connected(script, ua), settings) as (client, stream):
        client.connect(stream, soon())
        yield client, stream


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


WIDE = HdlcSettings(LinkParameters(20, 20, 3, 3))
WIDE_UA = WIDE.parameters.encode()


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


def test_a_lost_request_is_sent_again() -> None:
    def script(peer: HdlcPeer) -> None:
        first = peer.expect(i(0, 0))
        assert peer.expect(i(0, 0)) == first
        peer.send(i(0, 1), RESPONSE + b"ok")

    with connection(script, QUICK) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ok"
        assert client.counters.repeated == 1


def test_snrm_and_disc_are_repeated_too() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(SNRM)
        peer.expect(SNRM)
        peer.send(UA)
        peer.expect(DISC)
        peer.expect(DISC)
        peer.send(UA)

    with meter(script, QUICK) as (client, stream):
        client.connect(stream, soon())
        client.disconnect(stream, soon())


def test_a_lost_segment_or_rr_is_mended_by_another_rr() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), b"a", segmented=True)
        peer.expect(rr(1))
        peer.expect(rr(1))
        peer.send(i(1, 1), b"b")

    with connection(script, QUICK) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ab"


def damaged(frame: bytes, position: int) -> bytes:
    return frame[:position] + bytes((frame[position] ^ 0x55,)) + frame[position + 1 :]


@pytest.mark.parametrize("position", [3, -2, -4], ids=["header", "fcs", "content"])
def test_a_damaged_answer_is_asked_for_again(position: int) -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        answer = peer.frame(i(0, 1), RESPONSE + b"value")
        peer.pipe.send(damaged(answer, position % len(answer)))
        peer.expect(i(0, 0))
        peer.pipe.send(answer)

    with connection(script, HdlcSettings(response_timeout_s=3)) as (client, stream):
        assert client.exchange(stream, b"x", soon(2)) == b"value"
        assert client.counters.bad_frames == 1


def test_an_answer_cut_short_is_asked_for_again() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        answer = peer.frame(i(0, 1), RESPONSE + b"value")
        peer.pipe.send(answer[:-5])
        peer.expect(i(0, 0))
        peer.pipe.send(answer)

    with connection(script, QUICK) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"value"


def test_a_duplicate_is_not_delivered_twice() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), b"a", segmented=True)
        peer.expect(rr(1))
        peer.send(i(0, 1), b"a", segmented=True)
        peer.send(i(1, 1), b"b")
        peer.expect(i(1, 2))
        peer.send(i(1, 1), b"b")
        peer.send(i(2, 2), b"c")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ab"
        assert client.exchange(stream, b"y", soon()) == b"c"
        assert client.counters.duplicate_frames == 1
        assert client.counters.unexpected_frames == 1


def test_a_late_answer_is_not_the_next_ones() -> None:
    """It came after the request was given up, with the right numbers for nothing that was asked since."""

    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), RESPONSE + b"in time")
        peer.send(i(1, 1), RESPONSE + b"nobody asked")
        peer.expect(i(1, 1))
        peer.send(i(1, 1), RESPONSE + b"nobody asked")
        peer.send(i(1, 2), RESPONSE + b"asked")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"in time"
        assert client.exchange(stream, b"y", soon()) == b"asked"


def test_a_busy_meter_is_polled_until_it_is_ready() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(rnr(1))
        peer.expect(rr(0))
        peer.send(rnr(1))
        peer.expect(rr(0))
        peer.send(rr(1))
        peer.expect(rr(0))
        peer.send(i(0, 1), RESPONSE + b"ok")

    with connection(script, HdlcSettings(retries=0)) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ok"


def test_a_meter_busy_amid_a_request_gets_the_rest_later() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(rnr(1))
        peer.expect(rr(0))
        peer.send(rr(1))
        peer.expect(i(1, 0))
        peer.send(i(0, 2), b"ok")

    with connection(script, ua=LinkParameters(20, 20, 1, 1).encode()) as (client, stream):
        assert client.exchange(stream, bytes(30), soon()) == b"ok"


@pytest.mark.parametrize("no", [reject(0), rr(0)])
def test_a_meter_that_missed_the_request_gets_it_again(no: int) -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(no)
        peer.expect(i(0, 0))
        peer.send(i(0, 1), b"ok")

    with connection(script, HdlcSettings()) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ok"


@pytest.mark.parametrize("no", [DM, FRMR])
def test_the_meters_no_is_an_error_at_once(no: int) -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(no)

    with connection(script) as (client, stream), pytest.raises(LinkRejected):
        client.exchange(stream, b"x", soon())


def test_dm_refuses_a_connection() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(SNRM)
        peer.send(DM)

    with meter(script) as (client, stream), pytest.raises(LinkRejected):
        client.connect(stream, soon())


def test_frames_of_others_are_dropped_and_counted() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.pipe.send(encode_frame(CLIENT, HdlcAddress(1, 18, 2).encode(), i(0, 1), RESPONSE + b"foreign"))
        peer.pipe.send(encode_frame(b"\x41", SERVER, i(0, 1), RESPONSE + b"foreign"))
        peer.send(i(0, 1), RESPONSE + b"ours")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"ours"
        assert client.counters.foreign_frames == 2


def test_pushed_information_is_handed_over_and_is_no_answer() -> None:
    pushed: list[bytes] = []

    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(UI, RESPONSE + b"push")
        peer.send(i(0, 1), RESPONSE + b"ok")

    with connection(script) as (_, stream):
        client = HdlcClient(16, ADDRESS, on_unsolicited=pushed.append)
        assert client.exchange(stream, b"x", soon()) == b"ok"
    assert pushed == [b"push"]


def test_an_apdu_in_place_of_the_answer_can_be_followed_by_the_answer() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), RESPONSE + b"\x0f notification")
        peer.expect(rr(1))
        peer.send(i(1, 1), RESPONSE + b"answer")

    with connection(script) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == b"\x0f notification"
        assert client.receive(stream, soon()) == b"answer"


def test_an_answer_without_end_is_cut_off() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        number = 0
        peer.send(i(number, 1), bytes(100), segmented=True)
        while peer.read() is not None:
            number += 1
            peer.send(i(number % 8, 1), bytes(100), segmented=True)

    settings = HdlcSettings(max_apdu_bytes=1000)
    with connection(script, settings) as (client, stream):
        with pytest.raises(FrameError, match="exceeds 1000"):
            client.exchange(stream, b"x", soon())
        stream.close()


def test_silence_costs_the_deadline_and_the_retries() -> None:
    seen = []

    def script(peer: HdlcPeer) -> None:
        while (frame := peer.read()) is not None:
            seen.append(frame.control)

    with connection(script, HdlcSettings(retries=2)) as (client, stream):
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            client.exchange(stream, b"x", started_s + 0.4)
        assert 0.39 < time.monotonic() - started_s < 2
        stream.close()
    assert seen == [i(0, 0)] * 3


def test_rubbish_costs_the_deadline_and_nothing_else() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        noise = random.Random(3)
        try:
            while True:
                peer.pipe.send(noise.randbytes(500))
                time.sleep(0.002)
        except ConnectionError:
            pass

    with connection(script) as (client, stream):
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            client.exchange(stream, b"x", started_s + 0.4)
        assert time.monotonic() - started_s < 2
        stream.close()


def test_end_of_file_is_an_error_at_once() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))

    with connection(script) as (client, stream):
        started_s = time.monotonic()
        with pytest.raises(LinkClosed):
            client.exchange(stream, b"x", soon(30))
        assert time.monotonic() - started_s < 5


def test_a_dripping_answer_is_read_without_being_asked_for_again() -> None:
    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        for value in peer.frame(i(0, 1), RESPONSE + bytes(20)):
            peer.pipe.send(bytes((value,)))
            time.sleep(0.01)

    with connection(script, HdlcSettings(retries=1, response_timeout_s=0.05)) as (client, stream):
        assert client.exchange(stream, b"x", soon()) == bytes(20)


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
