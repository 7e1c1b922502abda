"""HOST:PORT or a serial port on the command line, and the options of the commands that look for a meter."""

from __future__ import annotations

import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dlms_connector.config.merge import merge
from dlms_connector.config.secrets import SecretRef
from dlms_connector.config.template_library import TemplateLibrary
from dlms_connector.errors import CommandError
from dlms_connector.survey.probe import (
    CLIENTS,
    HDLC_SERVERS,
    MICROSTAR_CLIENTS,
    MICROSTAR_PORT,
    WRAPPER_PORTS,
    ProbePlan,
    Server,
    is_possible,
    servers_for,
)

_HOST_PORT: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:/\[\]\s]+)):(?P<port>\d{1,5})")
_BARE_HOST: Final = re.compile(r"[\w.-]+|\[.*\]")


class Framing(str, Enum):
    """How APDUs are framed."""

    WRAPPER = "wrapper"
    HDLC = "hdlc"


Target = Annotated[
    str, typer.Argument(metavar="HOST:PORT|SERIAL", help="e.g. 192.168.1.127:3333 or /dev/ttyUSB0.")
]
ClientsOption = Annotated[
    list[int] | None,
    typer.Option("--client", min=1, max=65535, help="Try these clients alone; may be repeated."),
]
PasswordEnv = Annotated[
    str | None,
    typer.Option("--password-env", metavar="NAME", help="Environment variable with the LLS password."),
]
PasswordFile = Annotated[
    Path | None, typer.Option("--password-file", help="File whose first line is the LLS password.")
]
TemplateOption = Annotated[
    str | None, typer.Option("--template", help="Begin with what a template says, and build the entry on it.")
]
FramingOption = Annotated[Framing | None, typer.Option("--framing", help="Try this framing alone.")]
LogicalOption = Annotated[
    int | None, typer.Option("--logical", min=0, max=65535, help="Server logical address or wrapper port.")
]
PhysicalOption = Annotated[
    int | None, typer.Option("--physical", min=0, max=16383, help="Server physical address (HDLC).")
]
SizeOption = Annotated[
    int | None,
    typer.Option("--address-size", min=1, max=4, help="Bytes of the HDLC server address: 1, 2, 4."),
]
SerialNumberOption = Annotated[
    str | None,
    typer.Option("--serial-number", help="On the name plate: its last digits are often the address."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.1, max=120, help="Seconds to wait for one answer.")
]
LimitOption = Annotated[
    float, typer.Option("--limit", min=1, max=7200, help="Seconds that all tries together may take.")
]
PauseOption = Annotated[float, typer.Option("--pause", min=0, max=120, help="Seconds between two tries.")]
RecoveryOption = Annotated[
    float,
    typer.Option(
        "--recovery", min=0, max=600, help="Seconds to wait when the meter did not take the farewell."
    ),
]
BaudOption = Annotated[int, typer.Option("--baud", min=300, max=921_600, help="Of a serial port.")]
EchoOption = Annotated[bool, typer.Option("--echo", help="The serial adapter repeats what is sent.")]
AllOption = Annotated[bool, typer.Option("--all", help="Go on after the first answer.")]


def transport_of(target: str, *, baud: int = 9600, echo: bool = False) -> dict[str, Any]:
    """The transport section of a device entry for what was named. Raises CommandError."""
    match = _HOST_PORT.fullmatch(target)
    if match is not None:
        port = int(match["port"])
        if not 1 <= port <= 65535:
            raise CommandError(f"{target}: a TCP port is 1 to 65535")
        return {"type": "tcp", "host": match["v6"] or match["host"], "port": port}
    if target.startswith("/") or Path(target).exists() or re.fullmatch(r"COM\d+", target):
        serial: dict[str, Any] = {"type": "serial", "port": target, "baudRate": baud}
        return {**serial, "echo": True} if echo else serial
    hint = f"the port is missing: {target}:4059 or {target}:3333?" if _BARE_HOST.fullmatch(target) else ""
    raise CommandError(f'"{target}" is neither HOST:PORT nor a serial port', hint=hint)


