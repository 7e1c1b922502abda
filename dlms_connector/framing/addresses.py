"""HDLC addresses of servers (1, 2 or 4 bytes) and clients (1 byte); Green Book clause 8.4.2."""

from __future__ import annotations

from dataclasses import dataclass

NO_STATION = 0x00
ALL_STATIONS_1_BYTE = 0x7F
ALL_STATIONS_2_BYTES = 0x3FFF
CLIENT_MAX = 0x7F

_PART_BITS = {1: 7, 2: 7, 4: 14}


@dataclass(frozen=True, slots=True)
class HdlcAddress:
    """A server: logical device (upper address), physical device (lower address) and bytes on the wire.

    One byte holds one of the two: (0, p) is sent as p, as the meters in the field have it, (l, 0) as l.

    Raises:
        ValueError: a part does not fit the size.
    """

    logical: int
    physical: int
    size: int

    def __post_init__(self) -> None:
        bits = _PART_BITS.get(self.size)
        if bits is None:
            raise ValueError(f"an HDLC server address has 1, 2 or 4 bytes, not {self.size}")
        for name, value in (("logical", self.logical), ("physical", self.physical)):
            if not 0 <= value < 1 << bits:
                raise ValueError(
                    f"{name} address {value} does not fit an HDLC address of {self.size} byte(s): "
                    f"0 to {(1 << bits) - 1}"
                )
        if self.size == 1 and self.logical and self.physical:
            raise ValueError("an HDLC address of 1 byte holds a logical or a physical address, not both")

    @property
    def is_broadcast(self) -> bool:
        """The all-station address in one of its parts: nobody answers it, or everybody."""
        every = (1 << _PART_BITS[self.size]) - 1
        return every in (self.logical, self.physical)

    @property
    def is_no_station(self) -> bool:
        return not self.logical and not self.physical

    def encode(self) -> bytes:
        """1, 2 or 4 bytes: seven bits each, bit 0 set in the last alone."""
        if self.size == 1:
            return bytes(((self.logical or self.physical) << 1 | 1,))
        if self.size == 2:
            return bytes((self.logical << 1, self.physical << 1 | 1))
        return bytes(
            (
                self.logical >> 7 << 1,
                (self.logical & 0x7F) << 1,
                self.physical >> 7 << 1,
                (self.physical & 0x7F) << 1 | 1,
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> HdlcAddress:
        """The address in 1, 2 or 4 bytes; one byte is read as the logical device.

        Raises:
            ValueError: another length, or bit 0 is not set in the last byte alone.
        """
        _check_extension_bits(data)
        parts = [value >> 1 for value in data]
        if len(data) == 1:
            return cls(parts[0], 0, 1)
        if len(data) == 2:
            return cls(parts[0], parts[1], 2)
        if len(data) == 4:
            return cls(parts[0] << 7 | parts[1], parts[2] << 7 | parts[3], 4)
        raise ValueError(f"an HDLC server address has 1, 2 or 4 bytes, not {len(data)}")


def encode_client(client: int) -> bytes:
    """A client's address, always one byte.

    Raises:
        ValueError: not 0 to 127.
    """
    if not 0 <= client <= CLIENT_MAX:
        raise ValueError(f"client address {client} does not fit HDLC: 0 to {CLIENT_MAX}")
    return bytes((client << 1 | 1,))


def decode_client(data: bytes) -> int:
    """The client behind one address byte.

    Raises:
        ValueError: not exactly one byte with bit 0 set.
    """
    _check_extension_bits(data)
    if len(data) != 1:
        raise ValueError(f"an HDLC client address has 1 byte, not {len(data)}")
    return data[0] >> 1


def _check_extension_bits(data: bytes) -> None:
    if not data or not data[-1] & 1 or any(value & 1 for value in data[:-1]):
        raise ValueError("bit 0 of an HDLC address is set in its last byte alone")
