"""Passwords and keys: the configuration holds references, the values are read at use and never shown.

The gateway echoes a connector's JSON to the server, writes it to backups and logs it, so a value
written there is a value published. A reference is one of

* `${env:NAME}`: an environment variable of the gateway process,
* `${file:/path}`: the first line of a file,
* `${credential:NAME}`: a file in systemd's `$CREDENTIALS_DIRECTORY`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from dlms_connector.errors import SecretError

_REFERENCE = re.compile(r"\$\{(env|file|credential):([^}]+)\}")
_HEX_PREFIX = "hex:"
_MAX_SECRET_BYTES = 4096


class SecretRef:
    """Where a secret is, not what it is; safe to print, compare and store."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name

    @classmethod
    def parse(cls, text: str) -> SecretRef:
        """Read a reference. The text itself is never repeated in the error: it may be the secret.

        Raises:
            ValueError: when it is not a reference.
        """
        match = _REFERENCE.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                "a secret must be a reference: ${env:NAME}, ${file:/path} or ${credential:NAME}; "
                "a value written here would reach the server, the backups and the logs"
            )
        return cls(match[1], match[2].strip())

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.name}}}"

    def __repr__(self) -> str:
        return f"SecretRef({self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretRef) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def resolve_text(self) -> str:
        """The secret's text, its trailing line break removed.

        Raises:
            SecretError: not set, not readable, empty or absurdly long.
        """
        text = self._read()
        if not text:
            raise SecretError(f"{self} is empty", hint="give it a value where the gateway process can see it")
        return text

    def resolve_password(self) -> bytes:
        """A password as the meter takes it: UTF-8 bytes, or the bytes behind `hex:`."""
        text = self.resolve_text()
        if text.startswith(_HEX_PREFIX):
            return self._unhex(text[len(_HEX_PREFIX) :])
        return text.encode()

    def resolve_key(self, size_bytes: int) -> bytes:
        """A key, written in hex, of exactly `size_bytes`.

        Raises:
            SecretError: not hex or another length; the message never shows the text.
        """
        text = self.resolve_text()
        key = self._unhex(text[len(_HEX_PREFIX) :] if text.startswith(_HEX_PREFIX) else text)
        if len(key) != size_bytes:
            raise SecretError(
                f"the key in {self} has {len(key)} bytes; this security suite takes {size_bytes}",
                hint=f"write {size_bytes * 2} hexadecimal digits",
            )
        return key

    def _unhex(self, digits: str) -> bytes:
        try:
            return bytes.fromhex(digits)
        except ValueError:
            # The parser's own message would show a part of the secret, so the chain ends here.
            raise SecretError(
                f"{self} is not hexadecimal", hint="write two hex digits for each byte"
            ) from None

    def _read(self) -> str:
        if self.kind == "env":
            value = os.environ.get(self.name)
            if value is None:
                raise SecretError(
                    f"environment variable {self.name} is not set",
                    hint="set it for the gateway's service (EnvironmentFile) and restart the gateway",
                )
            return value.rstrip("\r\n")
        path = Path(self.name)
        if self.kind == "credential":
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if directory is None:
                raise SecretError(
                    f"{self}: the gateway was not started by systemd with credentials",
                    hint="add LoadCredential= to the unit, or use ${env:NAME} or ${file:/path}",
                )
            path = Path(directory) / self.name
        return _read_first_line(path, self)


def _read_first_line(path: Path, reference: SecretRef) -> str:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretError(
            f"{reference} cannot be read: {error.strerror}",
            hint="check the path and that the gateway's user may read it",
        ) from error
    if len(raw) > _MAX_SECRET_BYTES:
        raise SecretError(f"{reference} is larger than {_MAX_SECRET_BYTES} bytes")
    try:
        return raw.decode().split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        raise SecretError(f"{reference} is not text", hint="write the secret as text or as hex:...") from None


def _validate(value: Any) -> SecretRef:
    if isinstance(value, SecretRef):
        return value
    if not isinstance(value, str):
        raise ValueError("a secret is a reference such as ${env:NAME}")
    return SecretRef.parse(value)


Secret = Annotated[
    SecretRef,
    PlainValidator(_validate),
    PlainSerializer(str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\$\{(env|file|credential):[^}]+\}$",
            "description": "a reference to a secret: ${env:NAME}, ${file:/path} or ${credential:NAME}",
        }
    ),
]
