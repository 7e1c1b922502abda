"""Simulated meters as tests want them: one meter a line, or several behind one, with the usual keys."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any

from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings, MeterSettings, Quirks
from dlms_connector.simulator.security_server import ServerSecurity

SERIAL = "00000001"
LINKS = ("wrapper", "hdlc", "serial")

SERVER_TITLE = b"SIM\x00\x00\x00\x00\x01"
CLIENT_TITLE = b"TST\x00\x00\x00\x00\x02"
ENCRYPTION_KEYS = {0: bytes(range(16)), 1: bytes(range(16)), 2: bytes(range(32))}
AUTHENTICATION_KEYS = {0: bytes(range(208, 224)), 1: bytes(range(208, 224)), 2: bytes(range(64, 96))}


def line_settings(link: str, *meters: MeterSettings, **options: Any) -> LineSettings:
    """A line of one of `LINKS`."""
    framing = WRAPPER if link == "wrapper" else HDLC
    return LineSettings(meters, framing=framing, serial=link == "serial", **options)


def one_meter(
    link: str = "wrapper", *, quirks: Quirks | None = None, latency_s: float = 0.0, **settings: Any
) -> SimulatedFleet:
    """A fleet of the meter `SERIAL`; `settings` are MeterSettings'. Not started: use it in a `with`."""
    meter = replace(MeterSettings(SERIAL), quirks=quirks or Quirks(), **settings)
    return SimulatedFleet(FleetSettings((line_settings(link, meter, latency_s=latency_s),)))


def secured_client(
    mechanism: int, policy: int = 0x30, suite: int = 0, *, address: int = 1, secret: bytes = b""
) -> ClientSettings:
    """A client with the usual keys of the suite and both titles."""
    security = ServerSecurity(SERVER_TITLE, ENCRYPTION_KEYS[suite], AUTHENTICATION_KEYS[suite], suite, policy)
    return ClientSettings(address, mechanism, secret, security=security)


def clients(*more: ClientSettings) -> tuple[ClientSettings, ...]:
    """The public client and others."""
    return PUBLIC_CLIENT, *more


class WrapperPeer:
    """A client of few words: whole APDUs over the wrapper on a real socket."""

    def __init__(self, port: int, client: int = 16, server: int = 1, timeout_s: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._head = b"\x00\x01" + client.to_bytes(2, "big") + server.to_bytes(2, "big")

    def __enter__(self) -> WrapperPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, apdu: bytes) -> None:
        self.socket.sendall(self._head + len(apdu).to_bytes(2, "big") + apdu)

    def receive(self) -> bytes:
        """The next APDU; b"" at the end of the stream. Raises TimeoutError."""
        header = self._exactly(8)
        return self._exactly(int.from_bytes(header[6:8], "big")) if header else b""

    def _exactly(self, size_bytes: int) -> bytes:
        data = b""
        while len(data) < size_bytes:
            part = self.socket.recv(size_bytes - len(data))
            if not part:
                return b""
            data += part
        return data

    def ask(self, apdu: bytes) -> bytes:
        self.send(apdu)
        return self.receive()

    def associate(self, max_pdu_bytes: int = 0xFFFF) -> None:
        """Without authentication."""
        answer = self.ask(aarq(max_pdu_bytes=max_pdu_bytes))
        assert b"\xa2\x03\x02\x01\x00" in answer


def aarq(
    *,
    conformance: int = 0xFFFFFF,
    max_pdu_bytes: int = 0xFFFF,
    mechanism: int = 0,
    value: bytes = b"",
    context: int = 1,
    version: int = 6,
) -> bytes:
    """An AARQ by hand, after the examples of Green Book annex D."""
    block = b"\x5f\x1f\x04\x00" + conformance.to_bytes(3, "big") + max_pdu_bytes.to_bytes(2, "big")
    initiate = b"\x01\x00\x00\x00" + bytes((version,)) + block
    authentication = b""
    if mechanism:
        name = bytes.fromhex("8a0207808b07608574050802") + bytes((mechanism,))
        authentication = name + bytes((0xAC, len(value) + 2, 0x80, len(value))) + value
    contents = (
        bytes.fromhex("a1090607608574050801")
        + bytes((context,))
        + authentication
        + bytes((0xBE, len(initiate) + 2, 0x04, len(initiate)))
        + initiate
    )
    return bytes((0x60, len(contents))) + contents


def get_normal(class_id: int, obis: str, attribute: int, invoke_id: int = 0xC1) -> bytes:
    """GET-request-normal; the OBIS code as six numbers with dots."""
    name = bytes(int(part) for part in obis.split("."))
    return bytes((0xC0, 1, invoke_id)) + class_id.to_bytes(2, "big") + name + bytes((attribute, 0))
