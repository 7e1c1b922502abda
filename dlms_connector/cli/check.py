"""`dlms-connector check FILE`: every problem of a configuration in plain words, or what it would do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlms_connector.config.client import KEY_SIZE_BYTES
from dlms_connector.config.loader import Configuration, load_file
from dlms_connector.config.problems import Problem
from dlms_connector.config.secrets import SecretRef
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import SecretError


def command(
    file: Annotated[Path, typer.Argument(help="The connector's configuration, e.g. dlms_connector.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    secrets: Annotated[
        bool, typer.Option("--secrets", help="A secret that cannot be read here is an error.")
    ] = False,
) -> None:
    """Check a configuration before the gateway starts: exit 0 if it is sound, 1 with every problem told."""
    configuration = load_file(file)
    problems = (*configuration.problems, *unusable_secrets(configuration, as_errors=secrets))
    is_sound = not any(problem.severity == "error" for problem in problems)
    if as_json:
        sys.stdout.write(json.dumps(_as_document(file, configuration, problems, is_sound), indent=2) + "\n")
    else:
        _print(file, configuration, problems, is_sound)
    raise typer.Exit(0 if is_sound else 1)


def unusable_secrets(configuration: Configuration, as_errors: bool) -> list[Problem]:
    """The references that this process cannot use: one problem each, however many meters share it."""
    users: dict[tuple[SecretRef, int | None], list[tuple[str, str]]] = {}
    for device in configuration.devices:
        for loc, reference, size_bytes in _references(device):
            users.setdefault((reference, size_bytes), []).append((device.device_name, loc))
    problems = []
    for (reference, size_bytes), needed in users.items():
        try:
            if size_bytes is None:
                reference.resolve_password()
            else:
                reference.resolve_key(size_bytes)
        except SecretError as error:
            name, loc = needed[0]
            others = f" (and {len(needed) - 1} more)" if len(needed) > 1 else ""
            path = f"{configuration.places[name]}.{loc}"
            severity: Literal["error", "warning"] = "error" if as_errors else "warning"
            problems.append(Problem(path, f"{error.message}{others}", error.hint, name, severity))
    return problems


def registers_per_second(devices: tuple[DeviceSettings, ...]) -> float:
    """What the schedule asks of all meters together, attributes and profiles left out."""
    return sum(
        1000 / (entry.poll_period_ms or device.poll_period_ms)
        for device in devices
        if device.enabled
        for entry in device.timeseries
    )


def _references(device: DeviceSettings) -> Iterator[tuple[str, SecretRef, int | None]]:
    """Place in the entry, reference, and for keys the size that the security suite takes."""
    client = device.client
    if client.password is not None:
        yield "client.password", client.password, None
    if client.security is not None:
        size_bytes = KEY_SIZE_BYTES[client.security.suite]
        for name, key in (
            ("encryptionKey", client.security.encryption_key),
            ("authenticationKey", client.security.authentication_key),
        ):
            if key is not None:
                yield f"client.security.{name}", key, size_bytes


def _summary(configuration: Configuration) -> dict[str, Any]:
    devices = configuration.devices
    return {
        "devices": len(devices),
        "disabled": sum(not device.enabled for device in devices),
        "lines": len({device.transport.line_key for device in devices}),
        "registersPerSecond": round(registers_per_second(devices), 2),
        "profiles": sum(len(device.profiles) for device in devices),
    }


def _as_document(
    file: Path, configuration: Configuration, problems: tuple[Problem, ...], is_sound: bool
) -> dict[str, Any]:
    told = [
        {
            "severity": problem.severity,
            "path": problem.path,
            "message": problem.message,
            "hint": problem.hint,
            "device": problem.device,
        }
        for problem in problems
    ]
    return {"file": str(file), "ok": is_sound, "problems": told, **_summary(configuration)}


def print_problems(console: Console, problems: Iterable[Problem]) -> None:
    """Each problem with its place and what to try."""
    for problem in problems:
        colour = "red" if problem.severity == "error" else "yellow"
        console.print(f"[{colour}]{problem.severity}[/] [bold]{escape(problem.path)}[/]", end="")
        console.print(f"  (device {escape(problem.device)})" if problem.device else "")
        console.print(f"    {escape(problem.message)}")
        if problem.hint:
            console.print(f"    [dim]{escape(problem.hint)}[/]")


def _print(file: Path, configuration: Configuration, problems: tuple[Problem, ...], is_sound: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    print_problems(console, problems)
    if not is_sound:
        errors = sum(problem.severity == "error" for problem in problems)
        console.print(
            f"[red]{errors} error{'s' if errors > 1 else ''}[/] in {escape(str(file))}; "
            f"{len(configuration.devices)} of the devices are sound"
        )
        return
    summary = _summary(configuration)
    table = Table(show_header=False, box=None)
    table.add_row("devices", f"{summary['devices']}" + _of_these(summary["disabled"]))
    table.add_row("lines", str(summary["lines"]))
    table.add_row("registers a second", f"{summary['registersPerSecond']:g}")
    table.add_row("load profiles and event logs", str(summary["profiles"]))
    console.print(f"[green]sound[/]: {escape(str(file))}")
    console.print(table)


def _of_these(disabled: int) -> str:
    return f", {disabled} of them disabled" if disabled else ""
