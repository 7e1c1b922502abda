import json

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.config.template_library import BUILT_IN_DIRECTORY, TemplateLibrary
from dlms_connector.config.transport import SerialTransport

BUILT_IN = ["dsmr", "generic-single-phase", "generic-three-phase", "idis", "is15959", "microstar"]


def device(**more):
    return {"deviceName": "m", "transport": {"type": "tcp", "host": "h"}, **more}


def load_one(entry, **top):
    configuration = load_document({**top, "devices": [entry]})
    assert configuration.problems == ()
    return configuration.devices[0]


def problem_of(document, **arguments):
    (problem,) = load_document(document, **arguments).errors
    return problem


def test_the_package_brings_six_templates():
    assert TemplateLibrary().names() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_each_template_is_sound_and_says_what_is_not_verified(name):
    secrets = {
        "microstar": {"password": "${env:P}"},
        "is15959": {"password": "${env:P}"},
        "idis": {"security": {"encryptionKey": "${env:E}", "authenticationKey": "${env:A}"}},
        "dsmr": {"security": {"encryptionKey": "${env:E}", "authenticationKey": "${env:A}"}},
    }
    names = list(TemplateLibrary().get(name).device.get("objects", {}))
    load_one(device(template=name, client=secrets.get(name, {}), timeseries=names))
    settings = load_one(device(template=name, client=secrets.get(name, {})))
    assert settings.timeseries
    template = TemplateLibrary().get(name)
    assert template.name == name
    assert template.source
    assert template.not_verified
    assert (BUILT_IN_DIRECTORY / f"{name}.json").read_bytes().endswith(b"}\n")


def test_microstar_is_the_unit_in_the_field():
    settings = load_one(
        {
            "deviceName": "m",
            "template": "microstar",
            "transport": {"host": "192.168.1.127"},
            "client": {"password": "${env:P}"},
        }
    )
    transport = settings.transport
    assert (transport.port, transport.framing) == (3333, "hdlc")
    assert (transport.server_logical_address, transport.server_physical_address) == (0, 1)
    assert transport.address_size == 1
    assert (settings.client.address, settings.client.authentication) == (1, "low")
    assert settings.timeout_ms == 7000
    codes = {entry.key: (str(entry.obis), entry.class_id) for entry in settings.timeseries}
    assert codes["voltage_l1"] == ("1-1:32.7.0", 3)
    assert codes["active_energy"] == ("1-1:1.8.0", 3)
    serial = settings.attributes[0]
    assert (str(serial.obis), serial.class_id, serial.type) == ("1-0:0.0.0", 1, "text")


def test_a_template_s_class_rule_holds_for_codes_that_it_does_not_name():
    settings = load_one(
        device(
            template="microstar",
            client={"password": "${env:P}"},
            timeseries=[
                {"key": "demand", "obis": "1-1:1.6.0"},
                {"key": "serial", "obis": "1.0.0.0.0.255"},
                {"key": "own", "obis": "1-1:1.6.0", "class": 4},
                "clock",
            ],
        )
    )
    assert [entry.class_id for entry in settings.timeseries] == [3, 1, 4, 3]
    assert settings.class_of(settings.timeseries[1].obis) == 1
    assert load_one(device(timeseries=["clock"])).timeseries[0].class_id == 8


def test_a_serial_device_takes_from_a_tcp_template_what_both_have():
    settings = load_one(
        device(
            template="microstar",
            transport={"type": "serial", "port": "/dev/ttyUSB0"},
            client={"password": "${env:P}"},
        )
    )
    assert isinstance(settings.transport, SerialTransport)
    assert settings.transport.port == "/dev/ttyUSB0"
    assert settings.transport.server_physical_address == 1
    assert settings.transport.inter_frame_delay_ms == 30


def test_objects_merge_over_template_and_catalogue_and_own_keys_win():
    settings = load_one(
        device(
            template="microstar",
            client={"password": "${env:P}"},
            objects={"voltage_l1": {"multiplier": 2}, "valve": "0-1:24.2.1"},
            timeseries=["voltage_l1", {"key": "v1", "object": "voltage_l1", "round": 1}, "valve"],
        )
    )
    assert [(e.key, str(e.obis), e.multiplier) for e in settings.timeseries[:2]] == [
        ("voltage_l1", "1-1:32.7.0", 2),
        ("v1", "1-1:32.7.0", 2),
    ]
    assert settings.timeseries[1].round == 1
    assert str(settings.timeseries[2].obis) == "0-1:24.2.1"


def test_lists_replace_and_a_template_in_the_defaults_stands_below_them():
    defaults = {"template": "microstar", "timeout": 9000, "client": {"password": "${env:P}"}}
    settings = load_one(device(timeseries=["frequency"]), defaults=defaults)
    assert [entry.key for entry in settings.timeseries] == ["frequency"]
    assert settings.timeout_ms == 9000
    named = load_one(
        device(template="microstar"), defaults={"timeout": 9000, "client": {"password": "${env:P}"}}
    )
    assert named.timeout_ms == 7000


def test_an_unknown_template_is_told_with_the_nearest_name():
    problem = problem_of({"devices": [device(template="mikrostar")]})
    assert problem.path == "$.devices[0].template"
    assert 'did you mean "microstar"?' in problem.hint
    problem = problem_of({"defaults": {"template": "Idis"}, "devices": [device(), device(deviceName="n")]})
    assert (problem.path, problem.device) == ("$.defaults.template", None)


@pytest.fixture
def own_templates(tmp_path):
    (tmp_path / "templates").mkdir()

    def write(file, **content):
        (tmp_path / "templates" / f"{file}.json").write_text(json.dumps(content))

    write("mine", name="mine", inherits="microstar", device={"pollPeriod": "2s"})
    write("a", inherits="b", device={})
    write("b", inherits="a", device={})
    write("faulty", device={"timeout": "soon"})
    write("typo", inhertis="microstar", device={})
    (tmp_path / "templates" / "broken.json").write_text("{")
    return tmp_path


def test_own_templates_stand_beside_the_configuration(own_templates):
    entry = device(template="mine", client={"password": "${env:P}"})
    configuration = load_document({"devices": [entry]}, base_directory=own_templates)
    assert configuration.problems == ()
    assert configuration.devices[0].poll_period_ms == 2000
    assert configuration.devices[0].transport.port == 3333


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a", "circle: a > b > a"),
        ("broken", "not JSON at broken.json:1:2"),
        ("typo", 'unknown key "inhertis"'),
    ],
)
def test_a_template_that_cannot_be_used_is_told_where_it_is_named(own_templates, name, words):
    problem = problem_of({"devices": [device(template=name)]}, base_directory=own_templates)
    assert problem.path == "$.devices[0].template"
    assert words in problem.message


def test_a_fault_inside_a_template_is_told_in_the_template(own_templates):
    problem = problem_of({"devices": [device(template="faulty")]}, base_directory=own_templates)
    assert problem.path == "template faulty: $.device.timeout"
    assert problem.device is None
