"""`dlms-connector compare`: what two systems delivered of the same meters, and a verdict for each meter."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from dlms_connector.cli.thingsboard_options import (
    DEFAULT_PASSWORD,
    CaFile,
    TbPassword,
    TbUrl,
    TbUser,
    thingsboard,
)
from dlms_connector.config.loader import load_file
from dlms_connector.config.textfile import write_whole
from dlms_connector.config.types import DurationMs
from dlms_connector.errors import CommandError
from dlms_connector.migration.compare import (
    HEALTH_PREFIX,
    LATENCY_KEY,
    MeterComparison,
    Pair,
    Window,
    compare,
    estimated_period_ms,
)
from dlms_connector.migration.report import as_markdown, as_table, as_verdict_lines, write_plot
from dlms_connector.migration.series import Point, Telemetry, number_or_text, read_export, time_ms
from dlms_connector.migration.thingsboard_rest import ThingsBoardRest

_REPORT_MODE: Final = 0o644
_DURATION: Final[TypeAdapter[int]] = TypeAdapter(DurationMs)


def command(
    exports: Annotated[
        list[Path] | None,
        typer.Argument(help="Two exports (CSV or JSON): the known system's, the judged one's."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", help="A device; KNOWN=JUDGED where its names differ. Repeat; by default all."
        ),
    ] = None,
    before: Annotated[
        str | None, typer.Option(help="Window of the known system: START..END, ISO dates or ms.")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Window of the judged system: START..END.")] = None,
    last: Annotated[str | None, typer.Option(help="One window for both, ending now, e.g. 24h.")] = None,
    keys: Annotated[str | None, typer.Option(help="Only these keys, with commas.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="The connector's configuration: the periods that are expected.")
    ] = None,
    period: Annotated[str | None, typer.Option(help="The period of every key, e.g. 5s.")] = None,
    labels: Annotated[str, typer.Option(help="Names of the two systems.")] = "bridge,gateway",
    report: Annotated[Path | None, typer.Option(help="Write a Markdown report to this file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write a PNG plot to this file (needs matplotlib).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    tb_url: TbUrl = None,
    tb_user: TbUser = None,
    tb_password: TbPassword = DEFAULT_PASSWORD,
    ca: CaFile = None,
) -> None:
    """Compare the telemetry of two systems: delivered share, gaps, latency, values; exit 1 to roll back."""
    windows = _windows(before, after, last)
    known, comma, judged = labels.partition(",")
    if not comma:
        raise CommandError("--labels takes two names, e.g. bridge,gateway")
    label_pair = (known.strip(), judged.strip())
    wanted = [_pair(word) for word in device or ()]
    only = {key.strip() for key in keys.split(",")} if keys else None
    if exports and tb_url is None:
        sides = _from_exports(exports, wanted)
    elif tb_url is not None and not exports:
        with thingsboard(tb_url, tb_user, tb_password, ca) as rest:
            sides = _from_thingsboard(rest, wanted, windows, only)
    else:
        raise CommandError("give two exports, or --tb-url with --device and windows")
    left, right = (_restricted(side, only) for side in sides)
    spans = _spans(left, right, windows)
    results = compare(wanted or _same_names(left, right), left, right, *spans, _period_of(config, period))
    if not results:
        raise CommandError("neither side has a device to compare")
    if report is not None:
        write_whole(report, as_markdown(results, label_pair, spans), _REPORT_MODE)
    if plot is not None:
        write_plot(plot, results, label_pair, (left, right), spans)
    if as_json:
        sys.stdout.write(json.dumps([_as_document(result) for result in results], indent=2) + "\n")
    else:
        console = Console(highlight=False, soft_wrap=True)
        console.print(as_table(results, label_pair))
        for line in as_verdict_lines(results):
            console.print(line)
    raise typer.Exit(1 if any(result.verdict == "roll back" for result in results) else 0)


def _windows(before: str | None, after: str | None, last: str | None) -> tuple[Window, Window] | None:
    if last is not None:
        if before is not None or after is not None:
            raise CommandError("--last is for both sides; leave out --before and --after")
        end_ms = int(time.time() * 1000)
        window = Window(end_ms - _duration_ms("--last", last), end_ms)
        return window, window
    if before is None and after is None:
        return None
    if before is None or after is None:
        raise CommandError("--before and --after go together")
    return _window("--before", before), _window("--after", after)


def _window(option: str, text: str) -> Window:
    start, separator, end = text.partition("..")
    try:
        window = Window(time_ms(start), time_ms(end))
    except ValueError as error:
        raise CommandError(f"{option}: {error}", hint="e.g. 2024-05-01T00:00..2024-05-02T00:00") from error
    if not separator or window.end_ms <= window.start_ms:
        raise CommandError(f"{option} ends before it starts")
    return window


def _duration_ms(option: str, text: str) -> int:
    try:
        duration_ms = _DURATION.validate_python(text)
    except ValidationError as error:
        raise CommandError(f"{option} {text!r} is no duration", hint="e.g. 30s, 15m, 24h, 7d") from error
    if duration_ms <= 0:
        raise CommandError(f"{option} must be more than 0")
    return duration_ms


def _pair(word: str) -> Pair:
    left, separator, right = word.partition("=")
    return Pair(left, right if separator else left)


def _from_exports(exports: Sequence[Path], wanted: Sequence[Pair]) -> tuple[Telemetry, Telemetry]:
    if len(exports) != 2:
        raise CommandError("two exports are compared: first the known system's, then the judged one's")
    only = wanted[0] if len(wanted) == 1 else None
    left = read_export(exports[0], only.left if only else None)
    right = read_export(exports[1], only.right if only else None)
    names = [{device for device, _ in side} for side in (left, right)]
    if only is None and not wanted and len(names[0]) == len(names[1]) == 1 and names[0] != names[1]:
        # One meter in each file, named after its file: they are meant as one.
        (name,) = names[1]
        left = {(name, key): points for (_, key), points in left.items()}
    return left, right


def _from_thingsboard(
    rest: ThingsBoardRest,
    wanted: Sequence[Pair],
    windows: tuple[Window, Window] | None,
    only: set[str] | None,
) -> tuple[Telemetry, Telemetry]:
    if not wanted or windows is None:
        raise CommandError("from ThingsBoard: say --device, and --last or --before and --after")
    sides: tuple[Telemetry, Telemetry] = ({}, {})
    for pair in wanted:
        for side, name, window in zip(sides, (pair.left, pair.right), windows, strict=True):
            found = rest.device_by_name(name)
            if found is None:
                raise CommandError(f'ThingsBoard has no device called "{name}"')
            present = rest.timeseries_keys(found.id)
            keys = [key for key in present if _is_compared(key, only)]
            series = rest.timeseries(found.id, keys, window.start_ms, window.end_ms)
            for key, samples in series.items():
                side[name, key] = [Point(sample.ts_ms, number_or_text(sample.value)) for sample in samples]
    return sides


def _is_compared(key: str, only: set[str] | None) -> bool:
    if key == LATENCY_KEY:
        return True
    return not key.startswith(HEALTH_PREFIX) if only is None else key in only


def _restricted(telemetry: Telemetry, only: set[str] | None) -> Telemetry:
    return {name: points for name, points in telemetry.items() if _is_compared(name[1], only)}


def _spans(left: Telemetry, right: Telemetry, windows: tuple[Window, Window] | None) -> tuple[Window, Window]:
    """The windows as given, or what the exports cover: together where they run side by side."""
    if windows is not None:
        return windows
    covered = [_covered(left), _covered(right)]
    if covered[0] is None or covered[1] is None:
        window = covered[0] or covered[1]
        if window is None:
            raise CommandError("the exports hold no value")
        return window, window
    if covered[0].overlaps(covered[1]):
        both = Window(
            min(window.start_ms for window in covered if window),
            max(window.end_ms for window in covered if window),
        )
        return both, both
    return covered[0], covered[1]


def _covered(telemetry: Telemetry) -> Window | None:
    filled = [points for points in telemetry.values() if points]
    if not filled:
        return None
    start_ms = min(points[0].ts_ms for points in filled)
    end_ms = max(points[-1].ts_ms + estimated_period_ms(points) for points in filled)
    return Window(start_ms, end_ms)


def _same_names(left: Telemetry, right: Telemetry) -> list[Pair]:
    return [Pair(name, name) for name in sorted({device for device, _ in (*left, *right)})]


def _period_of(config: Path | None, period: str | None) -> Callable[[str, str], int | None]:
    if period is not None:
        fixed_ms = _duration_ms("--period", period)
        return lambda _device, _key: fixed_ms
    periods: dict[tuple[str, str], int] = {}
    if config is not None:
        configuration = load_file(config)
        if not configuration.devices and configuration.errors:
            problem = configuration.errors[0]
            raise CommandError(f"{config.name}: {problem.message}", hint="dlms-connector check tells more")
        for device in configuration.devices:
            for entry in device.timeseries:
                periods[device.device_name, entry.key] = entry.poll_period_ms or device.poll_period_ms
    return lambda device, key: periods.get((device, key))


def _as_document(result: MeterComparison) -> dict[str, object]:
    keys = [
        {
            **asdict(key),
            "left": {**asdict(key.left), "share": key.left.share},
            "right": {**asdict(key.right), "share": key.right.share},
        }
        for key in result.keys
    ]
    return {**asdict(result), "keys": keys}
