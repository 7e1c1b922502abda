"""Remote configuration as ThingsBoard's gateway page sends it; the simulator counts the associations."""

from __future__ import annotations

import time
from typing import Any

import psutil
import pytest

from dlms_connector.simulator.gateway_process import GatewayProcess
from tests.gateway.conftest import Installation, device_entry
from tests.support.thingsboard_ui import GatewayPage

pytestmark = pytest.mark.contract
EFFECT_S = 30.0  # issue says 5 s on an idle machine; the bound here only has to tell "never"


@pytest.fixture
def page(installation: Installation) -> GatewayPage:
    """A gateway without connectors, ready for the page."""
    installation.gateway(None, remote_configuration=True)
    installation.wait_until_started()
    return GatewayPage(installation.server)


def one(installation: Installation, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"devices": [device_entry(installation.fleet, installation.fleet.serials[index], **more)]}


def polls(installation: Installation, serial: str) -> int:
    counters = installation.fleet.counters(serial)
    return counters.gets + counters.get_lists


def assert_quiet(installation: Installation, serial: str) -> None:
    """The meter has no association; its connection is gone, so nobody can poll it."""
    assert installation.fleet.wait_for(
        lambda: installation.fleet.device(serial).counters.associations_open == 0, EFFECT_S
    )


def assert_one_at_a_time(installation: Installation) -> None:
    assert installation.fleet.totals().meters.associations_open_max == 1


def test_first_push_is_empty_then_a_save_polls_within_seconds(
    installation: Installation, page: GatewayPage
) -> None:
    gateway = installation.gateways[0]
    page.save("DLMS", {})
    assert gateway.wait_for_log("no devices configured", EFFECT_S)
    began = time.monotonic()
    page.save("DLMS", one(installation))
    installation.wait_for_readings(installation.fleet.serials[0], 1, EFFECT_S)
    assert time.monotonic() - began < EFFECT_S
    assert_one_at_a_time(installation)


def test_a_save_moves_the_connector_to_other_meters(installation: Installation, page: GatewayPage) -> None:
    first, second, _ = installation.fleet.serials
    page.save("DLMS", one(installation, 0))
    installation.wait_for_readings(first, 1)
    page.save("DLMS", one(installation, 1))
    installation.wait_for_readings(second, 1)
    assert_quiet(installation, first)
    assert_one_at_a_time(installation)


def test_an_unchanged_save_and_a_log_level_change_lose_nothing(
    installation: Installation, page: GatewayPage
) -> None:
    serial = installation.fleet.serials[0]
    page.save("DLMS", one(installation))
    installation.wait_for_readings(serial, 1)
    gets = installation.fleet.counters(serial).gets
    page.save("DLMS", one(installation))
    installation.wait_for_readings(serial, 2)
    page.save("DLMS", one(installation), log_level="DEBUG")
    installation.wait_for_readings(serial, 2)
    # scalers came from the state file: no single GET and no further list of scalers
    assert installation.fleet.counters(serial).gets == gets
    assert_one_at_a_time(installation)


def test_disable_enable_and_delete(installation: Installation, page: GatewayPage) -> None:
    serial = installation.fleet.serials[0]
    page.save("DLMS", one(installation))
    installation.wait_for_readings(serial, 1)
    page.disable("DLMS")
    assert_quiet(installation, serial)
    page.enable("DLMS")
    installation.wait_for_readings(serial, 1)
    page.delete("DLMS")
    assert_quiet(installation, serial)
    assert_one_at_a_time(installation)


def test_rename(installation: Installation, page: GatewayPage) -> None:
    serial = installation.fleet.serials[0]
    page.save("DLMS", one(installation))
    installation.wait_for_readings(serial, 1)
    page.rename("DLMS", "Meters of the north", one(installation))
    installation.wait_for_readings(serial, 3)
    assert_one_at_a_time(installation)


def test_wrong_values_stop_the_device_and_are_told(installation: Installation, page: GatewayPage) -> None:
    gateway = installation.gateways[0]
    first, second, _ = installation.fleet.serials
    page.save("DLMS", {"devices": [*one(installation, 0)["devices"], *one(installation, 1)["devices"]]})
    installation.wait_for_readings(first, 1)
    installation.wait_for_readings(second, 1)
    wrong = one(installation, 0, pollPeriod="often")["devices"]
    page.save("DLMS", {"devices": [*wrong, *one(installation, 1)["devices"]]})
    installation.wait_for_readings(second, 2)
    assert_quiet(installation, first)
    assert "$.devices[0].pollPeriod" in gateway.log_text()
    page.save("DLMS", {"devices": "none of them"})
    assert gateway.wait_for_log("$.devices:", EFFECT_S)
    assert_quiet(installation, second)
    assert gateway.is_running
    page.save("DLMS", one(installation, 0))
    installation.wait_for_readings(first, 1)
    assert_one_at_a_time(installation)


def test_a_change_made_while_the_gateway_was_offline(installation: Installation, page: GatewayPage) -> None:
    first, second, _ = installation.fleet.serials
    gateway = installation.gateways[0]
    page.save("DLMS", one(installation, 0))
    installation.wait_for_readings(first, 1)
    gateway.stop()
    page.save("DLMS", one(installation, 1))
    gateway.start()
    installation.wait_for_readings(second, 1)
    assert_quiet(installation, first)


def resources(gateway: GatewayProcess) -> tuple[int, int]:
    assert gateway.process is not None
    process = psutil.Process(gateway.process.pid)
    return process.num_threads(), process.num_fds()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_pushes_leave_no_thread_and_no_descriptor(
    installation: Installation, page: GatewayPage
) -> None:
    serial = installation.fleet.serials[0]
    gateway = installation.gateways[0]
    for number in range(3):
        page.save("DLMS", one(installation, pollPeriod=1000 + number))
        installation.wait_for_readings(serial, 1)
    before = resources(gateway)
    for number in range(100):
        page.save("DLMS", one(installation, pollPeriod=1000 + number))
        if number % 10 == 9:
            installation.wait_for_readings(serial, 1)
    installation.wait_for_readings(serial, 2)
    threads, descriptors = resources(gateway)
    assert threads <= before[0] + 1
    assert descriptors <= before[1] + 2
    assert_one_at_a_time(installation)
