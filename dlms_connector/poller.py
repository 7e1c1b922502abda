"""One thread a meter: schedule, command queue, and the life of the session.

The poller decides *when*: when to connect, read, answer a command, fill gaps, hang up. *How* is the session's
business. No fault ends it: the outer loop catches whatever the inner one did not foresee, says so, and starts
again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, DlmsConnectorError, Interrupted, LinkError, LinkTimeout
from dlms_connector.health import Backoff, Breaker, Health, MeterState, Watchdog
from dlms_connector.link.line import Line, Priority
from dlms_connector.link.stream import Interrupt
from dlms_connector.meter.plan import Register
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.schedule import Schedule, phase_of
from dlms_connector.meter.session import MeterSession

STACK_BYTES = 256 * 1024
START_SPREAD_S = 5.0
_LEAVE_S = 1.5
_CRASH_PAUSE_S = 5.0
_CONGESTED_PAUSE_S = 1.0
_TURN_PATIENCE_S = 600.0


class Log(Protocol):
    """The part of a logger that pollers use."""

    def debug(self, msg: str, *args: object) -> None: ...
    def info(self, msg: str, *args: object) -> None: ...
    def warning(self, msg: str, *args: object) -> None: ...
    def error(self, msg: str, *args: object) -> None: ...


class Uplink(Protocol):
    """Where readings go; implemented by the gateway's side."""

    def deliver(
        self, device: DeviceSettings, telemetry: Sequence[Reading], attributes: Sequence[Reading]
    ) -> bool:
        """Hand readings over; False when they were not taken (closed, refused)."""

    def deliver_health(self, device: DeviceSettings, health: Health, *, state_only: bool) -> None:
        """Tell the meter's health."""

    def is_congested(self) -> bool:
        """The gateway's queue is long: what can wait should."""


@dataclass(slots=True)
class Command:
    """Work that somebody else wants done with the meter, between two reads.

    `run` gets the open session; `done` is called exactly once, with the result or the error.
    """

    name: str
    run: Callable[[MeterSession], Any]
    done: Callable[[Any, DlmsConnectorError | None], None]
    deadline_s: float
    needs_meter: bool = True


class BackgroundTask(Protocol):
    """Work for quiet moments, in small steps: filling a load profile's gap."""

    def due_s(self) -> float:
        """Monotonic time from which a step is wanted; infinity for never."""

    def step(self, session: MeterSession) -> None:
        """One bounded exchange. Raises LinkError like any read."""


@dataclass(slots=True)
class _Stop:
    """Queue sentinel that wakes the poller."""


@dataclass(slots=True)
class Surroundings:
    """What all pollers of a connector share."""

    uplink: Uplink
    log: Log
    gate: threading.BoundedSemaphore
    clock: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    rng: random.Random = field(default_factory=random.Random)


