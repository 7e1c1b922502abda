"""The configuration of the connector and of one device, validated and frozen.

`config.loader` merges templates and defaults and turns what is wrong into errors with JSON paths.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, StrictBool, StrictStr, model_validator
from typing_extensions import Self

from dlms_connector.config.catalogue import default_class
from dlms_connector.config.client import ClientSettings
from dlms_connector.config.reading import (
    AttributeUpdate,
    NamedRpc,
    ProfileSettings,
    RegisterSettings,
    ReportStrategy,
)
from dlms_connector.config.transport import Transport
from dlms_connector.config.types import DAY_MS, DurationMs, ExactDecimal, ObisCode, Section, Whole
from dlms_connector.obis import Obis

_MAX_HDLC_CLIENT = 0x7F  # a client address is one byte (Green Book 8.4.2.2)

HealthKey = Literal[
    "dlms_state",
    "dlms_lastError",
    "dlms_successRate",
    "dlms_latencyMs",
    "dlms_requests",
    "dlms_responses",
    "dlms_bytesSent",
    "dlms_bytesReceived",
    "dlms_reconnects",
    "dlms_breaker",
    "dlms_skippedCycles",
    "dlms_clockOffset",
    "lastReadTs",
]


class BackoffSettings(Section):
    """Pauses between attempts to reach a meter; each is drawn between half and the whole of its step."""

    initial_ms: DurationMs = Field(1_000, alias="initial", ge=10, le=DAY_MS, description="first pause")
    maximum_ms: DurationMs = Field(60_000, alias="maximum", ge=10, le=DAY_MS, description="longest pause")


class BreakerSettings(Section):
    """After `reconnects` within `window` the meter is left alone for `pause`, then probed once."""

    reconnects: Whole = Field(10, ge=1, le=10_000, description="as many within the window open the breaker")
    window_ms: DurationMs = Field(
        3_600_000, alias="window", ge=1_000, le=DAY_MS, description="over which reconnects are counted"
    )
    pause_ms: DurationMs = Field(300_000, alias="pause", ge=100, le=DAY_MS, description="without any request")


class WatchdogSettings(Section):
    """What makes the connector distrust a link that still looks open."""

    max_silence_ms: DurationMs = Field(
        600_000, alias="maxSilence", ge=1_000, le=7 * DAY_MS, description="without a good reading"
    )
    failed_cycles: Whole = Field(10, ge=1, le=10_000, description="polls in a row without a reading")
    link_errors: Whole = Field(15, ge=1, le=10_000, description="broken frames in a row")


class HealthSettings(Section):
    """Health of each meter as telemetry and attributes of its device."""

    enabled: bool = Field(True, description="false sends none")
    period_ms: DurationMs = Field(60_000, alias="period", ge=1_000, le=DAY_MS, description="of the telemetry")
    telemetry: tuple[HealthKey, ...] = (
        "dlms_successRate",
        "dlms_latencyMs",
        "dlms_requests",
        "dlms_responses",
        "dlms_bytesSent",
        "dlms_bytesReceived",
        "dlms_reconnects",
        "dlms_skippedCycles",
        "dlms_clockOffset",
    )
    attributes: tuple[HealthKey, ...] = ("dlms_state", "dlms_lastError", "dlms_breaker", "lastReadTs")


class ClockSettings(Section):
    """How the meter's clock is understood and how far it may be set."""

    time_zone: str | None = Field(
        None,
        description="IANA name, for meters whose clock tells no deviation; by default the gateway's zone",
    )
    deviation_sign: Literal["standard", "reversed"] = Field(
        "standard", description='"reversed" for meters that count the deviation east of Greenwich as positive'
    )
    max_shift_ms: DurationMs = Field(
        60_000, alias="maxShift", ge=0, le=DAY_MS, description="largest correction that setClock makes"
    )
    check_period_ms: DurationMs = Field(
        DAY_MS,
        alias="checkPeriod",
        ge=0,
        le=31 * DAY_MS,
        description="the clock is looked at this often, for `dlms_clockOffset`; 0 never",
    )


class AllowWrite(Section):
    """What may change a meter; everything else is refused."""

    set: tuple[ObisCode, ...] = Field((), description="objects whose attributes may be written")
    action: tuple[ObisCode, ...] = Field((), description="objects whose methods may be called")


