"""Object lists of honest and odd meters, against the simulator."""

from contextlib import contextmanager

import pytest

from dlms_connector.cli.meter_access import ChosenMeter, open_meter
from dlms_connector.config.loader import load_document
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import DataType, TypedValue, array, encode, structure
from dlms_connector.errors import DecodeError, ObjectError
from dlms_connector.obis import Obis
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.survey.discovery import (
    FoundObject,
    device_entry,
    discover_summary,
    left_out_of_entry,
    object_list,
    read_values,
    template,
)
from dlms_connector.survey.probe import load_entry
from tests.meter.test_facts import Bench, scaler
from tests.support.fact_meter import FactMeter
from tests.support.simulated import SERIAL, one_meter

ASSOCIATION = (15, "0.0.40.0.0.255")


@contextmanager
def opened(fleet, framing="wrapper"):
    transport = {"host": "127.0.0.1", "port": fleet.port(SERIAL), "framing": framing}
    device = load_entry({"deviceName": "m", "timeout": 500, "transport": transport})
    with open_meter(ChosenMeter(device), lambda _: None) as session:
        yield session


def listed(*items):
    """An object list by hand, without access rights."""
    entries = [
        structure(
            TypedValue(DataType.UINT16, class_id),
            TypedValue(DataType.UINT8, 0),
            TypedValue(DataType.OCTET_STRING, Obis.parse(obis).to_bytes()),
        )
        for class_id, obis in items
    ]
    return array(entries)


def entry_of(obis, mode, class_id=3, version=0, attributes=(2, 3)):
    """One entry of an object list with the same access mode for some attributes."""
    rights = [
        structure(
            TypedValue(DataType.INT8, attribute),
            TypedValue(DataType.UINT8, mode),
            TypedValue(DataType.NULL, None),
        )
        for attribute in attributes
    ]
    return structure(
        TypedValue(DataType.UINT16, class_id),
        TypedValue(DataType.UINT8, version),
        TypedValue(DataType.OCTET_STRING, Obis.parse(obis).to_bytes()),
        structure(array(rights), array([])),
    )


def association_entry(version):
    return entry_of("0-0:40.0.0", 1, ASSOCIATION[0], version)


def override(fleet, value):
    fleet.override(SERIAL, 15, Obis(0, 0, 40, 0, 0), 2, value)


@pytest.mark.parametrize("max_pdu_bytes", [128, 65535])
def test_the_list_is_the_meters_whatever_the_pdu(max_pdu_bytes):
    with one_meter(max_pdu_bytes=max_pdu_bytes) as fleet, opened(fleet) as session:
        objects = object_list(session)
        known = fleet.call(lambda: len(fleet.device(SERIAL).model.object_list()))
    assert known > 0
    names = {found.name for found in objects}
    assert {"voltage_l1", "active_energy", "clock", "serialNumber"} <= names
    assert all(found.may_read(2) for found in objects if found.class_id == 3)


def test_a_refused_object_is_told_and_stays_out_of_the_entry():
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, listed((3, "1-0:32.7.0"), (3, "1-0:52.7.0")))
        fleet.refuse(SERIAL, 3, Obis(1, 0, 52, 7, 0), 2, 3)
        objects = object_list(session)
        read_values(session, objects)
        entry = device_entry(session.device, objects)
    assert objects[0].unit == "V"
    assert "read write denied" in objects[1].error
    assert [each["key"] for each in entry["timeseries"]] == ["voltage_l1"]


def test_an_object_at_which_the_meter_hangs_up_costs_only_itself():
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, listed((3, "1-0:32.7.0"), (3, "1-0:52.7.0"), (3, "1-0:72.7.0")))
        objects = object_list(session)
        fleet.inject(SERIAL, Fault(FaultKind.CLOSE, Stage.GET_LIST))
        done = []
        read_values(session, objects, done.append)
    assert [found.unit for found in objects] == ["V", "V", "V"]
    assert done[-1] == 3


