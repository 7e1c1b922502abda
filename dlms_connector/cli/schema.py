"""`dlms-connector schema`: the JSON schema for editors, and the tables of docs/configuration.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from dlms_connector.config.reference import fill_tables
from dlms_connector.config.schema import configuration_schema
from dlms_connector.config.textfile import write_whole

_MODE: Final = 0o644


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
        write_whole(docs, fill_tables(docs.read_text(encoding="utf-8")), _MODE)
    elif output is not None:
        write_whole(output, schema_text(), _MODE)
    else:
        sys.stdout.write(schema_text())
