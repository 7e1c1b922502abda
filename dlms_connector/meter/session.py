"""One meter's session: open, read, write, execute, close; one association at a time.

The session talks to its meter through a channel that somebody else made (TCP, serial, shared line or, one
day, a meter that dialled in). It keeps what it learned: scalers, units, whether lists work. Every LinkError
ends the association; opening anew is the poller's decision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem import services
from dlms_connector.cosem.association import Association, AssociationParameters
from dlms_connector.cosem.exceptions import InvocationCounterRefused
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.units import parse_scaler_unit
from dlms_connector.cosem.values import TypedValue, Value, decode_typed
from dlms_connector.errors import (
    AssociationError,
    DlmsConnectorError,
    Interrupted,
    InvalidAnswer,
    Layer,
    LinkClosed,
    LinkError,
    LinkTimeout,
    ObjectError,
    SecurityError,
    ServiceRefused,
)
from dlms_connector.io.channel import Channel
from dlms_connector.io.line import Priority
from dlms_connector.meter.batch_result import BatchResult, all_delivered, why_no_value
from dlms_connector.meter.counters import InvocationCounters
from dlms_connector.meter.facts import MeterFacts, Scaler, ScalerUnknown, Standing
from dlms_connector.meter.parameters import association_parameters, public_client
from dlms_connector.meter.plan import Batch, ReadPlan, Register
from dlms_connector.meter.reader import RegisterReader, is_moment
from dlms_connector.meter.reading import Reading
from dlms_connector.obis import Obis
from dlms_connector.state import StateStore

_DEVICE_NAME = AttributeRef(1, Obis(0, 0, 42, 0, 0), 2)  # every meter has one (Blue Book 4.1.8.2)
_EXCHANGE_S = 300.0  # nobody exchanges a meter in less between two polls that ended well
_NAMELESS = 2  # links that ended in a row when the meter was asked what it is called
_LOST_RELEASES = 2  # in a row: one may have been lost on the way


class MeterSession:
    """The association with one meter and what was learned of it.

    Args:
        device: the meter's settings.
        make_channel: gives a closed channel for a client address; bytes are counted on it.
        state: the state file.
        on_event: takes one line for the log, e.g. that lists are not used any more.
        wall_ms: epoch milliseconds, for readings.
    """

    def __init__(
        self,
        device: DeviceSettings,
        make_channel: Callable[[int], Channel],
        state: StateStore,
        *,
        on_event: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.device = device
        self.plan = ReadPlan(device)
        self.channel = make_channel(device.client.address)
        self._make_channel = make_channel
        self.state = state
        self._on_event = on_event
        self._clock = clock
        self._wall_ms = wall_ms
        self._timeout_s = device.timeout_ms / 1000
        self._association: Association | None = None
        self._requests_before = 0
        self._responses_before = 0
        self._silence_checked = False
        self._assumption_told = False
        self._recognised_until_s = -math.inf
        self._nameless = 0
        self._invoke_id = 0
        identity = f"{device.device_name}/{device.client.address}"
        self._counters = InvocationCounters(state, identity, on_event)
        self.facts = MeterFacts(device, state, on_event, wall_ms)
        if self.plan.identifying or self.facts.knows_name(str(_DEVICE_NAME.obis)):
            self._recognised_until_s = math.inf  # read first of all, or known since an earlier start
        self._reader = RegisterReader(device, self.plan, self.facts, on_event)
        self._releases = self.facts.answers_release
        self._lost_releases = 0
        self.unscaled: set[str] = set()
        """Keys whose numbers are delivered as the meter holds them, because it never tells their scaler."""

    def tell(self, text: str) -> None:
        """One line for the log of this meter."""
        self._on_event(text)

    @property
    def priority(self) -> Priority:
        """Whose turn comes first on a shared line."""
        return self.channel.priority

    @priority.setter
    def priority(self, priority: Priority) -> None:
        self.channel.priority = priority

    def interrupt(self) -> None:
        """End whatever the session waits for, now and for good; callable from any thread."""
        self.channel.interrupt()

    @property
    def is_open(self) -> bool:
        """An association stands, as far as we know."""
        return self._association is not None and self.channel.is_open

    @property
    def on_trial(self) -> bool:
        """A list was not answered; what comes next is read one by one to find out whether it was to blame."""
        return self._reader.limit.on_trial

    @property
    def requests(self) -> int:
        """APDUs sent since the session was made."""
        return self._requests_before + (self._association.requests if self._association else 0)

    @property
    def responses(self) -> int:
        """Answers accepted since the session was made."""
        return self._responses_before + (self._association.responses if self._association else 0)

    def open(self) -> None:
        """Open the link and associate.

        Raises:
            SecretError: a password or key cannot be resolved.
            LinkError: with the layer that failed; nothing is left open.
        """
        parameters = association_parameters(self.device.client)
        ciphered = parameters.security is not None and bool(parameters.security.encryption_key)
        if ciphered and not self._counters.known:
            self.synchronise_counter()
        try:
            self._associate(parameters)
        except (SecurityError, AssociationError, ServiceRefused, LinkTimeout) as error:
            if not ciphered or not self._may_be_counter(error):
                raise
            self._resynchronise(error)
            self._associate(parameters)
        self._silence_checked = False
        association = self._association
        if association is not None:
            association = self._recognised(association, parameters)
            lists = self._reader.limit.size if association.conformance.multiple_references else 1
            room = association.max_request_bytes
            self.plan.fit(max(1, room - association.overhead_bytes) if room else 0, lists)

    def _recognised(self, association: Association, parameters: AssociationParameters) -> Association:
        """The association with a meter whose facts are known; a new one where it ended at our question."""
        try:
            self._recognise(association)
        except LinkError:
            self._associate(parameters)
            self._recognised_until_s = self._clock() + _EXCHANGE_S
        return self._require_association()

    def _recognise(self, association: Association) -> None:
        """Make sure that it is the meter whose facts are known, where it may have been exchanged meanwhile.

        Raises:
            LinkError: the link ended; twice in a row at this question, and it is not asked again.
        """
        title = association.server_title
        if title:
            self.facts.identify("the system title", title.hex().upper())
        refs = self.plan.identifying or (() if title else (_DEVICE_NAME,))
        if not (self.plan.registers or self.device.profiles):
            refs = ()  # nothing is read for which facts would be kept
        if not refs or self._clock() < self._recognised_until_s or self._nameless >= _NAMELESS:
            return
        self._nameless += 1
        with self._exchange():
            for ref in refs:
                # A meter that does not say what it is called is read all the same.
                with suppress(ObjectError, ServiceRefused):
                    self._identify(ref, services.get(association, ref))
        self._nameless = 0

    def _identify(self, ref: AttributeRef, value: Value) -> bool:
        """What an identifying object says. True when it said something else before and the facts were dropped."""
        if not isinstance(value, (bytes, str, int)) or value in (b"", ""):
            return False
        return self.facts.identify(
            str(ref.obis), value.hex().upper() if isinstance(value, bytes) else str(value)
        )

    def _may_be_counter(self, error: DlmsConnectorError) -> bool:
        """A stale counter shows as its own exception, as a failed authentication or as plain silence."""
        if isinstance(error, AssociationError):
            return error.diagnostic in (None, 1, 13)
        if isinstance(error, LinkTimeout):
            # Silence is mostly just that: asked once, not at each attempt to reach a dead meter.
            first, self._silence_checked = not self._silence_checked, True
            return first and error.layer is Layer.ASSOCIATION
        return True

    def _resynchronise(self, error: DlmsConnectorError) -> None:
        """Once per failure: learn the meter's view of our counter and continue above it."""
        if isinstance(error, InvocationCounterRefused) and error.expected is not None:
            self._counters.raise_to(error.expected + 1)
            return
        try:
            self.synchronise_counter()
        except (LinkError, ServiceRefused, ObjectError) as failure:
            raise error from failure

    def synchronise_counter(self) -> None:
        """Read our invocation counter from the meter through the public client and continue above it."""
        security = self.device.client.security
        if security is None or not security.invocation_counter.read:
            return
        settings = security.invocation_counter
        channel = self._make_channel(settings.client_address)
        association = Association(channel, public_client(), timeout_s=self._timeout_s)
        try:
            channel.open(self._clock() + self._timeout_s)
            association.open()
            value = services.get(association, AttributeRef(1, settings.obis, 2))
            with suppress(LinkError, ServiceRefused):  # meters that ignore RLRQ
                association.release()
        finally:
            if channel.is_open:
                channel.close(self._clock() + self._timeout_s)
            channel.abandon()
        if not isinstance(value, int):
            raise SecurityError(
                f"the invocation counter {settings.obis} is no number",
                hint="check security.invocationCounter.obis",
            )
        self._counters.raise_to(value + 1)
        self._on_event(f"invocation counter synchronised with the meter at {value}")

    def _associate(self, parameters: AssociationParameters) -> None:
        self.channel.open(self._clock() + self._timeout_s)
        association = Association(
            self.channel,
            parameters,
            timeout_s=self._timeout_s,
            next_counter=self._counters.next,
            clock=self._clock,
            invoke_id=self._invoke_id,
        )
        try:
            association.open()
        except DlmsConnectorError:
            self._hang_up()
            raise
        if association.assumption and not self._assumption_told:
            self._assumption_told = True
            self._on_event(association.assumption)
        self._association = association

    def _hang_up(self) -> None:
        """Close the link politely where it still stands; it never hides the error that led here."""
        if self.channel.is_open:
            self.channel.close(self._clock() + min(self._timeout_s, 2.0))
        self.channel.abandon()

    def close(self, deadline_s: float) -> None:
        """Release the association and the link: RLRQ, then DISC, as far as the deadline allows."""
        association = self._association
        if association is not None and self.channel.is_open and self._releases:
            association.timeout_s = max(0.05, min(self._timeout_s, deadline_s - self._clock()))
            try:
                association.release()
                self._lost_releases = 0
            except LinkTimeout:
                self._release_lost()
            except (LinkError, ServiceRefused, Interrupted) as error:
                self._on_event(f"the association ended without a release: {error.explain()}")
        self._forget_association()
        self._recognised_until_s = self._clock() + _EXCHANGE_S
        if self.channel.is_open:
            self.channel.close(deadline_s)
        self.channel.abandon()

    def _release_lost(self) -> None:
        """The link is gone with the wait. A meter that never answers gets its DISC alone from now on."""
        self._lost_releases += 1
        if self._lost_releases >= _LOST_RELEASES:
            self._releases = False
            self.facts.learn_no_release()
            self._on_event("the meter does not answer a release; the link alone is closed from now on")

    def abandon(self) -> None:
        """Forget the association without a word to the meter."""
        self._forget_association()
        self._recognised_until_s = -math.inf
        self.channel.abandon()

    def _forget_association(self) -> None:
        if self._association is not None:
            self._requests_before += self._association.requests
            self._responses_before += self._association.responses
            self._invoke_id = self._association.invoke_id
            self._association = None

    def _require_association(self) -> Association:
        if self._association is None:
            raise LinkClosed("there is no association with the meter")
        return self._association

    @contextmanager
    def _exchange(self) -> Iterator[Association]:
        """The open association; any LinkError inside ends it."""
        try:
            yield self._require_association()
        except LinkError:
            self.abandon()
            raise

    def read(self, batch: Batch) -> list[Reading]:
        """The readings of `read_batch`, without what became of the rest."""
        return self.read_batch(batch).readings

    def read_batch(self, batch: Batch) -> BatchResult:
        """Read one batch of the plan: what every register of it became.

        Raises:
            LinkError: the association is over.
        """
        try:  # not `_exchange`: this is the hot path
            association = self._require_association()
            reader = self._reader
            results = reader.read(association, batch)
            ts_ms = self._wall_ms()
            columns = batch.columns
            filled = columns.fill(results, ts_ms) if columns is not None else None
            if filled is not None:
                if ts_ms >= reader.refresh_ms:
                    reader.refresh(ts_ms)
                if self.unscaled:
                    self.unscaled.difference_update(register.key for register in batch.registers)
                if reader.doubted:
                    reader.doubted.difference_update(batch.registers)
                return all_delivered(filled)
            if reader.came_in_list:
                results = reader.check(association, batch, results)
        except LinkError:
            self.abandon()
            raise
        return self._sorted(batch, results, ts_ms)

    def _sorted(self, batch: Batch, results: Sequence[Value | ObjectError], ts_ms: int) -> BatchResult:
        """Results of any kind, one by one."""
        result = BatchResult([])
        if self._is_another_meter(batch, results):
            self._reader.recall()
        if ts_ms >= self._reader.refresh_ms:
            self._reader.refresh(ts_ms)
        for register, value in zip(batch.registers, results, strict=True):
            if isinstance(value, ObjectError):
                self._refused(register, value, result)
            elif register.exponent is None and _counts(register, value):
                self._unscaled(register, value, ts_ms, result)
            else:
                self._present(register, value, ts_ms, result)
        return result

    def _is_another_meter(self, batch: Batch, results: Sequence[Value | ObjectError]) -> bool:
        """Whether an object that names the meter or its firmware says something else than before."""
        changed = False
        for register, value in zip(batch.registers, results, strict=True):
            if register.identifies and not isinstance(value, ObjectError):
                changed = self._identify(register.ref, value) or changed
        return changed

    def _refused(self, register: Register, error: ObjectError, result: BatchResult) -> None:
        """What the meter refuses for good is asked again rarely; the rest with the next cycle."""
        if isinstance(error, InvalidAnswer):
            result.failed[register.key] = error
            return
        result.refused[register.key] = error
        if not error.transient and register in self.plan.registers:
            until_s = self._clock() + self.device.refused_register_period_ms / 1000
            self._reader.set_aside(register, until_s)
            self._on_event(f'"{register.key}" is set aside: {error.explain()}')

    def _unscaled(self, register: Register, value: Value, ts_ms: int, result: BatchResult) -> None:
        """A number without its scaler: held back, and delivered as it is where the meter never tells one."""
        where = register.scaler_ref
        assert where is not None  # noqa: S101 (`exponent` is None for those alone)
        never = self.facts.standing(where) is Standing.NONE
        if not never or self.device.unscaled == "withhold":
            result.held[register.key] = ScalerUnknown(where, self.facts.why_unknown(where))
            return
        self._present(register, value, ts_ms, result)
        self.unscaled.add(register.key)

    def _present(self, register: Register, value: Value, ts_ms: int, result: BatchResult) -> None:
        """A value as it is delivered, or why it is none."""
        key = register.key
        if self.unscaled:
            self.unscaled.discard(key)
        is_odd = value is not None and not _counts(register, value)
        if is_odd and register.exponent and register.settings.scaler == "auto":
            result.failed[key] = InvalidAnswer(
                f"{register.ref}: {value!r} is no number, and its scaler is 10^{register.exponent}",
                hint='set "scaler": null of this object to have it as it is, or "path" to a number in it',
            )
            return
        try:
            plain = register.present(value)
        except ValueError as error:
            result.failed[key] = InvalidAnswer(f"{register.ref}: {error}")
            return
        why = (
            f"{value!r} is no date and time"
            if register.is_clock and not is_moment(value)
            else why_no_value(plain)
        )
        if why:
            result.failed[key] = InvalidAnswer(f"{register.ref}: {why}")
        else:
            result.readings.append(Reading(key, plain, register.unit, ts_ms))

    def learn_scalers(self, registers: Sequence[Register]) -> None:
        """Read scalers and units not known yet, also of registers outside the plan. Raises LinkError."""
        with self._exchange() as association:
            self._reader.learn_scalers(association, registers)

    def scalers(self, refs: Sequence[AttributeRef]) -> dict[AttributeRef, Scaler | None]:
        """The scalers at these places, asked for where not known; None where not known now. Raises LinkError."""
        with self._exchange() as association:
            self._reader.ask_scalers(association, refs)
        return {ref: self.facts.scaler(ref) for ref in refs}

    def fresh_scaler(self, ref: AttributeRef) -> Scaler:
        """The scaler as the meter tells it this moment: what is written depends on it.

        Raises:
            ScalerUnknown: it did not tell it.
            LinkError.
        """
        with self._exchange() as association:
            try:
                value = services.get(association, ref)
            except ObjectError as error:
                raise ScalerUnknown(ref, error.message) from error
        parsed = parse_scaler_unit(value)
        if parsed is None:
            raise ScalerUnknown(ref, f"{value!r} is no scaler")
        scaler = Scaler(parsed[0], parsed[1])
        self.facts.learn_scalers({ref: scaler})
        return scaler

    def forget_facts(self) -> None:
        """Ask for everything again that was learned of this meter."""
        self.facts.forget()
        self._releases = True
        self._lost_releases = 0
        self._reader.forget()

    def get(self, ref: AttributeRef, selection: Selection | None = None) -> Value:
        """Read any attribute. Raises ObjectError, ServiceRefused, LinkError."""
        with self._exchange() as association:
            return services.get(association, ref, selection)

    def get_encoded(self, ref: AttributeRef, selection: Selection | None = None) -> bytes:
        """Read any attribute as encoded A-XDR, with whatever the meter sent behind it. Errors as in `get`."""
        with self._exchange() as association:
            return services.get_raw(association, services.get_request(ref, selection), ref)

    def get_typed(self, ref: AttributeRef) -> TypedValue:
        """Read any attribute with its A-XDR type, e.g. to write it back."""
        with self._exchange() as association:
            return decode_typed(services.get_raw(association, services.get_request(ref), ref))[0]

    def set(self, ref: AttributeRef, value: TypedValue) -> None:
        """Write one attribute. Raises ObjectError, ServiceRefused, LinkError."""
        with self._exchange() as association:
            services.set_attribute(association, ref, value)

    def execute(self, ref: AttributeRef, parameter: TypedValue | None = None) -> Value:
        """Invoke a method. Raises ObjectError, ServiceRefused, LinkError."""
        with self._exchange() as association:
            return services.execute(association, ref, parameter)


def _counts(register: Register, value: Value) -> bool:
    """Whether the scaler matters: text, times and the like have none."""
    return bool(register.settings.path) or (isinstance(value, (int, float)) and not isinstance(value, bool))
