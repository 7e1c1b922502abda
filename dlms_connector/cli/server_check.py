"""Knocks at a ThingsBoard as a gateway would: connect, TLS, MQTT CONNECT with the token, and away again.

MQTT 3.1.1 is enough for the question (OASIS "MQTT Version 3.1.1", 3.1 and 3.2); every ThingsBoard speaks it.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import uuid
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from dlms_connector.errors import CommandError

_TIMEOUT_S = 10.0
_CONNECT, _DISCONNECT = 0x10, b"\xe0\x00"
_USER_NAME_AND_CLEAN_SESSION = 0x82
_KEEP_ALIVE_S = 30
_ACCEPTED_CODE = 0
_CONNACK_BYTES = 4
_LENGTH_GROUP = 0x80


class ServerAnswer(str, Enum):
    """What came of it; the text is for the operator."""

    ACCEPTED = "answers and takes the token"
    REFUSED = "answers and refuses the token; take the access token of the gateway device in ThingsBoard"
    NO_TOKEN = "no token: neither TB_GW_ACCESS_TOKEN nor security.accessToken in tb_gateway.json"  # noqa: S105
    UNKNOWN_HOST = "the host name is not known here; check it, and the DNS of this machine"
    UNREACHABLE = "cannot be reached; check host and port, and the firewalls on the way"
    BAD_CERTIFICATE = "its certificate is not of the certificate authority that is configured"
    NOT_MQTT = "something answers there, but not MQTT (or TLS is wanted and not configured); check the port"


@dataclass(frozen=True)
class Server:
    """Where a gateway sends to, and as whom."""

    host: str
    port: int
    token: str = field(repr=False)
    tls: bool
    ca_file: Path | None


def read_server(config: Path) -> Server:
    """Host, port, token and TLS as the gateway takes them: tb_gateway.json, overridden by TB_GW_* variables.

    Raises:
        CommandError: no such file, or not the gateway's configuration.
    """
    file = config / "tb_gateway.json"
    try:
        section: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["thingsboard"]
        security: dict[str, Any] = section.get("security") or {}
        ca_text = os.environ.get("TB_GW_CA_CERT") or security.get("caCert")
        return Server(
            host=os.environ.get("TB_GW_HOST") or section["host"],
            port=int(os.environ.get("TB_GW_PORT") or section["port"]),
            token=os.environ.get("TB_GW_ACCESS_TOKEN") or security.get("accessToken") or "",
            tls=bool(ca_text or security.get("tls")),
            ca_file=config / ca_text if ca_text else None,
        )
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"{file} is not the gateway's configuration: {error!r}") from error


def ask_server(server: Server, timeout_s: float = _TIMEOUT_S) -> ServerAnswer:
    """Connect and disconnect; `timeout_s` bounds each step. Network errors are answers, not exceptions."""
    if not server.token:
        return ServerAnswer.NO_TOKEN
    try:
        with socket.create_connection((server.host, server.port), timeout_s) as plain:
            if not server.tls:
                return _knock(plain, server.token)
            context = ssl.create_default_context(cafile=str(server.ca_file) if server.ca_file else None)
            with context.wrap_socket(plain, server_hostname=server.host) as secured:
                return _knock(secured, server.token)
    except socket.gaierror:
        return ServerAnswer.UNKNOWN_HOST
    except ssl.SSLCertVerificationError:
        return ServerAnswer.BAD_CERTIFICATE
    except ssl.SSLError:
        return ServerAnswer.NOT_MQTT
    except OSError:
        return ServerAnswer.UNREACHABLE


def _knock(connection: socket.socket, token: str) -> ServerAnswer:
    connection.sendall(connect_packet(token))
    answer = b""
    try:
        while len(answer) < _CONNACK_BYTES and (part := connection.recv(_CONNACK_BYTES - len(answer))):
            answer += part
    except (TimeoutError, ConnectionError):
        return ServerAnswer.NOT_MQTT
    if len(answer) < _CONNACK_BYTES or answer[:2] != b"\x20\x02":
        return ServerAnswer.NOT_MQTT
    if answer[3] != _ACCEPTED_CODE:
        return ServerAnswer.REFUSED
    connection.sendall(_DISCONNECT)
    return ServerAnswer.ACCEPTED


def connect_packet(token: str) -> bytes:
    """A CONNECT with the token as user name and a client id of its own, so that a running gateway stays connected."""
    body = (
        _text("MQTT")
        + struct.pack(">BBH", 4, _USER_NAME_AND_CLEAN_SESSION, _KEEP_ALIVE_S)
        + _text(f"check{uuid.uuid4().hex[:12]}")
        + _text(token)
    )
    length = len(body)
    head = bytearray([_CONNECT])
    while length >= _LENGTH_GROUP:
        head.append(length % _LENGTH_GROUP | _LENGTH_GROUP)
        length //= _LENGTH_GROUP
    head.append(length)
    return bytes(head) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw
