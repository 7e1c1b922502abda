"""TCP byte streams: one system call to send, one to receive, one deadline, interruptible everywhere.

The sockets block, with the kernel's own timeouts (SO_RCVTIMEO, SO_SNDTIMEO): Python's socket timeouts would
cost a poll before each call. `shutdown` from another thread wakes a blocked call at once (Linux).
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass

from dlms_connector.errors import ConnectFailed, Interrupted, Layer, LinkClosed, LinkError, LinkTimeout
from dlms_connector.io.resolver import Resolved, resolve
from dlms_connector.io.stream import ByteStream, Interrupt

_CHUNK_BYTES = 16 * 1024
_ANSWER_BYTES = 512 - sys.getsizeof(b"")
"""Most answers fit, and such a buffer comes from Python's own heap. A thousand threads that each wait with a large one
from the system's would scatter what they leave over tens of megabytes."""
_DISCARD_LIMIT_BYTES = 1024 * 1024
_REARM_S = 0.02
"""A kernel timeout that is longer than wanted by less than this is left as it is; a shorter one is waited out again."""
_UNARMED_S = float("inf")
_SHORTEST_TIMEOUT_S = 0.001
"""Zero would mean no timeout at all."""
_SELECT_LIMIT = 1024
_KEEPALIVE_IDLE_S = 60
_KEEPALIVE_INTERVAL_S = 15
_KEEPALIVE_PROBES = 4


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """Where a meter or converter listens; `host` is a name or an IPv4 or IPv6 address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class TcpStream:
    """A connected socket as a `ByteStream`; owns the socket."""

    layer = Layer.TCP

    def __init__(self, connected: socket.socket, peer: str, send_timeout_s: float = _UNARMED_S) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self._socket = connected
        self._peer = peer
        self._interrupted = False
        self._closed = False
        self._close_lock = threading.Lock()
        self._receive_timeout_s = _UNARMED_S
        self._send_timeout_s = send_timeout_s
        self._room_bytes = _ANSWER_BYTES

    def send(self, data: bytes, deadline_s: float) -> None:
        """Sends all of it; one system call unless the peer's window is full."""
        rest: bytes | memoryview = data
        while True:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise LinkTimeout(f"{self._peer} took no more bytes in time")
            if self._send_timeout_s > remaining_s + _REARM_S:
                self._send_timeout_s = _arm(self._socket, socket.SO_SNDTIMEO, remaining_s)
            try:
                count = self._socket.send(rest)
            except BlockingIOError:
                count = 0
                self._send_timeout_s = _UNARMED_S
            except OSError as error:
                raise self._ended(error) from error
            self.bytes_sent += count
            if count == len(rest):
                return
            rest = memoryview(rest)[count:]

    def receive(self, deadline_s: float) -> bytes:
        """What has arrived, at least one byte; one system call."""
        while True:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise LinkTimeout(f"no answer from {self._peer} in time")
            if self._receive_timeout_s > remaining_s + _REARM_S:
                self._receive_timeout_s = _arm(self._socket, socket.SO_RCVTIMEO, remaining_s)
            try:
                data = self._socket.recv(self._room_bytes)
            except BlockingIOError:
                self._receive_timeout_s = _UNARMED_S
                continue
            except OSError as error:
                raise self._ended(error) from error
            if not data:
                raise self._ended(None)
            size_bytes = len(data)
            self.bytes_received += size_bytes
            self._room_bytes = _CHUNK_BYTES if size_bytes >= _ANSWER_BYTES else _ANSWER_BYTES
            return data

    def discard_input(self) -> int:
        """Throws away what has arrived; also notices a peer that has gone meanwhile."""
        discarded = 0
        while discarded < _DISCARD_LIMIT_BYTES:
            try:
                data = self._socket.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return discarded
            except OSError as error:
                raise self._ended(error) from error
            if not data:
                raise self._ended(None)
            discarded += len(data)
            self.bytes_received += len(data)
        raise LinkClosed(f"{self._peer} sends without being asked and without end")

    def interrupt(self) -> None:
        """Wakes a blocked call; the stream is of no use afterwards."""
        self._interrupted = True
        with self._close_lock:
            if not self._closed:
                _shut_down(self._socket)

    def close(self) -> None:
        with self._close_lock:
            self._closed = True
            self._socket.close()

    def _ended(self, error: OSError | None) -> LinkError | Interrupted:
        if self._interrupted:
            return Interrupted("interrupted by the connector")
        if error is None:
            return LinkClosed(f"{self._peer} closed the connection")
        return LinkClosed(f"the connection to {self._peer} broke: {error.strerror or error}")


