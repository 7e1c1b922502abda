"""What every benchmark prints and keeps: machine, versions, a table, JSON, a plot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = (
    "dlms-connector",
    "thingsboard-gateway",
    "tb-mqtt-client",
    "dlms-cosem",
    "gurux-dlms",
    "cryptography",
)


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


def keep(name: str, rows: Sequence[dict[str, Any]], where: dict[str, Any]) -> Path:
    """Write results/NAME.json and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".rstrip()
    path.write_text(json.dumps({"command": command, "machine": where, "rows": rows}, indent=1) + "\n")
    return path


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of rows with equal keys."""
    table = Table(title=title)
    columns = list(rows[0]) if rows else []
    for column in columns:
        table.add_column(column, justify="right" if isinstance(rows[0][column], (int, float)) else "left")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=200 if not sys.stdout.isatty() else None).print(table)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks share."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
