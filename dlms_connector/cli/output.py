"""How the commands write: tables for people, JSON with exact numbers for programs."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
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
    """Indented JSON; decimals as they are, null for NaN and infinity, which JSON does not have."""
    return simplejson.dumps(_finite(document), use_decimal=True, indent=2, ensure_ascii=False)


def _finite(document: Any) -> Any:
    """The document with None in place of each number that is not finite."""
    if isinstance(document, float):
        return document if math.isfinite(document) else None
    if isinstance(document, Decimal):
        return document if document.is_finite() else None
    if isinstance(document, dict):
        return {key: _finite(value) for key, value in document.items()}
    if isinstance(document, tuple) and hasattr(document, "_asdict"):
        return _finite(document._asdict())
    if isinstance(document, (list, tuple)):
        return [_finite(item) for item in document]
    return document


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
        return printable(simplejson.dumps(_finite(value), use_decimal=True, ensure_ascii=False))
    return printable(str(value))


def printable(text: str) -> str:
    """Text of a meter without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else f"\\x{ord(letter):02x}" for letter in text)