@pytest.mark.parametrize(
    ("claimed", "tail", "note"),
    [
        (2, b"", ""),
        (3, b"", "3 elements, 2 could be read; 0 bytes left"),
        (3, b"\x02\x04\x12", "3 elements, 2 could be read; 3 bytes left"),
        (0, b"", "0 elements, 2 could be read; 0 bytes left"),
        (2, b"\x63\x63", "2 elements, 2 could be read; 2 bytes left"),
    ],
)
def test_a_list_that_is_miscounted_gives_its_objects_and_a_note(claimed, tail, note):
    sound = encode(listed((3, "1-0:32.7.0"), (3, "1-0:52.7.0")))
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, bytes((1, claimed)) + sound[2:] + tail)
        notes = []
        objects = object_list(session, notes.append)
        read_values(session, objects)
        summary = discover_summary(session)
        assert session.is_open
    assert [found.unit for found in objects] == ["V", "V"]
    assert len(notes) == bool(note)
    assert note in "".join(notes)
    assert summary.get("notes", []) == notes


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_right_that_is_none_is_tried_last_and_told(version):
    with one_meter() as fleet, opened(fleet) as session:
        items = [entry_of("1-0:32.7.0", 0), entry_of("1-0:52.7.0", 2), entry_of("1-0:72.7.0", 1)]
        override(fleet, array([association_entry(version), *items]))
        fleet.refuse(SERIAL, 3, Obis(1, 0, 52, 7, 0), 2, 3)
        objects = object_list(session)
        read_values(session, objects)
        entry = device_entry(session.device, objects)
    assert [found.may_read(2) for found in objects] == [True, False, False, True]
    assert [found.unit for found in objects] == ["", "V", "", "V"]
    assert objects[1].error == objects[3].error == ""
    assert objects[2].error.startswith("the list gives no right to read it; tried: ")
    assert "read write denied" in objects[2].error
    assert [each["key"] for each in entry["timeseries"]] == ["voltage_l1", "voltage_l3"]


def test_what_hangs_up_without_a_right_costs_nothing_else():
    denied = ["1-0:32.7.0", "1-0:52.7.0", "1-0:31.7.0", "1-0:51.7.0", "1-0:71.7.0"]
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, array([entry_of("1-0:72.7.0", 1), *(entry_of(obis, 0) for obis in denied)]))
        objects = object_list(session)
        fleet.inject(SERIAL, Fault(FaultKind.CLOSE, Stage.GET, count=None, skip=2))
        done = []
        read_values(session, objects, done.append)
    assert objects[0].unit == "V"
    assert all("no right to read it; tried: " in found.error for found in objects[1:5])
    assert "not tried" in objects[5].error
    assert done[-1] == len(objects)


@pytest.mark.parametrize("listed_version", [3, 4, None])
def test_rights_of_association_version_3_are_bits(listed_version):
    """6D: read, authenticated and encrypted both ways; 6C the same without the right to read."""
    items = [entry_of("1-0:32.7.0", 0x6D), entry_of("1-0:52.7.0", 0x6C), entry_of("1-0:72.7.0", 0x05)]
    head = [] if listed_version is None else [association_entry(listed_version)]
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, array([*head, *items]))
        objects = object_list(session)[len(head) :]
        assert [found.may_read(2) for found in objects] == [True, False, True]
        entry = device_entry(session.device, objects)
        assert [each["key"] for each in entry["timeseries"]] == ["voltage_l1", "voltage_l3"]
        read_values(session, objects)
        assert [found.unit for found in objects] == ["V", "V", "V"]


@pytest.mark.parametrize("version", [0, 1, 2, 3])
@pytest.mark.parametrize("mode", range(7))
def test_small_modes_are_read_by_the_version(version, mode):
    with one_meter() as fleet, opened(fleet) as session:
        override(fleet, array([association_entry(version), entry_of("1-0:32.7.0", mode)]))
        (_, found) = object_list(session)
    expected = mode in (1, 3, 5) if version == 3 else mode in (1, 3, 4, 6)
    assert found.may_read(2) is expected


def test_the_version_is_that_of_our_own_association():
    with one_meter() as fleet, opened(fleet) as session:
        other = entry_of("0-0:40.0.2", 1, 15, 3)
        override(fleet, array([other, association_entry(2), entry_of("1-0:32.7.0", 4)]))
        assert object_list(session)[2].may_read(2)
        override(fleet, array([other, entry_of("1-0:32.7.0", 4)]))
        assert not object_list(session)[1].may_read(2)


def test_odd_entries_of_the_list_are_passed_over():
    with one_meter() as fleet, opened(fleet) as session:
        good = listed((3, "1-0:32.7.0")).value
        odd = [TypedValue(DataType.UINT8, 1), structure(TypedValue(DataType.UINT8, 1))]
        override(fleet, array([*odd, *good]))
        notes = []
        assert [str(found.obis) for found in object_list(session, notes.append)] == ["1-0:32.7.0"]
        assert notes == ["object list: 2 of 3 entries are no objects, passed over"]
        override(fleet, TypedValue(DataType.UINT8, 1))
        with pytest.raises(DecodeError):
            object_list(session)


