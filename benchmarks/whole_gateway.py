"""One run of the real gateway process between simulated meters and an MQTT stand-in, and what is counted in it.

The gateway is one process (measured), the meters are others, the stand-in is this one. A window of whole cycles is
counted: every poll whose moment on the grid lies inside it is expected, and what comes of it is waited for until one
period after the window's end. So the share delivered is 1 exactly when nothing is missing.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from meters import MeterProcess, MetersFailed, allow_descriptors
from report import percentile, service_environment

from dlms_connector.gateway.status import STATUS_SUFFIX
from dlms_connector.meter.schedule import phase_of
from dlms_connector.simulator.fleet import FleetSettings
from dlms_connector.simulator.gateway_process import MEMORY_STORAGE, Connector, GatewayProcess, sqlite_storage
from dlms_connector.simulator.quantities import QUANTITIES
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn
from dlms_connector.simulator.thingsboard_record import DEFAULT_TYPE, DeviceRecord, Value
from dlms_connector.simulator.thingsboard_session import Store
from dlms_connector.state import state_file

CONNECTOR = "DLMS"
BRIDGE_MS = (0.56, 1.1)
"""CPU of the bridge that came before, ms a delivered value; measured before this project."""

_FIRST = ("32", "52", "72", "31", "51", "71", "14", "1", "3", "9")  # value group C of 1-0:C.7.0
REGISTERS = tuple(
    dict.fromkeys(
        [f"1-0:{code}.7.0" for code in _FIRST]
        + [f"1-0:{item.c}.{item.d}.{item.e}" for item in QUANTITIES.values()]
    )
)
_METERS_A_PROCESS = 4_000  # two descriptors each; a process often may not open more than 20,000
_CLOCKS_DIFFER_S = 0.05  # the grid is kept in monotonic time, timestamps are wall time
_SMOOTHING = 0.1  # of the latency, see health.Health.cycle
_STATUS_S = 5.0  # how often the connector writes its status, by default
_MIN_SETTLE_S = 10.0


class RunFailed(Exception):
    """The run did not get as far as its figures; `figures` is what can be told nevertheless."""

    def __init__(self, text: str, figures: dict[str, Any] | None = None) -> None:
        super().__init__(text)
        self.figures = figures or {}


@dataclass(frozen=True)
class Setup:
    """What is run: meters, registers each, period, round trip to the meters, the gateway's storage."""

    meters: int
    period_s: float = 5.0
    rtt_ms: float = 0.0
    storage: str = "sqlite"
    registers: int = 10

    @property
    def name(self) -> str:
        return f"{self.meters}x{self.period_s:g}s-rtt{self.rtt_ms:g}-{self.storage}"

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "meters": self.meters,
            "registers": self.registers,
            "period_s": self.period_s,
            "rtt_ms": self.rtt_ms,
            "storage": self.storage,
        }

    @property
    def patience_s(self) -> float:
        """Until all are up: the gateway announces a hundred devices a second at best, a tenth of that at worst."""
        return 60 + self.period_s + self.meters / 10


@dataclass
class PollRecord(DeviceRecord):
    """A device's telemetry as moments: ts in ms -> (registers that arrived as bits, first arrival in ms).

    Values are not kept, so minutes of thousands of meters fit; what is sent twice counts once.
    """

    moments: dict[int, tuple[int, int]] = field(default_factory=dict)

    def _keep(self, key: str, ts_ms: int, value: Value, arrival_ms: int, keep_last: int | None) -> None:
        bits, first_ms = self.moments.get(ts_ms, (0, arrival_ms))
        self.moments[ts_ms] = bits | 1 << int(key[1:]), first_ms


class PollStore(Store):
    """A store whose devices are `PollRecord`s."""

    def device(self, name: str, device_type: str = DEFAULT_TYPE) -> DeviceRecord:
        if name not in self.devices:
            self.devices[name] = PollRecord(name, device_type)
        return self.devices[name]

    def records(self) -> list[PollRecord]:
        return [record for record in self.devices.values() if isinstance(record, PollRecord)]


