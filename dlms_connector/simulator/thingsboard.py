"""An end point that behaves towards a gateway as ThingsBoard's MQTT transport does, with faults to order.

No broker: a gateway sends nothing before `getSessionLimits` is answered, and a broker would echo its
attributes back. No copy of ThingsBoard either: what a gateway can observe, and what an operator would find
stored.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from dlms_connector.simulator.loop_thread import LoopThread
from dlms_connector.simulator.thingsboard_record import DeviceRecord, Json, Value
from dlms_connector.simulator.thingsboard_session import Counters, Fault, MqttSession, Store
from dlms_connector.simulator.thingsboard_topics import GatewaySession

DEFAULT_MAX_PAYLOAD_BYTES = 65_536
DEFAULT_RPC_TIMEOUT_S = 10.0


class RpcTimeout(Exception):
    """No answer came in time; ThingsBoard's REST API says 504 or 408 then."""


@dataclass
class _PendingRpc:
    device: str | None
    send: Callable[[GatewaySession], bool]
    was_sent: bool = False
    is_answered: bool = False
    answer: Json = None


class ThingsBoardStandIn:
    """The server in a thread of its own; every public method may be called from any thread.

    Args:
        host: address to listen on; port 0 takes a free one (see `port`).
        tokens: access tokens that are let in; None lets everybody in.
        max_payload_bytes: a longer packet ends the session; also told in the session limits.
        max_inflight: told in the session limits.
        rate_limits: of the gateway itself, e.g. {"messages": "200:1,6000:60"}; empty means none.
        gateway_rate_limits: the same for the devices behind it.
        keep_last: telemetry points kept per key; None keeps all, 0 only counts.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Iterable[str] | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
        max_inflight: int = 100,
        rate_limits: dict[str, str] | None = None,
        gateway_rate_limits: dict[str, str] | None = None,
        keep_last: int | None = None,
    ) -> None:
        self.address = host
        self.port = port
        self.store = Store(keep_last=keep_last)
        self.fault = Fault.NONE
        self.puback_delay_s = 0.0
        self.max_payload_bytes = max_payload_bytes
        self.session_limits: dict[str, Json] = {
            "maxPayloadSize": max_payload_bytes,
            "maxInflightMessages": max_inflight,
            "rateLimits": dict(rate_limits or {}),
            "gatewayRateLimits": dict(gateway_rate_limits or {}),
        }
        self._tokens = set(tokens) if tokens is not None else None
        self._thread = LoopThread("thingsboard-stand-in")
        self._server: asyncio.Server | None = None
        self._sessions: list[GatewaySession] = []
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._waiting = 0
        self._rpc_ids = itertools.count(1)
        self._rpcs: dict[int, _PendingRpc] = {}

    def start(self) -> ThingsBoardStandIn:
        """Listen; returns itself. Raises OSError if the port is taken."""
        self._thread.start()
        try:
            self._thread.run(self._listen())
        except OSError:
            self._thread.stop()
            raise
        return self

    def stop(self) -> None:
        """Reset every connection and end the thread; safe to call twice."""
        if self._thread.is_running:
            self._thread.run(self._close_all())
            self._thread.stop()

    def __enter__(self) -> ThingsBoardStandIn:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # what is stored

    def devices(self) -> dict[str, DeviceRecord]:
        """A copy of every device behind the gateway, by name, without its series (see `telemetry`)."""
        with self._lock:
            return {name: replace(record, telemetry={}) for name, record in self.store.devices.items()}

    def device(self, name: str) -> DeviceRecord | None:
        """A deep copy of one device, or None if ThingsBoard never heard of it."""
        with self._lock:
            return copy.deepcopy(self.store.devices.get(name))

    def gateway(self) -> DeviceRecord:
        """A deep copy of the gateway's own device."""
        with self._lock:
            return copy.deepcopy(self.store.gateway)

    def telemetry(self, device: str) -> dict[str, list[tuple[int, Value]]]:
        """key -> [(ts in ms, value)], oldest first; empty for an unknown device."""
        with self._lock:
            record = self.store.devices.get(device)
            return record.series() if record else {}

    def latest(self, device: str) -> dict[str, tuple[int, Value]]:
        """key -> (ts in ms, value) of the youngest ts."""
        return {key: points[-1] for key, points in self.telemetry(device).items() if points}

    def arrivals(self, device: str) -> dict[str, list[tuple[int, int]]]:
        """key -> [(ts in ms, arrival in ms)], oldest ts first."""
        with self._lock:
            record = self.store.devices.get(device)
            series = record.telemetry if record else {}
            return {
                key: [(ts_ms, arrival_ms) for ts_ms, (_, arrival_ms) in sorted(points.items())]
                for key, points in series.items()
            }

    def attributes(self, device: str) -> dict[str, Value]:
        """Client-side attributes; empty for an unknown device."""
        with self._lock:
            record = self.store.devices.get(device)
            return dict(record.attributes) if record else {}

    def counters(self) -> Counters:
        with self._lock:
            return replace(self.store.counters)

    def forget(self) -> None:
        """Drop all that is stored; sessions and counters stay."""
        with self._lock:
            self.store.devices.clear()
            self.store.gateway = DeviceRecord("gateway")

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the predicate holds; it is asked after each change, under the lock. False on timeout."""
        deadline_s = time.monotonic() + timeout_s
        with self._change:
            self._waiting += 1
            try:
                while not predicate():
                    remaining_s = deadline_s - time.monotonic()
                    if remaining_s <= 0:
                        return False
                    self._change.wait(remaining_s)
                return True
            finally:
                self._waiting -= 1

    def wait_for_gateway(self, timeout_s: float) -> bool:
        """Wait until a gateway is connected and listens for its children's RPCs."""
        return self.wait_for(
            lambda: any(session.is_subscribed("v1/gateway/rpc") for session in self._sessions), timeout_s
        )

    # what the server sends

    def rpc(
        self, device: str, method: str, params: Json = None, timeout_s: float = DEFAULT_RPC_TIMEOUT_S
    ) -> Json:
        """Two-way RPC to a device behind the gateway; held until it (re)joins. Raises RpcTimeout."""
        request_id = next(self._rpc_ids)

        def send(session: GatewaySession) -> bool:
            return device in session.children and session.request_child_rpc(
                device, request_id, method, params
            )

        return self._await_answer(request_id, _PendingRpc(device, send), timeout_s)

    def gateway_rpc(self, method: str, params: Json = None, timeout_s: float = DEFAULT_RPC_TIMEOUT_S) -> Json:
        """Two-way RPC to the gateway itself. Raises RpcTimeout."""
        request_id = next(self._rpc_ids)

        def send(session: GatewaySession) -> bool:
            return session.request_own_rpc(request_id, method, params)

        return self._await_answer(request_id, _PendingRpc(None, send), timeout_s)

    def set_shared(self, attributes: dict[str, Json]) -> None:
        """Shared attributes of the gateway's device: stored, and pushed to a connected gateway."""
        with self._lock:
            self.store.gateway.shared.update(attributes)
        self._to_sessions(lambda session: session.push_own_attributes(attributes))

    def delete_shared(self, keys: list[str]) -> None:
        """Delete shared attributes of the gateway's device."""
        with self._lock:
            for key in keys:
                self.store.gateway.shared.pop(key, None)
        self._to_sessions(lambda session: session.push_own_attributes({"deleted": list(keys)}))

    def set_device_shared(self, device: str, attributes: dict[str, Json]) -> None:
        """Shared attributes of a device behind the gateway: stored, and pushed if it is in the session."""
        with self._lock:
            self.store.device(device).shared.update(attributes)
        self._to_child(device, attributes)

    def delete_device_shared(self, device: str, keys: list[str]) -> None:
        with self._lock:
            for key in keys:
                self.store.device(device).shared.pop(key, None)
        self._to_child(device, {"deleted": list(keys)})

    # faults

    def set_fault(self, fault: Fault) -> None:
        """Misbehave from now on; `Fault.NONE` heals.

        Leaving the black hole resets the connections it swallowed: their streams have holes.
        """
        self._thread.run(self._change_fault(fault))

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[None]:
        """The fault holds inside the block."""
        self.set_fault(fault)
        try:
            yield
        finally:
            self.set_fault(Fault.NONE)

    def delay_pubacks(self, delay_s: float) -> None:
        """Acknowledge that much later; 0 restores."""
        self.puback_delay_s = delay_s

    def drop_connections(self) -> None:
        """Reset every connection once."""
        self._thread.call(self._abort_all)

    # Host, called by the sessions on the loop's thread

    def accepts(self, token: str | None) -> bool:
        return self._tokens is None or token in self._tokens

    def opened(self, session: MqttSession) -> None:
        if isinstance(session, GatewaySession):
            self._sessions.append(session)

    def closed(self, session: MqttSession) -> None:
        if session in self._sessions:
            self._sessions.remove(session)

    def child_joined(self, session: MqttSession, name: str) -> None:
        for pending in self._rpcs.values():
            if pending.device == name and not pending.was_sent and isinstance(session, GatewaySession):
                pending.was_sent = pending.send(session)

    def rpc_answered(self, device: str | None, request_id: int, answer: Json) -> None:
        pending = self._rpcs.get(request_id)
        if pending is not None and pending.device == device and not pending.is_answered:
            pending.answer = answer
            pending.is_answered = True

    def changed(self) -> None:
        if self._waiting:
            with self._change:
                self._change.notify_all()

    def locked(self, work: Callable[[], None]) -> None:
        with self._lock:
            work()

    # inside

    def _await_answer(self, request_id: int, pending: _PendingRpc, timeout_s: float) -> Json:
        with self._lock:
            self._rpcs[request_id] = pending
        try:
            self._thread.call(lambda: self._send_rpc(pending))
            if not self.wait_for(lambda: pending.is_answered, timeout_s):
                state = "sent, not answered" if pending.was_sent else "not sent: nobody to send it to"
                raise RpcTimeout(f"RPC {request_id} {state} in {timeout_s} s")
            return pending.answer
        finally:
            with self._lock:
                del self._rpcs[request_id]

    def _send_rpc(self, pending: _PendingRpc) -> None:
        with self._lock:
            for session in reversed(self._sessions):
                if not pending.was_sent:
                    pending.was_sent = pending.send(session)

    def _to_sessions(self, send: Callable[[GatewaySession], bool]) -> None:
        self._thread.call(lambda: [send(session) for session in self._sessions])

    def _to_child(self, device: str, data: dict[str, Json]) -> None:
        def send(session: GatewaySession) -> bool:
            return device in session.children and session.push_child_attributes(device, data)

        self._to_sessions(send)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: GatewaySession(self), self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_all(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._abort_all()
        await asyncio.sleep(0)

    def _abort_all(self) -> None:
        for session in list(self._sessions):
            session.abort()

    async def _change_fault(self, fault: Fault) -> None:
        before, self.fault = self.fault, fault
        for session in self._sessions:
            session.pause(fault is Fault.STALL)
        if before is Fault.BLACK_HOLE and fault is not Fault.BLACK_HOLE:
            self._abort_all()
        if fault is Fault.DOWN:
            await self._close_all()
        elif self._server is None:
            await self._listen()
