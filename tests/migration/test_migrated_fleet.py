"""Meters of the bridge, migrated, read simulated units that behave as those in the field."""

import time
from contextlib import contextmanager

import pytest

from dlms_connector.config.loader import load_file
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import make_channel, make_line
from dlms_connector.meter.session import MeterSession
from dlms_connector.migration.bridge_db import read_bridge
from dlms_connector.migration.identity import Identities
from dlms_connector.migration.plan import READ_BY_BRIDGE, plan_meters
from dlms_connector.migration.waves import Waves
from dlms_connector.simulator.fleet import HDLC, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import ClientSettings, MeterSettings
from dlms_connector.simulator.quantities import scaled_value
from dlms_connector.state import StateStore
from tests.support.bridge_database import make_bridge, meter, row

SERIALS = ("00000001", "00000002", "00000003")
UNITS = {"voltage": "V", "current": "A", "frequency": "Hz", "active_power": "W", "active_energy": "Wh"}
FOREVER_S = 10**9


@pytest.fixture
def field():
    units = [
        MeterSettings(
            serial,
            clients=(ClientSettings(1, 1, b"12345678"),),
            logical_address=0,
            physical_address=1,
            address_size=1,
            exclusive=True,
            inactivity_timeout_s=1.0,
            slot_s=FOREVER_S,
        )
        for serial in SERIALS
    ]
    with SimulatedFleet(FleetSettings(tuple(LineSettings((unit,), framing=HDLC) for unit in units))) as fleet:
        yield fleet


@pytest.fixture
def devices(field, tmp_path, monkeypatch):
    monkeypatch.setenv("DLMS_LLS_PASSWORD", "12345678")
    meters = [
        meter(number, ip_address="127.0.0.1", port=field.port(serial))
        for number, serial in enumerate(SERIALS, 1)
    ]
    rows = [
        row(100 * number + index, number, name, "1.0.32.7.0.255")
        for number in range(1, 4)
        for index, name in enumerate(READ_BY_BRIDGE)
    ]
    bridge = read_bridge(make_bridge(tmp_path / "admin.db", meters, rows))
    Waves(tmp_path / "c.json").apply(plan_meters(bridge, Identities(trust_names=True)))
    configuration = load_file(tmp_path / "c.json")
    assert configuration.problems == ()
    return configuration.devices


@contextmanager
def session_of(device):
    state = StateStore(None)
    line = make_line(device.transport)
    interrupt = Interrupt()
    session = MeterSession(
        device, lambda client: make_channel(device, client, line, interrupt), state, on_event=lambda _: None
    )
    try:
        yield session
    finally:
        session.close(time.monotonic() + 2)
        line.drop_stream()
        state.close()


def read_all(session):
    session.open()
    batches = session.plan.due(session.plan.periods_s, time.monotonic())
    return {reading.key: reading for batch in batches for reading in session.read(batch)}


def test_every_meter_is_read_with_the_same_keys_units_and_values(field, devices):
    for device, serial in zip(devices, SERIALS, strict=True):
        with session_of(device) as session:
            readings = read_all(session)
        assert set(readings) == {*READ_BY_BRIDGE, "serialNumber"}
        assert readings["serialNumber"].value == serial
        for key in READ_BY_BRIDGE:
            assert float(readings[key].value) == scaled_value(serial, key, int(time.time()), FOREVER_S), key
            name = next(name for name in UNITS if key.startswith(name))
            assert readings[key].unit == UNITS[name], key


def test_a_unit_that_ended_the_association_by_itself_is_read_again(field, devices):
    unit = field.device(SERIALS[0])
    with session_of(devices[0]) as session:
        first = read_all(session)
        deadline = time.monotonic() + 20
        while unit.counters.associations_open and time.monotonic() < deadline:
            time.sleep(0.05)
        assert unit.counters.associations_open == 0, "the unit hangs up after its inactivity timeout"
    with session_of(devices[0]) as session:  # a new line: the poller would wait for reassociationDelay
        assert read_all(session).keys() == first.keys()
    assert unit.counters.associations_open_max == 1
