"""TCP streams on real sockets: deadlines, ends, interruption, names."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dlms_connector.errors import ConnectFailed, Interrupted, Layer, LinkClosed, LinkTimeout
from dlms_connector.io import resolver
from dlms_connector.io.stream import ByteStream, Interrupt
from dlms_connector.io.tcp import TcpEndpoint, open_tcp
from tests.support.link_peer import PATIENCE_S, SocketPipe, soon, tcp_peer, wait_until


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def streams(endpoint: TcpEndpoint) -> Iterator[ByteStream]:
    stream = open_tcp(endpoint, soon(), Interrupt())
    try:
        yield stream
    finally:
        stream.close()


def until_it_leaves(pipe: SocketPipe) -> None:
    while pipe.receive():
        pass


@contextmanager
def full_listener() -> Iterator[TcpEndpoint]:
    """A port whose queue is full: connections to it hang, as to a host that drops packets."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield TcpEndpoint("127.0.0.1", listener.getsockname()[1])


def test_bytes_go_both_ways_and_are_counted() -> None:
    def script(pipe: SocketPipe) -> None:
        assert pipe.receive() == b"question"
        pipe.send(b"answer")
        until_it_leaves(pipe)

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        stream.send(b"question", soon())
        assert stream.receive(soon()) == b"answer"
        assert (stream.bytes_sent, stream.bytes_received) == (8, 6)


def test_a_long_answer_takes_a_small_buffer_once_and_large_ones_from_then_on() -> None:
    answer = os.urandom(100_000)

    def script(pipe: SocketPipe) -> None:
        assert pipe.receive() == b"question"
        pipe.send(answer)
        until_it_leaves(pipe)

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        stream.send(b"question", soon())
        parts: list[bytes] = []
        while sum(map(len, parts)) < len(answer):
            parts.append(stream.receive(soon()))
        assert b"".join(parts) == answer
        assert len(parts[0]) < 512
        assert max(map(len, parts)) > 4096


def test_more_than_the_buffers_hold_is_sent() -> None:
    size = 8 * 1024 * 1024

    def script(pipe: SocketPipe) -> None:
        total = 0
        while total < size:
            total += len(pipe.receive())
        pipe.send(b"all")
        until_it_leaves(pipe)

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        stream.send(bytes(size), soon(30))
        assert stream.receive(soon(30)) == b"all"


def test_a_peer_that_takes_nothing_costs_the_deadline() -> None:
    release = threading.Event()

    with tcp_peer(lambda _: release.wait(PATIENCE_S)) as endpoint, streams(endpoint) as stream:
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            stream.send(bytes(64 * 1024 * 1024), started_s + 0.2)
        assert 0.19 < time.monotonic() - started_s < 3
        release.set()


def test_silence_costs_the_deadline_and_no_cpu() -> None:
    with tcp_peer(until_it_leaves) as endpoint, streams(endpoint) as stream:
        for wait_s in (0.3, 0.1, 0.005):
            started_s, cpu_s = time.monotonic(), time.thread_time()
            with pytest.raises(LinkTimeout):
                stream.receive(started_s + wait_s)
            assert wait_s <= time.monotonic() - started_s < wait_s + 2
            assert time.thread_time() - cpu_s < 0.05


def test_dripping_does_not_stretch_the_deadline() -> None:
    def script(pipe: SocketPipe) -> None:
        try:
            while True:
                pipe.send(b"x")
                time.sleep(0.01)
        except ConnectionError:
            pass

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            list(iter(lambda: stream.receive(started_s + 0.3), b""))
        assert 0.29 < time.monotonic() - started_s < 2
        stream.close()


def test_end_of_file_is_told_at_once_every_time() -> None:
    with tcp_peer(lambda pipe: None) as endpoint, streams(endpoint) as stream:
        for _ in range(3):
            with pytest.raises(LinkClosed):
                stream.receive(soon(30))
        with pytest.raises(LinkClosed):
            stream.discard_input()


def test_a_half_closed_connection_is_told_at_once() -> None:
    def script(pipe: SocketPipe) -> None:
        pipe.connection.shutdown(socket.SHUT_WR)
        until_it_leaves(pipe)

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        stream.send(b"x", soon())
        with pytest.raises(LinkClosed):
            stream.receive(soon(30))
        stream.close()


def test_a_reset_is_told_at_once() -> None:
    def script(pipe: SocketPipe) -> None:
        pipe.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with tcp_peer(script) as endpoint, streams(endpoint) as stream, pytest.raises(LinkClosed):
        stream.receive(soon(30))


