"""A byte stream that remembers how the conversation began: the field engineer wants to see what came."""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms_connector.errors import LinkTimeout
from dlms_connector.io.line import Line
from dlms_connector.io.stream import ByteStream, Interrupt, WrappedStream

KEPT_BYTES = 64
_TEXT_SHARE = 0.8
_GREETING_S = 0.02


class Tap(WrappedStream):
    """Passes everything on; keeps the first bytes of both directions."""

    def __init__(self, stream: ByteStream, close: Callable[[], None]) -> None:
        self.sent = b""
        self.received = b""
        super().__init__(stream)
        self._close = close

    def send(self, data: bytes, deadline_s: float) -> None:
        self.sent += data[: KEPT_BYTES - len(self.sent)]
        self._stream.send(data, deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        data = self._stream.receive(deadline_s)
        self.received += data[: KEPT_BYTES - len(self.received)]
        return data

    def discard_input(self) -> int:
        """Throws away what came unasked, but keeps the first of it: other services greet."""
        greeted = 0
        if not self.received:
            try:
                greeted = len(self.receive(time.monotonic() + _GREETING_S))
            except LinkTimeout:
                pass  # meters wait to be asked
        return greeted + self._stream.discard_input()

    def close(self) -> None:
        self._close()

    @property
    def is_echo(self) -> bool:
        """What came first is what was sent."""
        return bool(self.sent) and self.received.startswith(self.sent)

    @property
    def greeting(self) -> str:
        """What came first, as text where it is text (`SSH-2.0-...`), else in hexadecimal."""
        printable = sum(0x20 <= byte < 0x7F for byte in self.received)
        if self.received and printable >= _TEXT_SHARE * len(self.received):
            return (
                bytes(byte if 0x20 <= byte < 0x7F else 0x2E for byte in self.received)
                .decode("ascii")
                .strip(".")
            )
        return self.received.hex(" ").upper()


class TappedLine(Line):
    """A line whose stream is tapped; `tap` is None until a connection stands."""

    def __init__(self, line: Line) -> None:
        self.tap: Tap | None = None
        self._below = line
        super().__init__(self._open, line.settings)

    def _open(self, deadline_s: float, interrupt: Interrupt) -> ByteStream:
        stream = self._below.open_stream(deadline_s, interrupt)
        self.tap = Tap(stream, self._below.drop_stream)
        return self.tap
