"""HDLC frames, format type 3: bytes to frames and back, for clients and servers alike.

Source: IEC 62056-46 (Green Book, clause 8); ISO/IEC 13239 for the check sequence and the frame format.
Frames are delimited by their length field: the content is transparent, 0x7E may stand anywhere in it.
Addresses are in `addresses`, control bytes in `control`, the fields of SNRM and UA in `parameters`.
"""

from __future__ import annotations

from binascii import crc_hqx
from dataclasses import dataclass
from functools import lru_cache

FLAG = 0x7E
FRAME_LENGTH_MAX_BYTES = 0x7FF
"""The length field has 11 bits and counts everything between the two flags."""
INFORMATION_MAX_BYTES = FRAME_LENGTH_MAX_BYTES - 2 - 4 - 4 - 1 - 2 - 2
"""What fits beside format, the longest two addresses, control, HCS and FCS."""

_FORMAT_TYPE = 0xA000
_SEGMENTED = 0x0800
_CHECK_BYTES = 2
_ADDRESS_MAX_BYTES = 4
_HEADER_MIN_BYTES = 1 + 2 + 1 + 1 + 1 + _CHECK_BYTES
_ENDLESS, _UNFINISHED = 0, -1
_CRC_SEED = 0xFFFF
_CRC_INTACT = 0x1D0F
"""What `crc_hqx` leaves behind over content and its own check sequence (0xF0B8, reflected)."""
_READER_LIMIT_BYTES = 64 * 1024
_HEADERS_CACHED = 1024
"""Some 250 KiB for the whole process."""

# The check sequence of X.25 is bit-reflected CCITT: `crc_hqx` computes it in C over reflected bytes.
_REFLECT = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_REFLECT_INVERTED = bytes(value ^ 0xFF for value in _REFLECT)


def _check_sequence(crc: int) -> bytes:
    """The running `crc_hqx` as it goes over the wire: low byte first, bits reflected and inverted."""
    return crc.to_bytes(_CHECK_BYTES, "big").translate(_REFLECT_INVERTED)


def fcs16(data: bytes) -> int:
    """The 16-bit frame check sequence of ISO/IEC 13239; sent low byte first."""
    return int.from_bytes(_check_sequence(crc_hqx(data.translate(_REFLECT), _CRC_SEED)), "little")


@dataclass(slots=True)
class Frame:
    """One intact frame; the addresses are raw bytes as on the wire, so comparing them is cheap and exact."""

    destination: bytes
    source: bytes
    control: int
    information: bytes = b""
    segmented: bool = False


@dataclass(frozen=True, slots=True)
class BadFrame:
    """Something that began like a frame and failed its header or frame check."""

    reason: str


_BAD_HEADER = BadFrame("header check sequence")


class FrameEncoder:
    """Encodes the frames of one direction between two stations."""

    def __init__(self, destination: bytes, source: bytes) -> None:
        self._addresses = destination + source

    def encode(self, control: int, information: bytes = b"", *, segmented: bool = False) -> bytes:
        """The frame with both flags.

        Raises:
            ValueError: the information does not fit the 11-bit length field.
        """
        header = _header(self._addresses, control, len(information), segmented)
        if not information:
            # Without information there is no header check: the frame check takes its place.
            return header + b"\x7e"
        # Behind a header and its own check the running check is the same for every header.
        check = _check_sequence(crc_hqx(information.translate(_REFLECT), _CRC_INTACT))
        return header + information + check + b"\x7e"


class FrameDecoder:
    """Decodes frames of one direction between two stations of which all but the information is foreseen."""

    def __init__(self, destination: bytes, source: bytes) -> None:
        self._addresses = destination + source
        self._around_bytes = len(_header(self._addresses, 0, 1, False)) + _CHECK_BYTES + 1

    def decode(self, control: int, data: bytes) -> bytes | None:
        """The information of the frame, None where `data` is not just this one frame, intact and not segmented."""
        size_bytes = len(data) - self._around_bytes
        if not 0 < size_bytes <= INFORMATION_MAX_BYTES:
            return None
        header = _header(self._addresses, control, size_bytes, False)
        if not data.startswith(header) or data[-1] != FLAG:
            return None
        checked = data[len(header) : -1]
        if crc_hqx(checked.translate(_REFLECT), _CRC_INTACT) != _CRC_INTACT:
            return None
        return checked[:-_CHECK_BYTES]


