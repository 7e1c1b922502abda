"""Time to the first telemetry of all meters, close() and reconfiguration at a thousand meters, in the real gateway.

`python benchmarks/start_stop.py` takes about a minute and a half.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import Bars, arguments, keep, machine, plot, service_environment, show  # noqa: E402
from whole_gateway import CONNECTOR, Meters, configuration, counting_stand_in, up  # noqa: E402

from dlms_connector.simulator.gateway_process import GatewayProcess, sqlite_storage  # noqa: E402
from tests.support.thingsboard_ui import GatewayPage  # noqa: E402

_STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})", re.MULTILINE)


def moment_of(log: str, words: str, occurrence: int) -> float:
    """Seconds of the n-th line that holds the words (from 0), by the gateway's own clock."""
    lines = [line for line in log.splitlines() if words in line]
    stamp = _STAMP.match(lines[occurrence])
    assert stamp is not None
    return datetime.strptime(stamp[1], "%Y-%m-%d %H:%M:%S,%f").timestamp()


def measure(count: int, period_s: float) -> dict[str, Any]:
    server, store = counting_stand_in()
    with Meters(count) as meters, tempfile.TemporaryDirectory() as folder, server:
        gateway = GatewayProcess(
            Path(folder) / "g",
            server.port,
            storage=sqlite_storage(),
            remote_configuration=True,
            environment=service_environment(),
        )
        with gateway:
            assert gateway.wait_for_log("Gateway started.", 60)
            page = GatewayPage(server)
            document = configuration(meters.ports, period_s)
            began = time.monotonic()
            page.save(CONNECTOR, document)
            assert gateway.wait_for(lambda: up(server, store) >= count, 300)
            first_s = time.monotonic() - began
            time.sleep(2 * period_s)
            document["defaults"]["pollPeriod"] += 1000
            pushed = time.time()
            page.save(CONNECTOR, document)
            # the log level INFO tells "closed" when the old pollers have ended, "polling" when the new ones run
            assert gateway.wait_for(lambda: gateway.log_text().count("DLMS: polling ") >= 2, 120)
            log = gateway.log_text()
            closed, polling = moment_of(log, "DLMS: closed", 0), moment_of(log, "DLMS: polling ", 1)
        final = gateway.log_text()
    took = re.findall(r"DLMS: closed \(([\d.]+) s\)", final)
    return {
        "meters": count,
        "first_telemetry_of_all_s": round(first_s, 1),
        "close_s": float(took[0]) if took else round(closed - pushed, 1),
        "push_to_new_pollers_s": round(polling - pushed, 1),
        "close_at_exit_s": float(took[-1]) if took else float("nan"),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--meters", type=int, default=1000)
    parser.add_argument("--period", type=float, default=5.0)
    options = parser.parse_args()
    where = machine()
    rows = [measure(options.meters, options.period)]
    show("Start, reconfiguration and stop, real gateway, sqlite", rows)
    print(keep("start_stop", rows, where))
    row = rows[0]
    moments = {
        "first telemetry\nof all": row["first_telemetry_of_all_s"],
        "close()": row["close_s"],
        "close()\nat exit": row["close_at_exit_s"],
        "push to\nnew pollers": row["push_to_new_pollers_s"],
    }
    plot("start_stop", Bars(f"seconds, {row['meters']} meters", list(moments), {"": list(moments.values())}))


if __name__ == "__main__":
    main()
