"""The objects of the simulated three-phase meter: measured registers, identification, clock, association.

Load profiles and logs are in `profiles`, the relay and its kin in `controls`. Every measured register exists
with B = 0 and with B = 1, as the meters of different makers have it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from struct import Struct

from dlms_connector.cosem.values import DataType, TypedValue, array, encode, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.association_objects import association_objects
from dlms_connector.simulator.controls import control_objects
from dlms_connector.simulator.meter import LogicalDevice
from dlms_connector.simulator.objects import AccessResult, CosemObject, ObjectModel, Reader, Refused
from dlms_connector.simulator.profiles import profile_objects
from dlms_connector.simulator.quantities import QUANTITIES, Quantity, raw_value_of_seed
from dlms_connector.simulator.samples import sample_objects

_PACKERS = {
    DataType.INT16: Struct(">Bh"),
    DataType.UINT16: Struct(">BH"),
    DataType.INT32: Struct(">Bi"),
    DataType.UINT32: Struct(">BI"),
    DataType.UINT64: Struct(">BQ"),
}
FIRMWARE = "SIM-3P 2.4.1"
CLOCK = Obis(0, 0, 1, 0, 0)
_DEMAND_PERIOD_S = 900
# Group E tells the clients' counters apart where a meter has several; here they are one.
_COUNTER_GROUPS = (0, 1, 2, 3, 5)
_HISTORY_GROUPS = (1, 2, 101, 102)


@cache
def three_phase_model() -> ObjectModel[LogicalDevice]:
    """The model; one instance serves every meter of the process."""
    model: ObjectModel[LogicalDevice] = ObjectModel()
    for quantity in QUANTITIES.values():
        for b in (0, 1):
            model.add(_measured(quantity, b))
    for history in _HISTORY_GROUPS:
        model.add(_historical(QUANTITIES["active_energy"], history))
    for item in (*_identification(), _clock(), *control_objects(), *profile_objects(), *sample_objects()):
        model.add(item)
    for item in association_objects(model):
        model.add(item)
    return model


def octets(value: bytes) -> bytes:
    """An encoded octet-string."""
    return encode(TypedValue(DataType.OCTET_STRING, value))


def _scaler_unit(quantity: Quantity) -> bytes:
    return encode(
        structure(TypedValue(DataType.INT8, quantity.scaler), TypedValue(DataType.ENUM, quantity.unit))
    )


def _value_at(quantity: Quantity, moment: Callable[[LogicalDevice], int]) -> Reader[LogicalDevice]:
    pack, tag, key = _PACKERS[quantity.data_type].pack, int(quantity.data_type), quantity.key
    return lambda meter: pack(tag, raw_value_of_seed(meter.seed, key, moment(meter)))


def _now(meter: LogicalDevice) -> int:
    return meter.slot_s()


def _period_start(meter: LogicalDevice) -> int:
    now_s = meter.slot_s()
    return now_s - now_s % _DEMAND_PERIOD_S


def _moment(of: Callable[[LogicalDevice], float]) -> Reader[LogicalDevice]:
    return lambda meter: b"\x09\x0c" + meter.encode_moment(of(meter))


def _measured(quantity: Quantity, b: int) -> CosemObject[LogicalDevice]:
    obis = Obis(1, b, quantity.c, quantity.d, quantity.e)
    if quantity.key == "max_demand":
        return _extended_register(quantity, obis)
    if quantity.key == "average_demand":
        return _demand_register(quantity, obis)
    return CosemObject(3, obis, {2: _value_at(quantity, _now), 3: _scaler_unit(quantity)})


def _extended_register(quantity: Quantity, obis: Obis) -> CosemObject[LogicalDevice]:
    return CosemObject(
        4,
        obis,
        {
            2: _value_at(quantity, _now),
            3: _scaler_unit(quantity),
            4: encode(TypedValue(DataType.UINT8, 0)),
            5: _moment(_period_start),
        },
    )


def _demand_register(quantity: Quantity, obis: Obis) -> CosemObject[LogicalDevice]:
    return CosemObject(
        5,
        obis,
        {
            2: _value_at(quantity, _now),
            3: _value_at(quantity, lambda meter: meter.slot_s() - _DEMAND_PERIOD_S),
            4: _scaler_unit(quantity),
            5: encode(TypedValue(DataType.UINT8, 0)),
            6: _moment(_period_start),
            7: _moment(_period_start),
            8: encode(TypedValue(DataType.UINT32, _DEMAND_PERIOD_S)),
            9: encode(TypedValue(DataType.UINT16, 1)),
        },
    )


def history_moment_s(meter_slot_s: int, history: int) -> int:
    """The moment whose value group F = `history` holds: that many days (1..) before midnight UTC of today."""
    return meter_slot_s - meter_slot_s % 86_400 - (history % 100 - 1) * 86_400


def _historical(quantity: Quantity, history: int) -> CosemObject[LogicalDevice]:
    obis = Obis(1, 0, quantity.c, quantity.d, quantity.e, history)
    moment: Callable[[LogicalDevice], int] = lambda meter: history_moment_s(meter.slot_s(), history)  # noqa: E731
    return CosemObject(3, obis, {2: _value_at(quantity, moment), 3: _scaler_unit(quantity)})


def _identification() -> list[CosemObject[LogicalDevice]]:
    def serial_octets(meter: LogicalDevice) -> bytes:
        return octets(meter.settings.serial.encode())

    def serial_text(meter: LogicalDevice) -> bytes:
        return encode(TypedValue(DataType.VISIBLE_STRING, meter.settings.serial))

    ratio = encode(TypedValue(DataType.UINT16, 1))
    return [
        CosemObject(1, Obis(1, 0, 0, 0, 0), {2: serial_octets}),
        CosemObject(1, Obis(0, 0, 96, 1, 0), {2: serial_text}),
        CosemObject(1, Obis(0, 0, 42, 0, 0), {2: lambda meter: octets(logical_device_name(meter))}),
        CosemObject(1, Obis(1, 0, 0, 2, 0), {2: octets(FIRMWARE.encode())}),
        CosemObject(1, Obis(1, 0, 0, 4, 2), {2: ratio}),
        CosemObject(1, Obis(1, 0, 0, 4, 3), {2: ratio}),
        CosemObject(1, Obis(0, 0, 96, 14, 0), {2: encode(TypedValue(DataType.UINT8, 1))}),
        *[CosemObject(1, Obis(0, 0, 43, 1, e), {2: _counter}) for e in _COUNTER_GROUPS],
        CosemObject(17, Obis(0, 0, 41, 0, 0), {2: _sap_list}),
    ]


def logical_device_name(meter: LogicalDevice) -> bytes:
    """Manufacturer's three letters and what makes the name unique, at most 16 bytes."""
    return b"SIM" + meter.settings.serial.encode()[-13:]


