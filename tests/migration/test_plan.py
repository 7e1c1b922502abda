import json

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.migration.bridge_db import read_bridge
from dlms_connector.migration.identity import FoundDevice, Identities
from dlms_connector.migration.plan import READ_BY_BRIDGE, plan_meters
from tests.support.bridge_database import VARIANTS, make_bridge, meter, row

TRUST = Identities(trust_names=True)


@pytest.fixture
def plans(tmp_path):
    def make(meters, rows, identities=TRUST, variant="full"):
        bridge = read_bridge(make_bridge(tmp_path / "admin.db", meters, rows, variant))
        return plan_meters(bridge, identities)

    return make


def found(**devices):
    return Identities({int(number[1:]): FoundDevice(name, "Meter") for number, name in devices.items()})


def test_a_meter_becomes_what_the_bridge_really_sends(plans):
    rows = [row(n, 1, name, str(obis)) for n, (name, obis) in enumerate(READ_BY_BRIDGE.items(), 1)]
    (plan,) = plans([meter(1)], rows, found(m1="medidor_1"))
    assert (plan.fate, plan.warnings, plan.reasons) == ("ready", (), ())
    configuration = load_document({"devices": [plan.entry]})
    assert configuration.problems == ()
    (device,) = configuration.devices
    assert (device.device_name, device.device_type, device.template) == ("medidor_1", "Meter", "microstar")
    transport = device.transport
    assert (transport.host, transport.port, transport.framing) == ("192.168.1.127", 3333, "hdlc")
    assert (transport.server_logical_address, transport.server_physical_address) == (0, 1)
    assert transport.address_size == 1
    assert (device.client.address, device.client.authentication) == (1, "low")
    assert str(device.client.password) == "${env:DLMS_LLS_PASSWORD}"
    assert device.timeout_ms == 7000
    assert {entry.key: entry.obis for entry in device.timeseries} == dict(READ_BY_BRIDGE)
    assert (device.poll_period_ms, {entry.poll_period_ms for entry in device.timeseries}) == (5000, {None})
    assert {(entry.scaler, entry.multiplier) for entry in device.timeseries} == {("auto", None)}
    assert device.static_attributes == {
        "model": "Microstar P2000-T",
        "serial_number": "00123456",
        "firmware_version": "1.0",
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_can_be_planned(plans, variant):
    (plan,) = plans([meter(1)], [row(1, 1)], variant=variant)
    assert plan.fate == "ready"
    assert load_document({"devices": [plan.entry]}).errors == ()
    has_intervals = variant != "reduced"
    assert plan.entry["pollPeriod"] == (5000 if has_intervals else 1000)


def test_null_everywhere_is_skipped_and_told(plans):
    (plan,) = plans([{"id": 1}], [{"id": 1, "meter_id": 1}], variant="nothing but NULL")
    assert plan.fate == "skipped"
    assert "does not poll it" in plan.reasons[0]


def test_null_where_the_bridge_has_defaults(plans):
    entry = meter(1, port=None, client_id=None, server_id=None, tb_device_name=None, model=None)
    (plan,) = plans([entry], [row(1, 1, sampling_interval=None)], found(m1="medidor_1"))
    assert (plan.fate, plan.port, plan.entry["pollPeriod"], plan.warnings) == ("ready", 3333, 1000, ())


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"client_id": 17}, "client_id 17 is ignored"),
        ({"server_id": 16}, "server_id 16 is ignored"),
        ({"rows": [row(1, 1), row(2, 1)]}, "row 2 repeats voltage_l1"),
        (
            {"rows": [row(1, 1), row(2, 1, "current_l1", "1-1:31.7.0", sampling_interval=9)]},
            "the first decides",
        ),
        (
            {"rows": [row(1, 1, "current_l1", "1.0.32.7.0.255")]},
            "the bridge reads 1-1:31.7.0, and so it stays",
        ),
        ({"rows": [row(1, 1, obis="32.7.0")]}, '"32.7.0" is no OBIS code; 1-1:32.7.0 is read'),
        ({"rows": [row(1, 1, tb_key="U1")]}, 'tb_key "U1" is ignored'),
        ({"rows": [row(1, 1), row(2, 1, "power_factor", "1-1:13.7.0")]}, "power_factor is left out"),
        ({"rows": [row(1, 1), row(2, 1, "voltaje_l1")]}, '"voltaje_l1" is left out'),
        ({"rows": [row(1, 1, sampling_interval=0)]}, "sampling interval 0 s cannot be kept"),
        ({"rows": [row(1, 1, sampling_interval=1e300)]}, "cannot be kept"),
    ],
)
def test_what_the_bridge_ignores_is_ignored_with_a_warning(plans, columns, words):
    rows = columns.pop("rows", [row(1, 1)])
    (plan,) = plans([meter(1, **columns)], rows)
    assert plan.fate == "ready"
    assert any(words in warning for warning in plan.warnings), plan.warnings
    assert load_document({"devices": [plan.entry]}).errors == ()


