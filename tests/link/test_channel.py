"""Channels: one meter on a line of its own or on a shared one, and what a failure means for the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from dlms_connector.errors import ConnectFailed, FrameError, Interrupted, LinkClosed, LinkTimeout
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.control import DISC, SNRM, UA, information
from dlms_connector.io.channel import Channel, HdlcChannel, WrapperChannel
from dlms_connector.io.hdlc import HdlcSettings
from dlms_connector.io.line import Line, LineSettings, Priority
from dlms_connector.io.stream import ByteStream, Interrupt
from dlms_connector.io.tcp import TcpEndpoint, open_tcp
from dlms_connector.io.wrapper import WrapperReader, encode_wrapper
from tests.support.link_peer import HdlcPeer, SocketPipe, soon, tcp_peer, wait_until

CLIENT = 16
RESPONSE = b"\xe6\xe7\x00"
NO_RETRY = HdlcSettings(retries=0)

Script = Callable[[SocketPipe], None]


@contextmanager
def line_to(*scripts: Script, users: int = 1, settings: LineSettings | None = None) -> Iterator[Line]:
    with tcp_peer(*scripts) as endpoint:
        line = line_at(endpoint, users, settings)
        try:
            yield line
        finally:
            line.drop_stream()


def line_at(endpoint: TcpEndpoint, users: int = 1, settings: LineSettings | None = None) -> Line:
    def opener(deadline_s: float, interrupt: Interrupt) -> ByteStream:
        return open_tcp(endpoint, deadline_s, interrupt)

    line = Line(opener, settings)
    line.users = users
    return line


def hdlc(line: Line, physical: int, settings: HdlcSettings = NO_RETRY) -> HdlcChannel:
    return HdlcChannel(line, CLIENT, HdlcAddress(1, physical, 2), settings, owner=f"meter {physical}")


def wrapped(line: Line, port: int) -> WrapperChannel:
    return WrapperChannel(line, CLIENT, port, owner=f"meter {port}")


def hdlc_bus(*silent: int) -> Script:
    """Meters at any address that answer their own number; the silent ones connect but never answer."""

    def script(pipe: SocketPipe) -> None:
        reader = HdlcPeer(pipe, b"", b"")
        counts: dict[bytes, int] = {}
        while (frame := reader.read()) is not None:
            meter = HdlcPeer(pipe, frame.destination, frame.source)
            if frame.control in (SNRM, DISC):
                counts[frame.destination] = 0
                meter.send(UA)
                continue
            number = counts[frame.destination]
            assert frame.control == information(number % 8, number % 8, poll=True)
            if (physical := frame.destination[1] >> 1) not in silent:
                counts[frame.destination] += 1
                answer = information(number % 8, (number + 1) % 8, poll=True)
                meter.send(answer, RESPONSE + bytes((physical,)))

    return script


def wrapper_bus(pipe: SocketPipe) -> None:
    """Meters at any port that answer their own port; nothing else may arrive before the answer is out."""
    reader = WrapperReader()
    while data := pipe.receive():
        reader.feed(data)
        while (message := reader.next()) is not None:
            assert not reader.is_mid_message, "two requests were on the line at once"
            source, destination, apdu = message
            pipe.send(encode_wrapper(destination, source, apdu + bytes((destination,))))


def test_an_hdlc_channel_opens_exchanges_and_closes_politely() -> None:
    with line_to(hdlc_bus()) as line:
        channel: Channel = hdlc(line, 17)
        assert not channel.is_open
        channel.open(soon())
        assert channel.is_open
        for _ in range(10):
            assert channel.exchange(b"x", soon()) == b"\x11"
        assert channel.bytes_sent > 100
        assert channel.bytes_received > 100
        assert channel.close(soon())
        assert not channel.is_open
        assert channel.close(soon())
        with pytest.raises(LinkClosed):
            channel.exchange(b"x", soon())


def test_close_says_when_the_meter_did_not_confirm() -> None:
    def script(pipe: SocketPipe) -> None:
        peer = HdlcPeer(pipe, HdlcAddress(1, 17, 2).encode(), b"\x21")
        peer.expect(SNRM)
        peer.send(UA)
        peer.expect(DISC)
        assert peer.read() is None

    with line_to(script) as line:
        channel = hdlc(line, 17)
        channel.open(soon())
        assert not channel.close(soon(0.1))


def test_a_timeout_closes_a_line_of_ones_own_and_opening_begins_anew() -> None:
    with line_to(hdlc_bus(17), hdlc_bus()) as line:
        channel = hdlc(line, 17)
        channel.open(soon())
        with pytest.raises(LinkTimeout):
            channel.exchange(b"x", soon(0.1))
        assert not channel.is_open
        channel.open(soon())
        assert channel.exchange(b"x", soon()) == b"\x11"
        assert channel.close(soon())


def test_a_silent_meter_on_a_bus_costs_the_others_nothing() -> None:
    with line_to(hdlc_bus(18), users=4) as line:
        living, dead = hdlc(line, 17), hdlc(line, 18)
        living.open(soon())
        for _ in range(3):
            dead.open(soon())
            with pytest.raises(LinkTimeout):
                dead.exchange(b"x", soon(0.05))
            assert living.is_open
            assert living.exchange(b"x", soon()) == b"\x11"
        assert living.close(soon())


def test_a_lost_connection_is_seen_by_all_and_each_connects_anew() -> None:
    def one_answer(pipe: SocketPipe) -> None:
        peer = HdlcPeer(pipe, b"", b"")
        for _ in range(2):
            frame = peer.read()
            assert frame is not None
            HdlcPeer(pipe, frame.destination, frame.source).send(UA)

    with line_to(one_answer, hdlc_bus(), users=4) as line:
        first, second = hdlc(line, 17), hdlc(line, 18)
        first.open(soon())
        second.open(soon())
        with pytest.raises(LinkClosed):
            first.exchange(b"x", soon())
        assert not second.is_open
        first.open(soon())
        assert not second.is_open
        with pytest.raises(LinkClosed, match="gone"):
            second.exchange(b"x", soon())
        second.open(soon())
        assert (first.exchange(b"x", soon()), second.exchange(b"x", soon())) == (b"\x11", b"\x12")


def test_a_late_answer_on_a_shared_wrapper_line_is_dropped() -> None:
    def script(pipe: SocketPipe) -> None:
        pipe.receive()
        pipe.receive()
        pipe.send(encode_wrapper(1, CLIENT, b"late"))
        pipe.send(encode_wrapper(2, CLIENT, b"ours"))
        pipe.receive()

    with line_to(script, users=4) as line:
        slow, quick = wrapped(line, 1), wrapped(line, 2)
        slow.open(soon())
        quick.open(soon())
        with pytest.raises(LinkTimeout):
            slow.exchange(b"x", soon(0.05))
        assert quick.exchange(b"y", soon()) == b"ours"
        assert quick.foreign_frames == 1


def test_a_message_cut_in_two_closes_a_shared_wrapper_line() -> None:
    """Its second half would be the next meter's header."""

    def script(pipe: SocketPipe) -> None:
        pipe.receive()
        pipe.send(encode_wrapper(1, CLIENT, b"answer")[:9])
        pipe.receive()

    with line_to(script, wrapper_bus, users=4) as line:
        cut, other = wrapped(line, 1), wrapped(line, 2)
        cut.open(soon())
        other.open(soon())
        with pytest.raises(LinkTimeout):
            cut.exchange(b"x", soon(0.1))
        assert not other.is_open
        other.open(soon())
        assert other.exchange(b"y", soon()) == b"y\x02"


