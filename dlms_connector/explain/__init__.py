"""Bytes of any layer explained as a tree, for people: never raises for what the bytes are."""

from __future__ import annotations

from dlms_connector.cosem.values import decode_all
from dlms_connector.errors import DecodeError
from dlms_connector.explain.apdu import KNOWN_TAGS, ApduExplainer
from dlms_connector.explain.ciphered import Keys
from dlms_connector.explain.frames import FrameExplainer
from dlms_connector.explain.tree import Cursor, Describe, Node, add_value
from dlms_connector.framing.frames import FLAG
from dlms_connector.io.hdlc import LLC_COMMAND, LLC_RESPONSE
from dlms_connector.io.wrapper import HEADER_BYTES

__all__ = ["Keys", "Node", "explain"]

_AMBIGUOUS_TAGS = frozenset((0x01, 0x0F))
"""An array or an InitiateRequest; an int8 or a data-notification."""
_HIGHEST_DATA_TAG = 33


def explain(data: bytes, describe: Describe, keys: Keys | None = None) -> Node:
    """The tree of HDLC frames, wrapper messages, an APDU (with or without LLC header), or bare A-XDR data.

    What cannot be read is a fault in the tree, with the offset of its byte.
    """
    kind = _kind(data)
    root = Node(kind, f"{len(data)} bytes", 0, len(data))
    apdus = ApduExplainer(keys or Keys(), describe)
    try:
        if kind == "HDLC":
            FrameExplainer(apdus).hdlc(root, data)
        elif kind == "wrapper":
            FrameExplainer(apdus).wrapper(root, data)
        elif kind == "APDU":
            FrameExplainer(apdus).llc(root, data, 0, len(data))
        elif kind == "A-XDR data":
            cursor = Cursor(data)
            while cursor.left:
                add_value(root, cursor, describe)
        else:
            root.fail(
                f"byte {data[0]:02X} begins no HDLC frame, wrapper message, APDU or A-XDR value", 0
            ) if data else root.fail("there are no bytes", 0)
    except DecodeError as error:
        root.fail(error.message, error.offset)
    return root


def _kind(data: bytes) -> str:
    if not data:
        return "nothing"
    first = data[0]
    if first == FLAG:
        return "HDLC"
    if data[:3] in (LLC_COMMAND, LLC_RESPONSE):
        return "APDU"
    if data[:2] == b"\x00\x01" and len(data) >= HEADER_BYTES:
        return "wrapper"
    if first in _AMBIGUOUS_TAGS and _is_data(data):
        return "A-XDR data"
    if first in KNOWN_TAGS:
        return "APDU"
    return "A-XDR data" if first <= _HIGHEST_DATA_TAG or first == 0xFF else "unknown bytes"


def _is_data(data: bytes) -> bool:
    try:
        decode_all(data)
    except DecodeError:
        return False
    return True
