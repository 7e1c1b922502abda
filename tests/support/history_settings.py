"""The connector's settings for the meter of a random history."""

from __future__ import annotations

import random
from typing import Any

from dlms_connector.config.loader import load_document
from dlms_connector.config.settings import DeviceSettings
from tests.support.history_profile import PROFILE, LoadProfile
from tests.support.history_truth import Quantity

_SLICES = ("1h", "6h", "1d")


def device_settings(
    rng: random.Random, quantities: dict[str, Quantity], profile: LoadProfile | None, unscaled: str
) -> DeviceSettings:
    """A device that reads all of them, may write all of them, and understands nulls as the meter means them."""
    entry: dict[str, Any] = {
        "deviceName": "m",
        "transport": {"host": "h"},
        "refusedRegisterPeriod": "10m",
        "unscaled": unscaled,
        "allowWrite": [str(item.ref.obis) for item in quantities.values()],
        "timeseries": [{"key": key, **named(item)} for key, item in quantities.items()],
    }
    if profile is not None:
        habits = profile.habits
        nulls = "carry" if habits.null_unchanged else "skip" if habits.true_nulls else "auto"
        entry["clock"] = {"timeZone": profile.zone_name}
        entry["profiles"] = [
            {"obis": str(PROFILE), "backfill": "12h", "slice": rng.choice(_SLICES), "nullValues": nulls}
        ]
    if rng.random() < 0.1:
        entry["client"] = {"maxListSize": rng.randint(1, 6)}
    loaded = load_document({"devices": [entry]})
    assert not loaded.errors, loaded.errors
    return loaded.devices[0]


def named(item: Quantity) -> dict[str, Any]:
    """An attribute as the configuration and RPCs name it."""
    return {"obis": str(item.ref.obis), "class": item.ref.class_id, "attribute": item.ref.attribute}
