"""What anybody on the network can send, as functions of bytes: each ends soon, in a value or in an error of the house.

`TARGETS` are driven by hypothesis in the suite and by atheris for longer (`run_atheris.py`).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from datetime import timezone
from zoneinfo import ZoneInfo

from dlms_connector.cosem import acse, services
from dlms_connector.cosem.association import Association, AssociationParameters
from dlms_connector.cosem.clock import decode_clock
from dlms_connector.cosem.exceptions import raise_for_exception
from dlms_connector.cosem.security import (
    AUTHENTICATED,
    ENCRYPTED,
    CipherContext,
    Ciphering,
    Mechanism,
    Protector,
    SecurityParameters,
)
from dlms_connector.cosem.services import AttributeRef, ListRequest
from dlms_connector.cosem.values import DataType, TypedValue, decode
from dlms_connector.errors import DecodeError, DlmsConnectorError, LinkTimeout
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.frames import FrameReader
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.wrapper import WrapperReader
from dlms_connector.meter.profile.columns import Layout, parse_capture_objects
from dlms_connector.meter.profile.rows import row_readings, timed_rows
from dlms_connector.meter.reading import to_plain
from dlms_connector.obis import Obis

KEY, AUTHENTICATION_KEY = bytes(16), bytes(range(16))
CLIENT_TITLE, SERVER_TITLE = b"CLIENT01", b"SERVER01"
REF = AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)
MAX_ANSWERS = 200
ZONES = (timezone.utc, ZoneInfo("Asia/Kolkata"), ZoneInfo("America/Bogota"))
"""West and east of Greenwich: the first and the last day of the calendar leave it on either side."""


class Script:
    """A channel that answers with the parts of a text; a part's first byte is how long it is."""

    def __init__(self, script: bytes, wrap: Callable[[bytes], bytes] = bytes) -> None:
        self._script = script
        self._wrap = wrap
        self._at = 0
        self.answers = 0

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        """The next part; an invoke-id is made to fit, so that the fuzzer gets past it."""
        answer = self.receive(deadline_s)
        if len(answer) > 2 and answer[0] in (0xC4, 0xC5, 0xC7) and len(apdu) > 2:
            answer = answer[:2] + apdu[2:3] + answer[3:]
        return self._wrap(answer)

    def receive(self, deadline_s: float) -> bytes:
        if self._at >= len(self._script):
            raise LinkTimeout("the script has ended")
        self.answers += 1
        assert self.answers <= MAX_ANSWERS, "asks without end"
        size = self._script[self._at] or 1
        part = self._script[self._at + 1 : self._at + 1 + size]
        self._at += 1 + size
        return part


GOOD_AARE = bytes.fromhex(
    "6129a109060760857405080101a203020100a305a103020100be10040e0800065f1f0400007e1f04000007"
)


def open_association(data: bytes) -> None:
    """An AARE and what follows it, for each mechanism."""
    for mechanism in (
        Mechanism.NONE,
        Mechanism.LLS,
        Mechanism.HLS_MD5,
        Mechanism.HLS_SHA1,
        Mechanism.HLS_SECRET,
    ):
        association = Association(
            Script(data), AssociationParameters(mechanism, b"secret"), timeout_s=1, random=bytes
        )
        with contextlib.suppress(DlmsConnectorError):
            association.open()


def open_ciphered(data: bytes) -> None:
    """The same where GMAC and ciphering are asked for."""
    for mechanism in (Mechanism.HLS_GMAC, Mechanism.HLS_SHA256):
        with contextlib.suppress(DlmsConnectorError):
            _ciphered(Script(data), mechanism).open()


def _ciphered(script: Script, mechanism: Mechanism) -> Association:
    security = SecurityParameters(
        0,
        AUTHENTICATED | ENCRYPTED,
        Ciphering.GENERAL_GLO,
        CLIENT_TITLE,
        KEY,
        AUTHENTICATION_KEY,
        SERVER_TITLE,
    )
    counter = itertools.count(1)
    parameters = AssociationParameters(mechanism, b"secret", security=security)
    return Association(script, parameters, timeout_s=1, next_counter=lambda: next(counter), random=bytes)


def _use(association: Association) -> None:
    """Every service once; an error of one leaves the next to be tried."""
    big = TypedValue(DataType.OCTET_STRING, bytes(500))
    association.max_request_bytes = 128
    for work in (
        lambda: services.get(association, REF),
        lambda: services.get_list(association, ListRequest([REF, REF, REF])),
        lambda: services.set_attribute(association, REF, TypedValue(DataType.UINT8, 1)),
        lambda: services.set_attribute(association, REF, big),
        lambda: services.execute(association, REF),
        lambda: services.execute(association, REF, big),
        association.release,
    ):
        with contextlib.suppress(DlmsConnectorError):
            work()


def answers(data: bytes) -> None:
    """Responses to GET, SET, ACTION and RLRQ in a plain association."""
    _use(Association(Script(data), AssociationParameters(), timeout_s=1))


def protected_answers(data: bytes) -> None:
    """The same contents under a good tag, as from a meter that knows the keys."""
    protector = Protector(KEY, AUTHENTICATION_KEY)
    counter = itertools.count(1)

    def wrap(plain: bytes) -> bytes:
        body = protector.protect(AUTHENTICATED | ENCRYPTED, SERVER_TITLE, next(counter), plain)
        return b"\xdb\x08" + SERVER_TITLE + acse.encode_length(len(body)) + body

    _use(_ciphered(Script(data, wrap), Mechanism.NONE))


