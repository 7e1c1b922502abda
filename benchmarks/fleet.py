"""N meters x 10 registers x period through the real gateway process to an MQTT stand-in.

Three processes: the gateway (measured), the simulated meters, and this one with the stand-in.
`python benchmarks/fleet.py` runs the rows of the promise; `--meters 300 --period 5` one of your own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import RESULTS, arguments, keep, machine, show  # noqa: E402

from dlms_connector.meter.schedule import phase_of  # noqa: E402
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.gateway_process import MEMORY_STORAGE, Connector, GatewayProcess, sqlite_storage  # noqa: E402
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn  # noqa: E402

CODES = (32, 52, 72, 31, 51, 71, 14, 1, 3, 9)  # value group C of 1-0:C.7.0
BASE_PORT = 12_000
_CLOCKS_DIFFER_S = 0.05  # the grid is kept in monotonic time, timestamps are wall time
BRIDGE_MS = (0.56, 1.1)
# meters, period s, round trip ms, storage
PROMISE = [
    (100, 5, 0, "sqlite"),
    (300, 5, 0, "sqlite"),
    (1000, 5, 0, "memory"),
    (1000, 5, 0, "sqlite"),
    (1000, 5, 50, "sqlite"),
    (1000, 15, 800, "sqlite"),
    (3000, 15, 0, "sqlite"),
    (10_000, 60, 0, "sqlite"),
]


def serve(count: int, latency_s: float, ready: Any, stop: Any) -> None:
    with SimulatedFleet(FleetSettings.uniform(count, base_port=BASE_PORT, latency_s=latency_s)) as fleet:
        ready.put(fleet.serials)
        stop.wait()


def configuration(serials: list[str], period_s: float) -> dict[str, Any]:
    return {
        "defaults": {
            "pollPeriod": int(period_s * 1000),
            "health": {"telemetry": []},
            "timeseries": [{"key": f"r{code}", "obis": f"1-0:{code}.7.0"} for code in CODES],
        },
        "devices": [
            {
                "deviceName": f"meter {serial}",
                "transport": {"type": "tcp", "host": "127.0.0.1", "port": BASE_PORT + index},
            }
            for index, serial in enumerate(serials)
        ],
    }


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def allow_descriptors(wanted: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


def measure(count: int, period_s: float, rtt_ms: float, storage: str, seconds: float) -> dict[str, Any]:
    """One row: everything counted from when all meters are up."""
    allow_descriptors(count * 4 + 2000)
    ready, stop = multiprocessing.Queue(), multiprocessing.Event()
    meters = multiprocessing.Process(target=serve, args=(count, rtt_ms / 1000, ready, stop), daemon=True)
    meters.start()
    serials = ready.get(timeout=120)
    with tempfile.TemporaryDirectory() as folder, ThingsBoardStandIn(keep_last=4) as server:
        kinds = {"memory": MEMORY_STORAGE, "sqlite": sqlite_storage()}
        gateway = GatewayProcess(
            Path(folder) / "gateway",
            server.port,
            [Connector("DLMS", configuration(serials, period_s))],
            storage=kinds[storage],
        )
        began = time.monotonic()
        with gateway:
            # the predicate is asked at every message: it must cost nothing
            up = server.wait_for(lambda: len(server.store.devices) >= count, 60 + period_s + count / 20)
            all_up_s = time.monotonic() - began
            row = {"meters": count, "period_s": period_s, "rtt_ms": rtt_ms, "storage": storage}
            if not up:
                return {**row, "error": f"{len(server.store.devices)} of {count} up after {all_up_s:.0f} s"}
            _settle(server, period_s)
            row |= _observe(server, gateway, serials, period_s, seconds)
            began = time.monotonic()
            gateway.stop()
            row["all_up_s"], row["stop_s"] = round(all_up_s, 1), round(time.monotonic() - began, 1)
    stop.set()
    meters.join(20)
    return row


def _settle(server: ThingsBoardStandIn, period_s: float) -> None:
    """Two periods, so that the backlog of the start is gone."""
    server.wait_for(lambda: False, max(2 * period_s, 10))


def _observe(
    server: ThingsBoardStandIn, gateway: GatewayProcess, serials: list[str], period_s: float, seconds: float
) -> dict[str, Any]:
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    readings = _readings(server)
    cpu, began = sum(process.cpu_times()[:2]), time.monotonic()
    peak_mb = 0.0
    while time.monotonic() - began < seconds:
        server.wait_for(lambda: False, 1.0)
        peak_mb = max(peak_mb, process.memory_info().rss / 1e6)
    wall = time.monotonic() - began
    cpu = sum(process.cpu_times()[:2]) - cpu
    arrived = _readings(server) - readings
    expected = len(serials) * wall / period_s * len(CODES)
    late, end_to_end = [], []
    now_ms = time.time() * 1000
    for serial in serials:
        name = f"meter {serial}"
        for ts_ms, arrival_ms in server.arrivals(name).get("r32", ()):
            if now_ms - ts_ms < seconds * 1000:
                into_s = (ts_ms / 1000 - phase_of(name) * period_s) % period_s
                late.append(into_s if into_s < period_s - _CLOCKS_DIFFER_S else 0.0)
                end_to_end.append((arrival_ms - ts_ms) / 1000)
    return {
        "delivered": round(arrived / expected, 4),
        "late_p50_s": round(percentile(late, 0.5), 3),
        "late_p99_s": round(percentile(late, 0.99), 3),
        "e2e_p50_s": round(percentile(end_to_end, 0.5), 3),
        "e2e_p99_s": round(percentile(end_to_end, 0.99), 3),
        "cpu_percent": round(100 * cpu / wall, 1),
        "rss_mb": round(peak_mb, 1),
        "threads": process.num_threads(),
        "ms_per_value": round(1000 * cpu / max(arrived, 1), 4),
    }


def _readings(server: ThingsBoardStandIn) -> int:
    """Values that arrived so far; health goes as attributes here, so telemetry is registers alone."""
    with server._lock:
        return sum(record.datapoint_count for record in server.store.devices.values())


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--meters", type=int, help="one row of your own instead of the promise's")
    parser.add_argument("--period", type=float, default=5.0, help="seconds")
    parser.add_argument("--rtt", type=float, default=0.0, help="round trip to the meters, ms")
    parser.add_argument("--storage", choices=["memory", "sqlite"], default="sqlite")
    parser.add_argument("--seconds", type=float, default=60.0, help="of observation, at least two periods")
    parser.add_argument("--max-meters", type=int, default=10_000, help="leave out larger rows")
    options = parser.parse_args()
    where = machine()
    plan = [row for row in PROMISE if row[0] <= options.max_meters]
    if options.meters:
        plan = [(options.meters, options.period, options.rtt, options.storage)]
    rows = []
    for count, period_s, rtt_ms, storage in plan:
        row = measure(count, period_s, rtt_ms, storage, max(options.seconds, 2 * period_s))
        print(row, flush=True)
        rows.append(row)
    good = [row for row in rows if "error" not in row]
    if good:
        show(
            f"Whole gateway process; the bridge took {BRIDGE_MS[0]} to {BRIDGE_MS[1]} ms of CPU per value",
            good,
        )
    if not options.meters:
        print(keep("fleet", rows, where))
        plot(good)


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    labels = [
        f"{row['meters']}\n{row['period_s']:g} s\n{row['rtt_ms']:g} ms\n{row['storage']}" for row in rows
    ]
    left.bar(labels, [row["cpu_percent"] for row in rows])
    left.set_ylabel("% of a core, whole gateway process")
    right.bar(labels, [row["rss_mb"] for row in rows])
    right.set_ylabel("MB resident")
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    figure.savefig(RESULTS / "fleet.png", dpi=100)


if __name__ == "__main__":
    main()
