"""From the operator's document to settings: merged, validated whole, every problem told at its place.

Nothing here raises for what an operator wrote: broken devices are left out and told, the others stay.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from dlms_connector.config.client import ClientSettings
from dlms_connector.config.explain import LOADER_KEYS, explain
from dlms_connector.config.fleet_checks import PlacedDevice, doubtful, without_duplicates
from dlms_connector.config.jsonfile import read_json
from dlms_connector.config.merge import Layer, locate, merge_device, with_transport_type
from dlms_connector.config.objects import resolve_names
from dlms_connector.config.plain_values import plain
from dlms_connector.config.problems import Problem, json_path, kind_of
from dlms_connector.config.reading import ProfileSettings, RegisterSettings
from dlms_connector.config.settings import (
    BackoffSettings,
    BreakerSettings,
    ClockSettings,
    ConnectorSettings,
    DeviceSettings,
    HealthSettings,
    WatchdogSettings,
)
from dlms_connector.config.template_library import TemplateLibrary
from dlms_connector.errors import ConfigurationError

GATEWAY_KEYS: Final = frozenset(
    {
        "id",
        "type",
        "class",
        "key",
        "mode",
        "configuration",
        "configVersion",
        "logLevel",
        "enableRemoteLogging",
        "sendDataOnlyOnChange",
        "useGRPCForce",
        "ts",
    }
)
"""What thingsboard-gateway and its user interface put beside our keys; accepted and not ours to judge."""

_SHARED_SECTIONS: Final[dict[str, TypeAdapter[Any]]] = {
    "client": TypeAdapter(ClientSettings),
    "timeseries": TypeAdapter(tuple[RegisterSettings, ...]),
    "attributes": TypeAdapter(tuple[RegisterSettings, ...]),
    "profiles": TypeAdapter(tuple[ProfileSettings, ...]),
    "backoff": TypeAdapter(BackoffSettings),
    "breaker": TypeAdapter(BreakerSettings),
    "watchdog": TypeAdapter(WatchdogSettings),
    "health": TypeAdapter(HealthSettings),
    "clock": TypeAdapter(ClockSettings),
}

_Base = tuple[tuple[Layer, ...], dict[str, Any]]
_BROKEN: Final = object()
_OTHER_FILE_HINT: Final = 'the connector\'s file is the one that its entry names in "configuration"'


@dataclass(frozen=True)
class Configuration:
    """What the connector works with. `devices` are all that are valid, before sharding."""

    connector: ConnectorSettings
    devices: tuple[DeviceSettings, ...]
    problems: tuple[Problem, ...]
    places: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """JSON path of each device's entry, by its name."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that spoil something."""
        return tuple(problem for problem in self.problems if problem.severity == "error")


def load_file(path: Path, environment: Mapping[str, str] | None = None) -> Configuration:
    """As `load_document`, from a file; what is unreadable or not JSON is a problem with line and column."""
    document, problems = read_json(path)
    if problems:
        return Configuration(ConnectorSettings(), (), problems)
    return load_document(document, base_directory=path.parent, environment=environment)


