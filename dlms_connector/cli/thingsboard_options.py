"""The options of every command that asks ThingsBoard's REST API; the password is a reference."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from dlms_connector.config.secrets import SecretRef
from dlms_connector.errors import CommandError
from dlms_connector.migration.thingsboard_rest import ThingsBoardRest

TbUrl = Annotated[
    str | None, typer.Option("--tb-url", help="ThingsBoard's address, e.g. https://thingsboard.example.com.")
]
TbUser = Annotated[
    str | None, typer.Option("--tb-user", help="A tenant administrator; by default $TB_USERNAME.")
]
TbPassword = Annotated[
    str,
    typer.Option(
        "--tb-password", help="Where the password is: ${env:NAME}, ${file:/path}, ${credential:NAME}."
    ),
]
CaFile = Annotated[Path | None, typer.Option("--ca", help="PEM file of an own certificate authority.")]

DEFAULT_PASSWORD: Final = "${env:TB_PASSWORD}"  # noqa: S105 - a reference, not a password


@contextmanager
def thingsboard(url: str, user: str | None, password: str, ca_file: Path | None) -> Iterator[ThingsBoardRest]:
    """A session that logs in when it is used.

    Raises CommandError: no user, or a password that is written instead of referred to.
    """
    username = user or os.environ.get("TB_USERNAME")
    if not username:
        raise CommandError("ThingsBoard's user is not known", hint="give --tb-user or set TB_USERNAME")
    try:
        reference = SecretRef.parse(password)
    except ValueError as error:
        raise CommandError("--tb-password takes a reference such as '${env:TB_PASSWORD}'") from error
    rest = ThingsBoardRest(url, username, reference.resolve_text, ca_file=ca_file)
    try:
        yield rest
    finally:
        rest.close()
