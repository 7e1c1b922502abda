"""`dlms-connector status`: what running connectors say of their meters, worst first."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dlms_connector.cli.output import console, print_json, printable
from dlms_connector.gateway.status import FORMAT, STATUS_SUFFIX
from dlms_connector.polling.health import MeterState
from dlms_connector.state import state_file

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-directory",
        help="Where the connector keeps its state; by default the usual places are searched.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Show every meter, not only the worst.")]

ALL_ONLINE: Final = 0
SOME_ARE_NOT: Final = 1
NO_STATUS: Final = 2
SHOWN_METERS: Final = 20
_KEYS: Final = ("connector", "version", "startedMs", "writtenMs", "periodMs", "totals", "problems", "meters")
_MISSED_PERIODS: Final = 3
_PATIENCE_MS: Final = 10_000
_USUAL_GATEWAYS: Final = (
    ".",
    "config",
    "/etc/thingsboard-gateway/config",
    "/thingsboard_gateway/config",
)
_SERVICE_STATE: Final = "/var/lib/thingsboard_gateway/dlms"
_WORST_FIRST: Final = tuple(
    str(state)
    for state in (
        MeterState.MISCONFIGURED,
        MeterState.BREAKER_OPEN,
        MeterState.OFFLINE,
        MeterState.STOPPED,
        MeterState.CONNECTING,
        MeterState.STARTING,
        MeterState.PAUSED,
        MeterState.ONLINE,
    )
)
_COLOURS: Final = {"online": "green", "paused": "blue", "connecting": "yellow", "starting": "yellow"}


def command(
    state_directory: StateOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the connectors wrote.")] = False,
    show_all: AllOption = False,
) -> None:
    """What a running connector says of its meters: exit 0 all online, 1 some are not, 2 no status."""
    look = look_at(places(state_directory))
    if as_json:
        print_json([report.as_document() for report in look.reports])
    else:
        console().print(as_text(look, None if show_all else SHOWN_METERS))
    raise typer.Exit(look.exit_code)


@dataclass(frozen=True)
class Report:
    """One connector's status file."""

    path: Path
    document: dict[str, Any]
    age_ms: int

    @property
    def is_stale(self) -> bool:
        """The connector would have written anew, did it run."""
        return self.age_ms > _MISSED_PERIODS * int(self.document["periodMs"]) + _PATIENCE_MS

    @property
    def meters(self) -> dict[str, dict[str, Any]]:
        meters: dict[str, dict[str, Any]] = self.document["meters"]
        return meters

    def as_document(self) -> dict[str, Any]:
        return {"file": str(self.path), "ageMs": self.age_ms, "stale": self.is_stale, **self.document}


@dataclass(frozen=True)
class Look:
    """What was found, and what could not be used."""

    searched: tuple[Path, ...]
    reports: tuple[Report, ...]
    unusable: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        if not self.reports or any(report.is_stale for report in self.reports):
            return NO_STATUS
        states = [meter["dlms_state"] for report in self.reports for meter in report.meters.values()]
        return ALL_ONLINE if all(state == str(MeterState.ONLINE) for state in states) else SOME_ARE_NOT


def places(state_directory: Path | None) -> tuple[Path, ...]:
    """Folders where status files may be: the one that is named, else where gateways usually keep state."""
    if state_directory is not None:
        return (state_directory,)
    found = [] if not os.environ.get("STATE_DIRECTORY") else [state_file(None, Path()).parent]
    found += [Path(gateway) / "dlms_state" for gateway in _USUAL_GATEWAYS]
    return (*found, Path(_SERVICE_STATE))