class DeviceSettings(Section):
    """One meter, as the operator thinks of it."""

    device_name: str = Field(
        min_length=1, max_length=255, description="the device's name in ThingsBoard: one meter, one name"
    )
    device_type: str = Field(
        "DLMS Meter", min_length=1, max_length=255, description="the device's profile in ThingsBoard"
    )
    enabled: bool = Field(True, description="false leaves the meter alone")
    template: str | None = Field(None, description="what the entry builds on: see Templates")
    default_class: Whole | None = Field(
        None, ge=0, le=65535, description="COSEM class where an entry names none; by default by the OBIS code"
    )
    transport: Transport
    client: ClientSettings = ClientSettings()
    timeout_ms: DurationMs = Field(
        7_000, alias="timeout", ge=100, le=600_000, description="for one request, with all its tries"
    )
    poll_period_ms: DurationMs = Field(
        60_000, alias="pollPeriod", ge=100, le=31 * DAY_MS, description="of registers that name none"
    )
    timeseries: tuple[RegisterSettings, ...] = Field((), description="registers, by name or in full")
    attributes: tuple[RegisterSettings, ...] = Field((), description="sent once and when they change")
    static_attributes: dict[str, StrictStr | StrictBool | Whole | ExactDecimal] = Field(
        default_factory=dict, description="attributes that no meter tells, e.g. its model; sent once"
    )
    attribute_period_ms: DurationMs = Field(
        3_600_000, alias="attributePeriod", ge=1_000, le=31 * DAY_MS, description="attributes are read again"
    )
    profiles: tuple[ProfileSettings, ...] = Field((), description="load profiles and event logs")
    attribute_updates: tuple[AttributeUpdate, ...] = Field((), description="shared attributes to write")
    server_side_rpc: tuple[NamedRpc, ...] = Field((), description="device RPCs with names of their own")
    allow_write: AllowWrite = AllowWrite()
    report_strategy: ReportStrategy | None = Field(None, description="by default the connector's")
    backoff: BackoffSettings = BackoffSettings()
    breaker: BreakerSettings = BreakerSettings()
    watchdog: WatchdogSettings = WatchdogSettings()
    health: HealthSettings = HealthSettings()
    clock: ClockSettings = ClockSettings()
    refused_register_period_ms: DurationMs = Field(
        3_600_000,
        alias="refusedRegisterPeriod",
        ge=1_000,
        le=31 * DAY_MS,
        description="ask again what was refused",
    )

    unscaled: Literal["deliver", "withhold"] = Field(
        "deliver",
        description="numbers whose scaler the meter refuses for minutes: as they are, named in dlms_unscaled, "
        "or not at all",
    )

    def class_of(self, obis: Obis) -> int:
        """The class of an object that is asked for by its code alone (RPC, command line)."""
        for entry in (*self.timeseries, *self.attributes):
            if entry.obis == obis and entry.class_id is not None:
                return entry.class_id
        return default_class(obis) if self.default_class is None else self.default_class

    @model_validator(mode="before")
    @classmethod
    def _short_allow_write(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("allowWrite"), (list, tuple)):
            codes = value["allowWrite"]
            return {**value, "allowWrite": {"set": codes, "action": codes}}
        return value

    @model_validator(mode="after")
    def _client_fits_the_framing(self) -> Self:
        if self.transport.framing == "hdlc" and self.client.address > _MAX_HDLC_CLIENT:
            raise ValueError(
                f"client.address {self.client.address} does not fit HDLC (at most {_MAX_HDLC_CLIENT})"
            )
        return self

    @model_validator(mode="after")
    def _unique_keys(self) -> Self:
        for section, entries in (("timeseries", self.timeseries), ("attributes", self.attributes)):
            seen: set[str] = set()
            for entry in entries:
                if entry.key in seen:
                    raise ValueError(f'{section} has the key "{entry.key}" twice')
                seen.add(entry.key)
        return self


class ShardSettings(Section):
    """Which share of the devices this gateway takes (rendezvous hashing over the lines)."""

    index: Whole = Field(ge=0, description="of this gateway, from 0")
    count: Whole = Field(ge=1, le=10_000, description="gateways that share the configuration")

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"shard.index {self.index} must be below shard.count {self.count}")
        return self


class PrometheusSettings(Section):
    """An HTTP endpoint with metrics; off by default, on the loopback address by default."""

    enabled: bool = Field(False, description="true opens the endpoint")
    host: str = Field("127.0.0.1", description="address to listen on")
    port: Whole = Field(9187, ge=0, le=65535, description="port to listen on; 0 takes any free one")


class StatusSettings(Section):
    """The files that `dlms-connector status` and watchdogs look at, beside the state."""

    enabled: bool = Field(True, description="false writes none")
    period_ms: DurationMs = Field(
        5_000, alias="period", ge=1_000, le=600_000, description="between two writings"
    )


class DeliverySettings(Section):
    """Mending the gateway's QoS 1 so that stored data is deleted only after the server's PUBACK."""

    await_puback: bool = Field(True, description="false leaves the gateway's own behaviour")
    puback_timeout_ms: DurationMs = Field(
        30_000, alias="pubackTimeout", ge=1_000, le=600_000, description="then it is sent again"
    )


class DeviceListSettings(Section):
    """Mending how often the gateway rewrites its list of devices, connected_devices.json."""

    collect_changes: bool = Field(
        True, description="false leaves the gateway's own behaviour: for each device"
    )


class BackpressureSettings(Section):
    """Backfill waits while the gateway has this many entries queued."""

    queue_limit: Whole = Field(
        200, ge=1, le=10_000_000, description="entries; one is a poll, or a slice of a profile: up to 60 kB"
    )


class ConnectorSettings(Section):
    """The whole connector without its devices, which are validated one by one."""

    name: str = Field("DLMS", min_length=1, description="the connector's name in the gateway")
    state_directory: str | None = Field(
        None, description="where counters, cursors and status live; by default beside the gateway's data"
    )
    template_directory: str | None = Field(
        None, description="own device templates; by default templates/ beside the configuration"
    )
    max_concurrent_connects: Whole = Field(
        50, ge=1, le=10_000, description="meters that may be opening a link at the same time"
    )
    shard: ShardSettings | None = None
    delivery: DeliverySettings = DeliverySettings()
    device_list: DeviceListSettings = DeviceListSettings()
    backpressure: BackpressureSettings = BackpressureSettings()
    prometheus: PrometheusSettings = PrometheusSettings()
    status: StatusSettings = StatusSettings()
    report_strategy: ReportStrategy | None = None
