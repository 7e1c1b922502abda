"""A line to simulated meters: who is on it, its pace and its faults; `wrapper_line` and `hdlc_line` frame it."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.simulator.faults import Fault, FaultKind
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.reset import reset

# DataNotification: long-invoke-id, no date-time, one enum.
NOTIFICATION = bytes.fromhex("0f00000001001601")
_BITS_PER_CHARACTER = 10


class ByteStream(Protocol):
    """What a line needs of a transport; asyncio's TCP transports and `PtyStream` have it."""

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def is_closing(self) -> bool: ...


@dataclass
class LineCounters:
    """Totals of one line. `overlaps` counts requests that came while an answer was still due."""

    connections: int = 0
    connections_now: int = 0
    connections_refused: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    overlaps: int = 0
    unanswered: int = 0


class SimulatedLine:
    """The meters behind one port, and what they share.

    Args:
        single_connection: a converter that accepts one TCP connection and resets further ones.
        baud: characters take their time (10 bits each); None for as fast as it goes.
    """

    def __init__(
        self,
        devices: Sequence[LogicalDevice],
        *,
        single_connection: bool = False,
        baud: int | None = None,
    ) -> None:
        self.devices = list(devices)
        self.single_connection = single_connection
        self.baud = baud
        self.counters = LineCounters()
        self.connections: set[LineConnection] = set()
        self.answers_due = 0
        self._by_logical = {device.settings.logical_address: device for device in devices}
        self._by_address: dict[bytes, LogicalDevice | None] = {}

    def device_at_port(self, wrapper_port: int) -> LogicalDevice | None:
        """The logical device of a wrapper port."""
        return self._by_logical.get(wrapper_port)

    def device_at_address(self, raw: bytes) -> LogicalDevice | None:
        """The meter that an HDLC destination address means."""
        if raw not in self._by_address:
            self._by_address[raw] = next(
                (device for device in self.devices if _answers_to(device, raw)), None
            )
        return self._by_address[raw]

    def drop_connections(self) -> None:
        """Reset every connection."""
        for connection in list(self.connections):
            connection.reset()


def _answers_to(device: LogicalDevice, raw: bytes) -> bool:
    settings = device.settings
    if settings.address_size not in (None, len(raw)):
        return False
    try:
        address = HdlcAddress.decode(raw)
    except ValueError:
        return False
    if address.size == 1:
        return address.logical == (settings.logical_address or settings.physical_address)
    return (address.logical, address.physical) == (settings.logical_address, settings.physical_address)


