"""`dlms-connector forget FILE DEVICE`: drop what the gateway learned of one meter."""

from __future__ import annotations

import sys

from dlms_connector.cli.meter_access import DeviceArgument, FileArgument, StateOption, choose_meter
from dlms_connector.errors import CommandError
from dlms_connector.meter.facts import forget
from dlms_connector.state import StateStore


def command(file: FileArgument, device: DeviceArgument, state_directory: StateOption = None) -> None:
    """Forget scalers, list sizes and the like of one meter; counters, cursors and other meters' facts stay.

    A running gateway has them in memory as well: `custom_forget` drops both, this command is for a stopped one.
    """
    path = choose_meter(file, device, state_directory).state_path
    if path is None or not path.exists():
        raise CommandError(f"no gateway keeps its state at {path}", hint="give --state-directory")
    state = StateStore(path)
    try:
        forget(state, device)
    finally:
        state.close()
    sys.stdout.write(
        f"{device}: what was learned of it is forgotten. A gateway that runs asks anew after a restart, "
        "or at once with the RPC custom_forget.\n"
    )
