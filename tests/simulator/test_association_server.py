"""The meter's side of associations and services, APDU by APDU, without a link."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem.values import DataType, TypedValue, decode_all, encode, encode_length, structure
from dlms_connector.simulator.association_server import ServerAssociation, State
from dlms_connector.simulator.calendar_clock import decode_moment, encode_moment
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.meter import (
    FULL_CONFORMANCE,
    LogicalDevice,
    MeterSettings,
    Quirks,
    conformance_bits,
)
from dlms_connector.simulator.model import three_phase_model
from dlms_connector.simulator.quantities import raw_value
from dlms_connector.simulator.security_server import Deciphered, ServerCipher
from tests.support.simulated import CLIENT_TITLE, aarq, clients, get_normal, secured_client

SERIAL = "00000001"
NOW_S = 1_790_000_123
ENERGY = "1.0.1.8.0.255"
PASSWORD = b"12345678"


def meter(**settings: object) -> LogicalDevice:
    return LogicalDevice(MeterSettings(SERIAL, **settings), three_phase_model(), lambda: NOW_S)  # type: ignore[arg-type]


def ask(association: ServerAssociation, apdu: bytes) -> bytes:
    answer, _ = association.handle(apdu)
    assert answer is not None
    return answer


def associated(device: LogicalDevice | None = None, client: int = 1, **options: int) -> ServerAssociation:
    association = ServerAssociation(device or meter(), client)
    low = {} if client == 16 else {"mechanism": 1, "value": PASSWORD}
    answer = ask(association, aarq(**low, **options))  # type: ignore[arg-type]
    assert outcome(answer) == (0, 0)
    return association


def outcome(aare: bytes) -> tuple[int, int]:
    """(result, diagnostic) of an AARE."""
    at = aare.index(b"\xa2\x03\x02\x01")
    return aare[at + 4], aare[at + 11]


def test_aare_is_the_green_books_example() -> None:
    """Annex D: AARE without security, byte by byte, with what this meter negotiates."""
    answer = ask(ServerAssociation(meter(), 16), aarq(conformance=0x007E1F, max_pdu_bytes=1200))
    conformance = FULL_CONFORMANCE & 0x007E1F
    assert answer == bytes.fromhex(
        f"6129a109060760857405080101a203020100a305a103020100be10040e0800065f1f0400{conformance:06x}04000007"
    )


@pytest.mark.parametrize(
    ("client", "request_apdu", "expected"),
    [
        (1, aarq(mechanism=1, value=b"wrong"), (1, 13)),
        (1, aarq(), (1, 14)),
        (1, aarq(mechanism=5, value=bytes(16)), (1, 11)),
        (16, aarq(mechanism=1, value=PASSWORD), (1, 11)),
        (16, aarq(context=3), (1, 2)),
        (16, aarq(context=2), (1, 2)),
        (99, aarq(), (1, 1)),
        (16, aarq(max_pdu_bytes=5), (1, 1)),
        (16, aarq(version=5), (1, 1)),
        (16, aarq(conformance=0), (1, 1)),
    ],
)
def test_refused_associations(client: int, request_apdu: bytes, expected: tuple[int, int]) -> None:
    device = meter()
    association = ServerAssociation(device, client)
    assert outcome(ask(association, request_apdu)) == expected
    assert association.state is State.IDLE
    assert ask(association, get_normal(3, ENERGY, 2)) == b"\xd8\x01\x01"
    assert device.counters.associations_refused == 1


def test_a_second_client_is_turned_away_from_an_exclusive_meter() -> None:
    device = meter(exclusive=True)
    first = associated(device)
    assert outcome(ask(ServerAssociation(device, 16), aarq())) == (2, 1)
    assert ask(first, b"\x62\x03\x80\x01\x00") == b"\x63\x03\x80\x01\x00"
    associated(device, 16)
    assert device.counters.associations_open_max == 1


def test_an_unclean_end_blocks_for_a_while() -> None:
    device = meter(recovery_s=60.0)
    associated(device).end_with_link(cleanly=False)
    assert outcome(ask(ServerAssociation(device, 16), aarq())) == (2, 1)
    device.blocked_until_s = time.monotonic()
    associated(device, 16)


def test_get_echoes_invoke_id_and_priority() -> None:
    association = associated()
    for invoke_id in (0x00, 0x4F, 0x81, 0xCE):
        answer = ask(association, get_normal(3, ENERGY, 2, invoke_id))
        assert answer[:4] == bytes((0xC4, 1, invoke_id, 0))
        assert decode_all(answer[4:]) == raw_value(SERIAL, "active_energy", NOW_S)


@pytest.mark.parametrize(
    ("apdu", "code"),
    [
        (get_normal(3, "1.0.199.8.0.255", 2), 4),
        (get_normal(1, ENERGY, 2), 9),
        (get_normal(3, ENERGY, 9), 3),
        (get_normal(3, "1.0.1.8.0.254", 2), 4),
    ],
)
def test_objects_that_are_not_there(apdu: bytes, code: int) -> None:
    assert ask(associated(), apdu) == bytes((0xC4, 1, 0xC1, 1, code))


def test_history_has_its_own_group_f() -> None:
    association = associated()
    values = {ask(association, get_normal(3, f"1.0.1.8.0.{f}", 2))[4:] for f in (255, 1, 2, 102)}
    assert len(values) == 3


def get_list(*items: bytes, invoke_id: int = 0xC1) -> bytes:
    return bytes((0xC0, 3, invoke_id, len(items))) + b"".join(item[3:] for item in items)


def test_list_mixes_values_and_refusals() -> None:
    answer = ask(associated(), get_list(get_normal(3, ENERGY, 2), get_normal(3, "1.0.199.8.0.255", 2)))
    value = encode(TypedValue(DataType.UINT32, raw_value(SERIAL, "active_energy", NOW_S)))
    assert answer == b"\xc4\x03\xc1\x02\x00" + value + b"\x01\x04"


@pytest.mark.parametrize("quirk", ["refuse_lists", "no_lists"])
def test_meters_without_lists(quirk: str) -> None:
    association = associated(meter(quirks=Quirks(**{quirk: True})))
    assert ask(association, get_list(get_normal(3, ENERGY, 2))) == b"\xd8\x02\x02"
    assert ask(association, get_normal(3, ENERGY, 2))[:4] == b"\xc4\x01\xc1\x00"
    assert association.services is not None
    offered = bool(association.services.conformance & conformance_bits(14))
    assert offered is (quirk == "refuse_lists")


def blocks(association: ServerAssociation, request_apdu: bytes, limit_bytes: int) -> list[bytes]:
    """Every answer of a block transfer, the numbers and sizes checked."""
    answers = [ask(association, request_apdu)]
    first = int.from_bytes(answers[0][4:8], "big")
    while not answers[-1][3]:
        number = answers[-1][4:8]
        answers.append(ask(association, b"\xc0\x02" + request_apdu[2:3] + number))
        assert int.from_bytes(answers[-1][4:8], "big") == int.from_bytes(number, "big") + 1
    assert all(len(answer) <= limit_bytes and answer[:2] == b"\xc4\x02" for answer in answers)
    assert first in (0, 1)
    return answers


def joined(answers: list[bytes]) -> bytes:
    return b"".join(answer[10 if answer[9] < 0x80 else 10 + (answer[9] & 0x7F) :] for answer in answers)


@pytest.mark.parametrize("limit_bytes", [40, 128, 300])
def test_blocks_keep_to_the_clients_pdu(limit_bytes: int) -> None:
    association = associated(max_pdu_bytes=limit_bytes)
    answers = blocks(association, get_normal(15, "0.0.40.0.0.255", 2), limit_bytes)
    whole = joined(answers)
    assert len(decode_all(whole)) == len(three_phase_model().objects)  # type: ignore[arg-type]
    items = [get_normal(3, f"1.0.{c}.7.0.255", 2) for c in (31, 32, 33, 51, 52, 53, 71, 72, 73, 14, 13)]
    raw = joined(blocks(association, get_list(*items), 40)) if limit_bytes == 40 else b"\x0b"
    assert raw[0] == len(items)


def test_wrong_and_late_block_requests() -> None:
    association = associated(max_pdu_bytes=64)
    assert ask(association, bytes.fromhex("c002c100000001")) == bytes.fromhex("c402c101000000010110")
    ask(association, get_normal(15, "0.0.40.0.0.255", 2))
    assert ask(association, bytes.fromhex("c002c100000007")) == bytes.fromhex("c402c101000000070113")
    zero_based = associated(meter(quirks=Quirks(zero_based_blocks=True)), max_pdu_bytes=64)
    assert ask(zero_based, get_normal(15, "0.0.40.0.0.255", 2))[4:8] == bytes(4)


def test_without_block_transfer_a_long_value_is_refused() -> None:
    association = associated(conformance=conformance_bits(14, 19), max_pdu_bytes=64)
    assert ask(association, get_normal(15, "0.0.40.0.0.255", 2)) == bytes((0xC4, 1, 0xC1, 1, 250))
    items = [get_normal(3, ENERGY, 2)] * 20
    assert ask(association, get_list(*items)) == b"\xd8\x01\x04"
    assert ask(association, b"\xc1\x01\xc1" + bytes(9) + b"\x00\x11\x01") == b"\xd8\x02\x02"


LIMITER = bytes.fromhex("00470000110000ff04")
RELAY_ON = bytes.fromhex("0046000060030aff02")


def test_set_normal_with_list_and_in_blocks() -> None:
    device = meter()
    association = associated(device)
    value = encode(TypedValue(DataType.UINT32, 5_000))
    assert ask(association, b"\xc1\x01\xc2" + LIMITER + b"\x00" + value) == b"\xc5\x01\xc2\x00"
    assert device.controls.threshold_w == 5_000
    assert ask(association, b"\xc1\x01\xc2" + LIMITER + b"\x00\x11\x05") == b"\xc5\x01\xc2\x0c"
    listed = b"\xc1\x04\xc3\x02" + (LIMITER + b"\x00") * 2 + b"\x02" + value + b"\x11\x05"
    assert ask(association, listed) == b"\xc5\x05\xc3\x02\x00\x0c"
    other = encode(TypedValue(DataType.UINT32, 7_000))
    first = b"\xc1\x02\xc4" + LIMITER + b"\x00" + b"\x00\x00\x00\x00\x01\x02" + other[:2]
    assert ask(association, first) == b"\xc5\x02\xc4\x00\x00\x00\x01"
    last = b"\xc1\x03\xc4\x01\x00\x00\x00\x02\x03" + other[2:]
    assert ask(association, last) == b"\xc5\x03\xc4\x00\x00\x00\x00\x02"
    assert device.controls.threshold_w == 7_000
    assert ask(association, last) == b"\xc5\x03\xc4\x13\x00\x00\x00\x02"


def test_public_client_may_not_write() -> None:
    association = associated(client=16)
    value = encode(TypedValue(DataType.UINT32, 5_000))
    assert ask(association, b"\xc1\x01\xc2" + LIMITER + b"\x00" + value) == b"\xc5\x01\xc2\x03"
    assert ask(association, b"\xc3\x01\xc2" + RELAY_ON + b"\x00") == b"\xc7\x01\xc2\x03\x00"


def test_action_with_parameters_in_blocks() -> None:
    device = meter()
    association = associated(device)
    script = bytes.fromhex("000900000a0064ff01")
    first = b"\xc3\x04\xc5" + script + b"\x00\x00\x00\x00\x01\x01\x12"
    assert ask(association, first) == b"\xc7\x04\xc5\x00\x00\x00\x01"
    assert ask(association, b"\xc3\x06\xc5\x01\x00\x00\x00\x02\x02\x00\x01") == b"\xc7\x01\xc5\x00\x00"
    assert device.controls.scripts_executed == [1]


def test_release_quirks() -> None:
    assert associated(meter(quirks=Quirks(ignore_rlrq=True))).handle(b"\x62\x00") == (None, None)
    assert ask(associated(meter(quirks=Quirks(refuse_rlrq=True))), b"\x62\x00") == b"\xd8\x02\x02"


def test_only_16_byte_challenges() -> None:
    quirks = Quirks(only_16_byte_challenges=True, challenge_bytes=32)
    device = meter(clients=clients(secured_client(3, policy=0, secret=b"secret")), quirks=quirks)
    for size_bytes, expected in ((32, (1, 13)), (16, (0, 14))):
        association = ServerAssociation(device, 1)
        answer = ask(association, aarq(mechanism=3, value=bytes(size_bytes)))
        assert outcome(answer)[0] == expected[0]
    assert len(answer[answer.index(b"\xaa\x22\x80\x20") + 4 :]) >= 32
    assert association.state is State.PENDING
    assert ask(association, get_normal(3, ENERGY, 2)) == b"\xd8\x01\x01"


@pytest.mark.parametrize(
    ("fault", "apdu", "expected"),
    [
        (Fault(FaultKind.EXCEPTION, code=3), get_normal(3, ENERGY, 2), b"\xd8\x01\x03"),
        (Fault(FaultKind.SERVICE_ERROR, code=2), get_normal(3, ENERGY, 2), b"\x0e\x05\x01\x02"),
        (Fault(FaultKind.ACCESS_ERROR, code=2), get_normal(3, ENERGY, 2), b"\xc4\x01\xc1\x01\x02"),
        (
            Fault(FaultKind.ACCESS_ERROR, Stage.GET_LIST, code=11),
            get_list(get_normal(3, ENERGY, 2), get_normal(3, ENERGY, 3)),
            b"\xc4\x03\xc1\x02\x01\x0b\x01\x0b",
        ),
        (
            Fault(FaultKind.ACCESS_ERROR, code=1),
            b"\xc3\x01\xc1" + RELAY_ON + b"\x00",
            b"\xc7\x01\xc1\x01\x00",
        ),
    ],
)
def test_ordered_faults_inside_the_apdu(fault: Fault, apdu: bytes, expected: bytes) -> None:
    device = meter()
    association = associated(device)
    device.faults.add([fault])
    assert ask(association, apdu) == expected
    assert ask(association, apdu)[3:4] == (b"\x02" if apdu[1] == 3 else b"\x00")


def test_faults_by_stage_and_number() -> None:
    device = meter()
    association = associated(device, max_pdu_bytes=64)
    device.faults.add([Fault(FaultKind.EXCEPTION, Stage.GET_NEXT, skip=1)])
    answer = ask(association, get_normal(15, "0.0.40.0.0.255", 2))
    for _ in range(2):
        previous, answer = answer, ask(association, b"\xc0\x02\xc1" + answer[4:8])
    assert previous[:2] == b"\xc4\x02"
    assert answer == b"\xd8\x01\x01"
    device.faults.add([Fault(FaultKind.AARE_REFUSAL, Stage.AARQ, code=1)])
    assert outcome(ask(association, aarq(mechanism=1, value=PASSWORD))) == (1, 1)
    association = associated(device, 16)
    device.faults.add([Fault(FaultKind.WRONG_INVOKE_ID)])
    assert ask(association, get_normal(3, ENERGY, 2))[:3] == b"\xc4\x01\xc0"
    assert ask(association, get_normal(3, ENERGY, 2))[:3] == b"\xc4\x01\xc1"


def test_counter_zero_in_every_protected_answer() -> None:
    client = secured_client(0)
    assert client.security is not None
    for quirks, expected in ((Quirks(meter_counter_zero=True), [0, 0]), (Quirks(), [1, 2])):
        device = meter(clients=clients(client), quirks=quirks)
        cipher = ServerCipher(device, client, client.security, CLIENT_TITLE)
        answers = [cipher.protect(b"\xc4\x01\xc1\x00\x00", Deciphered(b"", 0xC8)) for _ in range(2)]
        assert [int.from_bytes(answer[3:7], "big") for answer in answers] == expected


@pytest.mark.parametrize(
    ("quirks", "deviation"),
    [
        (Quirks(), 300),
        (Quirks(reversed_deviation=True), -300),
        (Quirks(unknown_deviation=True), -0x8000),
    ],
)
def test_clocks_with_every_kind_of_deviation(quirks: Quirks, deviation: int) -> None:
    """Bogota, five hours west: the Blue Book's deviation is +300."""
    device = meter(quirks=quirks, zone=timezone(timedelta(hours=-5)))
    association = associated(device)
    raw = ask(association, get_normal(8, "0.0.1.0.0.255", 2))[6:]
    local = datetime.fromtimestamp(NOW_S - 5 * 3600, timezone.utc)
    assert raw[:8] == local.year.to_bytes(2, "big") + bytes(
        (local.month, local.day, local.isoweekday(), local.hour, local.minute, local.second)
    )
    assert int.from_bytes(raw[9:11], "big", signed=True) == deviation
    assert ask(
        association, b"\xc1\x01\xc2" + bytes.fromhex("00080000010000ff02") + b"\x00\x09\x0c" + raw
    ) == (b"\xc5\x01\xc2\x00")
    assert abs(device.controls.clock_shift_s) < 0.01
    for wrong in (b"\x06\xff\xff\xff\xff", b"\x09\x02\x00\x00"):
        request_apdu = b"\xc1\x01\xc2" + bytes.fromhex("00080000010000ff02") + b"\x00" + wrong
        assert ask(association, request_apdu) == b"\xc5\x01\xc2\x0c"