def load_document(
    document: Any, *, base_directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> Configuration:
    """Settings and problems of a parsed document, which is not changed.

    Args:
        document: the connector's JSON; None and {} are a valid fleet of no meters.
        base_directory: where a relative `templateDirectory` starts, and `templates/` is looked for.
        environment: for `${env:NAME}` in settings that are not secret; by default the process's.
    """
    if document is None:
        document = {}
    if not isinstance(document, Mapping):
        problem = Problem("$", f"expected an object {{...}}, found {kind_of(document)}")
        return Configuration(ConnectorSettings(), (), (problem,))
    if "thingsboard" in document and "connectors" in document:
        problem = Problem("$", "this is the gateway's own configuration", _OTHER_FILE_HINT)
        return Configuration(ConnectorSettings(), (), (problem,))
    return _Loading(document, base_directory, os.environ if environment is None else environment).run()


class _Loading:
    """One run over one document; collects problems as it goes."""

    def __init__(
        self, document: Mapping[str, Any], base_directory: Path | None, environment: Mapping[str, str]
    ) -> None:
        self._document = document
        self._base_directory = base_directory
        self._environment = environment
        self._problems: dict[Problem, None] = {}
        self._shared: dict[tuple[str, str], Any] = {}
        self._bases: dict[tuple[str | None, bool], _Base | ConfigurationError] = {}
        self._defaults: dict[str, Any] = {}
        self._templates = TemplateLibrary()

    def run(self) -> Configuration:
        connector = self._connector()
        self._templates = TemplateLibrary(self._template_directory(connector))
        placed = self._devices() if self._read_defaults() else []
        kept, duplicates = without_duplicates(placed)
        for problem in (*duplicates, *doubtful(kept)):
            self._tell(problem)
        devices = tuple(device for _, device in kept)
        if self._document.get("shard") is not None and connector.shard is None:
            devices = ()  # without its share this gateway would poll the meters of the others as well
        places = {device.device_name: place for place, device in kept}
        return Configuration(connector, devices, tuple(self._problems), places)

    def _tell(self, problem: Problem) -> None:
        self._problems[problem] = None

    def _connector(self) -> ConnectorSettings:
        """The connector's own settings; a broken one falls back to its default and is told."""
        content: dict[str, Any] = {}
        for key, value in self._document.items():
            if key in GATEWAY_KEYS or key in LOADER_KEYS[ConnectorSettings] or str(key).startswith("_"):
                continue
            filled = self._plain(value, json_path("$", (str(key),)))
            if filled is not _BROKEN:
                content[str(key)] = filled
        try:
            return ConnectorSettings.model_validate(content)
        except ValidationError as error:
            for problem in explain(error, ConnectorSettings, (Layer("$", self._document),), None):
                self._tell(problem)
            broken = {detail["loc"][0] for detail in error.errors()}
            return ConnectorSettings.model_validate({k: v for k, v in content.items() if k not in broken})

    def _template_directory(self, connector: ConnectorSettings) -> Path | None:
        base = self._base_directory or Path()
        if connector.template_directory is None:
            return base / "templates" if self._base_directory else None
        directory = base / connector.template_directory
        if not directory.is_dir():
            self._tell(Problem("$.templateDirectory", f"{directory} is not a directory"))
        return directory

    def _plain(self, value: Any, place: str, device: str | None = None) -> Any:
        """The value with its references filled in, or _BROKEN where that was told to be impossible."""
        told: list[Problem] = []
        filled = plain(value, place, self._environment, told.append)
        for problem in told:
            self._tell(replace(problem, device=device))
        return _BROKEN if told else filled

    def _read_defaults(self) -> bool:
        """Whether there are defaults to build on; without them no device is what its operator meant."""
        content = self._document.get("defaults")
        if content is not None and not isinstance(content, Mapping):
            self._tell(Problem("$.defaults", f"expected an object {{...}}, found {kind_of(content)}"))
            return False
        filled = self._plain(content or {}, "$.defaults")
        if filled is _BROKEN:
            return False
        self._defaults = filled
        return True

    def _devices(self) -> list[PlacedDevice]:
        entries = self._document.get("devices")
        if entries is None:
            return []
        if not isinstance(entries, (list, tuple)):
            self._tell(Problem("$.devices", f"expected a list [...], found {kind_of(entries)}"))
            return []
        placed = []
        for index, entry in enumerate(entries):
            device = self._device(entry, f"$.devices[{index}]")
            if device is not None:
                placed.append((f"$.devices[{index}]", device))
        return placed

    def _device(self, entry: Any, place: str) -> DeviceSettings | None:
        if not isinstance(entry, Mapping):
            self._tell(Problem(place, f"expected an object {{...}}, found {kind_of(entry)}"))
            return None
        name = entry.get("deviceName") if isinstance(entry.get("deviceName"), str) else None
        own = self._plain(entry, place, name)
        base = None if own is _BROKEN else self._base(own, place, name)
        if base is None:
            return None
        layers, below = base
        layers = (*layers, Layer(place, entry))
        content, unknown = resolve_names(with_transport_type(merge_device(below, own)))
        for missing in unknown:
            path, is_own = locate(layers, missing.loc, missing=False)
            self._tell(Problem(path, missing.message, missing.hint, name if is_own else None))
        try:
            device = DeviceSettings.model_validate(self._with_shared_sections(content))
        except ValidationError as error:
            told = [missing.loc for missing in unknown]
            for problem in explain(error, DeviceSettings, layers, name, told):
                self._tell(problem)
            return None
        return None if unknown else device

    def _base(self, own: Mapping[str, Any], place: str, device: str | None) -> _Base | None:
        """Defaults and templates under a device entry; merged once for each template."""
        written_in = own if "template" in own else self._defaults
        template = written_in.get("template")
        if template is not None and not isinstance(template, str):
            self._tell(
                Problem(f"{place}.template", f"expected a text, found {kind_of(template)}", "", device)
            )
            return None
        source = (template, written_in is own)
        if source not in self._bases:
            try:
                self._bases[source] = self._merged_base(template, below_defaults=written_in is not own)
            except ConfigurationError as error:
                self._bases[source] = error
        base = self._bases[source]
        if isinstance(base, ConfigurationError):
            is_own = written_in is own
            path = f"{place if is_own else '$.defaults'}.template"
            self._tell(Problem(path, base.message, base.hint, device if is_own else None))
            return None
        return base

    def _merged_base(self, template: str | None, below_defaults: bool) -> _Base:
        """A template stands below the section that names it: the defaults, or the device entry."""
        defaults = (Layer("$.defaults", self._defaults),)
        chain = self._templates.chain(template) if template is not None else ()
        layers = (*chain, *defaults) if below_defaults else (*defaults, *chain)
        merged: dict[str, Any] = {}
        for layer in layers:
            content = self._plain(layer.content, layer.place)
            if content is _BROKEN:
                raise ConfigurationError(f'template "{template}" cannot be used')
            merged = merge_device(merged, content)
        return layers, merged

    def _with_shared_sections(self, content: dict[str, Any]) -> dict[str, Any]:
        """Equal sections of many devices are validated once and are one object in memory.

        A section with errors stays raw: validating the whole device then tells them at their place.
        """
        shared = dict(content)
        for name, adapter in _SHARED_SECTIONS.items():
            raw = content.get(name)
            if raw is None:
                continue
            key = (name, repr(raw))
            if key not in self._shared:
                try:
                    self._shared[key] = adapter.validate_python(raw)
                except ValidationError:
                    continue
            shared[name] = self._shared[key]
        return shared
