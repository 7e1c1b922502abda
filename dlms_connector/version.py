"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def release() -> str:
    """The installed version; words where the package was dropped into a gateway's extensions folder."""
    try:
        return metadata.version("dlms-connector")
    except metadata.PackageNotFoundError:
        return "(not installed as a package)"
