"""GET, SET and ACTION on the server's side: single, with list, in blocks (Green Book 9.3 and 9.5)."""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.cosem.values import decode_typed, encode_length, read_length
from dlms_connector.errors import DecodeError
from dlms_connector.simulator.meter import (
    ACTION,
    BLOCK_GET,
    GET,
    MULTIPLE_REFERENCES,
    SET,
    ClientSettings,
    LogicalDevice,
    Quirks,
    conformance_bits,
)
from dlms_connector.simulator.objects import AccessResult, Refused

# state-error, service-error (Green Book 9.5, ExceptionResponse)
NOT_ALLOWED = b"\xd8\x01\x01"
NOT_SUPPORTED = b"\xd8\x02\x02"
MALFORMED = b"\xd8\x02\x03"
PDU_TOO_LONG = b"\xd8\x01\x04"

_GET_BIT, _SET_BIT, _ACTION_BIT = (conformance_bits(bit) for bit in (GET, SET, ACTION))
_LIST_BIT, _BLOCK_GET_BIT = (conformance_bits(bit) for bit in (MULTIPLE_REFERENCES, BLOCK_GET))
_BLOCK_HEAD_BYTES = 12
_MAX_LONG_SET_BYTES = 65_536
_OTHER_REASON_ACTION = 250


class _Reader:
    """A cursor over a request; every read is bounds-checked with DecodeError."""

    def __init__(self, apdu: bytes, at: int) -> None:
        self.apdu = apdu
        self.at = at

    def take(self, size_bytes: int) -> bytes:
        end = self.at + size_bytes
        if end > len(self.apdu):
            raise DecodeError("request is truncated", offset=self.at)
        part = self.apdu[self.at : end]
        self.at = end
        return part

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def length(self) -> int:
        length, self.at = read_length(self.apdu, self.at)
        return length

    def octets(self) -> bytes:
        return self.take(self.length())

    def data(self) -> bytes:
        """One encoded value, as it stands."""
        start = self.at
        _, self.at = decode_typed(self.apdu, start)
        return self.apdu[start : self.at]

    def selection(self) -> tuple[int, bytes] | None:
        """The optional selective access descriptor."""
        if not self.u8():
            return None
        return self.u8(), self.data()


