"""Frames survive any cutting, any rubbish around them and any content; gurux_dlms is the other witness."""

from __future__ import annotations

import itertools
import random

import pytest
from gurux_dlms import GXByteBuffer, GXDLMSClient, GXReplyData
from gurux_dlms.enums import Authentication, InterfaceType
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.framing.addresses import HdlcAddress, encode_client
from dlms_connector.framing.control import SNRM, UA, information
from dlms_connector.framing.frames import (
    FRAME_LENGTH_MAX_BYTES,
    BadFrame,
    Frame,
    FrameDecoder,
    FrameEncoder,
    FrameReader,
    encode_frame,
    fcs16,
)
from dlms_connector.framing.parameters import LinkParameters

METER = HdlcAddress(1, 17, 2).encode()
CLIENT = encode_client(16)

addresses = st.one_of(
    st.integers(0, 127).map(lambda value: bytes((value << 1 | 1,))),
    st.tuples(st.integers(0, 127), st.integers(0, 127)).map(lambda v: bytes((v[0] << 1, v[1] << 1 | 1))),
    st.tuples(*[st.integers(0, 127)] * 4).map(
        lambda v: bytes((*(part << 1 for part in v[:3]), v[3] << 1 | 1))
    ),
)
contents = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([0x7E, 0xA0, 0x00, 0x07, 0xE6]), max_size=60).map(bytes),
)
frames = st.builds(
    Frame,
    destination=addresses,
    source=addresses,
    control=st.integers(0, 255),
    information=contents,
    segmented=st.booleans(),
)


def encode(frame: Frame) -> bytes:
    return encode_frame(
        frame.destination, frame.source, frame.control, frame.information, segmented=frame.segmented
    )


def read_all(*chunks: bytes) -> list[Frame | BadFrame]:
    reader = FrameReader()
    seen: list[Frame | BadFrame] = []
    for chunk in chunks:
        reader.feed(chunk)
        while (outcome := reader.next()) is not None:
            seen.append(outcome)
    return seen


def bitwise_fcs(data: bytes) -> int:
    """The definition, bit by bit: polynomial x16 + x12 + x5 + 1, reflected."""
    register = 0xFFFF
    for value in data:
        register ^= value
        for _ in range(8):
            register = register >> 1 ^ 0x8408 if register & 1 else register >> 1
    return register ^ 0xFFFF


def test_fcs_has_the_published_check_value() -> None:
    assert fcs16(b"123456789") == 0x906E


@given(st.binary(max_size=300))
def test_fcs_is_the_bitwise_definition(data: bytes) -> None:
    assert fcs16(data) == bitwise_fcs(data)


@given(frames)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert read_all(encode(frame)) == [frame]


@given(st.lists(frames, min_size=1, max_size=4), st.booleans(), st.data())
def test_frames_arrive_however_the_stream_is_cut(
    sent: list[Frame], shared_flag: bool, data: st.DataObject
) -> None:
    stream = b"".join(encode(frame)[: -1 if shared_flag else None] for frame in sent) + b"\x7e"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    edges = [0, *cuts, len(stream)]
    assert read_all(*(stream[a:b] for a, b in itertools.pairwise(edges))) == sent


@given(frames, st.binary(max_size=40).filter(lambda rubbish: b"\x7e" not in rubbish))
def test_rubbish_around_frames_is_skipped(frame: Frame, rubbish: bytes) -> None:
    stream = rubbish + encode(frame) + rubbish + encode(frame)
    assert [seen for seen in read_all(stream) if isinstance(seen, Frame)] == [frame, frame]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived_and_a_later_frame_is_found(rubbish: bytes) -> None:
    reader = FrameReader()
    reader.feed(rubbish)
    while reader.next() is not None:
        pass
    reader.clear()
    wanted = Frame(CLIENT, METER, UA)
    reader.feed(encode(wanted))
    assert reader.next() == wanted


@given(st.binary(max_size=120), st.data())
def test_one_damaged_bit_is_reported_and_the_next_frame_survives(content: bytes, data: st.DataObject) -> None:
    frame = Frame(CLIENT, METER, information(0, 1, poll=True), content)
    damaged = bytearray(encode(frame))
    position = data.draw(st.integers(3, len(damaged) - 2))
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    seen = read_all(bytes(damaged), *[encode(frame)] * 2)
    assert isinstance(seen[0], BadFrame)
    assert seen[-1] == frame
    assert seen.count(frame) == 2


@given(frames, st.integers(0, 255), st.data())
def test_a_foreseen_frame_is_taken_where_the_reader_finds_just_that_one(
    frame: Frame, control: int, data: st.DataObject
) -> None:
    foreseen = data.draw(st.sampled_from([control, frame.control]))
    change = data.draw(st.sampled_from(["none", "bit", "cut", "more", "before"]))
    wire = bytearray(encode(frame))
    if change == "bit":
        wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif change == "cut":
        del wire[-data.draw(st.integers(1, len(wire))) :]
    elif change == "more":
        wire += data.draw(st.binary(min_size=1, max_size=3))
    elif change == "before":
        wire[:0] = data.draw(st.binary(min_size=1, max_size=3))
    information = FrameDecoder(frame.destination, frame.source).decode(foreseen, bytes(wire))
    is_it = change == "none" and foreseen == frame.control and bool(frame.information) and not frame.segmented
    assert information == (frame.information if is_it else None)
    if information is not None:
        assert read_all(bytes(wire)) == [frame]


