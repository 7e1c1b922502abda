"""CPU and wall time of one GET, a list of ten and an association: ours, dlms-cosem, gurux_dlms.

Each peer runs in a process of its own against the same simulated meter in another process, so the CPU time is
the client's alone. Values are decoded by every peer. `python benchmarks/client.py`
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import arguments, keep, machine, show  # noqa: E402

from tests.support.simulated import (  # noqa: E402
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    SERIAL,
    clients,
    one_meter,
    secured_client,
)

CODES = ("32", "52", "72", "31", "51", "71", "14", "1", "3", "9")  # value group C of 1-0:C.7.0
OPERATIONS = ("get", "list10", "association")
PEERS = ("ours", "dlms-cosem", "dlms-cosem shipped", "gurux")
COUNTS = {"get": 3000, "list10": 3000, "association": 300}


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
        from dlms_connector.link.stream import Interrupt
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
            _silence_dlms_cosem()
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


def _silence_dlms_cosem() -> None:
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


def make_peer(name: str, port: int, framing: str, ciphered: bool) -> Peer:
    if name == "ours":
        return Ours(port, framing, ciphered)
    if name == "gurux":
        return Gurux(port, framing, ciphered)
    return Stock(port, framing, ciphered, silenced=name == "dlms-cosem")


def measure(peer: Peer, operation: str, count: int) -> tuple[float, float]:
    """CPU and wall microseconds per operation."""

    def association() -> None:
        peer.open()
        peer.close()

    if operation == "association":
        work: Callable[[], Any] = association
    else:
        peer.open()
        work = peer.get if operation == "get" else peer.list10
        assert len(work()) == (1 if operation == "get" else 10)
    for _ in range(count // 10):
        work()
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(count):
        work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if operation != "association":
        peer.close()
    return cpu / count * 1e6, wall / count * 1e6


def worker(name: str, port: int, framing: str, ciphered: bool, scale: float, result: str) -> None:
    peer = make_peer(name, port, framing, ciphered)
    figures = {}
    for operation in OPERATIONS:
        count = max(
            20, int(COUNTS[operation] * scale / (10 if name in ("gurux", "dlms-cosem shipped") else 1))
        )
        figures[operation] = measure(peer, operation, count)
    Path(result).write_text(json.dumps(figures))


def serve(framing: str, ready: Any, stop: Any) -> None:
    with one_meter(framing, clients=clients(secured_client(5, 0x30))) as fleet:
        ready.put(fleet.port(SERIAL))
        stop.wait()


def run(framing: str, ciphered: bool, name: str, scale: float) -> dict[str, tuple[float, float]] | None:
    """One peer against a fresh meter; None when the peer cannot do it."""
    ready, stop = multiprocessing.Queue(), multiprocessing.Event()
    server = multiprocessing.Process(target=serve, args=(framing, ready, stop), daemon=True)
    server.start()
    port = ready.get(timeout=20)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        words = [
            sys.executable,
            __file__,
            "--worker",
            name,
            str(port),
            framing,
            str(int(ciphered)),
            str(scale),
            str(result),
        ]
        done = subprocess.run(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=600, check=False
        )
        stop.set()
        server.join(10)
        if done.returncode or not result.exists():
            sys.stderr.write(f"{name} {framing} ciphered={ciphered}: {done.stderr.decode()[-400:]}\n")
            return None
        figures: dict[str, tuple[float, float]] = json.loads(result.read_text())
        return figures


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the usual number of operations")
    parser.add_argument(
        "--rounds", type=int, default=3, help="the best round counts: the machine may be busy"
    )
    options = parser.parse_args()
    where = machine()
    rows: list[dict[str, Any]] = []
    for ciphered in (False, True):
        for framing in ("wrapper", "hdlc"):
            best: dict[str, dict[str, tuple[float, float]]] = {}
            for name in PEERS:
                rounds = [run(framing, ciphered, name, options.scale) for _ in range(options.rounds)]
                done = [figures for figures in rounds if figures]
                if done:
                    best[name] = {
                        op: min((figures[op] for figures in done), key=lambda pair: pair[0])
                        for op in OPERATIONS
                    }
            rows += table_rows(best, framing, ciphered)
    show("CPU and wall time per operation, microseconds; ratio: ours / peer", rows)
    print(keep("client", rows, where))
    plot(rows)


def table_rows(best: dict[str, Any], framing: str, ciphered: bool) -> list[dict[str, Any]]:
    rows = []
    for operation in OPERATIONS:
        ours = best["ours"][operation][0]
        for name, figures in best.items():
            cpu, wall = figures[operation]
            rows.append(
                {
                    "operation": operation,
                    "link": framing,
                    "security": "auth+enc" if ciphered else "plain",
                    "peer": name,
                    "cpu_us": round(cpu, 1),
                    "wall_us": round(wall, 1),
                    "ours_to_peer": round(ours / cpu, 3),
                }
            )
    return rows


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from report import RESULTS

    groups = list(dict.fromkeys((row["operation"], row["link"], row["security"]) for row in rows))
    figure, axes = pyplot.subplots(figsize=(12, 5))
    for index, name in enumerate(PEERS):
        heights = [
            next(
                (
                    r["cpu_us"]
                    for r in rows
                    if (r["operation"], r["link"], r["security"], r["peer"]) == (*g, name)
                ),
                0,
            )
            for g in groups
        ]
        axes.bar([position + index * 0.2 for position in range(len(groups))], heights, 0.2, label=name)
    axes.set_yscale("log")
    axes.set_ylabel("CPU microseconds")
    axes.set_xticks(
        [position + 0.3 for position in range(len(groups))],
        ["\n".join(group) for group in groups],
        fontsize=7,
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(RESULTS / "client.png", dpi=100)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(
            sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5] == "1", float(sys.argv[6]), sys.argv[7]
        )
    else:
        main()
