"""Names become object definitions: the catalogue, the templates' `objects`, the device's own `objects`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from dlms_connector.config.catalogue import CATALOGUE, default_class
from dlms_connector.config.merge import merge
from dlms_connector.config.problems import Loc, did_you_mean
from dlms_connector.obis import Obis

_LISTS: Final = ("timeseries", "attributes")
_CATALOGUE_DEFINITIONS: Final = {name: entry.as_definition() for name, entry in CATALOGUE.items()}


class UnknownName(ValueError):
    """A name that no layer defines; `loc` is its place in the device entry."""

    def __init__(self, loc: Loc, message: str, hint: str) -> None:
        super().__init__(message)
        self.loc = loc
        self.message = message
        self.hint = hint


def resolve_names(device: dict[str, Any]) -> tuple[dict[str, Any], list[UnknownName]]:
    """The device entry with every name replaced by its definition, and the names that nobody knows.

    An entry is a name, or an object without `obis` whose `object` (or else `key`) is a name; its own
    keys win. Every entry leaves with its class: its own, that of a named object with the same OBIS code,
    the device's `defaultClass`, or what the code usually is. What is malformed is left to the validator.
    """
    own = device.get("objects")
    unknown: list[UnknownName] = []
    names = _Names(own if isinstance(own, Mapping) else {}, device.get("defaultClass"))
    resolved = {key: value for key, value in device.items() if key != "objects"}
    if own is not None and not isinstance(own, Mapping):
        unknown.append(UnknownName(("objects",), "objects maps names to definitions", ""))
    for section in _LISTS:
        entries = device.get(section)
        if isinstance(entries, list):
            outcome: list[Any] = []
            for index, entry in enumerate(entries):
                try:
                    outcome.append(names.definition(entry))
                except KeyError as error:
                    unknown.append(names.unknown((section, index), str(error.args[0])))
            resolved[section] = outcome
    updates = device.get("attributeUpdates")
    if isinstance(updates, list):
        resolved["attributeUpdates"] = [
            names.with_class(entry) if isinstance(entry, Mapping) else entry for entry in updates
        ]
    return resolved, unknown


class _Names:
    def __init__(self, own: Mapping[str, Any], class_of_all: Any) -> None:
        self._own = own
        self._class_of_all = class_of_all
        self._class_by_obis = {
            _code(entry["obis"]): entry["class"]
            for entry in own.values()
            if isinstance(entry, Mapping) and isinstance(entry.get("obis"), str) and "class" in entry
        }

    def definition(self, entry: Any) -> Any:
        """Raises KeyError with the name that is not known."""
        if isinstance(entry, str):
            return self.with_class({**self._look_up(entry), "key": entry})
        if not isinstance(entry, Mapping):
            return entry
        written = {key: value for key, value in entry.items() if key != "object"}
        name = entry.get("object", None if "obis" in entry else entry.get("key"))
        if isinstance(name, str):
            written = merge(self._look_up(name), written)
            written.setdefault("key", name)
        return self.with_class(written)

    def _look_up(self, name: str) -> dict[str, Any]:
        own = self._own.get(name)
        if isinstance(own, str):
            own = {"obis": own}
        if name not in _CATALOGUE_DEFINITIONS and not isinstance(own, Mapping):
            raise KeyError(name)
        return merge(_CATALOGUE_DEFINITIONS.get(name, {}), own if isinstance(own, Mapping) else {})

    def with_class(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        complete = dict(entry)
        if complete.get("class") is None:
            written = entry.get("obis")
            code = _code(written) if isinstance(written, str) else None
            class_id = self._class_by_obis.get(code, self._class_of_all)
            complete["class"] = default_class(code) if code and class_id is None else class_id
        return complete

    def unknown(self, loc: Loc, name: str) -> UnknownName:
        known = sorted({*_CATALOGUE_DEFINITIONS, *self._own})
        hint = did_you_mean(name, known) or "give the entry an obis, or name it under objects"
        return UnknownName(loc, f'"{name}" is no name of the catalogue', hint)


@lru_cache(maxsize=4096)
def _code(text: str) -> Obis | None:
    try:
        return Obis.parse(text)
    except ValueError:
        return None  # the validator tells what is wrong with the code, at its place
