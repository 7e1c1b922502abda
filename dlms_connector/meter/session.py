"""One meter's session: open, read, write, execute, close; one association at a time.

The session talks to its meter through a channel that somebody else made (TCP, serial, shared line or, one
day, a meter that dialled in). It keeps what it learned: scalers, units, whether lists work. Every LinkError
ends the association; opening anew is the poller's decision.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem import services
from dlms_connector.cosem.association import Association, AssociationParameters
from dlms_connector.cosem.exceptions import InvocationCounterRefused
from dlms_connector.cosem.services import AttributeRef, Selection
from dlms_connector.cosem.values import TypedValue, Value, decode_typed
from dlms_connector.errors import (
    AssociationError,
    DlmsConnectorError,
    Interrupted,
    Layer,
    LinkClosed,
    LinkError,
    LinkTimeout,
    ObjectError,
    SecurityError,
    ServiceRefused,
)
from dlms_connector.link.channel import Channel
from dlms_connector.link.line import Priority
from dlms_connector.meter.counters import InvocationCounters
from dlms_connector.meter.parameters import association_parameters, public_client
from dlms_connector.meter.plan import Batch, ReadPlan, Register
from dlms_connector.meter.reader import FACT_ABILITIES, RegisterReader
from dlms_connector.meter.reading import Reading
from dlms_connector.state import StateStore

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
        self._invoke_id = 0
        identity = f"{device.device_name}/{device.client.address}"
        self._counters = InvocationCounters(state, identity, on_event)
        abilities = state.get_all(device.device_name, FACT_ABILITIES)
        self._reader = RegisterReader(device, self.plan, state, on_event)
        self._releases = abilities.get("release", True)
        self._lost_releases = 0

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
            lists = self._reader.lists and association.conformance.multiple_references
            room = association.max_request_bytes
            self.plan.fit(max(1, room - association.overhead_bytes) if room else 0, lists)

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
        if self.channel.is_open:
            self.channel.close(deadline_s)
        self.channel.abandon()

    def _release_lost(self) -> None:
        """The link is gone with the wait. A meter that never answers gets its DISC alone from now on."""
        self._lost_releases += 1
        if self._lost_releases >= _LOST_RELEASES:
            self._releases = False
            self.state.put(self.device.device_name, FACT_ABILITIES, "release", False)
            self._on_event("the meter does not answer a release; the link alone is closed from now on")

    def abandon(self) -> None:
        """Forget the association without a word to the meter."""
        self._forget_association()
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
        """Read one batch of the plan; refused registers are marked and left out.

        Raises:
            LinkError: the association is over.
            ServiceRefused: the meter does not do GET at all.
        """
        try:
            results = self._reader.read(self._require_association(), batch)
        except LinkError:
            self.abandon()
            raise
        ts_ms = self._wall_ms()
        columns = batch.columns
        filled = columns.fill(results, ts_ms) if columns is not None else None
        return self._readings(batch, results, ts_ms) if filled is None else filled

    def _readings(self, batch: Batch, results: Sequence[Value | ObjectError], ts_ms: int) -> list[Reading]:
        """Results of any kind, one by one."""
        readings = []
        for register, result in zip(batch.registers, results, strict=True):
            if isinstance(result, ObjectError):
                self._set_aside(register, result)
                continue
            if register.exponent is None:
                continue
            readings.append(Reading(register.key, register.present(result), register.unit, ts_ms))
        return readings

    def learn_scalers(self, registers: Sequence[Register]) -> None:
        """Read scalers and units not known yet, also of registers outside the plan. Raises LinkError."""
        with self._exchange() as association:
            self._reader.learn_scalers(association, [item for item in registers if item.needs_scaler])

    def _set_aside(self, register: Register, error: ObjectError) -> None:
        """What the meter refuses for good is asked again rarely; the rest with the next cycle."""
        if not error.transient:
            register.refused_until_s = self._clock() + self.device.refused_register_period_ms / 1000
            self._on_event(f'"{register.key}" is set aside: {error.explain()}')

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
