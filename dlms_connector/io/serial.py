"""Serial byte streams: RS-485 converters and optical heads, with or without local echo."""

from __future__ import annotations

import errno
import os
import select
import termios
import threading
import time
from dataclasses import dataclass
from typing import Literal

import serial

from dlms_connector.errors import ConnectFailed, FrameError, Interrupted, Layer, LinkClosed, LinkTimeout
from dlms_connector.io.stream import Interrupt

_CHUNK_BYTES = 4096
_DISCARD_LIMIT_BYTES = 1024 * 1024
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL

Parity = Literal["none", "even", "odd"]
_PARITIES = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A device and its character format; `echo` if everything sent comes back first."""

    port: str
    baud_rate: int = 9600
    data_bits: Literal[7, 8] = 8
    parity: Parity = "none"
    stop_bits: Literal[1, 2] = 1
    echo: bool = False


class SerialStream:
    """An open port as a `ByteStream`; owns it, and the pipe that wakes a waiting reader or writer."""

    layer = Layer.SERIAL

    def __init__(self, opened: serial.Serial, *, echo: bool) -> None:
        self.bytes_sent = 0
        self.bytes_received = 0
        self._serial = opened
        self._name = str(opened.port)
        self._fd = opened.fileno()
        self._baud_rate = int(opened.baudrate)
        self._echo = echo
        self._after_echo = b""
        self._wake_read, self._wake_write = os.pipe()
        self._close_lock = threading.Lock()
        self._closed = False

    def send(self, data: bytes, deadline_s: float) -> None:
        """Sends all of it; with echo, returns when the echo has been read back.

        Raises:
            FrameError: what came back is not what was sent (layer serial).
        """
        rest = memoryview(data)
        while rest:
            self._wait(select.POLLOUT, deadline_s, f"{self._name} took no more bytes in time")
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            self.bytes_sent += count
            rest = rest[count:]
        if self._echo:
            self._take_echo(data, deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        """What has arrived, at least one byte."""
        if self._after_echo:
            data, self._after_echo = self._after_echo, b""
            return data
        return self._read(deadline_s, f"no answer on {self._name} in time")

    def discard_input(self) -> int:
        """Throws away what has arrived unread."""
        discarded = len(self._after_echo)
        self._after_echo = b""
        while discarded < _DISCARD_LIMIT_BYTES:
            try:
                data = os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:
                return discarded
            except OSError as error:
                raise self._broken(error) from error
            if not data:  # pyserial leaves VMIN at 0: nothing there reads as nothing
                return discarded
            discarded += len(data)
            self.bytes_received += len(data)
        raise LinkClosed(f"{self._name} delivers bytes without end", layer=Layer.SERIAL)

    @property
    def baud_rate(self) -> int:
        """The rate now."""
        return self._baud_rate

    def switch_to_8n1(self, baud_rate: int) -> None:
        """Another rate, eight bits, no parity, in one step once everything sent is out.

        Raises:
            LinkClosed: the port is gone or does not know the rate.
        """
        try:
            speed = getattr(termios, f"B{baud_rate}")
            attributes = termios.tcgetattr(self._fd)
            attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB | termios.CSTOPB) | termios.CS8
            attributes[4] = attributes[5] = speed
            termios.tcsetattr(self._fd, termios.TCSADRAIN, attributes)
        except (AttributeError, termios.error) as error:
            raise LinkClosed(f"{self._name} does not take {baud_rate} Bd", layer=Layer.SERIAL) from error
        self._baud_rate = baud_rate

    def interrupt(self) -> None:
        """Wakes a waiting call; the byte is never read, so that every later wait ends at once too."""
        with self._close_lock:
            if not self._closed:
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        with self._close_lock:
            if self._closed:
                return
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._serial.close()

    def _take_echo(self, sent: bytes, deadline_s: float) -> None:
        back = b""
        while len(back) < len(sent):
            back += self._read(deadline_s, f"no echo on {self._name}: {len(back)} of {len(sent)} bytes")
            if not sent.startswith(back[: len(sent)]):
                raise FrameError(
                    f"what came back on {self._name} is not the echo of what was sent",
                    layer=Layer.SERIAL,
                    hint="switch echo off if the converter does not repeat what is sent",
                )
        self._after_echo = back[len(sent) :]

    def _read(self, deadline_s: float, late: str) -> bytes:
        while True:
            self._wait(select.POLLIN, deadline_s, late)
            try:
                data = os.read(self._fd, _CHUNK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise self._broken(error) from error
            if not data:  # readable and yet nothing: the device was unplugged
                raise LinkClosed(f"{self._name} is gone", layer=Layer.SERIAL)
            self.bytes_received += len(data)
            return data

    def _wait(self, event: int, deadline_s: float, late: str) -> None:
        """Until the port is ready for the event. `poll`, as `select` ends at descriptor 1023."""
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise LinkTimeout(late, layer=Layer.SERIAL)
        if self._closed:
            raise LinkClosed(f"{self._name} is closed", layer=Layer.SERIAL)
        poll = select.poll()
        poll.register(self._fd, event)
        poll.register(self._wake_read, select.POLLIN)
        ready = dict(poll.poll(remaining_s * 1000))
        if self._wake_read in ready:
            raise Interrupted("interrupted by the connector")
        if not ready:
            raise LinkTimeout(late, layer=Layer.SERIAL)
        if ready[self._fd] & _BROKEN and not ready[self._fd] & event:
            raise LinkClosed(f"{self._name} is gone", layer=Layer.SERIAL)

    def _broken(self, error: OSError) -> LinkClosed:
        return LinkClosed(f"{self._name} broke: {error.strerror or error}", layer=Layer.SERIAL)


def open_serial(settings: SerialPort, deadline_s: float, interrupt: Interrupt) -> SerialStream:
    """Opens the port for this process alone; takes no time, so the deadline is only checked.

    Raises:
        ConnectFailed: no such port, no permission, in use, or it refuses the settings (layer serial).
        LinkTimeout: the deadline has passed already.
        Interrupted: by the interrupt.
    """
    interrupt.check()
    if deadline_s <= time.monotonic():
        raise LinkTimeout(f"{settings.port} was not opened in time", layer=Layer.SERIAL)
    try:
        opened = serial.Serial(
            settings.port,
            settings.baud_rate,
            bytesize=settings.data_bits,
            parity=_PARITIES[settings.parity],
            stopbits=settings.stop_bits,
            timeout=0,
            write_timeout=0,
            exclusive=True,
        )
    except (serial.SerialException, OSError, termios.error, ValueError) as error:
        raise ConnectFailed(
            f"{settings.port} cannot be opened: {_reason(error)}", layer=Layer.SERIAL, hint=_hint(error)
        ) from error
    try:
        return SerialStream(opened, echo=settings.echo)
    except OSError:
        opened.close()
        raise


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error)


def _hint(error: Exception) -> str:
    return {
        errno.ENOENT: "is the adapter plugged in, and the name right? /dev/serial/by-id names stay the same",
        errno.EACCES: "the user needs the group that owns the port, often dialout",
        errno.EAGAIN: "another program has the port open",
        errno.EBUSY: "another program has the port open",
    }.get(getattr(error, "errno", None) or 0, "")
