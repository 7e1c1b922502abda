"""A pseudo-terminal as the byte stream of a simulated serial line."""

from __future__ import annotations

import asyncio
import os
import tty
from collections import deque

from dlms_connector.simulator.line import LineConnection


class PtyStream:
    """The meter's end of a pseudo-terminal; `path` is what a client opens."""

    def __init__(self, connection: LineConnection) -> None:
        self._loop = asyncio.get_running_loop()
        self._master, self._slave = os.openpty()
        # Held open: without a reader on the other side the master would report an error for ever.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._connection = connection
        self._out: deque[bytes] = deque()
        self._closed = False
        self._loop.add_reader(self._master, self._read)
        connection.attach(self)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65_536)
        except (BlockingIOError, InterruptedError):
            return
        self._connection.data_received(data)

    def write(self, data: bytes) -> None:
        self._out.append(data)
        self._flush()

    def _flush(self) -> None:
        while self._out and not self._closed:
            try:
                written = os.write(self._master, self._out[0])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._master, self._flush)
                return
            if written < len(self._out[0]):
                self._out[0] = self._out[0][written:]
            else:
                self._out.popleft()
        if not self._closed:
            self._loop.remove_writer(self._master)

    def write_eof(self) -> None:
        """A serial line has no end of file: the meter falls silent."""

    def close(self) -> None:
        """A serial line cannot be closed from the other side."""

    def is_closing(self) -> bool:
        return self._closed

    def release(self) -> None:
        """Take the pseudo-terminal away, as pulling the adapter does."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._master)
            self._loop.remove_writer(self._master)
            self._connection.connection_lost(None)
            os.close(self._master)
            os.close(self._slave)
