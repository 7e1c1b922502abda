"""CPU and wall time of one GET, a list of ten and an association: ours, dlms-cosem, gurux_dlms.

Each peer runs in a process of its own against an equal simulated meter in yet another process, so the CPU time is
the client's alone. Values are decoded by every peer. The peers take turns of several hundred operations (ours, a peer,
ours, the next peer, ...), so that a machine that is slow for a second is slow for both sides of a ratio; the ratio is
the median over all such pairs, beside that of the best rounds.

All of them share one core: to wake a process on another core of a virtual machine takes its host's help, which costs
more than the whole exchange, is charged to whoever sends and varies with every run. `--core any` leaves it to the
system. What a bare socket takes to send the same request and to receive its answer stands beside the peers: no client
can be below it. `python benchmarks/client.py` takes about 5 minutes.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from meters import MeterProcess  # noqa: E402
from report import Bars, arguments, keep, machine, plot, show  # noqa: E402

from dlms_connector.simulator.fleet import FleetSettings  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402
from tests.support.simulated import (  # noqa: E402
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    SERIAL,
    clients,
    line_settings,
    secured_client,
)

CODES = ("32", "52", "72", "31", "51", "71", "14", "1", "3", "9")  # value group C of 1-0:C.7.0
OPERATIONS = ("get", "list10", "association")
PEERS = ("ours", "dlms-cosem", "dlms-cosem shipped", "gurux", "bare socket")
COUNTS = {"get": 600, "list10": 600, "association": 60}
"""Operations of one turn; the slow peers do a tenth of it, at least `_FEWEST`."""
_FEWEST = {"get": 30, "list10": 30, "association": 5}
_SLOW = ("gurux", "dlms-cosem shipped")
_TURN_S = 120.0


Turn = tuple[float, float]
"""CPU and wall microseconds an operation."""
Pair = tuple[Turn, Turn]
"""Ours and a peer's, one right after the other."""


class Peer:
    """One client: `open`, `get`, `list10`, `close`."""

    def open(self) -> None: ...
    def get(self) -> Any: ...
    def list10(self) -> Any: ...
    def close(self) -> None: ...


class Ours(Peer):
    """MeterSession, as a poller uses it."""

    def __init__(self, port: int, framing: str, ciphered: bool) -> None:
        from dlms_connector.config.loader import load_document
        from dlms_connector.io.stream import Interrupt
        from dlms_connector.meter.links import make_channel, make_line
        from dlms_connector.meter.session import MeterSession
        from dlms_connector.state import StateStore

        os.environ["EK"], os.environ["AK"] = ENCRYPTION_KEYS[0].hex(), AUTHENTICATION_KEYS[0].hex()
        transport: dict[str, Any] = {"type": "tcp", "host": "127.0.0.1", "port": port, "framing": framing}
        client: dict[str, Any] = {"address": 16}
        if ciphered:
            security = {
                "encryptionKey": "${env:EK}",
                "authenticationKey": "${env:AK}",
                "clientSystemTitle": CLIENT_TITLE.hex(),
            }
            client = {"address": 1, "authentication": "gmac", "security": security}
        keys = [{"key": c, "obis": f"1-0:{c}.7.0"} for c in CODES]
        document = {
            "devices": [{"deviceName": "m", "transport": transport, "client": client, "timeseries": keys}]
        }
        configuration = load_document(document)
        assert not configuration.errors, configuration.errors
        device = configuration.devices[0]
        line, interrupt = make_line(device.transport), Interrupt()
        self._session = MeterSession(
            device,
            lambda address: make_channel(device, address, line, interrupt),
            StateStore(Path(tempfile.mkdtemp()) / "state.sqlite"),
            on_event=lambda text: None,
        )

    def open(self) -> None:
        self._session.open()
        plan = self._session.plan
        self._ten = plan.due(plan.periods_s, 0.0)
        self._one = plan.batch([plan.registers[0]])[0]

    def get(self) -> Any:
        return [reading.value for reading in self._session.read(self._one)]

    def list10(self) -> Any:
        return [reading.value for batch in self._ten for reading in self._session.read(batch)]

    def close(self) -> None:
        self._session.close(time.monotonic() + 5)


