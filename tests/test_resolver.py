"""The resolver in trouble: nobody waits for ever, nothing is kept for ever (see also tests/link/test_tcp.py)."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from dlms_connector.errors import ConnectFailed, LinkTimeout
from dlms_connector.io import resolver
from dlms_connector.io.resolver import resolve
from dlms_connector.io.stream import Interrupt
from tests.support.pollers import wait_until


def test_who_gave_up_is_not_remembered_while_the_resolver_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(*_: object, **options: int) -> list[Any]:
        if not options.get("flags"):
            release.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(resolver.socket, "getaddrinfo", hang)
    try:
        for _ in range(50):
            with pytest.raises(LinkTimeout):
                resolve("meter.example", 4059, time.monotonic(), Interrupt())
        assert resolver._running["meter.example", 4059].waiting == []
    finally:
        release.set()
    wait_until(lambda: not resolver._running)


def test_a_name_is_asked_for_again_after_no_thread_could_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise everybody would wait for an answer that nobody looks for, until the process ends."""

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more)
        with pytest.raises(ConnectFailed, match="start new thread"):
            resolve("localhost", 4059, time.monotonic() + 5, Interrupt())
    assert ("127.0.0.1", 4059) in [
        found.address[:2] for found in resolve("localhost", 4059, time.monotonic() + 5, Interrupt())
    ]


@pytest.mark.parametrize("host", ["a\0b", "x" * 300, "..", "xn--"])
def test_a_host_that_can_be_none_is_an_error_and_hangs_nobody(host: str) -> None:
    with pytest.raises(ConnectFailed):
        resolve(host, 4059, time.monotonic() + 10, Interrupt())
    wait_until(lambda: not resolver._running)
