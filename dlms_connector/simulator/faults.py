"""What a simulated meter or its line does wrong, to order: which answer, which fault, how often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Stage(str, Enum):
    """Which request the faulty answer belongs to."""

    ANY = "any"
    SNRM = "snrm"
    DISC = "disc"
    AARQ = "aarq"
    HLS = "hls"  # the third and fourth pass: reply_to_HLS_authentication
    GET = "get"
    GET_LIST = "get list"
    GET_NEXT = "get next"  # a further block
    SET = "set"
    ACTION = "action"
    RLRQ = "rlrq"
    SEGMENT = "segment"  # HDLC: what the client's RR asks for


class FaultKind(str, Enum):
    """How the answer is spoilt."""

    SILENT = "silent"  # no answer
    CLOSE = "close"  # orderly end of the stream instead of the answer
    RESET = "reset"  # reset of the stream instead of the answer
    HALF_CLOSE = "half close"  # end of file, then the meter only listens
    DRIP = "drip"  # byte by byte, `delay_s` apart
    TRUNCATED = "truncated"  # the first half, then silence
    GARBAGE = "garbage"  # as many bytes of rubbish
    EXTRA_BYTES = "extra bytes"  # rubbish behind the answer
    BAD_FCS = "bad fcs"  # one bit of the frame's content turned (wrapper: of its header)
    WRONG_ADDRESS = "wrong address"  # the answer of another meter
    WRONG_INVOKE_ID = "wrong invoke-id"
    DUPLICATE = "duplicate"  # sent twice
    LATE = "late"  # after `delay_s`
    EXCEPTION = "exception"  # ExceptionResponse, service error `code`
    SERVICE_ERROR = "service error"  # confirmedServiceError
    ACCESS_ERROR = "access error"  # data-access-result or action-result `code` for every object asked for
    AARE_REFUSAL = "aare refusal"  # rejected for good, acse-service-user diagnostic `code`
    AARE_PROVIDER_REFUSAL = "aare provider refusal"  # the same, acse-service-provider diagnostic


@dataclass
class Fault:
    """One order.

    Args:
        count: answers to spoil, None for all.
        skip: answers of that stage to leave alone before.
        code: for the kinds that send one.
    """

    kind: FaultKind
    stage: Stage = Stage.ANY
    count: int | None = 1
    skip: int = 0
    delay_s: float = 0.0
    code: int = 0


class FaultPlan:
    """The orders of one meter, first in, first used."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []

    def add(self, orders: Iterable[Fault]) -> None:
        self._orders.extend(orders)

    def clear(self) -> None:
        self._orders.clear()

    def __bool__(self) -> bool:
        return bool(self._orders)

    def take(self, stage: Stage) -> Fault | None:
        """The order that this answer falls under; counts it."""
        for order in self._orders:
            if order.stage not in (Stage.ANY, stage):
                continue
            if order.skip:
                order.skip -= 1
                return None
            if order.count is not None:
                order.count -= 1
                if not order.count:
                    self._orders.remove(order)
            return order
        return None


_ACTION_REPLY_TO_HLS = bytes.fromhex("000f0000280000ff01")


def stage_of(apdu: bytes) -> Stage:
    """The stage of a plain request."""
    tag = apdu[0] if apdu else 0
    if tag == 0x60:
        return Stage.AARQ
    if tag == 0x62:
        return Stage.RLRQ
    if tag == 0xC1:
        return Stage.SET
    if tag == 0xC3:
        return Stage.HLS if apdu[3:12] == _ACTION_REPLY_TO_HLS else Stage.ACTION
    if tag == 0xC0:
        return {2: Stage.GET_NEXT, 3: Stage.GET_LIST}.get(apdu[1] if len(apdu) > 1 else 0, Stage.GET)
    return Stage.ANY
