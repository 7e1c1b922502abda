"""`dlms-connector simulate`: simulated meters on TCP ports or a pseudo-terminal, until Ctrl-C."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import Enum
from typing import Annotated

import typer
from rich.console import Console

from dlms_connector.errors import ConfigurationError
from dlms_connector.simulator.fleet import HDLC, WRAPPER, Fleet, FleetSettings, LineSettings, run_fleet
from dlms_connector.simulator.meter import READING_CLIENT, ClientSettings, MeterSettings, Quirks

_SHOWN_LINES = 10


class Link(str, Enum):
    """How the meters are reached."""

    WRAPPER = WRAPPER
    HDLC = HDLC
    SERIAL = "serial"


def command(
    count: Annotated[int, typer.Option("--meters", "-n", min=1, max=10_000, help="How many meters.")] = 1,
    link: Annotated[
        Link, typer.Option("--link", help="DLMS wrapper, HDLC over TCP, or HDLC on a pty.")
    ] = Link.WRAPPER,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="First TCP port; 0 for free ones.")
    ] = 4059,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    password: Annotated[
        str, typer.Option("--password", help="LLS password of client 1; it opens simulated meters only.")
    ] = "12345678",
    max_pdu: Annotated[
        int, typer.Option("--max-pdu", min=64, max=65535, help="Small ones force blocks.")
    ] = 1024,
    max_info: Annotated[
        int, typer.Option("--max-info", min=32, max=2030, help="HDLC information bytes.")
    ] = 128,
    latency: Annotated[int, typer.Option("--latency", min=0, max=60_000, help="Delay of answers in ms.")] = 0,
    refuse_lists: Annotated[bool, typer.Option("--refuse-lists", help="Answer single GETs only.")] = False,
    multidrop: Annotated[bool, typer.Option("--multidrop", help="All meters behind one port.")] = False,
) -> None:
    """Run simulated three-phase meters; client 16 reads without authentication, client 1 with LLS."""
    if link is Link.SERIAL and count > 1 and not multidrop:
        raise ConfigurationError("one serial line has one meter", hint="add --multidrop for several")
    if not multidrop and port and port + count - 1 > 65535:
        raise ConfigurationError(f"{count} meters from port {port} on do not fit below 65536")
    reader = ClientSettings(READING_CLIENT.address, READING_CLIENT.mechanism, password.encode())
    template = MeterSettings(
        "",
        clients=(
            *(client for client in MeterSettings("").clients if client.address != reader.address),
            reader,
        ),
        max_pdu_bytes=max_pdu,
        max_information_bytes=max_info,
        quirks=Quirks(refuse_lists=refuse_lists),
    )
    settings = _settings(count, link, port, host, latency / 1000, template, multidrop)
    console = Console()
    try:
        asyncio.run(run_fleet(settings, lambda fleet: _announce(console, fleet, host)))
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen: {error.strerror}", hint="another program has the port; try --port 0"
        ) from error


def _settings(
    count: int, link: Link, port: int, host: str, latency_s: float, template: MeterSettings, multidrop: bool
) -> FleetSettings:
    framing = WRAPPER if link is Link.WRAPPER else HDLC
    uniform = FleetSettings.uniform(
        count, framing, base_port=port, host=host, latency_s=latency_s, template=template
    )
    if not multidrop and link is not Link.SERIAL:
        return uniform
    meters = tuple(line.meters[0] for line in uniform.lines)
    spread = tuple(
        _addressed(meter, index if multidrop else 0, framing) for index, meter in enumerate(meters)
    )
    line = LineSettings(spread, framing=framing, serial=link is Link.SERIAL, port=port, latency_s=latency_s)
    return FleetSettings((line,), host)


def _addressed(meter: MeterSettings, index: int, framing: str) -> MeterSettings:
    if framing == WRAPPER:
        return replace(meter, logical_address=1 + index)
    return replace(meter, physical_address=17 + index)


def _announce(console: Console, fleet: Fleet, host: str) -> None:
    lines = fleet.lines
    for line in lines[:_SHOWN_LINES]:
        where = line.path or f"{host}:{line.port}"
        console.print(f"meter {', '.join(device.name for device in line.line.devices[:8])} on {where}")
    if len(lines) > _SHOWN_LINES:
        console.print(f"... and {len(lines) - _SHOWN_LINES} more, the last on {host}:{lines[-1].port}")
    console.print(f"{len(fleet.devices)} simulated meters are up; Ctrl-C stops them")
