"""What is read together: registers with their requests, encoded once and kept.

A plan knows nothing of time or links. The session tells it how large a request may be and whether the meter
does lists; the poller asks for the requests of the periods that are due.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple

from dlms_connector.config.catalogue import default_class
from dlms_connector.config.reading import RegisterSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef, ListRequest, get_request
from dlms_connector.cosem.values import Value
from dlms_connector.meter.reading import Plain, Reading, apply_definition, readings_of
from dlms_connector.obis import Obis

# class -> attributes that carry a scaled value, and where its scaler_unit is (Blue Book 4.3)
_SCALER_ATTRIBUTE = {3: ({2}, 3), 4: ({2}, 3), 5: ({2, 3}, 4)}
MAX_LIST = 60
PROFILE_CLASS = 7
_MOMENTS = {
    8: {2},
    4: {5},
    5: {6, 7},
}  # class -> attributes that hold a date-time (Blue Book 4.3.3, 4.3.4, 4.5.1)
IDENTITY_VALUE = 2
_MAX_PLANNED = 32  # sets of registers: one for each set of periods, more where registers are set aside
# Within these bounds a quotient of floats is the double nearest to the exact decimal: it prints the same digits.
MIN_EXACT_EXPONENT = -22
EXACT_INT = 2**53
_INTEGERS = {int}


@dataclass(slots=True, eq=False)
class Register:
    """One object of the configuration with what was learned of it."""

    key: str
    ref: AttributeRef
    settings: RegisterSettings
    period_s: float
    is_attribute: bool
    scaler_ref: AttributeRef | None
    exponent: int | None = None  # None: not read yet
    unit: str = ""
    refused_until_s: float = 0.0
    request: bytes = b""
    alone: bool = False
    """Not read in a list: it was refused, or lists tell something else of it than it says when asked alone."""
    disputes: int = 0
    """How often in a row a list and the single answer differed."""
    confirmed: object = None
    """What the single answer last confirmed of a list's odd word: a result code, or the type of the value."""
    divisor: int = 0
    """Where nothing but the scaler applies: 10^-scaler, 1 for none; 0 sends the value the long way."""

    @property
    def needs_scaler(self) -> bool:
        return self.exponent is None and self.scaler_ref is not None

    def unlearn(self) -> None:
        """The scaler is not known any more."""
        if self.scaler_ref is not None:
            self.exponent, self.unit, self.divisor = None, "", 0

    def learn(self, exponent: int, unit: str) -> None:
        """The meter's scaler and unit are known from now on; 0 for classes without."""
        self.exponent, self.unit = exponent, unit
        applies = exponent if self.settings.scaler == "auto" else self.settings.scaler or 0
        self.divisor = 10**-applies if self._is_plain and MIN_EXACT_EXPONENT <= applies <= 0 else 0

    def present(self, raw: Value) -> Plain:
        """A raw value of the meter as the operator asked for it; the scaler has to be known."""
        divisor = self.divisor
        if divisor and raw.__class__ is int and -EXACT_INT < raw < EXACT_INT:
            return raw if divisor == 1 else raw / divisor
        return apply_definition(raw, self.settings, self.exponent or 0)

    @property
    def _is_plain(self) -> bool:
        settings = self.settings
        return (
            settings.multiplier is None
            and settings.round is None
            and settings.type == "auto"
            and not settings.path
            and not self.is_clock
        )

    @property
    def identifies(self) -> bool:
        """It names the meter or its firmware: serial numbers, device ids, 1-0:0.2.0 (Blue Book 7.4.1, 7.5.4)."""
        code = self.ref.obis
        return self.ref.attribute == IDENTITY_VALUE and (
            (code.c, code.d) in ((0, 0), (0, 2))
            or ((code.a, code.c, code.d) == (0, 96, 1))
            or (code.a, code.c) == (0, 42)
        )

    @property
    def is_clock(self) -> bool:
        """Its value is a date-time or an error, never a number or text: of a clock, or when a value was captured."""
        return self.ref.attribute in _MOMENTS.get(self.ref.class_id, ())

    @property
    def is_number(self) -> bool:
        """Its class holds numbers there, which have a scaler."""
        return scaler_ref(self.ref) is not None


class Columns(NamedTuple):
    """The readings of a batch but for values and time, where nothing but scalers applies."""

    keys: tuple[str, ...]
    divisors: tuple[int, ...]
    units: tuple[str, ...]

    def fill(self, results: Sequence[object], ts_ms: int) -> list[Reading] | None:
        """The readings of these raw values; None unless all are integers that a quotient of floats holds exactly."""
        if len(results) == 1:
            raw, divisor = results[0], self.divisors[0]
            if not isinstance(raw, int) or isinstance(raw, bool) or not -EXACT_INT < raw < EXACT_INT:
                return None
            return [Reading(self.keys[0], raw if divisor == 1 else raw / divisor, self.units[0], ts_ms)]
        if set(map(type, results)) != _INTEGERS:
            return None
        numbers: Sequence[int] = results  # type: ignore[assignment]  # just checked
        if min(numbers) <= -EXACT_INT or max(numbers) >= EXACT_INT:
            return None
        values = [
            number if divisor == 1 else number / divisor
            for number, divisor in zip(numbers, self.divisors, strict=True)
        ]
        return readings_of(self.keys, values, self.units, repeat(ts_ms))


_columns = lru_cache(maxsize=1024)(Columns)  # one for all meters that read the same


