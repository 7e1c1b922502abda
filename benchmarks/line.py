"""32 meters on one simulated 9600-baud line: registers a second against what the wire could carry.

The line is kept saturated (every meter is due all the time), so its use is what the turns, addresses and lists leave.
`python benchmarks/line.py`
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import arguments, keep, machine, show  # noqa: E402

from dlms_connector.config.loader import load_document  # noqa: E402
from dlms_connector.link.stream import Interrupt  # noqa: E402
from dlms_connector.meter.links import Lines, make_channel  # noqa: E402
from dlms_connector.meter.session import MeterSession  # noqa: E402
from dlms_connector.poller import DevicePoller  # noqa: E402
from dlms_connector.simulator.fleet import HDLC, FleetSettings, LineSettings, SimulatedFleet  # noqa: E402
from dlms_connector.simulator.meter import MeterSettings  # noqa: E402
from dlms_connector.state import StateStore  # noqa: E402
from dlms_connector.surroundings import Surroundings  # noqa: E402

BITS_A_BYTE = 10  # 8N1
CODES = (32, 52, 72, 31, 51, 71, 14, 1, 3, 9)


class Counter:
    """An uplink that counts."""

    def __init__(self) -> None:
        self.values = 0
        self.by_device: dict[str, int] = {}
        self._lock = threading.Lock()

    def deliver(self, device: Any, telemetry: Any, attributes: Any) -> bool:
        with self._lock:
            self.values += len(telemetry)
            self.by_device[device.device_name] = self.by_device.get(device.device_name, 0) + len(telemetry)
        return True

    def deliver_health(self, device: Any, health: Any, *, state_only: bool) -> None: ...

    def is_congested(self) -> bool:
        return False


class Quiet:
    """A log that nobody reads."""

    def debug(self, msg: str, *args: object) -> None: ...

    info = warning = error = debug


def document(count: int, port: int) -> dict[str, Any]:
    return {
        "defaults": {
            "pollPeriod": 1000,
            "timeout": 60_000,
            "timeseries": [{"key": f"r{code}", "obis": f"1-0:{code}.7.0"} for code in CODES],
        },
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
    uplink = Counter()
    with SimulatedFleet(FleetSettings((LineSettings(meters, framing=HDLC, baud=baud),))) as fleet:
        serial = fleet.serials[0]
        configuration = load_document(document(count, fleet.port(serial)))
        assert not configuration.errors, configuration.errors
        state = StateStore(Path(tempfile.mkdtemp()) / "state.sqlite")
        around = Surroundings(uplink=uplink, log=Quiet(), gate=threading.BoundedSemaphore(count))
        lines, pollers = Lines(), []
        for device in configuration.devices:
            line, interrupt = lines.line_for(device.transport), Interrupt()

            def channel(
                client: int, device: Any = device, line: Any = line, interrupt: Any = interrupt
            ) -> Any:
                return make_channel(device, client, line, interrupt)

            session = MeterSession(device, channel, state, on_event=lambda text: None)
            pollers.append(DevicePoller(device, session, line, around))
        for poller in pollers:
            poller.start()
        while len(uplink.by_device) < count:
            threading.Event().wait(0.5)
        before, values, began = fleet.line_counters(serial), uplink.values, time.monotonic()
        threading.Event().wait(seconds)
        after, wall = fleet.line_counters(serial), time.monotonic() - began
        values = uplink.values - values
        share = min(uplink.by_device.values()) / max(uplink.by_device.values())
        for poller in pollers:
            poller.stop()
            poller.interrupt()
        for poller in pollers:
            poller.thread.join(10)
    carried = after.bytes_received + after.bytes_sent - before.bytes_received - before.bytes_sent
    return {
        "meters": count,
        "baud": baud,
        "registers_per_s": round(values / wall, 1),
        "bytes_per_register": round(carried / max(values, 1), 1),
        "share_of_the_wire": round(carried * BITS_A_BYTE / baud / wall, 3),
        "fairness_min_to_max": round(share, 2),
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


if __name__ == "__main__":
    main()
