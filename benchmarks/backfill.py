"""Load profiles filled while live polling goes on: rows a second, share of the wire, what the live polls feel of it.

On a simulated 9600-baud HDLC line that all meters share, and over TCP where nothing but CPU is the bound. In the same
run stock gurux_dlms and dlms-cosem read the same rows of the same meters, one meter after the other, and nothing
else. The meters and each reader have a process of their own. `python benchmarks/backfill.py` takes about 10 minutes.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from meters import MeterProcess  # noqa: E402
from pollers import BITS_A_BYTE, TIMESERIES, CountingUplink, Pollers, until  # noqa: E402
from report import Bars, arguments, keep, machine, percentile, plot, show  # noqa: E402

from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402

PROFILE = "1.0.99.1.0.255"
ROW_S = 900
ROWS_A_DAY = 86_400 // ROW_S
_DAY = timedelta(days=1)
_PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Scene:
    """Meters on a line (or each on a TCP port), and how much of their past is read.

    `baud` None: TCP without a bound. `period_s`: of the live polls. `live_s`: how long those are looked at alone.
    """

    meters: int
    days: int
    baud: int | None
    period_s: float
    live_s: float

    @property
    def framing(self) -> str:
        return HDLC if self.baud else WRAPPER

    @property
    def link(self) -> str:
        return f"HDLC, {self.baud} baud" if self.baud else "wrapper over TCP"

    def fleet(self) -> FleetSettings:
        """One line for all where there is a baud rate, else a port each."""
        meters = [
            MeterSettings(
                f"{index:08d}",
                physical_address=17 + index,
                profile_rows=(self.days + 2) * ROWS_A_DAY,
                profile_period_s=ROW_S,
            )
            for index in range(self.meters)
        ]
        if self.baud:
            return FleetSettings((LineSettings(tuple(meters), framing=HDLC, baud=self.baud),))
        return FleetSettings(tuple(LineSettings((meter,), framing=WRAPPER) for meter in meters))

    def transport(self, serial: str, port: int) -> dict[str, Any]:
        transport = {"type": "tcp", "host": "127.0.0.1", "port": port, "framing": self.framing}
        if self.baud:
            transport |= {"addressSize": 2, "serverPhysicalAddress": 17 + int(serial)}
        return transport

    def document(
        self, ports: dict[str, int], *, profiles: bool, live: bool = True, slice_: str = "1d"
    ) -> dict[str, Any]:
        profile = {"obis": "1-0:99.1.0", "backfill": f"{self.days}d", "slice": slice_}
        return {
            "defaults": {
                "pollPeriod": int(self.period_s * 1000),
                "timeout": 60_000,
                "timeseries": list(TIMESERIES) if live else [],
                "profiles": [profile] if profiles else [],
                "health": {"enabled": False},
            },
            "devices": [
                {"deviceName": serial, "transport": self.transport(serial, port)}
                for serial, port in ports.items()
            ],
        }

    def rows(self) -> int:
        """Rows of the days that are read, of all meters."""
        return self.meters * self.days * ROWS_A_DAY


@dataclass(frozen=True)
class Done:
    """What a reader did; picklable, it comes from its process. `late_s` is of each live poll."""

    rows: int
    values: int
    seconds: float
    cpu_s: float
    late_s: tuple[float, ...] = ()
    skipped: int = 0


def live(scene: Scene, ports: dict[str, int], ended: Callable[[], None]) -> Done:
    """Live polls and nothing beside them."""
    uplink = CountingUplink()
    with Pollers(scene.document(ports, profiles=False), uplink) as pollers:
        until(lambda: len(uplink.by_device) == scene.meters, _PATIENCE_S, "the first poll of all")
        skipped, cpu_s, from_s = pollers.skipped_cycles, time.process_time(), time.monotonic()
        time.sleep(scene.live_s)
        to_s = time.monotonic()
        cpu_s = time.process_time() - cpu_s
        ended()
        late_s = tuple(pollers.late_s(from_s, to_s))
        return Done(0, 0, to_s - from_s, cpu_s, late_s, pollers.skipped_cycles - skipped)


def ours(
    scene: Scene,
    ports: dict[str, int],
    ended: Callable[[], None],
    *,
    with_live_polls: bool = False,
    slice_: str = "1d",
) -> Done:
    """The profiles, until every row of the wanted days was handed over."""
    uplink = CountingUplink()
    wanted = scene.rows()
    document = scene.document(ports, profiles=True, live=with_live_polls, slice_=slice_)
    began_s, cpu_s = time.monotonic(), time.process_time()
    with Pollers(document, uplink) as pollers:
        until(lambda: len(uplink.rows) >= wanted, _PATIENCE_S, f"{wanted} rows")
        seconds, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        ended()
        late_s = tuple(pollers.late_s(began_s, began_s + seconds)) if with_live_polls else ()
        return Done(len(uplink.rows), uplink.row_values, seconds, cpu_s, late_s, pollers.skipped_cycles)


def _days(scene: Scene) -> Iterator[tuple[datetime, datetime]]:
    """The days before now, oldest first: what the connector asks for at once, too."""
    end = datetime.now(timezone.utc).replace(microsecond=0)
    for day in range(scene.days, 0, -1):
        yield end - day * _DAY + timedelta(seconds=1), end - (day - 1) * _DAY


def _timed(read: Callable[[], tuple[int, int]], ended: Callable[[], None]) -> Done:
    began_s, cpu_s = time.monotonic(), time.process_time()
    rows, values = read()
    done = Done(rows, values, time.monotonic() - began_s, time.process_time() - cpu_s)
    ended()
    return done


def gurux(scene: Scene, ports: dict[str, int], ended: Callable[[], None]) -> Done:
    """gurux_dlms' client, one association a meter, a day at a time."""
    from gurux_dlms.objects import GXDLMSProfileGeneric

    from tests.support.gurux_client import GuruxClient

    def read() -> tuple[int, int]:
        rows = values = 0
        for serial, port in ports.items():
            addresses: dict[str, Any] = (
                {"physical": 17 + int(serial), "address_size": 2} if scene.baud else {}
            )
            with GuruxClient(port, framing=scene.framing, **addresses) as client:
                profile = GXDLMSProfileGeneric(PROFILE)
                client.read(profile, 3)
                for start, end in _days(scene):
                    found = client.read_rows_by_range(profile, start, end)
                    rows += len(found)
                    values += sum(len(row) - 1 for row in found)
        return rows, values

    return _timed(read, ended)


