"""What is wrong with a configuration, told to the person who wrote it: where, what, and what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

Loc = tuple[int | str, ...]
_PLAIN_NAME_EXTRA = "_-$"
_TRANSPORT_KINDS = ("tcp", "serial")


@dataclass(frozen=True)
class Problem:
    """One finding. `path` is where the operator wrote it (JSON path), `device` whose entry it spoils."""

    path: str
    message: str
    hint: str = ""
    device: str | None = None
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.path}: {self.message}{hint}"


def json_path(base: str, loc: Iterable[int | str]) -> str:
    """`$.devices[3]` and `("transport", "host")` give `$.devices[3].transport.host`."""
    path = base
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step and all(letter.isalnum() or letter in _PLAIN_NAME_EXTRA for letter in step):
            path += f".{step}"
        else:
            path += f'["{step}"]'
    return path


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, whatever its case; None where nothing is near."""
    by_fold = {name.casefold(): name for name in known}
    folded = word.casefold().replace("_", "").replace("-", "")
    squeezed = {fold.replace("_", "").replace("-", ""): name for fold, name in by_fold.items()}
    if folded in squeezed:
        return squeezed[folded]
    close = difflib.get_close_matches(word.casefold(), by_fold, n=1, cutoff=0.6)
    return by_fold[close[0]] if close else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not known; empty where nothing is near."""
    match = nearest(word, known)
    return f'did you mean "{match}"?' if match else ""


def kind_of(value: Any) -> str:
    """What was found, by its JSON type and never by its value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float, Decimal)):
        return "a number"
    if isinstance(value, str):
        return "an empty text" if not value else "a text"
    if isinstance(value, Mapping):
        return "an object {...}"
    if isinstance(value, Sequence):
        return "a list [...]"
    return "something that JSON does not have"


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


def clean_loc(error: ErrorDetails) -> Loc:
    """The error's place as the operator sees it, without the tags of the validator's unions."""
    loc = tuple(error["loc"])
    if len(loc) > 1 and loc[0] == "transport" and loc[1] in _TRANSPORT_KINDS:
        loc = loc[:1] + loc[2:]
    return tuple(step for step in loc if step != "[key]" and not _is_branch(step))


def _is_branch(step: int | str) -> bool:
    """Names of a union's branches, e.g. `literal['auto']` or `int`, stand in no document."""
    return isinstance(step, str) and (step.startswith("literal[") or step in ("int", "constrained-int"))


def words_for(error: ErrorDetails, section: type[BaseModel] | None) -> tuple[str, str]:
    """Message and hint for one validation error. The input's value is never shown: it may be a secret."""
    kind, context = error["type"], error.get("ctx", {})
    name = str(error["loc"][-1]) if error["loc"] else "the document"
    found = kind_of(error.get("input"))
    if kind == "extra_forbidden":
        known = known_keys(section) if section else ()
        hint = did_you_mean(name, known) or _where_it_belongs(name)
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
        return f"must be one of {context['expected']}, found {found}", _nearest_choice(error, section, name)
    if kind == "union_tag_not_found" or kind == "union_tag_invalid":
        return 'the transport needs "type": "tcp" (with host) or "serial" (with port)', ""
    if kind == "value_error":
        return str(context["error"]), ""
    return error["msg"], ""


def known_keys(section: type[BaseModel]) -> tuple[str, ...]:
    """The keys of a section as the operator writes them."""
    return tuple(field.alias or name for name, field in section.model_fields.items())


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
            return did_you_mean(value, [choice for choice in get_args(field.annotation) if choice is not None])
    return ""


_HOMES = {
    "password": "client",
    "authentication": "client",
    "encryptionKey": "client.security",
    "authenticationKey": "client.security",
    "suite": "client.security",
    "host": "transport",
    "port": "transport",
    "framing": "transport",
    "baudRate": "transport",
    "serverLogicalAddress": "transport",
    "serverPhysicalAddress": "transport",
    "addressSize": "transport",
}


def _where_it_belongs(name: str) -> str:
    return f'"{name}" belongs into {_HOMES[name]}' if name in _HOMES else ""
