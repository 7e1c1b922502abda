"""A document as written becomes plain values: notes dropped, `${env:NAME}` in non-secret settings filled in.

Keys that begin with `_` are the operator's notes. Passwords and keys are left alone: they stay
references until the moment of use (`config.secrets`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from dlms_connector.config.problems import Problem, json_path

SECRET_KEYS: Final = frozenset({"password", "encryptionKey", "authenticationKey"})
_REFERENCE: Final = re.compile(r"\$\{(env|file|credential):([^}]*)\}")
_MAX_DEPTH: Final = 32


def plain(document: Any, place: str, environment: Mapping[str, str], tell: Callable[[Problem], None]) -> Any:
    """A copy of `document` with its references filled in; what cannot be is told and stays as written."""
    return _Plain(environment, tell).copy(document, place, 0)


class _Plain:
    def __init__(self, environment: Mapping[str, str], tell: Callable[[Problem], None]) -> None:
        self._environment = environment
        self._tell = tell

    def copy(self, value: Any, place: str, depth: int) -> Any:
        if isinstance(value, str):
            return self._fill(value, place) if "${" in value else value
        if isinstance(value, (Mapping, list, tuple)) and depth >= _MAX_DEPTH:
            self._tell(Problem(place, f"nested more than {_MAX_DEPTH} deep"))
            return None
        if isinstance(value, Mapping):
            return {
                key: entry if key in SECRET_KEYS else self._copy_step(entry, place, key, depth)
                for key, entry in value.items()
                if isinstance(key, str) and not key.startswith("_")
            }
        if isinstance(value, (list, tuple)):
            return [self._copy_step(entry, place, index, depth) for index, entry in enumerate(value)]
        return value

    def _copy_step(self, value: Any, place: str, step: int | str, depth: int) -> Any:
        if (isinstance(value, str) and "${" not in value) or isinstance(value, (int, float)):
            return value  # most values: spare them the path
        return self.copy(value, json_path(place, (step,)), depth + 1)

    def _fill(self, text: str, place: str) -> str:
        def replace(match: re.Match[str]) -> str:
            kind, name = match[1], match[2].strip()
            if kind != "env":
                self._tell(
                    Problem(
                        place,
                        f"${{{kind}:...}} is for passwords and keys; other settings take ${{env:NAME}} only",
                    )
                )
                return match[0]
            if name not in self._environment:
                self._tell(
                    Problem(
                        place,
                        f"environment variable {name} is not set",
                        "set it for the gateway's service (EnvironmentFile) and restart the gateway",
                    )
                )
                return match[0]
            return self._environment[name]

        return _REFERENCE.sub(replace, text)
