"""HDLC's end of a line: the meters and clients that talk on it, over TCP or a serial line."""

from __future__ import annotations

from dataclasses import dataclass

from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import BadFrame, Frame, FrameReader, encode_frame
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.simulator.association_server import ServerAssociation
from dlms_connector.simulator.faults import FaultKind, Stage
from dlms_connector.simulator.hdlc_server import HdlcConnection
from dlms_connector.simulator.line import NOTIFICATION, LineConnection, SimulatedLine
from dlms_connector.simulator.meter import LogicalDevice


@dataclass
class Session:
    """One client's link to one meter; `boots` tells whether the meter was switched off since."""

    device: LogicalDevice
    connection: HdlcConnection
    association: ServerAssociation
    boots: int

    def lose(self, *, cleanly: bool) -> None:
        """The link is disconnected without a DISC."""
        self.connection.is_connected = False
        self.association.end_with_link(cleanly=cleanly)


class HdlcLineConnection(LineConnection):
    """HDLC over TCP or a serial line; several meters and clients may talk on it."""

    def __init__(self, line: SimulatedLine) -> None:
        super().__init__(line)
        self._reader = FrameReader()
        self._sessions: dict[tuple[bytes, bytes], Session] = {}
        self._last_stations = b"", b""

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)
        while (frame := self._reader.next()) is not None:
            if isinstance(frame, BadFrame):
                for device in self.line.devices[:1]:
                    device.counters.bad_frames += 1
            elif not self.stream.is_closing():
                self._dispatch(frame)

    def _dispatch(self, frame: Frame) -> None:
        stations = frame.destination, frame.source
        session = self._sessions.get(stations) or self._open(frame)
        if session is None:
            self.line.counters.unanswered += 1
            return
        self._last_stations = stations
        self.request(session.device, _wire_bytes(frame), lambda: self.process(frame, session))

    def _open(self, frame: Frame) -> Session | None:
        device = self.line.device_at_address(frame.destination)
        if device is None or len(frame.source) != 1:
            return None
        settings = device.settings
        own = LinkParameters(
            settings.max_information_bytes,
            settings.max_information_bytes,
            settings.window_frames,
            settings.window_frames,
        )
        connection = HdlcConnection(
            frame.source,
            frame.destination,
            own,
            ua_without_parameters=settings.quirks.ua_without_parameters,
        )
        association = ServerAssociation(device, frame.source[0] >> 1)
        session = Session(device, connection, association, device.boots)
        self._sessions[frame.destination, frame.source] = session
        return session

    def process(self, frame: Frame, session: Session) -> None:
        """Act on a frame of a client that is known, and answer it."""
        device, connection, association = session.device, session.connection, session.association
        if session.boots != device.boots:
            session.boots = device.boots
            session.lose(cleanly=True)
        kind = ctl.kind(frame.control)
        stage = None
        if kind is ctl.Kind.SNRM or kind is ctl.Kind.DISC:
            association.end_with_link(cleanly=kind is ctl.Kind.DISC)
            stage = Stage.SNRM if kind is ctl.Kind.SNRM else Stage.DISC
        elif kind is ctl.Kind.RR:
            stage = Stage.SEGMENT
        repeated = connection.retransmission_count
        raw, apdu = connection.receive(frame)
        device.counters.retransmissions += connection.retransmission_count - repeated
        fault = device.faults.take(stage) if stage is not None and device.faults else None
        if apdu is not None:
            reply, fault = association.handle(apdu)
            # A request without an answer still needs its acknowledgement at the link layer.
            raw = connection.send(reply) if reply is not None else connection.acknowledge()
        if raw:
            self.answer(device, raw, _wire_bytes(frame), fault)

    def push(self, device: LogicalDevice, apdu: bytes) -> None:
        destination, source = self._last_stations
        session = self._sessions.get((destination, source))
        if session is not None and session.connection.is_connected:
            self._write(device, session.connection.send(apdu))

    def notification(self, device: LogicalDevice) -> bytes:
        server, client = self._last_stations
        return encode_frame(client, server, ctl.UI, b"\xe6\xe7\x00" + NOTIFICATION)

    def abort_associations(self) -> None:
        for session in self._sessions.values():
            session.lose(cleanly=False)

    def idle(self, device: LogicalDevice) -> None:
        for session in self._sessions.values():
            if session.device is device:
                session.lose(cleanly=True)

    def spoil(self, raw: bytes, kind: FaultKind) -> bytes:
        if kind is FaultKind.BAD_FCS:
            return raw[:-2] + bytes((raw[-2] ^ 0x01,)) + raw[-1:]
        if kind is FaultKind.WRONG_ADDRESS:
            return _readdressed(raw)
        return super().spoil(raw, kind)


def _wire_bytes(frame: Frame) -> int:
    """Size with both flags, format, addresses, control and check sequences."""
    information_bytes = len(frame.information) + 2 if frame.information else 0
    return 7 + len(frame.destination) + len(frame.source) + information_bytes


def _readdressed(raw: bytes) -> bytes:
    """The same frames, for the client next door."""
    reader = FrameReader()
    reader.feed(raw)
    frames = []
    while isinstance(frame := reader.next(), Frame):
        other = bytes((frame.destination[0] ^ 0x20,))
        frames.append(
            encode_frame(other, frame.source, frame.control, frame.information, segmented=frame.segmented)
        )
    return b"".join(frames)
