"""The HDLC client in bad weather: loss, damage, duplicates, busy and refusing meters, strangers, silence."""

from __future__ import annotations

import random
import time

import pytest

from dlms_connector.errors import FrameError, LinkClosed, LinkRejected, LinkTimeout
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.control import DISC, DM, FRMR, SNRM, UA, UI, reject
from dlms_connector.framing.control import receive_not_ready as rnr
from dlms_connector.framing.control import receive_ready as rr
from dlms_connector.framing.frames import encode_frame
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import HdlcClient, HdlcSettings
from tests.support.hdlc_meter import (
    ADDRESS,
    CLIENT,
    QUICK,
    RESPONSE,
    SERVER,
    connection,
    i,
    meter,
)
from tests.support.link_peer import HdlcPeer, soon


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


def test_leftovers_are_looked_for_only_after_something_odd() -> None:
    """A numbered request asks the system for stale bytes only where the conversation before gave a reason."""

    def script(peer: HdlcPeer) -> None:
        peer.expect(i(0, 0))
        peer.send(i(0, 1), RESPONSE + b"one")
        peer.expect(i(1, 1))
        peer.send(i(1, 2), RESPONSE + b"two")
        peer.send(i(1, 2), RESPONSE + b"two")  # once too often
        peer.expect(i(2, 2))
        peer.send(i(2, 3), RESPONSE + b"three")
        peer.expect(i(3, 3))
        peer.send(i(3, 4), RESPONSE + b"four")
        peer.expect(i(4, 4))
        peer.send(i(4, 5), RESPONSE + b"five")

    with connection(script, QUICK) as (client, stream):
        looks: list[bytes] = []
        discard, asked = stream.discard_input, b""

        def discard_input() -> int:
            looks.append(asked)
            return discard()

        stream.discard_input = discard_input  # type: ignore[method-assign]
        for asked, answer in (
            (b"1", b"one"),
            (b"2", b"two"),
            (b"3", b"three"),
            (b"4", b"four"),
            (b"5", b"five"),
        ):
            assert client.exchange(stream, asked, soon(), numbered=True) == answer
        assert client.counters.duplicate_frames + client.counters.unexpected_frames <= 1
        assert b"2" not in looks
        assert b"5" not in looks
