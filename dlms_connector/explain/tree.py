"""The explained tree: what stands where in the bytes, as far as they could be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dlms_connector.cosem.values import MAX_DEPTH, DataType, Value, decode, read_length
from dlms_connector.errors import DecodeError

Describe = Callable[[Value], str]
"""Puts a decoded value into words."""

MAX_ITEMS_SHOWN = 100


@dataclass(slots=True)
class Node:
    """A stretch of bytes with its meaning; `start` and `end` count from the beginning of its buffer."""

    label: str
    text: str = ""
    start: int = 0
    end: int = 0
    is_fault: bool = False
    children: list[Node] = field(default_factory=list)

    def add(self, label: str, text: str = "", start: int = 0, end: int = 0) -> Node:
        """A child."""
        child = Node(label, text, start, end)
        self.children.append(child)
        return child

    def fail(self, message: str, offset: int) -> None:
        """Note what is wrong, where."""
        self.children.append(Node("fault", message, offset, offset, is_fault=True))

    @property
    def has_fault(self) -> bool:
        """Anywhere below."""
        return self.is_fault or any(child.has_fault for child in self.children)


class Cursor:
    """A position in a buffer that never goes behind its end.

    Every method raises DecodeError, with the offset of the byte that is missing or wrong.
    """

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data[:end]
        self.at = at
        self.end = len(self.data)

    @property
    def left(self) -> int:
        return self.end - self.at

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise DecodeError(f"{what}: {count} bytes expected, {self.left} are left", offset=self.at)
        start, self.at = self.at, self.at + count
        return self.data[start : self.at]

    def narrow(self, length: int, what: str) -> None:
        """End after `length` more bytes."""
        if length > self.left:
            raise DecodeError(f"{what}: {length} bytes announced, {self.left} are left", offset=self.at)
        self.end = self.at + length
        self.data = self.data[: self.end]

    def number(self, count: int, what: str) -> int:
        """The next bytes as an unsigned number."""
        return int.from_bytes(self.take(count, what), "big")

    def length(self) -> int:
        """An A-XDR or BER length."""
        length, self.at = read_length(self.data, self.at)
        return length

    def octets(self, what: str) -> tuple[bytes, int]:
        """A length and as many bytes: `(bytes, offset of the first)`."""
        size = self.length()
        start = self.at
        return self.take(size, what), start

    def field(self, node: Node, label: str, count: int, text: Callable[[int], str] = str) -> int:
        """The next bytes as a number, with a child that says so."""
        start = self.at
        number = self.number(count, label)
        node.add(label, text(number), start, self.at)
        return number


def hex_text(data: bytes, limit: int = 32) -> str:
    """Hexadecimal, cut after `limit` bytes."""
    text = data[:limit].hex(" ").upper()
    return text if len(data) <= limit else f"{text} ... ({len(data)} bytes)"


def add_value(node: Node, cursor: Cursor, describe: Describe, label: str = "value", depth: int = 0) -> None:
    """One A-XDR value with its tag; arrays and structures with their elements.

    Raises:
        DecodeError: what was read before stays in the tree.
    """
    start = cursor.at
    tag = cursor.number(1, label)
    if tag not in (DataType.ARRAY, DataType.STRUCTURE):
        value, end = decode(cursor.data, start)
        cursor.at = end
        node.add(label, f"{type_text(tag)} {describe(value)}", start, end)
        return
    if depth >= MAX_DEPTH:
        raise DecodeError(f"nested deeper than {MAX_DEPTH}", offset=start)
    count = cursor.length()
    child = node.add(label, f"{type_text(tag)} of {count}", start, cursor.at)
    if count > cursor.left:
        raise DecodeError(f"{count} elements claimed in {cursor.left} bytes", offset=start)
    for index in range(count):
        if index < MAX_ITEMS_SHOWN:
            add_value(child, cursor, describe, f"[{index}]", depth + 1)
        else:
            cursor.at = decode(cursor.data, cursor.at)[1]
    if count > MAX_ITEMS_SHOWN:
        child.add("...", f"{count - MAX_ITEMS_SHOWN} more elements")
    child.end = cursor.at


def type_text(tag: int) -> str:
    """The type's name as the Green Book writes it."""
    try:
        return DataType(tag).name.lower().replace("_", "-")
    except ValueError:
        return f"type {tag}"
