"""One try to talk to an unknown meter: connect, associate, look around, leave politely; what came of it."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field, replace
from enum import Enum

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem import acse, services
from dlms_connector.cosem.association import ApduChannel, Association
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import (
    AssociationError,
    ConnectFailed,
    DecodeError,
    DlmsConnectorError,
    FrameError,
    Layer,
    LinkClosed,
    LinkError,
    LinkRejected,
    LinkTimeout,
    ObjectError,
    ServiceRefused,
)
from dlms_connector.explain.acse import conformance_names
from dlms_connector.io.channel import Channel, HdlcChannel
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import make_channel, make_line
from dlms_connector.meter.parameters import association_parameters
from dlms_connector.meter.reading import Plain, to_plain
from dlms_connector.obis import Obis
from dlms_connector.survey.tap import Tap, TappedLine

CONTEXT_NOT_SUPPORTED = 2
MECHANISM_NOT_RECOGNISED, MECHANISM_REQUIRED, AUTHENTICATION_FAILURE, AUTHENTICATION_REQUIRED = 11, 12, 13, 14
_GOODBYE_S = 2.0
_CHALLENGE_BYTES = 16
_CLIENT_TITLE = bytes.fromhex("444C4D5300000001")
_LOGICAL_DEVICE_NAME = AttributeRef(1, Obis(0, 0, 42, 0, 0), 2)
_SERIAL_NUMBERS = (AttributeRef(1, Obis(0, 0, 96, 1, 0), 2), AttributeRef(1, Obis(1, 0, 0, 0, 0), 2))
_USUAL = ((32, 7, 0), (31, 7, 0), (14, 7, 0), (1, 7, 0), (1, 8, 0))
_WRAPPER_TO_HDLC = "this port speaks HDLC"


class Verdict(str, Enum):
    """What a try came to."""

    ANSWERED = "answered"
    WANTS_HLS = "wants HLS"
    WANTS_CIPHERING = "wants ciphering"
    WANTS_AUTHENTICATION = "wants a password or keys"
    WRONG_PASSWORD = "password refused"  # noqa: S105 - a verdict
    REFUSED = "refused"
    DISCONNECTED = "answers HDLC, but not this client"
    SILENT = "silent"
    RUBBISH = "answers something else"
    CLOSED = "hangs up"
    UNREACHABLE = "not reachable"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the meter told of itself in an association; sizes in bytes, lengths of HDLC None without it."""

    max_pdu_bytes: int
    conformance: tuple[str, ...]
    information_send_bytes: int | None = None
    information_receive_bytes: int | None = None
    window_frames: int | None = None
    system_title: str = ""
    logical_device_name: str = ""
    serial_number: str = ""
    serial_object: Obis | None = None
    registers: tuple[Obis, ...] = ()
    """Usual registers that answered."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one try: where it ended, what the meter said, what to try next."""

    verdict: Verdict
    layer: Layer
    said: str
    hint: str = ""
    facts: Facts | None = None
    mechanism: int = 0
    is_clean: bool = True
    """The meter knows that we have left."""

    @property
    def heard(self) -> bool:
        """Something that speaks DLMS at this address said something."""
        return self.verdict not in (Verdict.SILENT, Verdict.RUBBISH, Verdict.CLOSED, Verdict.UNREACHABLE)


@dataclass
class _Recorder:
    """An ApduChannel that keeps the first answer."""

    channel: ApduChannel
    first: bytes = field(default=b"")

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        answer = self.channel.exchange(apdu, deadline_s, numbered=numbered)
        self.first = self.first or answer
        return answer

    def receive(self, deadline_s: float) -> bytes:
        return self.channel.receive(deadline_s)


