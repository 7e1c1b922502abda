"""`dlms-connector forget`: one meter's facts go, everything else stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlms_connector.state import STATE_FILE, StateStore
from tests.support.command_line import run


def test_one_meter_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "dlms_connector.json"
    devices = [
        {"deviceName": name, "transport": {"host": "h"}, "timeseries": ["voltage_l1"]} for name in "ab"
    ]
    file.write_text(json.dumps({"devices": devices}))
    missing = run("forget", str(file), "a")
    assert missing.code == 1
    assert "--state-directory" in missing.err
    path = tmp_path / "dlms_state" / STATE_FILE
    state = StateStore(path)
    for name in "ab":
        state.put(name, "scalers", "x", [-3, "Wh"])
        state.put(name, "cursor", "1-0:99.1.0", 5)
    state.close()
    assert run("forget", str(file), "a").code == 0
    state = StateStore(path)
    assert state.get_all("a", "scalers") == {}
    assert state.get_all("a", "cursor") == {"1-0:99.1.0": 5}
    assert state.get_all("b", "scalers") == {"x": [-3, "Wh"]}
    state.close()


@pytest.mark.parametrize("name", ["c", ""])
def test_an_unknown_meter_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / "dlms_connector.json"
    file.write_text(json.dumps({"devices": []}))
    assert run("forget", str(file), name).code == 1
