"""The dashboard and the device profile: sound in themselves, and every key in them is one that is really sent."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from dlms_connector.config.catalogue import CATALOGUE
from dlms_connector.config.loader import load_file
from dlms_connector.config.settings import DeviceSettings, HealthKey, HealthSettings
from dlms_connector.polling.health import Breaker, Health, MeterState

CONFIG = Path(__file__).parent.parent.parent / "config"
DASHBOARD = json.loads((CONFIG / "thingsboard/dashboard.json").read_text(encoding="utf-8"))
PROFILE = json.loads((CONFIG / "thingsboard/device_profile.json").read_text(encoding="utf-8"))
WIDGETS: dict[str, Any] = DASHBOARD["configuration"]["widgets"]
ALARMS: list[dict[str, Any]] = PROFILE["profileData"]["alarms"]

# ThingsBoard's bundled widgets by full name, and the type that each one's descriptor has (3.6 to 4.x).
BUNDLED = {
    "system.entity_count": "latest",
    "system.cards.entities_table": "latest",
    "system.cards.attributes_card": "latest",
    "system.maps_v2.openstreetmap": "latest",
    "system.charts.basic_timeseries": "timeseries",
    "system.alarm_widgets.alarms_table": "alarm",
}
ALARM_FIELDS = {"createdTime", "originator", "type", "severity", "status"}
OPERATORS_OWN = {"latitude", "longitude"}  # staticAttributes of a device, or attributes made by hand
THINGSBOARDS_OWN = {"active"}
OPERATIONS = {
    "STRING": {"EQUAL", "NOT_EQUAL"},
    "NUMERIC": {"EQUAL", "GREATER", "LESS", "GREATER_OR_EQUAL", "LESS_OR_EQUAL"},
    "BOOLEAN": {"EQUAL"},
}
SEVERITIES = {"CRITICAL", "MAJOR", "MINOR", "WARNING", "INDETERMINATE"}


def is_uuid(text: str) -> bool:
    return str(uuid.UUID(text)) == text


def telemetry_sent() -> set[str]:
    """Health by default, the catalogue, and what the shipped example reads."""
    keys = set(HealthSettings().telemetry) | set(CATALOGUE)
    for device in load_file(CONFIG / "dlms_connector.json").devices:
        keys |= {entry.key for entry in device.timeseries}
        keys |= {key for profile in device.profiles for key in profile.columns.values() if key}
    return keys


def attributes_sent() -> set[str]:
    keys: set[str] = set(HealthSettings().attributes)
    for device in load_file(CONFIG / "dlms_connector.json").devices:
        keys |= {entry.key for entry in device.attributes}
    return keys


def sources(widget: dict[str, Any]) -> list[dict[str, Any]]:
    config = widget["config"]
    return [*config["datasources"], *([config["alarmSource"]] if "alarmSource" in config else [])]


def test_health_tells_every_key_that_may_be_named() -> None:
    assert set(get_args(HealthKey)) == set(Health(clock_offset_s=1.0).values())


def test_the_dashboard_has_what_an_import_wants() -> None:
    assert DASHBOARD["title"] == DASHBOARD["name"]
    configuration = DASHBOARD["configuration"]
    assert {"widgets", "states", "entityAliases", "filters", "timewindow", "settings"} <= set(configuration)
    assert [name for name, state in configuration["states"].items() if state["root"]] == ["default"]
    for key in ("entityAliases", "filters", "widgets"):
        for identity, entry in configuration[key].items():
            assert is_uuid(identity)
            assert entry["id"] == identity
    assert "tenantId" not in json.dumps(DASHBOARD), "nothing of the tenant it was made for"


def test_every_widget_stands_in_one_state_and_none_overlap() -> None:
    placed: list[str] = []
    for state in DASHBOARD["configuration"]["states"].values():
        main = state["layouts"]["main"]
        assert main["gridSettings"]["columns"] == 24
        cells: set[tuple[int, int]] = set()
        for identity, place in main["widgets"].items():
            placed.append(identity)
            assert place["col"] + place["sizeX"] <= 24
            own = {
                (row, col)
                for row in range(place["row"], place["row"] + place["sizeY"])
                for col in range(place["col"], place["col"] + place["sizeX"])
            }
            assert not own & cells, WIDGETS[identity]["config"]["title"]
            cells |= own
    assert sorted(placed) == sorted(WIDGETS)


@pytest.mark.parametrize("widget", WIDGETS.values(), ids=lambda widget: widget["config"]["title"])
def test_a_widget_is_bundled_and_its_sources_exist(widget: dict[str, Any]) -> None:
    configuration = DASHBOARD["configuration"]
    assert BUNDLED[widget["typeFullFqn"]] == widget["type"]
    assert sources(widget)
    for source in sources(widget):
        assert source["type"] == ("entityCount" if "entity_count" in widget["typeFullFqn"] else "entity")
        assert source["entityAliasId"] in configuration["entityAliases"]
        assert source.get("filterId") is None or source["filterId"] in configuration["filters"]
        labels = [key["label"] for key in source["dataKeys"]]
        assert len(set(labels)) == len(labels)
    for actions in widget["config"]["actions"].values():
        for action in actions:
            assert action["targetDashboardStateId"] in configuration["states"]
            assert action["setEntityId"] is True


@pytest.mark.parametrize("widget", WIDGETS.values(), ids=lambda widget: widget["config"]["title"])
def test_a_widget_shows_what_the_connector_sends(widget: dict[str, Any]) -> None:
    known = {
        "timeseries": telemetry_sent(),
        "attribute": attributes_sent() | OPERATORS_OWN,
        "alarm": ALARM_FIELDS,
        "count": {"count"},
    }
    for source in sources(widget):
        for key in source["dataKeys"]:
            assert key["name"] in known[key["type"]], key["name"]
    settings = widget["config"]["settings"]
    labels = {key["label"] for source in sources(widget) for key in source["dataKeys"]}
    for named in re.findall(r"\$\{(\w+)\}", settings.get("tooltipPattern", "")):
        assert named in labels | {"entityName"}
    for named in re.findall(r"data\['(\w+)'\]", settings.get("colorFunction", "")):
        assert named in labels
    order = settings.get("defaultSortOrder", "").lstrip("-")
    assert order in labels | {"", "createdTime"}


def test_the_fleet_is_the_meters_of_the_default_type() -> None:
    aliases = {
        entry["filter"]["type"]: entry for entry in DASHBOARD["configuration"]["entityAliases"].values()
    }
    default_type = DeviceSettings.model_fields["device_type"].default
    assert aliases["deviceType"]["filter"]["deviceTypes"] == [default_type] == [PROFILE["name"]]
    assert set(aliases) == {"deviceType", "stateEntity"}


def test_filters_know_real_states() -> None:
    for entry in DASHBOARD["configuration"]["filters"].values():
        for key_filter in entry["keyFilters"]:
            assert key_filter["key"] == {"type": "ATTRIBUTE", "key": "dlms_state"}
            for predicate in key_filter["predicates"]:
                MeterState(predicate["keyFilterPredicate"]["value"]["defaultValue"])


def test_the_profile_has_what_an_import_wants() -> None:
    for key, value in {"type": "DEFAULT", "transportType": "DEFAULT", "provisionType": "DISABLED"}.items():
        assert PROFILE[key] == value
    assert PROFILE["default"] is False
    for key in ("defaultRuleChainId", "defaultDashboardId", "firmwareId", "softwareId"):
        assert PROFILE[key] is None, "an identity of another server cannot be imported"
    for section in ("configuration", "transportConfiguration", "provisionConfiguration"):
        assert PROFILE["profileData"][section]["type"] in ("DEFAULT", "DISABLED")
    identities = [alarm["id"] for alarm in ALARMS]
    assert all(is_uuid(identity) for identity in identities)
    assert len(set(identities)) == len(identities)
    assert [alarm["alarmType"] for alarm in ALARMS] == [
        "Meter silent",
        "No telemetry",
        "Breaker open",
        "Clock off",
        "Cover open",
    ]


def rules(alarm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    assert set(alarm["createRules"]) <= SEVERITIES
    yield from alarm["createRules"].values()
    yield alarm["clearRule"]


def simple(predicate: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if predicate["type"] == "COMPLEX":
        assert predicate["operation"] in ("AND", "OR")
        for inner in predicate["predicates"]:
            yield from simple(inner)
    else:
        yield predicate


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm["alarmType"])
def test_an_alarm_asks_for_what_the_connector_sends(alarm: dict[str, Any]) -> None:
    kinds = {"ATTRIBUTE": attributes_sent() | THINGSBOARDS_OWN, "TIME_SERIES": telemetry_sent()}
    for rule in rules(alarm):
        spec = rule["condition"]["spec"]
        assert spec["type"] in ("SIMPLE", "DURATION")
        if spec["type"] == "DURATION":
            assert spec["unit"] == "MINUTES"
            assert spec["predicate"]["defaultValue"] > 0
        assert rule["condition"]["condition"]
        for condition in rule["condition"]["condition"]:
            assert condition["key"]["key"] in kinds[condition["key"]["type"]]
            for predicate in simple(condition["predicate"]):
                assert predicate["type"] == condition["valueType"]
                assert predicate["operation"] in OPERATIONS[predicate["type"]]
                assert {"defaultValue", "userValue", "dynamicValue"} == set(predicate["value"])
        for named in re.findall(r"\$\{(\w+)\}", rule["alarmDetails"] or ""):
            assert named in attributes_sent() | telemetry_sent()


def matches(predicate: dict[str, Any], value: Any) -> bool:
    """ThingsBoard's predicates, as far as they are used here."""
    if predicate["type"] == "COMPLEX":
        inner = [matches(part, value) for part in predicate["predicates"]]
        return all(inner) if predicate["operation"] == "AND" else any(inner)
    wanted = predicate["value"]["defaultValue"]
    return {
        "EQUAL": lambda: value == wanted,
        "NOT_EQUAL": lambda: value != wanted,
        "GREATER": lambda: value > wanted,
        "LESS": lambda: value < wanted,
        "GREATER_OR_EQUAL": lambda: value >= wanted,
        "LESS_OR_EQUAL": lambda: value <= wanted,
    }[predicate["operation"]]()


