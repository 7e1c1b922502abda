"""`dlms-connector migrate`: from the bridge's database to the gateway's configuration, wave by wave."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dlms_connector.cli.thingsboard_options import (
    DEFAULT_PASSWORD as DEFAULT_TB_PASSWORD,
)
from dlms_connector.cli.thingsboard_options import (
    CaFile,
    TbPassword,
    TbUrl,
    TbUser,
    thingsboard,
)
from dlms_connector.config.secrets import SecretRef
from dlms_connector.config.textfile import write_whole
from dlms_connector.errors import CommandError
from dlms_connector.migration.bridge_db import BridgeMeter, read_bridge
from dlms_connector.migration.identity import Identities, find_by_token, read_mapping
from dlms_connector.migration.plan import DEFAULT_PASSWORD, MeterPlan, plan_meters
from dlms_connector.migration.steps import note_on_reload, steps_to_release, steps_to_return
from dlms_connector.migration.waves import Wave, Waves, choose_share

app = typer.Typer(no_args_is_help=True)

Database = Annotated[Path, typer.Argument(help="The bridge's database, usually data/admin.db; only read.")]
OptionalDatabase = Annotated[
    Path | None, typer.Option("--database", help="The bridge's database, to see what the bridge still polls.")
]
Config = Annotated[
    Path, typer.Option("--config", help="The connector's configuration; the journal stands beside it.")
]
Mapping = Annotated[
    Path | None,
    typer.Option(
        "--mapping", help="JSON or CSV (meter,device): which device each meter is, confirmed by you."
    ),
]
TrustNames = Annotated[
    bool,
    typer.Option("--trust-names", help="Take the bridge's names unchecked: a wrong one splits the history."),
]
MeterPassword = Annotated[
    str, typer.Option("--meter-password", help="Reference to the meters' LLS password, for the entries.")
]
DEFAULT_CONFIG = Path("dlms_connector.json")
_MAPPING_MODE = 0o644
_FATE_COLOURS = {"ready": "green", "stopped": "red", "skipped": "dim"}


@app.command()
def plan(
    database: Database,
    config: Config = DEFAULT_CONFIG,
    tb_url: TbUrl = None,
    tb_user: TbUser = None,
    tb_password: TbPassword = DEFAULT_TB_PASSWORD,
    ca: CaFile = None,
    mapping: Mapping = None,
    trust_names: TrustNames = False,
    meter_password: MeterPassword = DEFAULT_PASSWORD,
    write_mapping: Annotated[
        Path | None, typer.Option(help="Write the devices found to this file, for you to confirm.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show what each meter of the bridge becomes, and every warning. Changes nothing."""
    meters = read_bridge(database)
    identities = _identities(meters, tb_url, tb_user, tb_password, ca, mapping, trust_names)
    plans = plan_meters(meters, identities, _reference(meter_password))
    moved = Waves(config).moved()
    if write_mapping is not None:
        names = {each.name: each.device_name for each in plans if each.device_name is not None}
        write_whole(write_mapping, json.dumps(names, indent=2, ensure_ascii=False) + "\n", _MAPPING_MODE)
    if as_json:
        sys.stdout.write(json.dumps([_as_document(each, moved) for each in plans], indent=2) + "\n")
        return
    _print_plan(plans, moved)


