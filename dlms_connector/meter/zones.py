"""The time zone in which a meter's clock is read when the meter tells no deviation."""

from __future__ import annotations

import os
from datetime import timezone, tzinfo
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dlms_connector.errors import ConfigurationError

_LOCAL_TIME = Path("/etc/localtime")


@lru_cache(maxsize=64)
def zone_for(name: str | None) -> tzinfo:
    """The zone of an IANA name; the machine's own, with its daylight saving rules, for None.

    Raises:
        ConfigurationError: no such zone.
    """
    if name is not None:
        return _named(name)
    from_environment = os.environ.get("TZ", "").lstrip(":")
    if from_environment and not from_environment.startswith("/"):
        return _named(from_environment)
    try:
        with Path(from_environment or _LOCAL_TIME).open("rb") as stream:
            return ZoneInfo.from_file(stream, key="localtime")
    except (OSError, ValueError):
        return timezone.utc


def _named(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f'there is no time zone "{name}"', hint="write an IANA name such as America/Bogota"
        ) from error
