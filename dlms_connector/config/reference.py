"""The reference tables of docs/configuration.md, made from the same settings that validate.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is a section of the settings,
`catalogue`, or `templates`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dlms_connector.config.catalogue import CATALOGUE
from dlms_connector.config.settings import ConnectorSettings, DeviceSettings
from dlms_connector.config.template_library import TemplateLibrary

_TABLE: Final = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_DURATION_HINT: Final = "milliseconds, or a text such as"


def fill_tables(text: str) -> str:
    """The page with each table written anew. Raises KeyError for a table that does not exist."""
    _, root = models_json_schema(
        [(ConnectorSettings, "validation"), (DeviceSettings, "validation")], by_alias=True
    )
    definitions: dict[str, Any] = root["$defs"]

    def table(match: re.Match[str]) -> str:
        name = match[2]
        if name == "catalogue":
            rows = _catalogue_rows()
        elif name == "templates":
            rows = _template_rows()
        else:
            rows = _section_rows(definitions[name])
        return f"{match[1]}{rows}{match[3]}"

    return _TABLE.sub(table, text)


def _rows(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _section_rows(section: dict[str, Any]) -> str:
    required = section.get("required", [])
    rows = []
    for key, value in section["properties"].items():
        default = "required" if key in required else _default(value.get("default"))
        rows.append((f"`{key}`", _type(value), default, _description(value)))
    return _rows(("key", "type", "default", "meaning"), rows)


def _description(value: dict[str, Any]) -> str:
    text = str(value.get("description", ""))
    return "" if text.startswith((_DURATION_HINT, "a reference to a secret", "an OBIS code such")) else text


def _default(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return ""  # a section's defaults stand in its own table
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _type(value: dict[str, Any]) -> str:
    description = str(value.get("description", ""))
    if description.startswith(_DURATION_HINT) or _is_duration(value):
        return "duration" + _bounds(value)
    if "anyOf" in value or "oneOf" in value:
        branches = [_type(branch) for branch in value.get("anyOf") or value["oneOf"]]
        return " or ".join(dict.fromkeys(branch for branch in branches if branch != "null"))
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "const" in value or "enum" in value:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    names = {"integer": "whole number", "string": "text", "boolean": "true or false", "number": "number"}
    return names.get(str(value.get("type")), str(value.get("type", "any"))) + _bounds(value)


def _is_duration(value: dict[str, Any]) -> bool:
    return any("(ms|s|m|h|d)" in branch.get("pattern", "") for branch in value.get("anyOf", []))


def _bounds(value: dict[str, Any]) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    if low is not None and high is not None:
        return f", {low} to {high}"
    if low is not None:
        return f", from {low}"
    return f", up to {high}" if high is not None else ""


def _catalogue_rows() -> str:
    rows = [
        (f"`{name}`", f"`{entry.obis}`", str(entry.class_id), entry.unit, entry.description)
        for name, entry in CATALOGUE.items()
    ]
    return _rows(("name", "OBIS", "class", "unit", "what it is"), rows)


def _template_rows() -> str:
    library = TemplateLibrary()
    rows = []
    for name in library.names():
        template = library.get(name)
        rows.append((f"`{name}`", template.description, template.source, "; ".join(template.not_verified)))
    return _rows(("template", "for", "source", "not verified on a real meter"), rows)


def section_names() -> list[str]:
    """Every section that has a table, so that a test can see that the page leaves none out."""
    models: set[type[BaseModel]] = {ConnectorSettings, DeviceSettings}
    _, root = models_json_schema([(model, "validation") for model in models], by_alias=True)
    return sorted(root["$defs"])
