"""What a byte stream to a meter or converter is, and how a wait on one is ended from outside.

Deadlines are absolute, in seconds of `time.monotonic()`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from dlms_connector.errors import Interrupted, Layer


class ByteStream(Protocol):
    """An open way to a meter: a socket, a serial port, or a stand-in for one."""

    @property
    def layer(self) -> Layer:
        """Which layer its errors are of."""

    @property
    def bytes_sent(self) -> int:
        """Since it was opened."""

    @property
    def bytes_received(self) -> int:
        """Since it was opened."""

    def send(self, data: bytes, deadline_s: float) -> None:
        """Sends all of it. Raises LinkTimeout, LinkClosed, Interrupted."""

    def receive(self, deadline_s: float) -> bytes:
        """What has arrived, at least one byte. Raises LinkTimeout, LinkClosed, Interrupted."""

    def discard_input(self) -> int:
        """Throws away what has arrived unread; returns how many bytes. Raises LinkClosed, Interrupted."""

    def interrupt(self) -> None:
        """Ends any wait on this stream at once and for good with Interrupted; callable from any thread."""

    def close(self) -> None:
        """Gives the operating system its handles back; a second call does nothing."""


class WrappedStream:
    """A stream that passes everything on to another; a base for those that add something on the way."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    @property
    def layer(self) -> Layer:
        return self._stream.layer

    @property
    def bytes_sent(self) -> int:
        return self._stream.bytes_sent

    @property
    def bytes_received(self) -> int:
        return self._stream.bytes_received

    def send(self, data: bytes, deadline_s: float) -> None:
        self._stream.send(data, deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        return self._stream.receive(deadline_s)

    def discard_input(self) -> int:
        return self._stream.discard_input()

    def interrupt(self) -> None:
        self._stream.interrupt()

    def close(self) -> None:
        self._stream.close()


_pulling = threading.Lock()


class Interrupt:
    """One poller's emergency brake: wakes whatever it waits for, wherever that is, for good.

    A poller waits for one thing at a time (a name, a connection, its turn, an answer): each wait names
    its waker with `watch` and takes it back with `unwatch`.

    Its pauses wait for a bare lock that is held until the brake is pulled: an Event would be a hundred times as large,
    and there are two for each meter.
    """

    __slots__ = ("_held", "_waker", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._held = threading.Lock()
        self._held.acquire()
        self._waker: Callable[[], None] | None = None

    def set(self) -> None:
        """Pulls the brake; callable from any thread, any number of times."""
        with _pulling:
            if not self.is_set:
                self.is_set = True
                self._held.release()
        waker = self._waker
        if waker is not None:
            waker()

    def check(self) -> None:
        """Raises Interrupted if the brake was pulled."""
        if self.is_set:
            raise Interrupted("interrupted by the connector")

    def watch(self, waker: Callable[[], None]) -> None:
        """Calls `waker` when the brake is pulled; raises Interrupted if it was already.

        The waker is set before the flag is read, and `set` does it the other way round: none is missed.
        """
        self._waker = waker
        if self.is_set:
            self._waker = None
            raise Interrupted("interrupted by the connector")

    def unwatch(self) -> None:
        """The wait is over."""
        self._waker = None

    def sleep(self, duration_s: float) -> None:
        """A pause that the brake ends with Interrupted."""
        if self._held.acquire(timeout=min(max(0.0, duration_s), threading.TIMEOUT_MAX)):
            self._held.release()
            raise Interrupted("interrupted by the connector")
