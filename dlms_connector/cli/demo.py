"""`dlms-connector demo`: three simulated meters, the real gateway process, and what ThingsBoard would store.

With `--host` the same meters are sent to a real ThingsBoard instead.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from dlms_connector.errors import ConfigurationError
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.gateway_process import Connector, GatewayProcess, sqlite_storage
from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings, MeterSettings, Quirks
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn

METERS = {
    "demo_wrapper": ("00000001", WRAPPER, Quirks()),
    "demo_hdlc": ("00000002", HDLC, Quirks()),
    "demo_no_lists": ("00000003", WRAPPER, Quirks(refuse_lists=True)),
}
KEYS = ("voltage_l1", "current_l1", "frequency", "active_power", "active_energy")
PASSWORD_VARIABLE = "DLMS_DEMO_METER_PASSWORD"  # noqa: S105 (a name)
_DELIVERY_S = 60.0
_REFRESH_S = 0.5


def command(
    once: Annotated[bool, typer.Option("--once", help="End when each meter has delivered.")] = False,
    host: Annotated[str, typer.Option("--host", help="A real ThingsBoard to send to.")] = "",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Its MQTT port.")] = 1883,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with the gateway device's access token.")
    ] = None,
    token: Annotated[
        str, typer.Option("--token", help="The token itself; a file keeps it off the screen.")
    ] = "",
) -> None:
    """Show telemetry of three simulated meters arriving through the real ThingsBoard IoT Gateway."""
    if host and not (token or token_file):
        raise ConfigurationError("--host needs --token-file", hint="the access token of a gateway device")
    if token_file is not None:
        token = _read_token(token_file)
    console = Console()
    try:
        delivered = _run(console, host, port, token, once)
    except KeyboardInterrupt:
        delivered = True
    if not delivered:
        raise typer.Exit(1)
    if not host:
        console.print(
            "Into your own server: demo --host HOST --token-file FILE (a gateway device's access token)"
        )
    console.print("Stopped cleanly.")


def _run(console: Console, host: str, port: int, token: str, once: bool) -> bool:
    """Start everything, show it, and stop everything whatever happens: True when each meter has delivered."""
    with ExitStack() as stack:
        password = secrets.token_hex(8)
        console.print("Starting three simulated meters and the ThingsBoard IoT Gateway ...")
        fleet = stack.enter_context(SimulatedFleet(_fleet(password)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dlms-demo-")))
        stand_in = None if host else stack.enter_context(ThingsBoardStandIn())
        gateway = GatewayProcess(
            folder,
            port if stand_in is None else stand_in.port,
            [Connector("DLMS", configuration(fleet))],
            storage=sqlite_storage(),
            token=token or "demo-gateway",
            environment={PASSWORD_VARIABLE: password},
            host=host or "127.0.0.1",
        )
        stack.enter_context(gateway)
        if stand_in is None:
            return _watch_log(console, gateway, once)
        return _watch(console, gateway, stand_in, once)


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _fleet(password: str) -> FleetSettings:
    clients = (PUBLIC_CLIENT, ClientSettings(1, 1, password.encode()))
    return FleetSettings(
        tuple(
            LineSettings((MeterSettings(serial, clients=clients, quirks=quirks),), framing=framing)
            for serial, framing, quirks in METERS.values()
        )
    )


def configuration(fleet: SimulatedFleet) -> dict[str, Any]:
    """The connector's configuration for the demo's meters."""
    return {
        "defaults": {
            "pollPeriod": 2000,
            "client": {
                "address": 1,
                "authentication": "low",
                "password": f"${{env:{PASSWORD_VARIABLE}}}",
            },
            "timeseries": list(KEYS),
            "attributes": ["serialNumber"],
        },
        "devices": [
            {
                "deviceName": name,
                "transport": {
                    "type": "tcp",
                    "host": "127.0.0.1",
                    "port": fleet.port(serial),
                    "framing": framing,
                },
            }
            for name, (serial, framing, _) in METERS.items()
        ],
    }


def _watch(console: Console, gateway: GatewayProcess, server: ThingsBoardStandIn, once: bool) -> bool:
    """The live table; True when every meter has delivered, or Ctrl-C ended it."""
    deadline_s = time.monotonic() + _DELIVERY_S
    with Live(_table(server), console=console, refresh_per_second=2) as live:
        while True:
            complete = all(set(KEYS) <= set(server.latest(name)) for name in METERS)
            live.update(_table(server))
            if once and complete:
                break
            if not gateway.is_running or (not complete and time.monotonic() > deadline_s):
                break
            server.wait_for(lambda: False, _REFRESH_S)
    if not console.is_terminal:
        console.print()  # the live table ends without a line break there
    if not complete:
        console.print("Not every meter has delivered. The end of the gateway's log:", style="bold red")
        console.print(gateway.log_text()[-3000:], markup=False, highlight=False)
    return complete


def _table(server: ThingsBoardStandIn) -> Table:
    table = Table(title="What ThingsBoard stores")
    table.add_column("key")
    for name in METERS:
        table.add_column(name, justify="right", no_wrap=True)
    series = {name: server.telemetry(name) for name in METERS}
    serials = [str(server.attributes(name).get("serialNumber", "...")).strip() for name in METERS]
    table.add_row("serialNumber", *serials)
    for key in KEYS:
        table.add_row(
            key, *(str(series[name][key][-1][1]) if series[name].get(key) else "..." for name in METERS)
        )
    table.add_row(
        "readings",
        *(str(sum(len(series[name].get(key, ())) for key in KEYS)) for name in METERS),
        style="bold",
    )
    return table


def _watch_log(console: Console, gateway: GatewayProcess, once: bool) -> bool:
    """Towards a real server: the connector's state changes, as the gateway logs them."""
    console.print(f"Devices {', '.join(METERS)} appear in ThingsBoard under this gateway; Ctrl-C stops.")
    shown = 0
    deadline_s = time.monotonic() + _DELIVERY_S
    while gateway.is_running:
        lines = gateway.log_text().splitlines()
        for line in lines[shown:]:
            if "|DLMS|" in line or "|tb_connection|" in line or "ERROR" in line:
                console.print(line, markup=False, highlight=False)
        shown = len(lines)
        online = sum(f"{name}: online" in line for line in lines for name in METERS)
        if once and (online >= len(METERS) or time.monotonic() > deadline_s):
            return online >= len(METERS)
        gateway.wait_for(lambda: False, _REFRESH_S)
    return False