class Stock(Peer):
    """dlms-cosem's own client."""

    def __init__(self, port: int, framing: str, ciphered: bool, silenced: bool) -> None:
        if silenced:
            silence_dlms_cosem()
        from dlms_cosem import cosem, enumerations
        from dlms_cosem.client import DlmsClient
        from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
        from dlms_cosem.security import HighLevelSecurityGmacAuthentication, NoSecurityAuthentication

        address = 1 if ciphered else 16

        def make(counter: int) -> DlmsClient:
            io = BlockingTcpIO("127.0.0.1", port)
            transport: Any = (
                TcpTransport(address, 1, io)
                if framing == "wrapper"
                else HdlcTransport(address, 1, io, server_physical_address=17)
            )
            if not ciphered:
                return DlmsClient(transport, NoSecurityAuthentication())
            return DlmsClient(
                transport,
                HighLevelSecurityGmacAuthentication(challenge_length=16),
                encryption_key=ENCRYPTION_KEYS[0],
                authentication_key=AUTHENTICATION_KEYS[0],
                client_system_title=CLIENT_TITLE,
                client_initial_invocation_counter=counter,
                meter_initial_invocation_counter=-1,
            )

        self._make = make
        self._counter = 1
        items = [
            cosem.CosemAttribute(enumerations.CosemInterface.REGISTER, cosem.Obis(1, 0, int(c), 7, 0), 2)
            for c in CODES
        ]
        self._one = items[0]
        self._ten = [cosem.CosemAttributeWithSelection(item, None) for item in items]

    def open(self) -> None:
        self._client = self._make(self._counter)
        self._client.connect()
        self._client.associate()

    def get(self) -> Any:
        from dlms_cosem.utils import parse_as_dlms_data

        return [parse_as_dlms_data(self._client.get(self._one))]

    def list10(self) -> Any:
        return [item.to_python() for item in self._client.get_many(self._ten).response_data]

    def close(self) -> None:
        self._client.release_association()
        self._client.disconnect()
        self._counter = self._client.client_invocation_counter + 1


def silence_dlms_cosem() -> None:
    class Quiet:
        def __getattr__(self, _: str) -> Callable[..., None]:
            return lambda *_, **__: None

    import importlib

    for name in ("client", "connection", "io", "state", "hdlc.connection", "hdlc.state", "security"):
        module = importlib.import_module(f"dlms_cosem.{name}")
        if hasattr(module, "LOG"):
            module.LOG = Quiet()


class Gurux(Peer):
    """gurux_dlms' client on a plain socket."""

    def __init__(self, port: int, framing: str, ciphered: bool) -> None:
        from gurux_dlms.enums import Authentication
        from gurux_dlms.objects import GXDLMSRegister

        from tests.support.gurux_client import GuruxClient
        from tests.support.gurux_security import gurux_security

        self._counter = 1

        def make() -> GuruxClient:
            if not ciphered:
                return GuruxClient(port, framing=framing)
            return GuruxClient(
                port,
                framing=framing,
                client=1,
                authentication=Authentication.HIGH_GMAC,
                security=gurux_security(counter=self._counter),
            )

        self._make = make
        self._items = [GXDLMSRegister(f"1.0.{c}.7.0.255") for c in CODES]

    def open(self) -> None:
        self._client = self._make()
        self._client.open()

    def get(self) -> Any:
        return [self._client.read(self._items[0], 2)]

    def list10(self) -> Any:
        return self._client.read_list([(item, 2) for item in self._items])

    def close(self) -> None:
        self._client.close()
        self._counter = self._client.client.ciphering.invocationCounter + 10


