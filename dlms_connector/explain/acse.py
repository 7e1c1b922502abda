"""AARQ, AARE, RLRQ and RLRE explained, and the InitiateRequest and InitiateResponse inside (Green Book 9.4, 9.5).

Passwords and dedicated keys stand in these APDUs in clear: they are told by their length alone.
"""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.cosem.acse import AARE, AARQ, RLRE, RLRQ
from dlms_connector.cosem.enumerations import (
    AcseServiceProviderDiagnostics,
    AcseServiceUserDiagnostics,
    Conformance,
)
from dlms_connector.errors import DecodeError
from dlms_connector.explain.tree import Cursor, Node, hex_text

NAMES = {
    AARQ: "AARQ: association request",
    AARE: "AARE: association response",
    RLRQ: "RLRQ: release request",
    RLRE: "RLRE: release response",
}
_REQUEST_FIELDS = {
    0xA1: "application context", 0xA2: "called AP title", 0xA6: "calling AP title (client system title)",
    0xA7: "calling AE qualifier", 0xA9: "calling AE invocation id", 0x8A: "ACSE requirements",
    0x8B: "authentication mechanism", 0xAC: "calling authentication value", 0xBE: "user information",
}  # fmt: skip
_RESPONSE_FIELDS = {
    0xA1: "application context", 0xA2: "result", 0xA3: "diagnostic",
    0xA4: "responding AP title (meter's system title)", 0xA5: "responding AE qualifier",
    0x88: "ACSE requirements", 0x89: "authentication mechanism", 0xAA: "responding authentication value",
    0xBE: "user information",
}  # fmt: skip
_CONTEXTS = {
    1: "logical names, plain", 2: "short names, plain", 3: "logical names, ciphered",
    4: "short names, ciphered",
}  # fmt: skip
_MECHANISMS = {
    0: "none", 1: "LLS", 2: "HLS 2 (manufacturer)", 3: "HLS 3 (MD5)", 4: "HLS 4 (SHA-1)",
    5: "HLS 5 (GMAC)", 6: "HLS 6 (SHA-256)", 7: "HLS 7 (ECDSA)",
}  # fmt: skip
_RESULTS = {0: "accepted", 1: "rejected for good", 2: "rejected for now"}
_RELEASE_REASONS = {0: "normal", 1: "urgent (not finished)", 30: "user defined"}
_LLS = 1

ExplainApdu = Callable[[Node, Cursor], None]
"""Explains the APDU inside the user information."""


def add_acse(
    node: Node, cursor: Cursor, explain_apdu: ExplainApdu, on_title: Callable[[bytes], None]
) -> None:
    """The elements of one ACSE APDU; `on_title` gets the sender's system title, before what it opens.

    Raises:
        DecodeError: what was read before stays in the tree.
    """
    tag = cursor.number(1, "tag")
    cursor.narrow(cursor.length(), "APDU")
    fields = (
        _REQUEST_FIELDS if tag == AARQ else _RESPONSE_FIELDS if tag == AARE else {0xBE: "user information"}
    )
    mechanism = 0
    while cursor.left:
        start = cursor.at
        element = cursor.number(1, "BER tag")
        contents, inside = cursor.octets("BER element")
        if element in (0x80, 0x81) and tag in (RLRQ, RLRE):
            reason = contents[0] if contents else 0
            node.add("reason", _RELEASE_REASONS.get(reason, str(reason)), start, cursor.at)
            continue
        child = node.add(fields.get(element, f"element {element:02X}"), "", start, cursor.at)
        if element == 0xBE:
            _user_information(child, Cursor(cursor.data, inside, cursor.at), explain_apdu)
            continue
        mechanism = contents[-1] if element in (0x8B, 0x89) and contents else mechanism
        if element in (0xA6, 0xA4):
            on_title(_inner(contents))
        child.text = _element_text(tag, element, contents, mechanism)


def _element_text(tag: int, element: int, contents: bytes, mechanism: int) -> str:
    last = contents[-1] if contents else 0
    if element == 0xA1:
        return _CONTEXTS.get(last, hex_text(contents))
    if element in (0x8B, 0x89):
        return _MECHANISMS.get(last, hex_text(contents))
    if tag == AARE and element == 0xA2:
        return _RESULTS.get(last, str(last))
    if tag == AARE and element == 0xA3:
        return _diagnostic(contents)
    inner = _inner(contents)
    if element == 0xAC and mechanism <= _LLS:
        return f"{len(inner)} bytes, a password, not shown"
    if element in (0xAC, 0xAA):
        return f"challenge of {len(inner)} bytes: {hex_text(inner, 64)}"
    return hex_text(inner)


def _inner(contents: bytes) -> bytes:
    """What stands inside an explicit tag."""
    return contents[2:] if len(contents) >= 2 and contents[1] == len(contents) - 2 else contents


def _diagnostic(contents: bytes) -> str:
    if not contents:
        return "missing"
    by_provider = contents[0] == 0xA2
    names = AcseServiceProviderDiagnostics if by_provider else AcseServiceUserDiagnostics
    try:
        text = str(names(contents[-1]).name).lower().replace("_", " ")
    except ValueError:
        text = str(contents[-1])
    return f"{text} (told by the {'provider' if by_provider else 'user'}, {contents[-1]})"


def _user_information(node: Node, cursor: Cursor, explain_apdu: ExplainApdu) -> None:
    if cursor.left and cursor.data[cursor.at] == 0x04:
        cursor.at += 1
        cursor.narrow(cursor.length(), "octet string")
    if cursor.left:
        explain_apdu(node, cursor)


def add_initiate_request(node: Node, cursor: Cursor) -> None:
    """An InitiateRequest behind its tag. Raises DecodeError."""
    start = cursor.at
    if cursor.number(1, "dedicated key"):
        key, _ = cursor.octets("dedicated key")
        node.add("dedicated key", f"{len(key)} bytes, not shown", start, cursor.at)
    if cursor.number(1, "response-allowed"):
        cursor.field(node, "response-allowed", 1)
    if cursor.number(1, "quality of service"):
        cursor.field(node, "proposed quality of service", 1)
    _context(node, cursor, "proposed")


def add_initiate_response(node: Node, cursor: Cursor) -> None:
    """An InitiateResponse behind its tag. Raises DecodeError."""
    if cursor.number(1, "quality of service"):
        cursor.field(node, "negotiated quality of service", 1)
    _context(node, cursor, "negotiated")
    if cursor.left >= 2:
        cursor.field(node, "VAA name", 2, lambda name: f"{name:04X}")


def _context(node: Node, cursor: Cursor, how: str) -> None:
    cursor.field(node, "DLMS version", 1)
    start = cursor.at
    block = cursor.take(7, "conformance block")
    if block[:3] != b"\x5f\x1f\x04":
        raise DecodeError("conformance block is missing", offset=start)
    node.add(f"{how} conformance", conformance_text(block[3:]), start, cursor.at)
    cursor.field(node, "largest PDU", 2, lambda size: f"{size} bytes" if size else "no limit")


def conformance_text(block: bytes) -> str:
    """The services in a conformance block of four bytes, in words."""
    return ", ".join(conformance_names(Conformance.from_bytes(block))) or "nothing"


def conformance_names(conformance: Conformance) -> list[str]:
    """The services that are offered."""
    return [
        name.replace("_", " ") for name in Conformance.conformance_bit_position if getattr(conformance, name)
    ]
