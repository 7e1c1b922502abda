"""What an operator asks of one meter: read, write, execute, clock, relay, timing of the layers.

Each function takes an open session and plain words and gives something that JSON can tell. Permission to
change a meter is checked here, so no way to the meter can go round it.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from dlms_connector.config.catalogue import default_class
from dlms_connector.config.reading import ObjectDefinition, RegisterSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.clock import decode_clock, encode_clock
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import DataType, DateTime, TypedValue, decode, encode
from dlms_connector.errors import CommandError, DecodeError, DlmsConnectorError, InvalidAnswer, ObjectError
from dlms_connector.meter.facts import ScalerUnknown
from dlms_connector.meter.plan import make_register, scaler_ref
from dlms_connector.meter.profile.access import Window
from dlms_connector.meter.profile.book import OUTSIDE
from dlms_connector.meter.profile.reader import ProfileReader
from dlms_connector.meter.profile.rows import row_readings
from dlms_connector.meter.reading import Plain, to_plain
from dlms_connector.meter.session import MeterSession
from dlms_connector.meter.writing import data_type, is_raw, to_typed
from dlms_connector.meter.zones import zone_for
from dlms_connector.obis import Obis

CLOCK = AttributeRef(8, Obis(0, 0, 1, 0, 0), 2)
RELAY = Obis(0, 0, 96, 3, 10)
_THRESHOLDS = {
    21: ((2,), 3),
    71: ((3, 4, 5), 2),
}  # class -> thresholds, and which attribute names the monitored value
_READ_KEY = "value read by hand"
_RELAY_CLASS = 70
_RELAY_STATES = {0: "disconnected", 1: "connected", 2: "ready for reconnection"}
_NO_DEVIATION = b"\x80\x00"
_CAPTURE_GUARD_S = 5
_CAPTURE_GRID_S = 300  # captures of 5, 15, 30 and 60 minutes fall on it


def object_definition(device: DeviceSettings, params: dict[str, Any]) -> ObjectDefinition:
    """The object that `params` names: `key` of the configuration, or `obis` with `class` and `attribute`.

    Raises:
        CommandError: neither, or not usable.
    """
    name = params.get("key")
    if name is not None:
        for entry in (*device.timeseries, *device.attributes):
            if entry.key == name:
                return entry
        raise CommandError(f'the device has no key "{name}"', hint="name a key of timeseries or attributes")
    code = params.get("obis")
    if not isinstance(code, str):
        raise CommandError("the object is missing", hint='give "obis" such as "1-0:1.8.0", or "key"')
    try:
        obis = Obis.parse(code)
    except ValueError as error:
        raise CommandError(str(error)) from error
    class_id = whole_number(params, "class", default_class(obis), 0, 65535)
    attribute = whole_number(params, "attribute", 2, 1, 127)
    return ObjectDefinition.model_validate({"obis": str(obis), "class": class_id, "attribute": attribute})


def whole_number(params: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    """A whole number of the parameters, also written as text. Raises CommandError."""
    value = params.get(name, default)
    try:
        number = int(value)
    except (TypeError, ValueError) as error:
        raise CommandError(f'"{name}" is a whole number') from error
    if isinstance(value, float) or not low <= number <= high:
        raise CommandError(f'"{name}" is a whole number from {low} to {high}')
    return number


def reference(definition: ObjectDefinition) -> AttributeRef:
    """The attribute that a definition names."""
    class_id = definition.class_id if definition.class_id is not None else default_class(definition.obis)
    return AttributeRef(class_id, definition.obis, definition.attribute)


def read(session: MeterSession, definition: ObjectDefinition) -> Plain:
    """Read one object now, scaled as the definition says.

    Raises:
        ScalerUnknown: a number came and the meter does not tell its scaler now. Where it never does and the device
            says "deliver", the answer is `{"value": ..., "unscaled": true}`.
        InvalidAnswer: what came is no value.
    """
    monitored = _monitored(session, reference(definition)) if definition.scaler == "auto" else None
    if monitored is not None and (where := scaler_ref(monitored)) is not None:
        scaler = session.scalers([where])[where]
        if scaler is None:
            raise ScalerUnknown(where, session.facts.why_unknown(where))
        definition = definition.model_copy(update={"scaler": scaler.exponent})
    register = make_register(
        RegisterSettings.model_validate({**definition.model_dump(by_alias=True), "key": _READ_KEY}),
        session.device.poll_period_ms,
        is_attribute=False,
    )
    session.learn_scalers([register])
    result = session.read_batch(session.plan.batch([register])[0])
    for error in result.problems().values():
        raise error
    value = result.readings[0].value
    unscaled = register.exponent is None and _READ_KEY in session.unscaled
    session.unscaled.discard(_READ_KEY)
    return {"value": value, "unscaled": True} if unscaled else value


def write(
    session: MeterSession, definition: ObjectDefinition, value: Any, type_name: str = "auto"
) -> dict[str, Plain]:
    """Write one attribute; `auto` takes the type that the meter answers with. Gives what was sent.

    Nothing is sent unless the meter tells the object's scaler (where its class has one) and type now.

    Raises:
        CommandError: not allowed by `allowWrite`, or the value does not fit.
        ScalerUnknown, ObjectError: the meter does not tell what is needed; nothing was written.
    """
    ref = reference(definition)
    allow(session.device, ref.obis, "set")
    if definition.path:
        raise CommandError("a part of a structure cannot be written", hint="write the whole attribute")
    exponent = 0 if is_raw(value) else _exponent_to_write(session, definition, ref)
    if definition.multiplier is not None and not is_raw(value):
        value = _divided(value, Decimal(str(definition.multiplier)))
    named = data_type(str(value["type"])) if is_raw(value) else None
    if named is None and type_name != "auto":
        named = data_type(type_name)
    kind = _kind_to_write(session, ref, named)
    reverse = session.device.clock.deviation_sign == "reversed"
    typed = to_typed(value, kind, exponent=exponent, deviation_reversed=reverse)
    session.set(ref, typed)
    sent = decode(encode(typed))[0]
    raw = sent if isinstance(sent, (bool, int, float, str)) else encode(typed).hex().upper()
    return {"written": True, "raw": raw, "type": _type_text(typed.type), "scaler": exponent}


def _exponent_to_write(session: MeterSession, definition: ObjectDefinition, ref: AttributeRef) -> int:
    """The scaler of what is written, as the meter tells it this moment. Raises ScalerUnknown, CommandError."""
    if isinstance(definition.scaler, int):
        return definition.scaler
    if definition.scaler is None:
        return 0
    where = scaler_ref(_monitored(session, ref) or ref)
    return 0 if where is None else session.fresh_scaler(where).exponent


def _monitored(session: MeterSession, ref: AttributeRef) -> AttributeRef | None:
    """The value that a threshold counts as (Blue Book 4.5.2, 4.5.9); None where `ref` is no threshold.

    Raises:
        CommandError: the meter does not tell it.
    """
    attributes, at = _THRESHOLDS.get(ref.class_id, ((), 0))
    if ref.attribute not in attributes:
        return None
    try:
        value = session.get(AttributeRef(ref.class_id, ref.obis, at))
    except ObjectError as error:
        value = error.message
    if isinstance(value, tuple) and len(value) == 3:
        class_id, name, attribute = value
        if (
            isinstance(class_id, int)
            and isinstance(attribute, int)
            and isinstance(name, bytes)
            and len(name) == 6
        ):
            return AttributeRef(class_id, Obis.from_bytes(name), attribute)
    raise CommandError(
        f"a threshold counts as the value that {ref.obis} monitors does, and the meter does not tell which: {value!r}",
        hint='write it raw: {"type": "uint16", "value": 2530}, or set "scaler" of the object',
    )


def _kind_to_write(session: MeterSession, ref: AttributeRef, named: DataType | None) -> DataType:
    """The type that the meter holds; one that is named must be that, where the meter lets it be read.

    Raises:
        CommandError: the meter holds another type.
        ObjectError: it cannot be read, and no type is named.
    """
    try:
        held = session.get_typed(ref).type
    except ObjectError:
        if named is None:
            raise
        return named
    if named is None or named is held:
        return held
    if held in (DataType.NULL, DataType.DONT_CARE):
        return named
    raise CommandError(
        f"the meter holds {_type_text(held)} there, not {_type_text(named)}; nothing is written"
    )


def _divided(value: Any, multiplier: Decimal) -> Any:
    """A value that is read times the multiplier, as the meter holds it; text and the like as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)) or not multiplier:
        return value
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return number / multiplier


