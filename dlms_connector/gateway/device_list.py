"""The gateway's list of devices on disk, written once for many changes.

The gateway rewrites all of connected_devices.json for each device that it announces or forgets, slowly and with the
interpreter lock held: the start, the reconfiguration and the stop of N meters cost N squared, which polls and MQTT wait
for. Here a change that follows close upon a written one is written with those that follow it, a little later. A kill
in between costs nothing that lasts: the gateway announces a device that is not on the list with its next reading.

Like `delivery` it replaces exactly the code that it was proven on, in this one gateway object, and stays out otherwise.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

from dlms_connector.gateway.proven import fingerprint
from dlms_connector.polling.ports import Log

_SAVE = "_TBGatewayService__save_persistent_devices"
_LOAD = "_TBGatewayService__load_persistent_devices"
PROVEN = frozenset(
    {"8400969d3e6b7fe438a5aa33f869ff83f6e6af725227be7923054c38ed4ba3ad"}
)  # of the source of __save_persistent_devices: thingsboard-gateway 3.8.5
_PAUSE_S = 1.0
_SHARE = 20
"""A pause is this many times as long as the writing took: that is 5 % of the time at most."""

_lock = threading.Lock()


def install(gateway: Any, log: Log) -> bool:
    """Collect changes from now on; True when it does. Callable any number of times."""
    with _lock:
        if _SAVE in vars(gateway):
            return True
        save, load = getattr(gateway, _SAVE, None), getattr(gateway, _LOAD, None)
        if save is None or load is None or fingerprint(save) not in PROVEN:
            log.warning(
                "device list: this release of thingsboard-gateway is not known; it writes its list of devices anew "
                "for each of them, which makes the start and the stop of a thousand meters slow"
            )
            return False
        changes = _Changes(save, log)
        setattr(gateway, _SAVE, changes.save)
        setattr(gateway, _LOAD, lambda: changes.write_before(load))
        atexit.register(changes.write)
        return True


def uninstall(gateway: Any) -> None:
    """The gateway's own behaviour again, with nothing left unwritten."""
    with _lock:
        saving = vars(gateway).pop(_SAVE, None)
        if saving is not None:
            delattr(gateway, _LOAD)
            changes: _Changes = saving.__self__
            changes.write()
            atexit.unregister(changes.write)


class _Changes:
    """When the list is written; the gateway's threads call `save` for each change."""

    def __init__(self, write: Callable[[], None], log: Log) -> None:
        self._write = write
        self._log = log
        self._failed = False
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None  # while a change waits
        self._next_s = 0.0

    def save(self) -> None:
        """Write now where the last writing is a while ago, else before long."""
        with self._lock:
            if self._timer is not None:
                return
            now_s = time.monotonic()
            if now_s < self._next_s:
                self._postpone(self._next_s - now_s)
                return
            self._next_s = now_s + _PAUSE_S  # a change meanwhile waits for the next one
        self._write_all()

    def write(self) -> None:
        """Write what waits."""
        with self._lock:
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
            self._write_all()

    def write_before(self, load: Callable[[], None]) -> None:
        """Load the list, as the gateway does after it was told that a device was renamed or deleted."""
        self.write()
        load()

    def _postpone(self, wait_s: float) -> None:
        self._timer = threading.Timer(wait_s, self.write)
        self._timer.daemon = True
        self._timer.start()

    def _write_all(self) -> None:
        began_s = time.monotonic()
        written = self._try()
        ended_s = time.monotonic()
        with self._lock:
            self._next_s = ended_s + max(_PAUSE_S, _SHARE * (ended_s - began_s))
            if not written and self._timer is None:
                self._postpone(self._next_s - ended_s)

    def _try(self) -> bool:
        """Write; False where that has to be tried again. A disk that takes nothing is told once."""
        try:
            self._write()
        except RuntimeError as error:
            if "changed" not in str(error):
                raise
            return False  # a device came or went in another thread while the gateway went through them
        except OSError as error:
            if not self._failed:
                self._log.warning("device list: it cannot be written, and is tried again: %s", error.strerror)
            self._failed = True
            return False
        self._failed = False
        return True
