"""A TCP proxy between connector and meter that spoils what the meter says, or the connection itself."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from enum import Enum
from types import TracebackType

from dlms_connector.simulator.loop_thread import LoopThread

_DRIP_S = 0.01


class Chaos(str, Enum):
    """What happens to the next chunk of the meter's bytes; those from REFUSE on concern new connections."""

    PASS = "pass"
    CUT = "cut"  # reset of both sides
    HALF_CLOSE = "half-close"  # end of file to the connector, which may go on sending
    SILENCE = "silence"
    DELAY = "delay"
    DRIP = "drip"
    CORRUPT = "corrupt"  # one bit
    DUPLICATE = "duplicate"
    REORDER = "reorder"  # held back until the next chunk has passed
    TRUNCATE = "truncate"
    EXTRA = "extra bytes"
    REFUSE = "refuse"  # accepted and reset at once
    MUTE = "mute"  # accepted, never a byte
    BANNER = "banner"  # rubbish first
    HANG_UP = "hang up"  # accepted and closed at once
    LISTEN_ONLY = "listen only"  # end of file at once, the other direction stays open
    CHATTER = "chatter"  # rubbish, byte by byte and without end
    LATE = "late"  # accepted, forwarded after `delay_s`


ON_CONNECT = (
    Chaos.REFUSE,
    Chaos.MUTE,
    Chaos.BANNER,
    Chaos.HANG_UP,
    Chaos.LISTEN_ONLY,
    Chaos.CHATTER,
    Chaos.LATE,
)
ON_ANSWER = tuple(kind for kind in Chaos if kind not in (*ON_CONNECT, Chaos.PASS))


class BlackHole:
    """A port to which connections hang, as to a host that drops packets; `close` frees the port."""

    def __init__(self) -> None:
        self._sockets = [socket.socket()]
        listener = self._sockets[0]
        listener.bind(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        listener.listen(0)
        for _ in range(3):  # its queue is full now, and nobody takes anything out
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._sockets.append(filler)

    def close(self) -> None:
        for item in self._sockets:
            item.close()


class ChaosProxy:
    """Listens on `port` and forwards to `target_port` of the loopback; `next_fault` is asked for each chunk."""

    def __init__(self, target_port: int, *, delay_s: float = 0.5, seed: int = 1) -> None:
        self.port = 0
        self.connections = 0
        self.applied: list[Chaos] = []
        self.delay_s = delay_s
        self.random = random.Random(seed)
        self.next_fault: Callable[[], Chaos] = lambda: Chaos.PASS
        self.on_connect = Chaos.PASS
        self._target_port = target_port
        self._thread = LoopThread("chaos-proxy")
        self._server: asyncio.Server | None = None

    def __enter__(self) -> ChaosProxy:
        self._thread.start()
        self._thread.run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._thread.call(self._server.close)
        self._thread.stop()

    def once(self, fault: Chaos) -> None:
        """Spoil one chunk."""
        waiting = [fault]

        def take() -> Chaos:
            return waiting.pop() if waiting else Chaos.PASS

        self.next_fault = take

    def move(self, port: int) -> None:
        """Listen there instead."""
        if self._server is not None:
            self._thread.call(self._server.close)
        self.port = port
        self._thread.run(self._listen())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            if self.on_connect is Chaos.REFUSE:
                writer.transport.abort()
            elif self.on_connect is Chaos.MUTE:
                await reader.read(-1)
            elif self.on_connect is Chaos.LISTEN_ONLY:
                writer.write_eof()
                await reader.read(-1)
            elif self.on_connect is Chaos.CHATTER:
                await self._chatter(reader, writer)
            elif self.on_connect is not Chaos.HANG_UP:
                if self.on_connect is Chaos.LATE:
                    await asyncio.sleep(self.delay_s)
                if self.on_connect is Chaos.BANNER:
                    writer.write(b"\r\nWelcome to your converter\r\n")
                await self._forward(reader, writer)
        except (ConnectionError, OSError):
            pass
        finally:
            writer.close()

    async def _chatter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hearing = asyncio.create_task(reader.read(-1))
        try:
            while not hearing.done():
                writer.write(self.random.randbytes(1))
                await asyncio.sleep(_DRIP_S)
        finally:
            hearing.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        meter_reader, meter_writer = await asyncio.open_connection("127.0.0.1", self._target_port)

        async def up() -> None:
            while data := await reader.read(65536):
                meter_writer.write(data)
            meter_writer.close()

        down = asyncio.create_task(self._down(meter_reader, writer))
        requests = asyncio.create_task(up())
        try:
            await asyncio.wait((down, requests), return_when=asyncio.FIRST_COMPLETED)
            for task in (down, requests):
                if task.done():
                    task.result()
            if requests.done():
                return
            await requests
        finally:
            down.cancel()
            requests.cancel()
            meter_writer.close()

    async def _down(self, meter: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await meter.read(65536):
            fault = self.next_fault()
            if fault is not Chaos.PASS:
                self.applied.append(fault)
            if fault is Chaos.CUT:
                writer.transport.abort()
                return
            if fault is Chaos.HALF_CLOSE:
                writer.write_eof()
                return
            if fault is Chaos.REORDER:
                held = data
                continue
            await self._pass(fault, data, writer)
            if held:
                writer.write(held)
                held = b""
        writer.close()

    async def _pass(self, fault: Chaos, data: bytes, writer: asyncio.StreamWriter) -> None:
        if fault is Chaos.SILENCE:
            return
        if fault is Chaos.DRIP:
            for byte in data:
                writer.write(bytes((byte,)))
                await asyncio.sleep(_DRIP_S)
            return
        if fault is Chaos.DELAY:
            await asyncio.sleep(self.delay_s)
        writer.write(self._spoilt(fault, data))

    def _spoilt(self, fault: Chaos, data: bytes) -> bytes:
        if fault is Chaos.CORRUPT:
            at = self.random.randrange(len(data))
            return data[:at] + bytes((data[at] ^ 1 << self.random.randrange(8),)) + data[at + 1 :]
        if fault is Chaos.DUPLICATE:
            return data + data
        if fault is Chaos.TRUNCATE:
            return data[: len(data) // 2]
        if fault is Chaos.EXTRA:
            return data + self.random.randbytes(9)
        return data
