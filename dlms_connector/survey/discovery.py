"""What a meter offers: the association's object list -> names, values, a device entry, a template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from dlms_connector.config.catalogue import default_class, name_of
from dlms_connector.config.reading import RegisterSettings
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import Value, decode_elements
from dlms_connector.errors import DlmsConnectorError, LinkError, ObjectError, ServiceRefused
from dlms_connector.meter.plan import Register, make_register
from dlms_connector.meter.reading import Plain
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis

ASSOCIATION_CLASS: Final = 15
PROFILE_CLASS: Final = 7
MAX_OBJECTS: Final = 5000
READABLE_CLASSES: Final = {1: 2, 3: 2, 4: 2, 5: 2, 8: 2}  # class: the attribute that holds its value
_MEASURED_CLASSES: Final = (3, 4, 5)
_BATCH: Final = 10
_REOPENINGS: Final = 3
_CURRENT: Final = 255
"""Group F of the value now; others are history."""
_BIT_RIGHTS_VERSION: Final = 3  # of the association class
_READ_BIT: Final = 1
_READ_MODES: Final = (1, 3, 4, 6)
_LAST_MODE: Final = 6
_DENIED: Final = "the list gives no right to read it"


@dataclass(slots=True)
class FoundObject:
    """One entry of the object list, with what was read of it."""

    class_id: int
    version: int
    obis: Obis
    access: dict[int, int] = field(default_factory=dict)  # attribute -> access mode as the list has it
    name: str = ""
    value: Plain = None
    unit: str = ""
    error: str = ""
    answered: bool = False
    """The meter serves it, though `error` says why there is no value now."""
    rights_are_bits: bool = False
    """Association version 3 and later; before, modes are 0 none, 1 read, 2 write, 3 both, 4 to 6 authenticated."""

    def may_read(self, attribute: int) -> bool:
        """Whether the list says so. Lists are often wrong, so this orders the asking and prevents none of it."""
        mode = self.access.get(attribute)
        if mode is None:
            return True
        return bool(mode & _READ_BIT) if self.rights_are_bits else mode in _READ_MODES

    @property
    def is_event_log(self) -> bool:
        """Event logs have D = 98 (Blue Book 7.5.2.5)."""
        return self.class_id == PROFILE_CLASS and (self.obis.c, self.obis.d) == (99, 98)


def object_list(session: MeterSession, on_note: Callable[[str], None] = lambda _: None) -> list[FoundObject]:
    """The objects of the association, as far as the meter's list can be decoded; long lists come by blocks.

    `on_note` takes what is wrong with the list, a sentence each.

    Raises:
        ObjectError: the association object is not readable for this client.
        LinkError, ServiceRefused: the association is over, or the meter does no GET.
        DecodeError: the list is no array.
    """
    association_obis = session.device.client.association_obis
    items, note = decode_elements(session.get_encoded(AttributeRef(ASSOCIATION_CLASS, association_obis, 2)))
    if note:
        on_note(f"object list: {note}")
    if len(items) > MAX_OBJECTS:
        on_note(f"object list: {len(items)} entries, only the first {MAX_OBJECTS} are taken")
    items = items[:MAX_OBJECTS]
    objects = list(_parse(items))
    if len(objects) < len(items):
        on_note(
            f"object list: {len(items) - len(objects)} of {len(items)} entries are no objects, passed over"
        )
    are_bits = _rights_are_bits(objects, association_obis)
    for found in objects:
        found.rights_are_bits = are_bits
    return objects


def _parse(items: list[Value]) -> Iterator[FoundObject]:
    for item in items:
        if not isinstance(item, tuple) or len(item) < 3:
            continue
        class_id, version, name = item[:3]
        if not (
            isinstance(class_id, int)
            and isinstance(version, int)
            and isinstance(name, bytes)
            and len(name) == 6
        ):
            continue
        obis = Obis.from_bytes(name)
        found = FoundObject(class_id, version, obis, name=name_of(obis))
        if len(item) > 3:
            found.access = _attribute_rights(item[3])
        yield found


def _rights_are_bits(objects: Sequence[FoundObject], association_obis: Obis) -> bool:
    """Whether access modes are bit fields: the version of the association says so, or a mode no enumeration has."""
    associations = [found for found in objects if found.class_id == ASSOCIATION_CLASS]
    own = [found for found in associations if found.obis == association_obis]
    if any(found.version >= _BIT_RIGHTS_VERSION for found in own or associations):
        return True
    return any(mode > _LAST_MODE for found in objects for mode in found.access.values())


def _attribute_rights(value: Value) -> dict[int, int]:
    if not isinstance(value, tuple) or not value or not isinstance(value[0], list):
        return {}
    rights = {}
    for item in value[0]:
        if (
            isinstance(item, tuple)
            and len(item) >= 2
            and isinstance(item[0], int)
            and isinstance(item[1], int)
        ):
            rights[item[0]] = item[1]
    return rights


def read_values(
    session: MeterSession, objects: Sequence[FoundObject], on_progress: Callable[[int], None] = lambda _: None
) -> None:
    """Read value and unit of every simple object, and how long the profiles are, into the objects.

    In lists where the meter does them. What the list gives no right to read comes last and alone, and its
    `error` says so where it is refused. An object at which the link breaks is marked, and the session opened
    anew for the others.

    Raises:
        LinkError: the link broke too often, or cannot be opened again, before all that may be read was asked.
    """
    simple = [found for found in objects if found.class_id in READABLE_CLASSES]
    profiles = [found for found in objects if found.class_id == PROFILE_CLASS]
    allowed = [found for found in simple if found.may_read(READABLE_CLASSES[found.class_id])]
    denied = [found for found in simple if not found.may_read(READABLE_CLASSES[found.class_id])]
    done = len(objects) - len(simple) - len(profiles)
    on_progress(done)
    parts = [allowed[start : start + _BATCH] for start in range(0, len(allowed), _BATCH)]
    asking = _Asking(session)
    while parts:
        part = parts.pop(0)
        why = asking.attempt(_read_part, part)
        if why and len(part) > 1:
            parts[:0] = [[found] for found in part]  # one of them is to blame
            continue
        if why:
            part[0].error = why
        done += len(part)
        on_progress(done)
    for found in profiles:
        found.error = asking.attempt(_read_profile, found) or found.error
        done += 1
        on_progress(done)
    for found in denied:
        _try_denied(asking, found)
        done += 1
        on_progress(done)


_What = TypeVar("_What")


class _Asking:
    """Asks, and opens the session anew where the link breaks, a few times."""

    def __init__(self, session: MeterSession) -> None:
        self._session = session
        self._breaks = 0
        self.ended_by = ""
        """Why nothing more can be asked, once that is so."""

    def attempt(self, action: Callable[[MeterSession, _What], None], what: _What) -> str:
        """Do it; what broke the link meanwhile, empty for nothing.

        Raises:
            LinkError: the link broke too often, or cannot be opened again.
        """
        try:
            action(self._session, what)
        except LinkError as error:
            self._breaks += 1
            self.ended_by = error.message
            if self._breaks > _REOPENINGS:
                raise
            self._session.open()
            self.ended_by = ""
            return error.message
        return ""


def _try_denied(asking: _Asking, found: FoundObject) -> None:
    """Ask for what the list gives no right to; the rest of the result is never lost for it."""
    if asking.ended_by:
        found.error = f"{_DENIED}; not tried: the link broke too often ({asking.ended_by})"
        return
    try:
        why = asking.attempt(_read_denied, found)
    except LinkError:
        why = asking.ended_by
    if why:
        found.error = f"{_DENIED}; tried: {why}"


def _read_denied(session: MeterSession, found: FoundObject) -> None:
    why = _why(session, _register(0, found))
    if why:
        found.error = f"{_DENIED}; tried: {why}"
    else:
        _read_part(session, [found])


def is_asked(found: FoundObject) -> bool:
    """Whether `read_values` knows what to ask an object of this class."""
    return found.class_id == PROFILE_CLASS or found.class_id in READABLE_CLASSES


def _is_readable(found: FoundObject) -> bool:
    """It was read, or the list gives the right to."""
    return found.value is not None or found.may_read(READABLE_CLASSES.get(found.class_id, 2))


def _read_part(session: MeterSession, part: Sequence[FoundObject]) -> None:
    registers = [_register(index, found) for index, found in enumerate(part)]
    session.learn_scalers(registers)
    problems: dict[str, DlmsConnectorError] = {}
    for batch in session.plan.batch(registers):
        result = session.read_batch(batch)
        problems |= result.problems()
        for reading in result.readings:
            found = part[int(reading.key)]
            found.value, found.unit, found.error = reading.value, reading.unit, ""
    for register, found in zip(registers, part, strict=True):
        if found.value is None:
            found.error = _why(session, register)
            problem = problems.get(register.key)
            if not found.error and problem is not None:
                found.error, found.answered = problem.message, True


def _register(index: int, found: FoundObject) -> Register:
    entry = {"key": str(index), "obis": str(found.obis), "class": found.class_id}
    return make_register(RegisterSettings.model_validate(entry), 1000, is_attribute=False)


def _why(session: MeterSession, register: Register) -> str:
    """What the meter says when it is asked for this object alone; empty where it holds null."""
    try:
        session.get(register.ref)
    except (ObjectError, ServiceRefused) as error:
        return error.message
    return ""


def _read_profile(session: MeterSession, found: FoundObject) -> None:
    found.value, found.error = _profile_size(session, found)


def _profile_size(session: MeterSession, found: FoundObject) -> tuple[Plain, str]:
    try:
        rows = session.get(AttributeRef(PROFILE_CLASS, found.obis, 7))
        period_s = session.get(AttributeRef(PROFILE_CLASS, found.obis, 4))
    except (ObjectError, ServiceRefused) as error:
        return None, error.message
    if not isinstance(rows, int):
        return None, "entries_in_use is no number"
    every = f", one every {period_s} s" if isinstance(period_s, int) and period_s else ""
    return f"{rows} rows{every}", ""


def left_out_of_entry(objects: Sequence[FoundObject]) -> str:
    """A note on objects that nobody asked for and that an entry leaves out for want of a right; empty for none."""
    names = [
        str(found.obis)
        for found in objects
        if is_asked(found) and found.obis.f == _CURRENT and not found.error and not _is_readable(found)
    ]
    if not names:
        return ""
    return f"left out of the entry, the list gives no right to read them and they were not tried: {', '.join(names)}"


def device_entry(device: DeviceSettings, objects: Sequence[FoundObject]) -> dict[str, Any]:
    """An entry that reads what was found now: numbers as timeseries, data of class 1 as attributes.

    Of objects that were not read (`read_values` was not asked) those are taken that the list lets us read.
    History is left out.
    """
    return {
        "deviceName": device.device_name,
        "deviceType": device.device_type,
        **_sections(device),
        **_objects(objects),
    }


def template(name: str, device: DeviceSettings, objects: Sequence[FoundObject]) -> dict[str, Any]:
    """A template of the meter's kind: what differs from unit to unit (host, password, keys) stays out."""
    sections = _sections(device)
    for own in ("host", "port") if device.transport.type == "serial" else ("host",):
        sections["transport"].pop(own, None)
    sections["client"].pop("password", None)
    security = sections["client"].get("security", {})
    for own in ("encryptionKey", "authenticationKey", "serverSystemTitle"):
        security.pop(own, None)
    return {
        "name": name,
        "description": f"made by discover from one meter ({device.device_name})",
        "source": "the object list of that meter",
        "notVerified": ["other units of this type"],
        "device": {"deviceType": device.device_type, **sections, **_objects(objects)},
    }


