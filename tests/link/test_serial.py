"""Serial streams and the mode E opening, on real pseudo-terminals."""

from __future__ import annotations

import os
import random
import threading
import time

import pytest

from dlms_connector.errors import ConnectFailed, FrameError, Interrupted, Layer, LinkRejected, LinkTimeout
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.control import SNRM, UA, information
from dlms_connector.io.hdlc import HdlcClient
from dlms_connector.io.mode_e import ModeE, open_mode_e
from dlms_connector.io.serial import SerialPort, SerialStream, open_serial
from dlms_connector.io.stream import Interrupt
from tests.support.link_peer import HdlcPeer, PtyPipe, pty_peer, soon, wait_until

ADDRESS = HdlcAddress(0, 1, 1)
CLIENT = b"\x21"


def opened(port: str, *, echo: bool = False) -> SerialStream:
    return open_serial(SerialPort(port, echo=echo), soon(), Interrupt())


@pytest.mark.parametrize("echo", [False, True])
def test_five_thousand_values_full_of_flags(echo: bool) -> None:
    source = random.Random(13)
    count = 5_000 if not echo else 1_000
    values = [
        source.randbytes(source.randrange(1, 30)) + b"\x7e\x7e" * source.randrange(2) for _ in range(count)
    ]

    def script(pipe: PtyPipe) -> None:
        peer = HdlcPeer(pipe, ADDRESS.encode(), CLIENT)
        peer.expect(SNRM)
        peer.send(UA)
        for number, value in enumerate(values):
            frame = peer.expect(information(number % 8, number % 8, poll=True))
            assert frame.information[3:] == value
            peer.send(information(number % 8, (number + 1) % 8, poll=True), b"\xe6\xe7\x00" + value)

    with pty_peer(script, echo=echo) as port:
        stream = opened(port, echo=echo)
        client = HdlcClient(16, ADDRESS)
        client.connect(stream, soon())
        for value in values:
            assert client.exchange(stream, value, soon()) == value
        assert client.counters.repeated == 0
        stream.close()


def test_what_follows_the_echo_at_once_is_the_answer() -> None:
    def script(pipe: PtyPipe) -> None:
        question = pipe.receive()
        pipe.send(question + b"answer")

    with pty_peer(script) as port:
        stream = opened(port, echo=True)
        stream.send(b"question", soon())
        assert stream.receive(soon()) == b"answer"
        stream.close()


def test_what_is_no_echo_is_told_with_its_layer() -> None:
    def script(pipe: PtyPipe) -> None:
        pipe.receive()
        pipe.send(b"quest!on")

    with pty_peer(script) as port:
        stream = opened(port, echo=True)
        with pytest.raises(FrameError, match="not the echo") as caught:
            stream.send(b"question", soon())
        assert caught.value.layer is Layer.SERIAL
        stream.close()


def test_a_missing_echo_costs_the_deadline() -> None:
    with pty_peer(lambda pipe: None) as port:
        stream = opened(port, echo=True)
        with pytest.raises(LinkTimeout, match="no echo"):
            stream.send(b"question", soon(0.1))
        stream.close()


def test_silence_costs_the_deadline() -> None:
    with pty_peer(lambda pipe: None) as port:
        stream = opened(port)
        started_s, cpu_s = time.monotonic(), time.thread_time()
        with pytest.raises(LinkTimeout) as caught:
            stream.receive(started_s + 0.2)
        assert 0.19 < time.monotonic() - started_s < 2
        assert time.thread_time() - cpu_s < 0.05
        assert caught.value.layer is Layer.SERIAL
        stream.close()


def test_stale_input_is_thrown_away() -> None:
    def script(pipe: PtyPipe) -> None:
        pipe.receive()
        pipe.send(b"stale")

    with pty_peer(script) as port:
        stream = opened(port)
        stream.send(b"x", soon())
        wait_until(lambda: stream.bytes_received + stream.discard_input() >= 5)
        with pytest.raises(LinkTimeout):
            stream.receive(soon(0.05))
        stream.close()


def test_a_waiting_reader_is_interrupted_for_good() -> None:
    with pty_peer(lambda pipe: None) as port:
        stream = opened(port)
        timer = threading.Timer(0.1, stream.interrupt)
        timer.start()
        for _ in range(2):
            with pytest.raises(Interrupted):
                stream.receive(soon(30))
        with pytest.raises(Interrupted):
            stream.send(b"x", soon(30))
        timer.join()
        stream.close()
        stream.close()
        stream.interrupt()


