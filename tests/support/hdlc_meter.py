"""An HDLC meter played frame by frame on a real socket, and the client that talks to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.control import SNRM, UA, information
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import HdlcClient, HdlcSettings
from dlms_connector.io.stream import ByteStream, Interrupt
from dlms_connector.io.tcp import open_tcp
from tests.support.link_peer import HdlcPeer, SocketPipe, soon, tcp_peer

ADDRESS = HdlcAddress(1, 17, 2)
SERVER = ADDRESS.encode()
CLIENT = b"\x21"
COMMAND = b"\xe6\xe6\x00"
RESPONSE = b"\xe6\xe7\x00"
PATIENT = HdlcSettings()
QUICK = HdlcSettings(response_timeout_s=0.25)

Script = Callable[[HdlcPeer], None]


def i(send: int, receive: int, *, poll: bool = True) -> int:
    return information(send, receive, poll=poll)


def connected(script: Script, ua: bytes = b"") -> Script:
    """SNRM and UA first, then the script, then until the client leaves."""

    def play(peer: HdlcPeer) -> None:
        peer.expect(SNRM)
        peer.send(UA, ua)
        script(peer)

    return play


@contextmanager
def meter(script: Script, settings: HdlcSettings = PATIENT) -> Iterator[tuple[HdlcClient, ByteStream]]:
    def run(pipe: SocketPipe) -> None:
        script(HdlcPeer(pipe, SERVER, CLIENT))

    with tcp_peer(run) as endpoint:
        stream = open_tcp(endpoint, soon(), Interrupt())
        try:
            yield HdlcClient(16, ADDRESS, settings), stream
        finally:
            stream.close()


@contextmanager
def connection(
    script: Script, settings: HdlcSettings = PATIENT, ua: bytes = b""
) -> Iterator[tuple[HdlcClient, ByteStream]]:
    with meter(connected(script, ua), settings) as (client, stream):
        client.connect(stream, soon())
        yield client, stream


WIDE = HdlcSettings(LinkParameters(20, 20, 3, 3))
WIDE_UA = WIDE.parameters.encode()
