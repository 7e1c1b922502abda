import json

import pytest

from dlms_connector.config.loader import load_file
from dlms_connector.cosem.values import DataType, TypedValue, encode, structure
from dlms_connector.obis import Obis
from dlms_connector.simulator.meter import ClientSettings, Quirks
from tests.support.command_line import QUICK, run
from tests.support.meter_file import NAME, meter_file
from tests.support.simulated import SERIAL, clients, one_meter

PASSWORD = "Canary-4711"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("DISCOVER_PASSWORD", PASSWORD)


def test_a_meter_of_a_file_becomes_a_ready_entry(tmp_path):
    entry_path = tmp_path / "entry.json"
    with one_meter("hdlc", quirks=Quirks(refuse_lists=True)) as fleet:
        path = meter_file(tmp_path, fleet, "hdlc", clock={"timeZone": "America/Bogota"})
        result = run("discover", path, NAME, "--json", "--entry", entry_path)
        assert fleet.counters(SERIAL).associations_open == 0
        assert fleet.counters(SERIAL).get_blocks > 0  # the list does not fit one PDU
        objects = {(each["obis"], each["class"]): each for each in result.json()["objects"]}
        assert objects["1-0:32.7.0", 3]["unit"] == "V"
        assert 200 < objects["1-0:32.7.0", 3]["value"] < 260
        assert objects["0-0:96.1.0", 1]["value"] == SERIAL
        assert objects["1-0:99.1.0", 7]["value"] == "3000 rows, one every 900 s"
        assert run("check", entry_path).code == 0
        assert run("read", entry_path, NAME).code == 0
    (device,) = load_file(entry_path).devices
    assert device.clock.time_zone == "America/Bogota"
    keys = {entry.key: str(entry.obis) for entry in device.timeseries}
    assert keys["voltage_l1"] == "1-0:32.7.0"
    assert keys["1-1:32.7.0"] == "1-1:32.7.0"
    kinds = {str(profile.obis): profile.kind for profile in device.profiles}
    assert kinds["0-0:99.98.0"] == "events"
    assert kinds["1-0:99.1.0"] == "profile"


def test_an_unknown_meter_is_probed_first_and_becomes_a_template(tmp_path):
    template = tmp_path / "templates" / "my-make.json"
    template.parent.mkdir()
    with one_meter(clients=clients(ClientSettings(1, 1, PASSWORD.encode()))) as fleet:
        address = f"127.0.0.1:{fleet.port(SERIAL)}"
        options = ("--password-env", "DISCOVER_PASSWORD", "--no-values", "--template", template)
        result = run("discover", address, *QUICK, *options)
        path = meter_file(
            tmp_path, fleet, template="my-make", client={"password": "${env:DISCOVER_PASSWORD}"}
        )
        assert result.code == 0
        assert "active_energy" in result.out
        assert run("check", path).code == 0
        assert run("read", path, NAME, "voltage_l1").code == 0
    document = json.loads(template.read_text())
    assert "host" not in document["device"]["transport"]
    assert "password" not in document["device"]["client"]
    assert document["device"]["client"]["authentication"] == "low"
    assert PASSWORD not in result.out + result.err + template.read_text()


def test_no_values_reads_the_list_alone(tmp_path):
    with one_meter() as fleet:
        result = run("discover", meter_file(tmp_path, fleet), NAME, "--no-values", "--json")
        assert fleet.counters(SERIAL).gets == 1
    assert {each["value"] for each in result.json()["objects"]} == {None}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "which device of the file?"),
        (("metre_1",), 'did you mean "meter_1"?'),
        ((NAME, "--template", "b ad.json"), "no name for a template"),
        ((NAME, "--entry", "/no/such/folder/e.json"), "cannot be written"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, words, message):
    with one_meter() as fleet:
        result = run("discover", meter_file(tmp_path, fleet), *words)
    assert result.code == 1
    assert message in result.err


def test_a_meter_that_does_not_answer_is_explained():
    result = run("discover", "127.0.0.1:1", *QUICK)
    assert result.code == 1
    assert "did not answer" in result.err


def test_a_miscounted_list_and_a_value_that_is_no_number_are_told(tmp_path):
    voltage = Obis(1, 0, 32, 7, 0)
    entry = structure(
        TypedValue(DataType.UINT16, 3),
        TypedValue(DataType.UINT8, 0),
        TypedValue(DataType.OCTET_STRING, voltage.to_bytes()),
    )
    with one_meter() as fleet:
        fleet.override(SERIAL, 15, Obis(0, 0, 40, 0, 0), 2, bytes((1, 2)) + encode(entry))
        fleet.override(SERIAL, 3, voltage, 2, bytes.fromhex("177FC00000"))
        result = run("discover", meter_file(tmp_path, fleet), NAME, "--json")
    document = result.json()
    assert result.code == 0
    assert [(each["obis"], each["value"]) for each in document["objects"]] == [("1-0:32.7.0", None)]
    assert document["notes"] == ["object list: the array says 2 elements, 1 could be read; 0 bytes left"]
    assert document["notes"][0] in result.err
