"""Finding out how an unknown meter wants to be talked to: tries in a sensible order, politely, within a time.

One association at a time, each released; pauses between the tries. Which try comes next follows from what
the ones before met: an address that is silent is left, one that says anything is asked for every client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from dlms_connector.config.loader import load_document
from dlms_connector.config.secrets import SecretRef
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import ConfigurationError, Layer
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.survey.attempt import Attempt, Outcome, Verdict

PUBLIC_CLIENT: Final = 16
CLIENTS: Final = (16, 1, 2, 17, 32, 48, 100, 102, 3, 18, 64)
MICROSTAR_PORT: Final = 3333
MICROSTAR_CLIENTS: Final = (1, 16, 17, 32)
WRAPPER_PORTS: Final = (1, 16, 17)
HLS_ORDER: Final = (5, 2, 6, 3, 4)
_QUICK_HLS: Final = 2
_WRONG_PASSWORDS: Final = 3
_SILENT_CLIENTS: Final = 2
_SERIAL_DIGITS: Final = 10_000


class Server(NamedTuple):
    """Where a meter may be: wrapper port (size 0), or HDLC logical and physical address of 1, 2 or 4 bytes."""

    logical: int
    physical: int = 0
    size: int = 0


HDLC_SERVERS: Final = (
    Server(0, 1, 1), Server(16, 0, 1), Server(17, 0, 1), Server(1, 17, 2), Server(1, 16, 2), Server(1, 1, 2),
    Server(1, 17, 4), Server(1, 16, 4), Server(1, 1, 4), Server(0, 1, 4), Server(0, 1, 2), Server(2, 0, 1),
    Server(32, 0, 1),
)  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """One combination to try; `mechanism` 2 to 6 only asks whether the client uses that HLS."""

    framing: str
    server: Server
    client: int
    authentication: str = "none"
    mechanism: int = 0

    def __str__(self) -> str:
        server = self.server
        if self.framing == "wrapper":
            where = f"wrapper, server port {server.logical}"
        else:
            where = f"HDLC, server {server.logical}/{server.physical} ({server.size} byte{'s' * (server.size > 1)})"
        how = (
            f"HLS {self.mechanism}?"
            if self.mechanism
            else {"low": "LLS"}.get(self.authentication, "no password")
        )
        return f"{where}, client {self.client}, {how}"


@dataclass(frozen=True)
class Finding:
    """A try and what came of it."""

    candidate: Candidate
    outcome: Outcome
    duration_s: float = 0.0


@dataclass(frozen=True)
class ProbePlan:
    """What to try.

    Args:
        transport: type, host and port of the line as in a device entry, without framing and addresses.
        clients, servers, framings: tried in this order.
        password: tried as LLS where the client is not the public one.
        template: named in the entry; what it says is overridden by each try.
        everything: go on after the first answer.
        recovery_s: pause after the meter was left without its farewell.
    """

    transport: dict[str, Any]
    framings: tuple[str, ...]
    servers: tuple[Server, ...] = HDLC_SERVERS
    wrapper_ports: tuple[int, ...] = WRAPPER_PORTS
    clients: tuple[int, ...] = CLIENTS
    password: SecretRef | None = None
    template: str | None = None
    everything: bool = False
    timeout_s: float = 7.0
    pause_s: float = 1.0
    recovery_s: float = 10.0
    limit_s: float = 300.0

    def entry(self, candidate: Candidate, name: str = "probed") -> dict[str, Any]:
        """The device entry of a candidate; the secret stays a reference."""
        server = candidate.server
        where: dict[str, Any] = {"framing": candidate.framing, "serverLogicalAddress": server.logical}
        if candidate.framing == "hdlc":
            where.update(serverPhysicalAddress=server.physical, addressSize=server.size)
            if self.transport["type"] == "serial":
                del where["framing"]
        client: dict[str, Any] = {"address": candidate.client, "authentication": candidate.authentication}
        if candidate.authentication == "low":
            client["password"] = str(self.password)
        entry: dict[str, Any] = {"deviceName": name}
        if self.template is not None:
            entry["template"] = self.template
        return {**entry, "transport": {**self.transport, **where}, "client": client}


def servers_for(serial_number: str) -> tuple[Server, ...]:
    """HDLC addresses that makers derive from the last digits of a serial number. Raises ValueError."""
    digits = "".join(filter(str.isdigit, serial_number))
    if not digits:
        raise ValueError("a serial number has digits")
    last_four = int(digits) % _SERIAL_DIGITS
    last_two = last_four % 100
    wanted = [Server(1, last_four, 4), Server(1, last_four + 1000, 4), Server(1, last_two + 16, 2)]
    return tuple(server for server in wanted if is_possible(server))


def is_possible(server: Server) -> bool:
    """Whether the address fits its size and means one station."""
    try:
        address = HdlcAddress(*server)
    except ValueError:
        return False
    return not address.is_broadcast and not address.is_no_station


@dataclass
class Prober:
    """Runs a plan.

    Args:
        on_try: told before each try.
        on_finding: told after it.
        attempt, sleep, clock: for tests.
    """

    plan: ProbePlan
    on_try: Callable[[Candidate], None] = lambda _: None
    on_finding: Callable[[Finding], None] = lambda _: None
    attempt: Callable[[DeviceSettings, int], Outcome] = lambda device, mechanism: Attempt(
        device, mechanism
    ).run()
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    findings: list[Finding] = field(default_factory=list)
    ended: str = ""
    """Why the probe stopped before everything was tried, empty otherwise."""
    _deadline_s: float = 0.0
    _wrong_passwords: int = 0

    @property
    def answers(self) -> list[Finding]:
        """The tries that ended in an association."""
        return [finding for finding in self.findings if finding.outcome.verdict is Verdict.ANSWERED]

    @property
    def best(self) -> Finding | None:
        """The answer to build on: with the password if there is one, and the most registers read."""

        def rank(finding: Finding) -> tuple[bool, int]:
            facts = finding.outcome.facts
            return finding.candidate.authentication != "none", len(facts.registers) if facts else 0

        return max(self.answers, key=rank, default=None)

    def run(self) -> None:
        """Try until something answers, everything was tried or the time is over.

        Raises:
            SecretError, ConfigurationError: the password or the template cannot be used.
        """
        self._deadline_s = self.clock() + self.plan.limit_s
        first_port, *other_ports = self.plan.wrapper_ports
        for framing in self.plan.framings:
            if framing == "wrapper":
                self._probe_clients("wrapper", Server(first_port), self.plan.clients)
            else:
                self._probe_hdlc()
            if self._is_over() or (self._anything_heard() and not self.plan.everything):
                return
        if "wrapper" in self.plan.framings:
            for port in other_ports:
                self._probe_clients("wrapper", Server(port), self.plan.clients)
                if self._is_over():
                    return

    def _anything_heard(self) -> bool:
        return any(self._was_heard(finding) for finding in self.findings)

    def _is_over(self) -> bool:
        if self.ended:
            return True
        if self.plan.everything:
            return False
        wanted = "none" if self.plan.password is None else "low"
        return any(answer.candidate.authentication == wanted for answer in self.answers)

    def _probe_hdlc(self) -> None:
        """Every address with the first client, then with the second; an address that answers with all."""
        for first in self.plan.clients[:2]:
            for server in self.plan.servers:
                finding = self._try(Candidate("hdlc", server, first, self._authentication(first)))
                if finding is None or self._is_over():
                    return
                if self._is_lost(finding):
                    return
                if self._was_heard(finding):
                    self._follow_up(finding)
                    rest = tuple(client for client in self.plan.clients if client != first)
                    if not self._is_over():
                        self._probe_clients("hdlc", server, rest)
                    if not self.plan.everything:
                        return
                if self._is_over():
                    return

    @staticmethod
    def _was_heard(finding: Finding) -> bool:
        """HDLC that connects is heard, even where the association request finds no answer."""
        connected = finding.candidate.framing == "hdlc" and finding.outcome.layer is Layer.ASSOCIATION
        return finding.outcome.heard or connected

    def _is_lost(self, finding: Finding) -> bool:
        """No use in going on with this framing: another language, or hung up twice in a row."""
        if finding.outcome.verdict is Verdict.CLOSED:
            last = [each.outcome.verdict for each in self.findings[-2:]]
            return last == [Verdict.CLOSED] * 2
        return finding.outcome.verdict is Verdict.RUBBISH

    def _probe_clients(self, framing: str, server: Server, clients: tuple[int, ...]) -> None:
        """Every client of one server; silence is given up after a few of them."""
        heard = framing == "hdlc"
        for number, client in enumerate(clients, 1):
            finding = self._try(Candidate(framing, server, client, self._authentication(client)))
            if finding is None:
                return
            heard = heard or finding.outcome.heard
            self._follow_up(finding)
            if self._is_over() or self._is_lost(finding) or (not heard and number >= _SILENT_CLIENTS):
                return

    def _authentication(self, client: int) -> str:
        usable = self.plan.password is not None and self._wrong_passwords < _WRONG_PASSWORDS
        return "low" if usable and client != PUBLIC_CLIENT else "none"

    def _follow_up(self, finding: Finding) -> None:
        """A client that wants another authentication is asked which."""
        for candidate in self._next_authentications(finding):
            if self._is_over():
                return
            following = self._try(candidate)
            if following is None or following.outcome.verdict is not Verdict.WANTS_AUTHENTICATION:
                return

    def _next_authentications(self, finding: Finding) -> Iterator[Candidate]:
        candidate, verdict = finding.candidate, finding.outcome.verdict
        if verdict is not Verdict.WANTS_AUTHENTICATION:
            return
        server, client = candidate.server, candidate.client
        if candidate.authentication == "low":
            yield Candidate(candidate.framing, server, client)
        order = HLS_ORDER if self.plan.everything else HLS_ORDER[:_QUICK_HLS]
        for mechanism in order:
            yield Candidate(candidate.framing, server, client, mechanism=mechanism)

    def _try(self, candidate: Candidate) -> Finding | None:
        """One try, with the pause before it; None when the time is over."""
        if self.findings:
            before = self.findings[-1].outcome
            rested = before.is_clean and before.verdict is not Verdict.UNREACHABLE
            self.sleep(self.plan.pause_s if rested else max(self.plan.pause_s, self.plan.recovery_s))
        left_s = self._deadline_s - self.clock()
        if left_s <= 0:
            self.ended = f"the time of {self.plan.limit_s:g} s is over"
            return None
        self.on_try(candidate)
        began_s = self.clock()
        outcome = self.attempt(self._device(candidate, min(self.plan.timeout_s, left_s)), candidate.mechanism)
        finding = Finding(candidate, outcome, self.clock() - began_s)
        self.findings.append(finding)
        self.on_finding(finding)
        if outcome.verdict is Verdict.WRONG_PASSWORD:
            self._wrong_passwords += 1
        lost = [each.outcome.verdict is Verdict.UNREACHABLE for each in self.findings[-2:]]
        if all(lost) and (len(lost) == len(self.findings) or len(lost) == 2):
            self.ended = "there is no connection to try anything on"
        return finding

    def _device(self, candidate: Candidate, timeout_s: float) -> DeviceSettings:
        entry = {**self.plan.entry(candidate), "timeout": max(100, int(timeout_s * 1000))}
        return load_entry(entry)


def load_entry(entry: dict[str, Any]) -> DeviceSettings:
    """The settings of one entry. Raises ConfigurationError with the first problem."""
    configuration = load_document({"devices": [entry]})
    if configuration.errors:
        problem = configuration.errors[0]
        raise ConfigurationError(f"{problem.path}: {problem.message}", hint=problem.hint)
    return configuration.devices[0]
