"""Ciphered APDUs explained: the security header, and with the keys what is under it (Green Book 9.2.7)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dlms_connector.cosem.security import (
    AUTHENTICATED,
    BROADCAST_KEY,
    COMPRESSED,
    ENCRYPTED,
    GENERAL_DED,
    GENERAL_GLO,
    TAG_BYTES,
    Protector,
)
from dlms_connector.errors import SecurityError
from dlms_connector.explain.tree import Cursor, Node, hex_text

TITLE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Keys:
    """What may open ciphered APDUs; `titles` are the system titles of possible senders."""

    encryption: bytes | None = field(default=None, repr=False)
    authentication: bytes | None = field(default=None, repr=False)
    dedicated: bytes | None = field(default=None, repr=False)
    titles: tuple[bytes, ...] = ()


def add_ciphered(
    node: Node, cursor: Cursor, keys: Keys, titles: Iterable[bytes], *, dedicated: bool
) -> bytes | None:
    """The security header behind the tag; the plain APDU where the keys open it, else None and why in the tree.

    Raises:
        DecodeError: truncated; what was read before stays in the tree.
    """
    tag = cursor.data[cursor.at - 1]
    candidates = tuple(titles)
    if tag in (GENERAL_GLO, GENERAL_DED):
        start = cursor.at
        title, _ = cursor.octets("system title")
        node.add("system title of the sender", hex_text(title) if title else "left out", start, cursor.at)
        candidates = (title, *candidates) if title else candidates
    cursor.narrow(cursor.length(), "ciphered text")
    start = cursor.at
    body = cursor.data[start:]
    control = cursor.field(node, "security control", 1, control_text)
    cursor.field(node, "invocation counter", 4)
    size = cursor.left - (TAG_BYTES if control & AUTHENTICATED else 0)
    at = cursor.at
    text = cursor.take(max(size, 0), "ciphered text")
    node.add("encrypted text" if control & ENCRYPTED else "plain text", hex_text(text), at, cursor.at)
    if control & AUTHENTICATED:
        at = cursor.at
        node.add("authentication tag", hex_text(cursor.take(TAG_BYTES, "authentication tag")), at, cursor.at)
    return _open(node, body, control, keys.dedicated if dedicated else keys.encryption, keys, candidates)


def control_text(control: int) -> str:
    """The security control byte in words."""
    words = {
        0: "neither authenticated nor encrypted",
        AUTHENTICATED: "authenticated",
        ENCRYPTED: "encrypted",
        AUTHENTICATED | ENCRYPTED: "authenticated and encrypted",
    }[control & (AUTHENTICATED | ENCRYPTED)]
    broadcast = ", broadcast key" if control & BROADCAST_KEY else ""
    compressed = ", compressed" if control & COMPRESSED else ""
    return f"{control:02X}: suite {control & 0x0F}, {words}{broadcast}{compressed}"


def _open(
    node: Node, body: bytes, control: int, key: bytes | None, keys: Keys, titles: tuple[bytes, ...]
) -> bytes | None:
    """Try each title: the tag tells which one is right."""
    if not control & ENCRYPTED and (key is None or keys.authentication is None):
        node.add("protection", "the tag is not verified: no keys are given")
        return body[5 : len(body) - (TAG_BYTES if control & AUTHENTICATED else 0)]
    if key is None:
        node.add("protection", "not opened: no key is given")
        return None
    usable = [title for title in dict.fromkeys(titles) if len(title) == TITLE_BYTES]
    if not usable:
        node.add("protection", "not opened: the sender's system title is not known; give --system-title")
        return None
    blind = bool(control & AUTHENTICATED) and keys.authentication is None
    if blind:
        body = bytes((control & ~AUTHENTICATED,)) + body[1:-TAG_BYTES]
    failure = ""
    for title in usable:
        try:
            plain, _, _ = Protector(key, keys.authentication or b"").unprotect(title, body)
        except SecurityError as error:
            failure = error.message
            continue
        verified = "verified" if control & AUTHENTICATED and not blind else "not verified"
        node.add("protection", f"opened with the title {hex_text(title)}; the tag is {verified}")
        return plain
    node.fail(f"{failure}: another key, or another sender than {', '.join(map(hex_text, usable))}", 0)
    return None
