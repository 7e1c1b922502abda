"""One simulated logical device: settings, the values it holds, its state and its counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from typing import TYPE_CHECKING

from dlms_connector.cosem.values import TypedValue, decode_typed
from dlms_connector.errors import DecodeError
from dlms_connector.simulator.calendar_clock import UNKNOWN_DEVIATION, decode_moment, encode_moment
from dlms_connector.simulator.faults import FaultPlan
from dlms_connector.simulator.objects import AccessResult, ObjectModel, Refused
from dlms_connector.simulator.quantities import seed_of

if TYPE_CHECKING:
    from dlms_connector.simulator.association_server import ServerAssociation
    from dlms_connector.simulator.security_server import ServerSecurity

# Conformance bits, bit 0 first in the bit-string of 24 (Green Book 9.4.6.1).
GENERAL_PROTECTION, SELECTIVE_ACCESS, GET, SET, ACTION = 1, 21, 19, 20, 23
BLOCK_GET, BLOCK_SET, BLOCK_ACTION, MULTIPLE_REFERENCES, PRIORITY = 11, 12, 13, 14, 9


def conformance_bits(*positions: int) -> int:
    """The three bytes of a conformance block as a number."""
    return sum(1 << 23 - position for position in positions)


FULL_CONFORMANCE = conformance_bits(
    GENERAL_PROTECTION,
    PRIORITY,
    BLOCK_GET,
    BLOCK_SET,
    BLOCK_ACTION,
    MULTIPLE_REFERENCES,
    GET,
    SET,
    SELECTIVE_ACCESS,
    ACTION,
)


@dataclass(frozen=True)
class ClientSettings:
    """One client that the meter knows; `mechanism` 0 none, 1 LLS, 2 to 6 HLS; `secret` its password.

    `denied` are attributes, as (class, attribute), that it may not read of any object: read-write denied.
    """

    address: int
    mechanism: int = 0
    secret: bytes = field(default=b"", repr=False)
    may_write: bool = True
    security: ServerSecurity | None = None
    denied: frozenset[tuple[int, int]] = frozenset()


PUBLIC_CLIENT = ClientSettings(16, may_write=False)
READING_CLIENT = ClientSettings(1, 1, b"12345678")


@dataclass(frozen=True)
class Quirks:
    """Habits of real meters that the Green Book does not ask for."""

    refuse_lists: bool = False  # lists are answered with an ExceptionResponse though conformance offers them
    no_lists: bool = False  # conformance does not offer lists, and they are refused
    max_list: int = 0  # longer lists are answered with this many results; 0 for no limit
    lists_end_at_refusal: bool = False  # behind the first refused element all others are "object undefined"
    octets_wrapped_in_lists: bool = False  # an octet-string in a list holds another octet-string
    ignore_rlrq: bool = False
    refuse_rlrq: bool = False  # ExceptionResponse
    challenge_bytes: int = 16
    only_16_byte_challenges: bool = False
    meter_counter_zero: bool = False  # every protected answer bears invocation counter 0
    bytes_after_answer: bytes = b""
    echo: bool = False  # the line returns what it was sent
    notify_between: bool = False  # a DataNotification before each answer
    zero_based_blocks: bool = False
    ua_without_parameters: bool = False
    reversed_deviation: bool = False  # deviation as an offset from GMT, not to it
    unknown_deviation: bool = False  # 0x8000: the clock's zone is not said
    empty_range_result: int = (
        0  # a range of a profile without rows is refused with this; 0 for an empty array
    )
    no_entry_access: bool = False  # profiles know selection by range alone


@dataclass(frozen=True)
class MeterSettings:
    """How one meter is made; everything that may change at run time is in `LogicalDevice`.

    Args:
        address_size: HDLC address bytes it answers to; None for any.
        max_pdu_bytes: its own limit; a client may ask for less.
        max_information_bytes: HDLC information field, both directions.
        slot_s: how long a measured value holds (see `quantities`).
        zone: of its clock.
        recovery_s: after a lost connection no association is let in for that long.
    """

    serial: str
    clients: tuple[ClientSettings, ...] = (PUBLIC_CLIENT, READING_CLIENT)
    logical_address: int = 1
    physical_address: int = 17
    address_size: int | None = None
    max_pdu_bytes: int = 1024
    conformance: int = FULL_CONFORMANCE
    max_information_bytes: int = 128
    window_frames: int = 1
    slot_s: int = 1
    zone: tzinfo = timezone.utc
    exclusive: bool = False
    inactivity_timeout_s: float | None = None
    recovery_s: float = 0.0
    quirks: Quirks = field(default_factory=Quirks)
    profile_rows: int = 3_000
    profile_period_s: int = 900
    profile_null_timestamps: bool = False
    profile_null_column_every: int = 0
    profile_newest_first: bool = False  # sort_method LIFO
    profile_gap: range = range(0)  # seconds since the epoch; without power, nothing was captured
    initial_client_counter: int = 0


@dataclass
class MeterCounters:
    """Totals of one meter since it was made."""

    requests: int = 0
    answers: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    associations_opened: int = 0
    associations_refused: int = 0
    associations_open: int = 0
    associations_open_max: int = 0
    gets: int = 0
    get_lists: int = 0
    get_blocks: int = 0
    sets: int = 0
    actions: int = 0
    retransmissions: int = 0
    bad_frames: int = 0
    replays: int = 0
    range_reads: int = 0  # of profiles, as the next two
    entry_reads: int = 0
    whole_reads: int = 0


@dataclass
class Controls:
    """What clients change in the meter."""

    is_connected: bool = True
    control_state: int = 1  # 0 disconnected, 1 connected, 2 ready for reconnection
    control_mode: int = 4
    clock_shift_s: float = 0.0
    threshold_w: int = 10_000
    scripts_executed: list[int] = field(default_factory=list)
    profile_start_s: int = 0


class LogicalDevice:
    """One meter at run time. Lives on the loop's thread; a test changes it there or between requests."""

    def __init__(
        self,
        settings: MeterSettings,
        model: ObjectModel[LogicalDevice],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.model = model
        self.seed = seed_of(settings.serial)
        self.clients = {client.address: client for client in settings.clients}
        self.counters = MeterCounters()
        self.controls = Controls()
        self.faults = FaultPlan()
        self.latency_s = 0.0
        self.is_powered = True
        self.boots = 0
        self.is_frozen = False
        self.frozen: list[Callable[[], None]] = []
        self.overrides: dict[bytes, bytes] = {}
        self.refused: dict[bytes, int] = {}
        self.refusals_left: dict[bytes, int] = {}
        self.associations: set[ServerAssociation] = set()
        self.current: ServerAssociation | None = None
        self.blocked_until_s = 0.0
        self.client_counters: dict[int, int] = {}
        self.own_counter = 0
        self._clock = clock

    @property
    def name(self) -> str:
        return self.settings.serial

    def now_s(self) -> float:
        """The meter's own time, seconds since the epoch."""
        return self._clock() + self.controls.clock_shift_s

    def slot_s(self) -> int:
        """The beginning of the current value slot, by the true clock: a wrong clock changes no value."""
        now_s = int(self._clock())
        return now_s - now_s % self.settings.slot_s

    def encode_moment(self, epoch_s: float) -> bytes:
        """12 bytes of a moment as this meter writes it."""
        raw = encode_moment(epoch_s, self.settings.zone)
        if self.settings.quirks.unknown_deviation:
            return raw[:9] + UNKNOWN_DEVIATION + raw[11:]
        return self._turned(raw)

    def decode_moment(self, value: object) -> float:
        """Seconds since the epoch of a date-time as this meter reads it. Raises ValueError."""
        if not isinstance(value, bytes):
            raise ValueError("not a date-time")
        return decode_moment(self._turned(value), self.settings.zone)

    def _turned(self, raw: bytes) -> bytes:
        if not self.settings.quirks.reversed_deviation or raw[9:11] == UNKNOWN_DEVIATION:
            return raw
        turned = -int.from_bytes(raw[9:11], "big", signed=True)
        return raw[:9] + turned.to_bytes(2, "big", signed=True) + raw[11:]

    def _refuse(self, key: bytes) -> None:
        """Raise Refused where a test ordered that; an order of so many times ends by itself."""
        code = self.refused.get(key)
        if code is None:
            return
        left = self.refusals_left.get(key)
        if left is not None:
            self.refusals_left[key] = left - 1
            if left <= 1:
                del self.refused[key], self.refusals_left[key]
        raise Refused(code)

    def read(self, key: bytes) -> bytes:
        """The encoded value of an attribute. Raises Refused."""
        if self.refused:
            self._refuse(key)
        if self.overrides and key in self.overrides:
            return self.overrides[key]
        reader = self.model.readers.get(key)
        if reader is None:
            raise Refused(self.model.why_absent(key))
        return reader if isinstance(reader, bytes) else reader(self)

    def read_selected(self, key: bytes, selector: int, parameters: TypedValue) -> bytes:
        """Selective access. Raises Refused."""
        item = self.model.object_of(key)
        self._refuse(key)
        if key[8] not in item.selective:
            raise Refused(AccessResult.SCOPE_OF_ACCESS_VIOLATED)
        return item.selective[key[8]][1](self, selector, parameters)

    def write(self, key: bytes, encoded: bytes) -> None:
        """Write an attribute. Raises Refused; TYPE_UNMATCHED for what cannot be decoded."""
        self._refuse(key)
        writer = self.model.object_of(key).writers.get(key[8])
        if writer is None:
            raise Refused(self.model.why_absent(key))
        try:
            value, _ = decode_typed(encoded)
        except DecodeError as error:
            raise Refused(AccessResult.TYPE_UNMATCHED) from error
        writer(self, value)

    def execute(self, key: bytes, encoded: bytes | None) -> bytes | None:
        """Run a method; returns its encoded return value. Raises Refused."""
        self._refuse(key)
        method = self.model.object_of(key).methods.get(key[8])
        if method is None:
            raise Refused(self.model.why_absent(key))
        try:
            parameter = decode_typed(encoded)[0] if encoded is not None else None
        except DecodeError as error:
            raise Refused(AccessResult.TYPE_UNMATCHED) from error
        return method(self, parameter)

    def opened(self, association: ServerAssociation) -> None:
        """Count an association that was accepted."""
        self.associations.add(association)
        counters = self.counters
        counters.associations_opened += 1
        counters.associations_open = len(self.associations)
        counters.associations_open_max = max(counters.associations_open_max, counters.associations_open)

    def closed(self, association: ServerAssociation, *, cleanly: bool) -> None:
        """Count an association that ended; an unclean end blocks the meter for `recovery_s`."""
        if association not in self.associations:
            return
        self.associations.discard(association)
        self.counters.associations_open = len(self.associations)
        if not cleanly and self.settings.recovery_s:
            self.blocked_until_s = time.monotonic() + self.settings.recovery_s

    def is_busy(self, association: ServerAssociation) -> bool:
        """True when this association cannot be let in: another one is open, or the meter recovers."""
        others = self.associations - {association}
        return bool(self.settings.exclusive and others) or time.monotonic() < self.blocked_until_s
