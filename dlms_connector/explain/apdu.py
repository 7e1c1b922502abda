"""xDLMS APDUs explained: GET, SET, ACTION, notifications, exceptions, ciphered ones (Green Book 9.3, 9.5)."""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.cosem.exceptions import SERVICE_ERRORS, STATE_ERRORS
from dlms_connector.cosem.security import (
    CIPHERED_TAGS,
    DEDICATED_TAGS,
    GENERAL_DED,
    GENERAL_GLO,
    PLAIN_TAG_OF,
)
from dlms_connector.errors import DecodeError
from dlms_connector.explain import acse, services
from dlms_connector.explain.ciphered import Keys, add_ciphered
from dlms_connector.explain.tree import Cursor, Describe, Node, add_value, hex_text

_PLAIN_NAMES = {
    0x01: "InitiateRequest", 0x08: "InitiateResponse", 0x0E: "confirmedServiceError",
    0x0F: "data-notification", 0xC0: "get-request", 0xC1: "set-request", 0xC2: "event-notification",
    0xC3: "action-request", 0xC4: "get-response", 0xC5: "set-response", 0xC7: "action-response",
    0xD8: "exception-response", 0xE0: "general-block-transfer",
}  # fmt: skip
_SERVICES = frozenset((0xC0, 0xC1, 0xC3, 0xC4, 0xC5, 0xC7))
KNOWN_TAGS = frozenset(_PLAIN_NAMES) | frozenset(acse.NAMES) | CIPHERED_TAGS
_MAX_LAYERS = 4
_PRIORITY, _CONFIRMED = 0x80, 0x40
_COUNTER_ERROR = 6


class ApduExplainer:
    """Explains the APDUs of one conversation, one after the other; remembers the system titles it sees.

    Args:
        keys: opens ciphered APDUs.
        describe: puts a decoded value into words.
    """

    def __init__(self, keys: Keys, describe: Describe) -> None:
        self._keys = keys
        self._describe = describe
        self._titles: list[bytes] = list(keys.titles)
        self._layers = 0

    def explain(self, node: Node, data: bytes, start: int = 0, end: int | None = None) -> None:
        """Add the APDU that is `data[start:end]`; what is wrong stands in the tree, nothing is raised."""
        cursor = Cursor(data, start, end)
        try:
            self._add(node, cursor)
            if cursor.left:
                rest = cursor.data[cursor.at :]
                node.add("bytes behind the APDU", hex_text(rest), cursor.at, cursor.end)
        except DecodeError as error:
            node.fail(error.message, error.offset)

    def _add(self, node: Node, cursor: Cursor) -> None:
        start = cursor.at
        tag = cursor.number(1, "APDU tag")
        child = node.add(_name(tag), "", start, cursor.end)
        if tag in acse.NAMES:
            cursor.at = start
            acse.add_acse(child, cursor, self._add, lambda title: self._titles.insert(0, title))
        elif tag in CIPHERED_TAGS:
            self._add_ciphered(child, cursor, tag)
        elif tag in _SERVICES:
            self._add_service(child, cursor, tag)
        elif tag in self._OTHERS:
            self._OTHERS[tag](self, child, cursor)
        else:
            raise DecodeError(f"{tag:02X} is the tag of no APDU known here", offset=start)
        child.end = cursor.at

    def _add_ciphered(self, node: Node, cursor: Cursor, tag: int) -> None:
        self._layers += 1
        if self._layers > _MAX_LAYERS:
            raise DecodeError("ciphered again and again", offset=cursor.at)
        plain = add_ciphered(node, cursor, self._keys, self._titles, dedicated=tag in DEDICATED_TAGS)
        if plain is not None:
            inside = node.add(
                "under the ciphering", f"{len(plain)} bytes, counted anew from 0", 0, len(plain)
            )
            self.explain(inside, plain)
        self._layers -= 1

    def _add_service(self, node: Node, cursor: Cursor, tag: int) -> None:
        kinds = services.KINDS[tag]
        at = cursor.at
        kind = cursor.number(1, "type")
        if kind not in kinds:
            raise DecodeError(f"{_PLAIN_NAMES[tag]} of type {kind}", offset=at)
        node.text = kinds[kind][0]
        cursor.field(node, "invoke-id and priority", 1, _invoke_text)
        kinds[kind][1](services.Parts(node, cursor, self._describe))

    def _data_notification(self, node: Node, cursor: Cursor) -> None:
        cursor.field(node, "long invoke-id and priority", 4, lambda number: f"{number:08X}")
        start = cursor.at
        moment, _ = cursor.octets("date-time")
        node.add("date-time", self._describe(moment) if moment else "none", start, cursor.at)
        add_value(node, cursor, self._describe)

    def _event_notification(self, node: Node, cursor: Cursor) -> None:
        if cursor.number(1, "time"):
            start = cursor.at
            moment, _ = cursor.octets("time")
            node.add("time", self._describe(moment), start, cursor.at)
        services.add_descriptor(node, cursor)
        add_value(node, cursor, self._describe)

    def _general_block(self, node: Node, cursor: Cursor) -> None:
        cursor.field(node, "block control", 1, lambda byte: f"{byte:02X}{', last' if byte & 0x80 else ''}")
        cursor.field(node, "block number", 2)
        cursor.field(node, "block number acknowledged", 2)
        start = cursor.at
        data, _ = cursor.octets("block data")
        node.add("block data", hex_text(data), start, cursor.at)

    def _exception(self, node: Node, cursor: Cursor) -> None:
        cursor.field(node, "state error", 1, lambda code: STATE_ERRORS.get(code, str(code)))
        error = cursor.field(node, "service error", 1, lambda code: SERVICE_ERRORS.get(code, str(code)))
        if error == _COUNTER_ERROR and cursor.left >= 4:
            cursor.field(node, "the meter's invocation counter", 4)

    def _service_error(self, node: Node, cursor: Cursor) -> None:
        cursor.field(
            node, "service", 1, lambda code: {1: "initiate", 5: "read", 6: "write"}.get(code, str(code))
        )
        cursor.field(node, "error class", 1)
        cursor.field(node, "error", 1)

    _OTHERS: dict[int, Callable[[ApduExplainer, Node, Cursor], None]] = {  # noqa: RUF012 - never changed
        0x01: lambda _, node, cursor: acse.add_initiate_request(node, cursor),
        0x08: lambda _, node, cursor: acse.add_initiate_response(node, cursor),
        0x0E: _service_error,
        0x0F: _data_notification,
        0xC2: _event_notification,
        0xD8: _exception,
        0xE0: _general_block,
    }


def _name(tag: int) -> str:
    if tag in acse.NAMES:
        return acse.NAMES[tag]
    if tag in _PLAIN_NAMES:
        return _PLAIN_NAMES[tag]
    if tag in (GENERAL_GLO, GENERAL_DED):
        return "general-glo-ciphering" if tag == GENERAL_GLO else "general-ded-ciphering"
    if tag in PLAIN_TAG_OF:
        style = "ded" if tag in DEDICATED_TAGS else "glo"
        return f"{style}-{_PLAIN_NAMES[PLAIN_TAG_OF[tag]]}"
    return f"tag {tag:02X}"


def _invoke_text(byte: int) -> str:
    priority = "high" if byte & _PRIORITY else "normal"
    service = "confirmed" if byte & _CONFIRMED else "unconfirmed"
    return f"{byte:02X}: invoke-id {byte & 0x0F}, {service}, {priority} priority"
