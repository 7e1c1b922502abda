"""The contact with one meter: reach it, back off, distrust it, hang up in time; and what the world is told of it.

Belongs to the poller's thread. The rules are `health`'s, the exchange is the session's; here is who decides
between them, and every change of the state that an operator sees.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import DlmsConnectorError, Layer, LinkError, LinkTimeout
from dlms_connector.io.line import Line, Priority
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.health import Backoff, Breaker, Health, MeterState, Watchdog
from dlms_connector.polling.ports import Surroundings

LEAVE_S = 1.5
_TURN_PATIENCE_S = 600.0
_ALONE = nullcontext()


class Contact:
    """What a poller does to have its meter, and what it knows of it.

    Args:
        leaving: set when the poller shall end; ends every wait here.
        announced: the device is already known to the server, so its health may be told before a reading.
    """

    def __init__(
        self,
        device: DeviceSettings,
        session: MeterSession,
        line: Line,
        around: Surroundings,
        leaving: Interrupt,
        *,
        announced: bool,
        on_announced: Callable[[], None],
    ) -> None:
        self.device = device
        self.session = session
        self.line = line
        self.health = Health()
        self.failing = False
        self.announced = announced
        self.retry_s = 0.0
        self.health_due_s = 0.0
        self._around = around
        self._leaving = leaving
        self._on_announced = on_announced
        self._connected_before = False
        self._static_sent = False
        self._backoff = Backoff(device.backoff, around.rng)
        self._breaker = Breaker(device.breaker)
        self._watchdog = Watchdog(device.watchdog, around.clock())

    def forget_failures(self) -> None:
        """Forget back-off and breaker: the next attempt is now."""
        self._breaker = Breaker(self.device.breaker)
        self._backoff.reset()
        self.retry_s = 0.0

    @property
    def retry_at_s(self) -> float:
        """Before this moment the meter is left alone: back-off, breaker, or its own wish after an unclean end."""
        if self.session.is_open:
            return 0.0
        return max(self.retry_s, self.line.association_allowed_at_s(self.device.device_name))

    def turn(self, priority: Priority, deadline_s: float | None = None) -> AbstractContextManager[object]:
        """The line for us alone: a request's time runs from here on, not while others speak.

        Entering raises LinkTimeout when the turn does not come by the deadline, Interrupted when the poller is
        stopped.
        """
        self.session.priority = priority
        if not self.line.is_shared:
            return _ALONE
        until_s = self._around.clock() + _TURN_PATIENCE_S
        owner = self.device.device_name
        return self.line.turn(
            owner, priority, deadline_s=min(deadline_s or until_s, until_s), interrupt=self._leaving
        )

    def connect(self) -> bool:
        """Try to open the session: True when it stands."""
        clock = self._around.clock
        now = clock()
        rest_s = self._breaker.wait_s(now)
        if rest_s > 0:
            self.retry_s = now + rest_s
            self.go(MeterState.BREAKER_OPEN)
            return False
        if self._connected_before and self.failing:
            self.health.reconnects += 1
        if self.failing:
            self._breaker.attempt(now)
        else:
            self.go(
                MeterState.CONNECTING if self.health.state is not MeterState.ONLINE else MeterState.ONLINE
            )
        try:
            self._open()
        except LinkError as error:
            self.link_failed(error)
            return False
        except DlmsConnectorError as error:
            self._failed(error)
            return False
        self.health.connects += 1
        self._connected_before = True
        return True

    def _open(self) -> None:
        """Open the session; not too many meters at a time."""
        with self._around.gate.place(self._leaving):
            self.session.open()

    def good(self, ts_ms: int) -> None:
        """A reading arrived: the meter is online."""
        self.health.last_read_ms = ts_ms
        self._backoff.reset()
        self._breaker.succeeded()
        self._watchdog.good(self._around.clock())
        if not self.announced:
            self.announced = True
            self._on_announced()
        if self.device.static_attributes and not self._static_sent:
            static = [Reading(key, value, "", ts_ms) for key, value in self.device.static_attributes.items()]
            self._static_sent = self._around.uplink.deliver(self.device, [], static)
        if self.health.state is not MeterState.ONLINE:
            self.health.last_error = self.health.last_error_layer = ""
            self.go(MeterState.ONLINE)

    def link_failed(self, error: LinkError) -> None:
        self.session.abandon()
        self._watchdog.link_error()
        self._failed(error)

    def _failed(self, error: DlmsConnectorError) -> None:
        """The meter is away: tell it once, and set the time of the next attempt."""
        if self._leaving.is_set:
            return
        now = self._around.clock()
        self.report(error)
        self.failing = True
        self._breaker.failed(now)
        delay_s = self.device.transport.reassociation_delay_ms / 1000
        self.retry_s = now + max(self._backoff.next_pause_s(), delay_s, self._breaker.wait_s(now))
        self.go(MeterState.BREAKER_OPEN if self._breaker.wait_s(now) > 0 else MeterState.OFFLINE)

    def report(self, error: DlmsConnectorError) -> None:
        if self.health.error(error):
            self._around.log.warning("%s: %s", self.device.device_name, error.explain())

    def count_cycle(self, good: bool, latency_ms: float) -> None:
        self.health.cycle(good, latency_ms)
        if good:
            self.failing = False
        else:
            self._watchdog.failed_cycle()

    def distrust(self, now: float) -> None:
        """End a link that looks open and gives nothing: the association first, the stream that others share next."""
        reason = self._watchdog.verdict(now)
        if reason is None or not self.session.is_open:
            return
        self.report(LinkError(reason, layer=Layer.SERVICE, hint="a fresh connection is tried"))
        self.go(MeterState.OFFLINE)
        self.close(fresh_stream=self._watchdog.in_vain)

    def hang_up_in_time(self, next_use_s: float) -> None:
        """Leave before the meter's inactivity timeout, or where the line holds one association only."""
        limit_ms = self.device.transport.inactivity_timeout_ms
        idle_s = next_use_s - self._around.clock()
        too_long = limit_ms is not None and idle_s > 0.8 * limit_ms / 1000
        if too_long or (self._must_yield and (idle_s > 0 or self.line.is_wanted)):
            self.close()

    @property
    def _must_yield(self) -> bool:
        """The line holds one association at a time and others want theirs."""
        return self.line.settings.exclusive and self.line.is_shared

    def close(self, *, fresh_stream: bool = False) -> None:
        """Leave the meter politely; where the line is not free for that, without a word.

        `fresh_stream` also ends the stream below: the next one is opened, and its host resolved, anew.
        """
        if not self.session.is_open:
            return
        try:
            with self.turn(Priority.POLL):
                self.session.close(self._around.clock() + LEAVE_S)
                if fresh_stream:
                    self.line.drop_stream()
        except LinkTimeout:
            self.session.abandon()

    def go(self, state: MeterState) -> None:
        """Change the state: one log line and one report for each change."""
        self.health.breaker = self._breaker.state(self._around.clock())
        if state is self.health.state:
            return
        before, self.health.state = self.health.state, state
        if state is MeterState.ONLINE or before is MeterState.ONLINE:
            self._around.log.info("%s: %s", self.device.device_name, state)
        else:
            self._around.log.debug("%s: %s", self.device.device_name, state)
        if self.device.health.enabled and self.announced and not self._leaving.is_set:
            self.collect()
            self._around.uplink.deliver_health(self.device, self.health, state_only=True)

    def tell_health(self, now: float) -> None:
        settings = self.device.health
        if settings.enabled and now >= self.health_due_s:
            self.health_due_s = now + settings.period_ms / 1000
            if self.announced:
                self.collect()
                self._around.uplink.deliver_health(self.device, self.health, state_only=False)

    def collect(self) -> None:
        health, session = self.health, self.session
        health.requests, health.responses = session.requests, session.responses
        health.bytes_sent = session.channel.bytes_sent
        health.bytes_received = session.channel.bytes_received
        health.breaker = self._breaker.state(self._around.clock())
