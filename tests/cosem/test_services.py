"""Services on a scripted channel: what goes out byte by byte, and which answers are believed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem import services
from dlms_connector.cosem.association import Association, AssociationParameters
from dlms_connector.cosem.services import AttributeRef, ListRequest
from dlms_connector.cosem.values import DataType, TypedValue, decode_all, encode, encode_length
from dlms_connector.errors import (
    InvalidAnswer,
    LinkTimeout,
    ObjectError,
    ProtocolError,
    ServiceRefused,
)
from dlms_connector.obis import Obis

REF = AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)
METHOD = AttributeRef(9, Obis(0, 0, 10, 0, 0), 1)
U8 = b"\x11"


class Script:
    """A channel whose answers are made from the request's invoke-id; None stands for silence."""

    def __init__(self, *answers: list[Callable[[int], bytes]]) -> None:
        self.requests: list[bytes] = []
        self._answers = list(answers)
        self._pending: list[bytes] = []

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        self.requests.append(apdu)
        self._pending = [make(apdu[2]) for make in self._answers.pop(0)]
        return self.receive(deadline_s)

    def receive(self, deadline_s: float) -> bytes:
        if not self._pending:
            raise LinkTimeout("silence")
        return self._pending.pop(0)


def association(script: Script, max_request_bytes: int = 0) -> Association:
    made = Association(script, AssociationParameters(), timeout_s=1.0)
    made.max_request_bytes = max_request_bytes
    return made


def normal(data: bytes, shift: int = 0) -> Callable[[int], bytes]:
    return lambda invoke: bytes((0xC4, 1, invoke + shift, 0)) + data


def block(number: int, data: bytes, last: bool, kind: int = 0xC4) -> Callable[[int], bytes]:
    choice = b"\x00" if kind == 0xC4 else b""
    body = bytes((last,)) + number.to_bytes(4, "big") + choice + encode_length(len(data)) + data
    return lambda invoke: bytes((kind, 2, invoke)) + body


def test_invoke_ids_rotate() -> None:
    script = Script(*[[normal(U8 + b"\x05")]] * 20)
    made = association(script)
    for _ in range(20):
        assert services.get(made, REF) == 5
    ids = [request[2] for request in script.requests]
    assert len(set(ids)) == 16
    assert all(first != second for first, second in pairwise(ids))


def test_stale_answers_and_notifications_are_never_taken() -> None:
    notification = b"\x0f\x00\x00\x00\x01\x00" + U8 + b"\x63"
    event = b"\xc2\x00\x00\x03\x01\x00\x01\x08\x00\xff\x02" + U8 + b"\x63"
    script = Script(
        [lambda _: notification, lambda _: event, normal(U8 + b"\x63", shift=-1), normal(U8 + b"\x05")]
    )
    diverted: list[bytes] = []
    made = Association(script, AssociationParameters(), timeout_s=1.0, on_notification=diverted.append)
    assert services.get(made, REF) == 5
    assert diverted == [notification, event]
    assert made.stale_answers == 1


def test_only_a_wrong_invoke_id_is_no_answer() -> None:
    with pytest.raises(LinkTimeout):
        services.get(association(Script([normal(U8 + b"\x63", shift=1)])), REF)


@pytest.mark.parametrize("first", [0, 1])
def test_blocks_counted_from_zero_or_one(first: int) -> None:
    data = encode(TypedValue(DataType.OCTET_STRING, bytes(range(100))))
    parts = [data[:40], data[40:80], data[80:]]
    script = Script(*[[block(first + index, part, index == 2)] for index, part in enumerate(parts)])
    assert services.get(association(script), REF) == bytes(range(100))
    assert [request[:2] for request in script.requests] == [b"\xc0\x01", b"\xc0\x02", b"\xc0\x02"]
    assert script.requests[1][3:] == first.to_bytes(4, "big")


@pytest.mark.parametrize("numbers", [(1, 3), (1, 1), (2, 3), (1, 0)])
def test_wrong_block_numbers_are_an_error(numbers: tuple[int, int]) -> None:
    script = Script([block(numbers[0], b"\x09\x02a", False)], [block(numbers[1], b"b", True)])
    with pytest.raises(ProtocolError):
        services.get(association(script), REF)