def look_at(folders: Sequence[Path]) -> Look:
    """Read every status file in these folders."""
    reports: list[Report] = []
    unusable: list[str] = []
    seen: set[Path] = set()
    for folder in folders:
        try:
            paths = sorted(path for path in folder.iterdir() if path.name.endswith(STATUS_SUFFIX))
        except PermissionError:
            unusable.append(f"{folder} may not be looked into: run this as root or as the gateway's user")
            continue
        except OSError:
            continue
        for path in paths:
            if path.resolve() in seen or path.name.startswith("."):
                continue
            seen.add(path.resolve())
            try:
                reports.append(read(path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                unusable.append(f"{path} cannot be read: {error}")
    return Look(tuple(folders), tuple(reports), tuple(unusable))


def read(path: Path) -> Report:
    """One status file. Raises OSError, ValueError, KeyError or TypeError where it is none of this release."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']}, this release knows {FORMAT}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing")
    for meter in document["meters"].values():
        meter["dlms_state"]
    return Report(path, document, time.time_ns() // 1_000_000 - int(document["writtenMs"]))


def worst_first(reports: Iterable[Report]) -> list[tuple[str, dict[str, Any]]]:
    """Every meter: by state, then by success, then by how long nothing was read."""

    def badness(entry: tuple[str, dict[str, Any]]) -> tuple[int, float, int, str]:
        name, values = entry
        state = values["dlms_state"]
        rank = _WORST_FIRST.index(state) if state in _WORST_FIRST else 0
        return rank, values.get("dlms_successRate", 0), values.get("lastReadTs", 0), name

    return sorted((entry for report in reports for entry in report.meters.items()), key=badness)


def as_text(look: Look, limit: int | None) -> RenderableType:
    """Each connector's summary, then the meters; where nothing was found, where it was looked for."""
    parts: list[RenderableType] = [Text(printable(text), style="yellow") for text in look.unusable]
    if not look.reports:
        searched = ", ".join(str(folder) for folder in look.searched)
        parts.append(
            Text.assemble(("no status", "red"), ": no connector with meters runs, or its state is elsewhere")
        )
        parts.append(Text(f"looked in {printable(searched)}"))
        parts.append(
            Text("name the folder: --state-directory DIR (stateDirectory in the configuration)", "dim")
        )
        return Group(*parts)
    meters = worst_first(look.reports)
    parts += [_summary(report) for report in look.reports]
    parts.append(_table(meters[:limit]))
    if limit is not None and len(meters) > limit:
        parts.append(Text(f"and {len(meters) - limit} more: --all", style="dim"))
    return Group(*parts)


def _summary(report: Report) -> RenderableType:
    document = report.document
    sums = document["totals"]
    states = sums["states"]
    ordered = sorted(states, key=lambda state: _WORST_FIRST.index(state) if state in _WORST_FIRST else 0)
    lines = Text()
    if report.is_stale:
        lines.append(
            f"stale: written {_age(report.age_ms)} ago, so the gateway is not running (or hangs)\n",
            style="bold red",
        )
    lines.append(str(document["connector"]), style="bold")
    lines.append(f"  {sums['devices']} meters: ")
    for number, state in enumerate(ordered):
        lines.append(", " if number else "")
        lines.append(f"{states[state]} {state}", style=_COLOURS.get(state, "red"))
    lines.append(
        f"\n{sums['requests']} requests, {sums['responses']} answers, "
        f"{_size(sums['bytesSent'])} sent, {_size(sums['bytesReceived'])} received "
        f"in {_age(document['writtenMs'] - document['startedMs'])}; release {document['version']}"
    )
    for problem in document["problems"]:
        lines.append(f"\n{printable(problem)}", style="yellow")
    return lines


def _table(meters: Sequence[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("meter", "state", "good", "latency", "last read", "reconnects", "clock off"):
        table.add_column(header, justify="left" if header in ("meter", "state") else "right", no_wrap=True)
    table.add_column("last error", overflow="fold")
    now_ms = time.time_ns() // 1_000_000
    for name, values in meters:
        state = str(values["dlms_state"])
        last_ms = values.get("lastReadTs", 0)
        offset = values.get("dlms_clockOffset")
        table.add_row(
            Text(printable(name)),
            Text(state, style=_COLOURS.get(state, "red")),
            f"{values.get('dlms_successRate', 0):.0f} %",
            f"{values.get('dlms_latencyMs', 0):.0f} ms",
            f"{_age(now_ms - last_ms)} ago" if last_ms else "never",
            str(values.get("dlms_reconnects", 0)),
            "" if offset is None else f"{offset:+.0f} s",
            Text(printable(str(values.get("dlms_lastError", "")))),
        )
    return table


def _age(ms: int) -> str:
    """A duration in its largest unit."""
    seconds = max(0, ms) // 1000
    for unit, size_s in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds // size_s} {unit}"
    return f"{seconds} s"


def _size(size_bytes: int) -> str:
    for unit, unit_bytes in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= unit_bytes:
            return f"{size_bytes / unit_bytes:.1f} {unit}"
    return f"{size_bytes} B"
