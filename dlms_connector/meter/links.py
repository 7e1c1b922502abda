"""From transport settings to lines and channels; lines are shared by every meter behind the same end point."""

from __future__ import annotations

import time
from functools import partial

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.config.transport import SerialTransport, TcpTransport
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.channel import Channel, HdlcChannel, WrapperChannel
from dlms_connector.io.hdlc import HdlcSettings
from dlms_connector.io.line import Line, LineRegistry, LineSettings, Opener
from dlms_connector.io.mode_e import ModeE, open_mode_e
from dlms_connector.io.serial import SerialPort, open_serial
from dlms_connector.io.stream import ByteStream, Interrupt
from dlms_connector.io.tcp import TcpEndpoint, open_tcp

AnyTransport = TcpTransport | SerialTransport


class Lines:
    """The lines of one connector."""

    def __init__(self) -> None:
        self._registry = LineRegistry()

    def line_for(self, transport: AnyTransport) -> Line:
        """The line of this end point, made for its first meter; each call counts one user."""
        return self._registry.get(transport.line_key, lambda: make_line(transport))

    def release(self, transport: AnyTransport) -> None:
        """One meter less on this line; the last one closes it."""
        self._registry.release(transport.line_key)


def make_line(transport: AnyTransport) -> Line:
    """A line for this end point alone."""
    settings = LineSettings(
        inter_frame_delay_s=transport.inter_frame_delay_ms / 1000,
        reassociation_delay_s=transport.reassociation_delay_ms / 1000,
        exclusive=transport.exclusive,
        fresh_stream=isinstance(transport, SerialTransport) and transport.mode_e.enabled,
    )
    return Line(_opener(transport), settings)


def _opener(transport: AnyTransport) -> Opener:
    if isinstance(transport, TcpTransport):
        endpoint = TcpEndpoint(transport.host, transport.port)
        limit_ms = transport.connect_timeout_ms
        return (
            partial(open_tcp, endpoint)
            if limit_ms is None
            else partial(_open_within, endpoint, limit_ms / 1000)
        )
    port = SerialPort(
        port=transport.port,
        baud_rate=transport.baud_rate,
        data_bits=transport.data_bits,
        parity=transport.parity,
        stop_bits=transport.stop_bits,
        echo=transport.echo,
    )
    if transport.mode_e.enabled:
        mode_e = ModeE(transport.mode_e.device_address, transport.mode_e.max_baud_rate)
        return partial(open_mode_e, port, mode_e)
    return partial(open_serial, port)


def _open_within(
    endpoint: TcpEndpoint, limit_s: float, deadline_s: float, interrupt: Interrupt
) -> ByteStream:
    return open_tcp(endpoint, min(deadline_s, time.monotonic() + limit_s), interrupt)


def server_key(transport: AnyTransport) -> str:
    """Which meter of the line is meant."""
    return f"{transport.server_logical_address}/{transport.server_physical_address}"


def make_channel(device: DeviceSettings, client_address: int, line: Line, interrupt: Interrupt) -> Channel:
    """A closed channel to the device's meter for one client address."""
    transport = device.transport
    if transport.framing == "wrapper":
        return WrapperChannel(
            line,
            client_address,
            transport.server_logical_address,
            owner=device.device_name,
            interrupt=interrupt,
        )
    address = HdlcAddress(
        transport.server_logical_address, transport.server_physical_address, transport.address_size
    )
    proposed = LinkParameters(
        transport.hdlc.max_info_length,
        transport.hdlc.max_info_length,
        transport.hdlc.window_size,
        transport.hdlc.window_size,
    )
    frame_timeout_ms = transport.hdlc.response_timeout_ms
    settings = HdlcSettings(
        parameters=proposed,
        retries=transport.hdlc.retries,
        response_timeout_s=None if frame_timeout_ms is None else frame_timeout_ms / 1000,
    )
    return HdlcChannel(line, client_address, address, settings, owner=device.device_name, interrupt=interrupt)
