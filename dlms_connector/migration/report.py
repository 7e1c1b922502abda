"""A comparison for people: a table for the terminal, a Markdown report, a PNG plot."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from dlms_connector.errors import CommandError
from dlms_connector.migration.compare import KeyComparison, MeterComparison, Side, Window
from dlms_connector.migration.series import Telemetry

_COLOURS: Final = {"go on": "green", "look": "yellow", "roll back": "red"}
_HEAD: Final = (
    "meter",
    "key",
    "every",
    "delivered",
    "",
    "gaps",
    "",
    "longest gap",
    "",
    "latency",
    "",
    "difference",
    "verdict",
)
_PLOTTED_METERS: Final = 40
_TIME_BINS: Final = 48


def as_table(results: Sequence[MeterComparison], labels: tuple[str, str]) -> Table:
    """A row for each meter and key; columns in pairs: known side, judged side."""
    table = Table(*_head(labels))
    for result in results:
        for key in result.keys:
            colour = _COLOURS[key.verdict]
            cells = [escape(cell) for cell in _cells(result, key)]
            table.add_row(*cells[:-1], f"[{colour}]{key.verdict}[/]")
    return table


def as_verdict_lines(results: Sequence[MeterComparison]) -> list[str]:
    """One line a meter, with rich markup: its verdict and why."""
    lines = []
    for result in results:
        why = f": {escape('; '.join(result.reasons))}" if result.reasons else ""
        lines.append(f"[{_COLOURS[result.verdict]}]{result.verdict}[/] {escape(result.right_name)}{why}")
    return lines


def as_markdown(
    results: Sequence[MeterComparison], labels: tuple[str, str], windows: tuple[Window, Window]
) -> str:
    """The whole comparison as a Markdown page."""
    lines = [f"# {labels[0]} and {labels[1]} compared", ""]
    for label, window in zip(labels, windows, strict=True):
        lines.append(f"- {label}: {_moment(window.start_ms)} to {_moment(window.end_ms)}")
    lines += ["", "## Verdicts", "", "| meter | verdict | why |", "| --- | --- | --- |"]
    for result in results:
        why = "; ".join(result.reasons)
        lines.append(f"| {_cell(result.right_name)} | **{result.verdict}** | {_cell(why)} |")
    head = _head(labels)
    lines += ["", "## Keys", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for result in results:
        for key in result.keys:
            lines.append(f"| {' | '.join(_cell(cell) for cell in _cells(result, key))} |")
    lines += [
        "",
        "Delivered: values of those that the period asks for. Gaps: silences of more than 2.5 periods. Latency: from",
        "the reading to its reception, in the median. Difference: of values at the same time, in the median; after a",
        "change of systems, the step of a counter.",
    ]
    return "\n".join(lines) + "\n"


def write_plot(
    path: Path,
    results: Sequence[MeterComparison],
    labels: tuple[str, str],
    sides: tuple[Telemetry, Telemetry],
    windows: tuple[Window, Window],
) -> None:
    """A PNG: what each meter delivered, and how the deliveries went over time.

    Raises:
        CommandError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise CommandError(
            "a plot needs matplotlib", hint="pip install 'dlms-connector[plot]', or leave --plot out"
        ) from error
    shown = [result for result in results if result.keys][:_PLOTTED_METERS]
    figure = figure_module.Figure(figsize=(11, 3.5 + 0.25 * len(shown)), layout="constrained")
    bars, course = figure.subplots(1, 2)
    for side, label in enumerate(labels):
        shares = [100 * _mean_share(result, side) for result in shown]
        places = [row + 0.4 * side - 0.2 for row in range(len(shown))]
        bars.barh(places, shares, height=0.38, label=label)
        _draw_course(course, label, sides[side], windows[side])
    bars.set_yticks(range(len(shown)), [result.right_name for result in shown])
    bars.invert_yaxis()
    bars.set_xlim(0, 105)
    bars.set_xlabel("delivered, % of expected")
    bars.legend(loc="lower left")
    course.set_xlabel("hours since the start of each window")
    course.set_ylabel("values")
    course.set_ylim(bottom=0)
    course.legend(loc="lower left")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _draw_course(axes: Any, label: str, telemetry: Telemetry, window: Window) -> None:
    width_ms = max(1, (window.end_ms - window.start_ms) / _TIME_BINS)
    counts = [0] * _TIME_BINS
    for points in telemetry.values():
        for point in points:
            if window.start_ms <= point.ts_ms < window.end_ms:
                counts[min(_TIME_BINS - 1, int((point.ts_ms - window.start_ms) / width_ms))] += 1
    hours = [(index + 0.5) * width_ms / 3_600_000 for index in range(_TIME_BINS)]
    axes.plot(hours, counts, label=label)


def _mean_share(result: MeterComparison, side: int) -> float:
    shares = [(key.left, key.right)[side].share for key in result.keys]
    return sum(shares) / len(shares)


def _head(labels: tuple[str, str]) -> list[str]:
    """The column titles; each pair of columns says which side it is."""
    head = list(_HEAD)
    for index, title in enumerate(_HEAD):
        if not title:
            head[index - 1] = f"{_HEAD[index - 1]}, {labels[0]}"
            head[index] = labels[1]
    return head


def _cells(result: MeterComparison, key: KeyComparison) -> list[str]:
    left, right = key.left, key.right
    return [
        result.right_name,
        key.key,
        f"{key.period_ms / 1000:g} s",
        *(_delivered(side) for side in (left, right)),
        *(str(side.gaps) for side in (left, right)),
        *(f"{side.longest_gap_ms / 1000:g} s" for side in (left, right)),
        *("-" if side.latency_ms is None else f"{side.latency_ms:g} ms" for side in (left, right)),
        _difference_words(key),
        key.verdict,
    ]


def _delivered(side: Side) -> str:
    return f"{side.share:.1%} ({side.count})" if side.count else "none"


def _difference_words(key: KeyComparison) -> str:
    difference = key.difference
    if difference.factor is not None:
        return f"x {difference.factor:g}"
    if difference.step is not None:
        return f"step {difference.step:g}"
    if difference.relative is None:
        return "-"
    return f"{difference.relative:.2%}, at most {difference.largest:g}"


def _moment(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
