"""docs/operations.md names things that exist, and leaves out none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dlms_connector.cli.main import COMMANDS
from dlms_connector.errors import Layer
from dlms_connector.gateway import rpc_methods
from dlms_connector.gateway.connector_rpc import ConnectorRpc
from dlms_connector.gateway.metrics import HealthCollector
from dlms_connector.polling.health import Health, MeterState
from tests.gateway.test_metrics import Poller

PAGE = (Path(__file__).parent.parent.parent / "docs/operations.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}$(.*?)(?=^## )", PAGE, re.M | re.S)
    assert found, title
    return found[1]


def first_cells(text: str) -> str:
    return "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))


def test_every_rpc_of_a_meter_is_explained() -> None:
    named = re.findall(r"`(\w+)`", first_cells(section("RPCs of a meter")))
    assert sorted(named) == sorted(rpc_methods._METHODS)


def test_every_rpc_of_the_connector_is_named() -> None:
    connector = ConnectorRpc("custom", dict, lambda: None)  # type: ignore[arg-type, return-value]
    named = {name.removeprefix("custom_") for name in re.findall(r"`(custom_\w+)`", PAGE)}
    assert named == set(connector._methods)


def test_every_layer_is_explained() -> None:
    named = re.findall(r"`(\w+)`", first_cells(section("What the layer says")))
    assert sorted(named) == sorted(str(layer) for layer in Layer)


def test_every_metric_is_explained_and_none_is_invented() -> None:
    meters: Any = {"m": Poller(last_read_ms=1, latency_ms=1.0, clock_offset_s=1.0)}
    sent = {
        sample.name
        for family in HealthCollector("c", lambda: meters, ()).collect()
        for sample in family.samples
    }
    named: set[str] = set()
    for line in first_cells(section("Prometheus")).splitlines():
        prefix = ""
        for name in re.findall(r"`(\w+)", line):
            if not name.startswith("_"):
                prefix = "_".join(name.split("_")[:2])
            named.add(name if not name.startswith("_") else prefix + name)
    assert named == sent


def test_commands_states_and_health_keys_exist() -> None:
    for words in re.findall(r"dlms-connector ([a-z|]+)", PAGE):
        assert set(words.split("|")) <= set(COMMANDS), words
    for state in re.findall(r"`dlms_state` is `([a-z ]+)`", PAGE):
        MeterState(state)
    known = set(Health(clock_offset_s=0.0).values())
    assert {key for key in re.findall(r"`(dlms_[a-z]+[A-Z]\w+)`", PAGE)} <= known
