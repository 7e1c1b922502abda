"""Hours in minutes: 200 meters, one answer in twenty spoilt; memory and descriptors have to stay flat.

The meters live in a process of their own, so what is measured is the connector alone (no gateway around it). Four times
in the warm-up all of them fail at once, so that what this takes of memory is not taken later, by chance.
`python benchmarks/soak.py [--minutes 30]` ends with 1 when something was wrong, or rose more than it may.

Three figures tell what memory does. `objects` are the interpreter's blocks in use after a full collection and
`malloc` what the C library has handed out: these two are what is held, and a leak shows there first. `RSS` is what
the system has given; it also moves with the allocators' spare room, above all by the arenas of 1 MiB that the
interpreter takes and gives back. The C library's allocator is set as in tb-gateway.service, with
`--allocator plain` not at all.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import random
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from report import ALLOCATOR, arguments, keep, machine, service_environment, show  # noqa: E402

from dlms_connector.config.loader import load_document  # noqa: E402
from dlms_connector.io.gate import Gate  # noqa: E402
from dlms_connector.io.stream import Interrupt  # noqa: E402
from dlms_connector.meter.links import Lines, make_channel  # noqa: E402
from dlms_connector.meter.profile.reader import ProfileReader  # noqa: E402
from dlms_connector.meter.profile.task import ProfileTask  # noqa: E402
from dlms_connector.meter.session import MeterSession  # noqa: E402
from dlms_connector.polling.poller import DevicePoller  # noqa: E402
from dlms_connector.polling.ports import Surroundings  # noqa: E402
from dlms_connector.simulator.faults import Fault, FaultKind  # noqa: E402
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402
from dlms_connector.simulator.quantities import scaled_value  # noqa: E402
from dlms_connector.state import StateStore  # noqa: E402

FAULT_SHARE = 0.05
PERIOD_MS = 1000
KINDS = (
    FaultKind.SILENT,
    FaultKind.CLOSE,
    FaultKind.RESET,
    FaultKind.HALF_CLOSE,
    FaultKind.TRUNCATED,
    FaultKind.GARBAGE,
    FaultKind.BAD_FCS,
    FaultKind.WRONG_ADDRESS,
    FaultKind.WRONG_INVOKE_ID,
    FaultKind.DUPLICATE,
    FaultKind.EXCEPTION,
)
STORMS_S = (15.0, 30.0, 45.0, 60.0)
"""When every meter spoils an answer at the same time, in the warm-up: what memory that takes is taken then."""
STORM_KINDS = (FaultKind.SILENT, FaultKind.RESET, FaultKind.SILENT, FaultKind.HALF_CLOSE)
WARM_UP_SHARE = 0.2
SAMPLE_S = 5.0
SHOWN_ERRORS = 5


@dataclass(frozen=True)
class Bound:
    """How far a figure may rise from the warm-up to the end: for its own restlessness, and with time."""

    at_once: float
    an_hour: float


BOUNDS = {
    # An arena may come to stay: a machine that stalls has all meters fail together once more.
    "RSS MiB": Bound(1.0, 2.0),
    "objects": Bound(1_000, 2_000),
    "malloc MiB": Bound(0.25, 1.0),
    "descriptors": Bound(2.0, 0.0),
    "threads": Bound(0.0, 0.0),
}


def serve(pipe: Connection, count: int) -> None:
    """The meters' process: tells the ports, spoils answers until told to end, then tells its totals."""
    lines = tuple(
        LineSettings((MeterSettings(f"{index:08d}"),), framing=HDLC if index % 2 else WRAPPER)
        for index in range(1, count + 1)
    )
    rng = random.Random(7)
    with SimulatedFleet(FleetSettings(lines)) as fleet:
        pipe.send({serial: fleet.port(serial) for serial in fleet.serials})
        spoilt = 0
        began_s = time.monotonic()
        storms = list(zip(STORMS_S, STORM_KINDS, strict=True))
        while not pipe.poll(0.2):
            if storms and time.monotonic() - began_s >= storms[0][0]:
                _, kind = storms.pop(0)
                for serial in fleet.serials:
                    fleet.inject(serial, Fault(kind, code=1))
                spoilt += count
            for serial in (serial for serial in fleet.serials if rng.random() < FAULT_SHARE * 0.2):
                fleet.inject(serial, Fault(rng.choice(KINDS), code=1))
                spoilt += 1
        totals = fleet.totals().meters
        pipe.send((spoilt, totals.associations_open_max, totals.associations_opened))


