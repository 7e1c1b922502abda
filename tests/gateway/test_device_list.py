"""The gateway's list of devices: whole in the end, written seldom, and as the gateway needs it in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from thingsboard_gateway.gateway import tb_gateway_service

from dlms_connector.gateway import device_list
from dlms_connector.gateway.proven import fingerprint
from tests.gateway.conftest import Installation

SOON_S = 20.0
COUNT = 500


class Log:
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str, *args: object) -> None:
        self.warnings.append(text % args if args else text)


class TBGatewayService:
    """What `device_list` knows of the gateway's service of this name: two private methods, and who calls them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Log()
        self.devices: list[str] = []
        self.writes = 0
        self.disturbances: list[Exception] = []

    def __save_persistent_devices(self) -> None:
        self.writes += 1
        if self.disturbances:
            raise self.disturbances.pop()
        self.path.write_text(json.dumps(self.devices))

    def __load_persistent_devices(self) -> None:
        self.devices = self.on_disk()

    def add(self, name: str) -> None:
        self.devices.append(name)
        self.__save_persistent_devices()

    def delete_and_reload(self, name: str) -> None:
        self.devices.remove(name)
        self.__save_persistent_devices()
        self.__load_persistent_devices()

    def on_disk(self) -> list[str]:
        names: list[str] = json.loads(self.path.read_text())
        return names


def soon(predicate: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + SOON_S
    while time.monotonic() < deadline_s:
        if predicate():
            return True
        time.sleep(0.02)
    return predicate()


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TBGatewayService]:
    service = TBGatewayService(tmp_path / "devices.json")
    save = service._TBGatewayService__save_persistent_devices  # type: ignore[attr-defined]  # the name is mangled
    monkeypatch.setattr(device_list, "PROVEN", {fingerprint(save)})
    assert device_list.install(service, service.log)
    yield service
    device_list.uninstall(service)


def test_many_changes_are_written_together_and_the_last_one_as_well(gateway: TBGatewayService) -> None:
    names = [f"meter {index}" for index in range(COUNT)]
    gateway.add(names[0])
    assert gateway.on_disk() == names[:1]  # the first one at once
    for name in names[1:]:
        gateway.add(name)
    assert soon(lambda: gateway.on_disk() == names)
    assert gateway.writes < COUNT / 10


def test_what_was_changed_is_there_when_the_gateway_loads_the_list(gateway: TBGatewayService) -> None:
    for name in ("one", "two", "three"):
        gateway.add(name)
    gateway.delete_and_reload("two")
    assert gateway.devices == ["one", "three"]


def test_a_list_that_changes_while_it_is_written_is_written_again(gateway: TBGatewayService) -> None:
    gateway.disturbances = [RuntimeError("dictionary changed size during iteration")] * 2
    gateway.add("one")
    assert soon(lambda: gateway.path.exists() and gateway.on_disk() == ["one"])
    assert gateway.writes == 3
    assert gateway.log.warnings == []


def test_a_full_disk_is_told_once_and_tried_again(gateway: TBGatewayService) -> None:
    gateway.disturbances = [OSError(28, "No space left on device")] * 2
    gateway.add("one")
    assert soon(lambda: gateway.path.exists() and gateway.on_disk() == ["one"])
    assert len(gateway.log.warnings) == 1
    assert "No space left" in gateway.log.warnings[0]


def test_any_other_error_is_the_gateways(gateway: TBGatewayService) -> None:
    gateway.disturbances = [RuntimeError("something else")]
    with pytest.raises(RuntimeError, match="something else"):
        gateway.add("one")


def test_uninstalled_the_gateway_writes_each_change_again(gateway: TBGatewayService) -> None:
    gateway.add("one")
    gateway.add("two")
    device_list.uninstall(gateway)
    assert gateway.on_disk() == ["one", "two"]
    assert set(vars(gateway)) == {"path", "log", "devices", "writes", "disturbances"}
    before = gateway.writes
    for name in ("three", "four", "five"):
        gateway.add(name)
    assert gateway.writes == before + 3


def test_only_known_code_is_replaced(tmp_path: Path) -> None:
    service = TBGatewayService(tmp_path / "devices.json")
    assert not device_list.install(service, service.log)
    assert len(service.log.warnings) == 1
    assert "thingsboard-gateway" in service.log.warnings[0]
    assert set(vars(service)) == {"path", "log", "devices", "writes", "disturbances"}


@pytest.mark.contract
def test_the_installed_release_is_proven() -> None:
    save = tb_gateway_service.TBGatewayService._TBGatewayService__save_persistent_devices
    assert fingerprint(save) in device_list.PROVEN


@pytest.mark.contract
def test_a_renamed_meter_keeps_its_new_name_over_a_kill(installation: Installation) -> None:
    """The gateway saves its list and reads it anew when the server tells a new name; what it holds survives a kill."""
    serial, other, _ = installation.fleet.serials
    gateway = installation.gateway(installation.configuration())
    file = gateway.config_folder / "connected_devices.json"
    for name in installation.fleet.serials:
        installation.wait_for_readings(name)

    def listed() -> dict[str, dict[str, object]]:
        text = file.read_text()
        try:
            devices: dict[str, dict[str, object]] = json.loads(text) if text else {}
        except ValueError:  # it is being written
            return {}
        return devices

    assert gateway.wait_for(lambda: len(listed()) == len(installation.fleet.serials), SOON_S)
    installation.server.gateway_rpc("gateway_device_renamed", {f"meter {serial}": "north 1"})
    renamed = installation.server.telemetry
    installation.wait(
        lambda: len(renamed("north 1").get("voltage_l1", ())) >= 2, "readings under the new name"
    )
    assert listed()[f"meter {serial}"]["renaming"] == "north 1"
    gateway.kill()
    before = len(renamed("north 1")["voltage_l1"])
    gateway.start()
    installation.wait_for_readings(other)
    installation.wait(lambda: len(renamed("north 1")["voltage_l1"]) > before, "the new name after the kill")
    assert "Traceback" not in gateway.log_text()
