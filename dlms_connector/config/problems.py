"""What is wrong with a configuration, told to the person who wrote it: where, what, and what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Loc = tuple[int | str, ...]
_PLAIN_NAME_EXTRA = "_-$"


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