@app.command()
def apply(
    database: Database,
    config: Config = DEFAULT_CONFIG,
    meters: Annotated[
        list[str] | None, typer.Option("--meters", help="Names or ids in the bridge; repeat, or with commas.")
    ] = None,
    percent: Annotated[
        float | None, typer.Option(min=0, max=100, help="Until this share of the fleet is migrated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every meter that is ready.")] = False,
    hold: Annotated[
        bool, typer.Option(help="Write the meters but do not poll them until `release`.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Show the wave and write nothing.")] = False,
    tb_url: TbUrl = None,
    tb_user: TbUser = None,
    tb_password: TbPassword = DEFAULT_TB_PASSWORD,
    ca: CaFile = None,
    mapping: Mapping = None,
    trust_names: TrustNames = False,
    meter_password: MeterPassword = DEFAULT_PASSWORD,
) -> None:
    """Write a wave of meters into the configuration and say what to do on the bridge."""
    if sum((bool(meters), percent is not None, everything)) != 1:
        raise CommandError("say which meters: --meters, --percent or --all")
    bridge = read_bridge(database)
    identities = _identities(bridge, tb_url, tb_user, tb_password, ca, mapping, trust_names)
    waves = Waves(config)
    moved = waves.moved()
    candidates = [
        each
        for each in plan_meters(bridge, identities, _reference(meter_password))
        if each.meter_id not in moved
    ]
    ready = [each for each in candidates if each.fate == "ready"]
    if meters:
        chosen = _chosen_by_name(candidates, [word for text in meters for word in text.split(",") if word])
    else:
        chosen = list(choose_share(ready, len(moved), 100 if percent is None else percent))
    console = _console()
    _print_table(console, chosen, {})
    for each in candidates:
        if each.fate == "stopped" and not meters:
            console.print(f"[yellow]left out[/] {escape(each.name)}: {escape('; '.join(each.reasons))}")
    if dry_run:
        console.print(f"a dry run: {_meters(len(chosen))} would be written to {escape(str(config))}")
        return
    wave = waves.apply(chosen, hold=hold)
    console.print(
        f"[green]wave {wave.number}[/]: {_meters(len(wave.meters))} written to {escape(str(config))}"
    )
    if wave.backup:
        console.print(f"the configuration before it is kept as {escape(wave.backup)}")
    switchable = all(meter.switchable for meter in bridge)
    steps = steps_to_release(database, [meter.meter_id for meter in wave.meters], switchable)
    _print_steps(console, "On the bridge:", [*steps, note_on_reload(hold, wave.number)])


@app.command()
def release(
    wave: Annotated[int, typer.Argument(help="Number of a wave that was applied with --hold.")],
    config: Config = DEFAULT_CONFIG,
    database: OptionalDatabase = None,
) -> None:
    """Let the gateway poll a held wave; with --database only if the bridge has let go of its meters."""
    waves = Waves(config)
    if database is not None:
        still = _still_polled(read_bridge(database), waves.wave(wave))
        if still:
            raise CommandError(
                f"the bridge's database still has tb_enabled = 1 for {', '.join(still)}",
                hint="a meter serves one association: switch them off and restart the bridge first",
            )
    released = waves.release(wave)
    _console().print(f"[green]wave {wave}[/]: the gateway polls {_meters(len(released.meters))}")


@app.command()
def status(config: Config = DEFAULT_CONFIG, database: OptionalDatabase = None) -> None:
    """Show the waves so far, and what the bridge still polls."""
    waves = Waves(config)
    bridge = read_bridge(database) if database is not None else ()
    present = waves.configured_names()
    table = Table("wave", "state", "since", "meters", "remarks")
    for wave in waves.waves:
        remarks = []
        if wave.state != "rolled back":
            lost = [meter.name for meter in wave.meters if meter.device_name not in present]
            remarks += [f"no longer in the configuration: {', '.join(lost)}"] if lost else []
            still = _still_polled(bridge, wave)
            remarks += [f"tb_enabled is still 1: {', '.join(still)}"] if still else []
        names = ", ".join(meter.name for meter in wave.meters)
        table.add_row(
            str(wave.number), wave.state, wave.applied_at, escape(names), escape("; ".join(remarks))
        )
    console = _console()
    console.print(table if waves.waves else "no wave yet: dlms-connector migrate apply")
    if database is not None:
        moved = waves.moved()
        left = [meter.name for meter in bridge if meter.polled and meter.id not in moved]
        console.print(f"{_meters(len(moved))} with the gateway, {len(left)} with the bridge")


@app.command()
def rollback(
    wave: Annotated[int, typer.Argument(help="Number of the wave, see status.")],
    config: Config = DEFAULT_CONFIG,
    database: OptionalDatabase = None,
) -> None:
    """Take the meters of a wave out of the configuration again and say what to do on the bridge."""
    returned = Waves(config).roll_back(wave)
    console = _console()
    console.print(
        f"[green]wave {wave}[/] is rolled back: {_meters(len(returned.meters))} left the configuration"
    )
    ids = [meter.meter_id for meter in returned.meters]
    _print_steps(console, "On the bridge:", steps_to_return(database, ids))


