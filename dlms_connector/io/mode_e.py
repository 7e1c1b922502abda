"""IEC 62056-21 mode E: how an optical head is talked into HDLC.

At 300 Bd 7E1 the meter is called and answers who it is and how fast it can speak; the acknowledgement chooses
protocol 2 (HDLC) and the rate. Source: IEC 62056-21 clause 6 and annex E, Green Book clause 8.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace

from dlms_connector.errors import FrameError, Layer, LinkRejected, LinkTimeout
from dlms_connector.io.serial import SerialPort, SerialStream, open_serial
from dlms_connector.io.stream import ByteStream, Interrupt

SIGN_ON_BAUD_RATE = 300
BAUD_RATES = {"0": 300, "1": 600, "2": 1200, "3": 2400, "4": 4800, "5": 9600, "6": 19200}
"""What the rate character of identification and acknowledgement means, clause 6.3.14."""

_ACKNOWLEDGE = 0x06
_NEGATIVE = 0x15
_PROTOCOL_HDLC = "2"
_MODE_BINARY = "2"
_IDENTIFICATION_MAX_BYTES = 128
_IDENTIFICATION = re.compile(rb"/([A-Za-z]{3})([0-9A-Z])([^\r\n]*)\r\n")


@dataclass(frozen=True, slots=True)
class ModeE:
    """Whom to call (empty: whoever is there), how fast to become, how long to await a confirmation."""

    device_address: str = ""
    max_baud_rate: int = 9600
    confirmation_timeout_s: float = 1.0


def open_mode_e(port: SerialPort, settings: ModeE, deadline_s: float, interrupt: Interrupt) -> ByteStream:
    """Opens the port, signs on and leaves the stream at the chosen rate, 8N1, ready for SNRM.

    Raises:
        FrameError: the identification is none, or offers no mode E.
        LinkRejected: the meter refused the acknowledgement.
        ConnectFailed, LinkClosed, LinkTimeout, Interrupted: as `open_serial` and `SerialStream`.
    """
    sign_on_port = replace(port, baud_rate=SIGN_ON_BAUD_RATE, data_bits=7, parity="even", stop_bits=1)
    stream = open_serial(sign_on_port, deadline_s, interrupt)
    signed_on = False
    try:
        interrupt.watch(stream.interrupt)
        sign_on(stream, settings, deadline_s)
        signed_on = True
    finally:
        interrupt.unwatch()
        if not signed_on:
            stream.close()
    return stream


def sign_on(stream: SerialStream, settings: ModeE, deadline_s: float) -> str:
    """The dialogue itself, at 300 Bd 7E1; returns the identification. Raises as `open_mode_e`."""
    stream.discard_input()
    stream.send(f"/?{settings.device_address}!\r\n".encode("ascii"), deadline_s)
    maker, rate, text = _read_identification(stream, deadline_s)
    chosen = _choose_rate(rate, settings.max_baud_rate)
    options = f"{_PROTOCOL_HDLC}{chosen}{_MODE_BINARY}\r\n".encode("ascii")
    stream.send(bytes((_ACKNOWLEDGE,)) + options, deadline_s)
    _await_confirmation(stream, min(deadline_s, time.monotonic() + settings.confirmation_timeout_s))
    stream.switch_to_8n1(BAUD_RATES[chosen])
    stream.discard_input()
    return f"{maker}{rate}{text}"


def _read_identification(stream: SerialStream, deadline_s: float) -> tuple[str, str, str]:
    received = b""
    while len(received) < _IDENTIFICATION_MAX_BYTES:
        # Adapters that do not do 7E1 leave the parity bit in.
        received += bytes(value & 0x7F for value in stream.receive(deadline_s))
        match = _IDENTIFICATION.search(received)
        if match:
            maker, rate, text = (part.decode("ascii", "replace") for part in match.groups())
            if "\\2" not in text:
                raise FrameError(
                    f"the meter {maker} does not offer mode E", layer=Layer.SERIAL, hint="switch modeE off"
                )
            return maker, rate, text
    raise FrameError(
        "what answered the sign-on is no identification message",
        layer=Layer.SERIAL,
        hint="is the port free of other devices, and the head aligned?",
    )


def _choose_rate(proposed: str, max_baud_rate: int) -> str:
    """The fastest rate that both sides know."""
    limit = min(BAUD_RATES.get(proposed, SIGN_ON_BAUD_RATE), max(max_baud_rate, SIGN_ON_BAUD_RATE))
    return max((rate for rate in BAUD_RATES if BAUD_RATES[rate] <= limit), key=BAUD_RATES.__getitem__)


def _await_confirmation(stream: SerialStream, until_s: float) -> None:
    """Many meters repeat the acknowledgement before they switch, some switch in silence."""
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < _IDENTIFICATION_MAX_BYTES:
            received += bytes(value & 0x7F for value in stream.receive(until_s))
            if received[:1] == bytes((_NEGATIVE,)):
                raise LinkRejected("the meter refused the mode E acknowledgement", layer=Layer.SERIAL)
    except LinkTimeout:
        pass
