"""The state `connect` by fault: whatever keeps a connection from coming about, the meter is back soon after it ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from dlms_connector.io import resolver
from dlms_connector.simulator.fleet import HDLC, WRAPPER, SimulatedFleet
from tests.chaos.test_chaos import KEYS, TIMEOUT_MS, chaos_fleet, entry
from tests.support.chaos_proxy import ON_CONNECT, BlackHole, Chaos, ChaosProxy
from tests.support.pollers import Attempts, RunningPollers, wait_until
from tests.support.readers import device_settings, transport_of

HEALTHY = 4
PERIOD_S, CAP_S = 0.2, 0.2
RECOVERY_S = 3 * TIMEOUT_MS / 1000 + CAP_S + PERIOD_S + 1.5
"""An attempt that was under way, the longest pause, one period, and a loaded machine."""

Answer = Callable[[], list[Any]]


@dataclass
class Place:
    """Where a meter is said to be; `heal` brings it there."""

    port: int
    heal: Callable[[], None]
    host: str = "127.0.0.1"


@dataclass
class Names:
    """What the system's resolver says to each name; everything else it answers itself."""

    answers: dict[str, Answer] = field(default_factory=dict)

    def unknown(self, host: str) -> None:
        def answer() -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        self.answers[host] = answer

    def found(self, host: str, port: int) -> None:
        self.answers[host] = lambda: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def hanging(self, host: str, port: int) -> Callable[[], None]:
        """No answer at all until the function that is returned is called."""
        release = threading.Event()
        self.found(host, port)
        found = self.answers[host]

        def answer() -> list[Any]:
            release.wait(60)
            return found()

        self.answers[host] = answer
        return release.set


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    known = Names()
    system = socket.getaddrinfo

    def ask(host: str, port: int, *rest: Any, **options: Any) -> Any:
        if host not in known.answers:
            return system(host, port, *rest, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "not an address")
        return known.answers[host]()

    monkeypatch.setattr(resolver.socket, "getaddrinfo", ask)
    yield known
    assert not resolver._running


Trouble = Callable[[ExitStack, SimulatedFleet, str, Names], Place]


def proxy_that(kind: Chaos, delay_s: float = 0.0) -> Trouble:
    def make(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
        proxy = stack.enter_context(ChaosProxy(fleet.port(serial), delay_s=delay_s))
        proxy.on_connect = kind
        return Place(proxy.port, lambda: setattr(proxy, "on_connect", Chaos.PASS))

    return make


def nothing_listens(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    proxy = stack.enter_context(ChaosProxy(fleet.port(serial)))
    return Place(port, lambda: proxy.move(port))


def packets_are_dropped(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
    hole = BlackHole()
    stack.callback(hole.close)
    proxy = stack.enter_context(ChaosProxy(fleet.port(serial)))

    def heal() -> None:
        hole.close()
        proxy.move(hole.port)

    return Place(hole.port, heal)


def name_is_unknown(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
    names.unknown("unknown.example")
    port = fleet.port(serial)
    return Place(port, lambda: names.found("unknown.example", port), "unknown.example")


def name_hangs(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
    port = fleet.port(serial)
    release = names.hanging("hanging.example", port)
    stack.callback(release)
    return Place(port, release, "hanging.example")


def name_leads_nowhere(stack: ExitStack, fleet: SimulatedFleet, serial: str, names: Names) -> Place:
    hole = BlackHole()
    stack.callback(hole.close)
    names.found("moved.example", hole.port)
    port = fleet.port(serial)
    return Place(port, lambda: names.found("moved.example", port), "moved.example")


TROUBLES: dict[str, Trouble] = {
    **{kind.value: proxy_that(kind) for kind in ON_CONNECT if kind is not Chaos.LATE},
    "late, in time": proxy_that(Chaos.LATE, TIMEOUT_MS / 1000 * 0.5),
    "too late": proxy_that(Chaos.LATE, TIMEOUT_MS / 1000 * 1.3),
    "refused": nothing_listens,
    "black hole": packets_are_dropped,
    "name unknown": name_is_unknown,
    "name hangs": name_hangs,
    "name leads nowhere": name_leads_nowhere,
}
HARMLESS = (Chaos.BANNER.value, "late, in time")


@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
def test_every_fault_while_connecting(framing: str, names: Names) -> None:
    with ExitStack() as stack:
        fleet = stack.enter_context(chaos_fleet(framing, len(TROUBLES) + HEALTHY))
        table = dict(zip(fleet.serials, TROUBLES, strict=False))
        healthy = fleet.serials[len(table) :]
        places = {serial: TROUBLES[name](stack, fleet, serial, names) for serial, name in table.items()}
        running = RunningPollers(fleet)
        for serial, place in places.items():
            settings = entry(place.port, transport_of(fleet, serial, host=place.host))
            running.add(device_settings(fleet, serial, **settings))
        for serial in healthy:
            running.add(
                device_settings(fleet, serial, **entry(fleet.port(serial), transport_of(fleet, serial)))
            )
        attempts = {serial: Attempts(running.pollers[serial].session) for serial in table}

        def has_met_it(serial: str) -> bool:
            """It failed twice, or got through in spite of it."""
            return running.count(serial) > 0 or len(attempts[serial].moments_s) > 2

        with running:
            running.wait_for_readings(healthy, 5 * len(KEYS))
            wait_until(lambda: all(has_met_it(serial) for serial in table))
            for serial, name in table.items():
                assert name in HARMLESS or not running.count(serial), name
            before = {serial: running.count(serial) for serial in table}
            began_s = time.monotonic()
            for place in places.values():
                place.heal()
            back_s: dict[str, float] = {}

            def look() -> bool:
                for serial, name in table.items():
                    if running.count(serial) >= before[serial] + 2 * len(KEYS):
                        back_s.setdefault(name, time.monotonic() - began_s)
                return len(back_s) == len(table)

            wait_until(look, 15, lambda: f"not back: {set(table.values()) - set(back_s)}")
            assert max(back_s.values()) < RECOVERY_S, back_s
            running.check_values()
            running.check_punctual(healthy, PERIOD_S)
