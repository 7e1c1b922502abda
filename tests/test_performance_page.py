"""docs/performance.md says what benchmarks/results have, and each result says where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page

RESULTS = sorted(page.RESULTS.glob("*.json"))


def test_the_page_is_in_step_with_the_results() -> None:
    text = page.PAGE.read_text()
    assert page.filled(text) == text, "run python benchmarks/page.py"


def test_a_figure_changed_by_hand_is_noticed() -> None:
    text = page.PAGE.read_text()
    begin = "<!-- table: promises -->\n"
    assert page.filled(text.replace(begin, f"{begin}| made up |\n")) == text


@pytest.mark.parametrize("name", ["promises", *page.TABLES])
def test_the_page_has_each_table_once(name: str) -> None:
    assert page.PAGE.read_text().count(f"<!-- table: {name} -->\n") == 1


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_each_result_tells_command_machine_and_rows(path: Path) -> None:
    document: dict[str, Any] = json.loads(path.read_text())
    assert document["command"].startswith("python benchmarks/")
    assert {"python", "processor", "cores", "load_before", "when", "versions"} <= document["machine"].keys()
    assert document["rows"]
