"""Many meters in one process, and what a test can do to them."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from dlms_connector.simulator.fleet import Fleet, FleetSettings, LineSettings, SimulatedFleet, run_fleet
from dlms_connector.simulator.meter import MeterSettings
from tests.support.simulated import SERIAL, WrapperPeer, get_normal, line_settings, one_meter

GET = get_normal(1, "0.0.96.1.0.255", 2)


def test_a_thousand_meters_start_within_three_seconds() -> None:
    before_s = time.monotonic()
    with SimulatedFleet(FleetSettings.uniform(1_000)) as fleet:
        assert time.monotonic() - before_s < 3
        assert len({fleet.port(serial) for serial in fleet.serials}) == 1_000
        for serial in (fleet.serials[0], fleet.serials[-1]):
            with WrapperPeer(fleet.port(serial)) as peer:
                peer.associate()
                assert peer.ask(GET)[6:] == serial.encode()
        assert fleet.totals().meters.gets == 2


def test_power_goes_and_comes_on_the_same_port() -> None:
    with one_meter() as fleet:
        port = fleet.port(SERIAL)
        with WrapperPeer(port) as peer:
            peer.associate()
            fleet.power(False)
            with pytest.raises((ConnectionError, AssertionError)):
                assert peer.ask(GET)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        fleet.power(True)
        with WrapperPeer(port) as peer:
            peer.associate()
            assert peer.ask(GET)[6:] == SERIAL.encode()
        assert fleet.counters(SERIAL).associations_open_max == 1


def test_a_frozen_meter_answers_late() -> None:
    with one_meter() as fleet, WrapperPeer(fleet.port(SERIAL)) as peer:
        peer.associate()
        fleet.freeze(SERIAL)
        peer.send(GET)
        peer.socket.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.receive()
        fleet.thaw(SERIAL)
        peer.socket.settimeout(10)
        assert peer.receive()[6:] == SERIAL.encode()


def test_a_converter_that_takes_one_connection() -> None:
    settings = line_settings("wrapper", MeterSettings(SERIAL), single_connection=True)
    with SimulatedFleet(FleetSettings((settings,))) as fleet:
        with WrapperPeer(fleet.port(SERIAL)) as first:
            first.associate()
            with pytest.raises((ConnectionError, AssertionError)), WrapperPeer(fleet.port(SERIAL)) as second:
                second.associate()
            assert first.ask(GET)[6:] == SERIAL.encode()
        assert fleet.wait_for(lambda: not fleet.fleet.line_of(SERIAL).line.connections, 10)
        with WrapperPeer(fleet.port(SERIAL)) as third:
            third.associate()
        counters = fleet.line_counters(SERIAL)
        assert (counters.connections, counters.connections_refused) == (2, 1)


def test_associations_are_counted_over_connections() -> None:
    with one_meter() as fleet:
        peers = [WrapperPeer(fleet.port(SERIAL)) for _ in range(3)]
        for peer in peers:
            peer.associate()
        assert fleet.counters(SERIAL).associations_open == 3
        for peer in peers:
            peer.socket.close()
        assert fleet.wait_for(lambda: not fleet.device(SERIAL).associations, 10)
        assert fleet.counters(SERIAL).associations_open_max == 3


def test_logical_devices_behind_one_wrapper_port() -> None:
    meters = [MeterSettings(f"{number:08d}", logical_address=number) for number in (1, 2, 300)]
    with SimulatedFleet(FleetSettings((line_settings("wrapper", *meters),))) as fleet:
        for meter in meters:
            with WrapperPeer(fleet.port(meter.serial), server=meter.logical_address) as peer:
                peer.associate()
                assert peer.ask(GET)[6:] == meter.serial.encode()
        assert len({fleet.port(meter.serial) for meter in meters}) == 1


def test_same_serial_twice_and_taken_ports_are_told() -> None:
    line = LineSettings((MeterSettings(SERIAL),))
    with pytest.raises(ValueError, match=SERIAL):
        SimulatedFleet(FleetSettings((line, line)))
    with one_meter() as fleet, pytest.raises(OSError, match="in use"):
        SimulatedFleet(FleetSettings.uniform(1, base_port=fleet.port(SERIAL))).start()


def test_run_fleet_serves_until_cancelled() -> None:
    ports: list[int] = []

    async def serve() -> None:
        ready = asyncio.Event()

        def opened(fleet: Fleet) -> None:
            ports.extend(line.port for line in fleet.lines)
            ready.set()

        task = asyncio.create_task(run_fleet(FleetSettings.uniform(2, "hdlc"), opened))
        await asyncio.wait_for(ready.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(serve())
    assert len(set(ports)) == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=10)
