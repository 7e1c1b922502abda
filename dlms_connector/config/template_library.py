"""Device templates: those of the package, and the operator's own, which come first.

A template is a JSON file `{"name", "description", "source", "notVerified", "inherits", "device"}`;
`device` is a part of a device entry, `inherits` names the template below it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dlms_connector.config.jsonfile import read_json
from dlms_connector.config.merge import Layer
from dlms_connector.config.problems import did_you_mean
from dlms_connector.errors import ConfigurationError

BUILT_IN_DIRECTORY: Final = Path(__file__).parent / "templates"
_KEYS: Final = frozenset({"name", "description", "source", "notVerified", "inherits", "device"})


@dataclass(frozen=True)
class Template:
    """One template as it stands in its file."""

    name: str
    description: str
    source: str
    not_verified: tuple[str, ...]
    inherits: str | None
    device: Mapping[str, Any]


class TemplateLibrary:
    """Finds templates by name and follows what they inherit; each file is read once."""

    def __init__(self, own_directory: Path | None = None) -> None:
        self._own = own_directory
        self._read: dict[str, Template] = {}

    def names(self) -> list[str]:
        """Every template that can be named, sorted."""
        directories = [BUILT_IN_DIRECTORY, *([self._own] if self._own else [])]
        return sorted({file.stem for directory in directories for file in directory.glob("*.json")})

    def get(self, name: str) -> Template:
        """The template of that name.

        Raises:
            ConfigurationError: unknown (with the nearest name), unreadable or malformed.
        """
        if name not in self._read:
            if name not in self.names():
                known = self.names()
                raise ConfigurationError(
                    f'no template is called "{name}"',
                    hint=did_you_mean(name, known) or f"known: {', '.join(known)}",
                )
            own = self._own / f"{name}.json" if self._own else None
            self._read[name] = _read_template(
                own if own and own.is_file() else BUILT_IN_DIRECTORY / f"{name}.json", name
            )
        return self._read[name]

    def chain(self, name: str) -> tuple[Layer, ...]:
        """The template and what it inherits, lowest first, ready to be merged.

        Raises:
            ConfigurationError: as `get`, or where the inheritance runs in a circle.
        """
        names: list[str] = []
        layers: list[Layer] = []
        following: str | None = name
        while following is not None:
            if following in names:
                raise ConfigurationError(f"templates inherit in a circle: {' > '.join([*names, following])}")
            template = self.get(following)
            names.append(following)
            layers.append(Layer(f"template {following}: $.device", template.device))
            following = template.inherits
        return tuple(reversed(layers))


def _read_template(path: Path, name: str) -> Template:
    document, problems = read_json(path)
    if problems:
        raise ConfigurationError(f'template "{name}": {problems[0].message}', hint=f"file {path.name}")
    if not isinstance(document, Mapping) or not isinstance(document.get("device"), Mapping):
        raise ConfigurationError(f'template "{name}" needs an object "device"', hint=f"file {path.name}")
    unknown = [key for key in document if key not in _KEYS and not key.startswith("_")]
    if unknown:
        hint = did_you_mean(unknown[0], _KEYS)
        raise ConfigurationError(f'template "{name}": unknown key "{unknown[0]}"', hint=hint)
    inherits = document.get("inherits")
    notes = document.get("notVerified", [])
    if not isinstance(inherits, (str, type(None))) or not isinstance(notes, list):
        raise ConfigurationError(f'template "{name}": inherits is a text and notVerified a list of texts')
    return Template(
        name=name,
        description=str(document.get("description", "")),
        source=str(document.get("source", "")),
        not_verified=tuple(str(note) for note in notes),
        inherits=inherits,
        device=document["device"],
    )
