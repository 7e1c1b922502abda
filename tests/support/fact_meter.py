"""A meter without sockets: attributes as bytes, refusals and limits as a test sets them, answers to plain APDUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import LinkClosed, LinkTimeout
from dlms_connector.io.line import Priority
from dlms_connector.obis import Obis

AARE = bytes.fromhex("6129a109060760857405080101a203020100a305a103020100be10040e0800065f1f0400001e1d04c80007")


@dataclass
class FactMeter:
    """What the meter holds and how it behaves.

    Args:
        values: encoded A-XDR data by attribute.
        refuse: gives the result code for a read of this attribute, 0 to answer; asked at each read.
        max_list: longer lists are never answered; 0 for no limit.
        writes: what was written, in order.
    """

    values: dict[AttributeRef, bytes]
    refuse: Callable[[AttributeRef], int] = lambda _: 0
    max_list: int = 0
    writes: list[tuple[AttributeRef, bytes]] = field(default_factory=list)

    def answer(self, apdu: bytes) -> bytes | None:
        """The answer to one request; None for silence."""
        if apdu[0] == 0x60:
            return AARE
        if apdu[0] == 0x62:
            return bytes.fromhex("6303800100")
        if apdu[0] == 0xC1:
            self.writes.append((ref_of(apdu[3:12]), apdu[13:]))
            return bytes((0xC5, 1, apdu[2], 0))
        if apdu[1] == 1:
            return bytes((0xC4, 1, apdu[2])) + self._result(apdu[3:12])
        count = apdu[3]
        if self.max_list and count > self.max_list:
            return None
        results = [self._result(apdu[4 + 10 * index : 13 + 10 * index]) for index in range(count)]
        return bytes((0xC4, 3, apdu[2], count)) + b"".join(results)

    def _result(self, key: bytes) -> bytes:
        ref = ref_of(key)
        code = self.refuse(ref) if ref in self.values else 4
        return bytes((1, code)) if code else b"\x00" + self.values[ref]


def ref_of(key: bytes) -> AttributeRef:
    """The attribute that these nine bytes of a request name."""
    return AttributeRef(int.from_bytes(key[:2], "big"), Obis.from_bytes(key[2:8]), key[8])


class FactChannel:
    """The channel to a FactMeter; silence is a LinkTimeout at once."""

    def __init__(self, meter: FactMeter) -> None:
        self.priority = Priority.POLL
        self.is_open = False
        self.bytes_sent = self.bytes_received = 0
        self._meter = meter

    def open(self, deadline_s: float) -> None:
        self.is_open = True

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        if not self.is_open:
            raise LinkClosed("closed")
        answer = self._meter.answer(apdu)
        if answer is None:
            raise LinkTimeout("nothing came")
        return answer

    def receive(self, deadline_s: float) -> bytes:
        raise LinkTimeout("nothing came")

    def close(self, deadline_s: float) -> bool:
        self.is_open = False
        return True

    def abandon(self) -> None:
        self.is_open = False

    def interrupt(self) -> None:
        self.is_open = False