class Batch:
    """Registers that one request reads: a list, or one register with `list_request` None."""

    __slots__ = ("_columns", "attribute_keys", "list_request", "registers")

    def __init__(self, registers: tuple[Register, ...], list_request: ListRequest | None) -> None:
        self.registers = registers
        self.list_request = list_request
        self.attribute_keys = frozenset(register.key for register in registers if register.is_attribute)
        self._columns: Columns | None = None

    def forget_columns(self) -> None:
        """A scaler is not what it was."""
        self._columns = None

    @property
    def columns(self) -> Columns | None:
        """Once every scaler is known; None where a register has more to it than a scaler."""
        if self._columns is None and all(item.divisor and not item.identifies for item in self.registers):
            self._columns = _columns(
                tuple(register.key for register in self.registers),
                tuple(register.divisor for register in self.registers),
                tuple(register.unit for register in self.registers),
            )
        return self._columns


def make_register(entry: RegisterSettings, period_ms: int, *, is_attribute: bool) -> Register:
    """A register from its settings; the class and the place of the scaler follow from the OBIS code."""
    class_id = entry.class_id if entry.class_id is not None else default_class(entry.obis)
    ref, request, where = _encoded(class_id, entry.obis, entry.attribute)
    register = Register(
        key=entry.key,
        ref=ref,
        settings=entry,
        period_s=(entry.poll_period_ms or period_ms) / 1000,
        is_attribute=is_attribute,
        scaler_ref=where if entry.scaler == "auto" else None,
        request=request,
    )
    if register.scaler_ref is None:
        register.learn(0, "")
    return register


@lru_cache(maxsize=4096)
def _encoded(class_id: int, obis: Obis, attribute: int) -> tuple[AttributeRef, bytes, AttributeRef | None]:
    """What all meters of a fleet share of a register: reference, GET request, place of the scaler."""
    ref = AttributeRef(class_id, obis, attribute)
    return ref, get_request(ref), scaler_ref(ref)


@lru_cache(maxsize=1024)
def _list_of(refs: tuple[AttributeRef, ...]) -> ListRequest:
    """One encoded list for all meters that read the same."""
    return ListRequest(refs)


def scaler_ref(ref: AttributeRef) -> AttributeRef | None:
    """Where the scaler and unit of this attribute are, None for classes without."""
    attributes, at = _SCALER_ATTRIBUTE.get(ref.class_id, (set(), 0))
    return AttributeRef(ref.class_id, ref.obis, at) if ref.attribute in attributes else None


def _without_double_keys(registers: list[Register]) -> list[list[Register]]:
    """Groups in which each key stands once: results go by key, and an attribute may bear that of a time series."""
    groups: list[dict[str, Register]] = []
    for register in registers:
        group = next((group for group in groups if register.key not in group), None)
        if group is None:
            group = {}
            groups.append(group)
        group[register.key] = register
    return [list(group.values()) for group in groups]


class ReadPlan:
    """The registers of one meter and the requests that read them."""

    def __init__(self, device: DeviceSettings) -> None:
        self.registers = tuple(
            [make_register(entry, device.poll_period_ms, is_attribute=False) for entry in device.timeseries]
            + [
                make_register(entry, device.attribute_period_ms, is_attribute=True)
                for entry in device.attributes
            ]
        )
        self.identifying = tuple(register.ref for register in self.registers if register.identifies)
        """Where the meter says which one it is, among what is read."""
        self._max_request_bytes = 0
        self._max_list = MAX_LIST
        self._batches: dict[tuple[int, ...], tuple[Batch, ...]] = {}

    @property
    def periods_s(self) -> set[float]:
        return {register.period_s for register in self.registers}

    def fit(self, max_request_bytes: int, max_list: int) -> None:
        """Tell what the meter takes: bytes of one request (0: no limit) and attributes in a list (1: no lists)."""
        if (max_request_bytes, max_list) != (self._max_request_bytes, self._max_list):
            self._max_request_bytes, self._max_list = max_request_bytes, max_list
            self.changed()

    def limit_lists(self, max_list: int) -> None:
        """Only the number of attributes in a list has changed."""
        self.fit(self._max_request_bytes, max_list)

    def changed(self) -> None:
        """A register is read alone from now on, or in lists again; or what is known of one has changed."""
        for batches in self._batches.values():
            for batch in batches:
                batch.forget_columns()  # a cycle may be half way through them
        self._batches.clear()

    def due(self, periods_s: Iterable[float], now_s: float) -> tuple[Batch, ...]:
        """The requests for every register of these periods that is not set aside at `now_s`."""
        wanted = set(periods_s)
        indices = tuple(
            index
            for index, register in enumerate(self.registers)
            if register.period_s in wanted and register.refused_until_s <= now_s
        )
        batches = self._batches.get(indices)
        if batches is None:
            if len(self._batches) >= _MAX_PLANNED:
                self._batches.clear()
            batches = self._batches[indices] = tuple(self.batch([self.registers[index] for index in indices]))
        return batches

    def batch(self, registers: list[Register]) -> list[Batch]:
        """Cut registers into requests that fit the meter; those that are read alone come last."""
        size = self.list_size
        # What tells another meter comes first: what is read behind it is not read with the facts of the other.
        registers = sorted(registers, key=lambda register: not register.identifies)
        together = [register for register in registers if not register.alone] if size > 1 else []
        alone = [register for register in registers if register.alone or size <= 1]
        batches = []
        for group in _without_double_keys(together):
            for start in range(0, len(group), size):
                part = tuple(group[start : start + size])
                refs = tuple(register.ref for register in part)
                batches.append(Batch(part, _list_of(refs) if len(part) > 1 else None))
        return batches + [Batch((register,), None) for register in alone]

    @property
    def list_size(self) -> int:
        """How many attributes one list may hold."""
        count = min(self._max_list, MAX_LIST)
        if self._max_request_bytes:
            while count > 1 and ListRequest.size_bytes(count) > self._max_request_bytes:
                count -= 1
        return count