def _sap_list(meter: LogicalDevice) -> bytes:
    entry = structure(
        TypedValue(DataType.UINT16, meter.settings.logical_address),
        TypedValue(DataType.OCTET_STRING, logical_device_name(meter)),
    )
    return encode(array([entry]))


def _counter(meter: LogicalDevice) -> bytes:
    """The last invocation counter that the meter accepted; a client has to use a greater one."""
    last = max(meter.client_counters.values(), default=meter.settings.initial_client_counter)
    return encode(TypedValue(DataType.UINT32, last))


def _clock() -> CosemObject[LogicalDevice]:
    def set_time(meter: LogicalDevice, value: TypedValue) -> None:
        try:
            wanted_s = meter.decode_moment(value.value)
        except ValueError as error:
            raise Refused(AccessResult.TYPE_UNMATCHED) from error
        meter.controls.clock_shift_s += wanted_s - meter.now_s()

    def time_zone(meter: LogicalDevice) -> bytes:
        moment = meter.encode_moment(meter.now_s())
        return bytes((DataType.INT16,)) + moment[9:11]

    def status(meter: LogicalDevice) -> bytes:
        return bytes((DataType.UINT8, meter.encode_moment(meter.now_s())[11]))

    return CosemObject(
        8,
        CLOCK,
        {
            2: _moment(lambda meter: meter.now_s()),
            3: time_zone,
            4: status,
            5: octets(bytes.fromhex("fffffe01ff02000000800000")),
            6: octets(bytes.fromhex("fffffd01ff03000000800000")),
            7: encode(TypedValue(DataType.INT8, 60)),
            8: encode(TypedValue(DataType.BOOLEAN, value=False)),
            9: encode(TypedValue(DataType.ENUM, 1)),
        },
        writers={2: set_time},
    )
