"""DLMS wrapper over TCP: eight bytes that say from whom, to whom and how much; Green Book clause 7.3."""

from __future__ import annotations

import struct

from dlms_connector.errors import FrameError, Layer
from dlms_connector.io.stream import ByteStream

VERSION = 1
PORT_MAX = 0xFFFF
APDU_MAX_BYTES = 0xFFFF
HEADER_BYTES = 8
_VERSION_BYTES = VERSION.to_bytes(2, "big")
_HEADER = struct.Struct(">HHHH")


def encode_wrapper(source_port: int, destination_port: int, apdu: bytes) -> bytes:
    """Header and APDU.

    Raises:
        ValueError: a port or the APDU's length does not fit 16 bits.
    """
    try:
        return _HEADER.pack(VERSION, source_port, destination_port, len(apdu)) + apdu
    except struct.error:
        raise ValueError(
            f"wrapper ports {source_port} and {destination_port} are 0 to {PORT_MAX}, "
            f"an APDU has at most {APDU_MAX_BYTES} bytes, not {len(apdu)}"
        ) from None


class WrapperReader:
    """Cuts a stream into (source port, destination port, APDU); keeps one message and one chunk at most."""

    def __init__(self, max_apdu_bytes: int = APDU_MAX_BYTES) -> None:
        self._max_apdu_bytes = max_apdu_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def clear(self) -> None:
        self._buffer.clear()

    @property
    def is_mid_message(self) -> bool:
        """A message has begun to arrive."""
        return bool(self._buffer)

    @property
    def has_rubbish(self) -> bool:
        """What stands where the next header is cannot be one."""
        return bool(self._buffer) and not _VERSION_BYTES.startswith(bytes(self._buffer[:2]))

    def next(self) -> tuple[int, int, bytes] | None:
        """The next message, None when more bytes are needed; call until None after each `feed`.

        Raises:
            FrameError: no wrapper header, or an APDU beyond the limit: the stream has lost its beat for good.
        """
        buffer = self._buffer
        if len(buffer) < HEADER_BYTES:
            return None
        version, source, destination, length = _HEADER.unpack_from(buffer)
        if version != VERSION:
            raise FrameError(
                f"the answer does not begin with a wrapper header (version {version})",
                layer=Layer.WRAPPER,
                hint="does this port speak HDLC?" if buffer[0] == 0x7E else "",
            )
        if length > self._max_apdu_bytes:
            raise FrameError(
                f"the meter announces an APDU of {length} bytes, more than {self._max_apdu_bytes}",
                layer=Layer.WRAPPER,
            )
        end = HEADER_BYTES + length
        if len(buffer) < end:
            return None
        apdu = bytes(buffer[HEADER_BYTES:end])
        del buffer[:end]
        return source, destination, apdu


class WrapperClient:
    """One client and one server (a pair of wrapper ports) on whatever stream they are given."""

    def __init__(self, client_port: int, server_port: int, *, max_apdu_bytes: int = APDU_MAX_BYTES) -> None:
        encode_wrapper(client_port, server_port, b"")
        self._max_apdu_bytes = max_apdu_bytes
        self.foreign_frames = 0
        self._client_port = client_port
        self._server_port = server_port
        self._reader = WrapperReader(max_apdu_bytes)
        self._untidy = False
        """This peer has sent what is no message: before each request leftovers are looked for."""
        self._is_fresh = False
        """Nothing was received on this stream yet, so nothing can have been left on it."""

    @property
    def is_mid_message(self) -> bool:
        """The stream was left in the middle of a message."""
        return self._reader.is_mid_message

    def begin(self, stream: ByteStream) -> None:
        """An association begins on this stream: what others left on it is not for us."""
        self._reader.clear()
        self._is_fresh = not stream.bytes_received

    def exchange(self, stream: ByteStream, apdu: bytes, deadline_s: float, numbered: bool = False) -> bytes:
        """Sends a request and waits for the next APDU between the same two ports.

        What was received before the request is thrown away. A `numbered` request, whose answer the caller knows by
        its invoke-id, looks for such leftovers only where this peer has sent rubbish. What others say is dropped and
        counted.

        Raises:
            FrameError: not a wrapper stream, or an APDU beyond the limit.
            LinkTimeout, LinkClosed, Interrupted: as the stream.
            ValueError: the APDU does not fit.
        """
        message = encode_wrapper(self._client_port, self._server_port, apdu)
        if self._untidy or not (numbered or self._is_fresh):
            self._reader.clear()
            stream.discard_input()
        self._is_fresh = False
        stream.send(message, deadline_s)
        return self.receive(stream, deadline_s)

    def receive(self, stream: ByteStream, deadline_s: float) -> bytes:
        """The next APDU from the server to the client; raises as `exchange`."""
        reader = self._reader
        if not reader.is_mid_message:
            data = stream.receive(deadline_s)
            size_bytes = len(data) - HEADER_BYTES
            if 0 <= size_bytes <= self._max_apdu_bytes and _HEADER.unpack_from(data) == (
                VERSION,
                self._server_port,
                self._client_port,
                size_bytes,
            ):
                return data[HEADER_BYTES:]  # the answer in one piece and alone, as most come
            reader.feed(data)
        while True:
            try:
                message = reader.next()
            except FrameError:
                self._untidy = True
                raise
            if message is None:
                reader.feed(stream.receive(deadline_s))
                continue
            source, destination, apdu = message
            if source == self._server_port and destination == self._client_port:
                if reader.has_rubbish:
                    self._untidy = True
                return apdu
            self.foreign_frames += 1
