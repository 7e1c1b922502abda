"""An independent client: gurux_dlms reads the simulator over wrapper, HDLC over TCP and a pseudo-terminal."""

from __future__ import annotations

import os
import select
import socket
import time
import tty
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any

from gurux_dlms import GXByteBuffer, GXReplyData
from gurux_dlms.enums import Authentication, Conformance, InterfaceType, ObjectType, Security
from gurux_dlms.objects import GXDLMSData, GXDLMSObject, GXDLMSProfileGeneric, GXDLMSRegister
from gurux_dlms.secure import GXDLMSSecureClient

WAIT_S = 10.0
_READ_BYTES = 65_536


class GuruxTimeout(Exception):
    """The meter did not answer completely in time."""


@dataclass
class GuruxSecurity:
    """Keys as gurux wants them; `policy` is gurux_dlms.enums.Security."""

    client_title: bytes
    block_cipher_key: bytes = field(repr=False)
    authentication_key: bytes = field(repr=False)
    policy: Security = Security.AUTHENTICATION_ENCRYPTION
    suite: int = 0
    invocation_counter: int = 1
    dedicated_key: bytes | None = field(default=None, repr=False)
    general: bool = False


class _FileStream:
    """A pseudo-terminal with a deadline on reading."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._descriptor)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._descriptor, data) :]

    def receive(self, timeout_s: float) -> bytes:
        ready, _, _ = select.select([self._descriptor], [], [], timeout_s)
        if not ready:
            raise GuruxTimeout("no bytes")
        return os.read(self._descriptor, _READ_BYTES)

    def close(self) -> None:
        os.close(self._descriptor)


class _SocketStream:
    """A TCP connection with a deadline on reading."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), timeout=WAIT_S)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self, timeout_s: float) -> bytes:
        self._socket.settimeout(timeout_s)
        try:
            data = self._socket.recv(_READ_BYTES)
        except TimeoutError as error:
            raise GuruxTimeout("no bytes") from error
        if not data:
            raise GuruxTimeout("the meter closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


class GuruxClient:
    """One association by gurux_dlms; a context manager that opens and closes it.

    Args:
        port: TCP port on the loopback; or give `path` of a pseudo-terminal.
        authentication: gurux_dlms.enums.Authentication.
        address_size: HDLC server address bytes; the address is logical and physical.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        path: str = "",
        framing: str = "wrapper",
        client: int = 16,
        authentication: Authentication = Authentication.NONE,
        password: bytes | None = None,
        logical: int = 1,
        physical: int = 17,
        address_size: int = 0,
        max_pdu_bytes: int = 0xFFFF,
        max_information_bytes: int = 128,
        window_frames: int = 1,
        security: GuruxSecurity | None = None,
    ) -> None:
        hdlc = framing == "hdlc"
        kind = InterfaceType.HDLC if hdlc else InterfaceType.WRAPPER
        server = logical
        if hdlc:
            server = GXDLMSSecureClient.getServerAddress(logical, physical, address_size)
        self.client = GXDLMSSecureClient(True, client, server, authentication, password, kind)
        if hdlc and address_size:
            self.client.serverAddressSize = address_size
        self.client.maxReceivePDUSize = max_pdu_bytes
        settings = self.client.hdlcSettings
        settings.maxInfoTX = settings.maxInfoRX = max_information_bytes
        settings.windowSizeTX = settings.windowSizeRX = window_frames
        if security is not None:
            self._secure(security)
        self._stream = _FileStream(path) if path else _SocketStream("127.0.0.1", port)
        self._hdlc = hdlc
        self._received = GXByteBuffer()

    def _secure(self, security: GuruxSecurity) -> None:
        ciphering = self.client.ciphering
        ciphering.security = security.policy
        ciphering.securitySuite = security.suite
        ciphering.systemTitle = security.client_title
        ciphering.blockCipherKey = security.block_cipher_key
        ciphering.authenticationKey = security.authentication_key
        ciphering.invocationCounter = security.invocation_counter
        if security.dedicated_key is not None:
            ciphering.dedicatedKey = security.dedicated_key
        if not security.general:
            self.client.proposedConformance &= ~Conformance.GENERAL_PROTECTION

    def __enter__(self) -> GuruxClient:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(politely=kind is None)

    def open(self) -> None:
        """SNRM and UA where there is HDLC, AARQ and AARE, the HLS passes where they are asked for."""
        reply = GXReplyData()
        request = self.client.snrmRequest()
        if request:
            self._exchange_all(request, reply)
            self.client.parseUAResponse(reply.data)
        reply = GXReplyData()
        self._exchange_all(self.client.aarqRequest(), reply)
        self.client.parseAareResponse(reply.data)
        if self.client.authentication > Authentication.LOW:
            reply = GXReplyData()
            self._exchange_all(self.client.getApplicationAssociationRequest(), reply)
            self.client.parseApplicationAssociationResponse(reply.data)

    def close(self, *, politely: bool = True) -> None:
        """RLRQ and DISC, then the stream."""
        try:
            if politely:
                self._exchange_all(self.client.releaseRequest(), GXReplyData())
                if self._hdlc:
                    self._exchange_all(self.client.disconnectRequest(), GXReplyData())
        finally:
            self._stream.close()

    def read(self, item: GXDLMSObject, attribute: int = 2) -> Any:
        """One attribute as gurux decodes it."""
        reply = GXReplyData()
        self._exchange_all(self.client.read(item, attribute), reply)
        return self.client.updateValue(item, attribute, reply.value)

    def read_raw(self, obis: str, class_id: int = 3, attribute: int = 2) -> Any:
        """One attribute without the object's own interpretation (no scaler)."""
        reply = GXReplyData()
        item = GXDLMSObject(ObjectType(class_id), obis)
        self._exchange_all(self.client.read(item, attribute), reply)
        return reply.value

    def read_register(self, obis: str) -> tuple[Any, int]:
        """(scaled value, unit) of a register."""
        register = GXDLMSRegister(obis)
        self.read(register, 3)
        return self.read(register, 2), int(register.unit)

    def read_text(self, obis: str) -> Any:
        return self.read(GXDLMSData(obis), 2)

    def read_list(self, items: Sequence[tuple[GXDLMSObject, int]]) -> list[Any]:
        """Several attributes by GET-with-list; the values in their order."""
        reply = GXReplyData()
        values: list[Any] = []
        for request in self.client.readList(list(items)):
            self._exchange_all(request, reply)
            if isinstance(reply.value, list):
                values.extend(reply.value)
            reply.clear()
        return values

    def read_rows_by_range(self, profile: GXDLMSProfileGeneric, start: datetime, end: datetime) -> list[Any]:
        """Rows captured from start to end; the profile's capture objects must have been read."""
        reply = GXReplyData()
        self._exchange_all(self.client.readRowsByRange(profile, start, end), reply)
        rows: list[Any] = self.client.updateValue(profile, 2, reply.value)
        return rows

    def read_rows_by_entry(self, profile: GXDLMSProfileGeneric, first: int, count: int) -> list[Any]:
        """`count` rows from the entry `first`, 1 being the oldest."""
        reply = GXReplyData()
        self._exchange_all(self.client.readRowsByEntry(profile, first, count), reply)
        rows: list[Any] = self.client.updateValue(profile, 2, reply.value)
        return rows

    def write(self, item: GXDLMSObject, attribute: int) -> None:
        """Write what the object holds in that attribute."""
        self._exchange_all(self.client.write(item, attribute), GXReplyData())

    def execute(self, request: Any) -> Any:
        """Run a method, e.g. `execute(relay.remoteDisconnect(client.client))`."""
        reply = GXReplyData()
        self._exchange_all(request, reply)
        return reply.value

    def objects(self) -> Any:
        """The association's object list, parsed."""
        reply = GXReplyData()
        self._exchange_all(self.client.getObjectsRequest(), reply)
        return self.client.parseObjects(reply.data, False)

    def _exchange_all(self, requests: Any, reply: GXReplyData) -> None:
        for request in requests if isinstance(requests, list) else [requests]:
            reply.clear()
            self._exchange(request, reply)
            while reply.isMoreData():
                self._exchange(None if reply.isStreaming() else self.client.receiverReady(reply), reply)

    def _exchange(self, request: Any, reply: GXReplyData) -> None:
        if not request and not reply.isStreaming():
            return
        received = GXByteBuffer()
        notification = GXReplyData()
        reply.error = 0
        if request:
            self._stream.send(bytes(request))
        deadline_s = time.monotonic() + WAIT_S
        while not self.client.getData(received, reply, notification):
            if notification.data.size:
                notification.clear()
                continue
            received.set(self._stream.receive(max(deadline_s - time.monotonic(), 0.001)))
        if reply.error:
            raise GuruxRefused(reply.error)


class GuruxRefused(Exception):
    """A data-access-result or action-result other than success; `code` is its number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
