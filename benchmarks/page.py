"""docs/performance.md from the results: fills the tables between its markers, leaves the prose alone.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`. `python benchmarks/page.py` writes the page,
`--check` exits 1 when the page is not in step with benchmarks/results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from report import RESULTS, arguments  # noqa: E402

PAGE = ROOT / "docs" / "performance.md"
_MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NOT_YET = "not measured yet"
Row = dict[str, Any]
Table = list[str]


@dataclass(frozen=True)
class Result:
    """One file of results."""

    command: str
    machine: dict[str, Any]
    rows: list[Row]


def load(name: str) -> Result | None:
    path = RESULTS / f"{name}.json"
    return Result(**json.loads(path.read_text())) if path.exists() else None


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*head, *(f"| {' | '.join(map(_cell, row))} |" for row in rows)]


def _cell(words: str) -> str:
    """Error messages come from anywhere: what would end a cell or a line is taken out."""
    return " ".join(words.replace("|", "/").split())


def where(result: Result) -> str:
    """Command, machine, versions and date of a result in a sentence."""
    facts = result.machine
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"`{result.command}` on {facts['cores']} cores ({facts['processor']}, load before {facts['load_before']}), "
        f"Python {facts['python']}, {versions}; {facts['when'][:10]}."
    )


def when(row: Row) -> str:
    """Date and load of the run that this row is of: rows of several runs stand in one result."""
    return f"{row['machine']['when'][:10]}, load {row['machine']['load_before']}"


def text(value: Any, pattern: str = "{}") -> str:
    """A figure in a pattern, a dash where the row has none."""
    return "-" if value is None else pattern.format(value)


def percent(share: float | None) -> str:
    """A share as per cent that never rounds up to all of it."""
    if share is None:
        return "-"
    shown = f"{100 * share:.2f}"
    return "100 %" if share == 1 else f"{min(float(shown), 99.99):g} %"


# the tables


def client(result: Result) -> Table:
    by_kind: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in result.rows:
        by_kind.setdefault((row["operation"], row["link"], row["security"]), {})[row["peer"]] = row

    def ratio(row: Row | None) -> str:
        if row is None or "cannot" in row:
            return "cannot"
        best = row.get("ours_to_peer_best")
        return f"{row['ours_to_peer']:.2f}" + (f" ({best:.2f})" if best is not None else "")

    return table(
        (
            "operation",
            "link",
            "security",
            "ours, µs",
            "/ dlms-cosem, silenced",
            "/ as shipped",
            "/ gurux_dlms",
            "bare socket, µs",
        ),
        (
            (
                *kind,
                text(peers["ours"]["cpu_median_us"], "{:.0f}"),
                ratio(peers.get("dlms-cosem")),
                ratio(peers.get("dlms-cosem shipped")),
                ratio(peers.get("gurux")),
                text(peers.get("bare socket", {}).get("cpu_median_us"), "{:.0f}"),
            )
            for kind, peers in by_kind.items()
        ),
    )


def fleet(result: Result) -> Table:
    columns = (
        "meters, period", "round trip", "storage", "delivered", "late p50 / p99", "end to end p50 / p99",
        "efficiency", "CPU of a core", "RSS", "ms CPU a value", "of the bridge's", "bytes a value, meters / MQTT",
        "all up", "measured",
    )  # fmt: skip
    rows = []
    for row in result.rows:
        head = [f"{row['meters']:,}, {row['period_s']:g} s", f"{row['rtt_ms']:g} ms", row["storage"]]
        if "error" in row:
            memory = text(row.get("rss_mb"), "{:.0f} MB")
            rows.append(
                [*head, f"**{row['error']}**", "-", "-", "-", text(row.get("cpu_percent"), "{} %"), memory]
            )
            rows[-1] += ["-"] * (len(columns) - len(rows[-1]) - 1) + [when(row)]
            continue
        rows.append(
            [
                *head,
                percent(row["delivered"]),
                f"{row['late_p50_s']} / {row['late_p99_s']} s",
                f"{row['e2e_p50_s']} / {row['e2e_p99_s']} s",
                text(row.get("efficiency")),
                f"{row['cpu_percent']} %",
                f"{row['rss_mb']:.0f} MB",
                f"{row['ms_per_value']:.3f}",
                row["to_the_bridge"],
                f"{row['meter_bytes_per_value']} / {row['mqtt_bytes_per_value']}",
                f"{row['all_up_s']} s",
                when(row),
            ]
        )
    return table(columns, rows)


def highest_rate(result: Result) -> Table:
    return table(
        ("polls/s", "meters, period", "delivered", "gateway", "simulator", "stand-in", "all cores", "limit"),
        (
            (
                f"{row['polls_per_s']:,}",
                f"{row['meters']:,}, {row['period_s']:g} s",
                percent(row.get("delivered")),
                text(row.get("cpu_percent"), "{} % of a core"),
                text(row.get("simulator_cpu_percent"), "{} %"),
                text(row.get("server_cpu_percent"), "{} %"),
                text(row.get("machine_cpu_percent"), "{} % of all"),
                row["limit"] or "none",
            )
            for row in result.rows
        ),
    )


def line(result: Result) -> Table:
    return table(
        (
            "meters, baud",
            "registers/s",
            "bytes a register, both ways",
            "share of the wire",
            "fairness, min to max",
        ),
        (
            (
                f"{row['meters']}, {row['baud']}",
                str(row["registers_per_s"]),
                str(row["bytes_per_register"]),
                f"{100 * row['share_of_the_wire']:.1f} %",
                str(row["fairness_min_to_max"]),
            )
            for row in result.rows
        ),
    )


def start_stop(result: Result) -> Table:
    return table(
        ("meters", "first telemetry of all", "close()", "close() at exit", "push to new pollers"),
        (
            (
                f"{row['meters']:,}",
                f"{row['first_telemetry_of_all_s']} s",
                f"{row['close_s']} s",
                f"{row['close_at_exit_s']} s",
                f"{row['push_to_new_pollers_s']} s",
            )
            for row in result.rows
        ),
    )


def backfill(result: Result) -> Table:
    def late(row: Row) -> str:
        if "polls" not in row:
            return "-"
        due = row["polls"] + row["skipped"]
        return f"{row['late_p50_s']} / {row['late_p99_s']} s, {row['skipped']} skipped of {due}"

    return table(
        ("link", "reader", "rows/s", "values/s", "bytes a row", "share of the wire", "CPU a row", "ours / reader",
         "live polls late p50 / p99"),
        (
            (row["link"], row["reader"], f"cannot: {row['cannot']}", *["-"] * 6)
            if "cannot" in row
            else (
                row["link"],
                row["reader"],
                text(row.get("rows_per_s"), "{:,}"),
                text(row.get("values_per_s"), "{:,}"),
                text(row.get("bytes_per_row")),
                text(row.get("share_of_the_wire"), "{:.1%}"),
                text(row.get("cpu_us_per_row"), "{:.0f} µs"),
                text(row.get("ours_to_peer"), "{:.2f}"),
                late(row),
            )
            for row in result.rows
        ),
    )  # fmt: skip


def cost(result: Result) -> Table:
    coefficients = next(row for row in result.rows if row["point"] == "fit")
    return [
        *table(
            ("what", "for the gateway itself", "and", "and", "explained", "worst residual"),
            (
                (
                    "CPU",
                    f"{coefficients['base_percent']} % of a core",
                    f"{coefficients['ms_a_poll']} ms a poll",
                    f"{coefficients['ms_a_value']} ms a value",
                    f"{coefficients['cpu_explained']:.1%}",
                    f"{coefficients['worst_cpu_residual_percent']} % of a core",
                ),
                (
                    "memory",
                    f"{coefficients['base_mb']} MB",
                    f"{coefficients['kb_a_meter']} kB a meter",
                    f"{coefficients['kb_a_register']} kB a register of a meter",
                    f"{coefficients['rss_explained']:.1%}",
                    f"{coefficients['worst_rss_residual_mb']} MB",
                ),
            ),
        ),
        "",
        *table(
            ("meters x registers, period", "CPU of a core, fitted", "RSS, fitted"),
            (
                (
                    f"{row['meters']} x {row['registers']}, {row['period_s']:g} s",
                    f"{text(row.get('cpu_percent'))} %, {text(row.get('cpu_fitted_percent'))} %",
                    f"{text(row.get('rss_mb'))} MB, {text(row.get('rss_fitted_mb'))} MB",
                )
                for row in result.rows
                if row["point"] != "fit"
            ),
        ),
    ]


# what was promised


@dataclass(frozen=True)
class Check:
    """One figure of a promise: where it is in a row, its bound, and how it is written."""

    what: str
    key: str
    bound: float
    show: Callable[[float], str] = "{:g}".format
    at_least: bool = False

    def wanted(self) -> str:
        return f"{self.what} {'at least' if self.at_least else 'at most'} {self.show(self.bound)}".strip()

    def measured(self, row: Row) -> str:
        value = row.get(self.key)
        return f"{self.what} {_NOT_YET if value is None else self.show(value)}".strip()

    def is_met(self, row: Row) -> bool:
        value = row.get(self.key)
        return value is not None and (value >= self.bound if self.at_least else value <= self.bound)


@dataclass(frozen=True)
class Promise:
    """What a row of a result has to be; `find` picks the row, None where it was not run."""

    what: str
    result: str
    find: Callable[[list[Row]], Row | None]
    checks: tuple[Check, ...]

    def line(self) -> tuple[str, str, str, str]:
        wanted = "; ".join(check.wanted() for check in self.checks)
        result = load(self.result)
        row = self.find(result.rows) if result is not None else None
        if row is None:
            return self.what, wanted, _NOT_YET, "-"
        trouble = row.get("error") or row.get("cannot")
        if trouble:
            return self.what, wanted, str(trouble), "-" if "cannot" in row else "no"
        measured = "; ".join(check.measured(row) for check in self.checks)
        missed = [check.what or "it" for check in self.checks if not check.is_met(row)]
        met = "yes" if not missed else "no" if len(self.checks) == 1 else f"no: {', '.join(missed)}"
        return self.what, wanted, measured, met


def _where(**facts: Any) -> Callable[[list[Row]], Row | None]:
    def find(rows: list[Row]) -> Row | None:
        return next((row for row in rows if facts.items() <= row.items()), None)

    return find


def _ratio(what: str, operation: str, link: str, security: str, peer: str, bound: float) -> Promise:
    find = _where(operation=operation, link=link, security=security, peer=peer)
    return Promise(what, "client", find, (Check("", "ours_to_peer", bound, "{:.3f}".format),))


def _client_promises() -> list[Promise]:
    promises = []
    for security, shown in (("plain", ""), ("auth+enc", ", ciphered")):
        for link in ("wrapper", "hdlc"):
            cosem = 1 / 6 if (security, link) == ("plain", "hdlc") else 1 / 2
            gurux = 1 / 4 if security == "plain" else 1 / 20
            about = f"CPU of a list of ten over {link}{shown}"
            promises += [
                _ratio(f"{about} / dlms-cosem, silenced", "list10", link, security, "dlms-cosem", cosem),
                _ratio(f"{about} / gurux_dlms", "list10", link, security, "gurux", gurux),
            ]
            about = f"CPU of an association over {link}{shown}"
            promises.append(
                _ratio(f"{about} / dlms-cosem, silenced", "association", link, security, "dlms-cosem", 1.0)
            )
    return promises


def _fleet_promise(what: str, name: str, cpu_percent: float, rss_mb: float, *latencies: Check) -> Promise:
    checks = (
        Check("delivered", "delivered", 1.0, percent, at_least=True),
        *latencies,
        Check("CPU", "cpu_percent", cpu_percent, "{:g} % of a core".format),
        Check("memory", "rss_mb", rss_mb, "{:g} MB".format),
    )
    return Promise(what, "fleet", _where(name=name), checks)


_LATENCIES = (
    Check("late p99", "late_p99_s", 1.0, "{:g} s".format),
    Check("end to end p99", "e2e_p99_s", 2.0, "{:g} s".format),
)
PROMISES: tuple[Promise, ...] = (
    *_client_promises(),
    _fleet_promise("100 meters, 5 s", "100x5s-rtt0-sqlite", 6, 110),
    _fleet_promise("1,000 meters, 5 s", "1000x5s-rtt0-sqlite", 30, 160, *_LATENCIES),
    _fleet_promise("3,000 meters, 15 s", "3000x15s-rtt0-sqlite", 30, 250, *_LATENCIES),
    Promise(
        "1,000 meters, 5 s, round trip 50 ms",
        "fleet",
        _where(name="1000x5s-rtt50-sqlite"),
        (Check("cycle efficiency", "efficiency", 0.9, at_least=True),),
    ),
    Promise(
        "one 9600-baud line, 32 meters",
        "line",
        _where(meters=32, baud=9600),
        (Check("share of the wire", "share_of_the_wire", 0.85, "{:.1%}".format, at_least=True),),
    ),
    Promise(
        "start and stop, 1,000 meters",
        "start_stop",
        _where(meters=1000),
        (
            Check("first telemetry of all", "first_telemetry_of_all_s", 30, "{:g} s".format),
            Check("close()", "close_s", 2, "{:g} s".format),
        ),
    ),
)


def promises() -> Table:
    lines: list[tuple[str, str, str, str]] = [promise.line() for promise in PROMISES]
    lines.append(("10,000 meters, 60 s", "as far as it goes", _ten_thousand(), "-"))
    lines.append(("the highest rate that delivers all", "told, with its limit", _highest(), "-"))
    return table(("promise", "wanted", "measured", "met"), lines)


def _ten_thousand() -> str:
    result = load("fleet")
    row = _where(name="10000x60s-rtt0-sqlite")(result.rows) if result is not None else None
    if row is None:
        return _NOT_YET
    if "error" in row:
        return str(row["error"])
    return f"{percent(row['delivered'])} delivered once all were up, which took {row['all_up_s']} s; {row['rss_mb']} MB"


def _highest() -> str:
    result = load("highest_rate")
    if result is None:
        return _NOT_YET
    good = [row["polls_per_s"] for row in result.rows if not row["limit"]]
    best = max(good, default=0)
    above = [row for row in result.rows if row["limit"] and row["polls_per_s"] > best]
    limit = f"; above, the limit is {above[0]['limit']}" if above else ""
    return f"{best:,} polls/s of ten values{limit}"


TABLES: dict[str, Callable[[Result], Table]] = {
    "client": client,
    "client_any_core": client,
    "fleet": fleet,
    "highest_rate": highest_rate,
    "line": line,
    "start_stop": start_stop,
    "backfill": backfill,
    "cost": cost,
}
_COMMANDS = {
    "highest_rate": "python benchmarks/fleet.py --highest-rate",
    "client_any_core": "python benchmarks/client.py --core any",
}


def made(name: str) -> Table:
    """The lines between the markers of that name. Raises KeyError when there is no such table."""
    if name == "promises":
        return promises()
    make = TABLES[name]
    result = load(name)
    if result is None:
        return [f"Not measured yet: `{_COMMANDS.get(name, f'python benchmarks/{name}.py')}`."]
    lines = [where(result), "", *make(result)]
    if (RESULTS / f"{name}.png").exists():
        lines += ["", f"![{name}](../benchmarks/results/{name}.png)"]
    return lines


def filled(page: str) -> str:
    """The page with its tables as the results have them."""

    def fill(marked: re.Match[str]) -> str:
        begin, name, end = marked.groups()
        return "\n".join([begin, *made(name), "", end])

    return _MARKED.sub(fill, page)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when the page is out of step"
    )
    options = parser.parse_args()
    before = PAGE.read_text()
    after = filled(before)
    if options.check:
        if before != after:
            print("docs/performance.md is not in step with benchmarks/results: python benchmarks/page.py")
        sys.exit(before != after)
    PAGE.write_text(after)


if __name__ == "__main__":
    main()