class Uplink:
    """Counts readings and compares each with the model."""

    def __init__(self) -> None:
        self.readings = 0
        self.rows = 0
        self.wrong = 0
        self._lock = threading.Lock()

    def deliver(self, device: Any, telemetry: Any, attributes: Any) -> bool:
        wrong = sum(not _is_true(device.device_name, reading) for reading in telemetry)
        with self._lock:
            self.readings += len(telemetry)
            self.wrong += wrong
        return True

    def deliver_rows(self, readings: Any) -> bool:
        with self._lock:
            self.rows += len(readings)
        return True

    def deliver_health(self, device: Any, health: Any, *, state_only: bool) -> None: ...

    def is_congested(self) -> bool:
        return False


def _is_true(name: str, reading: Any) -> bool:
    at_s = reading.ts_ms // 1000
    return any(float(reading.value) == scaled_value(name, reading.key, at_s - ago) for ago in range(-1, 6))


class Log:
    """Counts what pollers should never have to say."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def debug(self, msg: str, *args: object) -> None: ...

    info = warning = debug

    def error(self, msg: str, *args: object) -> None:
        self.count += 1
        if len(self.first) < SHOWN_ERRORS:
            self.first.append(msg % args)


def make_pollers(ports: dict[str, int], uplink: Uplink, log: Log) -> list[DevicePoller]:
    """A poller for each meter, with a load profile."""
    entries = [
        {
            "deviceName": serial,
            "transport": {
                "type": "tcp",
                "host": "127.0.0.1",
                "port": port,
                "framing": HDLC if int(serial) % 2 else WRAPPER,
                "serverPhysicalAddress": 17 if int(serial) % 2 else 0,
                "addressSize": 2,
            },
            "timeout": 500,
            "pollPeriod": PERIOD_MS,
            "timeseries": ["voltage_l1", "current_l1", "active_power", "active_energy"],
            "profiles": [{"obis": "1-0:99.1.0", "backfill": "1d", "pollPeriod": "30s"}],
            "backoff": {"initial": 100, "maximum": 2000},
            # Never open, yet its record of attempts is full within the warm-up.
            "breaker": {"reconnects": 10_000, "window": "1m"},
        }
        for serial, port in ports.items()
    ]
    loaded = load_document({"devices": entries})
    if loaded.errors:
        raise SystemExit("\n".join(map(str, loaded.errors)))
    state, lines = StateStore(None), Lines()
    around = Surroundings(uplink=uplink, log=log, gate=Gate(50))
    made = []
    for device in loaded.devices:
        line, interrupt = lines.line_for(device.transport), Interrupt()
        session = MeterSession(
            device,
            lambda client, device=device, line=line, interrupt=interrupt: make_channel(
                device, client, line, interrupt
            ),
            state,
            on_event=lambda _: None,
        )
        reader = ProfileReader(device, device.profiles[0], state)
        task = ProfileTask(reader, device, state, uplink.deliver_rows)
        made.append(DevicePoller(device, session, line, around, tasks=[task]))
    return made


class _MallocInfo(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def malloc_probe() -> Callable[[], float] | None:
    """Gives the MiB that malloc has handed out in all its arenas; None for another C library."""
    try:
        information = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return None
    information.restype = _MallocInfo

    def used_mib() -> float:
        state = information()
        return float(state.uordblks + state.hblkhd) / 2**20

    return used_mib


class Record:
    """The figures of this process over time, in arrays: a sample that is kept must be no object itself."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._malloc = malloc_probe()
        self._began_s = time.monotonic()
        self._at_s = array("d")
        self._figures: dict[str, array[float]] = {}

    def take(self) -> float:
        """Take a sample, and print one a minute; returns the seconds since the begin.

        A full collection comes first, as the gateway's storage has one after each pack: it also empties the
        interpreter's lists of freed tuples and floats, which grow to what once was in use at the same moment.
        """
        gc.collect()
        at_s = time.monotonic() - self._began_s
        figures: dict[str, float] = {
            "RSS MiB": self._process.memory_info().rss / 2**20,
            "objects": sys.getallocatedblocks(),
            "descriptors": self._process.num_fds(),
            "threads": threading.active_count(),
        }
        if self._malloc is not None:
            figures["malloc MiB"] = self._malloc()
        if not self._at_s or int(at_s / 60) > int(self._at_s[-1] / 60):
            told = ", ".join(f"{name} {value:.6g}" for name, value in figures.items())
            print(f"minute {int(at_s / 60)}: {told}", flush=True)
        self._at_s.append(at_s)
        for name, value in figures.items():
            self._figures.setdefault(name, array("d")).append(value)
        return at_s

    def trends(self) -> list[Trend]:
        """What each figure did after the warm-up."""
        settled_s = WARM_UP_SHARE * self._at_s[-1]
        return [
            Trend(
                name,
                [
                    point
                    for point in zip(self._at_s, self._figures[name], strict=True)
                    if point[0] > settled_s
                ],
            )
            for name in BOUNDS
            if name in self._figures
        ]


