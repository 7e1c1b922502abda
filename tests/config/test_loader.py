import copy
import json
import time
from decimal import Decimal

import pytest

from dlms_connector.config.loader import load_document, load_file


def device(name="m", host="h", **more):
    return {
        "deviceName": name,
        "transport": {"type": "tcp", "host": host},
        "timeseries": ["frequency"],
        **more,
    }


def problems_of(document, **arguments):
    return load_document(document, **arguments).problems


def only_problem(document, **arguments):
    (problem,) = problems_of(document, **arguments)
    return problem


@pytest.mark.parametrize("document", [None, {}, {"devices": []}, {"devices": None, "defaults": {}}])
def test_an_empty_configuration_is_quiet(document):
    configuration = load_document(document)
    assert configuration.devices == ()
    assert configuration.problems == ()


def test_what_the_gateway_and_its_interface_put_there_is_accepted():
    document = {
        "id": "1b2c",
        "name": "DLMS",
        "type": "custom",
        "class": "DLMSConnector",
        "configuration": "dlms.json",
        "configVersion": None,
        "logLevel": "DEBUG",
        "enableRemoteLogging": True,
        "sendDataOnlyOnChange": False,
        "reportStrategy": {"type": "on_change_or_report_period", "reportPeriod": 60000},
        "mode": "basic",
        "ts": 1700000000000,
        "devices": [device()],
    }
    configuration = load_document(document)
    assert configuration.problems == ()
    assert configuration.connector.report_strategy.type == "ON_CHANGE_OR_REPORT_PERIOD"


FAULTS = [
    # what stands in the device entry, where it is told, words of the message, words of the hint
    ({"transport": {"type": "tcp"}}, "transport.host", "host is missing", "name or address"),
    ({"transport": {"port": 3333}}, "transport", '"type": "tcp"', ""),
    ({"transport": 5}, "transport", "found a number", ""),
    ({"transport": {"host": "h", "port": True}}, "transport.port", "whole number, found true or false", ""),
    ({"transport": {"host": "h", "port": 70000}}, "transport.port", "at most 65535", ""),
    ({"transport": {"host": "h", "Port": 1}}, "transport.Port", 'unknown key "Port"', '"port"'),
    ({"transport": {"host": "h", "framing": "HDLC"}}, "transport.framing", "'wrapper' or 'hdlc'", '"hdlc"'),
    ({"transport": {"type": "serial", "port": "p", "parity": "evn"}}, "transport.parity", "'even'", '"even"'),
    (
        {"transport": {"host": "h", "framing": "hdlc", "serverPhysicalAddress": 200, "addressSize": 2}},
        "transport",
        "serverPhysicalAddress 200 does not fit addressSize 2",
        "",
    ),
    (
        {
            "transport": {
                "host": "h",
                "framing": "hdlc",
                "serverPhysicalAddress": 1,
                "serverLogicalAddress": 1,
            }
        },
        "transport",
        "addressSize 1 has room for one of",
        "",
    ),
    ({"pollperiod": 5}, "pollperiod", "unknown key", 'did you mean "pollPeriod"?'),
    ({"poll_period": 5}, "poll_period", "unknown key", 'did you mean "pollPeriod"?'),
    ({"pollPeriod": "5 parsecs"}, "pollPeriod", "is not a duration", ""),
    ({"pollPeriod": 5.5}, "pollPeriod", "duration is a whole number", ""),
    ({"pollPeriod": 5}, "pollPeriod", "at least 100", "registers that name none"),
    ({"host": "h"}, "host", "unknown key", "belongs into transport"),
    ({"shard": {}}, "shard", "unknown key", "top level"),
    ({"client": {"authentication": "low"}}, "client", "needs a password", ""),
    ({"client": {"authentication": "gmac"}}, "client", "needs the section security", ""),
    ({"client": {"security": {"suite": 3}}}, "client.security.suite", "must be one of 0, 1 or 2", ""),
    ({"client": {"security": {}}}, "client", "needs security.encryptionKey", ""),
    ({"timeseries": ["voltage_L1"]}, "timeseries[0]", "no name of the catalogue", '"voltage_l1"'),
    ({"timeseries": [{"key": "x"}]}, "timeseries[0]", '"x" is no name', ""),
    ({"timeseries": "voltage_l1"}, "timeseries", "expected a list [...], found a text", ""),
    ({"timeseries": [5]}, "timeseries[0]", "expected an object {...}, found a number", ""),
    ({"timeseries": [{"key": "x", "obis": "1.8.0"}]}, "timeseries[0].obis", "is not an OBIS code", ""),
    ({"timeseries": [{"key": "", "obis": "1-0:1.8.0"}]}, "timeseries[0].key", "at least 1", ""),
    ({"timeseries": [{"obis": "1-0:1.8.0"}]}, "timeseries[0].key", "key is missing", ""),
    ({"timeseries": ["frequency", "frequency"]}, "", 'the key "frequency" twice', ""),
    (
        {"timeseries": [{"key": "x", "obis": "1-0:1.8.0", "scaler": "none"}]},
        "timeseries[0].scaler",
        "must be one of 'auto' or: expected a whole number",
        "power of ten",
    ),
    (
        {"objects": {"frequency": {"obis": "1-0:14.7.0", "round": 99}}},
        "objects.frequency.round",
        "at most 15",
        "",
    ),
    ({"objects": []}, "objects", "maps names to definitions", ""),
    (
        {"profiles": [{"obis": "1-0:99.1.0", "backfil": "7d"}]},
        "profiles[0].backfil",
        "unknown key",
        "backfill",
    ),
    (
        {"profiles": [{"obis": "1-0:99.1.0", "columns": {"1.8.0": "x"}}]},
        "profiles[0].columns",
        "OBIS code",
        "",
    ),
    (
        {"profiles": [{"obis": "1-0:99.1.0", "columns": {"1-0:1.8.0#x": "x"}}]},
        "profiles[0].columns",
        "the number of an attribute",
        "",
    ),
    (
        {"transport": {"host": "h", "framing": "hdlc"}, "client": {"address": 128}},
        "",
        "client.address 128 does not fit HDLC",
        "",
    ),
    ({"template": 5}, "template", "expected a text, found a number", ""),
    ({"deviceType": ""}, "deviceType", "at least 1", ""),
    ({"reportStrategy": {"type": "ON_REPORT_PERIOD"}}, "reportStrategy", "needs reportPeriod", ""),
    ({"health": {"telemetry": ["dlms_stat"]}}, "health.telemetry[0]", "must be one of", ""),
    ({"transport": {"host": "${env:NOPE}"}}, "transport.host", "variable NOPE is not set", "EnvironmentFile"),
    ({"transport": {"host": "${file:/x}"}}, "transport.host", "take ${env:NAME} only", ""),
]


