"""The command line as a user has it: words in, exit code and both outputs out."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from dlms_connector.cli.main import main

QUICK = ("--timeout", "0.4", "--pause", "0", "--recovery", "0")


class Result(NamedTuple):
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: object) -> Result:
    """Run one command in this process; a traceback fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(word) for word in words])
    assert "Traceback" not in out.getvalue() + err.getvalue()
    code = ended.value.code
    return Result(code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


@contextmanager
def peer(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port that does to each connection what it is told; yields the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    stopped = threading.Event()

    def accept() -> None:
        while not stopped.is_set():
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                serve(connection)

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        stopped.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10)


def swallow(connection: socket.socket) -> None:
    """Take everything, say nothing."""
    while connection.recv(4096):
        pass
