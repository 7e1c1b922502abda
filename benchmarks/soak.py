"""Hours in minutes: 200 meters, one answer in twenty spoilt; memory and descriptors have to stay flat.

The meters live in a process of their own, so what is measured is the connector alone (no gateway around it).
`python benchmarks/soak.py [--minutes 30]`
"""

from __future__ import annotations

import multiprocessing
import random
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import psutil  # noqa: E402
from report import arguments, keep, machine, show  # noqa: E402

from dlms_connector.config.loader import load_document  # noqa: E402
from dlms_connector.link.stream import Interrupt  # noqa: E402
from dlms_connector.meter.links import Lines, make_channel  # noqa: E402
from dlms_connector.meter.profile import ProfileReader, ProfileTask  # noqa: E402
from dlms_connector.meter.session import MeterSession  # noqa: E402
from dlms_connector.poller import DevicePoller  # noqa: E402
from dlms_connector.simulator.faults import Fault, FaultKind  # noqa: E402
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402
from dlms_connector.simulator.quantities import scaled_value  # noqa: E402
from dlms_connector.state import StateStore  # noqa: E402
from dlms_connector.surroundings import Surroundings  # noqa: E402

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
WARM_UP_SHARE = 0.2


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
        while not pipe.poll(0.2):
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
        self.errors: list[str] = []

    def debug(self, msg: str, *args: object) -> None: ...

    info = warning = debug

    def error(self, msg: str, *args: object) -> None:
        self.errors.append(msg % args)


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
            "breaker": {"reconnects": 10_000},
        }
        for serial, port in ports.items()
    ]
    loaded = load_document({"devices": entries})
    if loaded.errors:
        raise SystemExit("\n".join(map(str, loaded.errors)))
    state, lines = StateStore(None), Lines()
    around = Surroundings(uplink=uplink, log=log, gate=threading.BoundedSemaphore(50))
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


def slope(samples: list[tuple[float, float]]) -> float:
    """Least squares, units an hour."""
    count = len(samples)
    mean_x = sum(x for x, _ in samples) / count
    mean_y = sum(y for _, y in samples) / count
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--meters", type=int, default=200)
    chosen = parser.parse_args()
    where = machine()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    meters = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, chosen.meters))
    meters.start()
    uplink, log = Uplink(), Log()
    pollers = make_pollers(ours.recv(), uplink, log)
    process = psutil.Process()
    for poller in pollers:
        poller.start()
    began_s = time.monotonic()
    samples: list[tuple[float, float, int, int]] = []
    while (elapsed_s := time.monotonic() - began_s) < chosen.minutes * 60:
        time.sleep(5)
        memory_mib = process.memory_info().rss / 2**20
        samples.append((elapsed_s, memory_mib, process.num_fds(), threading.active_count()))
    for poller in pollers:
        poller.stop()
    for poller in pollers:
        poller.thread.join(5)
    ours.send("end")
    spoilt, open_max, associations = ours.recv()
    meters.join()
    settled = [sample for sample in samples if sample[0] > WARM_UP_SHARE * chosen.minutes * 60]
    row = {
        "minutes": chosen.minutes,
        "meters": chosen.meters,
        "readings": uplink.readings,
        "wrong": uplink.wrong,
        "profile values": uplink.rows,
        "faults": spoilt,
        "associations": associations,
        "open at once": open_max,
        "MiB at 20 %": round(settled[0][1], 1),
        "MiB at the end": round(settled[-1][1], 1),
        "MiB/h": round(slope([(at, memory) for at, memory, _, _ in settled]), 2),
        "descriptors": f"{min(s[2] for s in settled)}..{max(s[2] for s in settled)}",
        "threads": f"{min(s[3] for s in settled)}..{max(s[3] for s in settled)}",
        "left running": sum(poller.thread.is_alive() for poller in pollers),
        "crashes": len(log.errors),
    }
    show("Soak", [row])
    keep("soak", [row], where)
    for text in log.errors[:5]:
        print(text)
    sys.exit(1 if uplink.wrong or log.errors or row["left running"] else 0)


if __name__ == "__main__":
    main()