class Attempt:
    """One try with one device entry.

    Args:
        device: how to reach the meter and who to be; its timeout bounds each request.
        mechanism: an HLS mechanism to ask for without going through with it; 0 takes the entry's own.
    """

    def __init__(self, device: DeviceSettings, mechanism: int = 0) -> None:
        self._device = device
        self._mechanism = mechanism
        self._timeout_s = device.timeout_ms / 1000
        self._line = TappedLine(make_line(device.transport))
        self._channel: Channel = make_channel(device, device.client.address, self._line, Interrupt())
        self._association: Association | None = None
        self._is_clean = True

    def run(self) -> Outcome:
        """Try, and leave the meter politely, also on Ctrl-C. Raises SecretError."""
        parameters = association_parameters(self._device.client)
        recorder = _Recorder(self._channel)
        association = Association(recorder, parameters, timeout_s=self._timeout_s)
        try:
            self._channel.open(self._deadline_s())
            self._association = association
            if self._mechanism:
                outcome = self._ask_for_hls(recorder)
            else:
                association.open()
                outcome = Outcome(
                    Verdict.ANSWERED,
                    Layer.OBJECT,
                    "association accepted",
                    facts=self._look(association, recorder),
                )
        except (LinkError, ServiceRefused) as error:
            if isinstance(error, ServiceRefused) or getattr(error, "result", None) is not None:
                self._association = None  # refused: there is nothing to release
            outcome = self._judge(error)
        finally:
            self._leave()
        return replace(outcome, is_clean=self._is_clean)

    def _deadline_s(self) -> float:
        return time.monotonic() + self._timeout_s

    def _leave(self) -> None:
        """RLRQ where an association may stand, DISC, and the end of the stream."""
        association = self._association
        if association is not None and self._channel.is_open:
            association.timeout_s = min(self._timeout_s, _GOODBYE_S)
            try:
                association.release()
            except ServiceRefused:
                pass  # an answer all the same
            except DlmsConnectorError:
                self._is_clean = False
        is_hdlc = isinstance(self._channel, HdlcChannel)
        if association is not None and is_hdlc and not self._channel.is_open:
            self._reconnect()
        if self._channel.is_open:
            closed = self._channel.close(time.monotonic() + _GOODBYE_S)
            self._is_clean = closed and (self._is_clean or is_hdlc)
        self._channel.abandon()
        self._line.drop_stream()

    def _reconnect(self) -> None:
        """After a silence the meter still holds our HDLC connection: it is taken up again, to be ended."""
        try:
            self._channel.open(time.monotonic() + _GOODBYE_S)
        except DlmsConnectorError:
            self._is_clean = False

    def _ask_for_hls(self, channel: ApduChannel) -> Outcome:
        """The first pass alone: the meter's answer says whether the client uses this mechanism."""
        initiate = acse.encode_initiate(
            ciphered=False, max_pdu_size=self._device.client.max_pdu_size, dedicated_key=None
        )
        aarq = acse.encode_aarq(
            self._mechanism,
            initiate,
            ciphered=False,
            client_title=_CLIENT_TITLE,
            authentication_value=secrets.token_bytes(_CHALLENGE_BYTES),
        )
        response = acse.decode_aare(channel.exchange(aarq, self._deadline_s()))
        response.raise_if_refused()
        mechanism = response.mechanism or self._mechanism
        if not response.challenge:
            return Outcome(Verdict.ANSWERED, Layer.ASSOCIATION, "accepted without a challenge")
        return Outcome(
            Verdict.WANTS_HLS,
            Layer.ASSOCIATION,
            f"asks for HLS {mechanism}: sent a challenge of {len(response.challenge)} bytes",
            hint=_hls_hint(mechanism),
            mechanism=mechanism,
        )

    def _look(self, association: Association, recorder: _Recorder) -> Facts:
        """Names, limits and a few usual registers, as far as the meter tells."""
        name, serial, serial_object, registers = "", "", None, []
        try:
            name = _text(_read(association, _LOGICAL_DEVICE_NAME))
            for ref in _SERIAL_NUMBERS:
                serial = _text(_read(association, ref))
                if serial:
                    serial_object = ref.obis
                    break
            for c, d, e in _USUAL:
                for b in (0, 1):
                    obis = Obis(1, b, c, d, e)
                    if _read(association, AttributeRef(3, obis, 2)) is not None:
                        registers.append(obis)
                        break
        except (LinkError, ServiceRefused):
            pass  # it answered the association; a meter that stops here is told by its table row
        title = acse.decode_aare(recorder.first).server_title if recorder.first[:1] == b"\x61" else None
        channel = self._channel
        limits = channel.negotiated if isinstance(channel, HdlcChannel) else None
        return Facts(
            max_pdu_bytes=association.max_request_bytes,
            conformance=tuple(conformance_names(association.conformance)),
            information_send_bytes=limits.information_transmit_bytes if limits else None,
            information_receive_bytes=limits.information_receive_bytes if limits else None,
            window_frames=limits.window_receive_frames if limits else None,
            system_title=title.hex().upper() if title else "",
            logical_device_name=name,
            serial_number=serial,
            serial_object=serial_object,
            registers=tuple(registers),
        )

    def _judge(self, error: LinkError | ServiceRefused) -> Outcome:
        if isinstance(error, AssociationError):
            return _judge_refusal(error, tried_secret=self._device.client.authentication != "none")
        verdict, hint, said = _verdict_of(error), error.hint, error.message
        tap = self._line.tap
        if tap is None:
            verdict = Verdict.UNREACHABLE
        elif verdict in (Verdict.SILENT, Verdict.CLOSED, Verdict.RUBBISH):
            verdict, said, hint = self._judge_bytes(verdict, tap, error)
        silent_wrapper = verdict is Verdict.SILENT and not isinstance(self._channel, HdlcChannel)
        return Outcome(verdict, Layer.WRAPPER if silent_wrapper else error.layer, said, hint)

    def _judge_bytes(self, verdict: Verdict, tap: Tap, error: DlmsConnectorError) -> tuple[Verdict, str, str]:
        """Silence and rubbish are told apart by what was received."""
        if not tap.bytes_received:
            if verdict is Verdict.CLOSED:
                return verdict, "took the connection and hung up without a word", _closed_hint(tap)
            return Verdict.SILENT, f"connected, but no answer within {self._timeout_s:g} s", ""
        if tap.is_echo:
            return Verdict.RUBBISH, "what was sent comes back", "a local echo: try --echo"
        if isinstance(self._channel, HdlcChannel):
            if self._channel.counters.foreign_frames and not self._channel.counters.bad_frames:
                return Verdict.SILENT, "other stations talk on this line, this one does not", error.hint
            if error.layer is Layer.ASSOCIATION:
                return Verdict.SILENT, "HDLC connected, no answer to the association request", error.hint
        elif tap.received[:1] == b"\x7e":
            return Verdict.RUBBISH, "answered with an HDLC frame", _WRAPPER_TO_HDLC
        return Verdict.RUBBISH, f"answered with what is no DLMS: {tap.greeting}", "is this the meter's port?"


