"""HDLC frames and wrapper messages explained; the APDUs inside go on to `apdu` (Green Book 7.3, 8.4)."""

from __future__ import annotations

import re

from dlms_connector.errors import DecodeError
from dlms_connector.explain.apdu import ApduExplainer
from dlms_connector.explain.tree import Cursor, Node, hex_text
from dlms_connector.framing import control as ctl
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.frames import FLAG, FRAME_LENGTH_MAX_BYTES, fcs16
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import LLC_COMMAND, LLC_RESPONSE
from dlms_connector.io.wrapper import HEADER_BYTES, VERSION

_SEGMENTED = 0x0800
_CHECK_BYTES = 2
_ADDRESS_MAX_BYTES = 4
_OPENING = re.compile(rb"\x7e[\xa0-\xaf]", re.DOTALL)
_MAX_FAULTS = 50
_KIND_WORDS = {
    ctl.Kind.I: "information", ctl.Kind.RR: "receive ready", ctl.Kind.RNR: "receive not ready",
    ctl.Kind.REJ: "reject", ctl.Kind.UI: "unnumbered information", ctl.Kind.DM: "disconnected mode",
    ctl.Kind.DISC: "disconnect", ctl.Kind.UA: "acknowledged", ctl.Kind.SNRM: "connect",
    ctl.Kind.FRMR: "frame rejected",
}  # fmt: skip


class FrameExplainer:
    """Explains one input of frames or messages; joins segments by their pair of stations."""

    def __init__(self, apdus: ApduExplainer) -> None:
        self._apdus = apdus
        self._segments: dict[tuple[bytes, bytes], list[bytes]] = {}
        self._faults = 0

    def hdlc(self, root: Node, data: bytes) -> None:
        """Every frame of the input. Raises DecodeError; what was read before stays in the tree."""
        cursor = Cursor(data)
        while cursor.left:
            if cursor.data[cursor.at] != FLAG:
                start = cursor.at
                end = data.find(FLAG, start)
                cursor.at = len(data) if end < 0 else end
                root.add("bytes between frames", hex_text(data[start : cursor.at]), start, cursor.at)
            elif cursor.left == 1 or data[cursor.at + 1] == FLAG:
                cursor.at += 1  # a closing flag by itself
            else:
                self._frame_or_fault(root, cursor)
        for parts in self._segments.values():
            root.fail(f"the last segment is missing behind {sum(map(len, parts))} bytes", cursor.end)

    def _frame_or_fault(self, root: Node, cursor: Cursor) -> None:
        """A frame that cannot be read is told, and the next flag that opens one is looked for."""
        start = cursor.at
        try:
            self._frame(root, cursor)
        except DecodeError as error:
            self._faults += 1
            following = _OPENING.search(cursor.data, start + 1)
            if following is None or self._faults >= _MAX_FAULTS:
                raise
            root.children[-1].fail(error.message, error.offset)
            root.children[-1].end = cursor.at = following.start()

    def _frame(self, root: Node, cursor: Cursor) -> None:
        start = cursor.at
        cursor.at += 1
        node = root.add("HDLC frame", "", start, cursor.end)
        frame_format = cursor.number(2, "frame format")
        length = frame_format & FRAME_LENGTH_MAX_BYTES
        segmented = bool(frame_format & _SEGMENTED)
        if frame_format & 0xF000 != 0xA000:
            raise DecodeError(f"frame format {frame_format:04X} is not type 3 (Axxx)", offset=start + 1)
        node.text = f"{length} bytes{', segmented' if segmented else ''}"
        frame = Cursor(cursor.data, cursor.at, min(start + 1 + length, cursor.end))
        destination = _address(node, frame, "destination")
        source = _address(node, frame, "source")
        at = frame.at
        control = frame.number(1, "control")
        node.add("control", _control_text(control), at, frame.at)
        information = self._information(node, frame, start + 1, length)
        node.end = cursor.at = frame.at
        if cursor.left and cursor.data[cursor.at] == FLAG:
            cursor.at += 1
            node.end = cursor.at
            if cursor.left and cursor.data[cursor.at] & 0xF0 == 0xA0:
                cursor.at -= 1  # the flag opens the next frame too
        else:
            node.fail("the closing flag 7E is missing", cursor.at)
        if information is not None:
            self._contents(node, cursor.data, information, control, (destination, source), segmented)

    def _information(self, node: Node, frame: Cursor, begin: int, length: int) -> tuple[int, int] | None:
        """Check sequences; where the information field is, None without one."""
        stop = begin + length - _CHECK_BYTES
        bounds = None
        if frame.at < stop:
            _check(node, frame, begin, "header check (HCS)")
            bounds = frame.at, stop
            frame.take(stop - frame.at, f"information field of a frame of {length} bytes")
        _check(node, frame, begin, "frame check (FCS)")
        return bounds

    def _contents(
        self,
        node: Node,
        data: bytes,
        bounds: tuple[int, int],
        control: int,
        stations: tuple[bytes, bytes],
        segmented: bool,
    ) -> None:
        start, end = bounds
        kind = ctl.kind(control)
        if kind in (ctl.Kind.SNRM, ctl.Kind.UA):
            node.add("limits", _limits_text(LinkParameters.decode(data[start:end])), start, end)
        elif kind not in (ctl.Kind.I, ctl.Kind.UI):
            node.add("information", hex_text(data[start:end]), start, end)
        elif segmented or stations in self._segments:
            parts = self._segments.setdefault(stations, [])
            parts.append(data[start:end])
            node.add(f"segment {len(parts)}", hex_text(data[start:end]), start, end)
            if not segmented:
                whole = b"".join(self._segments.pop(stations))
                joined = node.add(
                    "joined segments", f"{len(whole)} bytes, counted anew from 0", 0, len(whole)
                )
                self.llc(joined, whole, 0, len(whole))
        else:
            self.llc(node, data, start, end)

    def llc(self, node: Node, data: bytes, start: int, end: int) -> None:
        """The LLC header, where there is one, and the APDU."""
        header = data[start : start + 3]
        if header in (LLC_COMMAND, LLC_RESPONSE):
            way = "to the meter" if header == LLC_COMMAND else "from the meter"
            node.add("LLC header", way, start, start + 3)
            start += 3
        self._apdus.explain(node, data, start, end)

    def wrapper(self, root: Node, data: bytes) -> None:
        """Every message of the input. Raises DecodeError."""
        cursor = Cursor(data)
        while cursor.left:
            start = cursor.at
            node = root.add("wrapper message", "", start, cursor.end)
            version = cursor.number(2, "wrapper version")
            if version != VERSION:
                raise DecodeError(f"wrapper version {version}, expected {VERSION}", offset=start)
            cursor.field(node, "source port", 2)
            cursor.field(node, "destination port", 2)
            length = cursor.field(node, "length", 2)
            node.text = f"APDU of {length} bytes"
            end = start + HEADER_BYTES + length
            if end > cursor.end:
                missing = end - cursor.end
                node.fail(f"{missing} bytes of the announced {length} are missing", cursor.end)
            node.end = cursor.at = min(end, cursor.end)
            if cursor.at > start + HEADER_BYTES:
                self._apdus.explain(node, data, start + HEADER_BYTES, cursor.at)


