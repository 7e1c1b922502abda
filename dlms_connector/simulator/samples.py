"""One Data object for each type of the Data CHOICE, so that a client meets them all; OBIS 0-0:128.0.n."""

from __future__ import annotations

from dlms_connector.cosem.values import BitString, DataType, TypedValue, array, encode, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.objects import CosemObject

SAMPLES: dict[int, TypedValue] = {
    0: TypedValue(DataType.NULL, None),
    1: TypedValue(DataType.BOOLEAN, value=True),
    2: TypedValue(DataType.BIT_STRING, BitString("1011001")),
    3: TypedValue(DataType.INT32, -123_456),
    4: TypedValue(DataType.OCTET_STRING, bytes.fromhex("7e7e00ff7d")),
    5: TypedValue(DataType.VISIBLE_STRING, "00123456"),
    6: TypedValue(DataType.UTF8_STRING, "kWh · Año"),
    7: TypedValue(DataType.BCD, 42),
    8: TypedValue(DataType.INT8, -8),
    9: TypedValue(DataType.INT64, -(2**62)),
    10: TypedValue(DataType.UINT64, 2**63 + 5),
    11: TypedValue(DataType.FLOAT32, 1.5),
    12: TypedValue(DataType.FLOAT64, -0.1),
    13: TypedValue(DataType.ENUM, 3),
    14: TypedValue(DataType.DATE, bytes.fromhex("07e8021d04")),
    15: TypedValue(DataType.TIME, bytes.fromhex("17 3b 3b 00")),
    16: structure(TypedValue(DataType.UINT8, 1), array([TypedValue(DataType.UINT16, n) for n in (1, 2, 3)])),
    17: TypedValue(DataType.OCTET_STRING, bytes(range(256)) * 8),
}

# Two structures of uint16 and int8, described once (Green Book 9.5, compact-array).
COMPACT_ARRAY = bytes.fromhex("13 02 02 12 0f 06 0001 ff 0002 fe")
COMPACT_ARRAY_SAMPLE = 18


def sample_objects() -> list[CosemObject[LogicalDevice]]:
    """A Data object a sample."""
    encoded = {number: encode(value) for number, value in SAMPLES.items()}
    encoded[COMPACT_ARRAY_SAMPLE] = COMPACT_ARRAY
    return [CosemObject(1, Obis(0, 0, 128, 0, number), {2: raw}) for number, raw in encoded.items()]
