"""Background work of a poller: look at the meter's clock now and then, so that a wrong one is seen.

A meter whose clock is off stamps its profile rows wrongly, and nothing else shows it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.errors import DecodeError, DlmsConnectorError, LinkError
from dlms_connector.meter import operations
from dlms_connector.meter.schedule import phase_of
from dlms_connector.meter.session import MeterSession

_FIRST_S = 60.0  # registers and profiles first, after a start
_FIRST_SPREAD_S = 240.0


class ClockTask:
    """Reads the clock every `clock.checkPeriod`.

    Args:
        on_offset: told how far the clock is off in seconds; positive: the meter is ahead.
    """

    def __init__(
        self,
        device: DeviceSettings,
        on_offset: Callable[[float], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._period_s = device.clock.check_period_ms / 1000
        self._on_offset = on_offset
        self._clock = clock
        self._due_s = clock() + _FIRST_S + _FIRST_SPREAD_S * phase_of(device.device_name)
        if not self._period_s:
            self._due_s = float("inf")

    def due_s(self) -> float:
        """Monotonic seconds from which a look is wanted; infinity where the check is off."""
        return self._due_s

    def step(self, session: MeterSession) -> None:
        """Read the clock once. Raises LinkError; a meter without a readable clock is no fault."""
        try:
            offset_ms = operations.read_clock(session)["offsetMs"]
        except DecodeError:
            offset_ms = None  # a clock that was never set shows such dates; its association stands
        except LinkError:
            raise
        except DlmsConnectorError:
            offset_ms = None
        self._due_s = self._clock() + self._period_s
        if isinstance(offset_ms, int):
            self._on_offset(offset_ms / 1000)
