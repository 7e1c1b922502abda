"""Validation errors in the operator's words: what was expected, what kind of thing was found, what to try."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dlms_connector.config.merge import Layer, locate
from dlms_connector.config.problems import Loc, Problem, did_you_mean, kind_of, nearest
from dlms_connector.config.reading import RegisterSettings
from dlms_connector.config.settings import ConnectorSettings, DeviceSettings
from dlms_connector.config.transport import SerialTransport, TcpTransport

LOADER_KEYS: Final[dict[type[BaseModel], tuple[str, ...]]] = {
    ConnectorSettings: ("defaults", "devices"),
    DeviceSettings: ("objects",),
    RegisterSettings: ("object",),
}
"""Keys that the loader understands and that no longer exist once a section is validated."""

_TRANSPORT_KINDS: Final = ("tcp", "serial")


def explain(
    error: ValidationError,
    section: type[BaseModel],
    layers: tuple[Layer, ...],
    device: str | None,
    already_told: Collection[Loc] = (),
) -> Iterator[Problem]:
    """A problem for each error, told in the layer where its value was written.

    `device` is named only where the fault stands in the device's own entry: what comes from the defaults
    or from a template is one problem, however many devices it spoils.
    """
    by_loc: dict[Loc, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_loc.setdefault(_clean_loc(detail), []).append(detail)
    for loc, details in by_loc.items():
        if loc[:2] in already_told:
            continue
        message, hint = _words_for(details[0], _section_at(section, details[0]))
        for branch in details[1:]:  # several at one place: the branches of a union, each with its refusal
            message = f"{message.split(', found')[0]} or: {_words_for(branch, None)[0]}"
        path, is_own = locate(layers, loc, missing=details[0]["type"] == "missing")
        yield Problem(path, message, hint, device if is_own else None)


def _section_at(section: type[BaseModel], error: ErrorDetails) -> type[BaseModel] | None:
    """The model that holds the last step of the error's place."""
    current: type[BaseModel] | None = section
    for step in _clean_loc(error)[:-1]:
        if isinstance(step, int) or current is None:
            continue
        field = next((f for n, f in current.model_fields.items() if (f.alias or n) == step), None)
        current = _first_model(field.annotation) if field else None
        if current is TcpTransport and "serial" in error["loc"]:
            current = SerialTransport
    return current


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is None:
        return None
    return next((model for part in get_args(annotation) if (model := _first_model(part))), None)


_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "tuple_type": "a list [...]",
    "list_type": "a list [...]",
    "dict_type": "an object {...}",
    "model_type": "an object {...}",
    "model_attributes_type": "an object {...}",
    "decimal_type": "a number",
    "decimal_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "less_than_equal": ("at most", "le"),
    "greater_than": ("more than", "gt"),
    "less_than": ("less than", "lt"),
}


def _clean_loc(error: ErrorDetails) -> Loc:
    """The error's place as the operator sees it, without the tags of the validator's unions."""
    loc = tuple(error["loc"])
    if len(loc) > 1 and loc[0] == "transport" and loc[1] in _TRANSPORT_KINDS:
        loc = loc[:1] + loc[2:]
    return tuple(step for step in loc if step != "[key]" and not _is_branch(step))


def _is_branch(step: int | str) -> bool:
    """Names of a union's branches, e.g. `literal['auto']` or `function-before[...]`, stand in no document."""
    return isinstance(step, str) and step.startswith(("literal[", "function-"))


def _words_for(error: ErrorDetails, section: type[BaseModel] | None) -> tuple[str, str]:
    """Message and hint for one validation error. The input's value is never shown: it may be a secret."""
    kind, context = error["type"], error.get("ctx", {})
    loc = _clean_loc(error)
    name = str(loc[-1]) if loc else "the document"
    found = kind_of(error.get("input"))
    if kind == "extra_forbidden":
        known = known_keys(section) if section else ()
        hint = _where_it_belongs(name, section) or did_you_mean(name, known)
        if not hint and section is ConnectorSettings and (match := nearest(name, known_keys(DeviceSettings))):
            hint = f'did you mean "{match}", in a device or in "defaults"?'
        return f'unknown key "{name}"', hint or (f"known here: {', '.join(sorted(known))}" if known else "")
    if kind == "missing":
        return f"{name} is missing", _field_description(section, name)
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, found {found}", _field_description(section, name)
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"must be {word} {context[key]}", _field_description(section, name)
    if kind in ("string_too_short", "too_short"):
        return f"needs at least {context['min_length']} characters, found {found}", ""
    if kind in ("string_too_long", "too_long"):
        return f"has more than {context['max_length']} characters", ""
    if kind == "literal_error":
        return f"must be one of {context['expected']}, found {found}", _nearest_choice(
            error, section, name
        ) or _field_description(section, name)
    if kind == "union_tag_not_found" or kind == "union_tag_invalid":
        return 'the transport needs "type": "tcp" (with host) or "serial" (with port)', ""
    if kind == "value_error":
        return str(context["error"]), ""
    return error["msg"], ""


def known_keys(section: type[BaseModel]) -> tuple[str, ...]:
    """The keys of a section as the operator writes them."""
    keys = tuple(field.alias or name for name, field in section.model_fields.items())
    return keys + LOADER_KEYS.get(section, ())


def _field_description(section: type[BaseModel] | None, alias: str) -> str:
    for field in section.model_fields.values() if section else ():
        if field.alias == alias:
            return field.description or ""
    return ""


def _nearest_choice(error: ErrorDetails, section: type[BaseModel] | None, alias: str) -> str:
    value = error.get("input")
    if not isinstance(value, str) or section is None:
        return ""
    for field in section.model_fields.values():
        if field.alias == alias:
            return did_you_mean(value, _choices(field.annotation))
    return ""


def _choices(annotation: Any) -> list[str]:
    """The texts that a Literal allows, also inside a list or an optional."""
    found: list[str] = []
    for part in get_args(annotation):
        found += [part] if isinstance(part, str) else _choices(part)
    return found


_HOMES = {
    **dict.fromkeys(("password", "authentication", "useLists", "security", "maxPduSize"), "client"),
    **dict.fromkeys(
        ("encryptionKey", "authenticationKey", "suite", "policy", "ciphering"), "client.security"
    ),
    **dict.fromkeys(("host", "port", "framing", "baudRate", "parity", "addressSize"), "transport"),
    **dict.fromkeys(("serverLogicalAddress", "serverPhysicalAddress", "exclusive"), "transport"),
}


def _where_it_belongs(name: str, section: type[BaseModel] | None) -> str:
    if section is ConnectorSettings and name in known_keys(DeviceSettings):
        return f'"{name}" belongs into a device, or into "defaults" for all of them'
    if section is DeviceSettings and name in known_keys(ConnectorSettings):
        return f'"{name}" belongs to the top level, beside "devices"'
    return f'"{name}" belongs into {_HOMES[name]}' if name in _HOMES else ""
