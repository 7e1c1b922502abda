"""The secondary station of HDLC: one connection to one client (Green Book clause 8.4)."""

from __future__ import annotations

from collections import deque

from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import Frame, FrameEncoder
from dlms_connector.framing.parameters import LinkParameters

_LLC_COMMAND, _LLC_RESPONSE = b"\xe6\xe6\x00", b"\xe6\xe7\x00"
_MAX_APDU_BYTES = 65_535 + 3


class HdlcConnection:
    """The state machine in normal response mode; frames in, frames and complete APDUs out.

    `receive` gives the frames to send now and, when a request is complete, its APDU; the answer is then handed
    to `send`, which gives the frames for it. Nothing is sent without the client's poll bit.
    """

    def __init__(
        self, client: bytes, server: bytes, own: LinkParameters, *, ua_without_parameters: bool = False
    ) -> None:
        self._encoder = FrameEncoder(client, server)
        self._own = own
        self._ua_without_parameters = ua_without_parameters
        self.is_connected = False
        self.retransmission_count = 0
        self._reset(LinkParameters())

    def _reset(self, agreed: LinkParameters) -> None:
        self._agreed = agreed
        self._send_number = 0
        self._receive_number = 0
        self._received = bytearray()
        self._unacknowledged: deque[tuple[int, bytes, bool]] = deque()
        self._waiting: deque[tuple[bytes, bool]] = deque()

    def receive(self, frame: Frame) -> tuple[bytes, bytes | None]:
        """Act on one frame: (bytes to send now, APDU that is complete)."""
        kind = ctl.kind(frame.control)
        if kind is ctl.Kind.SNRM:
            return self._connect(frame.information), None
        if kind is ctl.Kind.DISC:
            answer = ctl.UA if self.is_connected else ctl.DM
            self.is_connected = False
            return self._encoder.encode(answer), None
        if kind is ctl.Kind.UI:
            return b"", None
        if not self.is_connected:
            return self._encoder.encode(ctl.DM), None
        if kind is ctl.Kind.I:
            return self._information(frame)
        if kind in (ctl.Kind.RR, ctl.Kind.REJ, ctl.Kind.RNR):
            return self._supervisory(frame, kind), None
        return self._reject_frame(frame.control), None

    def _connect(self, proposal: bytes) -> bytes:
        self._reset(self._own.negotiate(LinkParameters.decode(proposal)))
        self.is_connected = True
        information = b"" if self._ua_without_parameters else self._agreed.encode()
        return self._encoder.encode(ctl.UA, information)

    def _information(self, frame: Frame) -> tuple[bytes, bytes | None]:
        if len(frame.information) > self._agreed.information_receive_bytes:
            return self._reject_frame(frame.control), None
        self._acknowledge(ctl.receive_number(frame.control))
        poll = ctl.is_final(frame.control)
        if ctl.send_number(frame.control) != self._receive_number:
            # A repetition, or a frame after a lost one: what the client is missing goes out again.
            if not poll:
                return b"", None
            if self._unacknowledged:
                return self._retransmit(), None
            behind = self._receive_number - ctl.send_number(frame.control) & 7
            answer = ctl.receive_ready if behind <= 3 else ctl.reject
            return self._encoder.encode(answer(self._receive_number)), None
        self._receive_number = self._receive_number + 1 & 7
        self._received += frame.information
        if len(self._received) > _MAX_APDU_BYTES:
            return self._reject_frame(frame.control), None
        if frame.segmented:
            return (self._encoder.encode(ctl.receive_ready(self._receive_number)) if poll else b""), None
        whole = bytes(self._received)
        self._received.clear()
        self._waiting.clear()
        if whole[:3] != _LLC_COMMAND:
            return self._encoder.encode(ctl.receive_ready(self._receive_number)), None
        return b"", whole[3:]

    def acknowledge(self) -> bytes:
        """RR: what was received is accepted, and there is nothing to say to it."""
        return self._encoder.encode(ctl.receive_ready(self._receive_number))

    def send(self, apdu: bytes) -> bytes:
        """The frames of an answer that the window allows now; the rest follows the client's RR."""
        whole = _LLC_RESPONSE + apdu
        size_bytes = self._agreed.information_transmit_bytes
        for start in range(0, len(whole), size_bytes):
            self._waiting.append((whole[start : start + size_bytes], start + size_bytes < len(whole)))
        return self._send_window()

    def _send_window(self) -> bytes:
        frames = []
        window = self._agreed.window_transmit_frames
        while self._waiting and len(self._unacknowledged) < window:
            information, segmented = self._waiting.popleft()
            number = self._send_number
            self._send_number = number + 1 & 7
            self._unacknowledged.append((number, information, segmented))
            is_last = not self._waiting or len(self._unacknowledged) == window
            frames.append(self._encode(number, information, segmented, final=is_last))
        return b"".join(frames)

    def _encode(self, number: int, information: bytes, segmented: bool, *, final: bool) -> bytes:
        control = ctl.information(number, self._receive_number, poll=final)
        return self._encoder.encode(control, information, segmented=segmented)

    def _acknowledge(self, receive_number: int) -> None:
        acknowledged = receive_number - (self._send_number - len(self._unacknowledged)) & 7
        if acknowledged <= len(self._unacknowledged):
            for _ in range(acknowledged):
                self._unacknowledged.popleft()

    def _retransmit(self) -> bytes:
        self.retransmission_count += 1
        last = len(self._unacknowledged) - 1
        return b"".join(
            self._encode(number, information, segmented, final=index == last)
            for index, (number, information, segmented) in enumerate(self._unacknowledged)
        )

    def _supervisory(self, frame: Frame, kind: ctl.Kind) -> bytes:
        self._acknowledge(ctl.receive_number(frame.control))
        if not ctl.is_final(frame.control):
            return b""
        if kind is not ctl.Kind.RNR:
            if self._unacknowledged:
                return self._retransmit()
            if self._waiting:
                return self._send_window()
        return self._encoder.encode(ctl.receive_ready(self._receive_number))

    def _reject_frame(self, control: int) -> bytes:
        """FRMR: the control byte rejected, our sequence numbers, and W (control not understood)."""
        state = self._receive_number << 5 | self._send_number << 1
        self.is_connected = False
        return self._encoder.encode(ctl.FRMR, bytes((control, state, 0x01)))
