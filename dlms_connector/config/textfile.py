"""Writing a text file so that nobody ever sees half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dlms_connector.errors import CommandError


def write_whole(path: Path, text: str, mode: int) -> None:
    """Replace a file in one step: a reader sees the old content or the new, also after a power cut.

    Raises CommandError where the folder cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            _keep_owner(path, name)
            os.replace(name, path)
            _sync_folder(path.parent)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


def _keep_owner(path: Path, new: str) -> None:
    """Root writes for the gateway's user: the file stays his."""
    owner = path.stat() if path.exists() else path.parent.stat()
    if os.geteuid() == 0:
        os.chown(new, owner.st_uid, owner.st_gid)


def _sync_folder(folder: Path) -> None:
    """The new name is on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
