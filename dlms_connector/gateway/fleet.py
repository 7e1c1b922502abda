"""The running meters of one connector: lines, sessions and pollers, started and stopped together."""

from __future__ import annotations

import random
import resource
import threading
import time
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from dlms_connector.config.reading import ProfileSettings
from dlms_connector.config.settings import ConnectorSettings, DeviceSettings
from dlms_connector.errors import ConfigurationError
from dlms_connector.gateway.interpreter import INTERPRETER
from dlms_connector.gateway.uplink import GatewayUplink
from dlms_connector.io.gate import Gate
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.book import Book
from dlms_connector.meter.clock_check import ClockTask
from dlms_connector.meter.links import Lines, make_channel, server_key
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.task import ProfileTask
from dlms_connector.meter.session import MeterSession
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Log, Surroundings
from dlms_connector.state import StateStore
from dlms_connector.state.keeper import Keeper

_FACT_DEVICE = "device"
_POLITE_S = 1.6
_SELECT_LIMIT = 1024
_SPARE_DESCRIPTORS = 256
_DESCRIPTORS_A_METER = 2
_STARTS_A_S = 80.0
"""What the gateway announces beside all else: meters that are read sooner only take its time away."""

# Threads that still hold a meter, over all connectors of the process: a poller waits for its predecessor.
_holders: WeakValueDictionary[tuple[str, ...], threading.Thread] = WeakValueDictionary()
_holders_lock = threading.Lock()


class Fleet:
    """Every poller of one connector.

    Args:
        state: open for as long as the fleet lives; closed by `stop`.
    """

    def __init__(
        self, settings: ConnectorSettings, uplink: GatewayUplink, state: StateStore, log: Log
    ) -> None:
        self.pollers: dict[str, DevicePoller] = {}
        self._uplink = uplink
        self._state = state
        self._log = log
        self._lines = Lines()
        self._around = Surroundings(
            uplink=uplink,
            log=log,
            gate=Gate(settings.max_concurrent_connects),
            rng=random.Random(),  # noqa: S311 (jitter, no secret)
        )

    def start(self, devices: Iterable[DeviceSettings]) -> None:
        """Make and start a poller for each device."""
        devices = list(devices)
        self._allow_descriptors(len(devices))
        self._around.start_spread_s = len(devices) / _STARTS_A_S
        for device in devices:
            self._uplink.add_device(device)
            try:
                poller = self._make_poller(device)
            except ConfigurationError as error:
                self._log.error("%s cannot be polled: %s", device.device_name, error.explain())
                continue
            self.pollers[device.device_name] = poller
        INTERPRETER.suit(self, len(self.pollers))
        for poller in self.pollers.values():
            poller.start()

    def _allow_descriptors(self, meters: int) -> None:
        """Raise the soft limit of open files as far as a fleet of this size needs and the system lets it."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _SELECT_LIMIT + _SPARE_DESCRIPTORS + _DESCRIPTORS_A_METER * meters
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            self._log.warning(
                "the process may open %d files, %d meters may need %d: raise LimitNOFILE of the service",
                allowed,
                meters,
                wanted,
            )

    def _make_poller(self, device: DeviceSettings) -> DevicePoller:
        name = device.device_name
        line = self._lines.line_for(device.transport)
        interrupt = Interrupt()

        def event(text: str) -> None:
            self._log.info("%s: %s", name, text)

        session = MeterSession(
            device,
            lambda client: make_channel(device, client, line, interrupt),
            self._state,
            on_event=event,
        )

        def clock_seen(offset_s: float) -> None:
            self.pollers[name].health.clock_offset_s = offset_s

        book = Book()
        keeper = Keeper(event)
        identity = (*device.transport.line_key, server_key(device.transport))
        with _holders_lock:
            poller = DevicePoller(
                device,
                session,
                line,
                self._around,
                book=book,
                announced=bool(self._state.get_all(name, _FACT_DEVICE).get("announced")),
                on_announced=lambda: keeper.attempt(
                    lambda: self._state.put(name, _FACT_DEVICE, "announced", True)
                ),
                tasks=[
                    *(self._profile_task(device, profile, book, event) for profile in device.profiles),
                    ClockTask(device, clock_seen),
                ],
                predecessor=_holders.get(identity),
            )
            _holders[identity] = poller.thread
        return poller

    def _profile_task(
        self, device: DeviceSettings, profile: ProfileSettings, book: Book, event: Callable[[str], None]
    ) -> ProfileTask:
        reader = ProfileReader(device, profile, self._state, on_event=event)
        book.profiles.append(reader.book)
        return ProfileTask(reader, device, self._state, lambda rows: self._uplink.deliver_rows(device, rows))

    def stop(self, deadline_s: float) -> list[str]:
        """Stop every poller: politely first, by interruption then.

        Args:
            deadline_s: monotonic time by which this returns.

        Returns:
            The names of meters whose poller has not ended; it is silenced and ends by itself.
        """
        for poller in self.pollers.values():
            poller.stop()
        self._join(min(deadline_s, time.monotonic() + _POLITE_S))
        for poller in self._alive():
            poller.interrupt()
        self._join(deadline_s)
        INTERPRETER.release(self)
        left = self._alive()
        for poller in self.pollers.values():
            if poller not in left:
                self._lines.release(poller.device.transport)
        if not left:
            self._state.close()
        return [poller.device.device_name for poller in left]

    def _alive(self) -> list[DevicePoller]:
        return [poller for poller in self.pollers.values() if poller.thread.is_alive()]

    def _join(self, deadline_s: float) -> None:
        for poller in self._alive():
            poller.thread.join(max(0.0, deadline_s - time.monotonic()))
