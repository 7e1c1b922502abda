"""The secondary station, frame by frame."""

from __future__ import annotations

import pytest

from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import Frame, FrameReader
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.simulator.hdlc_server import HdlcConnection

CLIENT, SERVER = b"\x21", b"\x03"
LLC = b"\xe6\xe6\x00"


def frames(raw: bytes) -> list[Frame]:
    reader = FrameReader()
    reader.feed(raw)
    found = []
    while isinstance(frame := reader.next(), Frame):
        found.append(frame)
    return found


def frame(control: int, information: bytes = b"", *, segmented: bool = False) -> Frame:
    return Frame(SERVER, CLIENT, control, information, segmented)


def data(send: int, receive: int, information: bytes, *, poll: bool = True, segmented: bool = False) -> Frame:
    return frame(ctl.information(send, receive, poll=poll), information, segmented=segmented)


def station(size_bytes: int = 128, window: int = 1) -> HdlcConnection:
    limits = LinkParameters(size_bytes, size_bytes, window, window)
    connection = HdlcConnection(CLIENT, SERVER, limits)
    (answer,) = frames(connection.receive(frame(ctl.SNRM, limits.encode()))[0])
    assert (answer.control, answer.destination, answer.source) == (ctl.UA, CLIENT, SERVER)
    assert LinkParameters.decode(answer.information) == limits
    return connection


def test_disconnected_station_says_dm() -> None:
    connection = HdlcConnection(CLIENT, SERVER, LinkParameters())
    for control in (ctl.DISC, ctl.information(0, 0, poll=True), ctl.receive_ready(0)):
        raw, apdu = connection.receive(frame(control))
        assert [answer.control for answer in frames(raw)] == [ctl.DM]
        assert apdu is None
    connection = station()
    assert frames(connection.receive(frame(ctl.DISC))[0])[0].control == ctl.UA
    assert frames(connection.receive(frame(ctl.DISC))[0])[0].control == ctl.DM


def test_limits_are_the_smaller_of_both() -> None:
    own = LinkParameters(500, 400, 3, 3)
    connection = HdlcConnection(CLIENT, SERVER, own)
    proposal = LinkParameters(200, 300, 1, 7).encode()
    (answer,) = frames(connection.receive(frame(ctl.SNRM, proposal))[0])
    assert LinkParameters.decode(answer.information) == LinkParameters(300, 200, 3, 1)


@pytest.mark.parametrize("window", [1, 3, 7])
def test_answer_in_segments_and_windows(window: int) -> None:
    connection = station(20, window)
    raw, apdu = connection.receive(data(0, 0, LLC + b"question"))
    assert (raw, apdu) == (b"", b"question")
    answer = bytes(range(250))
    received, expected, rounds = b"", 0, 0
    raw = connection.send(answer)
    while True:
        burst = frames(raw)
        rounds += 1
        assert len(burst) <= window
        assert [ctl.is_final(one.control) for one in burst] == [False] * (len(burst) - 1) + [True]
        for one in burst:
            assert ctl.send_number(one.control) == expected
            expected = expected + 1 & 7
            received += one.information
        if not burst[-1].segmented:
            break
        raw, _ = connection.receive(frame(ctl.receive_ready(expected)))
    assert received == b"\xe6\xe7\x00" + answer
    assert rounds == -(-13 // window)


def test_request_in_segments_with_a_window() -> None:
    connection = station(128, 2)
    assert connection.receive(data(0, 0, LLC + b"abc", poll=False, segmented=True)) == (b"", None)
    raw, _ = connection.receive(data(1, 0, b"def", segmented=True))
    assert frames(raw)[0].control == ctl.receive_ready(2)
    assert connection.receive(data(2, 0, b"ghi")) == (b"", b"abcdefghi")


def test_lost_answer_is_sent_again_for_a_repeated_request_and_for_rr() -> None:
    connection = station()
    connection.receive(data(0, 0, LLC + b"q"))
    first = connection.send(b"answer")
    raw, apdu = connection.receive(data(0, 0, LLC + b"q"))
    assert (raw, apdu) == (first, None)
    assert connection.receive(frame(ctl.receive_ready(0)))[0] == first
    assert connection.retransmission_count == 2
    (idle,) = frames(connection.receive(frame(ctl.receive_ready(1)))[0])
    assert idle.control == ctl.receive_ready(1)


def test_reject_and_not_ready() -> None:
    connection = station(8, 4)
    connection.receive(data(0, 0, LLC + b"q"))
    burst = frames(connection.send(bytes(29)))
    assert len(burst) == 4
    again = frames(connection.receive(frame(ctl.reject(2)))[0])
    assert [ctl.send_number(one.control) for one in again] == [2, 3]
    assert [one.information for one in again] == [one.information for one in burst[2:]]
    (waiting,) = frames(connection.receive(frame(ctl.receive_not_ready(4)))[0])
    assert waiting.control == ctl.receive_ready(1)


def test_gap_in_the_requests_is_rejected() -> None:
    connection = station(128, 3)
    raw, apdu = connection.receive(data(1, 0, LLC + b"q"))
    assert apdu is None
    assert frames(raw)[0].control == ctl.reject(0)


def test_too_long_and_unknown_frames_are_frmr() -> None:
    for bad in (data(0, 0, LLC + bytes(200)), frame(0x8F | 0x10)):
        connection = station(64)
        raw, apdu = connection.receive(bad)
        assert (frames(raw)[0].control, apdu, connection.is_connected) == (ctl.FRMR, None, False)
