"""The zone of a meter's clock: named, or the machine's own in each of the ways a machine says it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from dlms_connector.errors import ConfigurationError
from dlms_connector.meter.zones import zone_for


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    zone_for.cache_clear()
    yield
    zone_for.cache_clear()


def offset_of(name: str | None) -> timedelta | None:
    return datetime(2026, 1, 1, tzinfo=zone_for(name)).utcoffset()


@pytest.mark.parametrize(
    "tz", ["America/Bogota", ":America/Bogota", ":/usr/share/zoneinfo/America/Bogota", "/nowhere/at/all"]
)
def test_the_machines_own_zone(tz: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if tz.startswith(":/") and not Path(tz[1:]).exists():
        pytest.skip("this machine keeps its zones elsewhere")
    monkeypatch.setenv("TZ", tz)
    hours = 0 if tz == "/nowhere/at/all" else -5
    assert offset_of(None) == timedelta(hours=hours)


def test_a_named_zone_goes_before_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/Bogota")
    assert offset_of("Asia/Kolkata") == timedelta(hours=5, minutes=30)


@pytest.mark.parametrize("name", ["Bogota", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_zone_is_told(name: str) -> None:
    with pytest.raises(ConfigurationError):
        zone_for(name)
