"""The status file for `dlms-connector status` and `watch`, and the health file for watchdogs.

Both lie beside the state file and are named after the connector. One thread writes them from what the
pollers already know; a poll costs nothing. They vanish when the connector closes.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dlms_connector.config.problems import Problem
from dlms_connector.config.settings import StatusSettings
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Log
from dlms_connector.version import release

FORMAT: Final = 1
STATUS_SUFFIX: Final = ".status.json"
ALIVE_SUFFIX: Final = ".alive"
MAX_PROBLEMS: Final = 50
_MODE: Final = 0o640  # the gateway's group may look
_STOP_S: Final = 1.0

BOOK_KEYS: Final = (
    "keysAsked", "keysDelivered", "keysRefused", "keysHeld", "keysFailed",
    "rowsReceived", "rowsDelivered", "rowsLeftOut",
)  # fmt: skip
"""Of the book: each is a counter of a meter under `dlms_` + key, and of all meters under the key."""

Values = Mapping[str, str | int | float]


def totals(meters: Iterable[Values]) -> dict[str, Any]:
    """What all meters together did: states and counts."""
    meters = list(meters)

    def total(key: str) -> int:
        return sum(int(values.get(key, 0)) for values in meters)

    return {
        "devices": len(meters),
        "states": dict(Counter(str(values["dlms_state"]) for values in meters)),
        "requests": total("dlms_requests"),
        "responses": total("dlms_responses"),
        "bytesSent": total("dlms_bytesSent"),
        "bytesReceived": total("dlms_bytesReceived"),
        **{key: total(f"dlms_{key}") for key in BOOK_KEYS},
    }


def told(problems: Iterable[Problem]) -> list[str]:
    """The first problems of a configuration, in words."""
    return [str(problem) for problem, _ in zip(problems, range(MAX_PROBLEMS), strict=False)]


class Progress:
    """Whether the pollers get on: one of them works, or waits for its next moment as it should."""

    def __init__(self) -> None:
        self._done = -1

    def made(self, pollers: Iterable[DevicePoller], now_s: float) -> bool:
        """True when something moved since the last call; also where there is nothing to move."""
        pollers = list(pollers)
        done = sum(poller.health.cycles + poller.session.requests for poller in pollers)
        moved, self._done = done != self._done, done
        alive = [poller for poller in pollers if poller.thread.is_alive()]
        idle = any(poller.idle_until_s > now_s for poller in alive)
        return not pollers or bool(alive and (moved or idle))


class StatusFiles:
    """Writes both files every few seconds.

    Args:
        name: the connector's, which names the files.
        directory: of the state file.
        pollers: the meters at this moment.
        problems: of the configuration.
    """

    def __init__(
        self,
        name: str,
        settings: StatusSettings,
        directory: Path,
        pollers: Callable[[], Mapping[str, DevicePoller]],
        problems: Iterable[Problem],
        log: Log,
    ) -> None:
        stem = re.sub(r"[^\w.-]", "_", name)[:80]
        self.status_path = directory / f"{stem}{STATUS_SUFFIX}"
        self.alive_path = directory / f"{stem}{ALIVE_SUFFIX}"
        self._name = name
        self._settings = settings
        self._pollers = pollers
        self._problems = told(problems)
        self._log = log
        self._progress = Progress()
        self._failed = False
        self._started_ms = _wall_ms()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dlms status", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove both files."""
        self._stopping.set()
        self._thread.join(_STOP_S)
        for path in (self.status_path, self.alive_path):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._log.warning("%s cannot be removed: %s", path, error.strerror)

    def _run(self) -> None:
        period_s = self._settings.period_ms / 1000
        while True:
            self.write()
            if self._stopping.wait(period_s):
                return

    def write(self) -> None:
        """Write the status; touch the health file if the pollers get on. A full disk is told once."""
        pollers = self._pollers()
        try:
            _replace(self.status_path, json.dumps(self._document(pollers), ensure_ascii=False))
            if self._progress.made(pollers.values(), time.monotonic()):
                self.alive_path.touch(mode=_MODE)
        except OSError as error:
            if not self._failed:
                self._log.warning("%s cannot be written: %s", self.status_path, error.strerror)
            self._failed = True
        else:
            self._failed = False

    def _document(self, pollers: Mapping[str, DevicePoller]) -> dict[str, Any]:
        meters = {name: poller.status() for name, poller in pollers.items()}
        return {
            "format": FORMAT,
            "connector": self._name,
            "version": release(),
            "pid": os.getpid(),
            "startedMs": self._started_ms,
            "writtenMs": _wall_ms(),
            "periodMs": self._settings.period_ms,
            "totals": totals(meters.values()),
            "problems": self._problems,
            "meters": meters,
        }


def _replace(path: Path, text: str) -> None:
    """A reader sees the old text or the new. Nothing is forced to the disk: the next writing is near."""
    new = path.with_name(f".{path.name}.new")
    handle = os.open(new, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, _MODE)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), _MODE)
        stream.write(text)
    os.replace(new, path)


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
