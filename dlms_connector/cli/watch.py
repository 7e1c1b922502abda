"""`dlms-connector watch`: the status, live."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console, RenderableType
from rich.live import Live

from dlms_connector.cli.output import console
from dlms_connector.cli.status import (
    SHOWN_METERS,
    AllOption,
    Look,
    StateOption,
    as_text,
    look_at,
    places,
)

_LINES_AROUND: Final = 8  # summary, header, the line about the rest


def command(
    state_directory: StateOption = None,
    show_all: AllOption = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600)] = 2.0,
) -> None:
    """The status, live, until Ctrl-C; the exit code is that of `status` at the last look."""
    out = console()
    if not out.is_terminal:
        look = look_at(places(state_directory))
        out.print(as_text(look, None if show_all else SHOWN_METERS))
    else:
        look = watch(out, places(state_directory), show_all, lambda: time.sleep(every))
    raise typer.Exit(look.exit_code)


def watch(out: Console, folders: tuple[Path, ...], show_all: bool, pause: Callable[[], None]) -> Look:
    """Look again after each pause until Ctrl-C ends one; the last look."""
    look = look_at(folders)
    with Live(_picture(look, out, show_all), console=out, screen=not show_all, auto_refresh=False) as live:
        try:
            while True:
                pause()
                look = look_at(folders)
                live.update(_picture(look, out, show_all), refresh=True)
        except KeyboardInterrupt:
            return look


def _picture(look: Look, out: Console, show_all: bool) -> RenderableType:
    return as_text(look, None if show_all else max(1, out.height - _LINES_AROUND))