def _type_text(kind: DataType) -> str:
    return kind.name.lower().replace("_", "-")


def execute(session: MeterSession, ref: AttributeRef, parameter: Any = None, type_name: str = "") -> Plain:
    """Invoke a method. Raises CommandError when `allowWrite` does not name the object."""
    allow(session.device, ref.obis, "action")
    typed = None
    if parameter is not None or type_name:
        typed = to_typed(parameter, data_type(type_name or "int8"))
    return to_plain(session.execute(ref, typed))


def allow(device: DeviceSettings, obis: Obis, service: str) -> None:
    """Raise CommandError unless the configuration allows this change of the meter."""
    allowed = device.allow_write.set if service == "set" else device.allow_write.action
    if obis not in allowed:
        raise CommandError(
            f"changing {obis} is not allowed on {device.device_name}",
            hint=f'add "{obis}" to allowWrite.{service} of the device, if it is meant',
        )


def read_clock(session: MeterSession) -> dict[str, Plain]:
    """The meter's clock and how far it is off ours (`offsetMs`, positive: the meter is ahead).

    Parts that no clock can show are passed over; without a sound deviation nobody knows how far the clock is off.

    Raises:
        InvalidAnswer: what came is no date-time.
    """
    raw = session.get(CLOCK)
    if not isinstance(raw, bytes):
        raise InvalidAnswer(f"{CLOCK}: the meter's clock is no date-time")
    settings = session.device.clock
    try:
        moment = decode_clock(raw, lenient=True)
    except DecodeError as error:
        raise InvalidAnswer(f"{CLOCK}: the meter's clock is no date-time: {error.message}") from error
    is_sound = moment.deviation_min is not None or raw[9:11] == _NO_DEVIATION
    epoch_ms = (
        moment.to_epoch_ms(
            zone_for(settings.time_zone), deviation_reversed=settings.deviation_sign == "reversed"
        )
        if is_sound
        else None
    )
    now_ms = time.time_ns() // 1_000_000
    return {
        "time": moment.isoformat(),
        "epochMs": epoch_ms,
        "offsetMs": None if epoch_ms is None else epoch_ms - now_ms,
        "valid": not moment.is_invalid,
    }


