"""One thread a meter: schedule, command queue, background work.

The poller decides *when*: when to read, answer a command, fill gaps. Reaching the meter, and what follows from
success and failure, is `contact`'s; reading it the session's. No fault ends a poller: the outer loop catches whatever
the inner one did not foresee, says so, and starts again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, DlmsConnectorError, Interrupted, LinkError, LinkTimeout
from dlms_connector.io.line import Line, Priority
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.batch_result import BatchResult
from dlms_connector.meter.book import Book
from dlms_connector.meter.reading import Reading
from dlms_connector.meter.schedule import Schedule, phase_of
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.contact import LEAVE_S, Contact
from dlms_connector.polling.health import MeterState
from dlms_connector.polling.ports import BackgroundTask, Command, Errand, Surroundings

STACK_BYTES = 256 * 1024
_CRASH_PAUSE_S = 5.0
_CONGESTED_PAUSE_S = 1.0
UNSCALED_KEY = "dlms_unscaled"
UNBALANCED = "the book does not balance, so something was lost in silence (a fault of the connector)"
_SOON_S = 5.0  # a meter of a small fleet is read for the first time, or within its period


@dataclass(slots=True)
class _Stop:
    """Queue sentinel that wakes the poller."""


class DevicePoller:
    """Polls one meter until stopped.

    Args:
        session: the meter's session, closed.
        line: the line that the meter may share with others.
        tasks: background work, asked in turn.
        book: where the tasks count as well.
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
        book: Book | None = None,
        announced: bool = False,
        on_announced: Callable[[], None] = lambda: None,
        predecessor: threading.Thread | None = None,
    ) -> None:
        self.device = device
        self.session = session
        self.book = Book() if book is None else book
        self.idle_until_s = 0.0  # monotonic; long past: busy since then
        self._around = around
        self._errands = tuple(Errand(task, device.backoff.maximum_ms / 1000) for task in tasks)
        self._predecessor = predecessor
        self._queue: SimpleQueue[Command | _Stop] = SimpleQueue()
        self._leaving = Interrupt()
        self._left = False
        self._paused = False
        self._resting = False
        self._periods_waiting: set[float] = set()
        self._sent_attributes: dict[str, Any] = {}
        self._told_problems: dict[str, str] = {}
        self.contact = Contact(
            device,
            session,
            line,
            around,
            self._leaving,
            announced=announced,
            on_announced=on_announced,
        )
        self.health = self.contact.health
        self._schedule = self._make_schedule(around.clock())
        self.thread = threading.Thread(target=self._run, name=f"dlms {device.device_name}", daemon=True)

    def _make_schedule(self, now: float) -> Schedule:
        periods = self.session.plan.periods_s
        spread = max(self._around.start_spread_s, min([_SOON_S, *periods]))
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
        self._leaving.set()
        self._queue.put(_Stop())

    def interrupt(self) -> None:
        """Wake the poller out of whatever it waits for; for those that did not leave in time."""
        self.session.interrupt()

    def submit(self, command: Command) -> None:
        """Queue a command; it is answered even when the poller stops."""
        if self._leaving.is_set:
            command.done(None, CommandError("the connector is closing"))
            return
        self._queue.put(command)
        if self._left:
            self._refuse_waiting()  # it went away between the question above and the queue

    def pause(self) -> None:
        """Stop reading and release the meter until `resume`."""
        self._paused = True
        self._poke("pause", lambda _: None)

    def resume(self) -> None:
        """Read again."""
        self._paused = False
        self.contact.retry_s = 0.0
        self._poke("resume", lambda _: None)

    def forget(self) -> None:
        """Ask the meter again for everything that was learned of it; other meters' facts stay."""
        self._poke("forget", lambda session: session.forget_facts())

    def probe(self) -> None:
        """Try an absent meter at once, whatever back-off and breaker say."""
        self._poke("probe", lambda _: self.reconnect_now())

    def _poke(self, name: str, run: Callable[[MeterSession], Any]) -> None:
        """Have the thread look up from its queue, and do something that needs no meter."""
        self._queue.put(Command(name, run, lambda *_: None, float("inf"), needs_meter=False))

    def reconnect_now(self) -> None:
        """Forget back-off and breaker and try at once."""
        self.contact.forget_failures()

    def status(self) -> dict[str, str | int | float]:
        """Health under the keys that ThingsBoard sees; callable from any thread."""
        self.contact.collect()
        return {**self.health.values(), **self.book.values()}

    # The thread's own side begins here.

    def _run(self) -> None:
        self._await_predecessor()
        try:
            while not self._leaving.is_set:
                try:
                    self._live()
                except Exception as error:  # noqa: BLE001 (the supervisor: no fault ends a poller)
                    if not (isinstance(error, Interrupted) and self._leaving.is_set):
                        self._recover(error)
        finally:
            self._leave()

    def _await_predecessor(self) -> None:
        while self._predecessor is not None and not self._leaving.is_set:
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
        self._let_go()
        # Not told to the uplink: it may be what failed.
        self.health.state = MeterState.OFFLINE
        self.contact.retry_s = self._around.clock() + _CRASH_PAUSE_S
        try:
            self._leaving.sleep(_CRASH_PAUSE_S)
        except Interrupted:
            return  # stopped meanwhile; the loop sees it

    def _let_go(self) -> None:
        """Release the meter, politely if that is still possible, whatever state a fault left things in."""
        try:
            self.session.close(self._around.clock() + LEAVE_S)
        except Exception as error:  # noqa: BLE001 (the supervisor's own work: nothing may end the thread here)
            self._around.log.error("%s: cannot be left: %r", self.device.device_name, error)
            with suppress(Exception):
                self.session.abandon()

    def _live(self) -> None:
        clock = self._around.clock
        while not self._leaving.is_set:
            self._serve_until(self._next_event_s())
            if self._leaving.is_set:
                return
            if self._paused:
                self._rest()
                continue
            self._resting = False
            now = clock()
            periods, lateness, missed = self._schedule.due(now)
            self.health.skipped_cycles += missed
            if periods:
                self.health.lateness_s = lateness
                self._periods_waiting.update(periods)
            away = now < self.contact.retry_at_s
            if self._periods_waiting and not away:
                self._cycle()
            elif periods:
                self.contact.count_cycle(False, 0.0)
            elif not away:
                self._background(now)
            self.contact.tell_health(clock())

    def _next_event_s(self) -> float:
        """When something is to be done next."""
        if self._paused and not self._resting:
            return self._around.clock()
        if self._paused:
            return self.contact.health_due_s if self.device.health.enabled else float("inf")
        if self.device.health.enabled and self.contact.announced:
            return min(self._next_use_s, self.contact.health_due_s)
        return self._next_use_s

    @property
    def _next_use_s(self) -> float:
        """When the meter is wanted next."""
        moments = [self._schedule.next_s]
        if self._periods_waiting:
            moments.append(self.contact.retry_at_s)
        if self._errands:
            moments.append(max(self._task_due_s, self.contact.retry_at_s))
        return min(moments)

    @property
    def _task_due_s(self) -> float:
        """When background work is wanted; what can wait does so while the gateway's queue is long."""
        due_s = min((errand.due_s() for errand in self._errands), default=float("inf"))
        if self._around.uplink.is_congested():
            return max(due_s, self._around.clock() + _CONGESTED_PAUSE_S)
        return due_s

    def _serve_until(self, moment_s: float) -> None:
        """Answer commands until the moment has come."""
        self.idle_until_s = moment_s
        while not self._leaving.is_set:
            wait_s = moment_s - self._around.clock()
            try:
                item = self._queue.get(timeout=min(max(wait_s, 0.0), 3600.0))
            except Empty:
                if wait_s <= 0:
                    return
                continue
            if isinstance(item, Command):
                self._answer(item)
                if self._paused or self.contact.retry_s == 0.0:
                    return

    def _cycle(self) -> None:
        """Read everything that is owed."""
        clock = self._around.clock
        began = clock()
        batches = self.session.plan.due(tuple(self._periods_waiting), began)
        if not batches:
            self._periods_waiting.clear()  # all of it is set aside: no poll, so none that failed
            return
        open_keys = sum(len(batch.registers) for batch in batches)
        self.book.asked += open_keys
        try:
            good = False
            for batch in batches:
                with self.contact.turn(Priority.PROBE if self.contact.failing else Priority.POLL):
                    if not self.session.is_open and not self.contact.connect():
                        self.contact.count_cycle(False, 0.0)
                        return
                    result = self.session.read_batch(batch)
                open_keys -= self.book.count(
                    result, taken=self._deliver(batch.attribute_keys, result.readings)
                )
                good = bool(result.readings) or good
                self._tell_problems(result)
                self._serve_waiting()
                if self._leaving.is_set:
                    return
        except Interrupted:
            raise
        except LinkError as error:
            self.contact.link_failed(error)
            self.contact.count_cycle(False, 0.0)
            return
        except DlmsConnectorError as error:
            self.contact.report(error)
        finally:
            self.book.failed += open_keys  # those that nobody got round to
        self._periods_waiting.clear()
        self._tell_unscaled()
        self.contact.count_cycle(good, (clock() - began) * 1000)
        self.contact.distrust(clock())
        self.contact.hang_up_in_time(self._next_use_s)

    def _tell_problems(self, result: BatchResult) -> None:
        """One line for each key and reason that is new: what is held back or is no value is not silent."""
        if self._told_problems:
            for reading in result.readings:
                self._told_problems.pop(reading.key, None)
        if not result.held and not result.failed and not result.refused:
            return
        # What is refused for good was told when it was set aside.
        passing = {key: error for key, error in result.refused.items() if error.transient}
        log = self._around.log
        for key, error in {**passing, **result.held, **result.failed}.items():
            if self._told_problems.get(key) != error.message:
                self._told_problems[key] = error.message
                tell = log.info if key in passing else log.warning
                tell('%s: "%s" gave no value: %s', self.device.device_name, key, error.explain())

    def _tell_unscaled(self) -> None:
        """Which keys hold numbers without their scaler, as the attribute `dlms_unscaled`, whenever that changes."""
        if self.session.unscaled == self.session.facts.marked:
            return
        unscaled = set(self.session.unscaled)
        names = Reading(UNSCALED_KEY, ", ".join(sorted(unscaled)), "", self._around.wall_ms())
        if self._around.uplink.deliver(self.device, [], [names]):
            self.session.facts.mark(unscaled)

    def _deliver(self, attribute_keys: frozenset[str], readings: list[Reading]) -> bool:
        """Hand over what was read; False when the gateway did not take it."""
        if not readings:
            return True
        telemetry = readings
        attributes: list[Reading] = []
        if attribute_keys:
            telemetry = [reading for reading in readings if reading.key not in attribute_keys]
            attributes = [reading for reading in readings if reading.key in attribute_keys]
            attributes = [item for item in attributes if self._sent_attributes.get(item.key) != item.value]
        self.contact.good(readings[-1].ts_ms)
        if not telemetry and not attributes:
            return True
        taken = self._around.uplink.deliver(self.device, telemetry, attributes)
        if taken:
            self._sent_attributes.update((item.key, item.value) for item in attributes)
        return taken

    def _answered(self) -> None:
        """Background work went well; where nothing else is read, that is what tells the meter's state."""
        if not self.session.plan.registers:
            self.contact.failing = False
            self.contact.good(self._around.wall_ms())

    def _background(self, now: float) -> None:
        """One step of the background work that has been due for longest."""
        if self._around.uplink.is_congested():
            return
        due = [errand for errand in self._errands if errand.due_s() <= now]
        if not due:
            return
        errand = min(due, key=Errand.due_s)
        try:
            with self.contact.turn(Priority.PROBE if self.contact.failing else Priority.BACKFILL):
                if not self.session.is_open and not self.contact.connect():
                    return
                errand.step(self.session, self._around.clock)
            self._answered()
        except Interrupted:
            raise
        except LinkError as error:
            self.contact.link_failed(error)
        except DlmsConnectorError as error:
            self.contact.report(error)
        self.contact.hang_up_in_time(self._next_use_s)

    def _serve_waiting(self) -> None:
        """Answer the commands that already wait, before the next batch."""
        while not self._queue.empty() and not self._leaving.is_set:
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
                self.contact.hang_up_in_time(self._next_use_s)
            else:
                result = command.run(self.session)
        except Interrupted:
            command.done(None, CommandError("the connector is closing"))
        except LinkError as error:
            self.contact.link_failed(error)
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
        turn = self.contact.turn(Priority.RPC, command.deadline_s)
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
        if self.contact.retry_at_s > now:
            raise CommandError(f"the meter is away: {self.health.last_error}", hint="reconnect tries at once")
        if not self.contact.connect():
            raise CommandError(f"the meter is away: {self.health.last_error}")

    def _rest(self) -> None:
        """Paused: no association, no reading."""
        self.contact.close()
        self._periods_waiting.clear()
        now = self._around.clock()
        self._schedule.due(now)
        self.contact.go(MeterState.PAUSED)
        self.contact.tell_health(now)
        self._resting = True

    def _leave(self) -> None:
        """Release the meter, answer who still waits."""
        self._let_go()
        self.health.state = MeterState.STOPPED
        self._left = True
        self._refuse_waiting()
        if not self.book.balances:
            self._around.log.error("%s: %s: %s", self.device.device_name, UNBALANCED, self.book.values())

    def _refuse_waiting(self) -> None:
        """Answer every command that is in the queue; from `submit`'s thread too, once the poller has gone."""
        while True:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return
            if isinstance(item, Command):
                item.done(None, CommandError("the connector is closing"))