@pytest.mark.parametrize(("entry", "place", "words", "hint"), FAULTS)
def test_each_fault_is_told_at_its_place_and_spoils_its_device_alone(entry, place, words, hint):
    document = {"devices": [device("good"), {**device("bad", "other"), **entry}, device("fine", "third")]}
    configuration = load_document(document, environment={})
    (problem,) = configuration.errors
    assert problem.path == f"$.devices[1]{'.' if place else ''}{place}"
    assert words in problem.message
    assert hint in problem.hint
    assert problem.device == "bad"
    assert [settings.device_name for settings in configuration.devices] == ["good", "fine"]


def test_every_fault_is_told_at_once():
    document = {
        "polPeriod": 1,
        "prometheus": {"port": "x"},
        "devices": [
            device(timeout="x", pollPeriod=-1, client={"address": "y"}),
            5,
            device("n", "", timeseries=["z"]),
        ],
    }
    paths = [problem.path for problem in problems_of(document)]
    assert paths == [
        "$.prometheus.port",
        "$.polPeriod",
        "$.devices[0].client.address",
        "$.devices[0].timeout",
        "$.devices[0].pollPeriod",
        "$.devices[1]",
        "$.devices[2].timeseries[0]",
        "$.devices[2].transport.host",
    ]


@pytest.mark.parametrize("document", [[], "x", 5, True])
def test_a_document_that_is_no_object_gives_no_devices_and_says_so(document):
    assert "expected an object" in only_problem(document).message


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"devices": {}}, "$.devices"),
        ({"defaults": [], "devices": [device()]}, "$.defaults"),
        ({"defaults": {"timeout": "${env:NOPE}"}, "devices": [device()]}, "$.defaults.timeout"),
    ],
)
def test_broken_sections_stop_their_devices(document, path):
    configuration = load_document(document, environment={})
    assert configuration.devices == ()
    assert [problem.path for problem in configuration.problems] == [path]