def set_clock(session: MeterSession, epoch_ms: int | None = None) -> dict[str, Plain]:
    """Set the meter's clock, at most by `clock.maxShift`, and never beside a capture of a profile.

    Raises:
        CommandError: not allowed, too far off, or too near to a capture.
    """
    device = session.device
    allow(device, CLOCK.obis, "set")
    before = read_clock(session)
    now_ms = time.time_ns() // 1_000_000
    target_ms = now_ms if epoch_ms is None else epoch_ms
    meter_ms = before["epochMs"]
    if isinstance(meter_ms, int) and abs(target_ms - meter_ms) > device.clock.max_shift_ms:
        raise CommandError(
            f"the clock would move by {abs(target_ms - meter_ms) / 1000:.0f} s, more than maxShift allows",
            hint="raise clock.maxShift for this device if the shift is meant",
        )
    _stay_clear_of_captures(target_ms, meter_ms if isinstance(meter_ms, int) else target_ms)
    raw = encode_clock(
        target_ms,
        zone_for(device.clock.time_zone),
        deviation_reversed=device.clock.deviation_sign == "reversed",
    )
    kind = session.get_typed(CLOCK).type
    value = DateTime(raw) if kind is DataType.DATE_TIME else raw
    session.set(CLOCK, TypedValue(kind, value))
    return {"before": before["time"], "after": read_clock(session)["time"]}


