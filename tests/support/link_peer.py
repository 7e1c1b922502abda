"""The other end of a link, played step by step by a test: on a real socket or a real pseudo-terminal."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from dlms_connector.errors import Layer, LinkClosed
from dlms_connector.framing.frames import BadFrame, Frame, FrameReader, encode_frame
from dlms_connector.io.tcp import TcpEndpoint

PATIENCE_S = 10.0


class ChunkStream:
    """A stream that delivers these chunks, then ends."""

    layer = Layer.TCP
    bytes_sent = 0
    bytes_received = 0

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter(chunks)

    def send(self, data: bytes, deadline_s: float) -> None: ...

    def receive(self, deadline_s: float) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise LinkClosed("the script has ended") from None

    def discard_input(self) -> int:
        return 0

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Pipe(Protocol):
    """Either kind of other end."""

    def send(self, data: bytes) -> None: ...

    def receive(self) -> bytes:
        """At least one byte; b"" when the client has gone."""


class SocketPipe:
    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self) -> bytes:
        try:
            return self.connection.recv(65536)
        except ConnectionError:
            return b""


class PtyPipe:
    def __init__(self, master: int, *, echo: bool) -> None:
        self._master = master
        self._echo = echo

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._master, data) :]

    def receive(self) -> bytes:
        ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
        data = os.read(self._master, 65536) if ready else b""
        if self._echo:
            self.send(data)
        return data


class HdlcPeer:
    """A meter's end of HDLC, without any logic of its own: the test says what it answers."""

    def __init__(self, pipe: Pipe, server: bytes, client: bytes) -> None:
        self.pipe = pipe
        self.server = server
        self.client = client
        self._reader = FrameReader()

    def read(self) -> Frame | None:
        """The client's next frame; None when it has gone."""
        while True:
            outcome = self._reader.next()
            if isinstance(outcome, BadFrame):
                raise AssertionError(f"the client sent a bad frame: {outcome}")
            if outcome is not None:
                return outcome
            data = self.pipe.receive()
            if not data:
                return None
            self._reader.feed(data)

    def expect(self, control: int) -> Frame:
        """The client's next frame, which has to have this control byte."""
        frame = self.read()
        assert frame is not None, f"the client left instead of sending {control:#04x}"
        assert frame.control == control, f"{frame.control:#04x} came instead of {control:#04x}"
        return frame

    def frame(self, control: int, information: bytes = b"", *, segmented: bool = False) -> bytes:
        return encode_frame(self.client, self.server, control, information, segmented=segmented)

    def send(self, control: int, information: bytes = b"", *, segmented: bool = False) -> None:
        self.pipe.send(self.frame(control, information, segmented=segmented))


class Played:
    """A script that runs in a thread; `check` tells what went wrong in it."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._failure: BaseException | None = None
        self._run = run
        self.thread = threading.Thread(target=self._guard, name="scripted peer", daemon=True)
        self.thread.start()

    def _guard(self) -> None:
        try:
            self._run()
        except (AssertionError, OSError, ValueError) as error:
            self._failure = error

    def check(self) -> None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "the script did not come to its end"
        if self._failure is not None:
            raise self._failure


@contextmanager
def tcp_peer(*scripts: Callable[[SocketPipe], None]) -> Iterator[TcpEndpoint]:
    """A listener that plays one script for each connection, one after the other; checks them at the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE_S)

    def run() -> None:
        for script in scripts:
            connection, _ = listener.accept()
            with connection:
                script(SocketPipe(connection))

    played = Played(run)
    try:
        yield TcpEndpoint("127.0.0.1", listener.getsockname()[1])
        played.check()
    finally:
        listener.close()


@contextmanager
def pty_peer(script: Callable[[PtyPipe], None], *, echo: bool = False) -> Iterator[str]:
    """A pseudo-terminal whose master side plays the script; yields the name of the other side."""
    master, slave = os.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    played = Played(lambda: script(PtyPipe(master, echo=echo)))
    try:
        yield name
        played.check()
    finally:
        os.close(slave)
        os.close(master)


def soon(seconds: float = 5.0) -> float:
    """A deadline far enough for anything that should work."""
    return time.monotonic() + seconds


def wait_until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Waits for a state; fails if it does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the state did not come"
        time.sleep(0.001)
