"""The keys of the meters behind the proxies."""

from __future__ import annotations

import pytest

from tests.support.simulated import AUTHENTICATION_KEYS, ENCRYPTION_KEYS


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_EK", ENCRYPTION_KEYS[0].hex())
    monkeypatch.setenv("CHAOS_AK", AUTHENTICATION_KEYS[0].hex())
