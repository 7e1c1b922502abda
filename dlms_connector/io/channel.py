"""The link layer's face: one meter, an APDU goes out, an APDU comes back."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

from dlms_connector.errors import DlmsConnectorError, Interrupted, LinkClosed, LinkTimeout
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import HdlcClient, HdlcCounters, HdlcSettings
from dlms_connector.io.line import Line, Priority
from dlms_connector.io.stream import ByteStream, Interrupt
from dlms_connector.io.wrapper import APDU_MAX_BYTES, WrapperClient

_Result = TypeVar("_Result")


class Channel(Protocol):
    """What the layers above know of a link. Deadlines are absolute `time.monotonic()` seconds.

    Used by one thread at a time, but for `interrupt`. After a LinkError it is closed; `open` begins anew.
    """

    priority: Priority

    @property
    def is_open(self) -> bool:
        """Whether an exchange can be tried; False once the stream below was replaced."""

    @property
    def bytes_sent(self) -> int:
        """Bytes on the wire for this meter, over all connections."""

    @property
    def bytes_received(self) -> int:
        """Bytes on the wire for this meter, over all connections."""

    def open(self, deadline_s: float) -> None:
        """Makes the link ready for an association. Raises LinkError, Interrupted."""

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        """One request, one answer; what came before the request is never taken for it.

        Of a `numbered` request the caller can tell the answer by its invoke-id: then the link need not ask the
        system first whether something stale has arrived, which would cost as much as sending.

        Raises LinkError, Interrupted; ValueError if the APDU does not fit the framing (nothing was sent).
        """

    def receive(self, deadline_s: float) -> bytes:
        """The next APDU without a request, where a notification came instead of the answer. As `exchange`."""

    def close(self, deadline_s: float) -> bool:
        """Leaves politely; False if the meter did not confirm. Raises nothing of the link's."""

    def abandon(self) -> None:
        """Leaves without a word, after an error of a layer above."""

    def interrupt(self) -> None:
        """Ends whatever the channel waits for, now and for good; callable from any thread."""


class Framing(Protocol):
    """How APDUs travel on a stream; `numbered` as in `Channel.exchange`."""

    def exchange(self, stream: ByteStream, apdu: bytes, deadline_s: float, numbered: bool = False) -> bytes:
        """One request and its answer."""

    def receive(self, stream: ByteStream, deadline_s: float) -> bytes:
        """One more APDU without a request."""


