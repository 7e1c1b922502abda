"""32 meters on one simulated 9600-baud line: registers a second against what the wire could carry.

The line is kept saturated (every meter is due all the time), so its use is what the turns, addresses and lists leave.
`python benchmarks/line.py` takes a minute and a half.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from pollers import BITS_A_BYTE, TIMESERIES, CountingUplink, Pollers, until  # noqa: E402
from report import Bars, arguments, keep, machine, plot, show  # noqa: E402

from dlms_connector.simulator.fleet import HDLC, FleetSettings, LineSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402

WANTED_SHARE = 0.85


def document(count: int, port: int) -> dict[str, Any]:
    return {
        "defaults": {"pollPeriod": 1000, "timeout": 60_000, "timeseries": list(TIMESERIES)},
        "devices": [
            {
                "deviceName": f"m{index}",
                "transport": {
                    "type": "tcp", "host": "127.0.0.1", "port": port, "framing": "hdlc", "addressSize": 2,
                    "serverLogicalAddress": 1, "serverPhysicalAddress": 17 + index,
                },
            }
            for index in range(count)
        ],
    }  # fmt: skip


def measure(count: int, baud: int, seconds: float) -> dict[str, Any]:
    meters = tuple(MeterSettings(f"{index:08d}", physical_address=17 + index) for index in range(count))
    uplink = CountingUplink()
    with SimulatedFleet(FleetSettings((LineSettings(meters, framing=HDLC, baud=baud),))) as fleet:
        serial = fleet.serials[0]
        with Pollers(document(count, fleet.port(serial)), uplink):
            until(lambda: len(uplink.by_device) == count, 60 + count * 9600 / baud, "the first poll of all")
            first = dict(uplink.by_device)
            before, values, began = fleet.line_counters(serial), uplink.values, time.monotonic()
            time.sleep(seconds)
            after, wall = fleet.line_counters(serial), time.monotonic() - began
            values = uplink.values - values
            each = [uplink.by_device[name] - first[name] for name in first]
    carried = after.bytes_received + after.bytes_sent - before.bytes_received - before.bytes_sent
    return {
        "meters": count,
        "baud": baud,
        "registers_per_s": round(values / wall, 1),
        "bytes_per_register": round(carried / max(values, 1), 1),
        "share_of_the_wire": round(carried * BITS_A_BYTE / baud / wall, 3),
        "fairness_min_to_max": round(min(each) / max(*each, 1), 2),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--meters", type=int, default=32)
    parser.add_argument("--baud", type=int, default=9600)
    parser.add_argument("--seconds", type=float, default=60.0)
    options = parser.parse_args()
    where = machine()
    rows = [measure(options.meters, options.baud, options.seconds)]
    show("One line, saturated", rows)
    print(keep("line", rows, where))
    labels = [f"{row['meters']} meters, {row['baud']} baud" for row in rows]
    plot(
        "line",
        Bars(
            "share of the wire", labels, {"": [row["share_of_the_wire"] for row in rows]}, wanted=WANTED_SHARE
        ),
        Bars("registers a second", labels, {"": [row["registers_per_s"] for row in rows]}),
    )


if __name__ == "__main__":
    main()