class BareSocket(Peer):
    """No client at all: the same bytes each time, one system call to send them and one to receive the answer.

    Only the wrapper without ciphering lets a request be sent again as it is.
    """

    def __init__(self, port: int, framing: str, ciphered: bool) -> None:
        if framing != "wrapper" or ciphered:
            raise ValueError("its requests bear numbers")
        from dlms_connector.cosem.acse import encode_aarq, encode_initiate, encode_rlrq
        from dlms_connector.cosem.services import AttributeRef, ListRequest, get_request
        from dlms_connector.io.wrapper import encode_wrapper
        from dlms_connector.obis import Obis

        refs = [AttributeRef(3, Obis(1, 0, int(c), 7, 0), 2) for c in CODES]
        initiate = encode_initiate(ciphered=False, max_pdu_size=65535, dedicated_key=None)
        apdus = (
            encode_aarq(0, initiate, ciphered=False),
            get_request(refs[0]),
            ListRequest(refs).apdu,
            encode_rlrq(None),
        )
        self._aarq, self._get, self._list10, self._rlrq = (encode_wrapper(16, 1, apdu) for apdu in apdus)
        self._address = ("127.0.0.1", port)

    def open(self) -> None:
        self._socket = socket.create_connection(self._address)
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._exchange(self._aarq)

    def get(self) -> Any:
        return [self._exchange(self._get)]

    def list10(self) -> Any:
        return [self._exchange(self._list10)] * len(CODES)

    def close(self) -> None:
        self._exchange(self._rlrq)
        self._socket.close()

    def _exchange(self, message: bytes) -> bytes:
        self._socket.send(message)
        return self._socket.recv(1024)


def make_peer(name: str, port: int, framing: str, ciphered: bool) -> Peer:
    if name == "ours":
        return Ours(port, framing, ciphered)
    if name == "gurux":
        return Gurux(port, framing, ciphered)
    if name == "bare socket":
        return BareSocket(port, framing, ciphered)
    return Stock(port, framing, ciphered, silenced=name == "dlms-cosem")


def take_turn(peer: Peer, operation: str, count: int) -> Turn:
    """CPU and wall microseconds per operation; the peer is open before and after."""

    def association() -> None:
        peer.open()
        peer.close()

    if operation == "association":
        peer.close()
        work: Callable[[], Any] = association
    else:
        work = peer.get if operation == "get" else peer.list10
        assert len(work()) == (1 if operation == "get" else 10)
    work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if operation == "association":
        peer.open()
    return cpu / count * 1e6, wall / count * 1e6


