"""`dlms-connector read FILE DEVICE [NAME ...]`: values of one meter, now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Annotated, Any, Final

import typer
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
from dlms_connector.cli.output import cell, console, print_json, progress
from dlms_connector.config.catalogue import CATALOGUE
from dlms_connector.config.problems import nearest
from dlms_connector.config.reading import RegisterSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, LinkClosed, LinkTimeout, ObjectError, ServiceRefused
from dlms_connector.meter.batch_result import BatchResult
from dlms_connector.meter.plan import Register, make_register
from dlms_connector.meter.reading import to_plain
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis

_BATCH: Final = 10


def command(
    file: FileArgument,
    device: DeviceArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME ...]",
            help="Keys, catalogue names or OBIS codes (1-0:1.8.0, 0-0:1.0.0#3 for attribute 3); "
            "by default all that the device entry reads.",
        ),
    ] = None,
    class_id: Annotated[
        int | None, typer.Option("--class", min=0, max=65535, help="COSEM class of the OBIS codes given.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Unscaled, with the meter's data type.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    state_directory: StateOption = None,
) -> None:
    """Read values of one meter now: exit 0 if any was read, 1 otherwise."""
    meter = choose_meter(file, device, state_directory)
    registers = chosen_registers(meter.device, names or [], class_id)
    if not registers:
        raise CommandError(f"{device} reads nothing by itself", hint="name keys or OBIS codes to read")
    rows: list[dict[str, Any]] = []
    with (
        open_meter(meter, tell_on_stderr) as session,
        progress() as bar,
    ):
        task = bar.add_task(f"Reading {device}", total=len(registers))
        for part in _parts(registers):
            rows += [_raw(session, register) for register in part] if raw else _scaled(session, part)
            bar.advance(task, len(part))
    if as_json:
        print_json({"device": device, "ts": time.time_ns() // 1_000_000, "values": rows})
    else:
        _print(device, rows, raw)
    raise typer.Exit(0 if any("error" not in row for row in rows) else 1)


def chosen_registers(device: DeviceSettings, names: Sequence[str], class_id: int | None) -> list[Register]:
    """What the operator named, or everything of the entry.

    Raises:
        CommandError: a word is no key, no catalogue name and no OBIS code.
    """
    own = [
        *(make_register(entry, device.poll_period_ms, is_attribute=False) for entry in device.timeseries),
        *(make_register(entry, device.poll_period_ms, is_attribute=True) for entry in device.attributes),
    ]
    if not names:
        return own
    by_key = {register.key: register for register in reversed(own)}
    return [by_key.get(name) or _register(device, name, class_id, list(by_key)) for name in names]


def _register(device: DeviceSettings, name: str, class_id: int | None, keys: list[str]) -> Register:
    entry: dict[str, Any]
    known = CATALOGUE.get(name)
    if known is not None:
        entry = {"key": name, "class": class_id, **known.as_definition()}
    else:
        code, _, attribute = name.partition("#")
        try:
            obis = Obis.parse(code)
        except ValueError as error:
            near = nearest(name, [*keys, *CATALOGUE])
            hint = f'did you mean "{near}"?' if near else "name a key of the device, or an OBIS code"
            raise CommandError(f'"{name}" is no key of the device and no OBIS code', hint=hint) from error
        if not (attribute or "2").isdigit() or not 1 <= int(attribute or "2") <= 127:
            raise CommandError(f'"{name}": an attribute is a number from 1 to 127', hint="e.g. 0-0:1.0.0#3")
        entry = {
            "key": name,
            "obis": str(obis),
            "class": device.class_of(obis) if class_id is None else class_id,
            "attribute": int(attribute or "2"),
        }
    return make_register(RegisterSettings.model_validate(entry), device.poll_period_ms, is_attribute=False)


def _parts(registers: list[Register]) -> Iterator[list[Register]]:
    """A few at a time; keys are unique among the timeseries and among the attributes, not across."""
    for _, section in groupby(registers, lambda register: register.is_attribute):
        rest = list(section)
        for start in range(0, len(rest), _BATCH):
            yield rest[start : start + _BATCH]


_BREAKS = 3
"""The link ended so often in a row and no object was answered between: it is not one object's fault."""


def _scaled(session: MeterSession, registers: list[Register]) -> list[dict[str, Any]]:
    """As the gateway reads them: by lists, and one by one where a list ends the link."""
    rows: dict[Register, dict[str, Any]] = {}
    rest = registers
    breaks = in_a_row = 0
    while rest:
        alone, known = session.on_trial, len(rows)
        parts = [[register] for register in rest] if breaks else [rest]
        part: list[Register] = []
        try:
            for part in parts:
                session.learn_scalers(part)
                for batch in session.plan.batch(part):
                    rows.update(_rows(batch.registers, session.read_batch(batch)))
        except (LinkTimeout, LinkClosed) as error:
            if session.on_trial and not alone:
                tell_on_stderr(
                    "a list was not answered, so each object is asked for alone (useLists: false saves that)"
                )
            breaks += 1
            in_a_row = in_a_row + 1 if len(rows) == known else 1
            if in_a_row >= _BREAKS or len(registers) == 1 < breaks:
                raise  # not even one by one: it is the link
            if len(parts) > 1 or len(rest) == 1:  # the others are answered: this object is to blame
                rows.update(_rows(part, BatchResult([], failed={part[0].key: error})))
            session.open()
        rest = [register for register in registers if register not in rows]
    return [rows[register] for register in registers]


def _rows(registers: Sequence[Register], result: BatchResult) -> dict[Register, dict[str, Any]]:
    readings = {reading.key: reading for reading in result.readings}
    problems = result.problems()
    rows = {}
    for register in registers:
        reading = readings.get(register.key)
        if reading is not None:
            unscaled = (
                {"unscaled": True}
                if register.needs_scaler and isinstance(reading.value, (int, float))
                else {}
            )
            rows[register] = _row(register, value=reading.value, unit=reading.unit, **unscaled)
        else:
            error = problems[register.key]
            rows[register] = _row(register, value=None, error=error.message, hint=error.hint)
    return rows


def _raw(session: MeterSession, register: Register) -> dict[str, Any]:
    try:
        typed = session.get_typed(register.ref)
        value = to_plain(session.get(register.ref))
    except (ObjectError, ServiceRefused) as error:
        return _row(register, error=error.message, hint=error.hint)
    return _row(register, value=value, type=typed.type.name.lower().replace("_", "-"))


def _row(register: Register, **content: Any) -> dict[str, Any]:
    ref = register.ref
    where = {"obis": str(ref.obis), "class": ref.class_id, "attribute": ref.attribute}
    return {"key": register.key, **where, **content}


def _print(device: str, rows: list[dict[str, Any]], raw: bool) -> None:
    table = Table(title=escape(device), title_justify="left", box=None)
    for name in ("key", "object", "class"):
        table.add_column(name, no_wrap=True)
    table.add_column("value", justify="right", overflow="fold")
    table.add_column("type" if raw else "unit")
    for row in rows:
        attribute = "" if row["attribute"] == 2 else f"#{row['attribute']}"
        head = escape(row["key"]), f"{row['obis']}{attribute}", str(row["class"])
        if "error" in row:
            hint = f" ({row['hint']})" if row.get("hint") else ""
            table.add_row(*head, f"[red]{escape(row['error'])}[/]{escape(hint)}")
        else:
            table.add_row(*head, escape(cell(row["value"])), row.get("type" if raw else "unit", ""))
    console().print(table, soft_wrap=False)