def password_reference(variable: str | None, file: Path | None) -> SecretRef | None:
    """The reference that goes into the entry; the secret itself is read at use. Raises SecretError, CommandError."""
    if variable is not None and file is not None:
        raise CommandError("give --password-env or --password-file, not both")
    if variable is None and file is None:
        return None
    reference = SecretRef("env", variable) if variable else SecretRef("file", str(Path(str(file)).resolve()))
    reference.resolve_text()
    return reference


def make_plan(
    target: str,
    *,
    clients: list[int] | None = None,
    password_env: str | None = None,
    password_file: Path | None = None,
    template: str | None = None,
    framing: Framing | None = None,
    logical: int | None = None,
    physical: int | None = None,
    size: int | None = None,
    serial_number: str | None = None,
    baud: int = 9600,
    echo: bool = False,
    **limits: Any,
) -> ProbePlan:
    """The tries that these options ask for; `limits` go to the plan as they are.

    Raises:
        CommandError, ConfigurationError, SecretError: an option cannot be used.
    """
    transport = transport_of(target, baud=baud, echo=echo)
    known = _template_device(template)
    is_microstar = transport.get("port") == MICROSTAR_PORT
    framings = ["hdlc", "wrapper"] if is_microstar else ["wrapper", "hdlc"]
    where, client = known.get("transport", {}), known.get("client", {})
    if transport["type"] == "serial":
        framings = ["hdlc"]
    elif framing is not None:
        framings = [framing.value]
    elif where.get("framing") in framings:
        framings.sort(key=lambda name: name != where["framing"])
    usual = MICROSTAR_CLIENTS if is_microstar else CLIENTS
    return ProbePlan(
        transport=transport,
        framings=tuple(framings),
        servers=_servers(where, logical, physical, size, serial_number),
        wrapper_ports=(logical,) if logical is not None else WRAPPER_PORTS,
        clients=tuple(dict.fromkeys(clients or [*_listed(client.get("address")), *usual])),
        password=password_reference(password_env, password_file),
        template=template,
        **limits,
    )


def _template_device(template: str | None) -> dict[str, Any]:
    device: dict[str, Any] = {}
    for layer in TemplateLibrary().chain(template) if template else ():
        device = merge(device, layer.content)
    return device


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else []


def _servers(
    where: dict[str, Any],
    logical: int | None,
    physical: int | None,
    size: int | None,
    serial_number: str | None,
) -> tuple[Server, ...]:
    """What was asked for in full, or the usual addresses that agree with what was asked for."""
    if logical is not None and physical is not None:
        sizes = (size,) if size else (1, 2, 4)
        named = [Server(logical, physical, each) for each in sizes]
        possible = tuple(server for server in named if is_possible(server))
        if not possible:
            raise CommandError(f"no HDLC address of the size asked for holds {logical}/{physical}")
        return possible
    first = []
    if "serverPhysicalAddress" in where or "serverLogicalAddress" in where:
        first.append(
            Server(
                where.get("serverLogicalAddress", 1),
                where.get("serverPhysicalAddress", 0),
                where.get("addressSize", 1),
            )
        )
    try:
        derived = servers_for(serial_number) if serial_number else ()
    except ValueError as error:
        raise CommandError(f"--serial-number: {error}") from error
    servers = [server for server in dict.fromkeys((*first, *derived, *HDLC_SERVERS)) if is_possible(server)]
    chosen = tuple(
        server
        for server in servers
        if size in (None, server.size)
        and logical in (None, server.logical)
        and physical in (None, server.physical)
    )
    if chosen:
        return chosen
    own = Server(logical if logical is not None else 1, physical or 0, size or 4)
    if not is_possible(own):
        raise CommandError(f"no HDLC address of {own.size} bytes holds {own.logical}/{own.physical}")
    return (own,)