@lru_cache(maxsize=_HEADERS_CACHED)
def _header(addresses: bytes, control: int, information_bytes: int, segmented: bool) -> bytes:
    """The opening flag, the header and its check sequence.

    One cache for all stations: most meters of a fleet bear one of a few addresses and are asked the same, and what
    one connection uses of it shifts for hours, as its two sequence numbers drift apart.
    """
    length = 2 + len(addresses) + 1 + _CHECK_BYTES
    if information_bytes:
        length += information_bytes + _CHECK_BYTES
    if length > FRAME_LENGTH_MAX_BYTES:
        raise ValueError(f"information of {information_bytes} bytes does not fit an HDLC frame")
    frame_format = _FORMAT_TYPE | length | (_SEGMENTED if segmented else 0)
    header = frame_format.to_bytes(2, "big") + addresses + bytes((control,))
    return b"\x7e" + header + _check_sequence(crc_hqx(header.translate(_REFLECT), _CRC_SEED))


def encode_frame(
    destination: bytes, source: bytes, control: int, information: bytes = b"", *, segmented: bool = False
) -> bytes:
    """One frame with both flags; for many frames between the same stations use `FrameEncoder`.

    Raises:
        ValueError: the information does not fit the 11-bit length field.
    """
    return FrameEncoder(destination, source).encode(control, information, segmented=segmented)


class FrameReader:
    """Finds frames in a stream of bytes, however it was cut; keeps at most one chunk and one frame.

    Rubbish before, between and inside frames is skipped. The closing flag of one frame may open the next.
    Call `next()` until it returns None after each `feed()`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._hunting = False

    def feed(self, data: bytes) -> None:
        """Adds received bytes; what exceeds 64 KiB unread is dropped, oldest first."""
        self._buffer += data
        excess = len(self._buffer) - _READER_LIMIT_BYTES
        if excess > 0:
            del self._buffer[:excess]

    def clear(self) -> None:
        """Forgets what was received, such as the first half of a frame that will not be completed."""
        self._buffer.clear()
        self._hunting = False

    def next(self) -> Frame | BadFrame | None:
        """The next frame, a report of a damaged one, or None when more bytes are needed."""
        buffer = self._buffer
        while (start := buffer.find(FLAG)) >= 0:
            if start:
                del buffer[:start]
            if len(buffer) < 3:
                return None
            if buffer[1] & 0xF0 != 0xA0:
                del buffer[0]
                continue
            outcome = self._take_frame()
            if outcome is _BAD_HEADER:
                # Its length cannot be trusted: search on inside, but report a damaged stretch only once.
                del buffer[0]
                if self._hunting:
                    continue
                self._hunting = True
            return outcome
        buffer.clear()
        return None

    def _take_frame(self) -> Frame | BadFrame | None:
        """Reads the frame whose opening flag is the first byte; leaves its closing flag for the next."""
        buffer = self._buffer
        frame_format = buffer[1] << 8 | buffer[2]
        end = (frame_format & FRAME_LENGTH_MAX_BYTES) + 1
        if end < _HEADER_MIN_BYTES:
            return _BAD_HEADER
        destination_end = _address_end(buffer, 3)
        source_end = _address_end(buffer, destination_end) if destination_end > 0 else destination_end
        checked_end = source_end + 1 + _CHECK_BYTES
        if source_end == _ENDLESS or checked_end > end:
            return _BAD_HEADER
        if source_end == _UNFINISHED or len(buffer) < checked_end:
            return None
        header = buffer[1:checked_end]
        if crc_hqx(header.translate(_REFLECT), _CRC_SEED) != _CRC_INTACT:
            return _BAD_HEADER
        if len(buffer) <= end:
            return None
        rest = bytes(buffer[checked_end:end])
        closed = buffer[end] == FLAG
        if not closed or crc_hqx(rest.translate(_REFLECT), _CRC_INTACT) != _CRC_INTACT:
            # Without a closing flag bytes were lost, and the next frame began inside this one's length.
            del buffer[: end if closed else 1]
            self._hunting = not closed
            return BadFrame("frame check sequence" if closed else "no closing flag")
        del buffer[:end]
        self._hunting = False
        return Frame(
            bytes(header[2 : destination_end - 1]),
            bytes(header[destination_end - 1 : source_end - 1]),
            header[source_end - 1],
            rest[:-_CHECK_BYTES],
            bool(frame_format & _SEGMENTED),
        )


def _address_end(buffer: bytearray, start: int) -> int:
    """Index behind the address at `start`, whose last byte alone has bit 0 set.

    `_ENDLESS` if it does not end in four bytes, `_UNFINISHED` if it may in bytes still to come.
    """
    if start < len(buffer) and buffer[start] & 1:
        return start + 1
    part = buffer[start : start + _ADDRESS_MAX_BYTES]
    for index, value in enumerate(part, start + 1):
        if value & 1:
            return index
    return _ENDLESS if len(part) == _ADDRESS_MAX_BYTES else _UNFINISHED
