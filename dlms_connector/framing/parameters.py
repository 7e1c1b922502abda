"""What SNRM and UA negotiate: information field lengths and windows; Green Book clause 8.4.5.3.2."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dlms_connector.framing.frames import INFORMATION_MAX_BYTES

DEFAULT_INFORMATION_BYTES = 128
DEFAULT_WINDOW_FRAMES = 1
WINDOW_MAX_FRAMES = 7

_FORMAT_IDENTIFIER = 0x81
_GROUP_IDENTIFIER = 0x80
_INFORMATION_TRANSMIT = 0x05
_INFORMATION_RECEIVE = 0x06
_WINDOW_TRANSMIT = 0x07
_WINDOW_RECEIVE = 0x08


@dataclass(frozen=True, slots=True)
class LinkParameters:
    """Limits of one station, seen from itself: what it sends and what it receives.

    Raises:
        ValueError: an information length or a window outside the standard's range.
    """

    information_transmit_bytes: int = DEFAULT_INFORMATION_BYTES
    information_receive_bytes: int = DEFAULT_INFORMATION_BYTES
    window_transmit_frames: int = DEFAULT_WINDOW_FRAMES
    window_receive_frames: int = DEFAULT_WINDOW_FRAMES

    def __post_init__(self) -> None:
        for length in (self.information_transmit_bytes, self.information_receive_bytes):
            if not 1 <= length <= INFORMATION_MAX_BYTES:
                raise ValueError(f"information length {length} is not 1 to {INFORMATION_MAX_BYTES} bytes")
        for window in (self.window_transmit_frames, self.window_receive_frames):
            if not 1 <= window <= WINDOW_MAX_FRAMES:
                raise ValueError(f"window {window} is not 1 to {WINDOW_MAX_FRAMES} frames")

    def encode(self) -> bytes:
        """The information field of SNRM or UA, with all four parameters."""
        fields = (
            _field(_INFORMATION_TRANSMIT, self.information_transmit_bytes)
            + _field(_INFORMATION_RECEIVE, self.information_receive_bytes)
            + _field(_WINDOW_TRANSMIT, self.window_transmit_frames, size=4)
            + _field(_WINDOW_RECEIVE, self.window_receive_frames, size=4)
        )
        return bytes((_FORMAT_IDENTIFIER, _GROUP_IDENTIFIER, len(fields))) + fields

    @classmethod
    def decode(cls, information: bytes) -> LinkParameters:
        """What the other station says of itself; what is absent, cut off or zero has the default.

        Never raises: meters send empty fields, odd value lengths and unknown parameters.
        """
        values = {tag: value for tag, value in _fields(information) if value}
        return cls(
            min(values.get(_INFORMATION_TRANSMIT, DEFAULT_INFORMATION_BYTES), INFORMATION_MAX_BYTES),
            min(values.get(_INFORMATION_RECEIVE, DEFAULT_INFORMATION_BYTES), INFORMATION_MAX_BYTES),
            min(values.get(_WINDOW_TRANSMIT, DEFAULT_WINDOW_FRAMES), WINDOW_MAX_FRAMES),
            min(values.get(_WINDOW_RECEIVE, DEFAULT_WINDOW_FRAMES), WINDOW_MAX_FRAMES),
        )

    def negotiate(self, other: LinkParameters) -> LinkParameters:
        """Our limits after the other station's: it receives no more than it can, nor do we."""
        return LinkParameters(
            min(self.information_transmit_bytes, other.information_receive_bytes),
            min(self.information_receive_bytes, other.information_transmit_bytes),
            min(self.window_transmit_frames, other.window_receive_frames),
            min(self.window_receive_frames, other.window_transmit_frames),
        )


def _field(tag: int, value: int, *, size: int = 0) -> bytes:
    size = size or (1 if value <= 0xFF else 2)
    return bytes((tag, size)) + value.to_bytes(size, "big")


def _fields(information: bytes) -> Iterator[tuple[int, int]]:
    """(tag, value) pairs behind format and group; the group's own length is not trusted."""
    if information[:2] != bytes((_FORMAT_IDENTIFIER, _GROUP_IDENTIFIER)):
        return
    position = 3
    while position + 2 <= len(information):
        tag, size = information[position], information[position + 1]
        value = information[position + 2 : position + 2 + size]
        if len(value) < size:
            return
        yield tag, int.from_bytes(value, "big")
        position += 2 + size
