"""Windows of several frames: gurux_dlms' Python client cannot, so this project's own HDLC client reads them."""

from __future__ import annotations

import time

import pytest

from dlms_connector.framing.addresses import HdlcAddress
from dlms_connector.framing.parameters import LinkParameters
from dlms_connector.io.hdlc import HdlcClient, HdlcSettings
from dlms_connector.io.stream import Interrupt
from dlms_connector.io.tcp import TcpEndpoint, open_tcp
from tests.support.simulated import SERIAL, aarq, get_normal, one_meter


@pytest.mark.parametrize("window", [2, 5, 7])
def test_long_answers_arrive_in_windows(window: int) -> None:
    limits = LinkParameters(64, 64, window, window)
    with one_meter("hdlc", max_information_bytes=64, window_frames=window, max_pdu_bytes=4096) as fleet:
        deadline_s = time.monotonic() + 10
        stream = open_tcp(TcpEndpoint("127.0.0.1", fleet.port(SERIAL)), deadline_s, Interrupt())
        try:
            client = HdlcClient(16, HdlcAddress(1, 17, 4), HdlcSettings(limits))
            assert client.connect(stream, deadline_s) == limits
            client.exchange(stream, aarq(), deadline_s)
            answer = client.exchange(stream, get_normal(1, "0.0.128.0.17.255", 2), deadline_s)
            assert answer[4:] == b"\x09\x82\x08\x00" + bytes(range(256)) * 8
            client.disconnect(stream, deadline_s)
        finally:
            stream.close()
        counters = fleet.counters(SERIAL)
        assert counters.retransmissions == 0
        segments = -(-(3 + len(answer)) // 64)
        # SNRM, AARQ, DISC, and GET or RR for each window of the answer.
        assert counters.requests == 3 + -(-segments // window)
