"""The association object (class 15) and the security setup (class 64) of the simulated meter."""

from __future__ import annotations

from dlms_connector.cosem.values import BitString, DataType, TypedValue, encode, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.objects import AccessResult, CosemObject, ObjectModel, Refused

ASSOCIATION = Obis(0, 0, 40, 0, 0)
SECURITY_SETUP = Obis(0, 0, 43, 0, 0)
_DLMS_OBJECT_IDENTIFIER = bytes.fromhex("6085740508")
_SUITE_POLICY_BITS = {0x10: 0x24, 0x20: 0x48, 0x30: 0x6C}


def association_objects(model: ObjectModel[LogicalDevice]) -> list[CosemObject[LogicalDevice]]:
    """Both objects; the object list has whatever the model holds when it is first read."""
    encoded: list[bytes] = []

    def object_list(_: LogicalDevice) -> bytes:
        if not encoded:
            encoded.append(model.object_list())
        return encoded[0]

    association = CosemObject(
        15,
        ASSOCIATION,
        {
            2: object_list,
            3: _partners,
            4: lambda meter: _octets(_DLMS_OBJECT_IDENTIFIER + bytes((1, _context(meter)))),
            5: _xdlms_context,
            6: lambda meter: _octets(_DLMS_OBJECT_IDENTIFIER + bytes((2, _mechanism(meter)))),
            8: encode(TypedValue(DataType.ENUM, 2)),
            9: _octets(SECURITY_SETUP.to_bytes()),
        },
        version=1,
        # The third and fourth pass are served by the association itself.
        methods={1: _refuse},
    )
    security_setup = CosemObject(
        64,
        SECURITY_SETUP,
        {2: _policy, 3: _suite, 4: lambda meter: _octets(_client_title(meter)), 5: _server_title},
        version=1,
    )
    return [association, security_setup]


def _octets(value: bytes) -> bytes:
    return encode(TypedValue(DataType.OCTET_STRING, value))


def _refuse(meter: LogicalDevice, parameter: TypedValue | None) -> bytes | None:
    raise Refused(AccessResult.OTHER_REASON)


def _partners(meter: LogicalDevice) -> bytes:
    client = meter.current.client_address if meter.current else 0
    server = meter.settings.logical_address
    return encode(structure(TypedValue(DataType.INT8, client), TypedValue(DataType.UINT16, server)))


def _context(meter: LogicalDevice) -> int:
    request = meter.current.request if meter.current else None
    return request.context if request else 1


def _mechanism(meter: LogicalDevice) -> int:
    request = meter.current.request if meter.current else None
    return request.mechanism if request else 0


def _client_title(meter: LogicalDevice) -> bytes:
    request = meter.current.request if meter.current else None
    return request.client_title if request else b""


def _xdlms_context(meter: LogicalDevice) -> bytes:
    services = meter.current.services if meter.current else None
    conformance = services.conformance if services else meter.settings.conformance
    size = meter.settings.max_pdu_bytes
    return encode(
        structure(
            TypedValue(DataType.BIT_STRING, BitString(f"{conformance:024b}")),
            TypedValue(DataType.UINT16, size),
            TypedValue(DataType.UINT16, size),
            TypedValue(DataType.UINT8, 6),
            TypedValue(DataType.INT8, 0),
            TypedValue(DataType.OCTET_STRING, b""),
        )
    )


def _policy(meter: LogicalDevice) -> bytes:
    client = meter.current.client if meter.current else None
    control = client.security.policy if client and client.security else 0
    return encode(TypedValue(DataType.ENUM, _SUITE_POLICY_BITS.get(control, 0)))


def _suite(meter: LogicalDevice) -> bytes:
    client = meter.current.client if meter.current else None
    return encode(TypedValue(DataType.ENUM, client.security.suite if client and client.security else 0))


def _server_title(meter: LogicalDevice) -> bytes:
    for client in meter.settings.clients:
        if client.security is not None:
            return _octets(client.security.server_title)
    return _octets(b"")
