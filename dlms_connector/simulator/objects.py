"""COSEM objects as a server holds them: what can be read, written and executed, and how that is listed.

One model serves any number of meters: an attribute is bytes that never change, or a function of the meter.
Blue Book: interface classes; clause 4.4.4 for the object list and its access rights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

from dlms_connector.cosem.values import DataType, TypedValue, array, encode, structure
from dlms_connector.obis import Obis

MeterT = TypeVar("MeterT")

Reader = bytes | Callable[[MeterT], bytes]
Selector = Callable[[MeterT, int, TypedValue], bytes]
Writer = Callable[[MeterT, TypedValue], None]
Method = Callable[[MeterT, TypedValue | None], bytes | None]


class AccessResult(IntEnum):
    """Data-access-result (Green Book 9.5)."""

    SUCCESS = 0
    HARDWARE_FAULT = 1
    TEMPORARY_FAILURE = 2
    READ_WRITE_DENIED = 3
    OBJECT_UNDEFINED = 4
    OBJECT_CLASS_INCONSISTENT = 9
    OBJECT_UNAVAILABLE = 11
    TYPE_UNMATCHED = 12
    SCOPE_OF_ACCESS_VIOLATED = 13
    DATA_BLOCK_UNAVAILABLE = 14
    LONG_GET_ABORTED = 15
    NO_LONG_GET_IN_PROGRESS = 16
    DATA_BLOCK_NUMBER_INVALID = 19
    OTHER_REASON = 250


class Refused(Exception):
    """The object says no; `code` is a data-access-result or an action-result."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


@dataclass
class CosemObject(Generic[MeterT]):
    """One object; attribute 1 (logical name) is added by the model.

    `selectors` are the attributes with selective access and the selectors that each of them understands.
    """

    class_id: int
    obis: Obis
    attributes: Mapping[int, Reader[MeterT]]
    version: int = 0
    writers: Mapping[int, Writer[MeterT]] = field(default_factory=dict)
    selective: Mapping[int, tuple[tuple[int, ...], Selector[MeterT]]] = field(default_factory=dict)
    methods: Mapping[int, Method[MeterT]] = field(default_factory=dict)

    def list_element(self) -> TypedValue:
        """One element of an association's object list."""
        readable = {1, *self.attributes}
        attributes = [self._attribute_access(index) for index in sorted(readable | set(self.writers))]
        methods = [structure(_int8(index), _enum(1)) for index in sorted(self.methods)]
        return structure(
            TypedValue(DataType.UINT16, self.class_id),
            TypedValue(DataType.UINT8, self.version),
            TypedValue(DataType.OCTET_STRING, self.obis.to_bytes()),
            structure(array(attributes), array(methods)),
        )

    def _attribute_access(self, index: int) -> TypedValue:
        readable = index == 1 or index in self.attributes
        mode = (1 if readable else 0) | (2 if index in self.writers else 0)
        selectors = TypedValue(DataType.NULL, None)
        if index in self.selective:
            selectors = array([_int8(selector) for selector in self.selective[index][0]])
        return structure(_int8(index), _enum(mode), selectors)


class ObjectModel(Generic[MeterT]):
    """Everything a kind of meter has, found by the nine bytes of an attribute or method descriptor."""

    def __init__(self) -> None:
        self.objects: dict[bytes, CosemObject[MeterT]] = {}
        self.readers: dict[bytes, Reader[MeterT]] = {}
        self._names: set[bytes] = set()

    def add(self, item: CosemObject[MeterT]) -> None:
        name = item.obis.to_bytes()
        key = item.class_id.to_bytes(2, "big") + name
        self.objects[key] = item
        self._names.add(name)
        self.readers[key + b"\x01"] = b"\x09\x06" + name
        for index, reader in item.attributes.items():
            self.readers[key + bytes((index,))] = reader

    def why_absent(self, descriptor: bytes) -> AccessResult:
        """The code for a descriptor that has no reader, writer or method."""
        if descriptor[:8] in self.objects:
            return AccessResult.READ_WRITE_DENIED
        if descriptor[2:8] in self._names:
            return AccessResult.OBJECT_CLASS_INCONSISTENT
        return AccessResult.OBJECT_UNDEFINED

    def object_of(self, descriptor: bytes) -> CosemObject[MeterT]:
        """The object of a descriptor. Raises Refused."""
        item = self.objects.get(descriptor[:8])
        if item is None:
            raise Refused(self.why_absent(descriptor))
        return item

    def object_list(self) -> bytes:
        """Attribute 2 of the association object, encoded."""
        return encode(array([item.list_element() for item in self.objects.values()]))


def descriptor(class_id: int, obis: Obis | str, attribute: int) -> bytes:
    """The nine bytes by which a request names an attribute or a method."""
    name = Obis.parse(obis) if isinstance(obis, str) else obis
    return class_id.to_bytes(2, "big") + name.to_bytes() + bytes((attribute,))


def _int8(value: int) -> TypedValue:
    return TypedValue(DataType.INT8, value)


def _enum(value: int) -> TypedValue:
    return TypedValue(DataType.ENUM, value)