def test_lists_plain_and_by_blocks() -> None:
    results = b"\x03\x00" + U8 + b"\x01\x01\x04\x00" + U8 + b"\x03"
    plain = Script([lambda invoke: bytes((0xC4, 3, invoke)) + results])
    blocks = Script([block(1, results[:4], False)], [block(2, results[4:], True)])
    request = ListRequest([REF] * 3)
    for script in (plain, blocks):
        first, second, third = services.get_list(association(script), request)
        assert (first, third) == (1, 3)
        assert isinstance(second, ObjectError)
        assert (second.code, second.transient) == (4, False)
    assert plain.requests[0][:2] == b"\xc0\x03"
    assert len(plain.requests[0]) == ListRequest.size_bytes(3)


def test_a_list_with_another_number_of_results_is_refused() -> None:
    script = Script([lambda invoke: bytes((0xC4, 3, invoke)) + b"\x01\x00" + U8 + b"\x01"])
    with pytest.raises(InvalidAnswer, match="1 results for a list of 2"):
        services.get_list(association(script), ListRequest([REF] * 2))


def test_exceptions_are_typed() -> None:
    with pytest.raises(ServiceRefused, match="service not supported"):
        services.get(association(Script([lambda _: b"\xd8\x01\x02"])), REF)
    with pytest.raises(ServiceRefused, match="confirmedServiceError"):
        services.get(association(Script([lambda _: b"\x0e\x05\x00\x01"])), REF)
    with pytest.raises(ObjectError, match=r"1-0:1\.8\.0"):
        services.get(association(Script([lambda invoke: bytes((0xC4, 1, invoke, 1, 3))])), REF)


def acknowledged(kind: int, number: int) -> Callable[[int], bytes]:
    answer_type = {0xC5: 2, 0xC7: 4}[kind]
    return lambda invoke: bytes((kind, answer_type, invoke)) + number.to_bytes(4, "big")


def blocks_of(requests: list[bytes], head_bytes: int) -> bytes:
    """The raw data of a first and its following blocks, lengths checked."""
    joined = b""
    for index, request in enumerate(requests):
        body = request[3 + (head_bytes if index == 0 else 0) :]
        assert body[0] == (index == len(requests) - 1)
        assert int.from_bytes(body[1:5], "big") == index + 1
        assert body[5] == len(body) - 6
        joined += body[6:]
    return joined


def test_set_by_blocks() -> None:
    value = TypedValue(DataType.OCTET_STRING, bytes(range(120)))
    script = Script(
        *[[acknowledged(0xC5, number)] for number in (1, 2)],
        [lambda invoke: bytes((0xC5, 3, invoke, 0)) + b"\x00\x00\x00\x03"],
    )
    services.set_attribute(association(script, max_request_bytes=90), REF, value)
    assert [request[1] for request in script.requests] == [2, 3, 3]
    assert all(len(request) <= 90 for request in script.requests)
    assert script.requests[0][3:13] == REF.to_bytes() + b"\x00"
    assert blocks_of(script.requests, 10) == encode(value)


def test_action_by_blocks() -> None:
    value = TypedValue(DataType.OCTET_STRING, bytes(range(120)))
    script = Script(
        *[[acknowledged(0xC7, number)] for number in (1, 2)],
        [lambda invoke: bytes((0xC7, 1, invoke, 0, 1, 0)) + U8 + b"\x07"],
    )
    assert services.execute(association(script, max_request_bytes=90), METHOD, value) == 7
    assert [request[1] for request in script.requests] == [4, 6, 6]
    assert script.requests[0][3:12] == METHOD.to_bytes()  # no presence byte before the pblock
    assert blocks_of(script.requests, 9) == encode(value)


def test_action_answers() -> None:
    with_blocks = Script([block(1, b"\x00\x01\x00\x09", False, 0xC7)], [block(2, b"\x02ab", True, 0xC7)])
    assert services.execute(association(with_blocks), METHOD) == b"ab"
    nothing = Script([lambda invoke: bytes((0xC7, 1, invoke, 0, 0))])
    assert services.execute(association(nothing), METHOD) is None
    assert nothing.requests[0][-1] == 0
    refused = Script([lambda invoke: bytes((0xC7, 1, invoke, 3, 0))])
    with pytest.raises(ObjectError, match="read write denied"):
        services.execute(association(refused), METHOD)


