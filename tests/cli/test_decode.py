"""`decode` on frames, messages and APDUs; gurux_dlms' translator as the other reader of the same bytes."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from gurux_dlms.GXDLMSTranslator import GXDLMSTranslator
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cli.decode import bytes_in_log, describe, parse_hex
from dlms_connector.cosem.security import Protector
from dlms_connector.errors import CommandError
from dlms_connector.explain import Keys, explain
from dlms_connector.framing.frames import encode_frame
from dlms_connector.io.wrapper import encode_wrapper
from tests.support.command_line import run
from tests.support.simulated import aarq, get_normal

EK = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
AK = bytes.fromhex("D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF")
TITLE = bytes.fromhex("4D4D4D0000BC614E")
GET_CLOCK = bytes.fromhex("C0010000080000010000FF0200")
# Green Book 9.2.7.2.4.2: the same request authenticated and encrypted.
GLO_GET = bytes.fromhex("C81E3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B")
GET_VOLTAGE = get_normal(3, "1.0.32.7.0.255", 2)
GET_ANSWER = bytes.fromhex("C401C100060000590A")
SNRM = encode_frame(b"\x03", b"\x21", 0x93)


def texts(node):
    """Every line of the tree as `label: text`."""
    yield f"{node.label}: {node.text}"
    for child in node.children:
        yield from texts(child)


def tree(data, keys=None):
    root = explain(data, describe, keys)
    return root, "\n".join(texts(root))


def frame(apdu, control=0x10, response=False, segmented=False):
    header = b"\xe6\xe7\x00" if response else b"\xe6\xe6\x00"
    return encode_frame(b"\x03", b"\x21", control, header + apdu, segmented=segmented)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (SNRM, ["HDLC frame", "destination: 1", "source: 16", "SNRM connect", "frame check (FCS): right"]),
        (
            frame(GET_VOLTAGE),
            ["LLC header: to the meter", "get-request: normal", "1-0:32.7.0 (voltage_l1), class 3 register"],
        ),
        (encode_wrapper(16, 1, GET_ANSWER), ["source port: 16", "get-response: normal", "uint32 22794"]),
        (GET_ANSWER, ["invoke-id 1, confirmed, high priority", "uint32 22794"]),
        (aarq(), ["AARQ", "logical names, plain", "proposed conformance", "65535 bytes"]),
        (bytes.fromhex("6203800100"), ["RLRQ", "reason: normal"]),
        (bytes.fromhex("D8010600000FA0"), ["service not allowed", "invocation counter error", "4000"]),
        (bytes.fromhex("0E010603"), ["service: initiate", "error: 3"]),
        (bytes.fromhex("C401C10104"), ["data-access-result: 4 object undefined"]),
        (bytes.fromhex("C403C1020011050103"), ["result 1 of 2", "uint8 5", "3 read write denied"]),
        (bytes.fromhex("C402C1000000000100030A0B0C"), ["last block: no", "block number: 1", "0A 0B 0C"]),
        (bytes.fromhex("C101C100080000010000FF0200090100"), ["set-request: normal", "class 8 clock"]),
        (bytes.fromhex("C301C10046000060030AFF01010F00"), ["method 1", "disconnect control", "int8 0"]),
        (bytes.fromhex("C701C10000"), ["action-result: 0 success"]),
        (bytes.fromhex("0F00000001001601"), ["data-notification", "enum 1"]),
        (bytes.fromhex("0203110112001E09060100010800FF"), ["A-XDR data", "structure of 3", "1-0:1.8.0"]),
        (bytes.fromhex("010211051106"), ["A-XDR data", "array of 2", "uint8 6"]),
        (bytes.fromhex("090C07EA0301FF061E0000003C00"), ["2026-03-01T06:30:00"]),
    ],
    ids=lambda value: value[:8].hex() if isinstance(value, bytes) else "",
)
def test_what_the_bytes_mean(data, lines):
    root, text = tree(data)
    assert not root.has_fault, text
    for line in lines:
        assert line in text


@pytest.mark.parametrize(
    ("data", "message", "offset"),
    [
        (SNRM[:-3], "frame check", len(SNRM) - 3),
        (SNRM[:-1], "closing flag", len(SNRM) - 1),
        (SNRM[:-2] + b"\x00\x7e", "wrong", len(SNRM) - 3),
        (encode_wrapper(16, 1, GET_ANSWER)[:-2], "2 bytes of the announced 9 are missing", 15),
        (GET_ANSWER[:-1], "truncated", 5),
        (GET_VOLTAGE[:5], "logical name", 5),
        (aarq()[:20], "announced", 2),
        (bytes.fromhex("C409C1"), "of type 9", 1),
        (bytes.fromhex("02FF11"), "length", 1),
        (b"\xab\xcd", "byte AB begins no", 0),
        (frame(GET_ANSWER, segmented=True), "last segment is missing", None),
    ],
    ids=lambda value: value[:6].hex() if isinstance(value, bytes) else "",
)
def test_what_is_wrong_is_told_with_its_byte(data, message, offset):
    root, text = tree(data)
    assert root.has_fault
    assert message in text
    if offset is not None:
        assert any(node.start == offset for node in faults(root)), text


def faults(node):
    if node.is_fault:
        yield node
    for child in node.children:
        yield from faults(child)


def test_segments_are_joined():
    apdu = b"\xe6\xe7\x00" + bytes.fromhex("C401C1000920") + bytes(range(32))
    parts = [
        encode_frame(b"\x21", b"\x03", 0x30 + 2 * number, part, segmented=number < 2)
        for number, part in enumerate((apdu[:15], apdu[15:30], apdu[30:]))
    ]
    root, text = tree(b"".join(parts))
    assert not root.has_fault
    assert "octet-string 0001020304" in text


def test_a_damaged_frame_does_not_hide_the_next():
    root, text = tree(b"\x7e\xa0\x07\x02\x02\x02" + frame(GET_VOLTAGE))
    assert [node.start for node in faults(root)] == [3]
    assert "get-request: normal" in text


def test_flags_may_be_shared_and_may_stand_inside():
    apdu = bytes.fromhex("C401C10009047E7EA07E")
    root, text = tree(frame(GET_VOLTAGE)[:-1] + frame(apdu, response=True))
    assert not root.has_fault
    assert "7E7EA07E" in text


def test_passwords_and_dedicated_keys_are_not_shown(capsys):
    root, text = tree(aarq(mechanism=1, value=b"12345678"))
    assert not root.has_fault
    assert "LLS" in text
    assert "8 bytes, a password, not shown" in text
    initiate = bytes.fromhex("01011000112233445566778899AABBCCDDEEFF0000065F1F0400001E1D0400")
    root, text = tree(initiate)
    assert "16 bytes, not shown" in text
    for secret in ("12345678", "3132", "33 34", "112233", "11 22"):
        assert secret not in text


def test_a_challenge_is_no_secret():
    _, text = tree(aarq(mechanism=5, value=bytes(range(16))))
    assert "HLS 5 (GMAC)" in text
    assert "00 01 02 03" in text


def test_the_green_books_ciphered_request_opens():
    root, text = tree(GLO_GET, Keys(EK, AK, titles=(TITLE,)))
    assert not root.has_fault
    assert "glo-get-request" in text
    assert "the tag is verified" in text
    assert "class 8 clock" in text


@pytest.mark.parametrize(
    ("keys", "line", "is_fault"),
    [
        (Keys(), "no key is given", False),
        (Keys(EK, AK), "give --system-title", False),
        (Keys(EK, titles=(TITLE,)), "the tag is not verified", False),
        (Keys(AK, EK, titles=(TITLE,)), "the authentication tag is wrong", True),
        (Keys(EK, AK, titles=(b"12345678", TITLE)), "the tag is verified", False),
    ],
)
def test_missing_and_wrong_keys_are_told(keys, line, is_fault):
    root, text = tree(GLO_GET, keys)
    assert line in text
    assert root.has_fault is is_fault


def test_the_title_of_an_aarq_opens_what_follows():
    initiate = bytes.fromhex("01000000065F1F0400001E1D0400")
    body = Protector(EK, AK).protect(0x30, TITLE, 1, initiate)
    glo = bytes((0x21, len(body))) + body
    contents = (
        bytes.fromhex("A109060760857405080103A60A0408")
        + TITLE
        + bytes((0xBE, len(glo) + 2, 4, len(glo)))
        + glo
    )
    request = bytes((0x60, len(contents))) + contents
    root, text = tree(encode_wrapper(1, 1, request) + encode_wrapper(1, 1, GLO_GET), Keys(EK, AK))
    assert not root.has_fault, text
    assert "logical names, ciphered" in text
    assert text.count("the tag is verified") == 2


def test_general_glo_bears_its_title():
    body = Protector(EK, AK).protect(0x30, TITLE, 7, GET_CLOCK)
    root, text = tree(b"\xdb\x08" + TITLE + bytes((len(body),)) + body, Keys(EK, AK))
    assert not root.has_fault
    assert "4D 4D 4D 00 00 BC 61 4E" in text
    assert "invocation counter: 7" in text


@given(st.binary(max_size=120))
def test_no_bytes_raise(data):
    explain(data, describe, Keys(EK, AK, EK, (TITLE,)))


@given(st.sampled_from([SNRM, frame(GET_VOLTAGE), aarq(), GLO_GET, GET_ANSWER]), st.data())
def test_no_mutation_raises(data, draw):
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + bytes((draw.draw(st.integers(0, 255)),)) + data[at + 1 :]
    explain(changed[: draw.draw(st.integers(0, len(data)))], describe, Keys(EK, AK, EK, (TITLE,)))


def test_deep_and_long_data_is_bounded():
    root, text = tree(b"\x02\x01" * 5000 + b"\x00")
    assert "nested deeper" in text
    rows = b"\x01\x82\x0b\xb8" + b"\x02\x02\x11\x01\x11\x02" * 3000
    root, text = tree(rows)
    assert not root.has_fault
    assert "2900 more elements" in text


@pytest.mark.parametrize(
    "text",
    [
        "C401C1000011",
        "c4 01 c1 00 00 11",
        "C4:01:C1:00:00:11",
        "0xC4, 0x01, 0xC1, 0x00, 0x00, 0x11",
        "C4-01\nC1 00\r\n00 11",
    ],
)
def test_dumps_of_every_style(text):
    assert parse_hex(text) == bytes.fromhex("C401C1000011")


def test_log_lines_give_their_bytes():
    text = "2026-03-01 06:30:00 TX: 7E A0 07 03 21 93 0F 01 7E\nnothing here\n12:00:01 RX 0x7E 0xA0 0x07\n"
    assert bytes_in_log(text) == bytes.fromhex("7EA0070321930F017E7EA007")


@pytest.mark.parametrize("text", ["", "C4 0", "C4 XY", "  "])
def test_what_is_no_dump_is_told(text):
    with pytest.raises(CommandError):
        parse_hex(text)


def test_the_command_with_keys_by_reference(monkeypatch):
    monkeypatch.setenv("DECODE_EK", EK.hex())
    monkeypatch.setenv("DECODE_AK", AK.hex())
    words = ("--key-env", "DECODE_EK", "--auth-key-env", "DECODE_AK", "--system-title", TITLE.hex())
    result = run("decode", GLO_GET.hex(), *words)
    assert result.code == 0
    assert "clock" in result.out
    assert EK.hex() not in (result.out + result.err).lower().replace(" ", "")
    assert run("decode", "C4 01", "--json").code == 1
    monkeypatch.setenv("DECODE_EK", "canary-no-key")
    bad = run("decode", GLO_GET.hex(), *words)
    assert bad.code == 1
    assert "canary" not in bad.out + bad.err


def test_bytes_from_a_pipe():
    script = "from dlms_connector.cli.main import main; main()"
    finished = subprocess.run(
        [sys.executable, "-c", script, "decode", "-"],
        input=frame(GET_VOLTAGE).hex(" "),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert finished.returncode == 0, finished.stderr
    assert "voltage_l1" in finished.stdout


GURUX_WITNESSES = {
    "get-request": (GET_VOLTAGE, "GetRequest", ["0003", "0100200700FF", "02"]),
    "get-response": (GET_ANSWER, "GetResponse", ["0000590A"]),
    "set-request": (
        bytes.fromhex("C101C100080000010000FF0200120005"),
        "SetRequest",
        ["0008", "0000010000FF", "0005"],
    ),
    "action-request": (
        bytes.fromhex("C301C10046000060030AFF01010F00"),
        "ActionRequest",
        ["0046", "0000600300AFF"[:4]],
    ),
    "RLRQ": (bytes.fromhex("6203800100"), "ReleaseRequest", []),
    "exception-response": (bytes.fromhex("D80102"), "ExceptionResponse", []),
    "AARQ": (aarq(), "AssociationRequest", []),
}


@pytest.mark.parametrize("name", GURUX_WITNESSES)
def test_gurux_reads_the_same_apdu(name):
    data, element, values = GURUX_WITNESSES[name]
    root, text = tree(data)
    xml = GXDLMSTranslator().pduToXml(data)
    document = ElementTree.fromstring(xml)  # noqa: S314 - gurux's own
    assert element.lower() in document.tag.lower()
    assert name.lower() in text.lower()
    assert not root.has_fault
    for value in values:
        assert value in xml
    for (
        node
    ) in document.iter():  # its numbers are hexadecimal in attributes; each of its objects is in our tree
        if node.tag == "ClassId":
            assert f"class {int(node.attrib['Value'], 16)}" in text
        if node.tag == "InstanceId":
            assert ".".join(str(byte) for byte in bytes.fromhex(node.attrib["Value"])[2:5]) in text
        if node.tag == "UInt32":
            assert f"uint32 {int(node.attrib['Value'], 16)}" in text


def test_gurux_reads_the_same_frames():
    data = frame(GET_VOLTAGE)
    xml = GXDLMSTranslator().messageToXml(bytearray(data))
    root, text = tree(data)
    assert not root.has_fault
    assert re.search(r"<GetRequestNormal", xml)
    assert "get-request: normal" in text