def _verdict_of(error: DlmsConnectorError) -> Verdict:
    if isinstance(error, ConnectFailed):
        return Verdict.UNREACHABLE
    if isinstance(error, LinkTimeout):
        return Verdict.SILENT
    if isinstance(error, LinkClosed):
        return Verdict.CLOSED
    if isinstance(error, LinkRejected):
        return Verdict.DISCONNECTED
    if isinstance(error, (FrameError, DecodeError)):
        return Verdict.RUBBISH
    return Verdict.REFUSED


def _judge_refusal(error: AssociationError, *, tried_secret: bool) -> Outcome:
    verdict = {
        CONTEXT_NOT_SUPPORTED: Verdict.WANTS_CIPHERING,
        MECHANISM_NOT_RECOGNISED: Verdict.WANTS_AUTHENTICATION,
        MECHANISM_REQUIRED: Verdict.WANTS_AUTHENTICATION,
        AUTHENTICATION_FAILURE: Verdict.WRONG_PASSWORD if tried_secret else Verdict.WANTS_AUTHENTICATION,
        AUTHENTICATION_REQUIRED: Verdict.WANTS_AUTHENTICATION,
    }.get(error.diagnostic or 0, Verdict.REFUSED)
    return Outcome(verdict, error.layer, error.message, error.hint)


def _hls_hint(mechanism: int) -> str:
    name = {2: "high", 3: "md5", 4: "sha1", 5: "gmac", 6: "sha256"}.get(mechanism)
    if name is None:
        return "this mechanism is not supported"
    needs = "client.security with its keys" if mechanism == 5 else "its secret as client.password"
    return f'set client.authentication "{name}" and {needs}'


def _closed_hint(tap: Tap) -> str:
    if tap.bytes_sent:
        return "another framing or another client, or one that is connected already"
    return "a converter that serves one connection? is a gateway connected?"


def _read(association: Association, ref: AttributeRef) -> Plain:
    try:
        return to_plain(services.get(association, ref))
    except ObjectError:
        return None


def _text(value: Plain) -> str:
    return "" if value is None else str(value).strip()
