"""`dlms-connector profile FILE DEVICE OBIS`: rows of a load profile or event log, as table, CSV or picture."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Annotated, Any, Final, TextIO

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table

from dlms_connector.cli.meter_access import (
    DeviceArgument,
    FileArgument,
    StateOption,
    choose_meter,
    open_meter,
    tell_on_stderr,
)
from dlms_connector.cli.output import cell, console, progress
from dlms_connector.cli.plot import save_plot
from dlms_connector.config.catalogue import name_of
from dlms_connector.config.reading import ProfileSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.config.types import DAY_MS, DurationMs
from dlms_connector.errors import CommandError
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.columns import Column, Layout
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import Row, row_readings
from dlms_connector.meter.reading import Plain
from dlms_connector.meter.session import MeterSession
from dlms_connector.meter.zones import zone_for
from dlms_connector.obis import Obis

_SHOWN_ROWS: Final = 48
_DURATION: Final[TypeAdapter[int]] = TypeAdapter(DurationMs)


def command(
    file: FileArgument,
    device: DeviceArgument,
    obis: Annotated[str, typer.Argument(help="Logical name of the profile, e.g. 1-0:99.1.0.")],
    begin: Annotated[str, typer.Option("--from", help="ISO date or time, or how long ago: 6h, 2d.")] = "1d",
    end: Annotated[str, typer.Option("--to", help="As --from; by default now.")] = "0s",
    csv_file: Annotated[str, typer.Option("--csv", metavar="FILE|-", help="Write CSV; - for stdout.")] = "",
    plot_file: Annotated[Path | None, typer.Option("--plot", metavar="FILE.png", help="Draw it.")] = None,
    state_directory: StateOption = None,
) -> None:
    """Read rows of a profile or event log: exit 0 even if the window has none."""
    meter = choose_meter(file, device, state_directory)
    settings = profile_settings(meter.device, obis)
    zone = zone_for(meter.device.clock.time_zone)
    now_ms = time.time_ns() // 1_000_000
    window = Window(moment_ms(begin, now_ms, zone), moment_ms(end, now_ms, zone))
    if window.from_ms >= window.to_ms:
        raise CommandError("--from is not before --to")
    with open_meter(meter, tell_on_stderr) as session:
        reader = ProfileReader(meter.device, settings, session.state, on_event=tell_on_stderr)
        rows = _read(reader, session, window)
        layout = reader.learn(session)
    titled = titles(layout)
    if csv_file:
        with _opened(csv_file) as stream:
            write_csv(stream, titled, rows, layout, zone)
    if plot_file is not None:
        save_plot(plot_file, f"{device}, {settings.obis}", _series(titled, rows, layout), zone)
    shown = console(stderr=csv_file == "-")
    if not csv_file and plot_file is None:
        shown.print(_table(device, titled, rows, layout, zone), soft_wrap=False)
    written = [str(target) for target in (csv_file, plot_file) if target and target != "-"]
    where = f" in {' and '.join(written)}" if written else ""
    shown.print(f"{len(rows)} rows from {_text(window.from_ms, zone)} to {_text(window.to_ms, zone)}{where}")


def profile_settings(device: DeviceSettings, code: str) -> ProfileSettings:
    """The profile as the device entry has it, else with all its columns. Raises CommandError."""
    try:
        obis = Obis.parse(code)
    except ValueError as error:
        raise CommandError(str(error)) from error
    for entry in device.profiles:
        if entry.obis == obis:
            return entry
    return ProfileSettings.model_validate({"obis": str(obis), "kind": kind_of_profile(obis)})


def kind_of_profile(obis: Obis) -> str:
    """Event logs have D = 98 (Blue Book 7.5.2.5)."""
    return "events" if (obis.c, obis.d) == (99, 98) else "profile"


def moment_ms(text: str, now_ms: int, zone: tzinfo) -> int:
    """Epoch milliseconds of an ISO date or time (in the meter's zone, unless it says), or of a duration ago.

    Raises:
        CommandError: neither of them.
    """
    try:
        return now_ms - _DURATION.validate_python(text)
    except ValidationError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    except ValueError as error:
        raise CommandError(
            f'"{text}" is no moment', hint="write 2026-03-01, 2026-03-01T06:00, or how long ago: 6h, 2d"
        ) from error
    local = moment if moment.tzinfo is not None else moment.replace(tzinfo=zone)
    return int(local.timestamp() * 1000)


def _read(reader: ProfileReader, session: MeterSession, window: Window) -> list[Row]:
    """Day by day with a progress bar; a meter that gives only the whole buffer is asked once."""
    step_ms = min(reader.settings.slice_ms, DAY_MS)
    rows: list[Row] = []
    with progress() as bar:
        task = bar.add_task("Reading rows", total=window.to_ms - window.from_ms)
        start_ms = window.from_ms
        while start_ms <= window.to_ms:
            last_ms = window.to_ms if reader.access == "whole" else min(start_ms + step_ms - 1, window.to_ms)
            rows += reader.rows(session, Window(start_ms, last_ms))
            bar.update(task, advance=last_ms - start_ms + 1)
            start_ms = last_ms + 1
    return rows


def titles(layout: Layout) -> dict[str, str]:
    """Key of each column -> its heading with name and unit, in the profile's order."""
    return {column.key: _title(column, column.key) for column in layout.columns if column.key is not None}


def _title(column: Column, key: str) -> str:
    name = name_of(column.ref.obis) if key == str(column.ref.obis) else ""
    unit = f" [{column.unit}]" if column.unit else ""
    return f"{key}{f' {name}' if name else ''}{unit}"


def write_csv(
    stream: TextIO, titled: dict[str, str], rows: Sequence[Row], layout: Layout, zone: tzinfo
) -> None:
    """One line a row: ISO time, then the columns; what the meter left null stays empty."""
    writer = csv.writer(stream)
    writer.writerow(["time", *titled.values()])
    for row in rows:
        values = _values(row, layout)
        writer.writerow([_text(row.ts_ms, zone), *(cell(values.get(key)) for key in titled)])


@contextmanager
def _opened(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
        return
    try:
        with Path(target).open("w", encoding="utf-8", newline="") as stream:
            yield stream
    except OSError as error:
        raise CommandError(f"{target} cannot be written: {error.strerror}") from error


def _values(row: Row, layout: Layout) -> dict[str, Plain]:
    return {reading.key: reading.value for reading in row_readings(row, layout)}


def _series(titled: dict[str, str], rows: Sequence[Row], layout: Layout) -> dict[str, list[tuple[int, Any]]]:
    series: dict[str, list[tuple[int, Any]]] = {title: [] for title in titled.values()}
    for row in rows:
        for key, value in _values(row, layout).items():
            series[titled[key]].append((row.ts_ms, value))
    return series


def _table(device: str, titled: dict[str, str], rows: Sequence[Row], layout: Layout, zone: tzinfo) -> Table:
    left_out = len(rows) - _SHOWN_ROWS
    note = f"; {left_out} older rows are not shown, --csv has all" if left_out > 0 else ""
    table = Table(title=escape(device + note), title_justify="left", box=None)
    table.add_column("time", no_wrap=True)
    for title in titled.values():
        table.add_column(escape(title), justify="right")
    for row in rows[-_SHOWN_ROWS:]:
        values = _values(row, layout)
        table.add_row(_text(row.ts_ms, zone), *(escape(cell(values.get(key))) for key in titled))
    return table


def _text(epoch_ms: int, zone: tzinfo) -> str:
    moment = datetime.fromtimestamp(epoch_ms / 1000, timezone.utc).astimezone(zone)
    return moment.isoformat(timespec="seconds")