def open_tcp(endpoint: TcpEndpoint, deadline_s: float, interrupt: Interrupt) -> ByteStream:
    """Resolves the name, tries its addresses one after the other, each with its share of the time.

    Raises:
        ConnectFailed: unknown name (layer dns), or refused or unreachable at every address.
        LinkTimeout: the deadline passed.
        Interrupted: by the interrupt.
    """
    failure: OSError | None = None
    candidates = resolve(endpoint.host, endpoint.port, deadline_s, interrupt)
    for index, candidate in enumerate(candidates):
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            break
        try:
            return _connect(candidate, str(endpoint), remaining_s / (len(candidates) - index), interrupt)
        except OSError as error:
            failure = error
    if failure is None or isinstance(failure, BlockingIOError):
        raise LinkTimeout(
            f"no connection to {endpoint} in time",
            hint="is the meter or converter switched on and reachable?",
        ) from failure
    raise ConnectFailed(
        f"no connection to {endpoint}: {failure.strerror or failure}",
        hint="check host and port; some converters accept one connection only",
    ) from failure


def _connect(candidate: Resolved, peer: str, timeout_s: float, interrupt: Interrupt) -> TcpStream:
    """One address. Raises OSError (BlockingIOError when the time is up) or Interrupted."""
    connecting = _above_select(socket.socket(candidate.family, socket.SOCK_STREAM))
    try:
        _configure(connecting)
        armed_s = _arm(connecting, socket.SO_SNDTIMEO, timeout_s)
        interrupt.watch(lambda: _shut_down(connecting))
        try:
            connecting.connect(candidate.address)
        except OSError:
            interrupt.check()
            raise
        finally:
            interrupt.unwatch()
        interrupt.check()
    except (OSError, Interrupted):
        connecting.close()
        raise
    return TcpStream(connecting, peer, armed_s)


def _above_select(low: socket.socket) -> socket.socket:
    """The same socket under a descriptor that select() cannot watch, where the process may have so many.

    The gateway's MQTT client waits with select(), which fails for descriptors from 1024 on: a fleet of meters
    must leave it the low ones, or it never comes back after a lost connection.
    """
    try:
        descriptor = fcntl.fcntl(low.fileno(), fcntl.F_DUPFD_CLOEXEC, _SELECT_LIMIT)
    except OSError:
        return low  # RLIMIT_NOFILE is that low: then the fleet is small
    low.close()
    return socket.socket(low.family, low.type, low.proto, fileno=descriptor)


def _configure(connecting: socket.socket) -> None:
    connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE_S),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL_S),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
    ):
        if hasattr(socket, name):
            connecting.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _arm(armed: socket.socket, option: int, timeout_s: float) -> float:
    """Sets one of the kernel's timeouts; returns it."""
    timeout_s = max(timeout_s, _SHORTEST_TIMEOUT_S)
    seconds = int(timeout_s)
    armed.setsockopt(
        socket.SOL_SOCKET, option, struct.pack("ll", seconds, int((timeout_s - seconds) * 1_000_000))
    )
    return timeout_s


def _shut_down(blocked: socket.socket) -> None:
    try:
        blocked.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # never connected, already reset or already closed: no call can be blocked in it
