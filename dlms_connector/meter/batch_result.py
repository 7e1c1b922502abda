"""What became of the registers of one request: each is delivered, refused, held back, or failed. None is missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite

import simplejson

from dlms_connector.errors import DlmsConnectorError
from dlms_connector.meter.reading import Plain, Reading

MAX_TEXT_BYTES = 4096


@dataclass(slots=True)
class BatchResult:
    """Keys with the reason of each that gave no reading.

    Args:
        refused: the meter said no.
        held: a number came whose scaler is not known now.
        failed: what came is no value: undecodable, null, not finite, no date, too long.
    """

    readings: list[Reading]
    refused: dict[str, DlmsConnectorError] = field(default_factory=dict)
    held: dict[str, DlmsConnectorError] = field(default_factory=dict)
    failed: dict[str, DlmsConnectorError] = field(default_factory=dict)

    def problems(self) -> dict[str, DlmsConnectorError]:
        """Every key without a reading, with its reason."""
        return {**self.refused, **self.held, **self.failed}


_NOTHING: dict[str, DlmsConnectorError] = {}


def all_delivered(readings: list[Reading]) -> BatchResult:
    """Every register gave a reading: nearly all polls, so they share what is empty."""
    return BatchResult(readings, _NOTHING, _NOTHING, _NOTHING)


def why_no_value(value: Plain) -> str:
    """Why ThingsBoard cannot store this; empty where it can."""
    if value is None:
        return "the meter holds no value (null)"
    if isinstance(value, float) and not isfinite(value):
        return f"{value} is no finite number"
    if isinstance(value, Decimal) and not value.is_finite():
        return f"{value} is no finite number"
    if isinstance(value, (list, dict)):
        value = simplejson.dumps(value, use_decimal=True, ignore_nan=True)
    if isinstance(value, str) and len(value.encode("utf-8", "replace")) > MAX_TEXT_BYTES:
        return f"its text is longer than {MAX_TEXT_BYTES} bytes"
    return ""
