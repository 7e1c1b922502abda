"""What an outage costs: broker down, black hole, dropped connections, kill -9; real gateway, sqlite storage.

Every answered poll is counted at the meters and every stored reading at the server; the difference is the loss. Then
the gateway is killed at random moments while it reads load profiles, and the server's record is compared row by row.
`python benchmarks/outages.py [--quick]`
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import Bars, arguments, keep, machine, plot, show  # noqa: E402

from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.gateway_process import Connector, GatewayProcess  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402
from dlms_connector.simulator.quantities import scaled_value  # noqa: E402
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn  # noqa: E402
from dlms_connector.simulator.thingsboard_session import Fault  # noqa: E402

PATIENCE_S = 120.0
ROW_S = 2
ROWS = 600
PROFILE_KEY = "energy_row"


def entry(fleet: SimulatedFleet, serial: str, **more: Any) -> dict[str, Any]:
    """One meter; its scaler is known, so that every list is a poll."""
    return {
        "deviceName": serial,
        "transport": {"type": "tcp", "host": "127.0.0.1", "port": fleet.port(serial)},
        "timeseries": [
            {"key": "voltage_l1", "obis": "1-0:32.7.0", "scaler": -2},
            {"key": "active_energy", "obis": "1-0:1.8.0", "scaler": 0},
        ],
        "health": {"enabled": False},
        "backoff": {"initial": 100, "maximum": 1000},
        **more,
    }


@dataclass
class Scene:
    """Fleet, server and gateway."""

    fleet: SimulatedFleet
    server: ThingsBoardStandIn
    gateway: GatewayProcess
    rows: list[dict[str, Any]] = field(default_factory=list)
    counted: tuple[int, int] = 0, 0
    """Polls and stored readings up to the last outage, while all was quiet."""
    resumed_s: float = field(default_factory=time.monotonic)

    def wait(self, predicate: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        if not self.server.wait_for(predicate, timeout_s):
            raise SystemExit(f"{what} did not happen\n{self.gateway.log_text()[-3000:]}")

    def polls(self) -> int:
        return self.fleet.totals().meters.get_lists

    def stored(self) -> int:
        return sum(len(self.server.telemetry(name).get("voltage_l1", ())) for name in self.fleet.serials)

    def pause(self) -> None:
        self.server.gateway_rpc("custom_pause")
        devices = self.fleet.fleet.devices.values()
        self.fleet.wait_for(
            lambda: not any(meter.counters.associations_open for meter in devices), PATIENCE_S
        )

    def outage(self, name: str, happen: Callable[[], None]) -> None:
        """Run the outage, let the gateway recover, count what is missing."""
        began_s = time.monotonic()
        happen()
        ended_s = time.monotonic()
        session = self.server.wait_for_gateway(PATIENCE_S)
        time.sleep(2)  # polls go on for a moment after the recovery
        if not session:
            raise SystemExit("the gateway did not come back")
        active_s = time.monotonic() - self.resumed_s
        self.pause()
        total = self.polls()
        self.server.wait_for(lambda: self.stored() >= total, PATIENCE_S)
        drained_s = time.monotonic() - ended_s
        polls, stored = total - self.counted[0], self.stored() - self.counted[1]
        self.counted = total, self.stored()
        rate = polls / active_s
        self.rows.append(
            {
                "outage": name,
                "seconds": round(ended_s - began_s, 1),
                "polls": polls,
                "polls/s": round(rate),
                "stored": stored,
                "lost": polls - stored,
                "drained after s": round(drained_s, 1),
            }
        )
        print(self.rows[-1], flush=True)
        self.resumed_s = time.monotonic()
        self.server.gateway_rpc("custom_resume")


def outages(folder: Path, *, meters: int, period_ms: int, quick: bool) -> list[dict[str, Any]]:
    """Broker down, black hole, dropped connections."""
    down_s, hole_s = (10, 10) if quick else (60, 20)
    with ExitStack() as stack:
        fleet = stack.enter_context(SimulatedFleet(FleetSettings.uniform(meters)))
        server = stack.enter_context(ThingsBoardStandIn())
        devices = [entry(fleet, serial, pollPeriod=period_ms) for serial in fleet.serials]
        gateway = GatewayProcess(folder / "outages", server.port, [Connector("DLMS", {"devices": devices})])
        scene = Scene(fleet, server, gateway)
        with gateway:
            scene.wait(lambda: all(server.telemetry(name) for name in fleet.serials), "the first readings")
            scene.outage("none, for comparison", lambda: time.sleep(10))

            def down() -> None:
                with server.failing(Fault.DOWN):
                    time.sleep(down_s)

            def black_hole() -> None:
                with server.failing(Fault.BLACK_HOLE):
                    time.sleep(hole_s)

            def drops() -> None:
                for _ in range(5):
                    server.drop_connections()
                    time.sleep(4)

            scene.outage(f"broker down {down_s} s", down)
            scene.outage(f"black hole {hole_s} s", black_hole)
            scene.outage("5 dropped connections", drops)
        return scene.rows


def kills(folder: Path, *, count: int, meters: int, seed: int) -> dict[str, Any]:
    """kill -9 at random moments while profiles are read; the record of the server against the meters' own."""
    rng = random.Random(seed)
    template = MeterSettings("", profile_rows=20_000, profile_period_s=ROW_S)
    with ExitStack() as stack:
        fleet = stack.enter_context(SimulatedFleet(FleetSettings.uniform(meters, template=template)))
        server = stack.enter_context(ThingsBoardStandIn())
        profile = {
            "obis": "1-0:99.1.0",
            "backfill": ROWS * ROW_S * 1000,
            "slice": 60_000,
            "overlap": 10_000,
            "pollPeriod": 1000,
            "columns": {"1-0:1.8.0": PROFILE_KEY},
        }
        devices = [entry(fleet, serial, pollPeriod=1000, profiles=[profile]) for serial in fleet.serials]
        gateway = GatewayProcess(folder / "kills", server.port, [Connector("DLMS", {"devices": devices})])
        scene = Scene(fleet, server, gateway)
        began_s = time.time()
        with gateway:
            for number in range(count):
                before = scene.stored()
                scene.wait(lambda before=before: scene.stored() > before, f"start {number}")
                time.sleep(rng.uniform(0.0, 4.0))  # the moment is what varies
                gateway.kill()
                gateway.start()
            until_s = int(time.time()) // ROW_S * ROW_S
            scene.wait(
                lambda: all(_newest(server, name) >= until_s * 1000 for name in fleet.serials), "catching up"
            )
        first_s = (
            int(began_s) - ROWS * ROW_S
        ) // ROW_S * ROW_S + 30 * ROW_S  # the start slides with the clock
        holes = wrong = total = 0
        for name in fleet.serials:
            got = dict(server.telemetry(name).get(PROFILE_KEY, ()))
            wanted = range(first_s, until_s + 1, ROW_S)
            total += len(wanted)
            holes += sum(at_s * 1000 not in got for at_s in wanted)
            wrong += sum(
                ts_ms % (ROW_S * 1000) != 0
                or float(value) != scaled_value(name, "active_energy", ts_ms // 1000)
                for ts_ms, value in got.items()
            )
    return {
        "kills -9": count,
        "meters": meters,
        "seconds": round(time.time() - began_s),
        "rows wanted": total,
        "holes": holes,
        "wrong rows": wrong,
    }


def _newest(server: ThingsBoardStandIn, name: str) -> int:
    points = server.telemetry(name).get(PROFILE_KEY, ())
    return points[-1][0] if points else 0


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--quick", action="store_true", help="10 s instead of 60 and 20, 5 kills instead of 20"
    )
    parser.add_argument("--meters", type=int, default=100, help="polled twice a second")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    chosen = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory() as folder:
        killed = kills(Path(folder), count=5 if chosen.quick else 20, meters=10, seed=chosen.seed)
        show("Killed while reading load profiles", [killed])
        rows = outages(Path(folder), meters=chosen.meters, period_ms=500, quick=chosen.quick)
    show("Readings lost in outages", rows)
    print(keep("outages", [killed, *rows], where))
    labels = [row["outage"].replace(" ", "\n", 1) for row in rows]
    plot(
        "outages",
        Bars(
            "readings",
            labels,
            {"read at the meters": [row["polls"] for row in rows], "stored": [row["stored"] for row in rows]},
        ),
        Bars("seconds until all is stored", labels, {"": [row["drained after s"] for row in rows]}),
    )
    lost = sum(row["lost"] for row in rows) + killed["holes"] + killed["wrong rows"]
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