def test_daylight_saving_is_in_deviation_and_status() -> None:
    zone = ZoneInfo("Europe/Madrid")
    for moment, deviation, status in ((1_753_000_000, -120, 0x80), (1_737_000_000, -60, 0)):
        raw = encode_moment(moment, zone)
        assert (int.from_bytes(raw[9:11], "big", signed=True), raw[11]) == (deviation, status)
        assert decode_moment(raw, zone) == moment
        assert decode_moment(raw[:9] + b"\x80\x00" + raw[11:], zone) == moment


def entry_selection(first: int, last: int) -> bytes:
    kinds = (DataType.UINT32, DataType.UINT32, DataType.UINT16, DataType.UINT16)
    fields = [TypedValue(kind, value) for kind, value in zip(kinds, (first, last, 1, 0), strict=True)]
    return b"\x01\x02" + encode(structure(*fields))


@pytest.mark.parametrize(
    ("selection", "code"),
    [
        (b"\x01\x07" + encode(structure()), 13),
        (b"\x01\x01" + encode(structure()), 12),
        (b"\x01\x02\x00", 12),
        (entry_selection(0, 5), 13),
        (entry_selection(5, 2), 13),
    ],
)
def test_selections_that_make_no_sense(selection: bytes, code: int) -> None:
    apdu = get_normal(7, "1.0.99.1.0.255", 2)[:-1] + selection
    assert ask(associated(), apdu) == bytes((0xC4, 1, 0xC1, 1, code))


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\xc0\x01\xc1", b"\xc0\x03\xc1", b"\xc1\x04\xc1", b"\xc3\x01\xc1"]),
)
def test_any_bytes_are_answered(tail: bytes, head: bytes) -> None:
    association = associated()
    answer, _ = association.handle(head + tail)
    assert answer is None or len(answer) >= 3


@given(st.binary(max_size=60))
def test_any_aarq_is_answered(contents: bytes) -> None:
    association = ServerAssociation(meter(), 1)
    answer = ask(association, b"\x60" + encode_length(len(contents)) + contents)
    assert answer[0] in (0x61, 0xD8)
