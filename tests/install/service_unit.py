"""Starts what a unit file says, the way systemd would, where there is no systemd."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections import defaultdict
from pathlib import Path

_STOP_S = 30.0


def read_unit(file: Path) -> dict[str, list[str]]:
    """name -> values of the [Service] section, in their order."""
    values: dict[str, list[str]] = defaultdict(list)
    section = ""
    for line in file.read_text().splitlines():
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            values[name].append(value)
    return values


class Service:
    """The service's own command line as its own user; `identity` is (uid, gid), None for whoever runs the tests."""

    def __init__(self, unit: Path, identity: tuple[int, int] | None, state: Path, output: Path) -> None:
        self.unit = read_unit(unit)
        self.output = output
        command = shlex.split(self.unit["ExecStart"][0])
        if identity is not None:
            uid, gid = identity
            command = [
                "setpriv",
                f"--reuid={uid}",
                f"--regid={gid}",
                "--clear-groups",
                "--no-new-privs",
                *command,
            ]
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                env=self._environment(state),
                cwd=self.unit["WorkingDirectory"][0],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                umask=int(self.unit["UMask"][0], 8),
                start_new_session=True,
            )

    def _environment(self, state: Path) -> dict[str, str]:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "STATE_DIRECTORY": str(state)}
        lines = list(self.unit["Environment"])
        lines += Path(self.unit["EnvironmentFile"][0].lstrip("-")).read_text().splitlines()
        for line in lines:
            name, value = line.split("=", 1)
            environment[name] = value.strip("'\"")
        for name in self.unit["UnsetEnvironment"][0].split():
            environment.pop(name, None)
        return environment

    def stop(self) -> int:
        """The unit's own signal; returns the exit status. Raises subprocess.TimeoutExpired after 30 s."""
        if self.process.poll() is None:
            self.process.send_signal(getattr(signal, self.unit["KillSignal"][0]))
        return self.process.wait(_STOP_S)

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(_STOP_S)

    def log(self) -> str:
        return self.output.read_text(errors="replace")
