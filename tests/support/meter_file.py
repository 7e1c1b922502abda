"""A configuration file for a simulated meter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlms_connector.simulator.fleet import SimulatedFleet
from tests.support.simulated import SERIAL

NAME = "meter_1"


def meter_file(folder: Path, fleet: SimulatedFleet, framing: str = "wrapper", **device: Any) -> Path:
    """`folder/m.json` with the device `NAME`; `device` overrides parts of its entry."""
    entry = {
        "deviceName": NAME,
        "transport": {"host": "127.0.0.1", "port": fleet.port(SERIAL), "framing": framing},
        "timeout": 3000,
        **device,
    }
    path = folder / "m.json"
    path.write_text(json.dumps({"devices": [entry]}))
    return path