def _work(pipe: Connection, name: str, port: int, framing: str, ciphered: bool) -> None:
    """The peer's process: a turn for each (operation, count) that comes, until None."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)  # dlms-cosem as shipped logs to the output
    os.dup2(nowhere, 2)
    try:
        peer = make_peer(name, port, framing, ciphered)
        peer.open()
        pipe.send(None)
        while (order := pipe.recv()) is not None:
            pipe.send(take_turn(peer, *order))
        peer.close()
    except Exception as error:  # noqa: BLE001 (whatever a peer fails with is why it cannot)
        pipe.send(f"{type(error).__name__}: {error}"[:200])


class CannotError(Exception):
    """The peer cannot do it."""


class Player:
    """A peer in its process, with a meter of its own in another."""

    def __init__(self, pipe: Connection, name: str) -> None:
        self._pipe = pipe
        self._name = name
        self.answer()  # it is open

    def turn(self, operation: str, scale: float) -> Turn:
        """One turn: CPU and wall microseconds an operation. Raises CannotError."""
        share = scale / (10 if self._name in _SLOW else 1)
        self._pipe.send((operation, max(_FEWEST[operation], int(COUNTS[operation] * share))))
        cpu_us, wall_us = self.answer()
        return cpu_us, wall_us

    def answer(self) -> Any:
        if not self._pipe.poll(_TURN_S):
            raise CannotError("no answer")
        try:
            answer = self._pipe.recv()
        except EOFError as error:
            raise CannotError("its process ended") from error
        if isinstance(answer, str):
            raise CannotError(answer)
        return answer


@contextmanager
def playing(name: str, framing: str, ciphered: bool) -> Iterator[Player]:
    """A peer that is associated with its meter. Raises CannotError."""
    meter = MeterSettings(SERIAL, clients=clients(secured_client(5, 0x30)))
    context = multiprocessing.get_context("spawn")
    with MeterProcess(FleetSettings((line_settings(framing, meter),))) as meters:
        pipe, theirs = context.Pipe()
        port = meters.ports[SERIAL]
        process = context.Process(target=_work, args=(theirs, name, port, framing, ciphered), daemon=True)
        process.start()
        theirs.close()
        try:
            yield Player(pipe, name)
        finally:
            try:
                pipe.send(None)
            except OSError:
                pass  # it is gone already
            process.join(5)
            if process.is_alive():
                process.kill()


def compare(framing: str, ciphered: bool, rounds: int, scale: float) -> list[dict[str, Any]]:
    """All operations on one kind of link: a row for each operation and peer."""
    rows = []
    with ExitStack() as stack:
        ours = stack.enter_context(playing(PEERS[0], framing, ciphered))
        others: dict[str, Player] = {}
        cannot: dict[str, str] = {}
        for name in PEERS[1:]:
            try:
                others[name] = stack.enter_context(playing(name, framing, ciphered))
            except CannotError as error:
                cannot[name] = str(error)
        for operation in OPERATIONS:
            pairs: dict[str, list[Pair]] = {}
            for _ in range(rounds):
                for name, player in others.items():
                    if name in cannot:
                        continue
                    try:
                        pair = ours.turn(operation, scale), player.turn(operation, scale)
                    except CannotError as error:
                        cannot[name] = str(error)
                        continue
                    pairs.setdefault(name, []).append(pair)
            kind = {
                "operation": operation,
                "link": framing,
                "security": "auth+enc" if ciphered else "plain",
            }
            rows += table_rows(kind, pairs, cannot)
    return rows


def table_rows(
    kind: dict[str, Any],
    pairs: dict[str, list[Pair]],
    cannot: dict[str, str],
) -> list[dict[str, Any]]:
    """Ours against each peer: the fastest turn, the median of all, and both ratios."""
    all_ours = [ours for turns in pairs.values() for ours, _ in turns]
    rows = [{**kind, "peer": PEERS[0], **_times(all_ours), "ours_to_peer": 1.0, "ours_to_peer_best": 1.0}]
    for name in PEERS[1:]:
        if name in cannot or name not in pairs:
            rows.append({**kind, "peer": name, "cannot": cannot.get(name, "no turn")})
            continue
        turns = pairs[name]
        best = min(ours[0] for ours, _ in turns) / min(peer[0] for _, peer in turns)
        rows.append(
            {
                **kind,
                "peer": name,
                **_times([peer for _, peer in turns]),
                "ours_to_peer": round(statistics.median(ours[0] / peer[0] for ours, peer in turns), 3),
                "ours_to_peer_best": round(best, 3),
            }
        )
    return rows


def _times(turns: list[Turn]) -> dict[str, float]:
    return {
        "cpu_us": round(min(cpu for cpu, _ in turns), 1),
        "cpu_median_us": round(statistics.median(cpu for cpu, _ in turns), 1),
        "wall_us": round(min(wall for _, wall in turns), 1),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual operations of a turn")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each peer for each operation")
    parser.add_argument("--core", default="0", help="that all processes share, or any")
    options = parser.parse_args()
    where = machine()
    if options.core != "any":
        os.sched_setaffinity(0, {int(options.core)})
    rows: list[dict[str, Any]] = []
    for ciphered in (False, True):
        for framing in ("wrapper", "hdlc"):
            rows += compare(framing, ciphered, options.rounds, options.scale)
            print(f"{framing}, {'auth+enc' if ciphered else 'plain'}: done", flush=True)
    show(
        "CPU and wall time per operation, microseconds; ratio: ours / peer, median of pairs and of best", rows
    )
    name = "client_any_core" if options.core == "any" else "client"
    print(keep(name, rows, where))
    draw(name, rows)


def draw(name: str, rows: list[dict[str, Any]]) -> None:
    groups = list(dict.fromkeys((row["operation"], row["link"], row["security"]) for row in rows))
    cpu_us = {
        (row["operation"], row["link"], row["security"], row["peer"]): row.get("cpu_median_us")
        for row in rows
    }
    labels = ["\n".join(group) for group in groups]
    series = {peer: [cpu_us.get((*group, peer)) for group in groups] for peer in PEERS}
    plot(name, Bars("CPU microseconds, median", labels, series, logarithmic=True))


if __name__ == "__main__":
    main()
