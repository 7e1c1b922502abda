"""`dlms-connector extension`: where the gateway's loader looks for the connector, and whether it finds it there.

The loader (thingsboard-gateway 3.8, `tb_utility/tb_loader.py`) goes through `<folder>/custom/*.py` and executes each
file, in the order the file system gives them, until one has the class. The folders are those of `search_folders`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from dlms_connector.cli.server_check import ServerAnswer, ask_server, read_server
from dlms_connector.config.textfile import write_whole
from dlms_connector.errors import CommandError

app = typer.Typer(no_args_is_help=True)

SHIM: Final = Path(__file__).resolve().parents[1] / "gateway" / "extension" / "dlms_extension.py"
CLASS_NAME: Final = "DLMSConnector"
SYSTEM_FOLDER: Final = Path("/var/lib/thingsboard_gateway/extensions")
_TYPE_FOLDER = "custom"
_SHIM_MODE = 0o644
_PROBE_TIMEOUT_S = 60.0
_HAS_CLASS = "has the class"
_PROBE = f"""
import importlib.util, inspect, sys
sys.path.pop(0)
file, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location(name, file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("{_HAS_CLASS}" if name in dict(inspect.getmembers(module, inspect.isclass)) else "")
"""

Extensions = Annotated[
    Path | None,
    typer.Option("--extensions", help="The extensions folder, instead of those that the loader knows."),
]


def search_folders() -> list[Path]:
    """The extension folders that the loader of this environment's gateway goes through, first one first.

    The system's folder counts for pip installs too, if it exists. Without a gateway here it is the only one.
    """
    folders = [SYSTEM_FOLDER] if SYSTEM_FOLDER.exists() else []
    spec = importlib.util.find_spec("thingsboard_gateway")
    if spec is not None and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]) / "extensions")
    return folders or [SYSTEM_FOLDER]


@app.command()
def path(extensions: Extensions = None) -> None:
    """Print the folder that the loader searches first; the extension belongs there."""
    sys.stdout.write(f"{_target(extensions)}\n")


@app.command()
def install(extensions: Extensions = None) -> None:
    """Put the extension where the loader finds it; for gateways whose environment has this package."""
    target = _target(extensions) / SHIM.name
    if target.exists() and not _is_ours(target):
        raise CommandError(f"{target} is there and is not this extension", hint="move it away first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{target.parent} cannot be made: {error.strerror}") from error
    write_whole(target, SHIM.read_text(encoding="utf-8"), _SHIM_MODE)
    sys.stdout.write(f"{target}\nRestart the gateway to load it.\n")


@app.command()
def remove(extensions: Extensions = None) -> None:
    """Take the extension out of every folder of the loader; a file that is not ours stays."""
    for folder in _folders(extensions):
        target = folder / _TYPE_FOLDER / SHIM.name
        if not target.exists():
            continue
        if not _is_ours(target):
            raise CommandError(f"{target} is not this extension", hint="remove it by hand if you are sure")
        try:
            target.unlink()
        except OSError as error:
            raise CommandError(f"{target} cannot be removed: {error.strerror}") from error
        sys.stdout.write(f"removed {target}\n")


@app.command()
def check(extensions: Extensions = None) -> None:
    """Do what the gateway's loader does and tell each step; exit 1 if the connector is not found."""
    for line, is_found in _load(_folders(extensions)):
        sys.stdout.write(f"{line}\n")
        if is_found:
            return
    raise typer.Exit(1)


@app.command()
def server(
    config: Annotated[Path, typer.Argument(help="The gateway's configuration folder, with tb_gateway.json.")],
) -> None:
    """Knock at the ThingsBoard of a gateway's configuration: does it answer, and take the token?"""
    address = read_server(config)
    answer = ask_server(address)
    sys.stdout.write(f"{address.host}:{address.port}{' (TLS)' if address.tls else ''}: {answer.value}\n")
    raise typer.Exit(0 if answer is ServerAnswer.ACCEPTED else 1)


def _folders(extensions: Path | None) -> list[Path]:
    return [extensions] if extensions is not None else search_folders()


def _target(extensions: Path | None) -> Path:
    return _folders(extensions)[0] / _TYPE_FOLDER


def _is_ours(file: Path) -> bool:
    """Any release's shim imports the class by this line."""
    return f"import {CLASS_NAME}" in file.read_text(encoding="utf-8", errors="replace")


def _load(folders: list[Path]) -> Iterator[tuple[str, bool]]:
    """What the loader does, as (words, found). It gives up at the first file that raises no ImportError."""
    for folder in folders:
        here = folder / _TYPE_FOLDER
        if not here.is_dir():
            yield f"{here}: not there", False
            continue
        for file in here.iterdir():
            if file.name.startswith("__") or file.suffix not in (".py", ".pyc"):
                continue
            problem = _execute(file)
            if problem is None:
                yield f"{file}: has {CLASS_NAME}; the gateway will use this one", True
                return
            words, ends_search = problem
            yield f"{file}: {words}", False
            if ends_search:
                yield "the loader stops searching at such an error: move that file away or mend it", False
                return
    yield f"no file has {CLASS_NAME}", False


def _execute(file: Path) -> tuple[str, bool] | None:
    """None if the file has the class, else why not and whether the loader ends its search there.

    A process of its own executes the file, with the search path the gateway has: nothing of this process helps it.
    """
    done = subprocess.run(  # noqa: S603 (this Python, and the file the gateway would execute)
        [sys.executable, "-B", "-c", _PROBE, str(file), CLASS_NAME],
        check=False,
        capture_output=True,
        text=True,
        timeout=_PROBE_TIMEOUT_S,
    )
    if done.returncode == 0:
        if done.stdout.rstrip().endswith(_HAS_CLASS):
            return None
        return f"has no {CLASS_NAME}; the loader goes on", False
    error = (done.stderr.strip() or f"ends the process with {done.returncode}").splitlines()[-1]
    if error.startswith(("ImportError", "ModuleNotFoundError")):
        return f"{error}; the loader goes on", False
    return error, True
