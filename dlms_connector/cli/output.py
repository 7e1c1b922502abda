"""How the commands write: tables for people, JSON with exact numbers for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import simplejson
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from dlms_connector.errors import CommandError
from dlms_connector.meter.reading import Plain


def console(*, stderr: bool = False) -> Console:
    """A console that neither colours values nor breaks lines that are not in a table."""
    return Console(highlight=False, soft_wrap=True, stderr=stderr)


def progress(*columns: ProgressColumn) -> Progress:
    """A bar on stderr that vanishes when it is done; nothing where stderr is no terminal."""
    shown = console(stderr=True)
    return Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)


def to_json(document: Any) -> str:
    """Indented JSON; decimals as they are."""
    return simplejson.dumps(document, use_decimal=True, indent=2, ensure_ascii=False)


def print_json(document: Any) -> None:
    sys.stdout.write(to_json(document) + "\n")


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file. Raises CommandError."""
    try:
        path.write_text(to_json(document) + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def cell(value: Plain) -> str:
    """A value as a cell of a table."""
    if value is None:
        return ""
    if isinstance(value, (list, dict)):
        return printable(simplejson.dumps(value, use_decimal=True, ensure_ascii=False))
    return printable(str(value))


def printable(text: str) -> str:
    """Text of a meter without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