def _address(node: Node, frame: Cursor, label: str) -> bytes:
    start = frame.at
    raw = b""
    while len(raw) < _ADDRESS_MAX_BYTES:
        raw += frame.take(1, f"{label} address")
        if raw[-1] & 1:
            break
    try:
        address = HdlcAddress.decode(raw)
    except ValueError as error:
        raise DecodeError(f"{label} address {raw.hex().upper()}: {error}", offset=start) from error
    text = (
        str(address.logical)
        if address.size == 1
        else f"logical {address.logical}, physical {address.physical} ({address.size} bytes)"
    )
    node.add(label, text, start, frame.at)
    return raw


def _control_text(control: int) -> str:
    kind = ctl.kind(control)
    final = ", poll/final" if ctl.is_final(control) else ""
    numbers = f", N(S) {ctl.send_number(control)}" if kind is ctl.Kind.I else ""
    if kind in (ctl.Kind.I, ctl.Kind.RR, ctl.Kind.RNR, ctl.Kind.REJ):
        numbers += f", N(R) {ctl.receive_number(control)}"
    return f"{control:02X}: {kind.name} {_KIND_WORDS.get(kind, '')}{numbers}{final}"


def _check(node: Node, frame: Cursor, begin: int, label: str) -> None:
    start = frame.at
    expected = fcs16(frame.data[begin:start])
    got = int.from_bytes(frame.take(_CHECK_BYTES, label), "little")
    child = node.add(
        label, "right" if got == expected else f"wrong, {expected:04X} expected", start, frame.at
    )
    child.is_fault = got != expected


def _limits_text(limits: LinkParameters) -> str:
    return (
        f"sends {limits.information_transmit_bytes} bytes in windows of {limits.window_transmit_frames}, "
        f"receives {limits.information_receive_bytes} in windows of {limits.window_receive_frames}"
    )
