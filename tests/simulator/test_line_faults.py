"""What a line does wrong to order, seen by a bare socket, a bare HDLC station and a bare terminal."""

from __future__ import annotations

import os
import select
import socket
import time
import tty

import pytest

from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import BadFrame, Frame, FrameReader, encode_frame
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings, Quirks
from dlms_connector.simulator.optical_head import IDENTIFICATION
from tests.support.simulated import SERIAL, WrapperPeer, aarq, get_normal, line_settings, one_meter

GET = get_normal(1, "0.0.96.1.0.255", 2)
ANSWER = b"\xc4\x01\xc1\x00\x0a\x08" + SERIAL.encode()
SHORT_S = 0.2
CLIENT, SERVER = b"\x21", b"\x03"


def test_wrapper_answers_that_do_not_come() -> None:
    with one_meter() as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.associate()
        assert peer.ask(GET) == ANSWER
        fleet.inject(SERIAL, Fault(FaultKind.SILENT))
        peer.send(GET)
        peer.socket.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            peer.receive()
        peer.socket.settimeout(10)
        assert peer.ask(GET) == ANSWER


@pytest.mark.parametrize("kind", [FaultKind.CLOSE, FaultKind.RESET, FaultKind.HALF_CLOSE])
def test_wrapper_stream_ends(kind: FaultKind) -> None:
    with one_meter() as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.associate()
        fleet.inject(SERIAL, Fault(kind))
        if kind is FaultKind.RESET:
            with pytest.raises(ConnectionResetError):
                peer.ask(GET)
        else:
            assert peer.ask(GET) == b""
        if kind is FaultKind.HALF_CLOSE:
            peer.send(GET)
            assert fleet.wait_for(lambda: fleet.device(SERIAL).counters.requests == 3, 10)
            assert fleet.counters(SERIAL).associations_open == 1
        else:
            assert fleet.wait_for(lambda: fleet.device(SERIAL).counters.associations_open == 0, 10)


def test_wrapper_answers_that_are_spoilt() -> None:
    with one_meter() as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.associate()
        fleet.inject(SERIAL, Fault(FaultKind.DUPLICATE))
        assert [peer.ask(GET), peer.receive()] == [ANSWER] * 2
        fleet.inject(SERIAL, Fault(FaultKind.LATE, delay_s=SHORT_S))
        before_s = time.monotonic()
        assert peer.ask(GET) == ANSWER
        assert time.monotonic() - before_s >= SHORT_S
        fleet.inject(SERIAL, Fault(FaultKind.DRIP, delay_s=0.002))
        assert peer.ask(GET) == ANSWER
        for kind, changed in ((FaultKind.BAD_FCS, 1), (FaultKind.WRONG_ADDRESS, 3)):
            fleet.inject(SERIAL, Fault(kind))
            peer.send(GET)
            header = peer.socket.recv(8, socket.MSG_WAITALL)
            good = b"\x00\x01\x00\x01\x00\x10\x00\x0e"
            assert [index for index in range(8) if header[index] != good[index]] == [changed]
            assert peer.socket.recv(14, socket.MSG_WAITALL) == ANSWER
        fleet.inject(SERIAL, Fault(FaultKind.TRUNCATED))
        peer.send(GET)
        assert len(peer.socket.recv(100)) == 11


def test_wrapper_quirks() -> None:
    quirks = Quirks(bytes_after_answer=b"\x55\xaa", echo=True)
    with one_meter(quirks=quirks) as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.send(aarq())
        peer.receive()
        assert peer.receive()[0] == 0x61
        assert peer.socket.recv(2, socket.MSG_WAITALL) == b"\x55\xaa"
    with one_meter(quirks=Quirks(notify_between=True)) as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        assert peer.ask(aarq())[0] == 0x0F
        assert peer.receive()[0] == 0x61


def test_wrapper_ends_the_stream_when_nobody_speaks() -> None:
    with one_meter(inactivity_timeout_s=SHORT_S) as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.associate()
        assert peer.receive() == b""
        assert fleet.wait_for(lambda: fleet.device(SERIAL).counters.associations_open == 0, 10)