class LineConnection(asyncio.Protocol, ABC):
    """One byte stream to a line; the subclasses know its framing. Lives on the loop's thread."""

    stream: ByteStream

    def __init__(self, line: SimulatedLine) -> None:
        self.line = line
        self._idle_timers: dict[LogicalDevice, asyncio.TimerHandle] = {}
        self._is_mute = False
        self.last_written: tuple[LogicalDevice, bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a TCP server gives nothing else
        self.attach(transport)

    def attach(self, stream: ByteStream) -> None:
        """Begin on a stream that is open."""
        self.stream = stream
        line = self.line
        if line.single_connection and line.connections:
            line.counters.connections_refused += 1
            self.reset()
            return
        line.counters.connections += 1
        line.connections.add(self)
        line.counters.connections_now = len(line.connections)

    def reset(self) -> None:
        """Break the connection off; a serial line has no such thing."""
        if isinstance(self.stream, asyncio.Transport):
            reset(self.stream)

    def connection_lost(self, exc: Exception | None) -> None:
        if self not in self.line.connections:
            return
        self.line.connections.discard(self)
        self.line.counters.connections_now = len(self.line.connections)
        for timer in self._idle_timers.values():
            timer.cancel()
        self.abort_associations()

    def data_received(self, data: bytes) -> None:
        if self not in self.line.connections:
            return
        self.line.counters.bytes_received += len(data)
        if any(device.settings.quirks.echo for device in self.line.devices[:1]):
            self.stream.write(data)
        self.feed(data)

    @abstractmethod
    def feed(self, data: bytes) -> None:
        """Take received bytes."""

    @abstractmethod
    def abort_associations(self) -> None:
        """The stream is gone, and every association on it."""

    @abstractmethod
    def notification(self, device: LogicalDevice) -> bytes:
        """A framed DataNotification of the device."""

    @abstractmethod
    def idle(self, device: LogicalDevice) -> None:
        """The device's inactivity timeout has passed."""

    def request(self, device: LogicalDevice, size_bytes: int, process: Callable[[], None]) -> None:
        """Let the device act on a complete request: now, later (frozen), or never (without power)."""
        counters = device.counters
        counters.requests += 1
        counters.bytes_received += size_bytes
        if self.line.answers_due:
            self.line.counters.overlaps += 1
        if not device.is_powered:
            self.line.counters.unanswered += 1
        elif device.is_frozen:
            device.frozen.append(process)
        else:
            process()
        timeout_s = device.settings.inactivity_timeout_s
        if timeout_s is not None:
            timer = self._idle_timers.get(device)
            if timer is not None:
                timer.cancel()
            loop = asyncio.get_running_loop()
            self._idle_timers[device] = loop.call_later(timeout_s, self.idle, device)

    def answer(self, device: LogicalDevice, raw: bytes, request_bytes: int, fault: Fault | None) -> None:
        """Send a framed answer after the line's and the meter's time, spoilt as ordered."""
        quirks = device.settings.quirks
        if quirks.notify_between:
            raw = self.notification(device) + raw
        if quirks.bytes_after_answer:
            raw += quirks.bytes_after_answer
        device.counters.answers += 1
        delay_s = device.latency_s
        if self.line.baud:
            delay_s += (request_bytes + len(raw)) * _BITS_PER_CHARACTER / self.line.baud
        if fault is not None:
            self._spoilt(device, raw, fault, delay_s)
        elif delay_s:
            self._later(delay_s, device, raw)
        else:
            self._write(device, raw)

    def _later(self, delay_s: float, device: LogicalDevice, raw: bytes) -> None:
        line = self.line
        line.answers_due += 1

        def send() -> None:
            line.answers_due -= 1
            self._write(device, raw)

        asyncio.get_running_loop().call_later(delay_s, send)

    def _write(self, device: LogicalDevice, raw: bytes) -> None:
        if device.is_powered and not self._is_mute and not self.stream.is_closing():
            device.counters.bytes_sent += len(raw)
            self.line.counters.bytes_sent += len(raw)
            self.last_written = device, raw
            self.stream.write(raw)

    def say_again(self, kind: FaultKind | None = None, pause_s: float | None = None) -> None:
        """Send the last answer once more, unasked: spoilt by a fault of the line, or byte by byte."""
        if self.last_written is None:
            return
        device, raw = self.last_written
        spoilt = self.spoil(raw, kind) if kind is not None else raw
        if pause_s is None:
            self._write(device, spoilt)
            return
        for index in range(len(spoilt)):
            self._later(pause_s * index, device, spoilt[index : index + 1])

    @abstractmethod
    def push(self, device: LogicalDevice, apdu: bytes) -> None:
        """Send an APDU that nobody asked for to the client that spoke last."""

    def _spoilt(self, device: LogicalDevice, raw: bytes, fault: Fault, delay_s: float) -> None:
        kind = fault.kind
        if kind is FaultKind.SILENT:
            return
        if kind is FaultKind.CLOSE:
            self.stream.close()
        elif kind is FaultKind.RESET:
            self.reset()
        elif kind is FaultKind.HALF_CLOSE:
            self._is_mute = True
            self.stream.write_eof()
        elif kind is FaultKind.DRIP:
            for index in range(len(raw)):
                self._later(delay_s + fault.delay_s * index, device, raw[index : index + 1])
        else:
            self._later(delay_s + fault.delay_s, device, self.spoil(raw, kind))

    def spoil(self, raw: bytes, kind: FaultKind) -> bytes:
        """The bytes that a fault of the line makes of an answer."""
        if kind is FaultKind.TRUNCATED:
            return raw[: len(raw) // 2]
        if kind is FaultKind.GARBAGE:
            return os.urandom(len(raw))
        if kind is FaultKind.EXTRA_BYTES:
            return raw + os.urandom(8)
        if kind is FaultKind.DUPLICATE:
            return raw + raw
        return raw
