"""What the operator does on the bridge, in the words and commands of its own machine.

The bridge reads its database once, at its start; a meter serves one association. So a meter is switched
off in the database and the bridge restarted before the gateway takes it, and the other way round on the
way back.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

BRIDGE_SERVICE: Final = "dlms-multi-meter.service"
ADMIN_SERVICE: Final = "dlms-admin-api"
_RELOAD_NOTE: Final = (
    "the gateway reads its configuration again within checkConnectorsConfigurationInSeconds (60)"
)


def steps_to_release(database: Path | None, meter_ids: Sequence[int], switchable: bool) -> list[str]:
    """How the bridge lets go of these meters."""
    if not switchable:
        return [
            "this copy of the bridge has no tb_enabled: it polls every meter. Move all meters at once, and stop it:",
            f"sudo systemctl stop {BRIDGE_SERVICE}",
        ]
    return [*_switch(database, meter_ids, 0), f"leave {ADMIN_SERVICE} stopped meanwhile: it starts pollers"]


def steps_to_return(database: Path | None, meter_ids: Sequence[int]) -> list[str]:
    """How the bridge takes these meters back."""
    return [f"wait for it: {_RELOAD_NOTE}", *_switch(database, meter_ids, 1)]


def note_on_reload(hold: bool, wave: int) -> str:
    """When the gateway takes the meters of a wave."""
    if hold:
        return f"then: dlms-connector migrate release {wave}"
    return f"do this now: {_RELOAD_NOTE} and then polls them"


def _switch(database: Path | None, meter_ids: Sequence[int], value: int) -> list[str]:
    ids = ", ".join(str(meter_id) for meter_id in meter_ids)
    file = shlex.quote(str(database)) if database is not None else "data/admin.db"
    # Printed for the operator and not run; the ids are whole numbers.
    statement = f"UPDATE meters SET tb_enabled = {value} WHERE id IN ({ids});"  # noqa: S608
    return [f'sqlite3 {file} "{statement}"', f"sudo systemctl restart {BRIDGE_SERVICE}"]
