"""Writing what can be learned again: a disk that refuses it costs no value."""

from __future__ import annotations

from collections.abc import Callable

from dlms_connector.errors import StateError


class Keeper:
    """Tries to write to the state file; the first refusal is told, none is raised."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event
        self._told = False

    def attempt(self, write: Callable[[], None]) -> None:
        """Do it if it can be done."""
        try:
            write()
        except StateError as error:
            if not self._told:
                self._told = True
                self._on_event(f"what is learned of the meter is not kept: {error.explain()}")
