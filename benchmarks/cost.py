"""How CPU and memory of the whole gateway process grow with meters, registers and period.

Runs a design of points (meters x registers x period, sqlite storage) and fits, by least squares,
CPU = a + b x polls a second + c x values a second and memory = a + b x meters + c x registers of all meters.
`python benchmarks/cost.py` takes about 11 minutes, `--quick` about 3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
from report import arguments, drawing, keep, machine, show  # noqa: E402
from whole_gateway import Setup, measure  # noqa: E402

# meters, registers, period in seconds: each is varied while the others stay, and some of it together
DESIGN = (
    (50, 10, 5.0),
    (250, 10, 5.0),
    (500, 10, 5.0),
    (1000, 10, 5.0),
    (500, 2, 5.0),
    (500, 30, 5.0),
    (500, 10, 2.0),
    (500, 10, 15.0),
    (1000, 2, 15.0),
    (1000, 30, 15.0),
    (100, 30, 2.0),
    (100, 2, 2.0),
)
QUICK = ((50, 10, 5.0), (300, 10, 5.0), (300, 2, 5.0), (300, 30, 5.0), (300, 10, 2.0))


def fitted(columns: Sequence[Sequence[float]], wanted: Sequence[float]) -> tuple[list[float], list[float]]:
    """Least squares: the constant and one coefficient a column; and what they make of each point."""
    matrix = np.array([[1.0, *point] for point in zip(*columns, strict=True)])
    coefficients, *_ = np.linalg.lstsq(matrix, np.array(wanted), rcond=None)
    return [float(one) for one in coefficients], [float(one) for one in matrix @ coefficients]


def explained(wanted: Sequence[float], made: Sequence[float]) -> float:
    """R squared: the share of the spread that the fit explains."""
    mean = sum(wanted) / len(wanted)
    spread = sum((value - mean) ** 2 for value in wanted)
    left = sum((value - fit) ** 2 for value, fit in zip(wanted, made, strict=True))
    return 1 - left / spread if spread else float("nan")


def fit(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The coefficients in the units people use; each point gets its fitted values."""
    polls = [point["meters"] / point["period_s"] for point in points]
    values = [rate * point["registers"] for rate, point in zip(polls, points, strict=True)]
    cpu = [point["cpu_percent"] / 100 for point in points]
    (base, a_poll, a_value), cpu_made = fitted([polls, values], cpu)
    meters = [point["meters"] for point in points]
    registers = [point["meters"] * point["registers"] for point in points]
    memory = [point["rss_mb"] for point in points]
    (base_mb, a_meter, a_register), memory_made = fitted([meters, registers], memory)
    for index, point in enumerate(points):
        point["cpu_fitted_percent"] = round(100 * cpu_made[index], 1)
        point["rss_fitted_mb"] = round(memory_made[index], 1)
    return {
        "point": "fit",
        "base_percent": round(100 * base, 2),
        "ms_a_poll": round(1000 * a_poll, 3),
        "ms_a_value": round(1000 * a_value, 4),
        "cpu_explained": round(explained(cpu, cpu_made), 4),
        "worst_cpu_residual_percent": round(
            max(abs(point["cpu_percent"] - point["cpu_fitted_percent"]) for point in points), 1
        ),
        "base_mb": round(base_mb, 1),
        "kb_a_meter": round(1000 * a_meter, 1),
        "kb_a_register": round(1000 * a_register, 2),
        "rss_explained": round(explained(memory, memory_made), 4),
        "worst_rss_residual_mb": round(
            max(abs(point["rss_mb"] - point["rss_fitted_mb"]) for point in points), 1
        ),
    }


def in_words(coefficients: dict[str, Any]) -> str:
    return (
        f"CPU: {coefficients['base_percent']} % of a core for the gateway itself, "
        f"{coefficients['ms_a_poll']} ms a poll and {coefficients['ms_a_value']} ms a value "
        f"({100 * coefficients['cpu_explained']:.1f} % of the spread explained, "
        f"worst residual {coefficients['worst_cpu_residual_percent']} % of a core).\n"
        f"Memory: {coefficients['base_mb']} MB for the gateway itself, {coefficients['kb_a_meter']} kB a meter and "
        f"{coefficients['kb_a_register']} kB a register of a meter "
        f"({100 * coefficients['rss_explained']:.1f} % explained, "
        f"worst residual {coefficients['worst_rss_residual_mb']} MB)."
    )


def draw(points: Sequence[dict[str, Any]]) -> None:
    with drawing("cost", 2) as (left, right):
        _against(left, points, "cpu_percent", "cpu_fitted_percent", "% of a core")
        _against(right, points, "rss_mb", "rss_fitted_mb", "MB resident")


def _against(axes: Any, points: Sequence[dict[str, Any]], measured: str, made: str, unit: str) -> None:
    fits, figures = [point[made] for point in points], [point[measured] for point in points]
    ends = [min(fits + figures), max(fits + figures)]
    axes.plot(ends, ends, color="black", linestyle="--", linewidth=1)
    axes.scatter(fits, figures)
    for point in points:
        label = f" {point['meters']}x{point['registers']}, {point['period_s']:g} s"
        axes.annotate(label, (point[made], point[measured]), fontsize=6)
    axes.set_xlabel(f"{unit}, fitted")
    axes.set_ylabel(f"{unit}, measured")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer points, at most 300 meters")
    parser.add_argument("--seconds", type=float, default=20.0, help="of observation of each point, at least")
    options = parser.parse_args()
    where = machine()
    rows = []
    for meters, registers, period_s in QUICK if options.quick else DESIGN:
        setup = Setup(meters, period_s, registers=registers)
        row = {"point": f"{meters}x{registers}x{period_s:g}s"} | measure(setup, options.seconds)
        del row["name"]
        print(row, flush=True)
        rows.append(row)
    points = [row for row in rows if "error" not in row]
    if len(points) < 4:
        raise SystemExit("too few points for a fit of three coefficients")
    coefficients = fit(points)
    kept = ("point", "cpu_percent", "cpu_fitted_percent", "rss_mb", "rss_fitted_mb", "missing", "error")
    show("Measured and fitted", [{key: row[key] for key in kept if key in row} for row in rows])
    print(in_words(coefficients))
    print(keep("cost", [coefficients, *rows], where))
    draw(points)


if __name__ == "__main__":
    main()