class ServiceProvider:
    """The xDLMS services of one association."""

    def __init__(
        self, device: LogicalDevice, client: ClientSettings, conformance: int, max_pdu_bytes: int
    ) -> None:
        self.device = device
        self.conformance = conformance
        self._client = client
        self._max_pdu_bytes = max_pdu_bytes
        self._first_block = 0 if device.settings.quirks.zero_based_blocks else 1
        self._remaining = b""
        self._block_number = 0
        self._is_list = False
        self._long_keys: list[bytes] = []
        self._long_data = bytearray()
        self._long_number = 0
        self._services: dict[int, tuple[int, Callable[[bytes], bytes]]] = {
            0xC0: (_GET_BIT, self._get),
            0xC1: (_SET_BIT, self._set),
            0xC3: (_ACTION_BIT, self._action),
        }

    def handle(self, apdu: bytes) -> bytes:
        """Answer one plain request."""
        service = self._services.get(apdu[0])
        if service is None or not self.conformance & service[0]:
            return NOT_SUPPORTED
        try:
            return service[1](apdu)
        except (DecodeError, IndexError):
            return MALFORMED

    # GET

    def _get(self, apdu: bytes) -> bytes:
        kind = apdu[1]
        if kind == 1:
            self.device.counters.gets += 1
            return self._get_normal(apdu)
        if kind == 2:
            self.device.counters.get_blocks += 1
            return self._get_next(apdu)
        if kind == 3:
            self.device.counters.get_lists += 1
            return self._get_list(apdu)
        return NOT_SUPPORTED

    def _get_normal(self, apdu: bytes) -> bytes:
        self._remaining = b""
        if len(apdu) == 13 and not apdu[12]:
            result = self._result(apdu[3:12], None)
        else:
            reader = _Reader(apdu, 3)
            result = self._result(reader.take(9), reader.selection())
        answer = b"\xc4\x01" + apdu[2:3] + result
        if len(answer) <= self._max_pdu_bytes:
            return answer
        if not self.conformance & _BLOCK_GET_BIT:
            return b"\xc4\x01" + apdu[2:3] + bytes((1, AccessResult.OTHER_REASON))
        return self._start_blocks(apdu[2], result[1:])

    def _get_list(self, apdu: bytes) -> bytes:
        quirks = self.device.settings.quirks
        if not self.conformance & _LIST_BIT or quirks.refuse_lists or quirks.no_lists:
            return NOT_SUPPORTED
        self._remaining = b""
        count, at = read_length(apdu, 3)
        plain_end = at + 10 * count
        if len(apdu) == plain_end and not any(apdu[at + 9 : plain_end : 10]):
            results = [self._result(apdu[start : start + 9], None) for start in range(at, plain_end, 10)]
        else:
            reader = _Reader(apdu, at)
            results = [self._result(reader.take(9), reader.selection()) for _ in range(count)]
        results = _bent(results, quirks)
        answer = b"".join((b"\xc4\x03", apdu[2:3], encode_length(len(results)), *results))
        if len(answer) <= self._max_pdu_bytes:
            return answer
        if not self.conformance & _BLOCK_GET_BIT:
            return PDU_TOO_LONG
        return self._start_blocks(apdu[2], answer[3:])

    def _result(self, key: bytes, selection: tuple[int, bytes] | None) -> bytes:
        """Get-Data-Result: 00 data, or 01 and the reason."""
        denied = self._client.denied
        if denied and (int.from_bytes(key[:2], "big"), key[8]) in denied:
            return bytes((1, AccessResult.READ_WRITE_DENIED))
        try:
            if selection is None:
                return b"\x00" + self.device.read(key)
            parameters, _ = decode_typed(selection[1])
            return b"\x00" + self.device.read_selected(key, selection[0], parameters)
        except Refused as refusal:
            return bytes((1, refusal.code))

    def _start_blocks(self, invoke_id: int, raw: bytes) -> bytes:
        self._remaining = raw
        self._block_number = self._first_block
        return self._block(invoke_id)

    def _block(self, invoke_id: int) -> bytes:
        size_bytes = max(self._max_pdu_bytes - _BLOCK_HEAD_BYTES, 1)
        part, self._remaining = self._remaining[:size_bytes], self._remaining[size_bytes:]
        head = bytes((0xC4, 2, invoke_id, not self._remaining))
        return head + self._block_number.to_bytes(4, "big") + b"\x00" + encode_length(len(part)) + part

    def _get_next(self, apdu: bytes) -> bytes:
        number = _Reader(apdu, 3).u32()
        if not self._remaining:
            return self._block_error(apdu[2], number, AccessResult.NO_LONG_GET_IN_PROGRESS)
        if number != self._block_number:
            self._remaining = b""
            return self._block_error(apdu[2], number, AccessResult.DATA_BLOCK_NUMBER_INVALID)
        self._block_number += 1
        return self._block(apdu[2])

    @staticmethod
    def _block_error(invoke_id: int, number: int, code: AccessResult) -> bytes:
        return bytes((0xC4, 2, invoke_id, 1)) + number.to_bytes(4, "big") + bytes((1, code))

    # SET

    def _set(self, apdu: bytes) -> bytes:
        self.device.counters.sets += 1
        kind, invoke_id = apdu[1], apdu[2]
        reader = _Reader(apdu, 3)
        if kind == 1:
            key = reader.take(9)
            reader.selection()
            return bytes((0xC5, 1, invoke_id, self._write(key, reader.data())))
        if kind in (2, 5):
            self._long_keys = self._keys(reader) if kind == 5 else [self._key(reader)]
            self._is_list = kind == 5
            self._long_data.clear()
            self._long_number = 0
            return self._set_block(reader, invoke_id)
        if kind == 3:
            return self._set_block(reader, invoke_id)
        if kind == 4:
            keys = self._keys(reader)
            reader.length()
            return self._set_list_answer(invoke_id, keys, reader)
        return NOT_SUPPORTED

    @staticmethod
    def _key(reader: _Reader) -> bytes:
        key = reader.take(9)
        reader.selection()
        return key

    def _keys(self, reader: _Reader) -> list[bytes]:
        return [self._key(reader) for _ in range(reader.length())]

    def _set_list_answer(self, invoke_id: int, keys: list[bytes], reader: _Reader) -> bytes:
        results = bytes(self._write(key, reader.data()) for key in keys)
        return bytes((0xC5, 5, invoke_id)) + encode_length(len(results)) + results

    def _set_block(self, reader: _Reader, invoke_id: int) -> bytes:
        is_last, number = reader.u8(), reader.u32()
        part = reader.octets()
        number_raw = number.to_bytes(4, "big")
        if not self._collect(number, part):
            return bytes((0xC5, 3, invoke_id, AccessResult.DATA_BLOCK_NUMBER_INVALID)) + number_raw
        if not is_last:
            return bytes((0xC5, 2, invoke_id)) + number_raw
        whole = _Reader(bytes(self._long_data), 0)
        if self._is_list:
            whole.length()
            results = bytes(self._write(key, whole.data()) for key in self._long_keys)
            head = bytes((0xC5, 4, invoke_id)) + encode_length(len(results))
            return head + results + number_raw
        return bytes((0xC5, 3, invoke_id, self._write(self._long_keys[0], whole.data()))) + number_raw

    def _collect(self, number: int, part: bytes) -> bool:
        """Add a block of a long request; False when it is not the next one, or too much."""
        if not self._long_keys or number != self._long_number + 1:
            self._long_keys = []
            return False
        self._long_number = number
        self._long_data += part
        return len(self._long_data) <= _MAX_LONG_SET_BYTES

    def _write(self, key: bytes, encoded: bytes) -> int:
        if not self._client.may_write:
            return AccessResult.READ_WRITE_DENIED
        try:
            self.device.write(key, encoded)
        except Refused as refusal:
            return refusal.code
        return AccessResult.SUCCESS

    # ACTION

    def _action(self, apdu: bytes) -> bytes:
        self.device.counters.actions += 1
        kind, invoke_id = apdu[1], apdu[2]
        reader = _Reader(apdu, 3)
        if kind == 1:
            key = reader.take(9)
            return self._action_answer(invoke_id, key, reader.data() if reader.u8() else None)
        if kind == 2:
            return self._action_next(reader, invoke_id)
        if kind == 4:
            self._long_keys = [reader.take(9)]
            self._long_data.clear()
            self._long_number = 0
        if kind in (4, 6):
            return self._action_block(reader, invoke_id)
        return NOT_SUPPORTED

    def _action_block(self, reader: _Reader, invoke_id: int) -> bytes:
        is_last, number = reader.u8(), reader.u32()
        part = reader.octets()
        if not self._collect(number, part):
            return bytes((0xC7, 1, invoke_id, _OTHER_REASON_ACTION, 0))
        if not is_last:
            return bytes((0xC7, 4, invoke_id)) + number.to_bytes(4, "big")
        return self._action_answer(invoke_id, self._long_keys[0], bytes(self._long_data))

    def _action_answer(self, invoke_id: int, key: bytes, encoded: bytes | None) -> bytes:
        try:
            if not self._client.may_write and key[:2] != b"\x00\x0f":
                raise Refused(AccessResult.READ_WRITE_DENIED)
            returned = self.device.execute(key, encoded)
        except Refused as refusal:
            return bytes((0xC7, 1, invoke_id, refusal.code, 0))
        if returned is None:
            return bytes((0xC7, 1, invoke_id, 0, 0))
        answer = bytes((0xC7, 1, invoke_id, 0, 1, 0)) + returned
        if len(answer) <= self._max_pdu_bytes:
            return answer
        self._remaining = answer[3:]
        self._block_number = 1
        return self._action_part(invoke_id)

    def _action_next(self, reader: _Reader, invoke_id: int) -> bytes:
        if not self._remaining or reader.u32() != self._block_number:
            return bytes((0xC7, 1, invoke_id, _OTHER_REASON_ACTION, 0))
        self._block_number += 1
        return self._action_part(invoke_id)

    def _action_part(self, invoke_id: int) -> bytes:
        size_bytes = max(self._max_pdu_bytes - _BLOCK_HEAD_BYTES, 1)
        part, self._remaining = self._remaining[:size_bytes], self._remaining[size_bytes:]
        head = bytes((0xC7, 2, invoke_id, not self._remaining)) + self._block_number.to_bytes(4, "big")
        return head + encode_length(len(part)) + part


def _bent(results: list[bytes], quirks: Quirks) -> list[bytes]:
    """Results of a list as some meters give them."""
    if quirks.max_list:
        results = results[: quirks.max_list]
    if quirks.octets_wrapped_in_lists:
        results = [
            result[:2] + encode_length(len(result) - 1) + result[1:] if result[:2] == b"\x00\x09" else result
            for result in results
        ]
    if quirks.lists_end_at_refusal:
        bad = next((index for index, result in enumerate(results) if result[0]), len(results))
        undefined = bytes((1, AccessResult.OBJECT_UNDEFINED))
        results = results[: bad + 1] + [undefined] * len(results[bad + 1 :])
    return results
