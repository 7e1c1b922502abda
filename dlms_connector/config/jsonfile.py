"""Reading a JSON file as written: numbers exact, faults told with line and column instead of raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import simplejson

from dlms_connector.config.problems import Problem

_MAX_FILE_BYTES: Final = 256 * 1024 * 1024


def read_json(path: Path) -> tuple[Any, tuple[Problem, ...]]:
    """The document and no problems, or None and why; numbers with a point become Decimal.

    A key that stands twice in one object is a problem too: JSON readers disagree on which one counts.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return None, (Problem("$", f"the file is larger than {_MAX_FILE_BYTES} bytes"),)
        raw = path.read_bytes()
    except OSError as error:
        reason = "is a directory, not a file" if path.is_dir() else f"cannot be read: {error.strerror}"
        return None, (Problem("$", f"{path} {reason}"),)
    if not raw.strip():
        return None, ()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return None, (
            Problem("$", f"{path.name} is not UTF-8 text (byte {error.start}, line {line})", "is it JSON?"),
        )
    return parse_json(text, path.name)


def parse_json(text: str, name: str) -> tuple[Any, tuple[Problem, ...]]:
    """As `read_json`, from a text that stands in `name`."""
    twice: list[str] = []

    def as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        document = dict(pairs)
        if len(document) < len(pairs):
            keys = [key for key, _ in pairs]
            twice.extend(sorted({key for key in keys if keys.count(key) > 1}))
        return document

    try:
        document = simplejson.loads(text, use_decimal=True, object_pairs_hook=as_object, allow_nan=False)
    except simplejson.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        return None, (Problem("$", f"not JSON at {place}: {error.msg}", _json_hint(text, error.pos)),)
    except (ValueError, RecursionError) as error:
        return None, (Problem("$", f"{name} is not JSON that can be used: {error}"),)
    if twice:
        return None, tuple(Problem("$", f'the key "{key}" stands twice in one object') for key in twice)
    return document, ()


def _json_hint(text: str, position: int) -> str:
    before = text[:position].rstrip()
    if before.endswith(",") and text[position:].lstrip()[:1] in ("}", "]"):
        return "there is a comma after the last entry"
    if text[position : position + 2] in ("//", "/*") or text[position : position + 1] == "#":
        return 'JSON has no comments; a key that begins with "_" may hold a note'
    if text[position : position + 1] == "'":
        return 'JSON takes double quotes: "'
    if before.endswith(('"', "}", "]")) and text[position : position + 1] in ('"', "{", "["):
        return "a comma is missing before this place"
    return ""
