"""Which ThingsBoard device a meter of the bridge is: by its token, or by the operator's mapping file.

The name must be exact: a wrong one makes a new device and splits the history.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dlms_connector.config.jsonfile import parse_json
from dlms_connector.errors import CommandError
from dlms_connector.migration.bridge_db import BridgeMeter
from dlms_connector.migration.thingsboard_rest import ThingsBoardRest


@dataclass(frozen=True)
class FoundDevice:
    """A device of ThingsBoard: its exact name and its profile."""

    name: str
    type: str | None = None


@dataclass(frozen=True)
class Identities:
    """What is known about the meters' devices, by the id of the meter.

    `by_token` is None where ThingsBoard was not asked; a meter missing in it has a token that no device has.
    `by_operator` is the mapping file; it also confirms a name that differs from the bridge's.
    """

    by_token: Mapping[int, FoundDevice] | None = None
    by_operator: Mapping[int, str] = field(default_factory=dict)
    trust_names: bool = False


def find_by_token(rest: ThingsBoardRest, meters: Iterable[BridgeMeter]) -> dict[int, FoundDevice]:
    """The devices whose access token is a meter's, by the meter's id; every token is looked for once.

    Devices with a meter's name are asked first, so that a well-kept fleet costs a request a meter.

    Raises:
        CommandError: ThingsBoard cannot be reached or refuses.
    """
    wanted: dict[str, list[int]] = {}
    likely_names: set[str] = set()
    for meter in meters:
        if meter.token is not None:
            wanted.setdefault(meter.token.reveal(), []).append(meter.id)
            likely_names |= {name for name in (meter.tb_device_name, meter.name) if name}
    found: dict[int, FoundDevice] = {}
    devices = sorted(rest.devices(), key=lambda device: device.name not in likely_names) if wanted else []
    for device in devices:
        if not wanted:
            break
        for meter_id in wanted.pop(rest.access_token(device.id) or "", ()):
            found[meter_id] = FoundDevice(device.name, device.type)
    return found


def read_mapping(path: Path, meters: Iterable[BridgeMeter]) -> dict[int, str]:
    """The operator's mapping, `{"meter name in the bridge": "device name"}` or CSV `meter,device`.

    Raises:
        CommandError: unreadable, malformed, or a meter that the bridge does not have.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"the mapping file {path} cannot be read: {error}") from error
    pairs = _pairs_of_json(text, path) if text.lstrip().startswith("{") else _pairs_of_csv(text, path)
    ids = {meter.name: meter.id for meter in meters}
    unknown = sorted(set(pairs) - set(ids))
    if unknown:
        raise CommandError(f'the mapping names "{unknown[0]}", which the bridge\'s database does not have')
    return {ids[meter]: device for meter, device in pairs.items()}


def _pairs_of_json(text: str, path: Path) -> dict[str, str]:
    document, problems = parse_json(text, path.name)
    if problems:
        raise CommandError(f"the mapping file: {problems[0].message}", hint=problems[0].hint)
    if not all(isinstance(device, str) and device for device in document.values()):
        raise CommandError(
            f'{path}: a mapping is {{"meter name in the bridge": "device name in ThingsBoard"}}'
        )
    return dict(document)


def _pairs_of_csv(text: str, path: Path) -> dict[str, str]:
    reader = csv.DictReader(text.splitlines())
    if not {"meter", "device"} <= set(reader.fieldnames or ()):
        raise CommandError(f"{path}: a mapping in CSV has the columns meter and device")
    return {row["meter"]: row["device"] for row in reader if row["meter"] and row["device"]}
