"""What a meter offers: the association's object list -> a table, a device entry, a template."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from dlms_connector.config.catalogue import CATALOGUE
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.units import scale, unit_text
from dlms_connector.cosem.values import Value
from dlms_connector.errors import DecodeError, ObjectError, ServiceRefused
from dlms_connector.meter.plan import scaler_ref
from dlms_connector.meter.reading import Plain, to_plain
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis

_ASSOCIATION_CLASS = 15
MAX_OBJECTS = 5000
READABLE_CLASSES = {1: 2, 3: 2, 4: 2, 5: 2, 8: 2}  # class: the attribute that holds its value
_NAMES_BY_OBIS = {entry.obis: name for name, entry in reversed(CATALOGUE.items())}


@dataclass(slots=True)
class FoundObject:
    """One entry of the object list, with what was read of it."""

    class_id: int
    version: int
    obis: Obis
    access: dict[int, int] = field(
        default_factory=dict
    )  # attribute -> access mode (0 none .. 3 read and write)
    name: str = ""
    value: Plain = None
    unit: str = ""
    error: str = ""

    def may_read(self, attribute: int) -> bool:
        """Whether the list says so; meters that list no rights are asked."""
        mode = self.access.get(attribute)
        return mode is None or mode in (1, 3, 4, 6)


def object_list(session: MeterSession) -> list[FoundObject]:
    """The objects of the association, as the meter lists them.

    Raises:
        ObjectError: the association object is not readable for this client.
    """
    ref = AttributeRef(_ASSOCIATION_CLASS, session.device.client.association_obis, 2)
    value = session.get(ref)
    if not isinstance(value, list):
        raise DecodeError("the object list is no array", offset=0)
    return list(_parse(value[:MAX_OBJECTS]))


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


def name_of(obis: Obis) -> str:
    """The catalogue's name, whatever channel group B says; empty where there is none."""
    return _NAMES_BY_OBIS.get(obis) or _NAMES_BY_OBIS.get(obis._replace(b=0), "")


def read_values(
    session: MeterSession, objects: list[FoundObject], on_progress: Callable[[int], None] = lambda _: None
) -> None:
    """Read the current value and unit of every object of a simple class into the list."""
    for number, found in enumerate(objects):
        attribute = READABLE_CLASSES.get(found.class_id)
        if attribute is not None and found.may_read(attribute):
            _read_value(session, found, attribute)
        on_progress(number + 1)


def _read_value(session: MeterSession, found: FoundObject, attribute: int) -> None:
    ref = AttributeRef(found.class_id, found.obis, attribute)
    try:
        value = session.get(ref)
        where = scaler_ref(ref)
        found.value = to_plain(value)
        if where is not None and isinstance(value, int) and not isinstance(value, bool):
            pair = session.get(where)
            if isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int):
                found.value = scale(value, pair[0])
                found.unit = unit_text(pair[1]) if isinstance(pair[1], int) else ""
    except (ObjectError, ServiceRefused) as error:
        found.error = error.message


def device_entry(session: MeterSession, objects: list[FoundObject]) -> dict[str, Any]:
    """A configuration entry that reads what was found: numbers as timeseries, text of class 1 as attributes."""
    timeseries: list[dict[str, Any]] = []
    attributes: list[dict[str, Any]] = []
    profiles: list[dict[str, Any]] = []
    for found in objects:
        entry = {"key": found.name or str(found.obis), "obis": str(found.obis), "class": found.class_id}
        if found.class_id == 7 and found.obis.c == 99:
            profiles.append({"obis": str(found.obis), "kind": "events" if found.obis.d == 98 else "profile"})
        elif found.error or found.class_id not in READABLE_CLASSES or found.value is None:
            continue
        elif found.class_id in (3, 4, 5):
            timeseries.append(entry)
        elif found.class_id == 1:
            attributes.append({**entry, "type": "text"} if isinstance(found.value, str) else entry)
    device = session.device
    transport = device.transport.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return {
        "deviceName": device.device_name,
        "transport": {"type": device.transport.type, **transport},
        "client": device.client.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "timeseries": timeseries,
        "attributes": attributes,
        "profiles": profiles,
    }


def discover_summary(session: MeterSession) -> dict[str, Plain]:
    """The object list in a form small enough for an RPC answer."""
    objects = object_list(session)
    listed: list[Plain] = [f"{found.obis} class {found.class_id} {found.name}".rstrip() for found in objects]
    return {"count": len(objects), "objects": listed[:200]}
