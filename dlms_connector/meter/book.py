"""The book of one meter: what was asked for and what became of it. It balances, or something was lost in silence.

Polls: asked = delivered + refused + held + failed. Rows of profiles: received = delivered + left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dlms_connector.meter.batch_result import BatchResult
from dlms_connector.meter.profile.book import RowBook


@dataclass(slots=True)
class Book:
    """Counters since the poller was made; written by the poller's thread alone.

    Args:
        asked: keys of polls that were begun.
        delivered: values that the gateway took.
        refused: the meter said no to the object.
        held: numbers whose scaler is not known.
        failed: no answer, no value, or the gateway did not take it.
        profiles: the books of its profiles' rows.
    """

    asked: int = 0
    delivered: int = 0
    refused: int = 0
    held: int = 0
    failed: int = 0
    profiles: list[RowBook] = field(default_factory=list)

    @property
    def balances(self) -> bool:
        """Nothing was lost without a reason."""
        polls = self.asked == self.delivered + self.refused + self.held + self.failed
        return polls and all(rows.balances for rows in self.profiles)

    def count(self, result: BatchResult, *, taken: bool) -> int:
        """Book one batch; gives how many keys that were."""
        values = len(result.readings)
        if taken:
            self.delivered += values
        else:
            self.failed += values
        refused, held, failed = len(result.refused), len(result.held), len(result.failed)
        self.refused += refused
        self.held += held
        self.failed += failed
        return values + refused + held + failed

    def values(self) -> dict[str, str | int | float]:
        """Everything under the keys of the status."""
        return {
            "dlms_keysAsked": self.asked,
            "dlms_keysDelivered": self.delivered,
            "dlms_keysRefused": self.refused,
            "dlms_keysHeld": self.held,
            "dlms_keysFailed": self.failed,
            "dlms_rowsReceived": sum(rows.received for rows in self.profiles),
            "dlms_rowsDelivered": sum(rows.delivered for rows in self.profiles),
            "dlms_rowsLeftOut": sum(rows.left_out_rows for rows in self.profiles),
        }
