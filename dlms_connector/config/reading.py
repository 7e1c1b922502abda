"""What is read from a meter: registers, attributes, profiles, and what may be written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self

from dlms_connector.config.types import DAY_MS, DurationMs, ExactDecimal, ObisCode, Section, Whole
from dlms_connector.obis import Obis

Key = Annotated[str, Field(min_length=1, max_length=255)]
ValueType = Literal["auto", "number", "text", "boolean", "json"]
ReportType = Literal["ON_REPORT_PERIOD", "ON_CHANGE", "ON_CHANGE_OR_REPORT_PERIOD", "ON_RECEIVED"]


class ReportStrategy(Section):
    """The gateway's report strategy, in its own words."""

    type: ReportType
    report_period_ms: DurationMs | None = Field(None, alias="reportPeriod", ge=1)

    @field_validator("type", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _period_given(self) -> Self:
        if "REPORT_PERIOD" in self.type and self.report_period_ms is None:
            raise ValueError(f"{self.type} needs reportPeriod (milliseconds)")
        return self


class ObjectDefinition(Section):
    """One attribute of one COSEM object and how its value becomes telemetry.

    Class and attribute default to what the OBIS code usually is: see `config.catalogue`.
    """

    obis: ObisCode
    class_id: Whole | None = Field(None, alias="class", ge=0, le=65535, description="COSEM interface class")
    attribute: Whole = Field(2, ge=1, le=127, description="of the object; 2 is the value")
    scaler: Literal["auto"] | Whole | None = Field(
        "auto",
        description='"auto" reads it from the meter once; a number is the power of ten; null applies none',
    )
    multiplier: ExactDecimal | None = Field(None, description="applied after the scaler, e.g. a CT/VT ratio")
    round: Whole | None = Field(None, ge=0, le=15, description="digits after the point")
    type: ValueType = Field("auto", description="text keeps identifiers such as 00123456 as they are")
    path: tuple[Whole, ...] = Field((), description="positions inside a structure or array, from 0")
    report_strategy: ReportStrategy | None = None


class RegisterSettings(ObjectDefinition):
    """An object under the key it has in ThingsBoard."""

    key: Key
    poll_period_ms: DurationMs | None = Field(
        None, alias="pollPeriod", ge=100, le=31 * DAY_MS, description="by default the device's"
    )


class ProfileSettings(Section):
    """A load profile or event log (class 7) that is read with a cursor and fills every gap."""

    obis: ObisCode
    key: Key | None = Field(None, description="names the profile in status; by default its OBIS code")
    kind: Literal["profile", "events"] = "profile"
    backfill_ms: DurationMs = Field(
        7 * DAY_MS, alias="backfill", ge=0, le=400 * DAY_MS, description="how far back a gap is filled"
    )
    columns: dict[str, str | None] = Field(
        default_factory=dict,
        description="capture object (OBIS, or OBIS#attribute) to key; null leaves it out; empty takes all",
    )
    poll_period_ms: DurationMs | None = Field(
        None, alias="pollPeriod", ge=1_000, le=31 * DAY_MS, description="by default the capture period"
    )
    overlap_ms: DurationMs = Field(
        3_600_000, alias="overlap", ge=0, le=7 * DAY_MS, description="read again after a restart"
    )
    slice_ms: DurationMs = Field(
        DAY_MS, alias="slice", ge=60_000, le=DAY_MS, description="rows asked for at once"
    )
    access: Literal["auto", "range", "entry", "whole"] = Field(
        "auto", description="how rows are asked for; by default by range, else by entry, else whole"
    )
    range_ends: Literal["auto", "deviation", "noDeviation", "wholeHours"] = Field(
        "auto",
        description="how the ends of a range are written: with the deviation from UTC, without, or as whole hours; "
        "auto tries them in this order where the meter refuses a range",
    )
    null_values: Literal["auto", "carry", "skip"] = Field(
        "auto",
        description="a null value of a row: carry takes it as unchanged since the row before, skip as missing; "
        "auto carries where the meter leaves the time null too",
    )

    @field_validator("columns")
    @classmethod
    def _columns_are_codes(cls, columns: dict[str, str | None]) -> dict[str, str | None]:
        for column in columns:
            code, hash_mark, attribute = column.partition("#")
            Obis.parse(code)
            if hash_mark and not attribute.isdigit():
                raise ValueError(f'the column "{column}": after # comes the number of an attribute')
        return columns


class AttributeUpdate(Section):
    """A shared attribute of ThingsBoard that is written to the meter."""

    key: Key
    obis: ObisCode
    class_id: Whole | None = Field(None, alias="class", ge=0, le=65535)
    attribute: Whole = Field(2, ge=1, le=127)
    type: str = Field("auto", description="A-XDR type to write, by default the type the meter answers with")
    scaler: Literal["auto"] | Whole | None = "auto"


class NamedRpc(Section):
    """A device RPC with a name of its own: `{"method": "readEnergy", "call": "read", "params": {...}}`."""

    method: str = Field(min_length=1, max_length=128)
    call: str = Field(min_length=1, description="the built-in RPC that it stands for")
    params: dict[str, Any] = Field(default_factory=dict)
