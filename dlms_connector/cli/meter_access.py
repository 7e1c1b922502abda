"""From FILE and DEVICE on the command line to an open session, without getting into a running gateway's way."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from dlms_connector.cli.check import print_problems
from dlms_connector.config.loader import Configuration, load_file
from dlms_connector.config.problems import nearest
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import AssociationError, CommandError, LinkClosed, LinkTimeout
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import make_channel, make_line
from dlms_connector.meter.session import MeterSession
from dlms_connector.state import COUNTER_BLOCK, StateStore, state_file

FileArgument = Annotated[
    Path, typer.Argument(help="The connector's configuration, e.g. dlms_connector.json.")
]
DeviceArgument = Annotated[str, typer.Argument(help="deviceName of the meter in that file.")]
StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state-directory",
        help="Where the gateway keeps its counters, for ciphered meters; by default as the gateway finds it.",
    ),
]
_GOODBYE_S: Final = 3.0
_SHOWN_NAMES: Final = 10
_GATEWAY_HINT: Final = "most meters serve one client at a time: is a gateway connected to this one?"


class ToolState(StateStore):
    """What a tool learns stays in memory; invocation counters come from the gateway's file, if there is one."""

    def __init__(self, counters: StateStore | None = None) -> None:
        super().__init__(None)
        self._counters = counters

    def reserve_counters(self, identity: str, at_least: int = 0, count: int = COUNTER_BLOCK) -> range:
        if self._counters is not None:
            return self._counters.reserve_counters(identity, at_least, count)
        return super().reserve_counters(identity, at_least, count)

    def has_counter(self, identity: str) -> bool:
        return self._counters.has_counter(identity) if self._counters else super().has_counter(identity)

    def close(self) -> None:
        if self._counters is not None:
            self._counters.close()
        super().close()


@dataclass(frozen=True)
class ChosenMeter:
    """A device of a configuration, and where its gateway counts."""

    device: DeviceSettings
    state_path: Path | None = None


def choose_meter(file: Path, name: str, state_directory: Path | None = None) -> ChosenMeter:
    """The device of that name.

    Raises:
        typer.Exit: the file or the device's entry is broken; its problems are printed as `check` prints them.
        CommandError: no device has that name; the nearest ones are told.
    """
    configuration = load_file(file)
    for device in configuration.devices:
        if device.device_name == name:
            configured = str(state_directory) if state_directory else configuration.connector.state_directory
            return ChosenMeter(device, state_file(configured, file.resolve().parent))
    _tell_problems(configuration, name)
    names = [device.device_name for device in configuration.devices]
    near = nearest(name, names)
    listed = ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
    hint = f'did you mean "{near}"?' if near else f"devices: {listed}" if names else "the file has no devices"
    raise CommandError(f'{file} has no device "{name}"', hint=hint)


def _tell_problems(configuration: Configuration, name: str) -> None:
    """Ends the command where the file itself, or the entry that is meant, is what is wrong."""
    own = [problem for problem in configuration.errors if problem.device == name]
    problems = own or [problem for problem in configuration.errors if problem.device is None]
    if problems:
        print_problems(Console(stderr=True, highlight=False, soft_wrap=True), problems)
        raise typer.Exit(1)


def is_ciphered(device: DeviceSettings) -> bool:
    """Whether the meter counts our requests."""
    security = device.client.security
    return device.client.authentication == "gmac" or (security is not None and security.policy != "none")


def open_state(meter: ChosenMeter, tell: Callable[[str], None]) -> ToolState:
    """The state for one run of a tool; the gateway's file is touched for ciphered meters alone.

    Raises:
        CommandError: nobody knows where the counters stand.
        StateError: the gateway's file cannot be used by this user.
    """
    path = meter.state_path
    if not is_ciphered(meter.device):
        return ToolState()
    if path is not None and path.exists():
        return ToolState(StateStore(path))
    security = meter.device.client.security
    if security is None or not security.invocation_counter.read:
        raise CommandError(
            f"the invocation counters of {meter.device.device_name} are not known here",
            hint=f"no gateway keeps its state at {path}: give --state-directory",
        )
    tell("no gateway keeps its counters here; the meter is asked where they stand")
    return ToolState()


@contextmanager
def open_meter(meter: ChosenMeter, tell: Callable[[str], None]) -> Iterator[MeterSession]:
    """An open session, left politely whatever happens; `tell` takes what is worth a note.

    Raises:
        SecretError, CommandError, StateError, LinkError: with what to try.
    """
    device = meter.device
    state = open_state(meter, tell)
    interrupt = Interrupt()
    line = make_line(device.transport)
    session = MeterSession(
        device, lambda client: make_channel(device, client, line, interrupt), state, on_event=_keep
    )
    try:
        _open(session)
        yield session
    finally:
        session.close(time.monotonic() + _GOODBYE_S)
        line.drop_stream()
        state.close()


def _open(session: MeterSession) -> None:
    try:
        session.open()
    except (AssociationError, LinkTimeout, LinkClosed) as error:
        error.hint = f"{error.hint}; {_GATEWAY_HINT}" if error.hint else _GATEWAY_HINT
        raise


def _keep(_: str) -> None:
    """The session's events are the poller's affair: a tool tells what was refused in its own words."""


def tell_on_stderr(line: str) -> None:
    """A line beside the command's own output."""
    sys.stderr.write(f"note: {line}\n")
