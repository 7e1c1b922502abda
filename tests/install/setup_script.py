"""setup_gateway.sh as an operator runs it, in a folder that stands for a machine."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PARTS = (
    "setup_gateway.sh",
    "tb-gateway.service",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "config",
    "dlms_connector",
)
TOKEN = "A-token-of-20-letters"
# userdel and useradd leave these backups, on every Debian.
_ACCOUNT_BACKUPS = {"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-"}


def copy_project(target: Path) -> Path:
    """What a release holds of this checkout: nobody edits it while the tests run."""
    target.mkdir(parents=True)
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, target / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / part)
    return target


def clean_environment(**more: str) -> dict[str, str]:
    """This process's, without what would lead the script or the gateway astray; in English."""
    misleading = ("TB_GW_", "LC_", "LANG", "DLMS_", "DESTDIR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(misleading)}
    return {**kept, "LANG": "C.UTF-8", **more}


@dataclass
class Setup:
    """The script of one copy of the project."""

    project: Path

    def __call__(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.project / "setup_gateway.sh", *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            env=clean_environment(**(env or {})),
            stdin=subprocess.DEVNULL,
            timeout=110,
            cwd="/",
        )

    def ok(self, *arguments: str | Path, env: dict[str, str] | None = None) -> str:
        """Its output; a failure is told with everything it said."""
        done = self(*arguments, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def make_machine(root: Path) -> Path:
    """A root folder with accounts, as an image has them; empty of anything else."""
    (root / "etc").mkdir(parents=True)
    root.chmod(0o755)
    (root / "etc").chmod(0o755)
    if os.geteuid() == 0:
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\ndialout:x:20:\n")
    return root


def listing(root: Path) -> dict[str, tuple[str, str, bytes]]:
    """path -> (mode, owner, content) of everything below a folder, the machine's bytecode and backups left out."""
    return dict(_entries(root))


def _entries(root: Path) -> Iterator[tuple[str, tuple[str, str, bytes]]]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in [*folders, *files]:
            path = Path(folder) / name
            status = path.lstat()
            relative = str(path.relative_to(root))
            if relative in _ACCOUNT_BACKUPS:
                continue
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path).encode()
            else:
                content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
            yield relative, (stat.filemode(status.st_mode), f"{status.st_uid}:{status.st_gid}", content)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
