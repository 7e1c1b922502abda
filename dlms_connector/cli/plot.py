"""A picture of a profile, with matplotlib where that is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any

from dlms_connector.errors import CommandError

_SIZE_INCHES = (12.0, 3.0)


def save_plot(path: Path, title: str, series: Mapping[str, Sequence[tuple[int, Any]]], zone: tzinfo) -> None:
    """Numeric columns over time, one below the other, as PNG, SVG or PDF by the name's ending.

    Raises:
        CommandError: matplotlib is missing, nothing can be drawn, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        raise CommandError(
            "--plot needs matplotlib, which is not installed", hint="pip install 'dlms-connector[plot]'"
        ) from error
    numeric = {
        name: [(ts_ms, float(value)) for ts_ms, value in points if _is_number(value)]
        for name, points in series.items()
    }
    drawn = {name: points for name, points in numeric.items() if points}
    if not drawn:
        raise CommandError("there are no numbers in this window to draw")
    width, height = _SIZE_INCHES
    figure = Figure(figsize=(width, height * len(drawn)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)
    for (axis,), (name, points) in zip(axes, drawn.items(), strict=True):
        times = [datetime.fromtimestamp(ts_ms / 1000, zone) for ts_ms, _ in points]
        axis.plot(times, [value for _, value in points], drawstyle="steps-post", linewidth=1)
        axis.set_title(name, loc="left", fontsize=9)
        axis.grid(visible=True, alpha=0.3)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise CommandError(f"{path} cannot be drawn: {error}", hint="name a file such as day.png") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