def test_a_reference_of_a_template_that_is_not_set_stops_every_device_of_it(tmp_path):
    (tmp_path / "templates").mkdir()
    template = {"device": {"transport": {"host": "${env:NOPE}"}, "timeseries": ["frequency"]}}
    (tmp_path / "templates" / "mine.json").write_text(json.dumps(template))
    document = {
        "defaults": {"template": "mine"},
        "devices": [{"deviceName": "a"}, {"deviceName": "b", "template": "mine"}],
    }
    configuration = load_document(document, base_directory=tmp_path, environment={})
    assert configuration.devices == ()
    assert "template mine: $.device.transport.host" in [problem.path for problem in configuration.errors]
    assert not any("expected" in problem.message for problem in configuration.errors)


def test_each_device_knows_its_place():
    configuration = load_document({"devices": [5, device("a"), device("b", "2")]})
    assert configuration.places == {"a": "$.devices[1]", "b": "$.devices[2]"}


def test_a_fault_in_the_defaults_is_told_once_and_there():
    document = {
        "defaults": {"timeout": "x"},
        "devices": [device("a"), device("b", "2"), device("c", "3", timeout=5000)],
    }
    configuration = load_document(document)
    (problem,) = configuration.problems
    assert (problem.path, problem.device) == ("$.defaults.timeout", None)
    assert [settings.device_name for settings in configuration.devices] == ["c"]


def test_top_level_hints_know_what_belongs_into_a_device():
    assert 'into "defaults"' in only_problem({"pollPeriod": 5}).hint
    assert '"pollPeriod", in a device or in "defaults"' in only_problem({"polPeriod": 5}).hint
    assert 'did you mean "devices"?' in only_problem({"device": []}).hint


def test_the_gateway_s_own_file_is_recognised():
    assert "the gateway's own configuration" in only_problem({"thingsboard": {}, "connectors": []}).message


CANARY = "s3cret-canary"


@pytest.mark.parametrize(
    "client",
    [
        {"authentication": "low", "password": CANARY},
        {"authentication": CANARY, "password": CANARY},
        {"pasword": CANARY},
        {"password": [CANARY]},
        {"password": {"x": CANARY}},
        {"address": CANARY},
        {"security": {"encryptionKey": CANARY, "suite": CANARY, "clientSystemTitle": CANARY}},
        {"security": CANARY},
        CANARY,
        [CANARY],
    ],
)
def test_a_secret_written_in_the_wrong_place_is_never_repeated(client):
    configuration = load_document({"devices": [device(client=client)]})
    assert configuration.errors
    assert CANARY not in repr(configuration) + "".join(str(problem) for problem in configuration.problems)


def test_the_document_is_not_changed():
    document = {
        "defaults": {"template": "microstar"},
        "devices": [device(client={"password": "${env:P}"}, _note="x")],
    }
    before = copy.deepcopy(document)
    load_document(document)
    assert document == before


def test_one_name_for_two_meters_is_an_error_on_the_later():
    configuration = load_document({"devices": [device("a", "1"), device("A", "2"), device("a", "3")]})
    (problem,) = configuration.problems
    assert problem.path == "$.devices[2].deviceName"
    assert "already used at $.devices[0]" in problem.message
    assert [(d.device_name, d.transport.host) for d in configuration.devices] == [("a", "1"), ("A", "2")]


@pytest.mark.parametrize(
    ("second", "doubtful"),
    [
        ({"serverPhysicalAddress": 17}, True),
        ({"serverPhysicalAddress": 18}, False),
        ({"serverPhysicalAddress": 17, "host": "H"}, True),
        ({"serverPhysicalAddress": 17, "host": "i"}, False),
        ({"serverPhysicalAddress": 17, "port": 1}, False),
    ],
)
def test_the_same_meter_twice_on_a_line_is_a_warning(second, doubtful):
    first = {"type": "tcp", "host": "h", "framing": "hdlc", "addressSize": 2, "serverPhysicalAddress": 17}
    configuration = load_document(
        {"devices": [device("a", transport=first), device("b", transport={**first, **second})]}
    )
    assert len(configuration.devices) == 2
    assert [problem.severity for problem in configuration.problems] == (["warning"] if doubtful else [])


def test_a_meter_of_which_nothing_is_read_is_a_warning():
    problem = only_problem({"devices": [device(timeseries=[])]})
    assert (problem.severity, problem.path) == ("warning", "$.devices[0]")


