"""Every target of `targets`, driven by hypothesis: pure noise, and good bytes that somebody changed."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A seed with bytes replaced, cut out, doubled or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        action = draw(st.integers(0, 4))
        if action == 0 and data:
            data[at] = draw(st.one_of(st.integers(0, 255), st.sampled_from((0, 1, 0x7F, 0x80, 0x84, 0xFF))))
        elif action == 1:
            data[at:at] = draw(st.binary(max_size=8))
        elif action == 2:
            del data[at : at + draw(st.integers(1, 8))]
        elif action == 3:
            data += data[at : at + 20]
        else:
            data[at:at] = b"\x84\xff\xff\xff\xff"
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_ends_soon_in_a_value_or_an_error_of_the_house(name: str) -> None:
    target, seeds = TARGETS[name]

    @settings(max_examples=300, deadline=500, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(st.binary(max_size=300), mutated(seeds)))
    def run(data: bytes) -> None:
        target(data)

    for seed in seeds:
        target(seed)
    run()


@pytest.mark.parametrize(
    "claim", ["0184ffffffff", "0984ffffffff", "0484ffffffff", "1384ffffffff", "0284ffffffff"]
)
@pytest.mark.parametrize("head", ["c401c100", "c402c1010000000100"])
def test_a_claim_of_four_thousand_million_costs_nothing(claim: str, head: str) -> None:
    apdu = bytes.fromhex(head + claim)
    tracemalloc.start()
    began_s = time.monotonic()
    for name in ("answers", "protected_answers", "values", "profile"):
        TARGETS[name][0](bytes((len(apdu),)) + apdu)
        TARGETS[name][0](bytes.fromhex(claim))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began_s < 2
    assert peak_bytes < 2_000_000


def test_depth_costs_nothing() -> None:
    TARGETS["values"][0](b"\x02\x01" * 50_000)
    TARGETS["values"][0](b"\x01\x01" * 50_000)