@pytest.mark.parametrize("lost", [1, 2, 5, 19])
def test_lost_bytes_cost_only_their_own_frame(lost: int) -> None:
    frame = Frame(CLIENT, METER, information(0, 1, poll=True), bytes(range(1, 40)))
    whole = encode(frame)
    seen = read_all(whole[:20] + whole[20 + lost :], whole, whole)
    assert [type(outcome) for outcome in seen] == [BadFrame, Frame, Frame]


def test_a_wrong_length_does_not_swallow_what_follows() -> None:
    frame = Frame(CLIENT, METER, UA, b"\x01\x02\x03")
    longer = bytearray(encode(frame))
    longer[1] |= 0x07
    assert read_all(bytes(longer), encode(frame))[-1] == frame


def test_unread_bytes_are_bounded() -> None:
    reader = FrameReader()
    for _ in range(400):
        reader.feed(b"\x7e\xa7\xff" * 1_000)
    wanted = encode(Frame(CLIENT, METER, UA))
    reader.feed(wanted + wanted)
    seen = []
    while (outcome := reader.next()) is not None:
        seen.append(outcome)
    assert seen[-1] == Frame(CLIENT, METER, UA)
    assert len(seen) < 5


def test_five_thousand_values_full_of_flags_are_read() -> None:
    random_source = random.Random(7)
    reader = FrameReader()
    encoder = FrameEncoder(CLIENT, METER)
    for number in range(5_000):
        content = bytearray(random_source.randbytes(random_source.randrange(1, 120)))
        for _ in range(random_source.randrange(4)):
            content[random_source.randrange(len(content)) :] += b"\x7e\x7e"
        control = information(number % 8, number % 8, poll=True)
        reader.feed(encoder.encode(control, bytes(content)))
        assert reader.next() == Frame(CLIENT, METER, control, bytes(content))
        assert reader.next() is None


def test_check_sequences_of_7e7e_are_read() -> None:
    """Two flags at the end of a frame that are not flags: where framing by flags never finds the end."""
    encoder = FrameEncoder(CLIENT, METER)
    hits = 0
    for value in range(70_000):
        raw = encoder.encode(0x30, value.to_bytes(3, "big"))
        if raw[-3:-1] == b"\x7e\x7e" or raw[-2] == 0x7E:
            hits += 1
            assert read_all(raw) == [Frame(CLIENT, METER, 0x30, value.to_bytes(3, "big"))]
    assert hits > 200


def test_the_length_field_is_a_limit() -> None:
    fits = FRAME_LENGTH_MAX_BYTES - 2 - 3 - 1 - 2 - 2
    assert len(encode_frame(METER, CLIENT, 0x10, bytes(fits))) == FRAME_LENGTH_MAX_BYTES + 2
    with pytest.raises(ValueError, match="does not fit"):
        encode_frame(METER, CLIENT, 0x10, bytes(fits + 1))


def gurux_client(server_size: int = 2, server: int = HdlcAddress(1, 17, 2).logical << 7 | 17) -> GXDLMSClient:
    client = GXDLMSClient(True, 16, server, Authentication.NONE, None, InterfaceType.HDLC)
    client.serverAddressSize = server_size
    return client


def test_snrm_is_what_gurux_sends() -> None:
    assert encode_frame(METER, CLIENT, SNRM) == bytes(gurux_client().snrmRequest())


def test_snrm_parameters_are_what_gurux_sends() -> None:
    client = gurux_client()
    client.hdlcSettings.maxInfoTX = 96
    client.hdlcSettings.maxInfoRX = 512
    client.hdlcSettings.windowSizeTX = 2
    client.hdlcSettings.windowSizeRX = 3
    ours = LinkParameters(96, 512, 2, 3)
    assert encode_frame(METER, CLIENT, SNRM, ours.encode()) == bytes(client.snrmRequest())


def test_gurux_takes_our_ua_as_we_mean_it() -> None:
    client = gurux_client()
    client.snrmRequest()
    reply = GXReplyData()
    client.getData(
        GXByteBuffer(encode_frame(CLIENT, METER, UA, LinkParameters(96, 100, 2, 3).encode())), reply
    )
    client.parseUAResponse(reply.data)
    assert (client.hdlcSettings.maxInfoRX, client.hdlcSettings.maxInfoTX) == (96, 100)
    assert (client.hdlcSettings.windowSizeRX, client.hdlcSettings.windowSizeTX) == (2, 3)


def test_gurux_association_request_is_read() -> None:
    client = gurux_client()
    client.snrmRequest()
    reply = GXReplyData()
    client.getData(GXByteBuffer(encode_frame(CLIENT, METER, UA)), reply)
    client.parseUAResponse(reply.data)
    (raw,) = client.aarqRequest()
    (frame,) = read_all(bytes(raw))
    assert isinstance(frame, Frame)
    assert (frame.destination, frame.source) == (METER, CLIENT)
    assert frame.information[:4] == b"\xe6\xe6\x00\x60"
    assert encode(frame) == bytes(raw)


def test_a_stray_byte_before_the_opening_flag_costs_no_frame() -> None:
    """Closing flag, 0xA0, flag: that looks like a frame of 126 bytes until its header check is computed."""
    frame = Frame(b"\x01", b"\x01", 0)
    stream = encode(frame) + b"\xa0" + encode(frame)
    assert [seen for seen in read_all(stream) if isinstance(seen, Frame)] == [frame, frame]
