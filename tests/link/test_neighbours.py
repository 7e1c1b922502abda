"""Answers that are right and look another way, and refusals that say why; without sockets."""

from __future__ import annotations

import time

import pytest

from dlms_connector.cosem.acse import UNTOLD_PDU_BYTES, decode_initiate_response
from dlms_connector.errors import LinkError, LinkRejected, LinkTimeout
from dlms_connector.framing import control
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.frames import FrameEncoder
from dlms_connector.io.hdlc import HdlcClient, HdlcSettings
from tests.meter.test_facts import Bench, energy_meter

CLIENT = b"\x21"


class Scripted:
    """A stream that gives one answer after each thing that is sent."""

    def __init__(self, *answers: bytes) -> None:
        self._answers, self._here = list(answers), b""

    def send(self, data: bytes, deadline_s: float) -> None:
        self._here = self._answers.pop(0) if self._answers else b""

    def receive(self, deadline_s: float) -> bytes:
        data, self._here = self._here, b""
        if not data:
            raise LinkTimeout("nothing came")
        return data

    def discard_input(self) -> None: ...


def connect(address: HdlcAddress, *answers: bytes) -> tuple[HdlcClient, Scripted]:
    client, stream = HdlcClient(16, address, HdlcSettings(retries=0)), Scripted(*answers)
    client.connect(stream, time.monotonic() + 2)  # type: ignore[arg-type]
    return client, stream


@pytest.mark.parametrize(
    ("asked", "heard"),
    [
        (HdlcAddress(1, 17, 2), HdlcAddress(1, 17, 4)),
        (HdlcAddress(1, 17, 4), HdlcAddress(1, 17, 2)),
        (HdlcAddress(1, 100, 4), HdlcAddress(1, 100, 2)),
    ],
)
def test_the_same_address_in_another_number_of_bytes_is_the_same_meter(
    asked: HdlcAddress, heard: HdlcAddress
) -> None:
    encoder = FrameEncoder(CLIENT, heard.encode())
    answer = encoder.encode(control.information(0, 1, poll=True), bytes.fromhex("e6e700c401c10006"))
    client, stream = connect(asked, encoder.encode(0x73), answer)
    got = client.exchange(stream, bytes.fromhex("c001c1"), time.monotonic() + 2)  # type: ignore[arg-type]
    assert got == bytes.fromhex("c401c10006")


@pytest.mark.parametrize("heard", [HdlcAddress(1, 18, 4), HdlcAddress(17, 1, 4), HdlcAddress(1, 0, 1)])
def test_another_address_is_another_meter(heard: HdlcAddress) -> None:
    with pytest.raises(LinkError):
        connect(HdlcAddress(1, 17, 2), FrameEncoder(CLIENT, heard.encode()).encode(0x73))


@pytest.mark.parametrize(
    ("information", "words"),
    [
        ("100001", "control field invalid"),
        ("100002", "may bear none"),
        ("100004", "too long"),
        ("100008", "invalid N"),
        ("10000c", "too long .*invalid N"),
        ("100000", "no reason told"),
        ("", "no reason told"),
        ("10", "10"),
    ],
)
def test_a_rejected_frame_says_why(information: str, words: str) -> None:
    address = HdlcAddress(1, 17, 2)
    answer = FrameEncoder(CLIENT, address.encode()).encode(control.FRMR, bytes.fromhex(information))
    with pytest.raises(LinkRejected, match=words):
        connect(address, answer)


def test_the_conformance_tag_of_the_first_edition_is_read() -> None:
    new = decode_initiate_response(bytes.fromhex("0800065f1f0400001e1d04c80007"))
    assert decode_initiate_response(bytes.fromhex("0800065f0400001e1d04c80007")) == new


def test_an_association_without_a_context_is_read_with_care_and_told_once() -> None:
    meter = energy_meter()
    answer = meter.answer
    bare = bytes.fromhex("6117a1090607608574050801 01a203020100a305a103020100")
    meter.answer = lambda apdu: bare if apdu[0] == 0x60 else answer(apdu)  # type: ignore[method-assign]
    bench = Bench(meter)
    for _ in range(3):
        assert bench.values() == {"energy": 64300.834}
        bench.session.close(0.0)
    assert len([event for event in bench.events if str(UNTOLD_PDU_BYTES) in event]) == 1
