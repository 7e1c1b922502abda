"""An optical head: IEC 62056-21 mode E signs on before HDLC begins (clause 6 and annex E)."""

from __future__ import annotations

import re

from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import Frame
from dlms_connector.simulator.hdlc_line import HdlcLineConnection, Session
from dlms_connector.simulator.line import SimulatedLine

# Rate character 5 is 9600 Bd; \2 offers mode E.
IDENTIFICATION = b"/SIM5\\2SIM-3P\r\n"
_REQUEST = re.compile(rb"/\?([0-9A-Za-z ]{0,32})!\r\n")
_ACKNOWLEDGEMENT = re.compile(rb"\x06(2)([0-6])2\r\n")
_CALL = b"/?"
_BUFFER_BYTES = 64


class OpticalHeadConnection(HdlcLineConnection):
    """HDLC behind the sign-on; after DISC the meter waits to be called again."""

    def __init__(self, line: SimulatedLine) -> None:
        super().__init__(line)
        self._is_signed_on = False
        self._called = b""

    def feed(self, data: bytes) -> None:
        if self._is_signed_on and not data.startswith(_CALL):
            super().feed(data)
            return
        self._is_signed_on = False
        # The parity bit of 7E1 is still in what an adapter set to 8N1 delivers.
        self._called = (self._called + bytes(octet & 0x7F for octet in data))[-_BUFFER_BYTES:]
        self._sign_on()

    def _sign_on(self) -> None:
        addresses = _REQUEST.findall(self._called)
        if addresses:
            self._called = b""
            if self._is_meant(addresses[-1].decode()) and self.line.devices[0].is_powered:
                self.stream.write(IDENTIFICATION)
            return
        acknowledgement = _ACKNOWLEDGEMENT.search(self._called)
        if acknowledgement:
            self._called = b""
            self.stream.write(acknowledgement[0])
            self._is_signed_on = True

    def _is_meant(self, address: str) -> bool:
        return not address or address == self.line.devices[0].settings.serial

    def process(self, frame: Frame, session: Session) -> None:
        super().process(frame, session)
        if ctl.kind(frame.control) is ctl.Kind.DISC:
            self._is_signed_on = False
