"""Clock values: deviation and its sign, wildcards, daylight saving, gurux_dlms as the other witness."""

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem.clock import decode_clock, encode_clock, encode_parts
from dlms_connector.errors import DecodeError

BOGOTA = ZoneInfo("America/Bogota")
BERLIN = ZoneInfo("Europe/Berlin")
moments = st.integers(946_684_800_000, 4_102_444_800_000).map(lambda ms: ms // 1000 * 1000)


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


@given(moments, st.sampled_from([BOGOTA, BERLIN, timezone.utc]), st.booleans())
def test_round_trip_to_the_second(epoch_ms: int, zone: ZoneInfo, reversed_sign: bool) -> None:
    raw = encode_clock(epoch_ms, zone, deviation_reversed=reversed_sign)
    assert decode_clock(raw).to_epoch_ms(BOGOTA, deviation_reversed=reversed_sign) == epoch_ms


@given(moments)
def test_gurux_reads_the_same_moment(epoch_ms: int) -> None:
    from gurux_dlms.enums import DataType as GuruxType
    from gurux_dlms.GXDLMSClient import GXDLMSClient

    raw = encode_clock(epoch_ms, BERLIN)
    theirs = GXDLMSClient.changeType(bytearray(raw), GuruxType.DATETIME).value
    assert theirs.astimezone(timezone.utc) == datetime.fromtimestamp(epoch_ms / 1000, timezone.utc)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # 2025-07-01 12:00:00 UTC+2 with DST: deviation -120
        ("07E9 07 01 02 0C 00 00 00 FF88 80", "2025-07-01T12:00:00+02:00"),
        ("07E9 01 0F 03 17 3B 3B 00 012C 00", "2025-01-15T23:59:59-05:00"),
        ("07E9 01 0F FF 17 3B 3B FF 0000 FF", "2025-01-15T23:59:59+00:00"),
        # unknown deviation: the device's zone (Bogota, UTC-5)
        ("07E9 01 0F FF 17 3B 3B FF 8000 FF", "2025-01-15T23:59:59-05:00"),
    ],
)
def test_deviation_and_its_absence(raw: str, expected: str) -> None:
    value = decode_clock(bytes.fromhex(raw.replace(" ", "")))
    assert value.to_epoch_ms(BOGOTA) == ms(expected)


def test_unknown_and_zero_deviation_are_told_apart() -> None:
    local = datetime(2025, 6, 1, 12, 0, 0)
    assert decode_clock(encode_parts(local, 0, 0)).deviation_min == 0
    assert decode_clock(encode_parts(local, None, 0)).deviation_min is None


@pytest.mark.parametrize(
    ("status", "expected"), [(0x80, "2025-10-26T02:30:00+02:00"), (0x00, "2025-10-26T02:30:00+01:00")]
)
def test_the_hour_that_occurs_twice_is_decided_by_the_status(status: int, expected: str) -> None:
    raw = encode_parts(datetime(2025, 10, 26, 2, 30), None, status)
    assert decode_clock(raw).to_epoch_ms(BERLIN) == ms(expected)


def test_wildcards_are_kept_and_are_no_moment() -> None:
    value = decode_clock(bytes.fromhex("FFFF FF FF FF FF FF FF FF 8000 FF".replace(" ", "")))
    assert value.is_null
    assert value.to_epoch_ms(BOGOTA) is None
    assert value.isoformat() == "****-**-**T**:**:**"
    only_time = decode_clock(bytes.fromhex("FFFF FF FF FF 0C 1E 00 FF 8000 FF".replace(" ", "")))
    assert not only_time.is_null
    assert only_time.isoformat() == "****-**-**T12:30:00"


def test_reversed_deviation_is_a_setting() -> None:
    raw = encode_parts(datetime(2025, 1, 1, 7, 0, 0), -300, 0)
    assert decode_clock(raw).to_epoch_ms(BOGOTA, deviation_reversed=True) == ms("2025-01-01T07:00:00-05:00")
    assert decode_clock(raw).to_epoch_ms(BOGOTA) == ms("2025-01-01T07:00:00+05:00")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x07" * 11,
        b"\x07\xe9\x0d\x01\x01\x00\x00\x00\x00\x00\x00\x00",
        b"\x07\xe9\x01\x01\x01\x18\x00\x00\x00\x00\x00\x00",
        b"\x07\xe9\x01\x01\x01\x00\x00\x00\x00\x7f\xff\x00",
    ],
)
def test_impossible_clocks_are_errors(raw: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_clock(raw)


@given(st.binary(min_size=12, max_size=12))
def test_any_twelve_bytes_are_a_value_or_an_error(raw: bytes) -> None:
    try:
        value = decode_clock(raw)
    except DecodeError:
        return
    value.isoformat()
    moment = value.to_epoch_ms(BERLIN)
    assert moment is None or abs(moment) < 10**15


def test_february_30_is_no_moment() -> None:
    raw = bytes.fromhex("07E9021E 01 000000 00 0000 00".replace(" ", ""))
    assert decode_clock(raw).to_epoch_ms(BERLIN) is None


@pytest.mark.parametrize("hours", [23, 24, 25])
def test_a_day_has_as_many_hours_as_it_has(hours: int) -> None:
    start = {23: datetime(2025, 3, 30), 24: datetime(2025, 6, 1), 25: datetime(2025, 10, 26)}[hours]
    first = start.replace(tzinfo=BERLIN)
    end_ms = int((start + timedelta(days=1)).replace(tzinfo=BERLIN).timestamp() * 1000)
    stamps = range(int(first.timestamp() * 1000), end_ms, 900_000)
    read_back = {decode_clock(encode_clock(stamp, BERLIN)).to_epoch_ms(BERLIN) for stamp in stamps}
    assert len(read_back) == hours * 4


@pytest.mark.parametrize(
    "raw",
    ["07e9010108000000640000 00", "07e9010101000000000f00 00", "07e901010100000000 7fff 00"],
    ids=["weekday and hundredths", "deviation", "a large deviation"],
)
def test_a_moment_stands_without_the_fields_that_no_moment_needs(raw: str) -> None:
    octets = bytes.fromhex(raw.replace(" ", ""))
    with pytest.raises(DecodeError):
        decode_clock(octets)
    value = decode_clock(octets, lenient=True)
    assert value.isoformat().startswith("2025-01-01T00:00:00")
    assert value.to_epoch_ms(ZoneInfo("UTC")) == ms("2025-01-01T00:00:00+00:00")


def test_a_part_that_a_moment_needs_is_an_error_all_the_same() -> None:
    with pytest.raises(DecodeError):
        decode_clock(bytes.fromhex("07e90d01010000000000 0000".replace(" ", "")), lenient=True)
