"""The status and health files of a connector that polls simulated meters."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlms_connector.config.settings import StatusSettings
from dlms_connector.gateway.connector import DLMSConnector
from dlms_connector.gateway.status import Progress, StatusFiles
from dlms_connector.meter import clock_check
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from tests.gateway.test_lifecycle import Gateway, configuration
from tests.support.pollers import RecordingLog, wait_until

SECRET = "canary-7Xq2"


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATUS_PASSWORD", SECRET)
    return Gateway(tmp_path)


@pytest.fixture
def fleet() -> Iterator[SimulatedFleet]:
    with SimulatedFleet(FleetSettings.uniform(3)) as running:
        yield running


def opened(gateway: Gateway, document: dict[str, Any]) -> DLMSConnector:
    connector = DLMSConnector(gateway, document, "custom")
    connector.open()
    return connector


def files(gateway: Gateway, pattern: str = "*") -> list[str]:
    return sorted(path.name for path in (gateway.folder / "dlms_state").glob(pattern))


def status(gateway: Gateway) -> dict[str, Any]:
    path = gateway.folder / "dlms_state" / "DLMS.status.json"
    return json.loads(path.read_text()) if path.exists() else {"totals": {"states": {}}}


def test_the_file_tells_every_meter_and_what_is_wrong_without_secrets(
    gateway: Gateway, fleet: SimulatedFleet
) -> None:
    document = configuration(
        fleet, client={"authentication": "low", "address": 1, "password": "${env:STATUS_PASSWORD}"}
    )
    document["status"] = {"period": "1s"}
    del document["devices"][0]["client"]
    document["devices"].append({"deviceName": "broken", "transport": {"host": 1}})
    fleet.freeze(fleet.serials[1])
    connector = opened(gateway, document)
    try:
        wait_until(lambda: status(gateway)["totals"]["states"].get("online", 0) >= 1)
        told = status(gateway)
        assert set(told["meters"]) == {f"meter {serial}" for serial in fleet.serials}
        assert told["connector"] == "DLMS"
        assert told["pid"] == os.getpid()
        assert abs(told["writtenMs"] - time.time() * 1000) < 10_000
        assert any("devices[3]" in problem for problem in told["problems"]), told["problems"]
        assert told["totals"]["devices"] == 3
        assert told["totals"]["bytesSent"] == sum(
            meter["dlms_bytesSent"] for meter in told["meters"].values()
        )
        path = gateway.folder / "dlms_state" / "DLMS.status.json"
        assert SECRET not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert stat.S_IMODE(path.with_name("DLMS.alive").stat().st_mode) & 0o027 == 0
    finally:
        connector.close()
    assert files(gateway, "DLMS*") == []
    assert files(gateway, ".DLMS*") == []


def test_one_thread_writes_and_only_where_it_is_wanted(gateway: Gateway, fleet: SimulatedFleet) -> None:
    connector = opened(gateway, configuration(fleet) | {"status": {"enabled": False}})
    try:
        gateway.sent.get(timeout=20)
        assert "dlms status" not in [thread.name for thread in threading.enumerate()]
        assert files(gateway, "DLMS*") == []
    finally:
        connector.close()


def test_without_meters_there_is_no_thread(gateway: Gateway) -> None:
    connector = opened(gateway, {"name": "DLMS", "devices": []})
    assert "dlms status" not in [thread.name for thread in threading.enumerate()]
    connector.close()


class Poller:
    """The part of a poller that is looked at."""

    def __init__(self, state: str = "online") -> None:
        self.health = SimpleNamespace(cycles=0)
        self.session = SimpleNamespace(requests=0)
        self.idle_until_s = 0.0
        self.running = True
        self.thread = SimpleNamespace(is_alive=lambda: self.running)
        self.state = state

    def status(self) -> dict[str, Any]:
        counts = ("dlms_requests", "dlms_responses", "dlms_bytesSent", "dlms_bytesReceived")
        return {"dlms_state": self.state, "dlms_lastError": "ünreachable"} | dict.fromkeys(counts, 1)


def test_progress_is_work_or_waiting_as_planned() -> None:
    stuck, other = Poller(), Poller()
    progress = Progress()
    both: list[Any] = [stuck, other]
    assert progress.made(both, 100.0)
    assert not progress.made(both, 100.0)
    other.session.requests += 1
    assert progress.made(both, 100.0)
    other.health.cycles += 1
    assert progress.made(both, 100.0)
    assert not progress.made(both, 100.0)
    other.idle_until_s = 3700.0
    assert progress.made(both, 100.0)
    other.running = stuck.running = False
    assert not progress.made(both, 100.0)
    assert progress.made([], 100.0)


@pytest.fixture
def poller() -> Poller:
    return Poller()


def make(directory: Path, poller: Poller, log: RecordingLog) -> StatusFiles:
    pollers: Any = {"m": poller}
    return StatusFiles("a/../b ñ", StatusSettings(), directory, lambda: pollers, (), log)


def test_the_health_file_stands_still_when_nobody_gets_on(tmp_path: Path, poller: Poller) -> None:
    written = make(tmp_path, poller, RecordingLog())
    written.write()
    os.utime(written.alive_path, (1, 1))
    written.write()
    assert written.alive_path.stat().st_mtime == 1
    poller.health.cycles += 1
    written.write()
    assert written.alive_path.stat().st_mtime > 1


def test_a_name_is_no_path_and_a_reader_never_sees_half_a_file(tmp_path: Path, poller: Poller) -> None:
    written = make(tmp_path, poller, RecordingLog())
    assert written.status_path.parent == tmp_path
    assert "/" not in written.status_path.name
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(json.loads(written.status_path.read_text())["format"])

    written.write()
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(200):
        written.write()
    stop.set()
    reader.join()
    assert set(seen) == {1}


def test_a_folder_that_cannot_be_written_is_told_once_until_it_works_again(
    tmp_path: Path, poller: Poller
) -> None:
    log = RecordingLog()
    folder = tmp_path / "gone"
    written = make(folder, poller, log)
    for _ in range(3):
        written.write()
    assert len(log.of("warning")) == 1
    folder.mkdir()
    written.write()
    assert json.loads(written.status_path.read_text())["meters"]["m"]["dlms_lastError"] == "ünreachable"
    written.status_path.unlink()
    written.alive_path.unlink()
    folder.rmdir()
    written.write()
    assert len(log.of("warning")) == 2


def test_a_link_in_the_place_of_the_new_file_is_not_followed(tmp_path: Path, poller: Poller) -> None:
    log = RecordingLog()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    written = make(tmp_path, poller, log)
    written.status_path.with_name(f".{written.status_path.name}.new").symlink_to(victim)
    written.write()
    assert victim.read_text() == "mine"
    assert len(log.of("warning")) == 1


def test_a_clock_that_is_off_is_told_as_telemetry_and_in_the_file(
    gateway: Gateway, fleet: SimulatedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_check, "_FIRST_S", 0.0)
    monkeypatch.setattr(clock_check, "_FIRST_SPREAD_S", 0.0)
    serial = fleet.serials[0]
    fleet.device(serial).controls.clock_shift_s = 90.0
    document = configuration(fleet, health={"period": 1000}) | {"status": {"period": 1000}}
    connector = opened(gateway, document)
    told: dict[str, float] = {}

    def both_told() -> bool:
        while not gateway.sent.empty():
            _, data = gateway.sent.get()
            for entry in data.telemetry:
                for key, value in entry.values.items():
                    if key.key == "dlms_clockOffset":
                        told[data.device_name] = value
        return len(told) == len(fleet.serials)

    try:
        wait_until(both_told)
        wait_until(lambda: "dlms_clockOffset" in status(gateway)["meters"][f"meter {serial}"])
    finally:
        connector.close()
    assert told.pop(f"meter {serial}") == pytest.approx(90, abs=3)
    assert all(abs(offset) < 3 for offset in told.values())
