"""`dlms-connector schema`: the JSON schema for editors, and the tables of docs/configuration.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from dlms_connector.config.reference import fill_tables
from dlms_connector.config.schema import configuration_schema


def schema_text() -> str:
    """The schema file as it is kept in config/."""
    return json.dumps(configuration_schema(), indent=2, ensure_ascii=False) + "\n"


def command(
    output: Annotated[Path | None, typer.Option(help="Write the schema to this file.")] = None,
    docs: Annotated[
        Path | None, typer.Option(help="Fill the tables of this Markdown file instead.", hidden=True)
    ] = None,
) -> None:
    """Write the JSON schema of the configuration, for editors."""
    if docs is not None:
        docs.write_text(fill_tables(docs.read_text(encoding="utf-8")), encoding="utf-8")
    elif output is not None:
        output.write_text(schema_text(), encoding="utf-8")
    else:
        sys.stdout.write(schema_text())