def test_a_wrapper_out_of_beat_is_an_error_and_a_fresh_connection() -> None:
    def script(pipe: SocketPipe) -> None:
        pipe.receive()
        pipe.send(b"HTTP/1.1 400 Bad Request\r\n")
        pipe.receive()

    with line_to(script, wrapper_bus) as line:
        channel = wrapped(line, 1)
        channel.open(soon())
        with pytest.raises(FrameError):
            channel.exchange(b"x", soon())
        channel.open(soon())
        assert channel.exchange(b"x", soon()) == b"x\x01"


def test_an_apdu_that_does_not_fit_breaks_nothing() -> None:
    with line_to(wrapper_bus) as line:
        channel = wrapped(line, 1)
        channel.open(soon())
        with pytest.raises(ValueError, match="65535"):
            channel.exchange(bytes(70_000), soon())
        assert channel.exchange(b"x", soon()) == b"x\x01"


def test_an_interrupt_wakes_an_exchange_and_spares_the_neighbour() -> None:
    with line_to(hdlc_bus(17), hdlc_bus(17), users=4) as line:
        leaving, staying = hdlc(line, 17), hdlc(line, 18)
        leaving.open(soon())
        staying.open(soon())
        timer = threading.Timer(0.1, leaving.interrupt)
        timer.start()
        started_s = time.monotonic()
        with pytest.raises(Interrupted):
            leaving.exchange(b"x", soon(30))
        assert time.monotonic() - started_s < 3
        with pytest.raises(Interrupted):
            leaving.open(soon())
        assert not staying.is_open
        staying.open(soon())
        assert staying.exchange(b"x", soon()) == b"\x12"
        assert not leaving.is_open
        timer.join()


