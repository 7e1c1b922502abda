"""A proxy that misbehaves stands between pollers and meters: values stay true, and all is well when it is."""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import Any

import pytest

from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings
from tests.support.chaos_proxy import ON_ANSWER, Chaos, ChaosProxy
from tests.support.pollers import RunningPollers, wait_until
from tests.support.readers import device_settings, transport_of
from tests.support.simulated import CLIENT_TITLE, clients, secured_client

TIMEOUT_MS = 300
KEYS = ["voltage_l1", "voltage_l2", "current_l1", "active_energy"]
METERS = 8


def chaos_fleet(framing: str, count: int) -> SimulatedFleet:
    lines = tuple(
        LineSettings((MeterSettings(f"{index:08d}", clients=clients(secured_client(5))),), framing=framing)
        for index in range(1, count + 1)
    )
    return SimulatedFleet(FleetSettings(lines))


def entry(port: int, transport: dict[str, Any]) -> dict[str, Any]:
    return {
        "transport": transport | {"port": port, "hdlc": {"responseTimeout": TIMEOUT_MS // 3}},
        "client": {
            "address": 1,
            "authentication": "gmac",
            "security": {
                "clientSystemTitle": CLIENT_TITLE.hex(),
                "encryptionKey": "${env:CHAOS_EK}",
                "authenticationKey": "${env:CHAOS_AK}",
            },
        },
        "timeout": TIMEOUT_MS,
        "pollPeriod": 200,
        "timeseries": KEYS,
        "backoff": {"initial": 20, "maximum": 200},
        "breaker": {"reconnects": 10_000},
    }


class Scene:
    """Meters, a proxy before each, and their pollers."""

    def __init__(self, stack: ExitStack, framing: str, count: int) -> None:
        self.fleet = stack.enter_context(chaos_fleet(framing, count))
        self.proxies = {
            serial: stack.enter_context(ChaosProxy(self.fleet.port(serial), seed=index))
            for index, serial in enumerate(self.fleet.serials)
        }
        self.running = RunningPollers(self.fleet)
        for serial, proxy in self.proxies.items():
            settings = entry(proxy.port, transport_of(self.fleet, serial))
            self.running.add(device_settings(self.fleet, serial, **settings))

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.next_fault = lambda: Chaos.PASS
            proxy.on_connect = Chaos.PASS


@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
def test_each_kind_once(framing: str) -> None:
    with ExitStack() as stack:
        scene = Scene(stack, framing, len(ON_ANSWER))
        with scene.running as running:
            running.wait_for_readings(more=len(KEYS))
            for (_, proxy), fault in zip(scene.proxies.items(), ON_ANSWER, strict=True):
                proxy.once(fault)
            wait_until(lambda: all(proxy.applied for proxy in scene.proxies.values()))
            running.wait_for_readings(more=3 * len(KEYS), timeout_s=10)
            running.check_values()


@pytest.mark.slow
@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
def test_chaos_without_a_plan(framing: str) -> None:
    """One chunk in five is spoilt, for a hundred of them."""
    with ExitStack() as stack:
        scene = Scene(stack, framing, METERS)
        for index, proxy in enumerate(scene.proxies.values()):
            rng = random.Random(index)
            proxy.next_fault = lambda rng=rng: rng.choice(ON_ANSWER) if rng.random() < 0.2 else Chaos.PASS
        with scene.running as running:
            wait_until(lambda: sum(len(proxy.applied) for proxy in scene.proxies.values()) > 120, 60)
            scene.heal()
            running.wait_for_readings(more=2 * len(KEYS), timeout_s=10)
            assert running.check_values() > METERS * len(KEYS)
        assert {fault for proxy in scene.proxies.values() for fault in proxy.applied} == set(ON_ANSWER)
