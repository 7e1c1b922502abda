"""The JSON schema of the configuration file, for editors; written from the settings, short forms included."""

from __future__ import annotations

from typing import Any, Final

from pydantic.json_schema import models_json_schema

from dlms_connector.config.catalogue import CATALOGUE
from dlms_connector.config.loader import GATEWAY_KEYS
from dlms_connector.config.reading import ObjectDefinition
from dlms_connector.config.settings import ConnectorSettings, DeviceSettings

_Schema = dict[str, Any]
_MERGED_SECTIONS: Final = ("DeviceSettings", "TcpTransport", "SerialTransport")
_NOTES: Final = {"^_": {"description": "a note of the operator's, not read"}}
_ENVIRONMENT: Final = {"$ref": "#/$defs/Environment"}


def configuration_schema() -> _Schema:
    """JSON Schema (2020-12) of a whole connector configuration, as an operator may write it."""
    _, root = models_json_schema(
        [(model, "validation") for model in (ConnectorSettings, DeviceSettings, ObjectDefinition)],
        by_alias=True,
    )
    definitions: dict[str, _Schema] = root["$defs"]
    definitions["Environment"] = {
        "type": "string",
        "pattern": r"\$\{env:[^}]+\}",
        "description": "filled in from the environment of the gateway process",
    }
    _allow_short_forms(definitions)
    for section in _MERGED_SECTIONS:
        definitions[section].pop("required", None)
    connector = definitions.pop("ConnectorSettings")
    for schema in (connector, *definitions.values()):
        _allow_environment_and_notes(schema)
    device = {"$ref": "#/$defs/DeviceSettings"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "DLMS connector for the ThingsBoard IoT Gateway",
        "description": "The connector's configuration file, dlms_connector.json.",
        "type": "object",
        "properties": {
            **{key: {"description": "set by the gateway"} for key in sorted(GATEWAY_KEYS)},
            **connector["properties"],
            "defaults": {**device, "description": "what every device has unless it says otherwise"},
            "devices": {
                "type": "array",
                "description": "one entry for each meter",
                "items": {**device, "required": ["deviceName"]},
            },
        },
        "patternProperties": _NOTES,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _allow_short_forms(definitions: dict[str, _Schema]) -> None:
    """What `config.loader` understands beyond the settings themselves."""
    device = definitions["DeviceSettings"]["properties"]
    definition = definitions.pop("ObjectDefinition")
    definition.pop("required")
    definitions["NamedObject"] = definition
    device["objects"] = {
        "type": "object",
        "description": "names of this device's own, merged key by key over the catalogue and the template",
        "additionalProperties": {
            "anyOf": [{"$ref": "#/$defs/NamedObject"}, {"type": "string", "description": "an OBIS code"}]
        },
    }
    register = definitions["RegisterSettings"]
    register["properties"]["object"] = {
        "type": "string",
        "description": "a name of the catalogue or of objects, where it is not the key",
    }
    register["required"] = []
    register["anyOf"] = [{"required": ["key"]}, {"required": ["object"]}]
    name = {
        "type": "string",
        "description": "a name of the catalogue or of objects",
        "examples": [*CATALOGUE],
    }
    for section in ("timeseries", "attributes"):
        device[section]["items"] = {"anyOf": [name, {"$ref": "#/$defs/RegisterSettings"}]}
    transports = [{"$ref": f"#/$defs/{kind}"} for kind in ("TcpTransport", "SerialTransport")]
    device["transport"] = {"anyOf": transports, "description": "how the meter is reached"}
    allowed = device["allowWrite"]
    codes = definitions["AllowWrite"]["properties"]["set"]
    device["allowWrite"] = {
        "anyOf": [{"$ref": allowed["$ref"]}, {"type": "array", "items": codes["items"]}],
        "description": "OBIS codes that may be written or acted on; a list stands for both",
    }


def _allow_environment_and_notes(section: _Schema) -> None:
    if "properties" not in section:
        return
    section["patternProperties"] = _NOTES
    for key, value in section["properties"].items():
        branches = value.get("anyOf", [value])
        if any(
            branch.get("type") in ("integer", "boolean", "number") or "enum" in branch for branch in branches
        ):
            kept = {name: value.pop(name) for name in ("description", "default", "title") if name in value}
            section["properties"][key] = {"anyOf": [*value.get("anyOf", [value]), _ENVIRONMENT], **kept}