def dlms_cosem(scene: Scene, ports: dict[str, int], ended: Callable[[], None]) -> Done:
    """dlms-cosem's client and its profile parser, its logging silenced, a day at a time."""
    from client import silence_dlms_cosem
    from dlms_cosem import cosem, enumerations
    from dlms_cosem.client import DlmsClient
    from dlms_cosem.cosem.capture_object import CaptureObject
    from dlms_cosem.cosem.selective_access import RangeDescriptor
    from dlms_cosem.io import BlockingTcpIO, HdlcTransport, TcpTransport
    from dlms_cosem.parsers import ProfileGenericBufferParser
    from dlms_cosem.security import NoSecurityAuthentication
    from dlms_cosem.utils import parse_as_dlms_data

    silence_dlms_cosem()
    profile = cosem.Obis(1, 0, 99, 1, 0)
    clock = cosem.CosemAttribute(enumerations.CosemInterface.CLOCK, cosem.Obis(0, 0, 1, 0, 0), 2)

    def attribute(number: int) -> Any:
        return cosem.CosemAttribute(enumerations.CosemInterface.PROFILE_GENERIC, profile, number)

    def read() -> tuple[int, int]:
        rows = values = 0
        for serial, port in ports.items():
            io = BlockingTcpIO("127.0.0.1", port)
            transport: Any = (
                HdlcTransport(16, 1, io, server_physical_address=17 + int(serial))
                if scene.baud
                else TcpTransport(16, 1, io)
            )
            client = DlmsClient(transport, NoSecurityAuthentication())
            client.connect()
            client.associate()
            columns = [
                cosem.CosemAttribute(enumerations.CosemInterface(kind), cosem.Obis.from_bytes(name), number)
                for kind, name, number, _ in parse_as_dlms_data(client.get(attribute(3)))
            ]
            parser = ProfileGenericBufferParser(columns, ROW_S // 60)
            for start, end in _days(scene):
                selection = RangeDescriptor(CaptureObject(clock, 0), start, end)
                buffer = parse_as_dlms_data(client.get(attribute(2), selection))
                found = parser.parse_entries(buffer)
                rows += len(found)
                values += sum(len(row) - 1 for row in found)
            client.release_association()
            client.disconnect()
        return rows, values

    return _timed(read, ended)


Reader = Callable[[Scene, dict[str, int], Callable[[], None]], Done]
LIVE, OURS, OURS_AND_LIVE = "live polls alone", "ours", "ours with live polls"
SHORT_SLICE = "2h"
"""Asked for at once, where the default is a day: a live poll waits for no more than that."""
READERS: dict[str, Reader] = {
    LIVE: live,
    OURS_AND_LIVE: partial(ours, with_live_polls=True),
    f"{OURS_AND_LIVE}, slice {SHORT_SLICE}": partial(ours, with_live_polls=True, slice_=SHORT_SLICE),
    OURS: ours,
    "gurux_dlms": gurux,
    "dlms-cosem": dlms_cosem,
}


def _work(pipe: Connection, name: str, scene: Scene, ports: dict[str, int]) -> None:
    try:
        pipe.send(READERS[name](scene, ports, lambda: pipe.send(None)))
    except Exception as error:  # noqa: BLE001 (whatever a peer fails with is its row)
        pipe.send(f"{type(error).__name__}: {error}"[:200])


def _run(name: str, scene: Scene) -> tuple[Done | str, int]:
    """What the reader did, or why it could not, and the bytes that the lines carried meanwhile."""
    context = multiprocessing.get_context("spawn")
    carried = 0
    with MeterProcess(scene.fleet()) as meters:
        pipe, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, name, scene, meters.ports), daemon=True)
        process.start()
        theirs.close()
        try:
            while (result := pipe.recv()) is None:
                carried = meters.bytes_carried()
        except EOFError:
            result = "its process ended"
        process.join(20)
        if process.is_alive():
            process.kill()
    return result, carried


