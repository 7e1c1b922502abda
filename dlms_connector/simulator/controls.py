"""What a client can make the simulated meter do: relay, limiter, script table, activity calendar."""

from __future__ import annotations

from dlms_connector.cosem.values import DataType, TypedValue, array, encode, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.objects import AccessResult, CosemObject, Refused

RELAY = Obis(0, 0, 96, 3, 10)
LIMITER = Obis(0, 0, 17, 0, 0)
SCRIPTS = Obis(0, 0, 10, 0, 100)
CALENDAR = Obis(0, 0, 13, 0, 0)
_SCRIPT_IDS = (1, 2)
_READY = 2


def control_objects() -> list[CosemObject[LogicalDevice]]:
    return [_relay(), _limiter(), _script_table(), _calendar()]


def _typed(data_type: DataType, value: object) -> TypedValue:
    return TypedValue(data_type, value)


def _relay() -> CosemObject[LogicalDevice]:
    def disconnect(meter: LogicalDevice, _: TypedValue | None) -> None:
        meter.controls.is_connected = False
        meter.controls.control_state = 0

    def reconnect(meter: LogicalDevice, _: TypedValue | None) -> None:
        meter.controls.is_connected = True
        meter.controls.control_state = 1

    def set_mode(meter: LogicalDevice, value: TypedValue) -> None:
        if value.type is not DataType.ENUM:
            raise Refused(AccessResult.TYPE_UNMATCHED)
        meter.controls.control_mode = value.value

    return CosemObject(
        70,
        RELAY,
        {
            2: lambda meter: encode(_typed(DataType.BOOLEAN, meter.controls.is_connected)),
            3: lambda meter: encode(_typed(DataType.ENUM, meter.controls.control_state)),
            4: lambda meter: encode(_typed(DataType.ENUM, meter.controls.control_mode)),
        },
        writers={4: set_mode},
        methods={1: disconnect, 2: reconnect},
    )


def _limiter() -> CosemObject[LogicalDevice]:
    def threshold(meter: LogicalDevice) -> bytes:
        return encode(_typed(DataType.UINT32, meter.controls.threshold_w))

    def set_threshold(meter: LogicalDevice, value: TypedValue) -> None:
        if value.type is not DataType.UINT32:
            raise Refused(AccessResult.TYPE_UNMATCHED)
        meter.controls.threshold_w = value.value

    monitored = structure(
        _typed(DataType.UINT16, 3),
        _typed(DataType.OCTET_STRING, Obis(1, 0, 1, 7, 0).to_bytes()),
        _typed(DataType.INT8, 2),
    )
    seconds = encode(_typed(DataType.UINT32, 60))
    script = structure(
        _typed(DataType.OCTET_STRING, SCRIPTS.to_bytes()), _typed(DataType.UINT16, _SCRIPT_IDS[0])
    )
    return CosemObject(
        71,
        LIMITER,
        {
            2: encode(monitored),
            3: threshold,
            4: threshold,
            5: threshold,
            6: seconds,
            7: seconds,
            8: encode(
                structure(
                    _typed(DataType.UINT16, 0),
                    _typed(DataType.OCTET_STRING, bytes.fromhex("ffffffffffffffffff8000ff")),
                    _typed(DataType.UINT32, 0),
                )
            ),
            9: encode(array([])),
            10: encode(_typed(DataType.BOOLEAN, value=False)),
            11: encode(structure(script, script)),
        },
        writers={4: set_threshold},
    )


def _script_table() -> CosemObject[LogicalDevice]:
    def execute(meter: LogicalDevice, parameter: TypedValue | None) -> None:
        if parameter is None or parameter.value not in _SCRIPT_IDS:
            raise Refused(AccessResult.OTHER_REASON)
        meter.controls.scripts_executed.append(parameter.value)

    action = structure(
        _typed(DataType.ENUM, 2),
        _typed(DataType.UINT16, 70),
        _typed(DataType.OCTET_STRING, RELAY.to_bytes()),
        _typed(DataType.INT8, 1),
        _typed(DataType.INT8, 0),
    )
    scripts = array([structure(_typed(DataType.UINT16, number), array([action])) for number in _SCRIPT_IDS])
    return CosemObject(9, SCRIPTS, {2: encode(scripts)}, methods={1: execute})


def _calendar() -> CosemObject[LogicalDevice]:
    name = _typed(DataType.OCTET_STRING, b"2026")
    start = _typed(DataType.OCTET_STRING, bytes.fromhex("ffff0101ff00000000ffffff"))
    season = structure(_typed(DataType.OCTET_STRING, b"S1"), start, _typed(DataType.OCTET_STRING, b"W1"))
    week = structure(_typed(DataType.OCTET_STRING, b"W1"), *[_typed(DataType.UINT8, 1) for _ in range(7)])
    action = structure(
        _typed(DataType.OCTET_STRING, bytes.fromhex("06000000")),
        _typed(DataType.OCTET_STRING, SCRIPTS.to_bytes()),
        _typed(DataType.UINT16, 1),
    )
    day = structure(_typed(DataType.UINT8, 1), array([action]))
    attributes = {}
    for offset in (2, 6):
        attributes[offset] = encode(name)
        attributes[offset + 1] = encode(array([season]))
        attributes[offset + 2] = encode(array([week]))
        attributes[offset + 3] = encode(array([day]))
    attributes[10] = encode(start)
    return CosemObject(20, CALENDAR, attributes)
