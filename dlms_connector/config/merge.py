"""Layers of a device entry, one above the other: defaults, the template chain, the device itself.

Objects merge key by key, anything else is replaced. No layer is changed. Which layer a value came from
is found again when a problem has to be told, so that good configurations pay nothing for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlms_connector.config.problems import Loc, json_path
from dlms_connector.config.transport import TransportBase

Document = Mapping[str, Any]
_COMMON_TRANSPORT_KEYS = frozenset(field.alias for field in TransportBase.model_fields.values()) | {"type"}


@dataclass(frozen=True)
class Layer:
    """A part of a device entry and the place where the operator finds it."""

    place: str
    content: Document


def merge(lower: Document, upper: Document) -> dict[str, Any]:
    """`upper` over `lower`; objects are merged deep, a null or a list replaces."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def merge_device(lower: Document, upper: Document) -> dict[str, Any]:
    """As `merge`, but a transport of another type takes over only what both types have."""
    below, above = lower.get("transport"), upper.get("transport")
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        kind = _transport_kind(above)
        if kind is not None and kind != _transport_kind(below):
            common = {key: value for key, value in below.items() if key in _COMMON_TRANSPORT_KEYS}
            lower = {**lower, "transport": {**common, "type": kind}}
    return merge(lower, upper)


def with_transport_type(device: dict[str, Any]) -> dict[str, Any]:
    """The entry with its transport's type written out, where that follows from the rest."""
    transport = device.get("transport")
    if not isinstance(transport, Mapping) or "type" in transport:
        return device
    kind = _transport_kind(transport)
    return device if kind is None else {**device, "transport": {**transport, "type": kind}}


def _transport_kind(transport: Document) -> Any:
    if "type" in transport:
        return transport["type"]
    if "host" in transport:
        return "tcp"
    if isinstance(transport.get("port"), str) and not transport["port"].isdigit():
        return "serial"
    return None


def locate(layers: tuple[Layer, ...], loc: Loc, missing: bool) -> tuple[str, bool]:
    """JSON path of `loc` in the topmost layer that has it, and whether that is the device's own entry.

    What is missing belongs into the device's own entry, which is the last layer. An entry of
    `timeseries` or `attributes` that was looked up by name is told where the name was defined.
    """
    own = layers[-1]
    if missing:
        return json_path(own.place, loc), True
    for layer in reversed(layers):
        depth = _depth(layer.content, loc)
        if depth == len(loc):
            return json_path(layer.place, loc), layer is own
        if depth >= 2 and loc[0] in ("timeseries", "attributes"):
            return _locate_object(layers, layer, loc, depth)
    return json_path(own.place, loc), True


def _locate_object(layers: tuple[Layer, ...], entry_layer: Layer, loc: Loc, depth: int) -> tuple[str, bool]:
    entry = entry_layer.content[str(loc[0])][loc[1]]
    name = entry if isinstance(entry, str) else entry.get("object", entry.get("key"))
    object_loc: Loc = ("objects", name, *loc[2:])
    for layer in reversed(layers):
        if _depth(layer.content, object_loc) == len(object_loc):
            return json_path(layer.place, object_loc), layer is layers[-1]
    return json_path(entry_layer.place, loc[:depth]), entry_layer is layers[-1]


def _depth(content: Any, loc: Loc) -> int:
    """How many steps of `loc` exist in the document."""
    for depth, step in enumerate(loc):
        is_list = isinstance(content, (list, tuple)) and isinstance(step, int)
        if step not in (range(len(content)) if is_list else content if isinstance(content, Mapping) else ()):
            return depth
        content = content[step]
    return len(loc)
