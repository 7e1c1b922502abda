"""How a meter is reached: the line, the framing, the addresses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dlms_connector.config.types import DurationMs, Section, Whole

_SIZE_LIMITS = {1: 0x7F, 2: 0x7F, 4: 0x3FFF}


class HdlcSettings(Section):
    """What is proposed in SNRM and how frames are repeated; the meter's UA has the last word."""

    max_info_length: Whole = Field(128, ge=32, le=2030, description="bytes of information in one frame")
    window_size: Whole = Field(1, ge=1, le=7, description="frames sent before an acknowledgement")
    retries: Whole = Field(2, ge=0, le=10, description="times that a frame is sent again within one request")
    response_timeout_ms: DurationMs | None = Field(
        None,
        alias="responseTimeout",
        description="wait for one frame; by default the timeout shared by all tries",
    )


class TransportBase(Section):
    """What TCP and serial lines have in common."""

    server_logical_address: Whole = Field(
        1, ge=0, le=0xFFFF, description="logical device; wrapper port of the meter"
    )
    server_physical_address: Whole = Field(
        0, ge=0, le=0x3FFF, description="HDLC only; 0 where the meter has none"
    )
    address_size: Literal[1, 2, 4] = Field(1, description="bytes of the HDLC server address")
    hdlc: HdlcSettings = HdlcSettings()
    inter_frame_delay_ms: DurationMs = Field(
        0, alias="interFrameDelay", ge=0, le=60_000, description="pause on the line before a frame is sent"
    )
    reassociation_delay_ms: DurationMs = Field(
        0,
        alias="reassociationDelay",
        ge=0,
        le=600_000,
        description="wait before a new association after one that ended uncleanly",
    )
    exclusive: bool = Field(False, description="only one association at a time on this line")
    inactivity_timeout_ms: DurationMs | None = Field(
        None,
        alias="inactivityTimeout",
        ge=1_000,
        description="after this silence the meter ends the association by itself; close in time before it",
    )

    def _check_address(self) -> None:
        limit = _SIZE_LIMITS[self.address_size]
        if self.address_size == 1 and self.server_logical_address and self.server_physical_address:
            raise ValueError(
                "addressSize 1 has room for one of serverLogicalAddress and serverPhysicalAddress; "
                "set the other to 0 or use addressSize 2 or 4"
            )
        for name, value in (
            ("serverLogicalAddress", self.server_logical_address),
            ("serverPhysicalAddress", self.server_physical_address),
        ):
            if value > limit:
                raise ValueError(
                    f"{name} {value} does not fit addressSize {self.address_size} (at most {limit})"
                )


class TcpTransport(TransportBase):
    """A meter or converter behind host:port."""

    type: Literal["tcp"] = "tcp"
    host: str = Field(min_length=1, max_length=253, description="name or address of meter or converter")
    port: Whole = Field(4059, ge=1, le=65535)
    framing: Literal["wrapper", "hdlc"] = "wrapper"
    connect_timeout_ms: DurationMs | None = Field(
        None, alias="connectTimeout", ge=100, le=600_000, description="by default the timeout"
    )

    @model_validator(mode="after")
    def _address_fits(self) -> Self:
        if self.framing == "hdlc":
            self._check_address()
        return self

    @property
    def line_key(self) -> tuple[str, ...]:
        """Meters with an equal key share one connection."""
        return ("tcp", self.host.lower(), str(self.port))


class ModeESettings(Section):
    """IEC 62056-21 mode E opening of an optical head."""

    enabled: bool = False
    device_address: str = Field("", max_length=32)
    max_baud_rate: Whole = Field(9600, ge=300, le=115_200)


class SerialTransport(TransportBase):
    """Meters on a serial port, always HDLC."""

    type: Literal["serial"]
    port: str = Field(min_length=1, description="e.g. /dev/ttyUSB0, better a name of /dev/serial/by-id")
    framing: Literal["hdlc"] = "hdlc"
    baud_rate: Whole = Field(9600, ge=300, le=921_600)
    data_bits: Literal[7, 8] = 8
    parity: Literal["none", "even", "odd"] = "none"
    stop_bits: Literal[1, 2] = 1
    echo: bool = Field(False, description="the converter or optical head repeats what is sent")
    mode_e: ModeESettings = ModeESettings()

    @model_validator(mode="after")
    def _address_fits(self) -> Self:
        self._check_address()
        return self

    @property
    def line_key(self) -> tuple[str, ...]:
        """Meters with an equal key share one port."""
        return ("serial", self.port)


Transport = Annotated[TcpTransport | SerialTransport, Field(discriminator="type")]
"""The loader fills in a `type` that is not written: tcp with a host, serial with a port's name."""
