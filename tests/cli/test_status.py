"""`status` and `watch` over status files, one of them of a connector that runs."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dlms_connector.cli.status import ALL_ONLINE, NO_STATUS, SOME_ARE_NOT, places
from dlms_connector.cli.watch import watch
from dlms_connector.gateway.connector import DLMSConnector
from dlms_connector.gateway.status import totals
from dlms_connector.polling.health import Health, MeterState
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from tests.gateway.test_lifecycle import Gateway, configuration
from tests.support.command_line import run
from tests.support.pollers import wait_until


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def meter(state: MeterState = MeterState.ONLINE, good: int = 10, of: int = 10, **more: Any) -> Health:
    health = Health(state=state, **more)
    for number in range(of):
        health.cycle(number < good, 120.0)
    return health


def write(folder: Path, meters: dict[str, Health], *, name: str = "DLMS", **more: Any) -> Path:
    values = {device: health.values() for device, health in meters.items()}
    document = {
        "format": 1,
        "connector": name,
        "version": "1.2.3",
        "pid": 1,
        "startedMs": now_ms() - 7_200_000,
        "writtenMs": now_ms(),
        "periodMs": 5000,
        "totals": totals(values.values()),
        "problems": [],
        "meters": values,
        **more,
    }
    path = folder / f"{name}.status.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)


def status(folder: Path, *words: object, command: str = "status") -> Any:
    return run(command, "--state-directory", folder, *words)


@pytest.mark.parametrize("command", ["status", "watch"])
def test_the_worst_come_first_with_their_error(tmp_path: Path, command: str) -> None:
    error = "tcp: refused (is it on?)"
    write(
        tmp_path,
        {
            "fine": meter(last_read_ms=now_ms() - 3000, clock_offset_s=-75.0),
            "shaky": meter(good=4, last_read_ms=now_ms() - 65_000),
            "resting": meter(MeterState.BREAKER_OPEN, good=0, last_error=error),
            "gone": meter(MeterState.OFFLINE, good=2, reconnects=7),
            "quiet": meter(MeterState.PAUSED),
        },
    )
    code, out, _ = status(tmp_path, command=command)
    assert code == SOME_ARE_NOT
    rows = [line.split() for line in out.splitlines()]
    first_words = [row[0] for row in rows if row and row[0] in {"fine", "shaky", "resting", "gone", "quiet"}]
    assert first_words == ["resting", "gone", "quiet", "shaky", "fine"]
    (resting,) = (line for line in out.splitlines() if line.startswith("resting"))
    assert error in resting
    assert "never" in resting
    (fine,) = (line for line in out.splitlines() if line.startswith("fine"))
    assert "100 %" in fine
    assert "-75 s" in fine
    assert "5 meters: 1 breaker open, 1 offline, 1 paused, 2 online" in out
    assert "in 2 h; release 1.2.3" in out


def test_all_online_is_success(tmp_path: Path) -> None:
    write(tmp_path, {"a": meter(), "b": meter()})
    assert status(tmp_path).code == ALL_ONLINE


def test_only_the_worst_unless_all_are_wanted(tmp_path: Path) -> None:
    write(tmp_path, {f"meter-{number:03}": meter() for number in range(50)})
    out = status(tmp_path).out
    assert out.count("meter-") == 20
    assert "and 30 more: --all" in out
    assert status(tmp_path, "--all").out.count("meter-") == 50


def test_json_is_what_the_connector_wrote(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": meter()})
    result = status(tmp_path, "--json")
    (document,) = result.json()
    assert document["file"] == str(path)
    assert document["stale"] is False
    assert document["meters"]["a"]["dlms_state"] == "online"
    assert result.code == ALL_ONLINE


def test_a_file_that_is_not_written_any_more_is_no_status(tmp_path: Path) -> None:
    write(tmp_path, {"a": meter()}, writtenMs=now_ms() - 600_000)
    code, out, _ = status(tmp_path)
    assert code == NO_STATUS
    assert "stale: written 10 m ago" in out
    assert "not running" in out
    assert status(tmp_path, "--json").json()[0]["stale"] is True
    write(tmp_path, {"a": meter()}, writtenMs=now_ms() - 600_000, periodMs=600_000)
    assert status(tmp_path).code == ALL_ONLINE, "a slow period is no silence"


def test_where_it_was_looked_for_is_told(tmp_path: Path) -> None:
    code, out, _ = status(tmp_path / "nowhere")
    assert code == NO_STATUS
    assert str(tmp_path / "nowhere") in out
    assert "--state-directory" in out


def test_the_usual_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "var"
    monkeypatch.setenv("STATE_DIRECTORY", str(state))
    assert places(None)[0] == state / "dlms"
    (tmp_path / "config/dlms_state").mkdir(parents=True)
    write(tmp_path / "config/dlms_state", {"a": meter()})
    assert run("status").code == ALL_ONLINE


def test_two_connectors_are_told_together(tmp_path: Path) -> None:
    write(tmp_path, {"a": meter()}, name="north")
    write(tmp_path, {"b": meter(MeterState.OFFLINE)}, name="south", problems=["devices[3]: no host"])
    code, out, _ = status(tmp_path)
    assert code == SOME_ARE_NOT
    assert "north  1 meters" in out
    assert "south  1 meters" in out
    assert "devices[3]: no host" in out


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99}', '{"format": 1, "meters": {"a": 1}}', "null"],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "DLMS.status.json").write_text(text)
    code, out, _ = status(tmp_path)
    assert code == NO_STATUS
    assert "DLMS.status.json cannot be read" in out


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_of_somebody_else_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0)
    code, out, _ = status(folder)
    assert code == NO_STATUS
    assert "may not be looked into" in out


def test_words_of_a_meter_do_not_steer_the_terminal(tmp_path: Path) -> None:
    write(tmp_path, {"a\x1b[31m[bold]": meter(last_error="\x1b]0;x\x07")}, problems=["\x1b[2J"])
    out = status(tmp_path).out
    assert "\x1b" not in out
    assert "[bold]" in out


def test_watch_shows_what_changes_and_ends_with_the_last_state(tmp_path: Path) -> None:
    out = Console(file=io.StringIO(), force_terminal=True, width=200, height=40)
    rounds = 0

    def pause() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            write(tmp_path, {"a": meter(MeterState.OFFLINE)})
        elif rounds == 2:
            write(tmp_path, {"a": meter()})
        else:
            raise KeyboardInterrupt

    look = watch(out, (tmp_path,), True, pause)
    assert look.exit_code == ALL_ONLINE
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("no status") < text.index("offline") < text.rindex("online")


def test_the_status_of_a_connector_that_runs(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    with SimulatedFleet(FleetSettings.uniform(2)) as fleet:
        connector = DLMSConnector(gateway, configuration(fleet) | {"status": {"period": "1s"}}, "custom")
        connector.open()
        try:
            wait_until(lambda: run("status").code == ALL_ONLINE)
            out = run("status").out
            assert all(f"meter {serial}" in out for serial in fleet.serials)
            fleet.freeze(fleet.serials[0])
        finally:
            connector.close()
    assert run("status").code == NO_STATUS