@pytest.mark.parametrize("obis", ["1-1:32.7.0", "1-1:32.7.0*255", "1.1.32.7.0.255", "1-1:32.7.0.255"])
def test_the_notations_of_one_code_are_no_difference(plans, obis):
    (plan,) = plans([meter(1)], [row(1, 1, obis=obis)])
    assert not any("database says" in warning for warning in plan.warnings)


def test_a_key_that_equals_the_name_is_no_difference(plans):
    (plan,) = plans([meter(1)], [row(1, 1, tb_key="voltage_l1")])
    assert not any("tb_key" in warning for warning in plan.warnings)


def test_the_row_with_the_lowest_id_decides_the_period(plans):
    rows = [row(9, 1, "current_l1", "1-1:31.7.0", sampling_interval=60), row(3, 1, sampling_interval=2.5)]
    (plan,) = plans([meter(1)], rows)
    assert plan.entry["pollPeriod"] == 2500


def test_disabled_rows_and_meters_without_rows(plans):
    first, second = plans([meter(1), meter(2)], [row(1, 1, enabled=0), row(2, 1, enabled=None)])
    assert (first.fate, second.fate) == ("skipped", "skipped")
    assert "reads nothing" in first.reasons[0]


def test_the_same_endpoint_twice_is_flagged_on_both(plans):
    first, second = plans([meter(1), meter(2, ip_address="192.168.1.127", port=None)], [row(1, 1), row(2, 2)])
    assert "also the endpoint of medidor_2" in first.warnings[-1]
    assert "also the endpoint of medidor_1" in second.warnings[-1]


@pytest.mark.parametrize("names", [{"tb_device_name": "other"}, {"name": "other"}])
def test_names_that_disagree_with_the_token_stop_the_meter(plans, names):
    (plan,) = plans([meter(1, **names)], [row(1, 1)], found(m1="medidor_1"))
    assert (plan.fate, plan.entry) == ("stopped", None)
    assert 'its token is that of "medidor_1"' in plan.reasons[0]


def test_the_mapping_confirms_a_name_and_cannot_contradict_the_token(plans):
    identities = Identities({1: FoundDevice("Medidor Norte")}, {1: "Medidor Norte"})
    (plan,) = plans([meter(1)], [row(1, 1)], identities)
    assert (plan.fate, plan.device_name) == ("ready", "Medidor Norte")


def test_a_mapping_that_contradicts_the_token_stops_the_meter(plans):
    identities = Identities({1: FoundDevice("Medidor Norte")}, {1: "Medidor Sur"})
    (plan,) = plans([meter(1)], [row(1, 1)], identities)
    assert plan.fate == "stopped"


@pytest.mark.parametrize(
    ("columns", "identities", "words"),
    [
        ({}, Identities({}), "no device of ThingsBoard has its token"),
        ({}, Identities(), "its device is not known"),
        ({"tb_token": None, "tb_port": 1884}, Identities(), "no token (port 1884)"),
        ({"tb_token": None}, Identities({}), "it has no token"),
    ],
)
def test_a_meter_of_unknown_identity_is_stopped(plans, columns, identities, words):
    (plan,) = plans([meter(1, **columns)], [row(1, 1)], identities)
    assert (plan.fate, plan.entry) == ("stopped", None)
    assert words in plan.reasons[0]


def test_two_meters_of_one_device_are_both_stopped(plans):
    both = plans([meter(1), meter(2)], [row(1, 1), row(2, 2)], Identities(by_operator={1: "x", 2: "x"}))
    assert [plan.fate for plan in both] == ["stopped", "stopped"]
    assert "also that of medidor_2" in both[0].reasons[0]


def test_meters_of_another_server_are_stopped(plans):
    meters = [
        meter(1),
        meter(2),
        meter(3, tb_host="demo.thingsboard.io"),
        meter(4, tb_host=None, tb_port=None),
    ]
    every = plans(meters, [row(n, n) for n in range(1, 5)])
    assert [plan.fate for plan in every] == ["ready", "ready", "stopped", "ready"]
    assert "a gateway has one server" in every[2].reasons[0]


def test_a_server_of_meters_that_are_not_polled_does_not_count(plans):
    every = plans([meter(1), meter(2, tb_host="old", tb_enabled=0)], [row(1, 1), row(2, 2)])
    assert [plan.fate for plan in every] == ["ready", "skipped"]


def test_no_token_is_in_any_plan(plans):
    every = plans(
        [meter(1), meter(2, tb_device_name="x")], [row(1, 1), row(2, 2)], found(m1="medidor_1", m2="y")
    )
    assert "CANARY" not in repr(every) + json.dumps([plan.entry for plan in every])