def _sections(device: DeviceSettings) -> dict[str, Any]:
    """How the meter is reached and who we are to it; secrets stay references."""
    whole = device.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    sections = {
        "transport": {"type": device.transport.type, **whole.get("transport", {})},
        "client": {"address": device.client.address, **whole.get("client", {})},
    }
    return {**sections, **{name: whole[name] for name in ("timeout", "clock") if name in whole}}


def _objects(objects: Sequence[FoundObject]) -> dict[str, Any]:
    timeseries: list[dict[str, Any]] = []
    attributes: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    taken: set[str] = set()
    for found in sorted(objects, key=lambda each: each.obis.b):  # B = 0 has the first claim on a name
        refused = bool(found.error) and not found.answered
        if found.obis.f != _CURRENT or refused or not (found.answered or _is_readable(found)):
            continue
        if found.class_id == PROFILE_CLASS:
            kind = "events" if found.is_event_log else "profile"
            profiles.append({"obis": str(found.obis), "kind": kind})
        elif found.class_id in _MEASURED_CLASSES:
            timeseries.append(_entry(found, taken))
        elif found.class_id == 1 and not isinstance(found.value, (list, dict)):
            attributes.append(_entry(found, taken))
    return {"timeseries": timeseries, "attributes": attributes, "profiles": profiles}


def _entry(found: FoundObject, taken: set[str]) -> dict[str, Any]:
    key = found.name if found.name and found.name not in taken else str(found.obis)
    if key in taken:
        key = f"{found.obis} class {found.class_id}"
    taken.add(key)
    entry: dict[str, Any] = {"key": key, "obis": str(found.obis)}
    if found.class_id != default_class(found.obis):
        entry["class"] = found.class_id
    if isinstance(found.value, str):
        entry["type"] = "text"
    return entry


def discover_summary(session: MeterSession) -> dict[str, Plain]:
    """The object list in a form small enough for an RPC answer."""
    notes: list[Plain] = []
    objects = object_list(session, notes.append)
    listed: list[Plain] = [f"{found.obis} class {found.class_id} {found.name}".rstrip() for found in objects]
    summary: dict[str, Plain] = {"count": len(objects), "objects": listed[:200]}
    return {**summary, "notes": notes} if notes else summary