def test_a_refused_block_stops_a_set() -> None:
    script = Script([lambda invoke: bytes((0xC5, 1, invoke, 14))])
    value = TypedValue(DataType.OCTET_STRING, bytes(200))
    with pytest.raises(ObjectError, match="data block unavailable"):
        services.set_attribute(association(script, max_request_bytes=90), REF, value)
    assert len(script.requests) == 1


_INTEGERS = {
    DataType.INT8: (-(2**7), 2**7 - 1),
    DataType.UINT8: (0, 2**8 - 1),
    DataType.ENUM: (0, 2**8 - 1),
    DataType.INT16: (-(2**15), 2**15 - 1),
    DataType.UINT16: (0, 2**16 - 1),
    DataType.INT32: (-(2**31), 2**31 - 1),
    DataType.UINT32: (0, 2**32 - 1),
    DataType.INT64: (-(2**63), 2**63 - 1),
    DataType.UINT64: (0, 2**64 - 1),
}
typed_values = st.one_of(
    *(st.builds(TypedValue, st.just(tag), st.integers(*bounds)) for tag, bounds in _INTEGERS.items()),
    st.builds(TypedValue, st.just(DataType.FLOAT32), st.floats(width=32, allow_nan=False)),
    st.builds(TypedValue, st.just(DataType.FLOAT64), st.floats(allow_nan=False)),
    st.builds(TypedValue, st.just(DataType.BOOLEAN), st.booleans()),
    st.builds(TypedValue, st.just(DataType.OCTET_STRING), st.binary(max_size=6)),
    st.just(TypedValue(DataType.NULL, None)),
)


def list_answer(*results: bytes) -> bytes:
    return b"\xc4\x03\xc1" + encode_length(len(results)) + b"".join(results)


@given(st.lists(st.tuples(typed_values, typed_values), min_size=1, max_size=130))
def test_a_list_that_learned_its_layout_decodes_as_one_that_did_not(
    pairs: list[tuple[TypedValue, TypedValue]],
) -> None:
    """Answers alternate between two sets of values: the same types, others, other lengths."""
    answers = [[encode(value) for value in values] for values in zip(*pairs, strict=True)]
    request = ListRequest([REF] * len(pairs))
    for values in (answers[0], answers[1], answers[0], answers[1]):
        got = request.decode(list_answer(*(b"\x00" + value for value in values)))
        assert got == [decode_all(value) for value in values]
        assert [type(item) for item in got] == [type(decode_all(value)) for value in values]


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        (list_answer(b"\x00\x12\x00\x07", b"\x00\x12\x00\x08"), None),
        (list_answer(b"\x00\x10\xff\xff", b"\x00\x12\x00\x08"), None),
        (list_answer(b"\x00\x12\x00\x07", b"\x02\x12\x00\x08"), InvalidAnswer),
        (list_answer(b"\x00\x12\x00\x07", b"\x00\x99\x00\x08"), InvalidAnswer),
        (list_answer(b"\x00\x12\x00\x07", b"\x00\x12\x00\x08")[:-1], InvalidAnswer),
        (list_answer(b"\x00\x12\x00\x07", b"\x00\x11\x08", b"\x00"), InvalidAnswer),
    ],
)
def test_a_learned_layout_believes_nothing(changed: bytes, error: type[Exception] | None) -> None:
    request = ListRequest([REF] * 2)
    answer = list_answer(b"\x00\x12\x00\x05", b"\x00\x12\x00\x06")
    assert request.decode(answer) == [5, 6]
    if error is None:
        assert request.decode(changed) == [-1 if b"\xff" in changed else 7, 8]
    else:
        with pytest.raises(error):
            request.decode(changed)
    assert request.decode(answer) == [5, 6]


def test_bytes_behind_a_list_change_no_value() -> None:
    request = ListRequest([REF] * 2)
    answer = list_answer(b"\x00\x12\x00\x05", b"\x00\x12\x00\x06")
    for _ in range(2):
        assert request.decode(answer + b"\x00\x55") == [5, 6]


def test_a_meter_that_varies_the_length_of_its_answers_costs_no_memory() -> None:
    request = ListRequest([REF] * 2)
    for size in range(200):
        text = bytes(size)
        answer = list_answer(b"\x00\x12\x00\x05", b"\x00\x09" + encode_length(size) + text)
        assert request.decode(answer) == [5, text]
    assert len(request._layouts) < 20