def test_environment_references_are_filled_in_outside_secrets():
    document = {
        "shard": {"index": "${env:INDEX}", "count": 2},
        "devices": [
            device(host="${env:SITE}-7.lan", pollPeriod="${env:PERIOD}", client={"password": "${env:NOPE}"})
        ],
    }
    configuration = load_document(document, environment={"INDEX": "1", "SITE": "north", "PERIOD": "5000"})
    assert configuration.problems == ()
    assert configuration.connector.shard.index == 1
    (settings,) = configuration.devices
    assert settings.transport.host == "north-7.lan"
    assert settings.poll_period_ms == 5000
    assert str(settings.client.password) == "${env:NOPE}"


@pytest.mark.parametrize("shard", [{"index": "${env:NOPE}", "count": 2}, {"index": 2, "count": 2}, 5])
def test_without_its_share_a_gateway_polls_nothing(shard):
    configuration = load_document({"shard": shard, "devices": [device()]}, environment={})
    assert configuration.devices == ()
    assert configuration.errors[0].path.startswith("$.shard")


def test_a_broken_setting_of_the_connector_falls_back_and_is_told():
    configuration = load_document({"maxConcurrentConnects": 0, "stateDirectory": "/x", "devices": [device()]})
    assert configuration.connector.max_concurrent_connects == 50
    assert configuration.connector.state_directory == "/x"
    assert len(configuration.devices) == 1
    assert configuration.errors[0].path == "$.maxConcurrentConnects"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b'{"a": 1,\n  "b": 2,\n}', "c.json:2:9"),
        (b'{"a": 1 "b": 2}', "c.json:1:9"),
        (b"{\n// no\n}", "c.json:2:1"),
        (b"\x7fELF\x02\xff\xfe", "is not UTF-8 text"),
        (b'{"name": "a", "name": "b"}', '"name" stands twice'),
        (b'{"a": NaN}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_not_json_is_told_with_its_place(tmp_path, raw, words):
    (tmp_path / "c.json").write_bytes(raw)
    (problem,) = load_file(tmp_path / "c.json").problems
    assert words in problem.message


def test_files_that_cannot_be_read_are_told(tmp_path):
    assert "is a directory" in load_file(tmp_path).problems[0].message
    assert "cannot be read" in load_file(tmp_path / "none.json").problems[0].message
    (tmp_path / "empty.json").write_bytes(b"")
    assert load_file(tmp_path / "empty.json").problems == ()


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"devices": [device()]}).encode())
    assert len(load_file(tmp_path / "c.json").devices) == 1


def test_multipliers_are_exact_as_written(tmp_path):
    entry = '{"key": "x", "obis": "1-0:1.8.0", "multiplier": 0.100000000000000000001}'
    (tmp_path / "c.json").write_text(
        f'{{"devices": [{{"deviceName": "m", "transport": {{"host": "h"}}, "timeseries": [{entry}]}}]}}'
    )
    configuration = load_file(tmp_path / "c.json")
    assert configuration.devices[0].timeseries[0].multiplier == Decimal("0.100000000000000000001")
    parsed = load_document(
        {"devices": [device(timeseries=[{"key": "x", "obis": "1-0:1.8.0", "multiplier": 0.1}])]}
    )
    assert parsed.devices[0].timeseries[0].multiplier == Decimal("0.1")


def test_a_document_of_endless_depth_is_told():
    nested = {}
    for _ in range(500):
        nested = {"x": nested}
    assert "deep" in only_problem({"devices": [device(client=nested)]}).message


def test_ten_thousand_devices_load_in_seconds_and_share_what_is_equal():
    document = {
        "defaults": {"template": "microstar", "client": {"password": "${env:P}"}},
        "devices": [
            {"deviceName": f"m{number}", "transport": {"host": f"10.0.{number // 250}.{number % 250}"}}
            for number in range(10_000)
        ],
    }
    started = time.process_time()
    configuration = load_document(document)
    assert time.process_time() - started < 8
    assert len(configuration.devices) == 10_000
    assert configuration.problems == ()
    first, last = configuration.devices[0], configuration.devices[-1]
    assert first.client is last.client
    assert first.breaker is last.breaker
    assert all(mine is other for mine, other in zip(first.timeseries, last.timeseries, strict=True))
