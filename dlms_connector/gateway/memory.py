"""Keeps the garbage collector away from what lives as long as the connector.

The gateway's SQLite storage runs a full collection after each pack of events, twenty times a second with many
meters. Each walks every container object of the process, most of which are modules, settings, plans and
sessions that never become garbage while the connector is open. `gc.freeze` takes them out of sight; `release`
brings them back when the connector closes, so that a new configuration leaves nothing behind.
"""

from __future__ import annotations

import gc
import threading

_lock = threading.Lock()


class LongLived:
    """Freezes what was built, again whenever a tenth more meters are up.

    What happens to be garbage at such a moment stays until `release`: some dozens of moments, not one a poll. Seldomer
    a start would drag on, because each collection walks what came since the last time.
    """

    def __init__(self) -> None:
        self._up = 0
        self._next = 1

    def built(self) -> None:
        """The fleet was made: settings, plans, threads."""
        with _lock:
            gc.collect()
            gc.freeze()

    def one_more_up(self, of: int) -> None:
        """A meter gave its first reading of `of` meters: its link and association live long."""
        with _lock:
            self._up += 1
            if self._up < self._next and self._up != of:
                return
            self._next = self._up + max(1, self._up // 10)
            gc.freeze()

    @staticmethod
    def release() -> None:
        """The connector closed: everything may be collected again."""
        with _lock:
            gc.unfreeze()