def unprotect(data: bytes) -> None:
    """Ciphered APDUs without a good tag: never a plain one comes out."""
    security = SecurityParameters(
        0, AUTHENTICATED | ENCRYPTED, Ciphering.GLO, CLIENT_TITLE, KEY, AUTHENTICATION_KEY, SERVER_TITLE
    )
    context = CipherContext(security, lambda: 1, bytes(16))
    with contextlib.suppress(DlmsConnectorError):
        assert context.unprotect(data) == data  # what is not ciphered at all (an exception, a notification)


def acse_apdus(data: bytes) -> None:
    """AARE, InitiateResponse, ExceptionResponse."""
    for decoder in (
        acse.decode_aare,
        acse.decode_initiate_response,
        lambda apdu: raise_for_exception(apdu or b"\xd8"),
    ):
        with contextlib.suppress(DlmsConnectorError):
            decoder(data)


def profile(data: bytes) -> None:
    """Capture objects and a buffer, each as the meter may encode them."""
    split = data[0] if data else 0
    layout = None
    with contextlib.suppress(DlmsConnectorError):
        layout = Layout(parse_capture_objects(decode(data[1 : 1 + split], 0)[0], {}), 900)
    if layout is None:
        columns = decode(CAPTURE_OBJECTS, 0)[0]
        layout = Layout(parse_capture_objects(columns, {}), 900)
    with contextlib.suppress(DecodeError):
        buffer = decode(data, 1 + split)[0] if len(data) > 1 + split else None
        for zone, events in itertools.product(ZONES, (False, True)):
            for row in timed_rows(buffer, layout, zone, deviation_reversed=events, events=events):
                assert isinstance(row.ts_ms, int)
                row_readings(row, layout)


CAPTURE_OBJECTS = bytes.fromhex(
    "0102"  # array of two
    "020412000809060000010000ff0f02120000"  # the clock's time
    "020412000309060100010800ff0f02120000"  # a register's value
)


def values(data: bytes) -> None:
    """Any A-XDR value, and what is shown of it."""
    with contextlib.suppress(DecodeError):
        to_plain(decode(data, 0)[0])


def clocks(data: bytes) -> None:
    """Date-times."""
    with contextlib.suppress(DecodeError):
        clock = decode_clock(data[:12])
        for zone in ZONES:
            clock.to_epoch_ms(zone)
        clock.isoformat()


def frames(data: bytes) -> None:
    """HDLC frames, SNRM parameters, addresses, wrapper messages."""
    reader = FrameReader()
    for start in range(0, len(data), 7):
        reader.feed(data[start : start + 7])
        for _ in range(len(data) + 2):
            if reader.next() is None:
                break
        else:
            raise AssertionError("gives frames without end")
    with contextlib.suppress(DlmsConnectorError):
        LinkParameters.decode(data)
    with contextlib.suppress(ValueError):
        HdlcAddress.decode(data[:4])
    wrapper = WrapperReader(1000)
    with contextlib.suppress(DlmsConnectorError):
        wrapper.feed(data)
        while wrapper.next() is not None:
            pass


def script(*parts: bytes) -> bytes:
    """A seed for the targets that take a script."""
    return b"".join(bytes((len(part),)) + part for part in parts)


TARGETS: dict[str, tuple[Callable[[bytes], None], tuple[bytes, ...]]] = {
    "open_association": (open_association, (script(GOOD_AARE), script(b"\xd8\x01\x06\x00\x00\x01\x00"))),
    "open_ciphered": (open_ciphered, (script(GOOD_AARE),)),
    "answers": (
        answers,
        (
            script(bytes.fromhex("c401c100060000002a")),
            script(bytes.fromhex("c402c1000000000100040900"), bytes.fromhex("c402c1010000000200020101")),
            script(b"", bytes.fromhex("c403c1030006000000010101040011ff")),
            script(b"", b"", bytes.fromhex("c501c100"), bytes.fromhex("c502c100000001")),
            script(
                b"", b"", b"", b"", bytes.fromhex("c701c100010006000000ff"), bytes.fromhex("c704c100000001")
            ),
            script(bytes.fromhex("c401c1000184ffffffff00")),
        ),
    ),
    "protected_answers": (protected_answers, (script(bytes.fromhex("c401c100060000002a")),)),
    "unprotect": (
        unprotect,
        (b"\xdb\x08" + SERVER_TITLE + b"\x20\x30" + bytes(31), b"\xcc\x12\x30" + bytes(17)),
    ),
    "acse_apdus": (acse_apdus, (GOOD_AARE, bytes.fromhex("0800065f1f0400007e1f04000007"), b"\xd8\x01\x02")),
    "profile": (
        profile,
        (
            bytes((len(CAPTURE_OBJECTS),))
            + CAPTURE_OBJECTS
            + bytes.fromhex(
                "010202 02090c07ea0a19ff0c0000ff800000 060000002a 0202 00 0600000030".replace(" ", "")
            ),
            bytes((len(CAPTURE_OBJECTS),))
            + CAPTURE_OBJECTS
            + bytes.fromhex(
                "010202 02090c000101010000000000800000 060000002a 0202 090c270f0c1f05173b3b00800000 0600000030".replace(
                    " ", ""
                )
            ),
        ),
    ),
    "values": (values, (bytes.fromhex("0203090c07ea0a19ff0c0000ff800000120001010111ff"),)),
    "clocks": (clocks, (bytes.fromhex("07ea0a19ff0c0000ff800000"),)),
    "frames": (frames, (bytes.fromhex("7ea00a00020023219318717e"), bytes.fromhex("0001000100100003c40100"))),
}
