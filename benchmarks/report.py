"""What every benchmark prints and keeps: machine, versions, a table, JSON, a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
ALLOCATOR = "GLIBC_TUNABLES"
_PACKAGES = (
    "dlms-connector",
    "thingsboard-gateway",
    "tb-mqtt-client",
    "dlms-cosem",
    "gurux-dlms",
    "cryptography",
)
_MAX_COLUMNS, _ROWS_ABREAST = 14, 6
_HEIGHT_IN = 4.5  # of a chart
_GROUPS_ABREAST = 6
_GROUP_WIDTH = 0.8  # of the room between two groups of bars


def service_environment() -> dict[str, str]:
    """How tb-gateway.service sets the C library's allocator: what runs here shall have it, too."""
    unit = (Path(__file__).resolve().parents[1] / "tb-gateway.service").read_text()
    return {ALLOCATOR: unit.partition(f"\nEnvironment={ALLOCATOR}=")[2].partition("\n")[0]}


def machine() -> dict[str, Any]:
    """What was measured on."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "python": platform.python_version(),
        "processor": model,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions,
    }


def command() -> str:
    """This run as somebody else would start it."""
    return f"python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}".rstrip()


def keep(name: str, rows: Sequence[dict[str, Any]], where: dict[str, Any]) -> Path:
    """Write results/NAME.json and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"command": command(), "machine": where, "rows": rows}, indent=1) + "\n")
    return path


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of the last run, none where there is no such result."""
    path = RESULTS / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    return rows


def merged(
    before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]], order: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows by their `name` in that order, those of this run in place of earlier ones.

    Rows of several runs stand in one result then, so each should bear its own machine and command.
    """
    by_name = {row["name"]: row for row in (*before, *now)}
    return [by_name[name] for name in order if name in by_name]


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of rows; what a row does not have stays empty, facts that are no figure (machine) are left out.

    Where rows are too long for a line they stand side by side, a few at a time.
    """
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not _is_nested(value)))
    if len(columns) > _MAX_COLUMNS:
        for start in range(0, len(rows), _ROWS_ABREAST):
            _print_upright(title, columns, rows[start : start + _ROWS_ABREAST])
        return
    table = Table(title=title)
    for column in columns:
        number = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    _print(table)


def _print_upright(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title, show_header=False)
    for column in columns:
        table.add_row(column, *(_cell(row.get(column, "")) for row in rows))
    _print(table)


def _print(table: Table) -> None:
    Console(width=200 if not sys.stdout.isatty() else None).print(table)


def _is_nested(value: Any) -> bool:
    return isinstance(value, (dict, list))


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks share."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of all lies; not a number where there is none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@contextmanager
def drawing(name: str, charts: int, width_in: float = 5.5, *, stacked: bool = False) -> Iterator[list[Any]]:
    """Axes side by side or one above the other, each so many inches wide; written to results/NAME.png on leaving."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, columns = (charts, 1) if stacked else (1, charts)
    size_in = width_in * columns, _HEIGHT_IN * rows
    figure, axes = pyplot.subplots(rows, columns, figsize=size_in, squeeze=False)
    yield list(axes.flat)
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=100)
    pyplot.close(figure)


@dataclass(frozen=True)
class Bars:
    """One chart: a group of bars for each label, a bar in it for each series; None draws no bar.

    `wanted` is a line across: what was promised.
    """

    unit: str
    labels: Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    logarithmic: bool = False
    wanted: float | None = None


def plot(name: str, *charts: Bars) -> None:
    """Draw the charts to results/NAME.png, one above the other where they have many bars."""
    groups = max(len(chart.labels) for chart in charts)
    width_in = max(5.0, 1.0 + 0.8 * groups)
    with drawing(name, len(charts), width_in, stacked=groups > _GROUPS_ABREAST) as all_axes:
        for axes, chart in zip(all_axes, charts, strict=True):
            _draw_bars(axes, chart)


def _draw_bars(axes: Any, chart: Bars) -> None:
    width = _GROUP_WIDTH / max(len(chart.series), 1)
    for index, (label, heights) in enumerate(chart.series.items()):
        places = [place + index * width for place in range(len(chart.labels))]
        axes.bar(places, [height or 0 for height in heights], width, label=label)
    if chart.wanted is not None:
        axes.axhline(chart.wanted, color="black", linestyle="--", linewidth=1, label="wanted")
    if chart.logarithmic:
        axes.set_yscale("log")
    axes.set_ylabel(chart.unit)
    middle = (len(chart.series) - 1) * width / 2
    axes.set_xticks([place + middle for place in range(len(chart.labels))], chart.labels, fontsize=7)
    if len(chart.series) > 1 or chart.wanted is not None:
        axes.legend(fontsize=8)