class Trend:
    """One figure after the warm-up: where it began and ended, its slope by least squares."""

    def __init__(self, name: str, points: list[tuple[float, float]]) -> None:
        self.name = name
        self.values = [value for _, value in points]
        self.slope = _slope(points)
        self._hours = (points[-1][0] - points[0][0]) / 3600

    @property
    def rise(self) -> float:
        """Along the fitted line, from the warm-up to the end."""
        return self.slope * self._hours

    @property
    def allowed(self) -> float:
        """How far it may rise."""
        bound = BOUNDS[self.name]
        return bound.at_once + bound.an_hour * self._hours

    @property
    def is_flat(self) -> bool:
        return self.rise <= self.allowed

    def row(self) -> dict[str, Any]:
        """The line of the table."""
        return {
            "name": self.name,
            "at 20 %": round(self.values[0], 2),
            "at the end": round(self.values[-1], 2),
            "least": round(min(self.values), 2),
            "most": round(max(self.values), 2),
            "an hour": round(self.slope, 2),
            "rise": round(self.rise, 2),
            "allowed": round(self.allowed, 2),
            "verdict": "flat" if self.is_flat else "RISES",
        }


def _slope(points: list[tuple[float, float]]) -> float:
    """Least squares, units an hour."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def use_allocator_of_the_service() -> None:
    """Start anew with the service's setting: the C library reads it once, before main()."""
    wanted = service_environment()
    if os.environ.get(ALLOCATOR, "") != wanted[ALLOCATOR]:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})  # noqa: S606 (no shell is wanted)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--meters", type=int, default=200)
    parser.add_argument("--allocator", choices=("service", "plain"), default="service")
    chosen = parser.parse_args()
    if chosen.allocator == "service":
        use_allocator_of_the_service()
    where = machine()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    meters = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, chosen.meters))
    meters.start()
    uplink, log = Uplink(), Log()
    pollers = make_pollers(ours.recv(), uplink, log)
    for poller in pollers:
        poller.start()
    record = Record()
    while record.take() < chosen.minutes * 60:
        time.sleep(SAMPLE_S)
    for poller in pollers:
        poller.stop()
    for poller in pollers:
        poller.thread.join(5)
    ours.send("end")
    spoilt, open_max, associations = ours.recv()
    meters.join()
    trends = record.trends()
    row: dict[str, Any] = {
        "minutes": chosen.minutes,
        "meters": chosen.meters,
        "allocator": os.environ.get(ALLOCATOR, "") or "as it comes",
        "readings": uplink.readings,
        "wrong": uplink.wrong,
        "profile values": uplink.rows,
        "faults": spoilt,
        "associations": associations,
        "open at once": open_max,
        "left running": sum(poller.thread.is_alive() for poller in pollers),
        "crashes": log.count,
    }
    show("Soak", [row])
    show("From the warm-up to the end", [trend.row() for trend in trends])
    keep("soak", [{**row, "trends": [trend.row() for trend in trends]}], where)
    for text in log.first:
        print(text)
    sound = not (uplink.wrong or log.count or row["left running"]) and open_max == 1
    sys.exit(0 if sound and all(trend.is_flat for trend in trends) else 1)


if __name__ == "__main__":
    main()
