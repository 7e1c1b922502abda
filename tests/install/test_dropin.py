"""Into a gateway that is there already: its environment and its files stay as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.install.conftest import Machine
from tests.install.setup_script import Setup, clean_environment, listing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
# The gateway's own loader; the system's folder is the one of the machine below the root.
LOAD = """
import sys
from thingsboard_gateway.tb_utility import tb_loader
tb_loader.DEB_INSTALLATION_EXTENSION_PATH = sys.argv[1]
found = tb_loader.TBModuleLoader.import_module("custom", "DLMSConnector")
print(found)
import dlms_connector
print(dlms_connector.__file__)
"""


@pytest.fixture(scope="module")
def base_python(machine: Machine) -> Path:
    """The Python that the script takes, for which the wheelhouse is made."""
    return (machine.venv / "bin/python3").resolve()


@pytest.fixture(scope="module")
def version(base_python: Path) -> str:
    """Its version, as 3.11."""
    probe = [base_python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(probe, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def gateway_environment(area: Path, wheelhouse: Path, base_python: Path) -> Path:
    """A virtual environment with the gateway alone, as the Debian package builds it."""
    folder = area / "gateway-environment"
    subprocess.run([base_python, "-m", "venv", folder], check=True, capture_output=True)
    command = [folder / "bin/python3", "-m", "pip", "install", "-q", "--no-index", "--find-links", wheelhouse]
    subprocess.run([*command, "thingsboard-gateway"], check=True, capture_output=True)
    return folder


def build(environment: Path, target: Path) -> Path:
    """The environment in another place; returns its Python."""
    shutil.copytree(environment, target, symlinks=True)
    return target / "bin/python3"


def load(python: Path, extensions: Path) -> list[str]:
    """What the gateway's loader finds: the class, and the file of its package."""
    done = subprocess.run(
        [python, "-c", LOAD, extensions],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        env=clean_environment(),
        timeout=60,
    )
    return (done.stdout + done.stderr).splitlines()


def test_the_debian_package_keeps_the_connector_when_its_environment_is_rebuilt(
    area: Path, setup: Setup, wheelhouse: Path, gateway_environment: Path, version: str
):
    root = area / "debian"
    state = root / "var/lib/thingsboard_gateway"
    python = build(gateway_environment, state / "venv")
    (state / "extensions/serial").mkdir(parents=True)
    (state / "extensions/serial/theirs.py").write_text("# of another connector\n")
    config = root / "etc/thingsboard-gateway/config"
    config.mkdir(parents=True)
    (config / "tb_gateway.json").write_text('{"connectors": []}')
    before = listing(root)

    told = setup.ok("install", "--root", root, "--yes", "--wheelhouse", wheelhouse)
    assert '"class": "DLMSConnector"' in told, "the entry for tb_gateway.json"
    extensions = state / "extensions"
    vendor = extensions / "custom/vendor"
    changed = {path for path, what in listing(root).items() if before.get(path) != what}
    ours = ("var/lib/thingsboard_gateway/extensions/custom", "var/lib/dlms-gateway")
    link = python.parents[1] / f"lib/python{version}/site-packages/thingsboard_gateway/extensions/custom"
    assert [path for path in changed if not path.startswith(ours)] == [str(link.relative_to(root))]
    assert load(python, extensions)[-1] == str(vendor / "dlms_connector/__init__.py")

    shutil.rmtree(state / "venv")
    assert load(build(gateway_environment, state / "venv"), extensions)[-2:] == [
        "<class 'dlms_connector.gateway.connector.DLMSConnector'>",
        str(vendor / "dlms_connector/__init__.py"),
    ]

    # The gateway moved to another Python: the vendored packages are made anew for it.
    (vendor / ".python-version").write_text("3.9\n")
    setup.ok("upgrade", "--root", root, "--yes", "--wheelhouse", wheelhouse)
    assert (vendor / ".python-version").read_text() == f"{version}\n"
    assert not list(vendor.parent.glob("vendor.*"))

    setup.ok("uninstall", "--root", root, "--yes")
    after = listing(root)
    assert {path for path in after if "/venv" not in path} == {path for path in before if "/venv" not in path}
    assert "DLMSConnector" not in load(python, extensions)[0]


