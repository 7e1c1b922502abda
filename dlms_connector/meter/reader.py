"""Reading registers on an association: by lists where the meter does them, scalers learned once.

A list's word is checked alone. What a list refuses, or shapes as its class does not, is asked for by itself once before
it is believed, and the single answer decides: some meters refuse every element behind the first bad one, others wrap
values in a list as they do nowhere else. One bad object therefore never costs its neighbours a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem import services
from dlms_connector.cosem.association import Association
from dlms_connector.cosem.clock import decode_clock
from dlms_connector.cosem.services import AttributeRef, ListRequest
from dlms_connector.cosem.units import parse_scaler_unit
from dlms_connector.cosem.values import Value
from dlms_connector.errors import (
    DecodeError,
    InvalidAnswer,
    LinkClosed,
    LinkTimeout,
    ObjectError,
    ProtocolError,
    ServiceRefused,
)
from dlms_connector.meter.facts import MeterFacts, Scaler
from dlms_connector.meter.lists import ListLimit
from dlms_connector.meter.plan import PROFILE_CLASS, Batch, ReadPlan, Register
from dlms_connector.meter.scaler_profiles import SCALER_PROFILES, scalers_of
from dlms_connector.obis import Obis

_DISPUTES = 3  # in a row, between lists and single answers: the register is read alone from then on
_BREAKS = 2  # in a row at the same object, on a link that has just served others
_REFRESH_MS = 3_600_000
_ABSENT = (4, 9)  # object undefined, or of another class


class RegisterReader:
    """Reads one meter's registers.

    Args:
        facts: what is known of the meter.
        on_event: takes one line for the log.
    """

    def __init__(
        self, device: DeviceSettings, plan: ReadPlan, facts: MeterFacts, on_event: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._facts = facts
        self._on_event = on_event
        self._set_aside_s = device.refused_register_period_ms / 1000
        client = device.client
        self.limit = ListLimit(facts, client.max_list_size if client.use_lists else 1, on_event)
        self._settled = False
        self._expired = False
        self._generation = -1
        self._breaks: tuple[AttributeRef, int] | None = None
        """The attribute at which the link last ended, and how often in a row."""
        self._profile_scalers: tuple[Association, dict[tuple[int, Obis], tuple[int, str, str]]] | None = None
        self._profile_breaks = 0
        """How often in a row the link ended when scaler profiles were asked for."""
        self._spared: dict[AttributeRef, float] = {}
        """Scalers at which the link ends, and monotonic seconds until which they are not asked for."""
        self._ask_singly: set[AttributeRef] = set()
        self.doubted: set[Register] = set()
        """Registers whose odd word in a list the single answer confirmed, until a list gives a good value."""
        self._profiles_refused = False
        self.came_in_list = False
        """Whether the last results came in a list, so that its word is still to be checked."""
        self.refresh_ms = 0
        """Epoch milliseconds from which known scalers are looked through for those that have come to their end."""

    def read(self, association: Association, batch: Batch) -> list[Value | ObjectError]:
        """Each register's raw value, or the ObjectError that the meter gave for it. Raises LinkError."""
        if not self._settled or self._generation != self._facts.generation:
            ask = self._expired or self._generation != self._facts.generation
            if ask or any(register.needs_scaler for register in batch.registers):
                self._settle(association, batch.registers)
        request = batch.list_request
        if (
            request is not None
            and len(batch.registers) <= self.limit.size
            and (not self._ask_singly or self._ask_singly.isdisjoint(request.refs))
        ):
            results = self._get_list(association, request)
            if results is not None:
                self.came_in_list = True
                return results
        self.came_in_list = False
        return [self._read_one(association, register) for register in batch.registers]

    def check(
        self, association: Association, batch: Batch, results: list[Value | ObjectError]
    ) -> list[Value | ObjectError]:
        """Ask alone for what a list refused or shaped oddly; the single answer decides. Raises LinkError."""
        checked = list(results)
        for index, register in enumerate(batch.registers):
            word = _word(register, results[index])
            if word is None:
                self.doubted.discard(register)
                continue
            if register in self.doubted and word == register.confirmed:
                continue
            single = self._read_one(association, register)
            checked[index] = single
            if _word(register, single) == word:
                register.confirmed, register.disputes = word, 0
                self.doubted.add(register)
            else:
                self._dispute(register)
        return checked

    def _dispute(self, register: Register) -> None:
        """A list told something else than the meter does when asked alone."""
        register.disputes += 1
        if register.disputes >= _DISPUTES and not register.alone:
            register.alone = True
            self._plan.changed()
            self._on_event(f'"{register.key}" is read alone from now on: lists tell something else of it')

    def set_aside(self, register: Register, until_s: float) -> None:
        """It is not asked for until then, and alone when it is."""
        register.refused_until_s = until_s
        if not register.alone:
            register.alone = True
            self._plan.changed()

    def _rejoin(self, register: Register) -> None:
        """It was set aside and answers again: in lists, unless they were wrong about it."""
        register.refused_until_s = 0.0
        register.confirmed = None
        if register.disputes < _DISPUTES:
            register.alone = False
        self._plan.changed()

    def _read_one(self, association: Association, register: Register) -> Value | ObjectError:
        served = association.responses
        try:
            value = services.get_prepared(association, register.request, register.ref)
        except ObjectError as error:
            self._served(register)
            return error
        except (
            ServiceRefused
        ) as error:  # to this object alone, for all that is known: its neighbours are asked
            self._served(register)
            return _of_object(register.ref, error)
        except (LinkTimeout, LinkClosed) as error:
            if served > association.responses_at_open and self._broke(register.ref):
                self.set_aside(register, association.now_s() + self._set_aside_s)
                self._on_event(
                    f'"{register.key}" is set aside: the link ends whenever it is asked for ({error.message})'
                )
            raise
        if self._breaks is not None or self._ask_singly or self.limit.on_trial:
            self._served(register)
        if register.refused_until_s:
            self._rejoin(register)
        return value

    def _after_lost_list(self, refs: Sequence[AttributeRef]) -> None:
        """A list ended the association: what it asked for, and all that may have stood behind it, is asked alone next.

        Whatever is found out meanwhile of the length of lists, one that fails too would cost these values once more.
        """
        self._ask_singly.update(refs)
        for register in self._plan.registers:
            self._ask_singly.add(register.ref)
            if register.scaler_ref is not None:
                self._ask_singly.add(register.scaler_ref)

    def _served(self, register: Register) -> None:
        if self._ask_singly:
            self._ask_singly.discard(register.ref)
        if self._breaks is not None and self._breaks[0] == register.ref:
            self._breaks = None
        self._answered_alone()

    def _broke(self, ref: AttributeRef) -> bool:
        """The link ended at this attribute, and had served others just before: twice in a row it is to blame."""
        before = self._breaks
        count = before[1] + 1 if before is not None and before[0] == ref else 1
        self._breaks = (ref, count) if count < _BREAKS else None
        return count >= _BREAKS

    def _get_list(self, association: Association, request: ListRequest) -> list[Value | ObjectError] | None:
        """The results of a list, None where the meter refuses it or answers something else. Raises LinkError."""
        count = len(request.refs)
        try:
            results = services.get_list(association, request)
        except ServiceRefused as error:
            if error.unknown_service:
                self.limit.refused(f"the meter refuses lists: {error.explain()}")
            else:
                self.limit.failed(count, f"the meter refuses lists of {count}: {error.explain()}")
        except InvalidAnswer as error:
            self.limit.failed(count, f"lists of {count} are not answered as they should be: {error.message}")
        except ObjectError as error:
            self.limit.failed(count, f"the meter refuses lists of {count}: {error.explain()}")
        except (LinkTimeout, LinkClosed, ProtocolError):
            # Some meters fall silent or hang up on a list instead of refusing it.
            self.limit.failed(count, f"the meter never answered a list of {count}")
            self._after_lost_list(request.refs)
            raise
        else:
            self.limit.worked(count)
            return results
        self._plan.limit_lists(self.limit.size)
        return None

    def _settle(self, association: Association, registers: Sequence[Register]) -> None:
        """Bring the registers' scalers in step with the facts, asking for those of `registers` that are wanted."""
        if self._generation != self._facts.generation:
            self._generation = self._facts.generation
            self.recall()
        self.learn_scalers(association, registers)
        self._settled = not any(
            register.needs_scaler or (where is not None and self._facts.wants_scaler(where))
            for register, where in zip(self._plan.registers, self._scaler_refs(), strict=True)
        )
        self._expired = self._has_expired()

    def refresh(self, now_ms: int) -> None:
        """Have scalers that came to their end asked again with the next poll."""
        self.refresh_ms = now_ms + _REFRESH_MS
        if self._has_expired():
            self._settled, self._expired = False, True

    def _has_expired(self) -> bool:
        """Whether a scaler that is in use came to its end."""
        return any(
            register.exponent is not None and where is not None and self._facts.wants_scaler(where)
            for register, where in zip(self._plan.registers, self._scaler_refs(), strict=True)
        )

    def _scaler_refs(self) -> list[AttributeRef | None]:
        return [register.scaler_ref for register in self._plan.registers]

    def recall(self) -> None:
        """Take what the facts know; registers whose scaler they do not know have none."""
        self._recall(self._plan.registers)
        self._plan.changed()

    def forget(self) -> None:
        """Nothing is known any more: scalers, how long lists may be, what was set aside."""
        self.limit.forget()
        self._ask_singly.clear()
        for register in self._plan.registers:
            register.alone, register.disputes, register.confirmed = False, 0, None
            register.refused_until_s = 0.0
        self.recall()
        self._settled = False

    def _recall(self, registers: Sequence[Register]) -> None:
        for register in registers:
            if register.scaler_ref is None:
                continue
            before = register.exponent
            scaler = self._facts.scaler(register.scaler_ref)
            if scaler is None:
                register.unlearn()
            else:
                register.learn(*scaler)
            if before is not None and register.exponent != before:
                self._plan.changed()

    def learn_scalers(self, association: Association, registers: Sequence[Register]) -> None:
        """Know the scalers of these registers, asking the meter where it is time to. Raises LinkError."""
        self.ask_scalers(association, [item.scaler_ref for item in registers if item.scaler_ref is not None])
        self._recall(registers)

    def ask_scalers(self, association: Association, refs: Sequence[AttributeRef]) -> None:
        """Ask for the scalers at these places that are wanted; the facts keep what comes. Raises LinkError."""
        now_s = association.now_s()
        wanted = [
            ref
            for ref in dict.fromkeys(refs)
            if self._facts.wants_scaler(ref) and self._spared.get(ref, now_s) <= now_s
        ]
        if not wanted:
            return
        if self._profiles_refused:
            self._profile_scalers = None
        learned: dict[AttributeRef, Scaler] = {}
        try:
            for ref, result in self._read_refs(association, wanted):
                parsed = None if isinstance(result, ObjectError) else parse_scaler_unit(result)
                if parsed is None:
                    parsed = self._from_scaler_profiles(association).get((ref.class_id, ref.obis))
                if parsed is None:
                    reason = result.message if isinstance(result, ObjectError) else f"{result!r} is no scaler"
                    self._facts.refuse_scaler(ref, reason)
                    continue
                exponent, unit, note = parsed
                if note:
                    self._on_event(f"{ref.obis}: {note}")
                learned[ref] = Scaler(exponent, unit)
        finally:  # the link may end half way: what was told is known
            self._facts.learn_scalers(learned)

    def _from_scaler_profiles(self, association: Association) -> dict[tuple[int, Obis], tuple[int, str, str]]:
        """What the scaler profiles of Indian meters tell, asked for once an association; nothing elsewhere.

        Where the meter has such a profile and refuses it, it is asked again with the scalers that are wanted next.
        """
        if self._profile_scalers is not None and self._profile_scalers[0] is association:
            return self._profile_scalers[1]
        scalers: dict[tuple[int, Obis], tuple[int, str, str]] = {}
        if self._profile_breaks >= _BREAKS:
            return scalers
        self._profile_breaks += 1
        self._profiles_refused = False
        disputed: set[tuple[int, Obis]] = set()
        for obis in SCALER_PROFILES:
            columns = self._get_one(association, AttributeRef(PROFILE_CLASS, obis, 3))
            if isinstance(columns, ObjectError):
                self._profiles_refused |= columns.code not in _ABSENT
                continue
            buffer = self._get_one(association, AttributeRef(PROFILE_CLASS, obis, 2))
            if isinstance(buffer, ObjectError):
                self._profiles_refused = True
            else:
                for owner, scaler in scalers_of(columns, buffer).items():
                    disputed |= {owner} if scalers.setdefault(owner, scaler)[0] != scaler[0] else set()
        for owner in disputed:  # two profiles, two scalers: neither is known
            del scalers[owner]
        self._profile_breaks = 0
        self._profile_scalers = (association, scalers)
        return scalers

    def _read_refs(
        self, association: Association, refs: Sequence[AttributeRef]
    ) -> Iterator[tuple[AttributeRef, Value | ObjectError]]:
        """Places with scalers, by lists where lists work; what a list does not give well is asked for alone.

        After a list that was not answered all of them are: the next list might end the association once more.
        """
        start = 0
        singly = self.limit.on_trial or not association.conformance.multiple_references
        while start < len(refs):
            size = 1 if singly else min(self.limit.size, self._plan.list_size)
            part = refs[start : start + size]
            if self._ask_singly and not self._ask_singly.isdisjoint(part):
                part = part[:1]
            several = self._get_list(association, ListRequest(part)) if len(part) > 1 else None
            if several is None:
                part = refs[start : start + 1]
                several = [self._get_scaler(association, part[0])]
                self._ask_singly.discard(part[0])
                self._answered_alone()
            else:
                several = [
                    result if _is_scaler(result) else self._get_scaler(association, ref)
                    for ref, result in zip(part, several, strict=True)
                ]
            yield from zip(part, several, strict=True)
            start += len(part)

    def _get_scaler(self, association: Association, ref: AttributeRef) -> Value | ObjectError:
        """A scaler by itself. One at which the link ends again and again is left alone: its neighbours are wanted."""
        served = association.responses
        try:
            result = self._get_one(association, ref)
        except (LinkTimeout, LinkClosed) as error:
            if served > association.responses_at_open and self._broke(ref):
                self._spared[ref] = association.now_s() + self._set_aside_s
                self._facts.refuse_scaler(ref, f"the link ends whenever it is asked for ({error.message})")
                self._on_event(
                    f"the scaler of {ref.obis} is left alone: the link ends whenever it is asked for"
                )
            raise
        if self._breaks is not None and self._breaks[0] == ref:
            self._breaks = None
        return result

    def _answered_alone(self) -> None:
        if self.limit.on_trial:
            self.limit.single_worked()
            self._plan.limit_lists(self.limit.size)

    @staticmethod
    def _get_one(association: Association, ref: AttributeRef) -> Value | ObjectError:
        try:
            return services.get(association, ref)
        except ObjectError as error:
            return error
        except ServiceRefused as error:
            return _of_object(ref, error)


def _of_object(ref: AttributeRef, error: ServiceRefused) -> InvalidAnswer:
    """An exception instead of an answer, as what became of one object."""
    return InvalidAnswer(f"{ref}: {error.message}", hint=error.hint)


def _word(register: Register, result: Value | ObjectError) -> object:
    """What is odd of a result: the code of a refusal, the type of a value that its class does not have; else None."""
    if isinstance(result, ObjectError):
        return result.code
    if register.is_clock:
        return None if is_moment(result) else type(result)
    if register.is_number:
        return None if isinstance(result, (int, float)) and not isinstance(result, bool) else type(result)
    return type(None) if result is None else None


def _is_scaler(result: Value | ObjectError) -> bool:
    return not isinstance(result, ObjectError) and parse_scaler_unit(result) is not None


def is_moment(value: object) -> bool:
    """Whether this is the date-time of a clock object."""
    if not isinstance(value, bytes):
        return False
    try:
        decode_clock(value)
    except DecodeError:
        return False
    return True