def test_an_unreadable_list_is_the_objects_fault_and_keeps_the_association():
    with one_meter() as fleet, opened(fleet) as session:
        fleet.refuse(SERIAL, 15, Obis(0, 0, 40, 0, 0), 2, 3)
        with pytest.raises(ObjectError):
            object_list(session)
        assert session.is_open


def test_the_summary_fits_an_rpc():
    with one_meter() as fleet, opened(fleet) as session:
        summary = discover_summary(session)
    assert summary["count"] > 100
    assert len(summary["objects"]) <= 200


FOUND = [
    FoundObject(3, 0, Obis(1, 1, 32, 7, 0), name="voltage_l1", value=231),
    FoundObject(3, 0, Obis(1, 0, 32, 7, 0), name="voltage_l1", value=230),
    FoundObject(4, 0, Obis(1, 0, 32, 7, 0), name="voltage_l1", value=230),
    FoundObject(3, 0, Obis(1, 0, 1, 8, 0, 101), value=5),
    FoundObject(3, 0, Obis(0, 0, 96, 1, 9), value="00123"),
    FoundObject(1, 0, Obis(0, 0, 96, 1, 0), name="serialNumber", value="00001"),
    FoundObject(3, 0, Obis(1, 0, 2, 8, 0), access={2: 0}),
    FoundObject(7, 1, Obis(1, 0, 99, 1, 0)),
    FoundObject(15, 1, Obis(0, 0, 40, 0, 0)),
]


def test_the_entry_has_unique_keys_and_no_history():
    device = load_entry({"deviceName": "m", "transport": {"host": "h", "port": 1}})
    entry = device_entry(device, FOUND)
    keys = [each["key"] for each in entry["timeseries"]]
    assert len(keys) == len(set(keys)) == 4
    assert {"key": "voltage_l1", "obis": "1-0:32.7.0"} in entry["timeseries"]
    assert {"key": "0-0:96.1.9", "obis": "0-0:96.1.9", "class": 3, "type": "text"} in entry["timeseries"]
    assert entry["attributes"] == [{"key": "serialNumber", "obis": "0-0:96.1.0", "type": "text"}]
    configuration = load_document({"devices": [entry]})
    assert configuration.problems == ()


def test_a_template_leaves_out_what_is_one_units_own():
    security = {"encryptionKey": "${env:EK}", "authenticationKey": "${env:AK}", "serverSystemTitle": "00" * 8}
    device = load_entry(
        {
            "deviceName": "m",
            "transport": {"host": "h", "port": 1},
            "client": {"authentication": "gmac", "security": security},
        }
    )
    content = template("t", device, FOUND)["device"]
    assert "host" not in content["transport"]
    assert not {"encryptionKey", "authenticationKey", "serverSystemTitle"} & set(
        content["client"]["security"]
    )


@pytest.mark.parametrize("why", ["held", "NaN", "null"])
def test_an_object_without_a_value_now_says_why_and_stays_in_the_entry(why):
    first, second = Obis(1, 0, 32, 7, 0), Obis(1, 0, 52, 7, 0)
    values = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in (first, second)}
    values |= {AttributeRef(3, obis, 3): scaler(-1) for obis in (first, second)}
    values[AttributeRef(3, first, 2)] = {"NaN": bytes.fromhex("177fc00000"), "null": b"\x00"}.get(
        why, b"\x12\x09\x0c"
    )
    refused = AttributeRef(3, first, 3) if why == "held" else None
    bench = Bench(FactMeter(values, refuse=lambda ref: 2 if ref == refused else 0))
    bench.session.open()
    objects = [FoundObject(3, 0, first), FoundObject(3, 0, second)]
    read_values(bench.session, objects)
    assert {"held": "scaler", "NaN": "no finite number", "null": "null"}[why] in objects[0].error
    assert (objects[1].value, objects[1].error) == (231.6, "")
    assert len(device_entry(bench.session.device, objects)["timeseries"]) == 2
    assert left_out_of_entry(objects) == ""


def test_what_an_entry_leaves_out_without_a_right_is_told():
    readable, denied = Obis(1, 0, 32, 7, 0), Obis(1, 0, 52, 7, 0)
    objects = [FoundObject(3, 0, readable, {2: 1}), FoundObject(3, 0, denied, {2: 0})]
    assert str(denied) in left_out_of_entry(objects)
    assert str(readable) not in left_out_of_entry(objects)