def _identities(
    meters: Sequence[BridgeMeter],
    tb_url: str | None,
    tb_user: str | None,
    tb_password: str,
    ca: Path | None,
    mapping: Path | None,
    trust_names: bool,
) -> Identities:
    by_operator = read_mapping(mapping, meters) if mapping is not None else {}
    by_token = None
    if tb_url is not None:
        with thingsboard(tb_url, tb_user, tb_password, ca) as rest:
            by_token = find_by_token(rest, [meter for meter in meters if meter.polled])
    return Identities(by_token, by_operator, trust_names)


def _reference(text: str) -> str:
    try:
        return str(SecretRef.parse(text))
    except ValueError as error:
        raise CommandError("--meter-password takes a reference such as '${env:DLMS_LLS_PASSWORD}'") from error


def _chosen_by_name(plans: Sequence[MeterPlan], words: Sequence[str]) -> list[MeterPlan]:
    by_word = {str(each.meter_id): each for each in plans} | {each.name: each for each in plans}
    chosen: dict[int, MeterPlan] = {}
    for word in words:
        each = by_word.get(word.strip())
        if each is None:
            raise CommandError(
                f'"{word}" is no meter that is left to migrate', hint="migrate plan lists them"
            )
        if each.fate != "ready":
            raise CommandError(f'"{each.name}" is {each.fate}: {"; ".join(each.reasons)}')
        chosen[each.meter_id] = each
    return list(chosen.values())


def _still_polled(bridge: Sequence[BridgeMeter], wave: Wave) -> list[str]:
    ids = {meter.meter_id for meter in wave.meters}
    return [meter.name for meter in bridge if meter.id in ids and meter.polled and meter.switchable]


def _as_document(each: MeterPlan, moved: dict[int, Wave]) -> dict[str, object]:
    return {
        "meter": each.name,
        "id": each.meter_id,
        "fate": each.fate,
        "wave": moved[each.meter_id].number if each.meter_id in moved else None,
        "deviceName": each.device_name,
        "reasons": list(each.reasons),
        "warnings": list(each.warnings),
        "entry": each.entry,
    }


def _print_plan(plans: Sequence[MeterPlan], moved: dict[int, Wave]) -> None:
    console = _console()
    _print_table(console, plans, moved)
    for each in plans:
        for reason in each.reasons if each.meter_id not in moved else ():
            console.print(f"[{_FATE_COLOURS[each.fate]}]{each.fate}[/] {escape(each.name)}: {escape(reason)}")
        for warning in each.warnings:
            console.print(f"[yellow]warning[/] {escape(each.name)}: {escape(warning)}")
    counts = {
        fate: sum(each.fate == fate and each.meter_id not in moved for each in plans)
        for fate in _FATE_COLOURS
    }
    console.print(", ".join(f"{count} {fate}" for fate, count in counts.items()) + f", {len(moved)} migrated")


def _print_table(console: Console, plans: Sequence[MeterPlan], moved: dict[int, Wave]) -> None:
    table = Table("id", "meter", "endpoint", "device in ThingsBoard", "every", "keys", "fate")
    for each in plans:
        wave = moved.get(each.meter_id)
        fate = f"[cyan]wave {wave.number}[/]" if wave else f"[{_FATE_COLOURS[each.fate]}]{each.fate}[/]"
        entry = each.entry or {}
        period = f"{entry['pollPeriod'] / 1000:g} s" if entry else ""
        keys = ", ".join(entry.get("timeseries", ()))
        endpoint = f"{each.host or '?'}:{each.port}"
        table.add_row(
            str(each.meter_id),
            escape(each.name),
            escape(endpoint),
            escape(each.device_name or "?"),
            period,
            keys,
            fate,
        )
    console.print(table)


def _print_steps(console: Console, title: str, steps: Sequence[str]) -> None:
    console.print(f"[bold]{title}[/]")
    for number, step in enumerate(steps, 1):
        console.print(f"  {number}. {escape(step)}")


def _meters(count: int) -> str:
    return f"{count} meter{'' if count == 1 else 's'}"


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