def counting_stand_in() -> tuple[ThingsBoardStandIn, PollStore]:
    """A stand-in for ThingsBoard that keeps moments instead of values, with its store."""
    server, store = ThingsBoardStandIn(), PollStore()
    server.store = store
    return server, store


def up(server: ThingsBoardStandIn, store: PollStore) -> int:
    """How many devices have sent values."""
    counted: list[int] = []
    server.locked(lambda: counted.append(sum(bool(record.moments) for record in store.records())))
    return counted[0]


def configuration(ports: dict[str, int], period_s: float, registers: int = 10) -> dict[str, Any]:
    """The connector's configuration; health goes as attributes, so telemetry is registers alone."""
    return {
        "defaults": {
            "pollPeriod": int(period_s * 1000),
            "health": {"telemetry": []},
            "timeseries": [
                {"key": f"r{index}", "obis": obis} for index, obis in enumerate(REGISTERS[:registers])
            ],
        },
        "devices": [
            {"deviceName": f"meter {serial}", "transport": {"type": "tcp", "host": "127.0.0.1", "port": port}}
            for serial, port in ports.items()
        ],
    }


class Meters:
    """A uniform fleet in as many processes as its descriptors need; a context manager."""

    def __init__(self, count: int, latency_s: float = 0.0) -> None:
        allow_descriptors(count * 4 + 2000)
        self._parts = [
            MeterProcess(
                FleetSettings.uniform(
                    min(_METERS_A_PROCESS, count - first),
                    first_serial=first + 1,
                    latency_s=latency_s,
                )
            )
            for first in range(0, count, _METERS_A_PROCESS)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Meters:
        with ExitStack() as stack:
            for part in self._parts:
                stack.enter_context(part)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def ports(self) -> dict[str, int]:
        return {serial: port for part in self._parts for serial, port in part.ports.items()}

    def bytes_carried(self) -> int:
        return sum(part.bytes_carried() for part in self._parts)

    def cpu_s(self) -> float:
        return sum(part.cpu_s() for part in self._parts)


def measure(
    setup: Setup, seconds: float, patience_s: float | None = None, core: int | None = None
) -> dict[str, Any]:
    """One row. A run that fails is told in `error`, with whatever figures it has.

    Args:
        seconds: of the window; rounded up to whole cycles.
        patience_s: until all meters are up; by default the setup's.
        core: that the gateway process stays on; by default it may use any.
    """
    try:
        with ExitStack() as stack:
            meters = stack.enter_context(Meters(setup.meters, setup.rtt_ms / 1000))
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            server, store = counting_stand_in()
            stack.enter_context(server)
            kinds = {"memory": MEMORY_STORAGE, "sqlite": sqlite_storage()}
            document = configuration(meters.ports, setup.period_s, setup.registers)
            gateway = GatewayProcess(
                folder / "gateway",
                server.port,
                [Connector(CONNECTOR, document)],
                storage=kinds[setup.storage],
                environment=service_environment(),
            )
            stack.enter_context(gateway)
            assert gateway.process is not None
            if core is not None:
                os.sched_setaffinity(gateway.process.pid, {core})
            run = _Run(setup, meters, server, store, gateway)
            return setup.row() | run.figures(seconds, patience_s or setup.patience_s)
    except RunFailed as failure:
        return setup.row() | {"error": str(failure), **failure.figures}
    except (MetersFailed, OSError, psutil.Error, ValueError) as failure:
        return setup.row() | {"error": f"{type(failure).__name__}: {failure}"}


@dataclass(frozen=True)
class _Marks:
    """Totals at one moment; CPU in seconds."""

    at_s: float
    gateway_s: float
    meters_s: float
    server_s: float
    busy_s: float
    """Of all cores together."""
    meter_bytes: int
    mqtt_bytes: int
    values: int


class _Run:
    """A gateway that was just started."""

    def __init__(
        self,
        setup: Setup,
        meters: Meters,
        server: ThingsBoardStandIn,
        store: PollStore,
        gateway: GatewayProcess,
    ) -> None:
        self._setup = setup
        self._meters = meters
        self._server = server
        self._store = store
        self._gateway = gateway
        assert gateway.process is not None
        self._process = psutil.Process(gateway.process.pid)
        self._peak_mb = 0.0

    def figures(self, seconds: float, patience_s: float) -> dict[str, Any]:
        """Everything from the start to the stop. Raises RunFailed."""
        up_s = self._until_all_are_up(patience_s)
        self._let_pass(max(2 * self._setup.period_s, _MIN_SETTLE_S))
        figures = self._observe(max(2, math.ceil(seconds / self._setup.period_s)))
        began_s = time.monotonic()
        self._gateway.stop()
        stop_s = time.monotonic() - began_s
        return {**figures, "all_up_s": round(up_s, 1), "stop_s": round(stop_s, 1)}

    def _until_all_are_up(self, patience_s: float) -> float:
        """Seconds until each meter's first values are at the server."""
        began_s = time.monotonic()
        cpu_s = self._cpu_s(self._process)
        while (count := up(self._server, self._store)) < self._setup.meters:
            waited_s = time.monotonic() - began_s
            if waited_s > patience_s:
                raise RunFailed(
                    f"{count} of {self._setup.meters} up after {waited_s:.0f} s",
                    {
                        "up": count,
                        "rss_mb": round(self._peak_mb, 1),
                        "cpu_percent": round(100 * (self._cpu_s(self._process) - cpu_s) / waited_s, 1),
                        "threads": self._process.num_threads(),
                    },
                )
            self._let_pass(0.2)
        return time.monotonic() - began_s

    def _let_pass(self, seconds: float) -> None:
        """Wait, with an eye on the gateway's memory. Raises RunFailed when it ends."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 1.0))
            if not self._gateway.is_running:
                raise RunFailed(f"the gateway ended: {self._gateway.log_text()[-500:]}")
            self._peak_mb = max(self._peak_mb, self._process.memory_info().rss / 1e6)

    def _observe(self, cycles: int) -> dict[str, Any]:
        setup = self._setup
        status = self._status() if setup.rtt_ms else {}
        self._peak_mb = 0.0
        from_s = time.time()
        before = self._marks()
        self._let_pass(cycles * setup.period_s)
        after = self._marks()
        peak_mb, threads = self._peak_mb, self._process.num_threads()
        self._let_pass(max(setup.period_s, _STATUS_S))
        count = _Count(setup, from_s, cycles)
        self._server.locked(lambda: count.add(self._store.records()))
        wall_s = after.at_s - before.at_s
        values = max(after.values - before.values, 1)

        def percent(seconds: float) -> float:
            return round(100 * seconds / wall_s, 1)

        cpu_s = after.gateway_s - before.gateway_s
        ms = 1000 * cpu_s / values
        return {
            "delivered": round(count.delivered / count.expected, 6),
            "missing": count.expected - count.delivered,
            "late_p50_s": round(percentile(count.late_s, 0.5), 3),
            "late_p99_s": round(percentile(count.late_s, 0.99), 3),
            "e2e_p50_s": round(percentile(count.end_to_end_s, 0.5), 3),
            "e2e_p99_s": round(percentile(count.end_to_end_s, 0.99), 3),
            "cpu_percent": percent(cpu_s),
            "rss_mb": round(peak_mb, 1),
            "threads": threads,
            "ms_per_value": round(ms, 4),
            "to_the_bridge": f"{ms / BRIDGE_MS[1]:.2f} to {ms / BRIDGE_MS[0]:.2f}",
            "meter_bytes_per_value": round((after.meter_bytes - before.meter_bytes) / values, 1),
            "mqtt_bytes_per_value": round((after.mqtt_bytes - before.mqtt_bytes) / values, 1),
            **(self._efficiency(status, self._status()) if setup.rtt_ms else {}),
            "simulator_cpu_percent": percent(after.meters_s - before.meters_s),
            "server_cpu_percent": percent(after.server_s - before.server_s),
            "machine_cpu_percent": percent((after.busy_s - before.busy_s) / (psutil.cpu_count() or 1)),
            "cycles": cycles,
        }

    def _marks(self) -> _Marks:
        machine, counters = psutil.cpu_times(), self._server.counters()
        idle_s = machine.idle + getattr(machine, "iowait", 0.0)
        guests_s = getattr(machine, "guest", 0.0) + getattr(machine, "guest_nice", 0.0)  # inside user, nice
        return _Marks(
            at_s=time.monotonic(),
            gateway_s=self._cpu_s(self._process),
            meters_s=self._meters.cpu_s(),
            server_s=self._cpu_s(psutil.Process()),
            busy_s=sum(machine) - idle_s - guests_s,
            meter_bytes=self._meters.bytes_carried(),
            mqtt_bytes=counters.bytes_received + counters.bytes_sent,
            values=counters.datapoints,
        )

    @staticmethod
    def _cpu_s(process: psutil.Process) -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    def _status(self) -> dict[str, dict[str, Any]]:
        """What the connector tells of each meter in its status file, which it writes anyway."""
        folder = state_file(None, self._gateway.config_folder).parent
        meters: dict[str, dict[str, Any]] = json.loads((folder / f"{CONNECTOR}{STATUS_SUFFIX}").read_text())[
            "meters"
        ]
        return meters

    def _efficiency(
        self, before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        """Mean duration of a cycle between two looks at the status, and the ideal's share of it.

        The connector smooths the duration, and its memory of the association at the start fades slowly; with the
        number of polls in between (one list, one response each) that memory is taken out again.
        """
        durations_ms = []
        for name, meter in after.items():
            polls = meter["dlms_responses"] - before[name]["dlms_responses"]
            if polls > 0:
                kept = (1 - _SMOOTHING) ** polls
                smoothed_ms, former_ms = meter["dlms_latencyMs"], before[name]["dlms_latencyMs"]
                durations_ms.append((smoothed_ms - kept * former_ms) / (1 - kept))
        if not durations_ms:
            raise RunFailed("the status file tells of no polls")
        mean_ms = sum(durations_ms) / len(durations_ms)
        return {"cycle_ms": round(mean_ms, 1), "efficiency": round(self._setup.rtt_ms / mean_ms, 3)}


class _Count:
    """What came of the polls that were due in a window of whole cycles.

    A poll whose values bear a time of the next cycle is a cycle missed: the schedule skips what comes so late.
    """

    def __init__(self, setup: Setup, from_s: float, cycles: int) -> None:
        self.expected = setup.meters * cycles * setup.registers
        self.delivered = 0
        self.late_s: list[float] = []
        self.end_to_end_s: list[float] = []
        self._period_s = setup.period_s
        self._from_s = from_s
        self._cycles = cycles

    def add(self, records: Iterable[PollRecord]) -> None:
        for record in records:
            self._add_device(record)

    def _add_device(self, record: PollRecord) -> None:
        period_s = self._period_s
        offset_s = phase_of(record.name) * period_s
        first = math.ceil((self._from_s - offset_s) / period_s)
        got: dict[int, int] = {}
        for ts_ms, (bits, arrival_ms) in record.moments.items():
            into_s = ts_ms / 1000 - offset_s
            cycle = math.floor((into_s + _CLOCKS_DIFFER_S) / period_s)
            if first <= cycle < first + self._cycles:
                got[cycle] = got.get(cycle, 0) | bits
                self.late_s.append(max(0.0, into_s - cycle * period_s))
                self.end_to_end_s.append((arrival_ms - ts_ms) / 1000)
        self.delivered += sum(bits.bit_count() for bits in got.values())