def _stay_clear_of_captures(target_ms: int, meter_ms: int) -> None:
    """A shift across the moment of a capture would double or lose a row of a profile."""
    grid_ms = _CAPTURE_GRID_S * 1000
    for moment in (target_ms, meter_ms):
        into_s = moment % grid_ms / 1000
        if into_s < _CAPTURE_GUARD_S or into_s > _CAPTURE_GRID_S - _CAPTURE_GUARD_S:
            raise CommandError("a profile may be captured just now", hint="try again in ten seconds")
    if target_ms // grid_ms != meter_ms // grid_ms:
        raise CommandError("the shift would cross the moment of a capture", hint="try again in a minute")


def relay_state(session: MeterSession, obis: Obis = RELAY) -> dict[str, Plain]:
    """Output and control state of a disconnect control object (class 70)."""
    output = session.get(AttributeRef(_RELAY_CLASS, obis, 2))
    if not isinstance(output, (bool, int)):
        raise InvalidAnswer(f"the output state of {obis} is {to_plain(output)!r}: neither true nor false")
    control = session.get(AttributeRef(_RELAY_CLASS, obis, 3))
    state = _RELAY_STATES.get(control, f"state {control}") if isinstance(control, int) else None
    return {"connected": bool(output), "state": state}


def relay_switch(session: MeterSession, connect: bool, obis: Obis = RELAY) -> dict[str, Plain]:
    """Remote reconnect or disconnect, then the state that followed."""
    allow(session.device, obis, "action")
    session.execute(AttributeRef(_RELAY_CLASS, obis, 2 if connect else 1), TypedValue(DataType.INT8, 0))
    return relay_state(session, obis)


def read_profile(reader: ProfileReader, session: MeterSession, window: Window, limit: int) -> list[Plain]:
    """The newest `limit` rows of a window as `{"ts": ..., "values": {...}}`."""
    rows = reader.rows(session, window)[-limit:]
    layout = reader.layout or reader.learn(session)
    result: list[Plain] = []
    for row in rows:
        values: dict[str, Plain] = {reading.key: reading.value for reading in row_readings(row, layout)}
        result.append({"ts": row.ts_ms, "time": _iso(row.ts_ms), "values": values})
    return result


def profile_answer(reader: ProfileReader, session: MeterSession, window: Window, limit: int) -> Plain:
    """The rows of `read_profile`; where some were left out or are odd, `{"rows": ..., "leftOut": ..., "remarks": ...}`.

    Rows outside the window alone are no such case: many meters send them with every answer.
    """
    book = reader.book
    left_out, remarks = Counter(book.left_out), Counter(book.remarks)
    rows = read_profile(reader, session, window, limit)
    left_out, remarks = Counter(book.left_out) - left_out, Counter(book.remarks) - remarks
    if not remarks and left_out.keys() <= {OUTSIDE}:
        return rows
    answer: dict[str, Plain] = {"rows": rows, "leftOut": dict(left_out)}
    return {**answer, "remarks": dict(remarks)} if remarks else answer


def _iso(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, timezone.utc).isoformat()


def time_layers(session: MeterSession) -> dict[str, Plain]:
    """Open the session anew and time each step in milliseconds: what is slow, or where it ends.

    The former association is released first; the meter serves one.
    """
    session.close(time.monotonic() + 2.0)
    steps: dict[str, Plain] = {}
    result: dict[str, Plain] = {"ok": False, "steps": steps}
    began = time.monotonic()
    try:
        session.open()
        steps["open"] = _since(began)
        began = time.monotonic()
        first = next(iter(session.plan.registers), None)
        session.get(first.ref if first else CLOCK)
        steps["read"] = _since(began)
    except DlmsConnectorError as error:
        result.update(error=error.explain(), layer=str(error.layer))
        return result
    result["ok"] = True
    return result


def _since(began_s: float) -> float:
    return round((time.monotonic() - began_s) * 1000, 1)
