"""Simulated meters in a process of their own, so that the CPU measured elsewhere is the client's alone."""

from __future__ import annotations

import multiprocessing
import resource
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import psutil

from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet

_START_S = 120.0


class MetersFailed(Exception):
    """The meters' process did not come up or is gone."""


def _serve(pipe: Connection, settings: FleetSettings) -> None:
    """Tells the ports, then how many bytes its lines carried as often as it is asked, until told to end."""
    with SimulatedFleet(settings) as fleet:
        pipe.send({serial: fleet.port(serial) for serial in fleet.serials})
        while pipe.recv() == "bytes":
            lines = fleet.totals().lines
            pipe.send(lines.bytes_received + lines.bytes_sent)


class MeterProcess:
    """The process; a context manager.

    Attributes:
        ports: of each meter, by serial number.

    Raises:
        MetersFailed: on entering; a port is taken, or there are not enough descriptors.
    """

    def __init__(self, settings: FleetSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._theirs = theirs
        self._process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
        self.ports: dict[str, int] = {}

    def __enter__(self) -> MeterProcess:
        self._process.start()
        self._theirs.close()  # ours: the end of the process shall end a wait here
        self.ports = self._answer()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._pipe.send("end")
        except OSError:
            pass  # it is gone already
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()

    def bytes_carried(self) -> int:
        """On all lines, both ways, since the start. Raises MetersFailed."""
        self._pipe.send("bytes")
        carried: int = self._answer()
        return carried

    def cpu_s(self) -> float:
        """CPU time so far."""
        assert self._process.pid is not None
        times = psutil.Process(self._process.pid).cpu_times()
        return float(times.user + times.system)

    def _answer(self) -> Any:
        try:
            if self._pipe.poll(_START_S):
                return self._pipe.recv()
        except EOFError:
            pass
        raise MetersFailed("the meters' process did not start or ended")


def allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open files; processes started later inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