class DevicePoller:
    """Polls one meter until stopped.

    Args:
        session: the meter's session, closed.
        line: the line that the meter may share with others.
        tasks: background work, asked in turn.
        announced: the device is already known to the server, so its health may be told before a reading.
    """

    def __init__(
        self,
        device: DeviceSettings,
        session: MeterSession,
        line: Line,
        around: Surroundings,
        *,
        tasks: Sequence[BackgroundTask] = (),
        announced: bool = False,
        on_announced: Callable[[], None] = lambda: None,
        on_first_reading: Callable[[], None] = lambda: None,
        predecessor: threading.Thread | None = None,
    ) -> None:
        self.device = device
        self.session = session
        self.health = Health()
        self.line = line
        self.idle_until_s = 0.0  # monotonic; long past: busy since then
        self._around = around
        self._tasks = tuple(tasks)
        self._announced = announced
        self._on_announced = on_announced
        self._on_first_reading = on_first_reading
        self._was_up = False
        self._predecessor = predecessor
        self._queue: SimpleQueue[Command | _Stop] = SimpleQueue()
        self._leaving = Interrupt()
        self._stopping = threading.Event()
        self._paused = False
        self._failing = False
        self._connected_before = False
        self._retry_s = 0.0
        self._owed: set[float] = set()
        self._sent_attributes: dict[str, Any] = {}
        self._static_sent = False
        self._health_due_s = 0.0
        now = around.clock()
        self._backoff = Backoff(device.backoff, around.rng)
        self._breaker = Breaker(device.breaker)
        self._watchdog = Watchdog(device.watchdog, now)
        self._schedule = self._make_schedule(now)
        self.thread = threading.Thread(target=self._run, name=f"dlms {device.device_name}", daemon=True)

    def _make_schedule(self, now: float) -> Schedule:
        periods = self.session.plan.periods_s
        spread = min([START_SPREAD_S, *periods])
        name = self.device.device_name
        return Schedule(
            periods,
            name,
            wall_s=self._around.wall_ms() / 1000,
            now_s=now,
            first_s=now + phase_of(name) * spread,
        )

    def start(self) -> None:
        """Start the thread, with a small stack: a thousand of them shall fit."""
        before = threading.stack_size(STACK_BYTES)
        try:
            self.thread.start()
        finally:
            threading.stack_size(before)

    def stop(self) -> None:
        """Ask the poller to leave politely; returns at once."""
        self._stopping.set()
        self._leaving.set()
        self._queue.put(_Stop())

    def interrupt(self) -> None:
        """Wake the poller out of whatever it waits for; for those that did not leave in time."""
        self.session.interrupt()

    def submit(self, command: Command) -> None:
        """Queue a command; it is answered even when the poller stops."""
        if self._stopping.is_set():
            command.done(None, CommandError("the connector is closing"))
            return
        self._queue.put(command)

    def pause(self) -> None:
        """Stop reading and release the meter until `resume`."""
        self._paused = True
        self._queue.put(Command("pause", lambda _: None, lambda *_: None, float("inf"), needs_meter=False))

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        self._retry_s = 0.0
        self._queue.put(Command("resume", lambda _: None, lambda *_: None, float("inf"), needs_meter=False))

    def probe(self) -> None:
        """Try an absent meter at once, whatever back-off and breaker say."""
        self._queue.put(
            Command("probe", lambda _: self.reconnect_now(), lambda *_: None, float("inf"), needs_meter=False)
        )

    def reconnect_now(self) -> None:
        """Forget back-off and breaker and try at once."""
        self._breaker = Breaker(self.device.breaker)
        self._backoff.reset()
        self._retry_s = 0.0

    def status(self) -> dict[str, str | int | float]:
        """Health under the keys that ThingsBoard sees; callable from any thread."""
        self._collect()
        return self.health.values()

    # The thread's own side begins here.

    def _run(self) -> None:
        self._await_predecessor()
        try:
            while not self._stopping.is_set():
                try:
                    self._live()
                except Interrupted:
                    continue
                except Exception as error:  # noqa: BLE001 (the supervisor: no fault ends a poller)
                    self._recover(error)
        finally:
            self._leave()

    def _await_predecessor(self) -> None:
        while self._predecessor is not None and not self._stopping.is_set():
            self._predecessor.join(0.05)
            if not self._predecessor.is_alive():
                self._predecessor = None

    def _recover(self, error: Exception) -> None:
        """Say what ended the inner loop and make a fresh start after a pause."""
        fault = error if isinstance(error, DlmsConnectorError) else DlmsConnectorError(f"{error!r}")
        self._around.log.error(
            "%s: the poller failed and starts again in %.0f s: %s",
            self.device.device_name,
            _CRASH_PAUSE_S,
            fault.explain(),
        )
        self.health.error(fault)
        self.session.abandon()
        # Not told to the uplink: it may be what failed.
        self.health.state = MeterState.OFFLINE
        self._retry_s = self._around.clock() + _CRASH_PAUSE_S
        self._stopping.wait(_CRASH_PAUSE_S)

    def _live(self) -> None:
        clock = self._around.clock
        while not self._stopping.is_set():
            self._serve_until(self._next_event_s())
            if self._stopping.is_set():
                return
            if self._paused:
                self._rest()
                continue
            now = clock()
            periods, lateness, missed = self._schedule.due(now)
            self.health.skipped_cycles += missed
            if periods:
                self.health.lateness_s = lateness
                self._owed.update(periods)
            away = now < self._retry_at_s
            if self._owed and not away:
                self._cycle()
            elif periods:
                self._count_cycle(False, 0.0)
            elif not away:
                self._background(now)
            self._tell_health(clock())

    def _next_event_s(self) -> float:
        """When something is to be done next."""
        if self._paused:
            return self._health_due_s if self.device.health.enabled else float("inf")
        if self.device.health.enabled and self._announced:
            return min(self._next_use_s, self._health_due_s)
        return self._next_use_s

    @property
    def _next_use_s(self) -> float:
        """When the meter is wanted next."""
        moments = [self._schedule.next_s]
        if self._owed:
            moments.append(self._retry_at_s)
        if self._tasks:
            moments.append(max(self._task_due_s, self._retry_at_s))
        return min(moments)

    @property
    def _task_due_s(self) -> float:
        """When background work is wanted; what can wait does so while the gateway's queue is long."""
        due_s = min((task.due_s() for task in self._tasks), default=float("inf"))
        if self._around.uplink.is_congested():
            return max(due_s, self._around.clock() + _CONGESTED_PAUSE_S)
        return due_s

    @property
    def _retry_at_s(self) -> float:
        """Before this moment the meter is left alone: back-off, breaker, or its own wish after an unclean end."""
        if self.session.is_open:
            return 0.0
        return max(self._retry_s, self.line.association_allowed_at_s(self.device.device_name))

    def _serve_until(self, moment_s: float) -> None:
        """Answer commands until the moment has come."""
        self.idle_until_s = moment_s
        while not self._stopping.is_set():
            wait_s = moment_s - self._around.clock()
            try:
                item = (
                    self._queue.get(timeout=min(max(wait_s, 0.0), 3600.0))
                    if wait_s > 0
                    else self._queue.get_nowait()
                )
            except Empty:
                if wait_s <= 0:
                    return
                continue
            if isinstance(item, Command):
                self._answer(item)
                if self._paused or self._retry_s == 0.0:
                    return

    def _cycle(self) -> None:
        """Read everything that is owed."""
        clock = self._around.clock
        began = clock()
        periods = tuple(self._owed)
        try:
            good = False
            for batch in self.session.plan.due(periods, began):
                with self._turn(Priority.PROBE if self._failing else Priority.POLL):
                    if not self.session.is_open and not self._connect():
                        self._count_cycle(False, 0.0)
                        return
                    readings = self.session.read(batch)
                good = self._deliver(batch.registers, readings) or good
                self._serve_waiting()
                if self._stopping.is_set():
                    return
        except Interrupted:
            raise
        except LinkError as error:
            self._link_failed(error)
            self._count_cycle(False, 0.0)
            return
        except DlmsConnectorError as error:
            self._report(error)
        self._owed.clear()
        self._count_cycle(good, (clock() - began) * 1000)
        self._distrust(clock())
        self._hang_up_in_time(clock())

    def _deliver(self, registers: Sequence[Register], readings: list[Reading]) -> bool:
        """Hand over what was read; True when there was anything good."""
        if not readings:
            return False
        attribute_keys = {register.key for register in registers if register.is_attribute}
        telemetry = readings
        attributes: list[Reading] = []
        if attribute_keys:
            telemetry = [reading for reading in readings if reading.key not in attribute_keys]
            attributes = [reading for reading in readings if reading.key in attribute_keys]
            attributes = [item for item in attributes if self._sent_attributes.get(item.key) != item.value]
        self._good(readings[-1].ts_ms)
        if (telemetry or attributes) and self._around.uplink.deliver(self.device, telemetry, attributes):
            self._sent_attributes.update((item.key, item.value) for item in attributes)
        return True

    def _answered(self) -> None:
        """Background work went well; where nothing else is read, that is what tells the meter's state."""
        if not self.session.plan.registers:
            self._failing = False
            self._good(self._around.wall_ms())

    def _good(self, ts_ms: int) -> None:
        """A reading arrived: the meter is online."""
        self.health.last_read_ms = ts_ms
        self._backoff.reset()
        self._breaker.succeeded()
        self._watchdog.good(self._around.clock())
        if not self._announced:
            self._announced = True
            self._on_announced()
        if self.device.static_attributes and not self._static_sent:
            static = [Reading(key, value, "", ts_ms) for key, value in self.device.static_attributes.items()]
            self._static_sent = self._around.uplink.deliver(self.device, [], static)
        if not self._was_up:
            self._was_up = True
            self._on_first_reading()
        if self.health.state is not MeterState.ONLINE:
            self.health.last_error = self.health.last_error_layer = ""
            self._go(MeterState.ONLINE)

    def _connect(self) -> bool:
        """Try to open the session: True when it stands."""
        clock = self._around.clock
        now = clock()
        rest_s = self._breaker.wait_s(now)
        if rest_s > 0:
            self._retry_s = now + rest_s
            self._go(MeterState.BREAKER_OPEN)
            return False
        if self._connected_before and self._failing:
            self.health.reconnects += 1
        if self._failing:
            self._breaker.attempt(now)
        else:
            self._go(
                MeterState.CONNECTING if self.health.state is not MeterState.ONLINE else MeterState.ONLINE
            )
        try:
            self._open()
        except LinkError as error:
            self._link_failed(error)
            return False
        except DlmsConnectorError as error:
            self._failed(error)
            return False
        self.health.connects += 1
        self._connected_before = True
        return True

    def _open(self) -> None:
        """Open the session; not too many meters at a time."""
        while not self._around.gate.acquire(timeout=0.5):
            if self._stopping.is_set():
                raise Interrupted("the connector is closing")
        try:
            self.session.open()
        finally:
            self._around.gate.release()

    @contextmanager
    def _turn(self, priority: Priority, deadline_s: float | None = None) -> Iterator[None]:
        """The line for us alone: a request's time runs from here on, not while others speak.

        Raises LinkTimeout when the turn does not come by the deadline, Interrupted when the poller is stopped.
        """
        self.session.priority = priority
        if not self.line.is_shared:
            yield
            return
        until_s = self._around.clock() + _TURN_PATIENCE_S
        owner = self.device.device_name
        turn = self.line.turn(
            owner, priority, deadline_s=min(deadline_s or until_s, until_s), interrupt=self._leaving
        )
        with turn:
            yield

    def _link_failed(self, error: LinkError) -> None:
        self.session.abandon()
        self._watchdog.link_error()
        self._failed(error)

    def _failed(self, error: DlmsConnectorError) -> None:
        """The meter is away: tell it once, and set the time of the next attempt."""
        if self._stopping.is_set():
            return
        now = self._around.clock()
        self._report(error)
        if not self._failing:
            self._failing = True
        self._breaker.failed(now)
        delay_s = self.device.transport.reassociation_delay_ms / 1000
        self._retry_s = now + max(self._backoff.next_pause_s(), delay_s, self._breaker.wait_s(now))
        self._go(MeterState.BREAKER_OPEN if self._breaker.wait_s(now) > 0 else MeterState.OFFLINE)

    def _report(self, error: DlmsConnectorError) -> None:
        if self.health.error(error):
            self._around.log.warning("%s: %s", self.device.device_name, error.explain())

    def _count_cycle(self, good: bool, latency_ms: float) -> None:
        self.health.cycle(good, latency_ms)
        if good:
            self._failing = False
        else:
            self._watchdog.failed_cycle()

    def _distrust(self, now: float) -> None:
        """Drop a link that looks open and gives nothing."""
        reason = self._watchdog.verdict(now)
        if reason is not None and self.session.is_open:
            self._around.log.warning("%s: fresh connection: %s", self.device.device_name, reason)
            self._close_session()
            self.line.drop_stream()

    def _hang_up_in_time(self, now: float) -> None:
        """Leave before the meter's inactivity timeout, or where the line holds one association only."""
        limit_ms = self.device.transport.inactivity_timeout_ms
        idle_s = self._next_use_s - now
        too_long = limit_ms is not None and idle_s > 0.8 * limit_ms / 1000
        if too_long or (self._must_yield and (idle_s > 0 or self.line.is_wanted)):
            self._close_session()

    @property
    def _must_yield(self) -> bool:
        """The line holds one association at a time and others want theirs."""
        return self.line.settings.exclusive and self.line.is_shared

    def _close_session(self) -> None:
        if self.session.is_open:
            with self._turn(Priority.POLL):
                self.session.close(self._around.clock() + _LEAVE_S)

    def _background(self, now: float) -> None:
        """One step of the first background task that is due."""
        if self._around.uplink.is_congested():
            return
        for task in self._tasks:
            if task.due_s() <= now:
                try:
                    with self._turn(Priority.PROBE if self._failing else Priority.BACKFILL):
                        if not self.session.is_open and not self._connect():
                            return
                        task.step(self.session)
                    self._answered()
                except Interrupted:
                    raise
                except LinkError as error:
                    self._link_failed(error)
                except DlmsConnectorError as error:
                    self._report(error)
                self._hang_up_in_time(self._around.clock())
                return

    def _serve_waiting(self) -> None:
        """Answer the commands that already wait, before the next batch."""
        while not self._queue.empty() and not self._stopping.is_set():
            item = self._queue.get()
            if isinstance(item, Command):
                self._answer(item)

    def _answer(self, command: Command) -> None:
        """Run one command; its `done` is called whatever happens."""
        clock = self._around.clock
        try:
            if clock() > command.deadline_s:
                raise CommandError(f"{command.name}: the meter was busy until the request had expired")
            if command.needs_meter:
                with self._turn_for(command):
                    self._reach_meter()
                    result = command.run(self.session)
                self._hang_up_in_time(clock())
            else:
                result = command.run(self.session)
        except Interrupted:
            command.done(None, CommandError("the connector is closing"))
        except LinkError as error:
            self._link_failed(error)
            command.done(None, error)
        except DlmsConnectorError as error:
            command.done(None, error)
        except Exception as error:  # noqa: BLE001 (the RPC boundary: a handler's fault is an answer)
            self._around.log.error("%s: %s failed: %r", self.device.device_name, command.name, error)
            command.done(None, DlmsConnectorError(f"{command.name} failed: {error!r}"))
        else:
            command.done(result, None)

    @contextmanager
    def _turn_for(self, command: Command) -> Iterator[None]:
        """A turn before all polls. Raises CommandError when it does not come before the command expires."""
        turn = self._turn(Priority.RPC, command.deadline_s)
        try:
            turn.__enter__()
        except LinkTimeout as error:
            raise CommandError(f"{command.name}: the line was busy until the request had expired") from error
        with ExitStack() as stack:
            stack.push(turn)
            yield

    def _reach_meter(self) -> None:
        if self.session.is_open:
            return
        now = self._around.clock()
        if self._paused:
            raise CommandError(f"{self.device.device_name} is paused", hint="resume it first")
        if self._retry_at_s > now:
            raise CommandError(f"the meter is away: {self.health.last_error}", hint="reconnect tries at once")
        if not self._connect():
            raise CommandError(f"the meter is away: {self.health.last_error}")

    def _rest(self) -> None:
        """Paused: no association, no reading."""
        self._close_session()
        self._owed.clear()
        now = self._around.clock()
        self._schedule.due(now)
        self._go(MeterState.PAUSED)
        self._tell_health(now)

    def _go(self, state: MeterState) -> None:
        """Change the state: one log line and one report for each change."""
        self.health.breaker = self._breaker.state(self._around.clock())
        if state is self.health.state:
            return
        before, self.health.state = self.health.state, state
        if state is MeterState.ONLINE or before is MeterState.ONLINE:
            self._around.log.info("%s: %s", self.device.device_name, state)
        else:
            self._around.log.debug("%s: %s", self.device.device_name, state)
        if self.device.health.enabled and self._announced and not self._stopping.is_set():
            self._collect()
            self._around.uplink.deliver_health(self.device, self.health, state_only=True)

    def _tell_health(self, now: float) -> None:
        settings = self.device.health
        if settings.enabled and now >= self._health_due_s:
            self._health_due_s = now + settings.period_ms / 1000
            if self._announced:
                self._collect()
                self._around.uplink.deliver_health(self.device, self.health, state_only=False)

    def _collect(self) -> None:
        health, session = self.health, self.session
        health.requests, health.responses = session.requests, session.responses
        health.bytes_sent = session.channel.bytes_sent
        health.bytes_received = session.channel.bytes_received
        health.breaker = self._breaker.state(self._around.clock())

    def _leave(self) -> None:
        """Release the meter, answer who still waits."""
        self.session.close(self._around.clock() + _LEAVE_S)
        self.health.state = MeterState.STOPPED
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return
            if isinstance(item, Command):
                item.done(None, CommandError("the connector is closing"))
