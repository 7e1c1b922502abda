"""Scaler profiles of Indian meters (IS 15959): a profile of one row whose columns are other objects' scaler_units.

Such a meter may refuse attribute 3 of its registers and tell scalers and units here alone, one profile each for
instantaneous values, block load, daily load and billing.
"""

from __future__ import annotations

from typing import Final

from dlms_connector.cosem.units import parse_scaler_unit
from dlms_connector.cosem.values import Value
from dlms_connector.obis import Obis

SCALER_PROFILES: Final[tuple[Obis, ...]] = (
    Obis(1, 0, 94, 91, 3),
    Obis(1, 0, 94, 91, 4),
    Obis(1, 0, 94, 91, 5),
    Obis(1, 0, 94, 91, 6),
)
_SCALER_UNIT_OF: Final = {3: 3, 4: 3, 5: 4}  # class: attribute (Blue Book 4.3)


def scalers_of(capture_objects: Value, buffer: Value) -> dict[tuple[int, Obis], tuple[int, str, str]]:
    """`(class, logical name)` -> `(exponent, unit text, note)`, as `units.parse_scaler_unit` gives it.

    Args:
        capture_objects: attribute 3 of the scaler profile: structures of class, logical name, attribute, data index.
        buffer: attribute 2; its first row counts.

    Columns that are no scaler_unit, and values that cannot be used as one, are left out; nothing is raised.
    """
    row = buffer[0] if isinstance(buffer, list) and buffer else None
    if not isinstance(row, (list, tuple)) or not isinstance(capture_objects, list):
        return {}
    if len(row) != len(capture_objects):
        return {}  # nobody knows which value belongs to which column
    scalers = {}
    for column, value in zip(capture_objects, row, strict=True):
        owner = _owner(column)
        scaler = parse_scaler_unit(value)
        if owner is not None and scaler is not None:
            scalers[owner] = scaler
    return scalers


def _owner(column: Value) -> tuple[int, Obis] | None:
    """Whose scaler_unit this column holds, None for any other attribute or a part of one."""
    if not isinstance(column, tuple) or len(column) != 4:
        return None
    class_id, name, attribute, index = column
    if not isinstance(class_id, int) or not isinstance(name, bytes) or len(name) != 6 or index != 0:
        return None
    is_scaler = class_id in _SCALER_UNIT_OF and attribute == _SCALER_UNIT_OF[class_id]
    return (class_id, Obis.from_bytes(name)) if is_scaler else None
