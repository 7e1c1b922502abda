"""Host names to addresses, within a deadline and interruptible, whatever the system's resolver does."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field

from dlms_connector.errors import ConnectFailed, Layer, LinkTimeout
from dlms_connector.io.stream import Interrupt

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Resolved:
    """One address to try: AF_INET or AF_INET6 and what `socket.connect` takes."""

    family: int
    address: SocketAddress


@dataclass(slots=True, eq=False)
class _Lookup:
    """One running question to the system's resolver and those who wait for its answer."""

    waiting: list[threading.Event] = field(default_factory=list)
    found: list[Resolved] | None = None
    failure: str = ""


_running: dict[tuple[str, int], _Lookup] = {}
_running_lock = threading.Lock()


def resolve(host: str, port: int, deadline_s: float, interrupt: Interrupt) -> list[Resolved]:
    """All addresses of a host, asked anew at each call; literal addresses need no resolver.

    A resolver that hangs keeps one daemon thread per name, however often the name is asked for.

    Raises:
        ConnectFailed: the name is unknown (layer dns).
        LinkTimeout: the resolver did not answer in time (layer dns).
        Interrupted: by the interrupt.
    """
    if _is_ipv4(host):
        return [Resolved(socket.AF_INET, (host, port))]
    try:
        return _addresses(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, ValueError):
        pass
    done = threading.Event()
    lookup = _join(host, port, done)
    try:
        interrupt.watch(done.set)
        answered = done.wait(max(0.0, deadline_s - time.monotonic()))
    finally:
        interrupt.unwatch()
        _give_up(lookup, done)
    interrupt.check()
    if not answered:
        raise LinkTimeout(
            f"the name {host} was not resolved in time", layer=Layer.DNS, hint="check the DNS server"
        )
    if lookup.found is None:
        raise ConnectFailed(
            f"the name {host} cannot be resolved: {lookup.failure}",
            layer=Layer.DNS,
            hint="check the host name and the DNS server",
        )
    return lookup.found


def _is_ipv4(host: str) -> bool:
    """Four decimal numbers: most meters have such an address, and it needs no look at the system's resolver."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


def _addresses(host: str, port: int, flags: int) -> list[Resolved]:
    found = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags):
        if family == socket.AF_INET:
            found.append(Resolved(family, (str(address[0]), int(address[1]))))
        elif family == socket.AF_INET6 and len(address) == 4:
            found.append(Resolved(family, (str(address[0]), int(address[1]), address[2], address[3])))
    return found


def _join(host: str, port: int, done: threading.Event) -> _Lookup:
    """Waits with a question that is already being asked, or starts one."""
    with _running_lock:
        lookup = _running.get((host, port))
        if lookup is None:
            lookup = _Lookup()
            try:
                threading.Thread(
                    target=_ask, args=(host, port, lookup), name=f"resolve {host}", daemon=True
                ).start()
            except RuntimeError as error:
                raise ConnectFailed(
                    f"the name {host} cannot be asked for: {error}",
                    layer=Layer.DNS,
                    hint="the system gives the process no more threads",
                ) from error
            _running[host, port] = lookup
        lookup.waiting.append(done)
        return lookup


def _give_up(lookup: _Lookup, done: threading.Event) -> None:
    """A resolver that hangs for days must not collect those who have left."""
    with _running_lock:
        if done in lookup.waiting:
            lookup.waiting.remove(done)


def _ask(host: str, port: int, lookup: _Lookup) -> None:
    try:
        lookup.found = _addresses(host, port, 0)
    except (OSError, ValueError) as error:
        lookup.failure = getattr(error, "strerror", None) or str(error)
    finally:
        with _running_lock:
            _running.pop((host, port), None)
            for done in lookup.waiting:
                done.set()
