"""One wheelhouse and one installed machine for all tests here: real packages, so each costs seconds."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dlms_connector.simulator.thingsboard import ThingsBoardStandIn
from tests.install.setup_script import TOKEN, Setup, copy_project, make_machine


@pytest.fixture(scope="session")
def area() -> Iterator[Path]:
    """A folder that the service's user may enter; pytest's own are closed to him."""
    folder = Path(tempfile.mkdtemp(prefix="dlms-install-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def setup(area: Path) -> Setup:
    return Setup(copy_project(area / "project"))


@pytest.fixture(scope="session")
def token_file(area: Path) -> Path:
    file = area / "token.txt"
    file.write_text(f"{TOKEN}\n")
    file.chmod(0o600)
    return file


@pytest.fixture(scope="session")
def wheelhouse(area: Path, setup: Setup) -> Path:
    """Made by the script's own command, from whatever index this machine uses; all installs here are offline."""
    setup.ok("wheelhouse", area / "wheelhouse")
    return area / "wheelhouse"


@pytest.fixture(scope="session")
def server() -> Iterator[ThingsBoardStandIn]:
    with ThingsBoardStandIn(tokens=[TOKEN]) as started:
        yield started


@dataclass(frozen=True)
class Machine:
    """A root folder with a gateway that the script installed."""

    root: Path
    install_output: str
    install_arguments: tuple[str | Path, ...]

    @property
    def config(self) -> Path:
        return self.root / "etc/thingsboard-gateway/config"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/thingsboard_gateway"

    @property
    def env_file(self) -> Path:
        return self.root / "etc/thingsboard-gateway/tb-gateway.env"

    @property
    def venv(self) -> Path:
        return self.root / "opt/dlms-gateway/venv"

    @property
    def unit(self) -> Path:
        return self.root / "etc/systemd/system/tb-gateway.service"

    @property
    def identity(self) -> tuple[int, int] | None:
        """uid and gid of the service's user; None where the tests cannot become somebody else."""
        if os.geteuid() != 0:
            return None
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, *_ = line.split(":")
            if name == "tb-gateway":
                return int(uid), int(gid)
        raise AssertionError("the user tb-gateway was not made")


@pytest.fixture(scope="session")
def machine(
    area: Path, setup: Setup, wheelhouse: Path, token_file: Path, server: ThingsBoardStandIn
) -> Machine:
    """Tests leave it installed; what they change in it they put back."""
    root = make_machine(area / "machine")
    arguments = (
        "--root", root, "--yes", "--host", "127.0.0.1", "--port", str(server.port),
        "--token-file", token_file, "--wheelhouse", wheelhouse,
    )  # fmt: skip
    return Machine(root, setup.ok("install", *arguments), arguments)
