"""gurux_dlms' client, which shares nothing with this project, reads the simulated meter on every link."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from gurux_dlms.enums import Authentication
from gurux_dlms.objects import (
    GXDLMSClock,
    GXDLMSDisconnectControl,
    GXDLMSProfileGeneric,
    GXDLMSRegister,
    GXDLMSScriptTable,
)

from dlms_connector.cosem.values import DataType, TypedValue
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from dlms_connector.simulator.meter import MeterSettings, Quirks
from dlms_connector.simulator.profiles import event_code
from dlms_connector.simulator.quantities import QUANTITIES, raw_value, scaled_value, seed_of
from tests.support.gurux_client import GuruxClient, GuruxRefused
from tests.support.gurux_security import gurux_security
from tests.support.simulated import LINKS, SERIAL, clients, line_settings, one_meter, secured_client

DAY_S = 86_400
PASSWORD = b"12345678"
Reader = Callable[..., GuruxClient]


def reader(fleet: SimulatedFleet, link: str = "wrapper", serial: str = SERIAL, **options: Any) -> GuruxClient:
    path = fleet.path(serial) if link == "serial" else ""
    framing = "wrapper" if link == "wrapper" else "hdlc"
    return GuruxClient(fleet.port(serial), path=path, framing=framing, **options)


@pytest.mark.parametrize(
    ("link", "address_size"),
    [("wrapper", 0), *((link, size) for link in LINKS if link != "wrapper" for size in (0, 2, 4))],
)
def test_every_quantity_over_every_link(link: str, address_size: int) -> None:
    with one_meter(link, slot_s=DAY_S) as fleet, reader(fleet, link, address_size=address_size) as client:
        at_s = int(time.time())
        assert bytes(client.read_text("1.0.0.0.0.255")) == SERIAL.encode()
        assert client.read_text("0.0.96.1.0.255") == SERIAL
        for key, quantity in QUANTITIES.items():
            if key in ("max_demand", "average_demand"):
                continue
            for b in (0, 1):
                value, unit = client.read_register(f"1.{b}.{quantity.c}.{quantity.d}.{quantity.e}.255")
                assert value == pytest.approx(scaled_value(SERIAL, key, at_s, DAY_S), abs=1e-6), key
                assert unit == quantity.unit


@pytest.mark.parametrize("link", LINKS)
def test_lists_blocks_and_segments(link: str) -> None:
    """PDUs of 128 bytes in frames of 32: the object list takes blocks, and each block segments."""
    settings = {"max_pdu_bytes": 128, "max_information_bytes": 32, "slot_s": DAY_S}
    with one_meter(link, **settings) as fleet:
        with reader(fleet, link, max_information_bytes=32) as client:
            items = [(GXDLMSRegister(f"1.0.{code}.7.0.255"), 2) for code in range(31, 53)]
            wanted = [item for item in items if not 34 <= int(item[0].logicalName.split(".")[2]) <= 50]
            values = client.read_list(wanted[:3])
            at_s = int(time.time())
            keys = ["current_l1", "voltage_l1", "power_factor_l1"]
            assert values == [raw_value(SERIAL, key, at_s, DAY_S) for key in keys]
            assert len(client.objects()) > 100
        counters = fleet.counters(SERIAL)
        assert counters.get_blocks > 30
        assert (counters.associations_open, counters.retransmissions) == (0, 0)


@pytest.mark.parametrize("link", ["wrapper", "hdlc"])
def test_low_level_security(link: str) -> None:
    with one_meter(link) as fleet:
        options = {"client": 1, "authentication": Authentication.LOW}
        with reader(fleet, link, password=PASSWORD, **options) as client:
            assert client.read_text("0.0.96.1.0.255") == SERIAL
        with pytest.raises(Exception, match=r"(?i)authentication|rejected"):
            reader(fleet, link, password=b"00000000", **options).open()
        assert fleet.counters(SERIAL).associations_refused == 1


def test_clock_is_read_and_set() -> None:
    low = {"client": 1, "authentication": Authentication.LOW, "password": PASSWORD}
    with one_meter() as fleet, reader(fleet, **low) as client:
        clock = GXDLMSClock("0.0.1.0.0.255")
        assert abs(client.read(clock, 2).value.timestamp() - time.time()) < 5
        clock.time = datetime.now(timezone.utc) + timedelta(hours=1)
        client.write(clock, 2)
        assert abs(client.read(clock, 2).value.timestamp() - time.time() - 3600) < 5


def test_relay_and_script_by_action() -> None:
    with one_meter() as fleet:
        with reader(fleet, client=1, authentication=Authentication.LOW, password=PASSWORD) as client:
            relay = GXDLMSDisconnectControl("0.0.96.3.10.255")
            assert client.read(relay, 2) is True
            client.execute(relay.remoteDisconnect(client.client))
            assert client.read(relay, 2) is False
            client.execute(relay.remoteReconnect(client.client))
            assert client.read(relay, 2) is True
            scripts = GXDLMSScriptTable("0.0.10.0.100.255")
            client.execute(client.client.method(scripts, 1, 2, DataType.UINT16))
            assert fleet.device(SERIAL).controls.scripts_executed == [2]
        with reader(fleet) as public, pytest.raises(GuruxRefused):
            public.execute(relay.remoteDisconnect(public.client))


def profile_of(client: GuruxClient, obis: str) -> GXDLMSProfileGeneric:
    profile = GXDLMSProfileGeneric(obis)
    client.read(profile, 3)
    return profile


def row_values(profile_period_s: int, moment_s: int) -> list[int]:
    keys = ("active_energy", "active_energy_export", "reactive_energy", "reactive_energy_export")
    return [raw_value(SERIAL, key, moment_s) for key in keys]


@pytest.mark.parametrize("link", LINKS)
def test_load_profile_by_range_and_by_entry(link: str) -> None:
    with one_meter(link, max_pdu_bytes=400) as fleet, reader(fleet, link) as client:
        profile = profile_of(client, "1.0.99.1.0.255")
        assert client.read(profile, 4) == 900
        assert client.read(profile, 7) == 3_000
        newest_s = int(time.time()) // 900 * 900
        start = datetime.fromtimestamp(newest_s - 3 * 3600, timezone.utc)
        end = datetime.fromtimestamp(newest_s - 3600, timezone.utc)
        rows = client.read_rows_by_range(profile, start, end)
        assert [row[0].value.timestamp() for row in rows] == list(
            range(newest_s - 10_800, newest_s - 3_599, 900)
        )
        for row in rows:
            assert row[2:] == row_values(900, int(row[0].value.timestamp()))
        rows = client.read_rows_by_entry(profile, 2_999, 2)
        moments = [row[0].value.timestamp() for row in rows]
        assert moments[-1] >= newest_s
        assert moments[1] - moments[0] == 900


def test_event_log() -> None:
    with one_meter() as fleet, reader(fleet) as client:
        rows = client.read_rows_by_entry(profile_of(client, "0.0.99.98.0.255"), 1, 100)
        assert len(rows) == 100
        for moment, code in rows:
            assert code == event_code(seed_of(SERIAL), int(moment.value.timestamp()))


def test_whole_profile_with_null_columns_and_null_times() -> None:
    options = {"profile_rows": 10, "profile_null_column_every": 3, "profile_null_timestamps": True}
    with one_meter(**options) as fleet, reader(fleet) as client:
        rows = client.read_raw("1.0.99.1.0.255", 7)
        assert len(rows) == 10
        assert [row[0] is None for row in rows] == [False] + [True] * 9
        nulls = [row[2] is None for row in rows]
        assert 3 <= sum(nulls) <= 4


@pytest.mark.parametrize(
    ("mechanism", "authentication"),
    [
        (2, Authentication.HIGH),
        (3, Authentication.HIGH_MD5),
        (4, Authentication.HIGH_SHA1),
        (5, Authentication.HIGH_GMAC),
        (6, Authentication.HIGH_SHA256),
    ],
)
def test_high_level_security_in_both_directions(mechanism: int, authentication: Authentication) -> None:
    secret = b"" if mechanism == 5 else b"0123456789ABCDEF"
    made = secured_client(mechanism, policy=0, secret=secret)
    with one_meter("hdlc", clients=clients(made)) as fleet:
        options = {"client": 1, "authentication": authentication, "security": gurux_security(policy=0)}
        with reader(fleet, "hdlc", password=secret or None, **options) as client:
            assert client.read_text("0.0.96.1.0.255") == SERIAL
        assert fleet.counters(SERIAL).associations_opened == 1
        if mechanism != 5:
            with pytest.raises(GuruxRefused):
                reader(fleet, "hdlc", password=b"0123456789ABCDEX", **options).open()


@pytest.mark.parametrize("suite", [0, 1, 2])
@pytest.mark.parametrize("policy", [0x10, 0x20, 0x30])
@pytest.mark.parametrize("style", ["glo", "general-glo", "ded", "general-ded"])
def test_ciphering_in_every_style(suite: int, policy: int, style: str) -> None:
    made = secured_client(5, policy=policy, suite=suite)
    with one_meter(clients=clients(made), max_pdu_bytes=400, slot_s=DAY_S) as fleet:
        security = gurux_security(policy=policy, suite=suite, style=style)
        with reader(fleet, client=1, authentication=Authentication.HIGH_GMAC, security=security) as client:
            at_s = int(time.time())
            assert client.read_raw("1.0.1.8.0.255") == raw_value(SERIAL, "active_energy", at_s, DAY_S)
            assert bytes(client.read_raw("0.0.128.0.17.255", 1)) == bytes(range(256)) * 8
        assert fleet.counters(SERIAL).get_blocks >= 5
        assert fleet.counters(SERIAL).replays == 0


def test_counter_is_read_publicly_and_a_used_one_is_refused() -> None:
    with one_meter(clients=clients(secured_client(5)), initial_client_counter=1000) as fleet:
        with reader(fleet) as public:
            assert public.read_text("0.0.43.1.0.255") == 1000
        options = {"client": 1, "authentication": Authentication.HIGH_GMAC}
        with pytest.raises(Exception, match=r"(?i)authentication|rejected"):
            reader(fleet, security=gurux_security(counter=1000), **options).open()
        with reader(fleet, security=gurux_security(counter=1001), **options):
            pass
        with reader(fleet) as public:
            assert public.read_text("0.0.43.1.0.255") > 1001
        with pytest.raises(Exception, match=r"(?i)authentication|rejected"):
            reader(fleet, security=gurux_security(counter=1001), **options).open()
        assert fleet.counters(SERIAL).replays == 2


def test_several_meters_behind_one_line() -> None:
    meters = [MeterSettings(f"{number:08d}", physical_address=16 + number) for number in range(1, 6)]
    for link in ("hdlc", "serial"):
        with SimulatedFleet(FleetSettings((line_settings(link, *meters),))) as fleet:
            for meter in meters:
                options = {"physical": meter.physical_address, "address_size": 4}
                with reader(fleet, link, meter.serial, **options) as client:
                    assert client.read_text("0.0.96.1.0.255") == meter.serial
            assert fleet.totals().meters.associations_opened == 5


def test_notifications_between_answers_and_extra_bytes_are_sent() -> None:
    with one_meter("wrapper", quirks=Quirks(notify_between=True)) as fleet, reader(fleet) as client:
        assert client.read_text("0.0.96.1.0.255") == SERIAL


def test_overridden_and_refused_objects() -> None:
    with one_meter() as fleet, reader(fleet) as client:
        fleet.override(SERIAL, 3, "1-0:32.7.0", 2, TypedValue(DataType.UINT32, 0x7E7E7E7E))
        assert client.read_raw("1.0.32.7.0.255") == 0x7E7E7E7E
        fleet.refuse(SERIAL, 3, "1-0:32.7.0", 2, 3)
        with pytest.raises(GuruxRefused, match="3"):
            client.read_raw("1.0.32.7.0.255")
        with pytest.raises(GuruxRefused, match="4"):
            client.read_raw("1.0.199.7.0.255")
        fleet.heal(SERIAL)
        assert client.read_raw("1.0.32.7.0.255") < 30_000
