"""A gateway of its own: install, check, the service, upgrade, uninstall."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn
from tests.install.conftest import Machine
from tests.install.service_unit import Service
from tests.install.setup_script import TOKEN, Setup, clean_environment, listing, make_machine, mode
from tests.support.simulated import SERIAL, one_meter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
METER_PASSWORD = "Contra01"
MAX_STOP_S = 10.0


def test_every_file_has_its_owner_and_mode(machine):
    assert mode(machine.env_file) == 0o600
    assert mode(machine.root / "var/lib/dlms-gateway/manifest") == 0o600
    for name in ("tb_gateway.json", "dlms_connector.json", "logs.json"):
        assert mode(machine.config / name) == 0o640
    for folder in (machine.config, machine.state, machine.root / "var/log/thingsboard-gateway"):
        assert mode(folder) == 0o750
    shim = machine.state / "extensions/custom/dlms_extension.py"
    assert mode(shim) == 0o644
    assert shim.stat().st_uid == os.geteuid()
    if machine.identity:
        assert (machine.config.stat().st_uid, machine.config.stat().st_gid) == machine.identity
        assert "dialout:x:20:tb-gateway" in (machine.root / "etc/group").read_text()
        assert machine.env_file.stat().st_uid == 0


def test_the_token_is_in_its_file_alone(machine):
    assert machine.env_file.read_text() == f"TB_GW_ACCESS_TOKEN='{TOKEN}'\n"
    assert TOKEN not in machine.install_output
    holders = [path for path, (_, _, content) in listing(machine.root).items() if TOKEN.encode() in content]
    assert holders == ["etc/thingsboard-gateway/tb-gateway.env"]


def test_versions_are_the_pinned_ones(machine, setup):
    pins = {}
    for line in (setup.project / "config/constraints.txt").read_text().splitlines():
        if "==" in line and not line.startswith("#"):
            name, version = line.split(";")[0].split("==")
            pins[name] = version.strip()
    listed = subprocess.run(
        [machine.venv / "bin/python3", "-m", "pip", "list", "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    )
    installed = {
        entry["name"].lower().replace("_", "-"): entry["version"] for entry in json.loads(listed.stdout)
    }
    others = set(installed) - {"pip", "setuptools", "dlms-connector"}
    assert {name: installed[name] for name in others} == {name: pins[name] for name in others}


def test_a_second_install_changes_nothing(machine, setup):
    before = listing(machine.root)
    setup.ok("install", *machine.install_arguments)
    assert listing(machine.root) == before


def test_a_dry_run_changes_nothing(area, setup, token_file, machine):
    root = make_machine(area / "dry")
    before = listing(area / "dry")
    told = setup.ok("install", "--root", root, "--dry-run", "--host", "h", "--token-file", token_file)
    assert f"would make   {root}/etc/systemd/system/tb-gateway.service" in told
    assert len(told.splitlines()) == len(set(told.splitlines()))
    assert listing(area / "dry") == before
    before = listing(machine.root)
    assert "would remove" in setup.ok("uninstall", "--root", machine.root, "--dry-run", "--purge")
    assert listing(machine.root) == before
    setup.ok("install", "--root", area / "nowhere", "--dry-run", "--host", "h")
    assert not (area / "nowhere").exists()


def test_check_is_content_and_then_finds_each_fault(machine, setup, tmp_path):
    assert "Everything is in order." in setup.ok("check", "--root", machine.root)
    connector, token = machine.config / "dlms_connector.json", machine.env_file
    sound, sound_token = connector.read_text(), token.read_text()
    device = {"deviceName": "m", "transport": {"host": "h"}, "pollPeriod": "often"}
    secret = {
        "deviceName": "m",
        "transport": {"host": "h"},
        "client": {"address": 1, "authentication": "low", "password": "${env:NOT_THERE}"},
    }
    try:
        for entry, words in ((device, "pollPeriod"), (secret, "NOT_THERE is not set")):
            connector.write_text(json.dumps({"devices": [entry]}))
            done = setup("check", "--root", machine.root)
            assert done.returncode == 1
            assert words in done.stdout
            assert "-> correct what is told above" in done.stdout
        connector.write_text(sound)
        token.write_text("TB_GW_ACCESS_TOKEN='another'\n")
        token.chmod(0o644)
        done = setup("check", "--root", machine.root, env={"LANG": "es_CO.UTF-8"})
        assert done.returncode == 1
        assert "refuses the token" in done.stdout
        assert "MAL   ThingsBoard responde y acepta el token" in done.stdout
        assert f"chmod 600 {token}" in done.stdout
        assert "2 comprobaciones fallaron." in done.stdout
    finally:
        connector.write_text(sound)
        token.write_text(sound_token)
        token.chmod(0o600)


def test_the_service_reads_a_meter_and_stops_at_its_signal(
    machine: Machine, server: ThingsBoardStandIn, tmp_path: Path
):
    """The command line, user, folder, environment and signal are those of the installed unit."""
    clients = (PUBLIC_CLIENT, ClientSettings(1, 1, METER_PASSWORD.encode()))
    connector, sound = (
        machine.config / "dlms_connector.json",
        (machine.config / "dlms_connector.json").read_text(),
    )
    sound_env = machine.env_file.read_text()
    with one_meter(clients=clients) as fleet:
        document = json.loads(sound)
        document["devices"] = [
            {
                "deviceName": "medidor_1",
                "transport": {
                    "type": "tcp",
                    "host": "127.0.0.1",
                    "port": fleet.port(SERIAL),
                    "framing": "wrapper",
                },
                "client": {"address": 1, "authentication": "low", "password": "${env:METER_1_PASSWORD}"},
                "pollPeriod": 1000,
                "timeseries": ["voltage_l1"],
            }
        ]
        connector.write_text(json.dumps(document))
        # `password` and `host` would replace the gateway's own settings, were the unit not to unset them.
        machine.env_file.write_text(
            f"{sound_env}METER_1_PASSWORD={METER_PASSWORD}\npassword=x\nhost=nowhere.invalid\n"
        )
        service = Service(machine.unit, machine.identity, machine.state, tmp_path / "output.log")
        try:
            arrived = server.wait_for(
                lambda: len(server.telemetry("medidor_1").get("voltage_l1", ())) >= 2, 60
            )
            assert arrived, service.log()[-4000:]
            began_s = time.monotonic()
            status = service.stop()
            assert time.monotonic() - began_s < MAX_STOP_S
            assert status in (0, -2, 130), service.log()[-4000:]
        finally:
            service.kill()
            connector.write_text(sound)
            machine.env_file.write_text(sound_env)
    assert (machine.state / "dlms").is_dir(), "the connector's state is where the unit keeps it"
    assert mode(machine.state / "dlms") == 0o750
    assert TOKEN not in service.log()
    assert METER_PASSWORD not in service.log()
    logs = machine.root / "var/log/thingsboard-gateway/service.log"
    assert mode(logs) == 0o600
    if machine.identity:
        assert logs.stat().st_uid == machine.identity[0] != 0


def newer_project(setup: Setup, target: Path) -> Setup:
    """The next release: one more line in the package."""
    subprocess.run(["cp", "-r", setup.project, target], check=True)
    with (target / "dlms_connector/__init__.py").open("a") as stream:
        stream.write('\nRELEASE = "next"\n')
    return Setup(target)


def write_before_the_shim(custom: Path, text: str) -> Path:
    """A file that the loader meets before the shim, in the order of the file system."""
    for number in range(64):
        file = custom / f"broken_{number}.py"
        file.write_text(text)
        if next(path.name for path in custom.iterdir() if path.suffix == ".py") != "dlms_extension.py":
            return file
        file.unlink()
    pytest.skip("this file system lists the shim before every other file")


def next_release_is_installed(machine: Machine) -> bool:
    probe = [machine.venv / "bin/python3", "-I", "-c", "from dlms_connector import RELEASE"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def test_an_upgrade_that_fails_leaves_the_former_and_one_that_works_removes_it(
    machine, setup, area, tmp_path, wheelhouse
):
    release = newer_project(setup, area / "next")
    newer_wheels = area / "newer-wheels"
    newer_wheels.mkdir()
    for wheel in wheelhouse.iterdir():
        if not wheel.name.startswith("dlms_connector"):
            (newer_wheels / wheel.name).symlink_to(wheel)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(newer_wheels),
        str(release.project),
    ]
    subprocess.run(build, check=True, capture_output=True)
    before = listing(machine.root)

    # A file of somebody else that raises: the gateway's loader would give up there, so the last step fails.
    custom = machine.state / "extensions/custom"
    broken = write_before_the_shim(custom, "raise RuntimeError('broken')\n")
    arguments = ("--root", machine.root, "--yes", "--wheelhouse", newer_wheels)
    done = release("upgrade", *arguments)
    assert done.returncode == 1
    assert "RuntimeError: broken" in done.stdout
    assert "everything is as it was before" in done.stderr
    broken.unlink()
    assert listing(machine.root) == before

    release.ok("upgrade", *arguments)
    assert next_release_is_installed(machine)
    assert len(list((machine.root / "opt/dlms-gateway").glob("venv-*"))) == 1
    release.ok("check", "--root", machine.root)
    setup.ok("upgrade", *machine.install_arguments)
    assert not next_release_is_installed(machine)


def kill_while_packages_are_installed(setup: Setup, root: Path, arguments: tuple[str | Path, ...]) -> None:
    """What a power cut does: nothing of the script runs any more, and nothing was tidied."""
    command = [setup.project / "setup_gateway.sh", "install", *map(str, arguments)]
    output = subprocess.DEVNULL
    process = subprocess.Popen(
        command, stdout=output, stderr=output, env=clean_environment(), start_new_session=True
    )
    packages = root / "opt/dlms-gateway"
    deadline_s = time.monotonic() + 60
    while not list(packages.glob("venv-*/bin/pip")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def test_uninstall_takes_back_what_was_made_and_keeps_what_is_the_operators(
    area, setup, token_file, wheelhouse
):
    root = make_machine(area / "leaving")
    kept = root / "etc/thingsboard-gateway/config/own_notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    before = listing(root)
    authority = area / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    arguments = ("--root", root, "--yes", "--token-file", token_file, "--host", "h", "--ca", authority)
    arguments += ("--wheelhouse", wheelhouse)

    kill_while_packages_are_installed(setup, root, arguments)
    assert listing(root) != before
    (area / "empty").mkdir()
    done = setup("install", *arguments[:-1], area / "empty")
    assert done.returncode == 1
    assert "A former run was interrupted" in done.stdout
    assert "make one there" in done.stderr
    assert listing(root) == before, "a first install that fails leaves nothing"

    setup.ok("install", *arguments)
    thingsboard = json.loads((root / "etc/thingsboard-gateway/config/tb_gateway.json").read_text())[
        "thingsboard"
    ]
    trusted = str(root / "etc/thingsboard-gateway/config/ca.pem")
    assert thingsboard["security"] == {"type": "tlsAccessToken", "caCert": trusted}
    assert (thingsboard["host"], thingsboard["port"]) == ("h", 8883)
    data = root / "var/lib/thingsboard_gateway/data.db"
    data.write_text("backlog")
    told = setup.ok("uninstall", "--root", root, "--yes")
    assert "Kept: configuration" in told
    left = set(listing(root)) - set(before)
    files = {path for path in left if (root / path).is_file()}
    assert files == {
        "etc/thingsboard-gateway/config/ca.pem",
        "etc/thingsboard-gateway/config/dlms_connector.json",
        "etc/thingsboard-gateway/config/logs.json",
        "etc/thingsboard-gateway/config/tb_gateway.json",
        "etc/thingsboard-gateway/tb-gateway.env",
        "var/lib/dlms-gateway/lock",
        "var/lib/dlms-gateway/manifest",
        "var/lib/thingsboard_gateway/data.db",
    }
    assert setup("uninstall", "--root", root, "--yes").returncode == 1
    setup.ok("uninstall", "--root", root, "--yes", "--purge")
    assert listing(root) == before
