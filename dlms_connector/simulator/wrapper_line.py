"""The wrapper's end of a line: DLMS over TCP (Green Book clause 7.3.3)."""

from __future__ import annotations

from dlms_connector.simulator.association_server import ServerAssociation
from dlms_connector.simulator.faults import FaultKind
from dlms_connector.simulator.line import NOTIFICATION, LineConnection, SimulatedLine
from dlms_connector.simulator.meter import LogicalDevice

_WRAPPER_VERSION = b"\x00\x01"
_WRAPPER_HEADER_BYTES = 8


def _message(port: int, client: int, apdu: bytes) -> bytes:
    stations = bytes((port >> 8, port & 0xFF, client >> 8, client & 0xFF))
    return _WRAPPER_VERSION + stations + len(apdu).to_bytes(2, "big") + apdu


class WrapperConnection(LineConnection):
    """TCP with the DLMS wrapper (Green Book clause 7.3.3): version, source and destination port, length."""

    def __init__(self, line: SimulatedLine) -> None:
        super().__init__(line)
        self._buffer = bytearray()
        self._associations: dict[tuple[int, int], ServerAssociation] = {}
        self._last_client = 0

    def feed(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _WRAPPER_HEADER_BYTES:
            if buffer[:2] != _WRAPPER_VERSION:
                self.stream.close()
                return
            end = _WRAPPER_HEADER_BYTES + (buffer[6] << 8 | buffer[7])
            if len(buffer) < end:
                return
            client, port = buffer[2] << 8 | buffer[3], buffer[4] << 8 | buffer[5]
            apdu = bytes(buffer[_WRAPPER_HEADER_BYTES:end])
            del buffer[:end]
            self._dispatch(client, port, apdu)

    def _dispatch(self, client: int, port: int, apdu: bytes) -> None:
        device = self.line.device_at_port(port)
        if device is None:
            self.line.counters.unanswered += 1
            return
        self._last_client = client
        association = self._associations.get((port, client))
        if association is None:
            association = self._associations[port, client] = ServerAssociation(device, client)
        request_bytes = len(apdu) + _WRAPPER_HEADER_BYTES

        def process() -> None:
            reply, fault = association.handle(apdu)
            if reply is not None:
                self.answer(device, _message(port, client, reply), request_bytes, fault)

        self.request(device, request_bytes, process)

    def push(self, device: LogicalDevice, apdu: bytes) -> None:
        self._write(device, _message(device.settings.logical_address, self._last_client, apdu))

    def notification(self, device: LogicalDevice) -> bytes:
        ports = device.settings.logical_address.to_bytes(2, "big") + b"\x00\x01"
        return _WRAPPER_VERSION + ports + len(NOTIFICATION).to_bytes(2, "big") + NOTIFICATION

    def spoil(self, raw: bytes, kind: FaultKind) -> bytes:
        if kind is FaultKind.BAD_FCS:
            return raw[:1] + bytes((raw[1] ^ 0x40,)) + raw[2:]
        if kind is FaultKind.WRONG_ADDRESS:
            return raw[:3] + bytes((raw[3] ^ 0x20,)) + raw[4:]
        return super().spoil(raw, kind)

    def abort_associations(self) -> None:
        for association in self._associations.values():
            association.end_with_link(cleanly=False)

    def idle(self, device: LogicalDevice) -> None:
        self.stream.close()
