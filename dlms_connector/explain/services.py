"""The bodies of GET, SET and ACTION requests and responses, by type (Green Book 9.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dlms_connector.config.catalogue import name_of
from dlms_connector.cosem.classes import class_text
from dlms_connector.cosem.enumerations import ActionResultStatus, DataAccessResult
from dlms_connector.errors import DecodeError
from dlms_connector.explain.tree import Cursor, Describe, Node, add_value, hex_text
from dlms_connector.obis import Obis


class Parts(NamedTuple):
    """Where the body goes, where it comes from, and how values are told."""

    node: Node
    cursor: Cursor
    describe: Describe


def add_descriptor(node: Node, cursor: Cursor, member: str = "attribute") -> None:
    """Class, logical name and attribute or method. Raises DecodeError."""
    start = cursor.at
    class_id = cursor.number(2, "class")
    obis = Obis.from_bytes(cursor.take(6, "logical name"))
    number = cursor.number(1, member)
    name = name_of(obis)
    text = f"{obis}{f' ({name})' if name else ''}, class {class_text(class_id)}, {member} {number}"
    node.add("object", text, start, cursor.at)


def _attribute(parts: Parts) -> None:
    add_descriptor(parts.node, parts.cursor)
    if parts.cursor.number(1, "selective access"):
        start = parts.cursor.at
        selector = parts.cursor.number(1, "selector")
        kind = {1: "by range", 2: "by entry"}.get(selector, "")
        child = parts.node.add("selective access", f"{selector} {kind}".rstrip(), start, start)
        add_value(child, parts.cursor, parts.describe, "parameters")
        child.end = parts.cursor.at


def _method(parts: Parts) -> None:
    add_descriptor(parts.node, parts.cursor, "method")


def _value(parts: Parts) -> None:
    add_value(parts.node, parts.cursor, parts.describe)


def _repeated(parts: Parts, label: str, item: Callable[[Parts], None]) -> None:
    count = parts.cursor.length()
    if count > parts.cursor.left:
        raise DecodeError(f"{count} elements claimed in {parts.cursor.left} bytes", offset=parts.cursor.at)
    for index in range(count):
        start = parts.cursor.at
        child = parts.node.add(f"{label} {index + 1} of {count}", "", start, start)
        item(Parts(child, parts.cursor, parts.describe))
        child.end = parts.cursor.at


def _next_block(parts: Parts) -> None:
    parts.cursor.field(parts.node, "block number", 4)


def _block(parts: Parts) -> None:
    """last-block, number and raw data that begins or ends anywhere in the value."""
    _block_head(parts)
    start = parts.cursor.at
    data, _ = parts.cursor.octets("block data")
    parts.node.add("block data, part of a value", hex_text(data), start, parts.cursor.at)


def _block_head(parts: Parts) -> None:
    parts.cursor.field(parts.node, "last block", 1, lambda flag: "yes" if flag else "no")
    _next_block(parts)


def _get_block(parts: Parts) -> None:
    _block_head(parts)
    if parts.cursor.number(1, "result"):
        _access_result(parts)
        return
    start = parts.cursor.at
    data, _ = parts.cursor.octets("block data")
    parts.node.add("block data, part of a value", hex_text(data), start, parts.cursor.at)


def _get_result(parts: Parts) -> None:
    at = parts.cursor.at
    choice = parts.cursor.number(1, "result")
    if choice == 0:
        _value(parts)
    elif choice == 1:
        _access_result(parts)
    else:
        raise DecodeError("get-data-result is neither data nor a result", offset=at)


def _access_result(parts: Parts) -> None:
    parts.cursor.field(parts.node, "data-access-result", 1, lambda code: _result_text(code, DataAccessResult))


def _result_text(code: int, names: type[DataAccessResult] | type[ActionResultStatus]) -> str:
    try:
        return f"{code} {str(names(code).name).lower().replace('_', ' ')}"
    except ValueError:
        return str(code)


def _action_parameter(parts: Parts) -> None:
    _method(parts)
    if parts.cursor.number(1, "parameter"):
        add_value(parts.node, parts.cursor, parts.describe, "parameter")


def _action_result(parts: Parts) -> None:
    parts.cursor.field(parts.node, "action-result", 1, lambda code: _result_text(code, ActionResultStatus))
    if parts.cursor.left and parts.cursor.number(1, "return parameters"):
        _get_result(parts)


def _attributes(parts: Parts) -> None:
    _repeated(parts, "attribute", _attribute)


def _set_list(parts: Parts) -> None:
    _attributes(parts)
    _repeated(parts, "value", _value)


def _set_last(parts: Parts) -> None:
    _access_result(parts)
    _next_block(parts)


def _set_last_list(parts: Parts) -> None:
    _repeated(parts, "result", _access_result)
    _next_block(parts)


def _action_list(parts: Parts) -> None:
    _repeated(parts, "method", _method)
    _repeated(parts, "parameter", _value)


def _both(first: Callable[[Parts], None], second: Callable[[Parts], None]) -> Callable[[Parts], None]:
    def body(parts: Parts) -> None:
        first(parts)
        second(parts)

    return body


_Kinds = dict[int, tuple[str, Callable[[Parts], None]]]
KINDS: dict[int, _Kinds] = {
    0xC0: {
        1: ("normal", _attribute),
        2: ("next block", _next_block),
        3: ("with list", _attributes),
    },
    0xC1: {
        1: ("normal", _both(_attribute, _value)),
        2: ("with first block", _both(_attribute, _block)),
        3: ("with block", _block),
        4: ("with list", _set_list),
        5: ("with list and first block", _both(_attributes, _block)),
    },
    0xC3: {
        1: ("normal", _action_parameter),
        2: ("next block", _next_block),
        3: ("with list", _action_list),
        4: ("with first block", _both(_method, _block)),
        5: ("with list and first block", _both(lambda parts: _repeated(parts, "method", _method), _block)),
        6: ("with block", _block),
    },
    0xC4: {
        1: ("normal", _get_result),
        2: ("with data block", _get_block),
        3: ("with list", lambda parts: _repeated(parts, "result", _get_result)),
    },
    0xC5: {
        1: ("normal", _access_result),
        2: ("block taken", _next_block),
        3: ("last block", _set_last),
        4: ("last block of a list", _set_last_list),
        5: ("with list", lambda parts: _repeated(parts, "result", _access_result)),
    },
    0xC7: {
        1: ("normal", _action_result),
        2: ("with block", _block),
        3: ("with list", lambda parts: _repeated(parts, "result", _action_result)),
        4: ("next block", _next_block),
    },
}
"""Tag of the service -> type -> its name and the reader of its body."""
