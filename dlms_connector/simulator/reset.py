"""Resetting a TCP connection, which asyncio's `abort` does not do: it ends the stream in the orderly way."""

from __future__ import annotations

import asyncio
import socket
import struct

_LINGER_AT_ONCE = struct.pack("ii", 1, 0)


def reset(transport: asyncio.Transport) -> None:
    """Throw away what is unsent and send RST."""
    connection = transport.get_extra_info("socket")
    if connection is not None and not transport.is_closing():
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_AT_ONCE)
    transport.abort()
