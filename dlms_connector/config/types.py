"""The words of the configuration file: durations, OBIS codes, bounds, and the base of every section."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from dlms_connector.obis import Obis

_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION_PART = re.compile(r"(\d+)\s*(ms|s|m|h|d)\s*")


class Section(BaseModel):
    """A frozen section of the configuration; unknown keys are errors, keys are camelCase."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )


def _not_boolean(value: Any) -> Any:
    """JSON's true is no number, whatever Python says."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "expected a whole number")
    return value


Whole = Annotated[int, BeforeValidator(_not_boolean)]
"""A whole number of the configuration."""


def _duration_ms(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("a duration is a whole number of milliseconds or a text such as '15m' or '7d'")
    if isinstance(value, int):
        return value
    text = value.strip().lower()
    if text.isdigit():
        return int(text)
    parts = _DURATION_PART.findall(text)
    if not parts or _DURATION_PART.sub("", text):
        raise ValueError(
            f"{value!r} is not a duration; write milliseconds or e.g. '30s', '15m', '1h30m', '7d'"
        )
    return sum(int(number) * _UNIT_MS[unit] for number, unit in parts)


def _obis(value: Any) -> Obis:
    if isinstance(value, Obis):
        return value
    if not isinstance(value, str):
        raise ValueError("an OBIS code is a text such as '1-0:1.8.0'")
    return Obis.parse(value)


DurationMs = Annotated[
    int,
    BeforeValidator(_duration_ms),
    WithJsonSchema(
        {
            "description": "milliseconds, or a text such as '30s', '15m', '7d'",
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": r"^(\d+\s*(ms|s|m|h|d)\s*)+$"},
            ],
        }
    ),
]

DAY_MS = 86_400_000

ObisCode = Annotated[
    Obis,
    PlainValidator(_obis),
    PlainSerializer(str),
    WithJsonSchema(
        {"type": "string", "description": "an OBIS code such as 1-0:1.8.0", "examples": ["1-0:1.8.0"]}
    ),
]


def _decimal(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value))
    return value


ExactDecimal = Annotated[
    Decimal,
    BeforeValidator(_decimal),
    Field(allow_inf_nan=False),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string"}]}),
]
