"""The command `dlms-connector`: one module a subcommand, imported only when it is the one that is called.

A new command is one line in `COMMANDS`. Its module has a function `command` with typer's annotations, or,
for a command with subcommands, a typer.Typer called `app`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from dlms_connector.errors import CommandError, DlmsConnectorError
from dlms_connector.version import release

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "check": ("dlms_connector.cli.check", "Check a configuration before the gateway starts."),
    "status": ("dlms_connector.cli.status", "What a running connector says of its meters, worst first."),
    "watch": ("dlms_connector.cli.watch", "The same, live."),
    "demo": ("dlms_connector.cli.demo", "Three simulated meters through the real gateway, shown live."),
    "simulate": ("dlms_connector.cli.simulate", "Run simulated meters until Ctrl-C."),
    "migrate": ("dlms_connector.cli.migrate", "Move meters over from the bridge's database, in waves."),
    "compare": ("dlms_connector.cli.compare", "Compare the telemetry of two systems, meter by meter."),
    "probe": ("dlms_connector.cli.probe", "Find out how a meter wants to be talked to."),
    "discover": (
        "dlms_connector.cli.discover",
        "List a meter's objects; write its device entry or a template.",
    ),
    "read": ("dlms_connector.cli.read", "Read values of one meter, now."),
    "profile": ("dlms_connector.cli.profile", "Read rows of a load profile or event log."),
    "forget": ("dlms_connector.cli.forget", "Drop what was learned of one meter: scalers, list sizes."),
    "decode": ("dlms_connector.cli.decode", "Explain HDLC frames, wrapper messages and APDUs."),
    "extension": (
        "dlms_connector.cli.extension",
        "Where the gateway looks for the connector, and whether it finds it.",
    ),
    "schema": ("dlms_connector.cli.schema", "Write the JSON schema of the configuration, for editors."),
}
_INTERRUPTED_EXIT_CODE: Final = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; every exit is a SystemExit with 0, 1 (told in words), 2 (usage) or 130 (Ctrl-C)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build_app(words)(args=words, prog_name="dlms-connector")
    except CommandError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"dlms-connector: {error.message}{hint}\n")
        raise SystemExit(1) from None
    except DlmsConnectorError as error:
        sys.stderr.write(f"dlms-connector: {error.explain()}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED_EXIT_CODE) from None


def build_app(words: Sequence[str]) -> typer.Typer:
    """The command line with the called command imported and the others there for the help alone."""
    app = typer.Typer(
        help="DLMS/COSEM meters into ThingsBoard: check, find out, read, simulate and migrate.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    called = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, help_text) in COMMANDS.items():
        if name != called:
            app.command(name, help=help_text)(_not_called)
            continue
        module = importlib.import_module(module_name)
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name, help=help_text)
        else:
            app.command(name, help=help_text)(module.command)
    return app


def _not_called() -> None:
    """Stands in the help for a command that is not imported."""


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"dlms-connector {release()}\n")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """DLMS/COSEM meters into ThingsBoard."""
