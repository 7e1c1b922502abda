"""What a meter holds, and what is true of it: decoded by gurux_dlms from the bytes that the meter sends."""

from __future__ import annotations

import math
import random
import struct
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

from gurux_dlms import GXByteBuffer
from gurux_dlms.internal._GXCommon import _GXCommon
from gurux_dlms.internal._GXDataInfo import _GXDataInfo

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.obis import Obis

_INTEGERS = ((0x05, 4), (0x06, 4), (0x0F, 1), (0x10, 2), (0x11, 1), (0x12, 2), (0x14, 8), (0x15, 8))
_SCALER_AT = {3: 3, 4: 3, 5: 4}
_NO_NUMBERS = ("177fc00000", "177f800000", "17ff800000", "187ff8000000000000", "00")
_NO_SCALERS = ("02020f64161e", "02020f9c161e", "0202000016", "120001", "00", "02020ffd")


def gurux(raw: bytes) -> Any:
    """Encoded data as gurux_dlms decodes it."""
    return _GXCommon.getData(None, GXByteBuffer(raw), _GXDataInfo())


@lru_cache(maxsize=4096)
def number_of(raw: bytes) -> Decimal | None:
    """The finite number in these bytes, None where they hold another thing."""
    value = gurux(raw)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float):
        return _shortest(value, raw) if math.isfinite(value) else None
    return Decimal(int(value))


def _shortest(value: float, raw: bytes) -> Decimal:
    """The number with the fewest digits that these bytes stand for: a float32 of 231.6 is not 231.59999."""
    if raw[0] == 0x18:
        return Decimal(repr(float(value)))
    texts = (f"{float(value):.{digits}g}" for digits in range(1, 10))
    return next(Decimal(text) for text in texts if struct.pack(">f", float(text)) == raw[1:5])


def is_same(value: object, truth: Decimal | str) -> bool:
    """Whether a delivered value is exactly this; a float where it is the nearest to it."""
    if isinstance(truth, str) or isinstance(value, (bool, str)) or value is None:
        return value == truth
    if isinstance(value, float):
        return value == float(truth)
    return isinstance(value, (int, Decimal)) and Decimal(value) == truth


@dataclass(frozen=True)
class Quantity:
    """An attribute with its scaler; `raw` is what the meter holds of it now."""

    ref: AttributeRef
    raw: bytes
    scaler: bytes = b""

    @property
    def scaler_ref(self) -> AttributeRef | None:
        at = _SCALER_AT.get(self.ref.class_id)
        return None if at is None else AttributeRef(self.ref.class_id, self.ref.obis, at)

    @property
    def exponent(self) -> int | None:
        """The power of ten; None where the meter tells none that can be used."""
        if self.scaler_ref is None:
            return 0
        try:
            told = gurux(self.scaler)
        except Exception:  # noqa: BLE001 (bytes that are no data)
            return None
        if not isinstance(told, list) or len(told) != 2 or not isinstance(told[0], int):
            return None
        exponent = int(told[0])
        exponent -= 256 if exponent >= 128 else 0
        return exponent if abs(exponent) <= 32 else None

    def truth(self, raw: bytes | None = None) -> Decimal | str | None:
        """What is to be delivered for these bytes; None where they hold no value or the scaler is none."""
        raw = self.raw if raw is None else raw
        value = gurux(raw)
        if isinstance(value, str):
            return value
        if isinstance(value, (bytes, bytearray)) and len(value) == 12:
            year, month, day, hour, minute, second = struct.unpack(">HBBxBBB", bytes(value[:8]))
            return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
        number, exponent = number_of(raw), self.exponent
        return None if number is None or exponent is None else number.scaleb(exponent)

    def unscaled(self, raw: bytes | None = None) -> Decimal | None:
        """The number as the meter holds it."""
        return number_of(self.raw if raw is None else raw)


def random_raw(rng: random.Random, *, odd: float = 0.1) -> bytes:
    """An encoded number of a random type and size; with the chance `odd` a NaN, an infinity or null."""
    if rng.random() < odd:
        return bytes.fromhex(rng.choice(_NO_NUMBERS))
    if rng.random() < 0.2:
        return random_float(rng, rng.choice((0x17, 0x18)))
    tag, size = rng.choice(_INTEGERS)
    used = rng.randint(1, size)
    return bytes((tag,)) + bytes(size - used) + rng.randbytes(used)


def random_float(rng: random.Random, tag: int, *, odd: float = 0.0) -> bytes:
    """An encoded number of floating point; with the chance `odd` one that is not finite."""
    number = round(rng.uniform(-1e5, 1e5), rng.randint(0, 4))
    if rng.random() < odd:
        number = rng.choice((math.nan, math.inf, -math.inf))
    return struct.pack(">Bf" if tag == 0x17 else ">Bd", tag, number)


def random_scaler(rng: random.Random, *, odd: float = 0.08) -> bytes:
    """A scaler_unit: signed, as an unsigned number, or with the chance `odd` none that can be used."""
    if rng.random() < odd:
        return bytes.fromhex(rng.choice(_NO_SCALERS))
    tag = 0x11 if rng.random() < 0.1 else 0x0F
    return bytes((2, 2, tag, rng.randint(-5, 4) & 0xFF, 0x16, rng.choice((27, 30, 33, 35, 255))))


def random_quantity(rng: random.Random, number: int, *, odd: float = 0.1) -> Quantity:
    """A register, extended register, demand, data object or clock with its own logical name."""
    class_id = rng.choice((3, 3, 3, 3, 4, 5, 1, 8))
    if class_id == 8:
        moment = struct.pack(
            ">HBBBBBBBhB", 2026, 11, rng.randint(1, 30), 255, rng.randint(0, 23), 0, 0, 0, -0x8000, 0
        )
        return Quantity(AttributeRef(8, Obis(0, number, 1, 0, 0), 2), b"\x09\x0c" + moment)
    obis = Obis(1, 0, number, 8, 0)
    if class_id == 1:
        raw = (
            b"\x0a\x03" + rng.randbytes(3).hex()[:3].encode()
            if rng.random() < 0.5
            else random_raw(rng, odd=odd)
        )
        return Quantity(AttributeRef(1, obis, 2), raw)
    attribute = rng.choice((2, 3)) if class_id == 5 else 2
    return Quantity(
        AttributeRef(class_id, obis, attribute), random_raw(rng, odd=odd), random_scaler(rng, odd=odd)
    )