def test_an_interrupt_while_idle_leaves_the_line_alone() -> None:
    with line_to(hdlc_bus(), users=4) as line:
        leaving, staying = hdlc(line, 17), hdlc(line, 18)
        leaving.open(soon())
        staying.open(soon())
        leaving.interrupt()
        assert not leaving.close(soon())
        assert staying.exchange(b"x", soon()) == b"\x12"


def test_a_turn_taken_for_several_exchanges_is_used() -> None:
    with line_to(hdlc_bus(), users=2) as line:
        channel = hdlc(line, 17)
        with line.turn("meter 17", Priority.POLL, deadline_s=soon(), interrupt=Interrupt()):
            channel.open(soon())
            for _ in range(3):
                assert channel.exchange(b"x", soon()) == b"\x11"
            assert channel.close(soon())


def test_an_exclusive_line_waits_for_the_association_to_end() -> None:
    with line_to(hdlc_bus(), users=2, settings=LineSettings(exclusive=True)) as line:
        first, second = hdlc(line, 17), hdlc(line, 18)
        first.open(soon())
        opened = threading.Thread(target=second.open, args=(soon(),))
        opened.start()
        wait_until(lambda: line.is_wanted)
        assert first.exchange(b"x", soon()) == b"\x11"
        assert not second.is_open
        assert first.close(soon())
        opened.join(5)
        assert second.is_open


def test_an_abandoned_association_frees_an_exclusive_line() -> None:
    with line_to(hdlc_bus(), users=2, settings=LineSettings(exclusive=True)) as line:
        first, second = hdlc(line, 17), hdlc(line, 18)
        first.open(soon())
        first.abandon()
        second.open(soon())
        assert second.is_open


def test_the_pause_before_a_new_association_is_kept() -> None:
    settings = LineSettings(reassociation_delay_s=0.2)
    with line_to(hdlc_bus(), hdlc_bus(), settings=settings) as line:
        channel = hdlc(line, 17)
        channel.open(soon())
        channel.abandon()
        ended_s = time.monotonic()
        with pytest.raises(LinkTimeout, match="more time"):
            channel.open(soon(0.01))
        channel.open(soon())
        assert time.monotonic() - ended_s > 0.19


def test_mode_e_lines_open_a_stream_for_each_association() -> None:
    settings = LineSettings(fresh_stream=True)
    with line_to(hdlc_bus(), hdlc_bus(), users=2, settings=settings) as line:
        for physical in (17, 18):
            channel = hdlc(line, physical)
            channel.open(soon())
            assert channel.close(soon())


def test_a_refused_connection_is_the_openers_error() -> None:
    with tcp_peer() as endpoint:
        pass
    channel = wrapped(line_at(endpoint), 1)
    with pytest.raises(ConnectFailed):
        channel.open(soon())
    assert not channel.is_open


def test_many_meters_on_one_connection_never_collide() -> None:
    failures: list[BaseException] = []

    def poll(channel: WrapperChannel, port: int) -> None:
        try:
            channel.open(soon(20))
            for number in range(40):
                request = bytes((port, number))
                assert channel.exchange(request, soon(20)) == request + bytes((port,))
        except (AssertionError, LinkTimeout, LinkClosed, FrameError) as error:
            failures.append(error)

    with line_to(wrapper_bus, users=8) as line:
        threads = [threading.Thread(target=poll, args=(wrapped(line, port), port)) for port in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert line.generation == 1
