"""N meters x 10 registers x period through the real gateway process to an MQTT stand-in; or how fast it may get.

`python benchmarks/fleet.py` runs every row (two to three hours), `--rows promise` those that something is promised of
(about half an hour, most of it for 10,000 meters), `--rows '100x*,1000x5s-rtt50-*'` some; rows that do not run now
are kept from earlier runs. `--meters 300 --period 5` runs a row of your own and keeps nothing.
`--highest-rate` halves the way between a rate that delivers everything and one that does not (about 10 minutes).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import Bars, arguments, command, keep, kept, machine, merged, plot, show  # noqa: E402
from whole_gateway import BRIDGE_MS, Setup, measure  # noqa: E402

RESULT, RATE_RESULT = "fleet", "highest_rate"
_COUNTS = (100, 300, 1000, 3000, 10_000)
_RTTS_MS = (0, 50, 800)
_STORAGES = ("memory", "sqlite")
_BUSY_PERCENT = 90.0
_FASTEST_PERIOD_S = 0.1  # what the configuration allows


def _period_s(count: int, rtt_ms: float) -> float:
    if count >= 10_000:
        return 60.0
    return 15.0 if count >= 3000 or rtt_ms >= 800 else 5.0


ROWS = tuple(
    Setup(count, _period_s(count, rtt_ms), rtt_ms, storage)
    for count in _COUNTS
    for rtt_ms in _RTTS_MS
    for storage in _STORAGES
)
PROMISED = (
    "100x5s-rtt0-sqlite",
    "1000x5s-rtt0-sqlite",
    "1000x5s-rtt50-sqlite",
    "3000x15s-rtt0-sqlite",
    "10000x60s-rtt0-sqlite",
)


def chosen(words: str) -> list[Setup]:
    """Rows by their names: patterns with commas between, `promise` or `all`."""
    patterns = {"promise": PROMISED, "all": ("*",)}.get(words, tuple(words.split(",")))
    rows = [row for row in ROWS if any(fnmatch(row.name, pattern.strip()) for pattern in patterns)]
    if not rows:
        raise SystemExit(f"no row is called {words}; there are\n" + "\n".join(row.name for row in ROWS))
    return rows


def run_rows(rows: Sequence[Setup], seconds: float, patience_s: float | None) -> None:
    """Run them and keep each as soon as it is there, beside those of earlier runs."""
    done = []
    for setup in rows:
        where = machine()
        row = measure(setup, seconds, patience_s) | {"machine": where, "command": command()}
        print({key: value for key, value in row.items() if key not in ("machine", "command")}, flush=True)
        done.append(row)
        everything = merged(kept(RESULT), [row], [row.name for row in ROWS])
        print(keep(RESULT, everything, where))
        draw(everything)
    tell(done)


def tell(rows: Sequence[dict[str, Any]]) -> None:
    show(
        f"Whole gateway process; the bridge took {BRIDGE_MS[0]} to {BRIDGE_MS[1]} ms of CPU a value",
        [{key: value for key, value in row.items() if key != "command"} for row in rows],
    )


def draw(rows: Sequence[dict[str, Any]]) -> None:
    good = [row for row in rows if "error" not in row]
    labels = [row["name"].replace("-", "\n") for row in good]
    plot(
        RESULT,
        Bars("% of a core, whole gateway process", labels, {"CPU": [row["cpu_percent"] for row in good]}),
        Bars("MB resident", labels, {"memory": [row["rss_mb"] for row in good]}),
        Bars(
            "seconds, 99 of 100 are below",
            labels,
            {"late": [row["late_p99_s"] for row in good], "end to end": [row["e2e_p99_s"] for row in good]},
        ),
    )


def limit(row: dict[str, Any]) -> str:
    """What a run that lost something was held up by: what is full, and what its polls or values suffered."""
    if "error" in row:
        return str(row["error"])
    cores = psutil.cpu_count() or 1
    ours = row["cpu_percent"] + row["simulator_cpu_percent"] + row["server_cpu_percent"]
    others = max(0.0, row["machine_cpu_percent"] * cores - ours)
    if row["cpu_percent"] >= _BUSY_PERCENT:
        full = "the gateway process: one interpreter lock, one core"
    elif row["machine_cpu_percent"] >= _BUSY_PERCENT:
        full = f"this machine: its {cores} cores are full"
    elif row["simulator_cpu_percent"] >= _BUSY_PERCENT:
        full = "the simulated meters, not the gateway"
    elif row["server_cpu_percent"] >= _BUSY_PERCENT:
        full = "the stand-in for ThingsBoard, not the gateway"
    else:
        full = "not a full core"
    return (
        f"{full} (% of a core: gateway {row['cpu_percent']:.0f}, simulator {row['simulator_cpu_percent']:.0f}, "
        f"stand-in {row['server_cpu_percent']:.0f}, everything else on the machine {others:.0f}; "
        f"late p99 {row['late_p99_s']:g} s, end to end p99 {row['e2e_p99_s']:g} s)"
    )


def highest_rate(count: int, first_period_s: float, seconds: float, halvings: int) -> list[dict[str, Any]]:
    """Runs with shrinking periods: doubling the rate while everything arrives, then halving the way between."""
    rows: list[dict[str, Any]] = []

    def delivers(rate: float) -> bool:
        period_s = round(max(count / rate, _FASTEST_PERIOD_S), 3)
        row = measure(Setup(count, period_s), seconds)
        row = {"polls_per_s": round(count / period_s), **row}
        good = row.get("missing") == 0
        row["limit"] = "" if good else limit(row)
        rows.append(row)
        print(row, flush=True)
        return good

    rate = count / first_period_s
    fastest = count / _FASTEST_PERIOD_S
    good, bad = 0.0, 0.0
    while not bad and good < fastest:
        if delivers(rate):
            good, rate = rate, min(rate * 2, fastest)
        else:
            bad = rate
    for _ in range(halvings if bad else 0):
        middle = (good + bad) / 2
        if delivers(middle):
            good = middle
        else:
            bad = middle
    return sorted(rows, key=lambda row: float(row["polls_per_s"]))


def run_highest_rate(count: int, first_period_s: float, seconds: float, halvings: int) -> None:
    where = machine()
    rows = highest_rate(count, first_period_s, seconds, halvings)
    tell(rows)
    good = [row for row in rows if not row["limit"]]
    bad = [row for row in rows if row["limit"] and (not good or row["polls_per_s"] > good[-1]["polls_per_s"])]
    best = good[-1]["polls_per_s"] if good else 0
    print(f"Everything is delivered up to {best} polls/s ({best * 10} values/s).")
    if bad:
        print(f"At {bad[0]['polls_per_s']} polls/s the limit is {bad[0]['limit']}.")
    print(keep(RATE_RESULT, rows, where))
    figured = [row for row in rows if "delivered" in row]
    labels = [str(row["polls_per_s"]) for row in figured]
    plot(
        RATE_RESULT,
        Bars("share delivered, by polls/s", labels, {"": [row["delivered"] for row in figured]}, wanted=1.0),
        Bars(
            "% of a core, by polls/s",
            labels,
            {
                "gateway": [row["cpu_percent"] for row in figured],
                "simulator": [row["simulator_cpu_percent"] for row in figured],
                "stand-in": [row["server_cpu_percent"] for row in figured],
            },
        ),
    )


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--rows", default="all", help="names or patterns with commas between, promise, all")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    parser.add_argument("--seconds", type=float, default=60.0, help="of observation, at least two periods")
    parser.add_argument("--patience", type=float, help="seconds until all meters have to be up")
    parser.add_argument(
        "--meters", type=int, help="one row of your own instead; --highest-rate: meters of all runs"
    )
    parser.add_argument("--period", type=float, default=5.0, help="seconds; --highest-rate: of the first run")
    parser.add_argument("--rtt", type=float, default=0.0, help="round trip to the meters of your row, ms")
    parser.add_argument("--storage", choices=_STORAGES, default="sqlite", help="of your row")
    parser.add_argument("--core", type=int, help="that the gateway process of your row stays on")
    parser.add_argument(
        "--highest-rate", action="store_true", help="find the highest rate that loses nothing"
    )
    parser.add_argument("--halvings", type=int, default=3, help="of the way to the highest rate")
    options = parser.parse_args()
    if options.list:
        print("\n".join(row.name for row in ROWS))
    elif options.highest_rate:
        run_highest_rate(options.meters or 1000, options.period, min(options.seconds, 30.0), options.halvings)
    elif options.meters:
        setup = Setup(options.meters, options.period, options.rtt, options.storage)
        tell([measure(setup, options.seconds, options.patience, options.core)])
    else:
        run_rows(chosen(options.rows), options.seconds, options.patience)


if __name__ == "__main__":
    main()