def test_an_unplugged_adapter_is_told_at_once() -> None:
    master, slave = os.openpty()
    stream = opened(os.ttyname(slave))
    os.close(slave)
    os.close(master)
    started_s = time.monotonic()
    with pytest.raises(Exception, match=r"gone|broke") as caught:
        stream.receive(soon(30))
    assert caught.value.layer is Layer.SERIAL
    assert time.monotonic() - started_s < 5
    stream.close()


def test_ports_that_cannot_be_opened_are_told_with_a_hint() -> None:
    with pytest.raises(ConnectFailed, match="No such file") as caught:
        opened("/dev/no-such-port")
    assert caught.value.layer is Layer.SERIAL
    assert "plugged in" in caught.value.hint


def test_a_port_is_opened_by_one_alone_and_nothing_leaks() -> None:
    with pty_peer(lambda pipe: None) as port:
        before = len(os.listdir("/proc/self/fd"))
        stream = opened(port)
        with pytest.raises(ConnectFailed) as caught:
            opened(port)
        assert "another program" in caught.value.hint
        stream.close()
        assert len(os.listdir("/proc/self/fd")) == before


def read_line(pipe: PtyPipe) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        line += pipe.receive()
    return line


MODE_E = ModeE(device_address="12345", max_baud_rate=9600, confirmation_timeout_s=5)


@pytest.mark.parametrize(
    ("identification", "maximum", "chosen", "rate"),
    [
        (b"/ISK5\\2MT382-1000\r\n", 9600, b"5", 9600),
        (b"\x7f/LGZ6\\2ZMD\r\n", 9600, b"5", 9600),
        (b"/LGZ4\\2ZMD\r\n", 115_200, b"4", 4800),
        (b"/LGZ5\\2ZMD\r\n", 300, b"0", 300),
    ],
)
def test_mode_e_opens_the_way_to_hdlc(identification: bytes, maximum: int, chosen: bytes, rate: int) -> None:
    switched = threading.Event()

    def script(pipe: PtyPipe) -> None:
        assert read_line(pipe) == b"/?12345!\r\n"
        pipe.send(identification)
        assert read_line(pipe) == b"\x062" + chosen + b"2\r\n"
        pipe.send(b"\x062" + chosen + b"2\r\n")
        assert switched.wait(5)
        peer = HdlcPeer(pipe, ADDRESS.encode(), CLIENT)
        peer.expect(SNRM)
        peer.send(UA)

    with pty_peer(script) as port:
        settings = ModeE(MODE_E.device_address, maximum, MODE_E.confirmation_timeout_s)
        stream = open_mode_e(SerialPort(port), settings, soon(), Interrupt())
        assert isinstance(stream, SerialStream)
        assert stream.baud_rate == rate
        switched.set()
        HdlcClient(16, ADDRESS).connect(stream, soon())
        stream.close()


def test_mode_e_without_confirmation_and_with_echo() -> None:
    def script(pipe: PtyPipe) -> None:
        assert read_line(pipe) == b"/?!\r\n"
        pipe.send(b"/ISK5\\2MT382\r\n")
        assert read_line(pipe) == b"\x06252\r\n"

    with pty_peer(script, echo=True) as port:
        settings = ModeE(confirmation_timeout_s=0.05)
        open_mode_e(SerialPort(port, echo=True), settings, soon(), Interrupt()).close()


@pytest.mark.parametrize(
    ("identification", "confirmation", "error"),
    [
        (b"/ABC5METER\r\n", b"", FrameError),
        (b"rubbish " * 20, b"", FrameError),
        (b"/ISK5\\2MT382\r\n", b"\x15", LinkRejected),
    ],
)
def test_mode_e_refusals_are_told(identification: bytes, confirmation: bytes, error: type[Exception]) -> None:
    def script(pipe: PtyPipe) -> None:
        read_line(pipe)
        pipe.send(identification)
        if confirmation:
            read_line(pipe)
            pipe.send(confirmation)

    with pty_peer(script) as port:
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(error) as caught:
            open_mode_e(SerialPort(port), MODE_E, soon(), Interrupt())
        assert caught.value.layer is Layer.SERIAL
        assert len(os.listdir("/proc/self/fd")) == before


def test_mode_e_can_be_interrupted() -> None:
    interrupt = Interrupt()
    with pty_peer(lambda pipe: None) as port:
        timer = threading.Timer(0.1, interrupt.set)
        timer.start()
        with pytest.raises(Interrupted):
            open_mode_e(SerialPort(port), MODE_E, soon(30), interrupt)
        timer.join()
