"""GET, SET and ACTION on an association: single, with list, by blocks (Green Book 9.3, 9.5).

Requests are encoded once (`get_request`, `ListRequest`) and sent as often as wanted: only the invoke-id
changes, and `Association.request` sees to that. Answers are decoded straight from the APDU.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from dlms_connector.cosem.association import Association
from dlms_connector.cosem.exceptions import action_error, object_error
from dlms_connector.cosem.values import (
    NUMBER_FORMATS,
    TypedValue,
    Value,
    decode,
    encode,
    encode_length,
    read_length,
)
from dlms_connector.errors import DecodeError, InvalidAnswer, ObjectError, ProtocolError
from dlms_connector.obis import Obis

MAX_TRANSFER_BYTES = 16 * 1024 * 1024
_GET_RESPONSE, _SET_RESPONSE, _ACTION_RESPONSE = 0xC4, 0xC5, 0xC7
_BLOCK_OVERHEAD_BYTES = 32
_LIST_HEAD_BYTES = 3
_MAX_LAYOUTS = 8


class AttributeRef(NamedTuple):
    """One attribute (or method) of one COSEM object."""

    class_id: int
    obis: Obis
    attribute: int

    def to_bytes(self) -> bytes:
        return self.class_id.to_bytes(2, "big") + self.obis.to_bytes() + bytes((self.attribute,))

    def __str__(self) -> str:
        return f"{self.obis} (class {self.class_id}, attribute {self.attribute})"


class Selection(NamedTuple):
    """Selective access: selector and its parameters, encoded as A-XDR."""

    selector: int
    parameters: TypedValue

    def to_bytes(self) -> bytes:
        return bytes((self.selector,)) + encode(self.parameters)


def get_request(ref: AttributeRef, selection: Selection | None = None) -> bytes:
    """A GET-request-normal, ready for `get`."""
    tail = b"\x00" if selection is None else b"\x01" + selection.to_bytes()
    return b"\xc0\x01\xc1" + ref.to_bytes() + tail


class _Layout(NamedTuple):
    """An answer that holds numbers alone, as one `struct`: what is constant in it, and the values in between."""

    unpack: Callable[[bytes], tuple[Any, ...]]
    constants: tuple[bytes, ...]


def _layout_of(answer: bytes, count: int) -> _Layout | None:
    """The layout of a well-formed get-response-with-list, None unless it holds numbers alone."""
    offset = _LIST_HEAD_BYTES + len(encode_length(count))
    texts, constants, begin = [">3x"], [], _LIST_HEAD_BYTES
    for _ in range(count):
        text = NUMBER_FORMATS.get(answer[offset + 1]) if answer[offset] == 0 else None
        if text is None:
            return None
        offset += 2
        constants.append(answer[begin:offset])
        texts += [f"{offset - begin}s", text]
        begin = offset = offset + struct.calcsize(">" + text)
    return _Layout(struct.Struct("".join(texts)).unpack, tuple(constants)) if offset == len(answer) else None


class ListRequest:
    """A GET-request-with-list over `refs`, encoded once; it learns how the answers look.

    Most answers of a meter differ from the one before in their numbers alone. Their layout is kept by their length,
    and an answer that fits it in every other byte is taken apart in one step.
    """

    __slots__ = ("_layouts", "apdu", "refs")

    def __init__(self, refs: Sequence[AttributeRef]) -> None:
        self.refs = tuple(refs)
        items = b"".join(ref.to_bytes() + b"\x00" for ref in refs)
        self.apdu = b"\xc0\x03\xc1" + encode_length(len(self.refs)) + items
        self._layouts: dict[int, _Layout | None] = {}

    def decode(self, answer: bytes) -> list[Value | ObjectError]:
        """The results in a get-response-with-list. Raises InvalidAnswer."""
        size_bytes = len(answer)
        layout = self._layouts.get(size_bytes)
        if layout is not None:
            fields = layout.unpack(answer)
            if fields[::2] == layout.constants:  # else a choice, a type or the count is another than then
                return list(fields[1::2])
        results = _split_list(answer, _LIST_HEAD_BYTES, self.refs)
        if size_bytes not in self._layouts and len(self._layouts) < _MAX_LAYOUTS:
            self._layouts[size_bytes] = _layout_of(answer, len(self.refs))
        return results

    @staticmethod
    def size_bytes(count: int) -> int:
        """Length of the request for `count` attributes."""
        return 3 + len(encode_length(count)) + 10 * count


def get(association: Association, ref: AttributeRef, selection: Selection | None = None) -> Value:
    """Read one attribute.

    Raises:
        ObjectError: the meter refused this object, or its value cannot be decoded; the association stands.
        ServiceRefused, ProtocolError, LinkError.
    """
    return _decoded(get_raw(association, get_request(ref, selection), ref), 0, ref)


def get_prepared(association: Association, request: bytes, ref: AttributeRef) -> Value:
    """Read one attribute with a request from `get_request`; errors as in `get`."""
    answer = association.request(request, _GET_RESPONSE)
    offset = 0
    if answer[1] == 1:
        offset = _data_at(answer, 3, ref)
    else:
        answer = _collect_blocks(association, answer, ref)
    try:  # as `_decoded`, on the hot path
        return decode(answer, offset)[0]
    except DecodeError as error:
        raise InvalidAnswer(f"{ref}: {error.message}") from error


def _decoded(data: bytes, offset: int, ref: AttributeRef) -> Value:
    """The value; one that cannot be decoded costs its object alone, since the answer itself came whole."""
    try:
        return decode(data, offset)[0]
    except DecodeError as error:
        raise InvalidAnswer(f"{ref}: {error.message}") from error


def get_raw(association: Association, request: bytes, ref: AttributeRef) -> bytes:
    """Read one attribute as its encoded A-XDR data."""
    answer = association.request(request, _GET_RESPONSE)
    if answer[1] == 1:
        return answer[_data_at(answer, 3, ref) :]
    return _collect_blocks(association, answer, ref)


def get_list(association: Association, request: ListRequest) -> list[Value | ObjectError]:
    """Read many attributes: for each its value, or the ObjectError that the meter gave for it.

    Raises:
        ServiceRefused: the meter does not do lists.
        InvalidAnswer: fewer or more results than asked for, or one that cannot be decoded.
    """
    answer = association.request(request.apdu, _GET_RESPONSE)
    if answer[1] == 3:
        return request.decode(answer)
    if answer[1] == 2:
        return _split_list(_collect_blocks(association, answer, None), 0, request.refs)
    if answer[1] == 1 and len(answer) >= 5 and answer[3] == 1:
        # Some meters refuse the whole list with a single result.
        raise object_error(answer[4], "GET-with-list")
    raise ProtocolError(f"get-response of type {answer[1]} to a list")


def _split_list(data: bytes, offset: int, refs: Sequence[AttributeRef]) -> list[Value | ObjectError]:
    try:
        return _list_results(data, offset, refs)
    except DecodeError as error:
        raise InvalidAnswer(f"the answer to a list of {len(refs)} attributes: {error.message}") from error


def _list_results(data: bytes, offset: int, refs: Sequence[AttributeRef]) -> list[Value | ObjectError]:
    count, offset = read_length(data, offset)
    if count != len(refs):
        raise InvalidAnswer(f"{count} results for a list of {len(refs)} attributes")
    results: list[Value | ObjectError] = []
    for ref in refs:
        result, offset = _list_result(data, offset, ref)
        results.append(result)
    if offset < len(data) and _is_result(data, offset):
        # One result too many shifts all others, wherever it stands: nobody knows which belongs to whom.
        raise InvalidAnswer(f"more results than the {len(refs)} attributes of the list")
    return results


def _list_result(data: bytes, offset: int, ref: AttributeRef) -> tuple[Value | ObjectError, int]:
    choice = data[offset] if offset < len(data) else -1
    if choice == 0:
        return decode(data, offset + 1)
    if choice == 1 and offset + 1 < len(data):
        return object_error(data[offset + 1], str(ref)), offset + 2
    raise DecodeError("get-data-result is neither data nor a result", offset=offset)


def _is_result(data: bytes, offset: int) -> bool:
    """Whether what stands behind the results looks like one more of them, and not like padding."""
    if not any(data[offset:]):
        return False
    try:
        _, end = _list_result(data, offset, AttributeRef(0, Obis(0, 0, 0, 0, 0), 0))
    except DecodeError:
        return False
    return end == len(data) or data[end] in (0, 1)


def _data_at(answer: bytes, offset: int, ref: AttributeRef) -> int:
    choice = answer[offset] if offset + 1 < len(answer) else -1
    if choice == 0:
        return offset + 1
    if choice == 1:
        raise object_error(answer[offset + 1], str(ref))
    raise DecodeError("get-data-result is neither data nor a result", offset=offset)


def _collect_blocks(association: Association, answer: bytes, ref: AttributeRef | None) -> bytes:
    """Take a first get-response-with-datablock and fetch the rest; gives the joined raw data."""
    parts: list[bytes] = []
    size = 0
    previous: int | None = None
    while True:
        if answer[1] != 2:
            raise ProtocolError(f"get-response of type {answer[1]} inside a block transfer")
        last, number, data = _read_get_block(answer, ref)
        # The first block is number 1; some meters count from 0.
        if (previous is None and number > 1) or (previous is not None and number != previous + 1):
            raise ProtocolError(f"block {number} after block {previous}")
        size += len(data)
        if size > MAX_TRANSFER_BYTES:
            raise ProtocolError(f"block transfer of more than {MAX_TRANSFER_BYTES} bytes")
        parts.append(data)
        if last:
            return b"".join(parts)
        previous = number
        answer = association.request(b"\xc0\x02\xc1" + number.to_bytes(4, "big"), _GET_RESPONSE)


def _read_get_block(answer: bytes, ref: AttributeRef | None) -> tuple[bool, int, bytes]:
    if len(answer) < 10:
        raise DecodeError("data block is truncated", offset=len(answer))
    if answer[8] == 1:
        raise object_error(answer[9], str(ref) if ref else "GET-with-list")
    if answer[8] != 0:
        raise DecodeError("data block is neither data nor a result", offset=8)
    length, start = read_length(answer, 9)
    if start + length > len(answer):
        raise DecodeError(f"data block of {length} bytes is truncated", offset=9)
    return answer[3] != 0, int.from_bytes(answer[4:8], "big"), answer[start : start + length]


def set_attribute(association: Association, ref: AttributeRef, value: TypedValue) -> None:
    """Write one attribute, by blocks where it does not fit the meter's PDU.

    Raises:
        ObjectError: the meter refused; the association stands.
    """
    data = encode(value)
    head = ref.to_bytes() + b"\x00"
    limit = association.max_request_bytes
    if not limit or len(head) + len(data) + 3 + association.overhead_bytes <= limit:
        answer = association.request(b"\xc1\x01\xc1" + head + data, _SET_RESPONSE)
        _check_set(answer, ref, 1)
        return
    room = _block_room(association, len(head))
    blocks = [data[at : at + room] for at in range(0, len(data), room)]
    for number, block in enumerate(blocks, 1):
        last = number == len(blocks)
        kind = b"\xc1\x02\xc1" + head if number == 1 else b"\xc1\x03\xc1"
        answer = association.request(kind + _block(number, block, last), _SET_RESPONSE)
        if last:
            _check_set(answer, ref, 3)
        else:
            _check_acknowledged(answer, 2, number, ref)


def _check_set(answer: bytes, ref: AttributeRef, expected_type: int) -> None:
    if len(answer) < 4 or answer[1] not in (1, expected_type):
        raise ProtocolError(f"set-response of type {answer[1]}, expected {expected_type}")
    if answer[3] != 0:
        raise object_error(answer[3], str(ref))


def _check_acknowledged(answer: bytes, expected_type: int, number: int, ref: AttributeRef) -> None:
    if answer[1] in (1, 3) and len(answer) >= 4 and answer[3] != 0:
        raise object_error(answer[3], str(ref))
    if answer[1] != expected_type or answer[3:7] != number.to_bytes(4, "big"):
        raise ProtocolError(f"block {number} was not acknowledged (answer type {answer[1]})")


def execute(association: Association, ref: AttributeRef, parameter: TypedValue | None = None) -> Value:
    """Invoke a method (`ref.attribute` is its number); gives the returned data, None without any.

    Raises:
        ObjectError: the meter refused; the association stands.
    """
    data = b"" if parameter is None else encode(parameter)
    head = ref.to_bytes()
    presence = b"\x01" if data else b"\x00"
    limit = association.max_request_bytes
    if not limit or len(head) + len(data) + 4 + association.overhead_bytes <= limit:
        answer = association.request(b"\xc3\x01\xc1" + head + presence + data, _ACTION_RESPONSE)
    else:
        # action-request-with-first-pblock has no presence byte: the blocks are the parameter
        answer = _execute_by_blocks(association, ref, head, data)
    if answer[1] == 2:
        return _action_result(_collect_action_blocks(association, answer, ref), 0, ref)
    return _action_result(answer, 3, ref)


def _execute_by_blocks(association: Association, ref: AttributeRef, head: bytes, data: bytes) -> bytes:
    room = _block_room(association, len(head))
    blocks = [data[at : at + room] for at in range(0, len(data), room)]
    answer = b""
    for number, block in enumerate(blocks, 1):
        last = number == len(blocks)
        kind = b"\xc3\x04\xc1" + head if number == 1 else b"\xc3\x06\xc1"
        answer = association.request(kind + _block(number, block, last), _ACTION_RESPONSE)
        if not last:
            if answer[1] == 1 and len(answer) >= 4 and answer[3] != 0:
                raise action_error(answer[3], str(ref))
            if answer[1] != 4 or answer[3:7] != number.to_bytes(4, "big"):
                raise ProtocolError(f"block {number} was not acknowledged (answer type {answer[1]})")
    return answer


def _collect_action_blocks(association: Association, answer: bytes, ref: AttributeRef) -> bytes:
    parts: list[bytes] = []
    size = 0
    expected = 1
    while True:
        if answer[1] != 2 or len(answer) < 9:
            raise ProtocolError(f"{ref}: action-response of type {answer[1]} inside a block transfer")
        number = int.from_bytes(answer[4:8], "big")
        if number != expected:
            raise ProtocolError(f"{ref}: block {number}, expected {expected}")
        length, start = read_length(answer, 8)
        if start + length > len(answer):
            raise DecodeError(f"data block of {length} bytes is truncated", offset=8)
        size += length
        if size > MAX_TRANSFER_BYTES:
            raise ProtocolError(f"block transfer of more than {MAX_TRANSFER_BYTES} bytes")
        parts.append(answer[start : start + length])
        if answer[3]:
            return b"".join(parts)
        expected += 1
        answer = association.request(b"\xc3\x03\xc1" + number.to_bytes(4, "big"), _ACTION_RESPONSE)


def _action_result(data: bytes, offset: int, ref: AttributeRef) -> Value:
    if offset >= len(data):
        raise DecodeError("action-result is missing", offset=offset)
    if data[offset] != 0:
        raise action_error(data[offset], str(ref))
    if offset + 1 >= len(data) or data[offset + 1] == 0:
        return None
    choice = data[offset + 2] if offset + 2 < len(data) else -1
    if choice == 1 and offset + 3 < len(data):
        raise object_error(data[offset + 3], str(ref))
    if choice != 0:
        raise DecodeError("return parameters are neither data nor a result", offset=offset + 2)
    return decode(data, offset + 3)[0]


def _block(number: int, data: bytes, last: bool) -> bytes:
    return bytes((last,)) + number.to_bytes(4, "big") + encode_length(len(data)) + data


def _block_room(association: Association, head_bytes: int) -> int:
    overhead = head_bytes + _BLOCK_OVERHEAD_BYTES + association.overhead_bytes
    return max(16, association.max_request_bytes - overhead)
