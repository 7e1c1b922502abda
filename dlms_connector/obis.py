"""OBIS codes: six value groups A-B:C.D.E*F that name one COSEM object (IEC 62056-61)."""

from __future__ import annotations

import re
from typing import NamedTuple

_NOTATIONS = (
    re.compile(
        r"(?P<a>\d{1,3})-(?P<b>\d{1,3}):(?P<c>\d{1,3})\.(?P<d>\d{1,3})\.(?P<e>\d{1,3})([.*&](?P<f>\d{1,3}))?"
    ),
    re.compile(
        r"(?P<a>\d{1,3})([.,/ ])(?P<b>\d{1,3})\2(?P<c>\d{1,3})\2(?P<d>\d{1,3})\2(?P<e>\d{1,3})\2(?P<f>\d{1,3})"
    ),
)
_HEX = re.compile(r"[0-9A-Fa-f]{12}")


class Obis(NamedTuple):
    """A logical name; each group is 0..255, F is 255 where history does not matter."""

    a: int
    b: int
    c: int
    d: int
    e: int
    f: int = 255

    @classmethod
    def parse(cls, text: str) -> Obis:
        """Read `1-0:1.8.0`, `1-0:1.8.0*101`, `1-0:1.8.0.255`, `1.0.1.8.0.255` or `0100010800FF`.

        Group F is kept where it is given and 255 where it is not. Five groups without `A-B:` are
        refused because they can be read in two ways (`1.8.0.255` style reductions).

        Raises:
            ValueError: with the reason, for a person.
        """
        stripped = text.strip()
        if _HEX.fullmatch(stripped) and not stripped.isdigit():
            return cls(*bytes.fromhex(stripped))
        for notation in _NOTATIONS:
            match = notation.fullmatch(stripped)
            if match:
                groups = [int(match[name]) if match[name] else 255 for name in "abcdef"]
                too_big = [number for number in groups if number > 255]
                if too_big:
                    raise ValueError(f"OBIS {text!r}: {too_big[0]} is larger than 255")
                return cls(*groups)
        raise ValueError(
            f"{text!r} is not an OBIS code; write it as A-B:C.D.E or A.B.C.D.E.F, e.g. 1-0:1.8.0"
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Obis:
        """Six octets, as a logical name is on the wire. Raises ValueError for any other length."""
        if len(raw) != 6:
            raise ValueError(f"a logical name has 6 bytes, not {len(raw)}")
        return cls(*raw)

    def to_bytes(self) -> bytes:
        return bytes(self)

    def __str__(self) -> str:
        tail = "" if self.f == 255 else f"*{self.f}"
        return f"{self.a}-{self.b}:{self.c}.{self.d}.{self.e}{tail}"
