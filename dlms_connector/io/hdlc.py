"""The client side of HDLC: one connection to one meter, over whatever stream it is given at each call.

Normal response mode, Green Book clause 8.4: the meter speaks when it was polled, and each side numbers its
I frames modulo 8. One rule mends every loss: after silence, or once damaged bytes have ended, what was sent
last is sent again. The meter knows a repeated I frame by its number and answers again; a repeated RR asks for
the frame that is missing. What comes twice is recognised by its number and dropped, never acknowledged by
itself: a slow meter that was asked twice answers twice, and each further RR would beget the next duplicate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dlms_connector.errors import FrameError, Layer, LinkRejected, LinkTimeout
from dlms_connector.framing import control
from dlms_connector.framing.addresses import HdlcAddress, encode_client
from dlms_connector.framing.control import MODULO, Kind
from dlms_connector.framing.frames import BadFrame, Frame, FrameDecoder, FrameEncoder, FrameReader
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.stream import ByteStream

LLC_COMMAND = b"\xe6\xe6\x00"
LLC_RESPONSE = b"\xe6\xe7\x00"
MAX_APDU_BYTES = 1024 * 1024

_PATIENCE = 2 / 3
"""Share of the remaining time that a try gets: slow meters take most of a timeout for their first answer."""
_SETTLE_S = 0.1
"""Silence after damaged bytes: then the meter has finished, and repeating cannot collide with it."""
_BUSY_PAUSE_S = 0.01
_BUSY_PAUSE_MAX_S = 0.32
"""Pause before a meter that is not ready (RNR), or has nothing yet (RR), is polled again; it doubles."""


@dataclass(frozen=True, slots=True)
class HdlcSettings:
    """What is proposed in SNRM and how patient the client is; the meter's UA has the last word.

    `response_timeout_s` is the silence after which a frame is repeated; None takes two thirds of what remains
    of the request's time for each try, and all of it for the last.
    """

    parameters: LinkParameters = field(default_factory=LinkParameters)
    retries: int = 2
    response_timeout_s: float | None = None
    max_apdu_bytes: int = MAX_APDU_BYTES


@dataclass(slots=True)
class HdlcCounters:
    """What went wrong on the way and was mended or dropped."""

    bad_frames: int = 0
    foreign_frames: int = 0
    duplicate_frames: int = 0
    unexpected_frames: int = 0
    unsolicited_frames: int = 0
    repeated: int = 0


class HdlcClient:
    """Connection state towards one meter: sequence numbers, negotiated limits, counters.

    `on_unsolicited` gets the information of the meter's UI frames. Not thread safe: one user at a time.
    """

    def __init__(
        self,
        client_address: int,
        server: HdlcAddress,
        settings: HdlcSettings | None = None,
        on_unsolicited: Callable[[bytes], None] | None = None,
    ) -> None:
        self.counters = HdlcCounters()
        self.settings = settings or HdlcSettings()
        self.negotiated = LinkParameters()
        self._client = encode_client(client_address)
        self._address = server
        self._server = server.encode()
        self._encoder = FrameEncoder(self._server, self._client)
        self._decoder = FrameDecoder(self._client, self._server)
        self._reader = FrameReader()
        self._on_unsolicited = on_unsolicited
        self._send_number = 0
        self._receive_number = 0
        self._outgoing: list[bytes] = []
        self._deadline_s = 0.0
        self._speak_at_s = 0.0
        self._tries_left = 0
        self._damaged = False
        self._busy = False
        self._untidy = True
        self._busy_pause_s = _BUSY_PAUSE_S

    def connect(self, stream: ByteStream, deadline_s: float) -> LinkParameters:
        """SNRM until UA; the limits that both sides keep from now on. Sequence numbers start anew.

        Raises:
            LinkRejected: the meter answered DM or FRMR.
            LinkTimeout, LinkClosed, Interrupted: as the stream.
        """
        proposed = self.settings.parameters
        # Absent parameters mean the defaults, and some meters take no others.
        information = b"" if proposed == LinkParameters() else proposed.encode()
        answer = self._command(stream, control.SNRM, information, (Kind.UA,), deadline_s)
        self.negotiated = proposed.negotiate(LinkParameters.decode(answer.information))
        self._send_number = self._receive_number = 0
        return self.negotiated

    def disconnect(self, stream: ByteStream, deadline_s: float) -> None:
        """DISC until UA or DM. Raises as `connect`."""
        self._command(stream, control.DISC, b"", (Kind.UA, Kind.DM), deadline_s)

    def exchange(self, stream: ByteStream, apdu: bytes, deadline_s: float, numbered: bool = False) -> bytes:
        """Sends a request in as many frames as it takes and collects the answer.

        The caller knows the answer to a `numbered` request by its invoke-id. Then what has arrived unasked is not
        looked for before each request, unless the conversation before was untidy: something was repeated, lost or
        not for us, so that late frames are likely.

        Raises:
            LinkRejected: the meter answered DM or FRMR: the connection is gone.
            FrameError: the answer grows beyond `max_apdu_bytes`, or is empty.
            LinkTimeout, LinkClosed, Interrupted: as the stream.
        """
        limit = self.negotiated.information_transmit_bytes
        request = LLC_COMMAND + apdu
        if len(request) <= limit:
            self._outgoing = [request]
        else:
            self._outgoing = [request[start : start + limit] for start in range(0, len(request), limit)]
        self._begin(stream, deadline_s, drain=self._untidy or not numbered)
        self._speak(stream)
        answer = self._await_single(stream) if len(self._outgoing) == 1 else None
        return self._collect(stream) if answer is None else answer

    def receive(self, stream: ByteStream, deadline_s: float) -> bytes:
        """One more APDU without a request, where a notification came in place of the answer.

        Polls with RR while nothing comes. Raises as `exchange`.
        """
        self._deadline_s = deadline_s
        self._progress()
        self._busy_pause_s = _BUSY_PAUSE_MAX_S
        self._pause()
        return self._collect(stream)

    def _await_single(self, stream: ByteStream) -> bytes | None:
        """The answer where it is one frame that comes in one piece, in order and alone, as most do.

        All but its information is known beforehand: address, numbers and header check are compared in one step. None
        where anything is otherwise; what has come then waits for `_collect`.
        """
        try:
            data = stream.receive(self._speak_at_s)
        except LinkTimeout:
            return None
        send_number = (self._send_number + 1) % MODULO
        expected = control.information(self._receive_number, send_number, poll=True)
        information = self._decoder.decode(expected, data)
        if information is None:
            self._hear(data)
            return None
        self._outgoing.clear()
        self._send_number = send_number
        self._receive_number = (self._receive_number + 1) % MODULO
        return _strip_llc(information)

    def _collect(self, stream: ByteStream) -> bytes:
        answer: list[bytes] = []
        size_bytes = 0
        while True:
            frame = self._next_frame(stream)
            if frame is None:
                self._speak_again(stream)
            elif not frame.control & 0x01:
                if not self._accept(frame):
                    continue
                answer.append(frame.information)
                size_bytes += len(frame.information)
                if not frame.segmented:
                    return _strip_llc(answer[0] if len(answer) == 1 else b"".join(answer))
                if size_bytes > self.settings.max_apdu_bytes:
                    raise FrameError(f"the answer exceeds {self.settings.max_apdu_bytes} bytes")
                if frame.control & control.POLL_FINAL:
                    self._speak(stream)
                else:
                    self._arm()
            else:
                self._supervise(stream, frame)

    def _begin(self, stream: ByteStream, deadline_s: float, *, drain: bool) -> None:
        """Whatever came before this request does not answer it."""
        self._deadline_s = deadline_s
        self._reader.clear()
        if drain:
            stream.discard_input()
            self._untidy = False
        self._progress()

    def _progress(self) -> None:
        self._tries_left = self.settings.retries
        self._busy_pause_s = _BUSY_PAUSE_S

    def _arm(self) -> None:
        """Sets the moment at which silence means that something was lost."""
        self._damaged = self._busy = False
        if not self._tries_left:
            self._speak_at_s = self._deadline_s
            return
        now_s = time.monotonic()
        wait_s = self.settings.response_timeout_s or (self._deadline_s - now_s) * _PATIENCE
        self._speak_at_s = min(self._deadline_s, now_s + wait_s)

    def _speak(self, stream: ByteStream) -> None:
        """Sends what is due: the request from the first piece not acknowledged on, then RR for the answer."""
        last = min(len(self._outgoing), self.negotiated.window_transmit_frames) - 1
        if last < 0:
            frames = self._encoder.encode(control.receive_ready(self._receive_number))
        elif last == 0:
            frames = self._piece(0, poll=True)
        else:
            frames = b"".join(self._piece(index, poll=index == last) for index in range(last + 1))
        stream.send(frames, self._deadline_s)
        self._arm()

    def _piece(self, index: int, *, poll: bool) -> bytes:
        """One piece of the request as an I frame."""
        send_number = (self._send_number + index) % MODULO
        return self._encoder.encode(
            control.information(send_number, self._receive_number, poll=poll),
            self._outgoing[index],
            segmented=index + 1 < len(self._outgoing),
        )

    def _speak_again(self, stream: ByteStream) -> None:
        """After silence: polls a meter that was busy, else repeats while there are tries left."""
        self._reader.clear()
        if not self._busy:
            self._use_a_try()
            self._speak(stream)
            return
        self._check_time()
        stream.send(self._encoder.encode(control.receive_ready(self._receive_number)), self._deadline_s)
        self._arm()

    def _use_a_try(self) -> None:
        self._check_time()
        if not self._tries_left:
            raise LinkTimeout("no answer from the meter, however often it was asked", layer=Layer.HDLC)
        self._tries_left -= 1
        self._odd().repeated += 1

    def _check_time(self) -> None:
        if time.monotonic() >= self._deadline_s:
            state = "the meter stayed busy" if self._busy else "no answer from the meter"
            raise LinkTimeout(f"{state} until the deadline", layer=Layer.HDLC)

    def _accept(self, frame: Frame) -> bool:
        """Whether an I frame is the next one of the answer to the whole request."""
        send_number = control.send_number(frame.control)
        if not self._acknowledge(frame.control) or self._outgoing:
            self._odd().unexpected_frames += 1
            return False
        if send_number == self._receive_number:
            self._receive_number = (send_number + 1) % MODULO
            self._progress()
            return True
        ahead = (send_number - self._receive_number) % MODULO
        if ahead < self.negotiated.window_receive_frames:
            self._settle()  # one before it was lost: ask for that one when the window has ended
        else:
            self._odd().duplicate_frames += 1
        return False

    def _acknowledge(self, control_byte: int) -> bool:
        """Takes the frames that N(R) acknowledges off the request; False if it names frames never sent."""
        receive_number = control.receive_number(control_byte)
        count = (receive_number - self._send_number) % MODULO
        if count:
            if count > min(len(self._outgoing), self.negotiated.window_transmit_frames):
                return False
            del self._outgoing[:count]
            self._send_number = receive_number
            self._progress()
        return True

    def _supervise(self, stream: ByteStream, frame: Frame) -> None:
        """RR, RNR and REJ, and the end of the connection."""
        kind = control.kind(frame.control)
        if kind in (Kind.DM, Kind.FRMR):
            raise _rejected(frame)
        before = len(self._outgoing)
        if kind not in (Kind.RR, Kind.RNR, Kind.REJ) or not self._acknowledge(frame.control):
            self._odd().unexpected_frames += 1
        elif kind is Kind.RNR or not self._outgoing:
            self._pause()
        elif len(self._outgoing) < before:
            self._speak(stream)
        else:
            self._settle()  # it got nothing of what was sent last

    def _odd(self) -> HdlcCounters:
        """Where to count what a tidy conversation does not have; before the next request leftovers are looked for."""
        self._untidy = True
        return self.counters

    def _settle(self) -> None:
        """Something was lost or damaged: repeat, if tries are left, once the meter has gone quiet."""
        if not self._tries_left:
            return
        self._damaged = True
        self._speak_at_s = min(self._deadline_s, time.monotonic() + _SETTLE_S)

    def _pause(self) -> None:
        self._busy = self._untidy = True
        self._speak_at_s = min(self._deadline_s, time.monotonic() + self._busy_pause_s)
        self._busy_pause_s = min(self._busy_pause_s * 2, _BUSY_PAUSE_MAX_S)

    def _command(
        self,
        stream: ByteStream,
        command: int,
        information: bytes,
        wanted: tuple[Kind, ...],
        deadline_s: float,
    ) -> Frame:
        """SNRM or DISC until one of the wanted answers."""
        encoded = self._encoder.encode(command, information)
        self._begin(stream, deadline_s, drain=True)
        while True:
            stream.send(encoded, deadline_s)
            self._arm()
            while (frame := self._next_frame(stream)) is not None:
                kind = control.kind(frame.control)
                if kind in wanted:
                    return frame
                if kind in (Kind.DM, Kind.FRMR):
                    raise _rejected(frame)
                self._odd().unexpected_frames += 1
            self._reader.clear()
            self._use_a_try()

    def _next_frame(self, stream: ByteStream) -> Frame | None:
        """The next intact frame from our meter to us; None when it is our turn to speak again."""
        while True:
            outcome = self._reader.next()
            if outcome is None:
                try:
                    data = stream.receive(self._speak_at_s)
                except LinkTimeout:
                    return None
                self._hear(data)
            elif isinstance(outcome, BadFrame):
                self._odd().bad_frames += 1
                self._settle()
            elif outcome.destination != self._client or not self._is_our_meter(outcome.source):
                self._odd().foreign_frames += 1
            elif outcome.control & ~control.POLL_FINAL == Kind.UI:
                self._odd().unsolicited_frames += 1
                if self._on_unsolicited is not None:
                    self._on_unsolicited(_strip_llc(outcome.information))
            else:
                return outcome

    def _is_our_meter(self, source: bytes) -> bool:
        """Whether a frame comes from the meter that is asked: some write its address in another number of bytes."""
        if source == self._server:
            return True
        try:
            heard = HdlcAddress.decode(source)
        except ValueError:
            return False
        parts = (self._address.logical, self._address.physical)
        if 1 in (len(source), self._address.size) or (heard.logical, heard.physical) != parts:
            return False
        self._server = source
        self._decoder = FrameDecoder(self._client, source)
        return True

    def _hear(self, data: bytes) -> None:
        """Bytes have come, and more may: repeating now would collide with them."""
        self._reader.feed(data)
        quiet_at_s = time.monotonic() + _SETTLE_S
        if self._damaged or quiet_at_s > self._speak_at_s:
            self._speak_at_s = min(self._deadline_s, quiet_at_s)


def _strip_llc(information: bytes) -> bytes:
    """The APDU. Some meters repeat the command's LLC header, or have none: no APDU begins with 0xE6."""
    return information[3:] if information[:3] in (LLC_RESPONSE, LLC_COMMAND) else information


def _rejected(frame: Frame) -> LinkRejected:
    if control.kind(frame.control) is Kind.FRMR:
        reason = control.frame_reject_reason(frame.information)
        is_length = len(frame.information) > 2 and frame.information[2] & 0x04
        hint = (
            "look at window and information length"
            if is_length
            else "it does not take this command in this state"
        )
        return LinkRejected(f"the meter rejected a frame (FRMR): {reason}", hint=hint)
    return LinkRejected(
        "the meter is in disconnected mode (DM)", hint="another client may be connected, or the address wrong"
    )
