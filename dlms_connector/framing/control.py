"""The control byte of an HDLC frame: kind, sequence numbers, poll/final bit; Green Book clause 8.4.3."""

from __future__ import annotations

from enum import IntEnum

POLL_FINAL = 0x10
MODULO = 8

SNRM = 0x93
DISC = 0x53
UA = 0x73
DM = 0x1F
FRMR = 0x97
UI = 0x03
"""Without the poll bit, as meters push; `UI | POLL_FINAL` asks."""


class Kind(IntEnum):
    """What a frame is, without poll bit and sequence numbers."""

    I = 0x00  # noqa: E741 - the standard's own name
    RR = 0x01
    RNR = 0x05
    REJ = 0x09
    UI = 0x03
    DM = 0x0F
    DISC = 0x43
    UA = 0x63
    SNRM = 0x83
    FRMR = 0x87
    UNKNOWN = 0xFF


def _kind(control: int) -> Kind:
    if not control & 0x01:
        return Kind.I
    code = control & 0x0F if control & 0x03 == 0x01 else control & ~POLL_FINAL
    return Kind(code) if code in Kind.__members__.values() else Kind.UNKNOWN


_KINDS = tuple(_kind(control) for control in range(256))


def kind(control: int) -> Kind:
    """What the control byte says the frame is."""
    return _KINDS[control]


def is_final(control: int) -> bool:
    """Poll bit of a command, final bit of an answer: the other side may speak now."""
    return bool(control & POLL_FINAL)


def send_number(control: int) -> int:
    """N(S) of an I frame."""
    return control >> 1 & 0x07


def receive_number(control: int) -> int:
    """N(R) of an I, RR, RNR or REJ frame: the next N(S) its sender expects."""
    return control >> 5


def information(send: int, receive: int, *, poll: bool) -> int:
    """Control byte of an I frame."""
    return receive << 5 | (POLL_FINAL if poll else 0) | send << 1


def receive_ready(receive: int, *, poll: bool = True) -> int:
    """Control byte of RR: everything before `receive` has arrived, go on."""
    return receive << 5 | (POLL_FINAL if poll else 0) | Kind.RR


def receive_not_ready(receive: int, *, poll: bool = True) -> int:
    """Control byte of RNR: everything before `receive` has arrived, but wait."""
    return receive << 5 | (POLL_FINAL if poll else 0) | Kind.RNR


def reject(receive: int, *, poll: bool = True) -> int:
    """Control byte of REJ: send again from `receive` on."""
    return receive << 5 | (POLL_FINAL if poll else 0) | Kind.REJ


_REJECT_REASONS = (
    "control field invalid or not implemented (W)",
    "information where the frame may bear none (X)",
    "information too long (Y)",
    "invalid N(R) (Z)",
)


def frame_reject_reason(information: bytes) -> str:
    """What the information of a FRMR says (ISO/IEC 13239): the bits W, X, Y, Z of its third octet, in words."""
    if len(information) < 3:
        return "no reason told" if not information else f"its information is {information.hex().upper()}"
    reasons = [text for bit, text in enumerate(_REJECT_REASONS) if information[2] >> bit & 1]
    return f"{', '.join(reasons) or 'no reason told'}; rejected control field {information[0]:02X}"
