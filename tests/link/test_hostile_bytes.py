"""Whatever a meter or somebody in its place sends: an answer or an error of the link, and soon."""

from __future__ import annotations

import contextlib
import time

from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.errors import LinkError
from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.frames import encode_frame
from dlms_connector.io.hdlc import HdlcClient, HdlcSettings
from dlms_connector.io.wrapper import WrapperClient
from tests.support.link_peer import ChunkStream, soon

SERVER = HdlcAddress(0, 1, 1)
CLIENT = b"\x21"


anything = st.binary(min_size=1, max_size=60)
frames = st.builds(
    lambda control, content, segmented: encode_frame(
        CLIENT, SERVER.encode(), control, content, segmented=segmented
    ),
    st.integers(0, 255),
    st.one_of(anything, st.just(b""), st.just(b"\xe6\xe7\x00\xc4")),
    st.booleans(),
)
chunks = st.lists(st.one_of(anything, frames, frames), max_size=30)


@given(chunks, st.integers(1, 300))
def test_hdlc_ends_with_an_answer_or_an_error_of_the_link(script: list[bytes], size: int) -> None:
    client = HdlcClient(16, SERVER, HdlcSettings(max_apdu_bytes=200))
    stream = ChunkStream(script)
    started_s = time.monotonic()
    with contextlib.suppress(LinkError):
        client.connect(stream, soon())
    for _ in range(3):
        with contextlib.suppress(LinkError):
            assert len(client.exchange(stream, bytes(size), soon())) <= 260
    assert time.monotonic() - started_s < 5


@given(chunks)
def test_the_wrapper_ends_with_an_answer_or_an_error_of_the_link(script: list[bytes]) -> None:
    client = WrapperClient(16, 1, max_apdu_bytes=200)
    stream = ChunkStream([b"\x00\x01\x00\x01\x00\x10\x00", *script])
    for _ in range(3):
        with contextlib.suppress(LinkError):
            assert len(client.exchange(stream, b"x", soon())) <= 200