def test_a_file_of_somebody_else_in_our_place_is_not_touched(area: Path, setup: Setup, wheelhouse: Path):
    volume = area / "foreign"
    custom = volume / "extensions/custom"
    custom.mkdir(parents=True)
    (custom / "dlms_extension.py").write_text("# theirs\n")
    before = listing(volume)
    done = setup("install", "--volume", volume, "--yes", "--wheelhouse", wheelhouse)
    assert done.returncode == 1
    assert "is there and is not from here" in done.stderr
    assert listing(volume) == before


def test_a_containers_volume(
    area: Path, setup: Setup, wheelhouse: Path, gateway_environment: Path, version: str
):
    """/thingsboard_gateway/{config,extensions,logs}: the container's Python is named, the host's does the work."""
    volume = area / "volume"
    for name in ("config", "extensions", "logs"):
        (volume / name).mkdir(parents=True)
    before = listing(volume)
    arguments = ("--volume", volume, "--yes", "--wheelhouse", wheelhouse, "--container-python", version)
    setup.ok("install", *arguments)
    custom = volume / "extensions/custom"
    assert {path.name for path in custom.iterdir()} == {"dlms_extension.py", "vendor"}
    assert (custom / "vendor/dlms_connector/gateway/connector.py").stat().st_mode & 0o444 == 0o444
    shim = [
        gateway_environment / "bin/python3",
        "-B",
        "-c",
        f"import runpy; runpy.run_path({str(custom / 'dlms_extension.py')!r})",
    ]
    run = subprocess.run(shim, check=False, capture_output=True, text=True, cwd="/", env=clean_environment())
    assert run.returncode == 0, run.stderr
    installed = listing(volume)
    setup.ok("install", *arguments)
    assert listing(volume) == installed

    done = setup("check", "--volume", volume)
    assert done.returncode == 1, "no entry in tb_gateway.json yet"
    assert f"made for Python {version}" in done.stdout
    assert 'add to "connectors"' in done.stdout
    (volume / "config/tb_gateway.json").write_text(
        '{"connectors": [{"class": "DLMSConnector", "configuration": "dlmsConnector.json"}]}'
    )
    (volume / "config/dlmsConnector.json").write_text("{}")
    setup.ok("check", "--volume", volume)
    (volume / "config/tb_gateway.json").unlink()
    (volume / "config/dlmsConnector.json").unlink()

    setup.ok("uninstall", "--volume", volume, "--yes")
    assert listing(volume) == before


def test_a_pip_install_is_given_by_its_environment(
    area: Path, setup: Setup, wheelhouse: Path, gateway_environment: Path, base_python: Path
):
    root = area / "pip"
    root.mkdir()
    empty = area / "empty-venv"
    subprocess.run([base_python, "-m", "venv", "--without-pip", empty], check=True)
    done = setup("install", "--root", root, "--gateway-venv", empty, "--yes", "--wheelhouse", wheelhouse)
    assert done.returncode == 1
    assert f"no thingsboard-gateway in {empty}" in done.stderr
    assert os.listdir(root) == []

    python = build(gateway_environment, area / "pip-gateway")
    before = listing(area / "pip-gateway")
    setup.ok(
        "install", "--root", root, "--gateway-venv", area / "pip-gateway", "--yes", "--wheelhouse", wheelhouse
    )
    extensions = root / "var/lib/thingsboard_gateway/extensions"
    assert load(python, extensions)[-1] == str(extensions / "custom/vendor/dlms_connector/__init__.py")
    # Which environment it was is remembered.
    told = setup("check", "--root", root)
    assert "ok    the gateway's loader finds the connector" in told.stdout
    setup.ok("uninstall", "--root", root, "--yes")
    assert listing(area / "pip-gateway") == before
    assert os.listdir(root) == []
