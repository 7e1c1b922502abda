"""`dlms-connector discover`: every object that a meter lists, with values; a device entry or a template of them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.table import Table

from dlms_connector.cli import target as options
from dlms_connector.cli.meter_access import ChosenMeter, StateOption, choose_meter, open_meter, tell_on_stderr
from dlms_connector.cli.output import cell, console, print_json, progress, write_json
from dlms_connector.cli.probe import advice, finished_entry, run_prober
from dlms_connector.cosem.classes import class_text
from dlms_connector.errors import CommandError
from dlms_connector.survey.discovery import (
    FoundObject,
    device_entry,
    is_asked,
    left_out_of_entry,
    object_list,
    read_values,
    template,
)
from dlms_connector.survey.probe import load_entry

_NAME: Final = re.compile(r"[A-Za-z0-9][\w-]*")


def command(
    target: Annotated[
        str,
        typer.Argument(metavar="FILE|HOST:PORT|SERIAL", help="A configuration, or a meter to probe first."),
    ],
    device: Annotated[str | None, typer.Argument(help="deviceName of the meter in FILE.")] = None,
    entry_file: Annotated[
        Path | None, typer.Option("--entry", help="Write a configuration with a ready device entry here.")
    ] = None,
    template_file: Annotated[
        Path | None,
        typer.Option("--template", help="Write a template here; the file's name is its own."),
    ] = None,
    no_values: Annotated[bool, typer.Option("--no-values", help="List the objects and read none.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    state_directory: StateOption = None,
    clients: options.ClientsOption = None,
    password_env: options.PasswordEnv = None,
    password_file: options.PasswordFile = None,
    base_template: Annotated[
        str | None, typer.Option("--base-template", help="As probe's --template: begin with what it says.")
    ] = None,
    framing: options.FramingOption = None,
    logical: options.LogicalOption = None,
    physical: options.PhysicalOption = None,
    address_size: options.SizeOption = None,
    serial_number: options.SerialNumberOption = None,
    timeout: options.TimeoutOption = 7.0,
    limit: options.LimitOption = 300.0,
    pause: options.PauseOption = 1.0,
    recovery: options.RecoveryOption = 10.0,
    baud: options.BaudOption = 9600,
    echo: options.EchoOption = False,
) -> None:
    """List a meter's objects with names, units and values; a meter that is no file's is probed first."""
    if template_file is not None and _NAME.fullmatch(template_file.stem) is None:
        raise CommandError(f"{template_file.stem} is no name for a template", hint="letters, digits, - and _")
    if device is not None:
        meter = choose_meter(Path(target), device, state_directory)
    elif Path(target).is_file():
        raise CommandError("which device of the file?", hint=f"dlms-connector discover {target} DEVICE")
    else:
        plan = options.make_plan(
            target,
            clients=clients,
            password_env=password_env,
            password_file=password_file,
            template=base_template,
            framing=framing,
            logical=logical,
            physical=physical,
            size=address_size,
            serial_number=serial_number,
            baud=baud,
            echo=echo,
            timeout_s=timeout,
            limit_s=limit,
            pause_s=pause,
            recovery_s=recovery,
        )
        prober, interrupted = run_prober(plan, target)
        best = prober.best
        if interrupted:
            raise KeyboardInterrupt
        if best is None:
            raise CommandError(
                f"{target} did not answer", hint=f"{advice(prober)} dlms-connector probe tells more"
            )
        time.sleep(pause if best.outcome.is_clean else recovery)
        meter = ChosenMeter(
            load_entry({**finished_entry(plan, best, target), "timeout": int(timeout * 1000)})
        )
    notes: list[str] = []
    objects = discover(meter, with_values=not no_values, on_note=notes.append)
    if as_json:
        print_json(
            {
                "device": meter.device.device_name,
                "objects": [_as_document(found) for found in objects],
                "notes": notes,
            }
        )
    else:
        console().print(_table(meter.device.device_name, objects), soft_wrap=False)
    said = console(stderr=True)
    notes += [left_out_of_entry(objects)] if entry_file or template_file else []
    if entry_file is not None:
        write_json(entry_file, {"devices": [device_entry(meter.device, objects)]})
        said.print(f"The device entry is in {entry_file}: dlms-connector check {entry_file}")
    if template_file is not None:
        write_json(template_file, template(template_file.stem, meter.device, objects))
        said.print(f'The template is in {template_file}: use it as "template": "{template_file.stem}"')
    for note in filter(None, notes):
        said.print(escape(note))
    readable = sum(found.value is not None for found in objects)
    refused = sum(bool(found.error) for found in objects)
    others = sum(not is_asked(found) for found in objects)
    if others and not no_values:
        said.print(f"{others} objects of other classes were not asked for a value")
    said.print(f"{len(objects)} objects, {readable} read, {refused} refused")


def discover(
    meter: ChosenMeter, *, with_values: bool, on_note: Callable[[str], None] = lambda _: None
) -> list[FoundObject]:
    """The objects of a meter, with progress on stderr; `on_note` takes what is wrong with its list.

    Raises:
        LinkError, ObjectError, ServiceRefused: as `object_list` and `read_values` do.
    """
    with (
        open_meter(meter, tell_on_stderr) as session,
        progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()) as bar,
    ):
        task = bar.add_task("Reading the object list", total=None)
        objects = object_list(session, on_note)
        if with_values:
            bar.update(task, description="Reading values", total=len(objects))
            read_values(session, objects, lambda done: bar.update(task, completed=done))
    return objects


def _table(title: str, objects: list[FoundObject]) -> Table:
    table = Table(title=escape(title), title_justify="left", box=None)
    for name in ("object", "class", "name"):
        table.add_column(name, no_wrap=name == "object")
    table.add_column("value", justify="right", overflow="fold", max_width=60)
    table.add_column("unit")
    for found in sorted(objects, key=lambda each: (each.class_id, each.obis)):
        value = f"[red]{escape(found.error)}[/]" if found.error else escape(cell(found.value))
        table.add_row(str(found.obis), class_text(found.class_id), found.name, value, found.unit)
    return table


def _as_document(found: FoundObject) -> dict[str, Any]:
    document = {
        "obis": str(found.obis),
        "class": found.class_id,
        "version": found.version,
        "name": found.name,
        "value": found.value,
        "unit": found.unit,
    }
    return {**document, "error": found.error} if found.error else document
