"""Addresses, control bytes and link parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.framing import control
from dlms_connector.framing.addresses import HdlcAddress, decode_client, encode_client
from dlms_connector.framing.control import Kind
from dlms_connector.framing.parameters import LinkParameters

parameters = st.builds(
    LinkParameters, st.integers(1, 2030), st.integers(1, 2030), st.integers(1, 7), st.integers(1, 7)
)


@pytest.mark.parametrize(
    ("address", "wire"),
    [
        (HdlcAddress(0, 1, 1), "03"),
        (HdlcAddress(1, 0, 1), "03"),
        (HdlcAddress(1, 17, 2), "0223"),
        (HdlcAddress(1, 17, 4), "00020023"),
        (HdlcAddress(1, 0x3FFF, 4), "0002feff"),
        (HdlcAddress(0x1234, 5678, 4), "4868585d"),
    ],
)
def test_addresses_are_seven_bits_a_byte(address: HdlcAddress, wire: str) -> None:
    assert address.encode().hex() == wire


@given(st.sampled_from([2, 4]), st.integers(0, 127), st.integers(0, 127))
def test_addresses_come_back(size: int, logical: int, physical: int) -> None:
    address = HdlcAddress(logical, physical, size)
    assert HdlcAddress.decode(address.encode()) == address


@pytest.mark.parametrize(
    ("logical", "physical", "size"),
    [(1, 1, 1), (0, 128, 1), (1, 200, 2), (1, 1 << 14, 4), (1, 1, 3), (-1, 1, 2)],
)
def test_addresses_that_do_not_fit_are_told(logical: int, physical: int, size: int) -> None:
    with pytest.raises(ValueError, match="HDLC"):
        HdlcAddress(logical, physical, size)


@pytest.mark.parametrize("wire", ["", "02", "0303", "020223", "0202020203"])
def test_bytes_that_are_no_address_are_told(wire: str) -> None:
    with pytest.raises(ValueError, match="HDLC"):
        HdlcAddress.decode(bytes.fromhex(wire))


def test_special_addresses_are_known() -> None:
    assert HdlcAddress(1, 0x3FFF, 4).is_broadcast
    assert HdlcAddress(1, 127, 2).is_broadcast
    assert not HdlcAddress(1, 127, 4).is_broadcast
    assert HdlcAddress(0, 0, 1).is_no_station


def test_clients_have_one_byte() -> None:
    assert encode_client(16) == b"\x21"
    assert decode_client(b"\x21") == 16
    with pytest.raises(ValueError, match="client"):
        encode_client(128)
    with pytest.raises(ValueError, match="client"):
        decode_client(b"\x02\x21")


@given(st.integers(0, 7), st.integers(0, 7), st.booleans())
def test_control_bytes_carry_their_numbers(send: int, receive: int, poll: bool) -> None:
    byte = control.information(send, receive, poll=poll)
    assert (control.kind(byte), control.send_number(byte), control.receive_number(byte)) == (
        Kind.I,
        send,
        receive,
    )
    assert control.is_final(byte) is poll
    for build, kind in (
        (control.receive_ready, Kind.RR),
        (control.receive_not_ready, Kind.RNR),
        (control.reject, Kind.REJ),
    ):
        byte = build(receive, poll=poll)
        assert (control.kind(byte), control.receive_number(byte)) == (kind, receive)
        assert control.is_final(byte) is poll


@pytest.mark.parametrize(
    ("byte", "kind"),
    [
        (0x93, Kind.SNRM), (0x53, Kind.DISC), (0x73, Kind.UA), (0x63, Kind.UA), (0x1F, Kind.DM),
        (0x0F, Kind.DM), (0x97, Kind.FRMR), (0x87, Kind.FRMR), (0x03, Kind.UI), (0x13, Kind.UI),
        (0x31, Kind.RR), (0x10, Kind.I), (0xEF, Kind.UNKNOWN),
    ],
)  # fmt: skip
def test_kinds_do_not_depend_on_the_final_bit(byte: int, kind: Kind) -> None:
    assert control.kind(byte) is kind


@given(parameters)
def test_link_parameters_come_back(wanted: LinkParameters) -> None:
    assert LinkParameters.decode(wanted.encode()) == wanted


@pytest.mark.parametrize(
    ("wire", "wanted"),
    [
        ("", LinkParameters()),
        ("818000", LinkParameters()),
        ("8180 12 050180 060180 070400000001 080400000001", LinkParameters()),
        ("8180 14 05020080 06020400 070400000001 080400000003", LinkParameters(128, 1024, 1, 3)),
        ("8180 06 05013E 080103", LinkParameters(information_transmit_bytes=0x3E, window_receive_frames=3)),
        ("8180 FF 050120 0502", LinkParameters(information_transmit_bytes=0x20)),
        ("8180 09 0500 060100 0804FFFFFFFF", LinkParameters(window_receive_frames=7)),
        ("8180 08 F00201 02 050140", LinkParameters(information_transmit_bytes=0x40)),
        ("DEADBEEF", LinkParameters()),
    ],
)
def test_link_parameters_as_meters_send_them(wire: str, wanted: LinkParameters) -> None:
    assert LinkParameters.decode(bytes.fromhex(wire)) == wanted


@given(st.binary(max_size=60))
def test_no_bytes_break_link_parameters(rubbish: bytes) -> None:
    LinkParameters.decode(b"\x81\x80" + rubbish)


def test_negotiation_takes_the_smaller_of_what_one_sends_and_the_other_receives() -> None:
    ours = LinkParameters(512, 1024, 3, 7)
    theirs = LinkParameters(200, 100, 2, 1)
    assert ours.negotiate(theirs) == LinkParameters(100, 200, 1, 2)
