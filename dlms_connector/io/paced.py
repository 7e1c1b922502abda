"""A byte stream that leaves a pause between what it received and what it sends next."""

from __future__ import annotations

import time

from dlms_connector.errors import LinkTimeout
from dlms_connector.io.stream import ByteStream, Interrupt, WrappedStream


class PacedStream(WrappedStream):
    """Wraps a stream of a line whose converter or meters need a turnaround time."""

    def __init__(self, stream: ByteStream, delay_s: float) -> None:
        super().__init__(stream)
        self._delay_s = delay_s
        self._brake = Interrupt()
        self._received_at_s = float("-inf")

    def send(self, data: bytes, deadline_s: float) -> None:
        """Waits for the rest of the pause, then sends. Raises as the stream below."""
        send_at_s = self._received_at_s + self._delay_s
        now_s = time.monotonic()
        if send_at_s > deadline_s:
            raise LinkTimeout("the pause between frames outlasts the request", layer=self.layer)
        if send_at_s > now_s:
            self._brake.sleep(send_at_s - now_s)
        self._stream.send(data, deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        data = self._stream.receive(deadline_s)
        self._received_at_s = time.monotonic()
        return data

    def discard_input(self) -> int:
        discarded = self._stream.discard_input()
        if discarded:
            self._received_at_s = time.monotonic()
        return discarded

    def interrupt(self) -> None:
        self._brake.set()
        self._stream.interrupt()