class _LineChannel(ABC):
    """What both framings share: the turn on the line, the stream's generation, what a failure means."""

    def __init__(
        self, framing: Framing, line: Line, owner: Hashable | None, interrupt: Interrupt | None
    ) -> None:
        self._framing = framing
        self.priority = Priority.POLL
        self.bytes_sent = 0
        self.bytes_received = 0
        self._line = line
        self._owner: Hashable = self if owner is None else owner
        self._interrupt = interrupt or Interrupt()
        self._own_turn = line.turn(self._owner, self.priority, deadline_s=0.0, interrupt=self._interrupt)
        self._opened = False
        self._generation = 0

    @property
    def is_open(self) -> bool:
        return self._opened and self._line.stream_of(self._generation) is not None

    def open(self, deadline_s: float) -> None:
        """Waits out the line's pause between associations, takes a turn, opens stream and framing."""
        self.abandon()
        allowed_at_s = self._line.association_allowed_at_s(self._owner)
        if allowed_at_s > deadline_s:
            raise LinkTimeout("the meter needs more time before its next association")
        self._interrupt.sleep(allowed_at_s - time.monotonic())
        with self._turn(deadline_s):
            if self._line.settings.fresh_stream:
                self._line.drop_stream()
            try:
                stream = self._line.open_stream(deadline_s, self._interrupt)
            except DlmsConnectorError:
                self._line.failed(self._owner, stream_sound=False)
                raise
            self._generation = self._line.generation
            self._opened = True
            self._line.associate(self._owner)
            self._run(stream, self._enter, deadline_s)

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        with self._turn(deadline_s):
            return self._run(self._stream(), self._framing.exchange, apdu, deadline_s, numbered)

    def receive(self, deadline_s: float) -> bytes:
        with self._turn(deadline_s):
            return self._run(self._stream(), self._framing.receive, deadline_s)

    def close(self, deadline_s: float) -> bool:
        if not self._opened:
            return True
        try:
            with self._turn(deadline_s):
                self._run(self._stream(), self._leave, deadline_s)
                self._end(clean=True)
        except DlmsConnectorError:
            self.abandon()
            return False
        return True

    def abandon(self) -> None:
        if self._opened:
            self._end(clean=False)

    def interrupt(self) -> None:
        self._interrupt.set()

    @abstractmethod
    def _enter(self, stream: ByteStream, deadline_s: float) -> None:
        """Opens the framing's own connection."""

    @abstractmethod
    def _leave(self, stream: ByteStream, deadline_s: float) -> None:
        """Closes the framing's own connection."""

    @abstractmethod
    def _is_sound(self, error: DlmsConnectorError) -> bool:
        """Whether others can go on using the stream after this error."""

    def _turn(self, deadline_s: float) -> AbstractContextManager[object]:
        """A turn for one exchange, unless the owner has taken one for several."""
        if self._line.has_turn(self._owner):
            return nullcontext()
        turn = self._own_turn
        turn.priority, turn.deadline_s = self.priority, deadline_s
        return turn

    def _stream(self) -> ByteStream:
        stream = self._line.stream_of(self._generation) if self._opened else None
        if stream is None:
            self.abandon()
            raise LinkClosed("the connection is gone", hint="another meter on this line needed a fresh one")
        return stream

    def _run(self, stream: ByteStream, action: Callable[..., _Result], *arguments: object) -> _Result:
        """Uses the stream: interruptible, counted, and with the consequences of a failure."""
        sent_bytes, received_bytes = stream.bytes_sent, stream.bytes_received
        self._interrupt.watch(stream.interrupt)
        try:
            result = action(stream, *arguments)
        except DlmsConnectorError as error:
            self._opened = False
            self._line.dissociate(self._owner, clean=False)
            self._line.failed(self._owner, stream_sound=self._is_sound(error))
            raise
        finally:
            self._interrupt.unwatch()
            self.bytes_sent += stream.bytes_sent - sent_bytes
            self.bytes_received += stream.bytes_received - received_bytes
            if self._interrupt.is_set:
                self._line.drop_stream()  # the interrupt may have hit it after the answer, for good
        self._line.succeeded()
        return result

    def _end(self, *, clean: bool) -> None:
        """A stream of one's own is closed; one that others use stays."""
        self._opened = False
        self._line.dissociate(self._owner, clean=clean)
        alone = not self._line.is_shared or self._line.settings.fresh_stream
        if alone and self._line.stream_of(self._generation) is not None:
            self._line.drop_stream()


class WrapperChannel(_LineChannel):
    """A meter behind a pair of wrapper ports. `owner` identifies the meter on a shared line."""

    def __init__(
        self,
        line: Line,
        client_port: int,
        server_port: int,
        *,
        owner: Hashable | None = None,
        interrupt: Interrupt | None = None,
        max_apdu_bytes: int = APDU_MAX_BYTES,
    ) -> None:
        self._wrapper = WrapperClient(client_port, server_port, max_apdu_bytes=max_apdu_bytes)
        super().__init__(self._wrapper, line, owner, interrupt)

    @property
    def foreign_frames(self) -> int:
        """Messages between other ports, dropped."""
        return self._wrapper.foreign_frames

    def _enter(self, stream: ByteStream, deadline_s: float) -> None:
        self._wrapper.begin(stream)

    def _leave(self, stream: ByteStream, deadline_s: float) -> None:
        """The wrapper has no connection of its own."""

    def _is_sound(self, error: DlmsConnectorError) -> bool:
        # The rest of a message that began would be read as the next meter's header.
        return isinstance(error, LinkTimeout) and not self._wrapper.is_mid_message


class HdlcChannel(_LineChannel):
    """A meter behind an HDLC address. `owner` identifies the meter on a shared line."""

    def __init__(
        self,
        line: Line,
        client_address: int,
        server: HdlcAddress,
        settings: HdlcSettings | None = None,
        *,
        owner: Hashable | None = None,
        interrupt: Interrupt | None = None,
        on_unsolicited: Callable[[bytes], None] | None = None,
    ) -> None:
        self._hdlc = HdlcClient(client_address, server, settings, on_unsolicited)
        super().__init__(self._hdlc, line, owner, interrupt)

    @property
    def counters(self) -> HdlcCounters:
        """What was mended or dropped."""
        return self._hdlc.counters

    @property
    def negotiated(self) -> LinkParameters:
        """The limits of the present connection."""
        return self._hdlc.negotiated

    def _enter(self, stream: ByteStream, deadline_s: float) -> None:
        self._hdlc.connect(stream, deadline_s)

    def _leave(self, stream: ByteStream, deadline_s: float) -> None:
        self._hdlc.disconnect(stream, deadline_s)

    def _is_sound(self, error: DlmsConnectorError) -> bool:
        return not isinstance(error, (Interrupted, LinkClosed))
