"""Waves: meters that move together. Each is written into the configuration, remembered, and can go back.

The journal stands beside the configuration (mode 0600). Configuration and journal are replaced whole, the
configuration after a copy of it was kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

import simplejson

from dlms_connector.config.jsonfile import read_json
from dlms_connector.config.loader import load_document
from dlms_connector.config.textfile import write_whole
from dlms_connector.errors import CommandError
from dlms_connector.migration.plan import MeterPlan

JOURNAL_SUFFIX: Final = ".migration.json"
_VERSION: Final = 1
_PRIVATE_MODE: Final = 0o600

WaveState = Literal["held", "applied", "rolled back"]


@dataclass(frozen=True)
class MovedMeter:
    """A meter of a wave: its id and name in the bridge, its device's name in ThingsBoard."""

    meter_id: int
    name: str
    device_name: str


@dataclass(frozen=True)
class Wave:
    """One wave. `held`: written but not polled yet, until the bridge has let go of its meters."""

    number: int
    state: WaveState
    applied_at: str
    meters: tuple[MovedMeter, ...]
    backup: str | None


def utc_now() -> datetime:
    """The clock that tests replace."""
    return datetime.now(timezone.utc)


class Waves:
    """The waves of one configuration file.

    Raises (every method): CommandError, in words for the operator; nothing is written then.
    """

    def __init__(self, configuration: Path, now: Callable[[], datetime] = utc_now) -> None:
        self._path = configuration
        self._journal = configuration.with_name(configuration.name + JOURNAL_SUFFIX)
        self._now = now
        self.waves = self._read_journal()

    def moved(self) -> dict[int, Wave]:
        """The wave of each meter that is held or applied, by the meter's id in the bridge."""
        return {m.meter_id: wave for wave in self.waves if wave.state != "rolled back" for m in wave.meters}

    def configured_names(self) -> set[str]:
        """The devices that the configuration names now."""
        return {str(entry.get("deviceName")) for entry in self._devices(self._document())}

    def apply(self, plans: Sequence[MeterPlan], hold: bool = False) -> Wave:
        """Write the entries of these ready meters and remember them as a wave."""
        if not plans:
            raise CommandError("no meter is left to migrate", hint="migrate plan says why")
        document = self._document()
        present = self.configured_names()
        taken = [plan.name for plan in plans if plan.device_name in present]
        if taken:
            raise CommandError(f'{self._path.name} already has the device of "{taken[0]}"')
        entries = [dict(plan.entry or {}) for plan in plans]
        for entry in entries if hold else ():
            entry["enabled"] = False
        changed = {**document, "devices": [*self._devices(document), *entries]}
        self._require_sound(changed, {str(entry["deviceName"]) for entry in entries})
        wave = Wave(
            number=1 + max((wave.number for wave in self.waves), default=0),
            state="held" if hold else "applied",
            applied_at=self._now().isoformat(timespec="seconds"),
            meters=tuple(MovedMeter(plan.meter_id, plan.name, str(plan.device_name)) for plan in plans),
            backup=None,
        )
        return self._commit(changed, wave)

    def release(self, number: int) -> Wave:
        """Let the gateway poll the meters of a held wave."""
        wave = self.wave(number)
        if wave.state != "held":
            raise CommandError(f"wave {number} is {wave.state}, not held")
        document = self._document()
        names = {meter.device_name for meter in wave.meters}
        devices = [
            {key: value for key, value in entry.items() if key != "enabled"}
            if entry.get("deviceName") in names
            else entry
            for entry in self._devices(document)
        ]
        return self._commit({**document, "devices": devices}, replace(wave, state="applied"))

    def roll_back(self, number: int) -> Wave:
        """Take the meters of a wave out of the configuration; later waves and other devices stay."""
        wave = self.wave(number)
        if wave.state == "rolled back":
            raise CommandError(f"wave {number} is already rolled back")
        document = self._document()
        names = {meter.device_name for meter in wave.meters}
        devices = [entry for entry in self._devices(document) if entry.get("deviceName") not in names]
        return self._commit({**document, "devices": devices}, replace(wave, state="rolled back"))

    def wave(self, number: int) -> Wave:
        """The wave of that number."""
        for wave in self.waves:
            if wave.number == number:
                return wave
        known = ", ".join(str(wave.number) for wave in self.waves) or "none"
        raise CommandError(f"there is no wave {number}", hint=f"waves so far: {known}")

    def _commit(self, document: dict[str, Any], wave: Wave) -> Wave:
        kept = replace(wave, backup=self._keep_copy(wave))
        waves = [other for other in self.waves if other.number != wave.number]
        # The journal first: a wave that is remembered but not written can be rolled back, not the reverse.
        self._write_journal(sorted([*waves, kept], key=lambda each: each.number))
        write_whole(self._path, _as_text(document), _mode_of(self._path))
        return kept

    def _keep_copy(self, wave: Wave) -> str | None:
        if not self._path.exists():
            return None
        stamp = self._now().strftime("%Y%m%dT%H%M%S")
        copy = self._path.with_name(f"{self._path.name}.wave{wave.number}-{stamp}.bak")
        write_whole(copy, self._path.read_text(encoding="utf-8"), _PRIVATE_MODE)
        return copy.name

    def _document(self) -> dict[str, Any]:
        if not self._path.exists():
            return {"name": "DLMS", "devices": []}
        document, problems = read_json(self._path)
        if problems:
            raise CommandError(f"{self._path.name}: {problems[0].message}", hint=problems[0].hint)
        if document is None:
            return {"name": "DLMS", "devices": []}
        if not isinstance(document, dict):
            raise CommandError(f"{self._path.name} is no connector configuration")
        return document

    def _devices(self, document: dict[str, Any]) -> list[dict[str, Any]]:
        devices = document.get("devices") or []
        if not isinstance(devices, list) or not all(isinstance(entry, dict) for entry in devices):
            raise CommandError(
                f"{self._path.name}: devices is no list of objects", hint="dlms-connector check tells more"
            )
        return devices

    def _require_sound(self, document: dict[str, Any], names: set[str]) -> None:
        configuration = load_document(document, base_directory=self._path.parent)
        lost = names - {device.device_name for device in configuration.devices}
        if lost:
            errors = [problem for problem in configuration.errors if problem.device in (None, *lost)]
            why = str(errors[0]) if errors else "dlms-connector check tells why"
            raise CommandError(f'the entry of "{min(lost)}" would not be valid in {self._path.name}: {why}')

    def _read_journal(self) -> tuple[Wave, ...]:
        if not self._journal.exists():
            return ()
        document, problems = read_json(self._journal)
        try:
            if problems or document["version"] != _VERSION:
                raise ValueError("version")
            return tuple(
                Wave(
                    number=wave["number"],
                    state=wave["state"],
                    applied_at=wave["applied_at"],
                    meters=tuple(MovedMeter(**meter) for meter in wave["meters"]),
                    backup=wave["backup"],
                )
                for wave in document["waves"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CommandError(
                f"the journal {self._journal} cannot be understood",
                hint="it belongs to another release or was edited; restore it from a backup",
            ) from error

    def _write_journal(self, waves: Sequence[Wave]) -> None:
        document = {"version": _VERSION, "waves": [asdict(wave) for wave in waves]}
        write_whole(self._journal, _as_text(document), _PRIVATE_MODE)
        self.waves = tuple(waves)


def choose_share(ready: Sequence[MeterPlan], moved: int, percent: float) -> tuple[MeterPlan, ...]:
    """As many ready meters, lowest ids first, as bring the migrated share of the fleet up to `percent`."""
    wanted = math.ceil((len(ready) + moved) * percent / 100) - moved
    return tuple(ready[: max(0, wanted)])


def _mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.exists() else 0o640


def _as_text(document: dict[str, Any]) -> str:
    return simplejson.dumps(document, indent=2, ensure_ascii=False, use_decimal=True) + "\n"