@pytest.mark.parametrize(
    ("alarm_type", "raised_by", "cleared_by", "nothing"),
    [
        (
            "Meter silent",
            [str(state) for state in MeterState if state not in (MeterState.ONLINE, MeterState.PAUSED)],
            ["online"],
            ["paused"],
        ),
        ("No telemetry", [False], [True], []),
        ("Breaker open", ["open"], ["closed"], ["half-open"]),
        ("Clock off", [61.0, -61.0, 3600.0], [0.0, 60.0, -60.0], []),
        ("Cover open", [40, 44], [41, 45], [1, 255]),
    ],
)
def test_what_raises_and_what_clears(
    alarm_type: str, raised_by: list[Any], cleared_by: list[Any], nothing: list[Any]
) -> None:
    (alarm,) = (alarm for alarm in ALARMS if alarm["alarmType"] == alarm_type)
    (create,) = alarm["createRules"].values()

    def holds(rule: dict[str, Any], value: Any) -> bool:
        return all(matches(condition["predicate"], value) for condition in rule["condition"]["condition"])

    for value in raised_by:
        assert (holds(create, value), holds(alarm["clearRule"], value)) == (True, False), value
    for value in cleared_by:
        assert (holds(create, value), holds(alarm["clearRule"], value)) == (False, True), value
    for value in nothing:
        assert (holds(create, value), holds(alarm["clearRule"], value)) == (False, False), value


def test_the_breaker_says_the_words_that_the_alarm_waits_for() -> None:
    breaker = Breaker(DeviceSettings.model_fields["breaker"].default)
    said = {breaker.state(0.0)}
    for _ in range(20):
        breaker.attempt(0.0)
    breaker.failed(0.0)
    said |= {breaker.state(0.0), breaker.state(1e9)}
    assert said == {"closed", "open", "half-open"}