def measure(scene: Scene) -> list[dict[str, Any]]:
    """A row for each reader; `ours_to_peer` compares seconds a row of `OURS` with the reader's."""
    done = {}
    for name in READERS:
        done[name] = _run(name, scene)
        print(f"{scene.link}: {name}: {done[name]}"[:150], flush=True)
    reference = done[OURS][0]
    base_s = reference.seconds / reference.rows if isinstance(reference, Done) else float("nan")
    return [_row(scene, name, result, carried, base_s) for name, (result, carried) in done.items()]


def _row(scene: Scene, name: str, result: Done | str, carried: int, base_s: float) -> dict[str, Any]:
    row: dict[str, Any] = {"link": scene.link, "meters": scene.meters, "reader": name}
    if isinstance(result, str):
        return row | {"cannot": result}
    if result.rows:
        row |= {
            "rows": result.rows,
            "rows_per_s": round(result.rows / result.seconds, 1),
            "values_per_s": round(result.values / result.seconds, 1),
            "bytes_per_row": round(carried / result.rows, 1),
            "cpu_us_per_row": round(result.cpu_s / result.rows * 1e6, 1),
            "ours_to_peer": round(base_s / (result.seconds / result.rows), 3),
        }
    if scene.baud:
        row["share_of_the_wire"] = round(carried * BITS_A_BYTE / scene.baud / result.seconds, 3)
    if result.late_s:
        row |= {
            "polls": len(result.late_s),
            "late_p50_s": round(percentile(result.late_s, 0.5), 3),
            "late_p99_s": round(percentile(result.late_s, 0.99), 3),
            "skipped": result.skipped,
        }
    return row


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--meters", type=int, default=4, help="with a load profile of rows of 15 minutes each"
    )
    parser.add_argument("--days", type=int, default=4, help="that are read over the slow line")
    parser.add_argument("--tcp-days", type=int, default=120, help="that are read over TCP")
    parser.add_argument("--baud", type=int, default=9600, help="of the slow line")
    parser.add_argument("--period", type=float, default=5.0, help="seconds, of the live polls on the line")
    parser.add_argument("--tcp-period", type=float, default=1.0, help="seconds, of the live polls over TCP")
    parser.add_argument("--seconds", type=float, default=30.0, help="of live polls alone, for comparison")
    options = parser.parse_args()
    where = machine()
    scenes = [
        Scene(options.meters, options.days, options.baud, options.period, options.seconds),
        Scene(options.meters, options.tcp_days, None, options.tcp_period, options.seconds),
    ]
    rows = [row for scene in scenes for row in measure(scene)]
    show("Load profiles; ratio: seconds a row, ours without live polls / reader", rows)
    print(keep("backfill", rows, where))
    plot("backfill", *(chart for scene in scenes for chart in _charts(scene, rows)))


def _charts(scene: Scene, rows: Sequence[dict[str, Any]]) -> Iterator[Bars]:
    here = [row for row in rows if row["link"] == scene.link and "cannot" not in row]
    readers = [row for row in here if "rows" in row]
    yield Bars(
        f"rows a second, {scene.link}",
        [row["reader"].replace(" ", "\n", 1) for row in readers],
        {"": [row["rows_per_s"] for row in readers]},
    )
    polling = [row for row in here if "polls" in row]
    yield Bars(
        f"seconds late, live polls, {scene.link}",
        [row["reader"].replace(" ", "\n", 1) for row in polling],
        {"p50": [row["late_p50_s"] for row in polling], "p99": [row["late_p99_s"] for row in polling]},
    )


if __name__ == "__main__":
    main()