class Station:
    """A primary station that only sends and reads frames."""

    def __init__(self, fleet: SimulatedFleet, *, serial: bool = False) -> None:
        self._socket: socket.socket | None = None
        if serial:
            self.descriptor = os.open(fleet.path(SERIAL), os.O_RDWR | os.O_NOCTTY)
            tty.setraw(self.descriptor)
        else:
            self._socket = socket.create_connection(("127.0.0.1", fleet.port(SERIAL)), timeout=10)
            self.descriptor = self._socket.fileno()
        self._reader = FrameReader()

    def __enter__(self) -> Station:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self.descriptor)

    def ask(self, control: int, information: bytes = b"", timeout_s: float = 10.0) -> Frame | BadFrame | None:
        self.write(encode_frame(SERVER, CLIENT, control, information))
        return self.receive(timeout_s)

    def write(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def read(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            ready, _, _ = select.select([self.descriptor], [], [], 10)
            assert ready, f"only {data!r} came"
            data += os.read(self.descriptor, size_bytes - len(data))
        return data

    def receive(self, timeout_s: float = 10.0) -> Frame | BadFrame | None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            outcome = self._reader.next()
            if outcome is not None:
                return outcome
            ready, _, _ = select.select([self.descriptor], [], [], max(deadline_s - time.monotonic(), 0))
            if not ready:
                return None
            self._reader.feed(os.read(self.descriptor, 4096))

    def associate(self) -> None:
        assert isinstance(self.ask(ctl.SNRM), Frame)
        answer = self.ask(ctl.information(0, 0, poll=True), b"\xe6\xe6\x00" + aarq())
        assert isinstance(answer, Frame)
        assert answer.information[3] == 0x61


@pytest.mark.parametrize("serial", [False, True], ids=["tcp", "pty"])
def test_hdlc_answers_that_are_spoilt(serial: bool) -> None:
    link = "serial" if serial else "hdlc"
    made = one_meter(link, logical_address=0, physical_address=1)
    with made as fleet, Station(fleet, serial=serial) as station:
        fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.SNRM))
        assert station.ask(ctl.SNRM, timeout_s=SHORT_S) is None
        station.associate()
        fleet.inject(SERIAL, Fault(FaultKind.BAD_FCS))
        request = b"\xe6\xe6\x00" + GET
        assert isinstance(station.ask(ctl.information(1, 1, poll=True), request), BadFrame)
        repeated = station.ask(ctl.information(1, 1, poll=True), request)
        assert isinstance(repeated, Frame)
        assert repeated.information == b"\xe6\xe7\x00" + ANSWER
        fleet.inject(SERIAL, Fault(FaultKind.WRONG_ADDRESS))
        foreign = station.ask(ctl.information(2, 2, poll=True), request)
        assert isinstance(foreign, Frame)
        assert foreign.destination != CLIENT
        assert fleet.counters(SERIAL).retransmissions == 1
        fleet.inject(SERIAL, Fault(FaultKind.DUPLICATE, Stage.DISC))
        assert station.ask(ctl.DISC) == station.receive()


def test_hdlc_link_falls_back_when_nobody_speaks_and_after_a_power_cut() -> None:
    meters = (
        MeterSettings(SERIAL, logical_address=0, physical_address=1, inactivity_timeout_s=60.0),
        MeterSettings("00000002", logical_address=0, physical_address=2),
    )
    with SimulatedFleet(FleetSettings((line_settings("hdlc", *meters),))) as fleet, Station(fleet) as station:
        station.associate()
        fleet.power(False, [SERIAL])
        assert station.ask(ctl.receive_ready(1), timeout_s=SHORT_S) is None
        fleet.power(True, [SERIAL])
        answer = station.ask(ctl.receive_ready(1))
        assert isinstance(answer, Frame)
        assert answer.control == ctl.DM
        assert fleet.counters(SERIAL).associations_open == 0


def test_an_optical_head_wants_to_be_called_first() -> None:
    line = line_settings("serial", MeterSettings(SERIAL, logical_address=0, physical_address=1), mode_e=True)
    with SimulatedFleet(FleetSettings((line,))) as fleet, Station(fleet, serial=True) as station:
        assert station.ask(ctl.SNRM, timeout_s=SHORT_S) is None
        for _ in range(2):
            station.write(b"/?99999999!\r\n")
            station.write(b"/?" + SERIAL.encode() + b"!\r\n")
            assert station.read(len(IDENTIFICATION)) == IDENTIFICATION
            station.write(b"\x06252\r\n")
            assert station.read(6) == b"\x06252\r\n"
            station.associate()
            assert isinstance(station.ask(ctl.DISC), Frame)
        assert station.ask(ctl.SNRM, timeout_s=SHORT_S) is None


def test_a_slow_line_takes_its_time() -> None:
    with (
        SimulatedFleet(FleetSettings((line_settings("wrapper", MeterSettings(SERIAL), baud=9600),))) as fleet,
        WrapperPeer(fleet.port(SERIAL)) as peer,
    ):
        peer.associate()
        before_s = time.monotonic()
        assert peer.ask(GET) == ANSWER
        assert time.monotonic() - before_s >= (21 + 22) * 10 / 9600
        peer.send(GET)
        peer.send(GET)
        assert [peer.receive(), peer.receive()] == [ANSWER] * 2
        assert fleet.line_counters(SERIAL).overlaps == 1
