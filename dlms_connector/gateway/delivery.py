"""QoS 1 that is real: the gateway deletes stored data only after the server's PUBACK.

`TBPublishInfo.get()` of tb-mqtt-client waits one second for the PUBACK and then reports success without it; the
gateway deletes the pack from its storage. In a black hole (TCP open, nobody answers) and at a broken
connection that loses readings. The mended version reports success only for a message that was
acknowledged, and "connection lost" when the client dropped it or nothing came in time; the gateway then
sends the pack again.

It replaces exactly the code that it was proven on, recognised by its text, and stays out otherwise. Only the
gateway's confirmation threads wait that long: they decide what is deleted. Everybody else gets what the library
would give, because the gateway also connects devices with it, on the thread that stores readings.
"""

from __future__ import annotations

import threading
import time
from typing import Any
from weakref import ReferenceType, ref

from tb_device_mqtt import TBPublishInfo

from dlms_connector.gateway.proven import fingerprint
from dlms_connector.polling.ports import Log

# SHA-256 of the source of TBPublishInfo.get, as released
PROVEN = frozenset(
    {"3c1e3adf0d11c3d9bc95fc4c4b4731bcd2792ca5e86ffe1f36398a7ea1eaf08d"}  # tb-mqtt-client 1.13.13
)
_POLL_S = 0.25
_TOGETHER_S = 0.02
"""The PUBACKs of a pack come right after each other: after such a pause most of them are there, and none has woken
a thread of its own."""
_CONFIRMATION = "_TBGatewayService__messages_confirmation_executor"

_lock = threading.Lock()
_original = TBPublishInfo.get
_told = False


def install(gateway: Any, timeout_s: float, log: Log) -> bool:
    """Await PUBACKs from now on; True when the mended version is in place. Callable any number of times."""
    global _told  # noqa: PLW0603 (one patch for the process)
    with _lock:
        if fingerprint(_original) not in PROVEN:
            if not _told:
                log.warning(
                    "delivery: this release of tb-mqtt-client is not known; PUBACKs are not awaited. "
                    "Readings may be lost when a connection breaks; load profiles still fill gaps"
                )
                _told = True
            return False
        TBPublishInfo.get = _awaiting(ref(gateway), timeout_s)
        return True


def uninstall() -> None:
    """Put the library's own version back."""
    with _lock:
        TBPublishInfo.get = _original


def _awaiting(gateway_ref: ReferenceType[Any], timeout_s: float) -> Any:
    def get(self: Any) -> Any:
        if not _decides_deletion(gateway_ref()):
            return _original(self)
        deadline_s = time.monotonic() + timeout_s
        many = isinstance(self.message_info, list)
        for info in self.message_info if many else [self.message_info]:
            if not _is_acknowledged(info, gateway_ref, deadline_s):
                return self.TB_ERR_CONN_LOST
        return self.rc()

    return get


def _decides_deletion(gateway: Any) -> bool:
    """Whether this thread is one of those that confirm packs; every thread is, where they cannot be told."""
    prefix = getattr(getattr(gateway, _CONFIRMATION, None), "_thread_name_prefix", None)
    return not prefix or threading.current_thread().name.startswith(f"{prefix}_")


def _is_acknowledged(info: Any, gateway_ref: ReferenceType[Any], deadline_s: float) -> bool:
    """Wait for the PUBACK of one message; False when it was not sent or is forgotten, at a stop, when time is up."""
    try:
        if not info.is_published():
            time.sleep(_TOGETHER_S)
        while not info.is_published():
            gateway = gateway_ref()
            if gateway is None or gateway.stopped or time.monotonic() >= deadline_s:
                return False
            if not _is_in_flight(gateway, info.mid) and not info.is_published():
                return False
            info.wait_for_publish(timeout=_POLL_S)
    except (RuntimeError, ValueError):
        return False  # the client never took it, e.g. for want of a connection
    return True


def _is_in_flight(gateway: Any, message_id: int) -> bool:
    """The MQTT client still knows the message: at a disconnect it forgets them all."""
    client = gateway.tb_client.client._client
    return message_id in client._out_messages