def test_stale_input_is_thrown_away() -> None:
    def script(pipe: SocketPipe) -> None:
        pipe.send(b"stale")
        assert pipe.receive() == b"question"
        pipe.send(b"answer")
        until_it_leaves(pipe)

    with tcp_peer(script) as endpoint, streams(endpoint) as stream:
        discarded = 0

        def gone() -> bool:
            nonlocal discarded
            discarded += stream.discard_input()
            return discarded == 5

        wait_until(gone)
        assert stream.discard_input() == 0
        stream.send(b"question", soon())
        assert stream.receive(soon()) == b"answer"


def interrupted_after(delay_s: float, interrupt: Interrupt) -> threading.Timer:
    timer = threading.Timer(delay_s, interrupt.set)
    timer.start()
    return timer


def test_a_waiting_receiver_is_interrupted_for_good() -> None:
    with tcp_peer(until_it_leaves) as endpoint, streams(endpoint) as stream:
        timer = threading.Timer(0.1, stream.interrupt)
        timer.start()
        for _ in range(2):
            started_s = time.monotonic()
            with pytest.raises(Interrupted):
                stream.receive(soon(30))
            assert time.monotonic() - started_s < 3
        timer.join()


def test_a_connecting_poller_is_interrupted() -> None:
    interrupt = Interrupt()
    with full_listener() as endpoint:
        before = descriptors()
        timer = interrupted_after(0.1, interrupt)
        started_s = time.monotonic()
        with pytest.raises(Interrupted):
            open_tcp(endpoint, soon(30), interrupt)
        assert time.monotonic() - started_s < 3
        timer.join()
        assert descriptors() == before


def test_a_connection_that_hangs_costs_the_deadline() -> None:
    with full_listener() as endpoint:
        before = descriptors()
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout):
            open_tcp(endpoint, started_s + 0.2, Interrupt())
        assert 0.19 < time.monotonic() - started_s < 3
        assert descriptors() == before


def test_refusal_is_told_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    before = descriptors()
    with pytest.raises(ConnectFailed) as caught:
        open_tcp(TcpEndpoint("127.0.0.1", port), soon(), Interrupt())
    assert caught.value.layer is Layer.TCP
    assert "refused" in caught.value.explain()
    assert descriptors() == before


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with tcp_peer(until_it_leaves) as endpoint:
        refused = ("127.0.0.1", 1)

        def two_addresses(host: str, *_: object, **options: int) -> list[object]:
            if options.get("flags"):
                raise socket.gaierror(socket.EAI_NONAME, "not a number")
            wanted = (endpoint.host, endpoint.port)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in (refused, wanted)]

        monkeypatch.setattr(resolver.socket, "getaddrinfo", two_addresses)
        stream = open_tcp(TcpEndpoint("meter.example", endpoint.port), soon(), Interrupt())
        stream.close()


def test_ipv6() -> None:
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("no IPv6 here")
    with listener:
        stream = open_tcp(TcpEndpoint("::1", listener.getsockname()[1]), soon(), Interrupt())
        stream.close()


def test_an_unknown_name_is_an_error_of_the_dns_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(resolver.socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectFailed, match=r"meter\.invalid") as caught:
        open_tcp(TcpEndpoint("meter.invalid", 4059), soon(), Interrupt())
    assert caught.value.layer is Layer.DNS


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    release = threading.Event()

    def hang(*_: object, **options: int) -> list[object]:
        if not options.get("flags"):
            release.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    monkeypatch.setattr(resolver.socket, "getaddrinfo", hang)
    yield release
    release.set()
    wait_until(lambda: not any("resolve" in thread.name for thread in threading.enumerate()))


def test_a_hanging_resolver_costs_the_deadline_and_one_thread(hanging_resolver: threading.Event) -> None:
    for _ in range(3):
        started_s = time.monotonic()
        with pytest.raises(LinkTimeout) as caught:
            open_tcp(TcpEndpoint("meter.example", 4059), started_s + 0.05, Interrupt())
        assert time.monotonic() - started_s < 2
        assert caught.value.layer is Layer.DNS
    assert sum("resolve" in thread.name for thread in threading.enumerate()) == 1


def test_a_hanging_resolver_does_not_hold_up_an_interrupt(hanging_resolver: threading.Event) -> None:
    interrupt = Interrupt()
    timer = interrupted_after(0.1, interrupt)
    started_s = time.monotonic()
    with pytest.raises(Interrupted):
        open_tcp(TcpEndpoint("meter.example", 4059), soon(30), interrupt)
    assert time.monotonic() - started_s < 3
    timer.join()


def test_an_interrupt_that_came_before_is_not_missed() -> None:
    interrupt = Interrupt()
    interrupt.set()
    with pytest.raises(Interrupted):
        open_tcp(TcpEndpoint("127.0.0.1", 1), soon(), interrupt)


def test_closing_twice_is_once() -> None:
    before = descriptors()
    with tcp_peer(until_it_leaves) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        stream.close()
        stream.close()
        stream.interrupt()
    assert descriptors() == before
