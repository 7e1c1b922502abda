"""Device and connector RPC: requests go to the meter's poller, answers come later, the gateway never waits.

An exception in a handler would end the gateway's RPC thread for all connectors, so everything that arrives here
is answered: with a result, or with what was wrong in words.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import CommandError, DlmsConnectorError, LinkTimeout
from dlms_connector.gateway import numbers
from dlms_connector.gateway.rpc_methods import Call, device_call
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Command, Log

ANSWER_WITHIN_S = 8.0


class Deadlines:
    """One thread that calls back when a moment has passed; started with the first request."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, moment_s: float, callback: Callable[[], None]) -> None:
        """Call `callback` at monotonic `moment_s`; it must not block."""
        with self._changed:
            heapq.heappush(self._heap, (moment_s, next(self._numbers), callback))
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._run, name="dlms rpc deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_s = self._heap[0][0] - time.monotonic() if self._heap else None
                if wait_s is None or wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                callback = heapq.heappop(self._heap)[2]
            callback()


class Answer:
    """The one reply to a request, whoever is first: the meter, or the deadline."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self._send: Callable[[dict[str, Any]], None] | None = send
        self._lock = threading.Lock()

    def give(self, result: Any, error: DlmsConnectorError | None) -> None:
        """Send the reply unless it was sent."""
        with self._lock:
            send, self._send = self._send, None
        if send is not None:
            send(error_reply(error) if error is not None else {"result": json_safe(result)})


def error_reply(error: DlmsConnectorError) -> dict[str, Any]:
    """An error as RPC content: text, layer and hint."""
    reply = {"error": error.message, "layer": str(error.layer)}
    if error.hint:
        reply["hint"] = error.hint
    return reply


def json_safe(value: Any) -> Any:
    """Numbers exactly (`numbers.answered`), bytes as hexadecimal; the gateway's JSON writer knows neither."""
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return numbers.answered(value)
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, dict):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return value


class DeviceRpc:
    """Takes device RPCs to pollers.

    Args:
        reply: sends content to ThingsBoard: device name, request id, content.
        pollers: the running pollers by device name.
    """

    def __init__(
        self,
        reply: Callable[[str, Any, dict[str, Any]], None],
        pollers: Callable[[], dict[str, DevicePoller]],
        log: Log,
    ) -> None:
        self._reply = reply
        self._pollers = pollers
        self._log = log
        self._deadlines = Deadlines()

    def close(self) -> None:
        """End the deadline thread; what is pending was answered by the pollers."""
        self._deadlines.close()

    def handle(self, device_name: str, request_id: Any, method: str, params: Any) -> None:
        """Queue the request; the answer follows within ANSWER_WITHIN_S."""
        answer = Answer(lambda content: self._reply(device_name, request_id, content))
        try:
            poller = self._pollers().get(device_name)
            if poller is None:
                raise CommandError(
                    f"{device_name} is not polled by this connector",
                    hint="it may be disabled or its configuration may be wrong",
                )
            call = device_call(poller, method, params)
        except DlmsConnectorError as error:
            answer.give(None, error)
            return
        if call.immediate is not None:
            answer.give(call.immediate(), None)
            return
        self._submit(poller, method, call, answer)

    def _submit(self, poller: DevicePoller, method: str, call: Call, answer: Answer) -> None:
        deadline_s = time.monotonic() + ANSWER_WITHIN_S
        device = poller.device

        def done(result: Any, error: DlmsConnectorError | None) -> None:
            if call.audit:
                self._audit(device, method, call.audit, error)
            answer.give(result, error)

        def late() -> None:
            answer.give(None, LinkTimeout(f"{device.device_name} did not answer {method} in time"))

        self._deadlines.at(deadline_s, late)
        poller.submit(Command(method, call.run, done, deadline_s, needs_meter=call.needs_meter))

    def _audit(
        self, device: DeviceSettings, method: str, what: str, error: DlmsConnectorError | None
    ) -> None:
        """One line for everything that was meant to change a meter."""
        outcome = "done" if error is None else f"failed: {error.explain()}"
        self._log.warning("AUDIT %s: %s %s: %s", device.device_name, method, what, outcome)
