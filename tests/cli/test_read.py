import json
import signal
import subprocess
import sys
import time
from decimal import Decimal

import pytest

from dlms_connector.config.loader import load_file
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import DataType, TypedValue
from dlms_connector.io.stream import Interrupt
from dlms_connector.meter.links import make_channel, make_line
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.meter import Quirks
from dlms_connector.simulator.quantities import QUANTITIES, raw_value_of_seed
from dlms_connector.state import StateStore, state_file
from tests.support.command_line import run
from tests.support.meter_file import NAME, meter_file
from tests.support.simulated import (
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    SERIAL,
    clients,
    one_meter,
    secured_client,
)

HOUR_S = 3600
READS = {"timeseries": ["voltage_l1", {"key": "energy", "obis": "1-1:1.8.0"}], "attributes": ["serialNumber"]}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def expected(fleet, key):
    """What the meter holds for an hour, scaled."""
    device, quantity = fleet.device(SERIAL), QUANTITIES[key]
    raw = fleet.call(lambda: raw_value_of_seed(device.seed, key, device.slot_s()))
    return Decimal(raw).scaleb(quantity.scaler)


@pytest.mark.parametrize("quirks", [Quirks(), Quirks(refuse_lists=True)], ids=["lists", "lists refused"])
def test_everything_that_the_entry_reads(tmp_path, quirks):
    with one_meter(quirks=quirks, slot_s=HOUR_S) as fleet:
        result = run("read", meter_file(tmp_path, fleet, **READS), NAME, "--json")
        values = {row["key"]: row for row in json.loads(result.out, parse_float=Decimal)["values"]}
        assert values["voltage_l1"]["value"] == expected(fleet, "voltage_l1")
        assert values["energy"]["value"] == expected(fleet, "active_energy")
    assert result.code == 0
    assert values["voltage_l1"]["unit"] == "V"
    assert values["serialNumber"]["value"] == SERIAL


@pytest.mark.parametrize("kind", [FaultKind.SILENT, FaultKind.CLOSE])
def test_lists_that_are_never_answered_cost_no_value(tmp_path, kind):
    with one_meter(slot_s=HOUR_S) as fleet:
        fleet.inject(SERIAL, Fault(kind, Stage.GET_LIST, count=None))
        result = run("read", meter_file(tmp_path, fleet, timeout=500, **READS), NAME, "--json")
        values = {row["key"]: row for row in json.loads(result.out, parse_float=Decimal)["values"]}
        assert values["voltage_l1"]["value"] == expected(fleet, "voltage_l1")
        assert values["energy"]["value"] == expected(fleet, "active_energy")
    assert result.code == 0
    assert "useLists: false" in result.err


@pytest.mark.parametrize("first", ["1-0:99.99.99", "voltage_l1"])
def test_the_single_answer_decides_over_a_list_that_refuses(tmp_path, first):
    with one_meter(quirks=Quirks(lists_end_at_refusal=True), slot_s=HOUR_S) as fleet:
        words = (first, "1-0:99.99.99", "energy", "0-0:42.0.0")
        result = run("read", meter_file(tmp_path, fleet, **READS), NAME, *words, "--json")
        values = {row["key"]: row for row in json.loads(result.out, parse_float=Decimal)["values"]}
        assert values["energy"]["value"] == expected(fleet, "active_energy")
    assert values["0-0:42.0.0"]["value"]
    assert "object undefined" in values["1-0:99.99.99"]["error"]


def test_names_codes_and_attributes_as_a_table(tmp_path):
    with one_meter("hdlc", slot_s=HOUR_S) as fleet:
        path = meter_file(tmp_path, fleet, "hdlc", **READS)
        result = run("read", path, NAME, "energy", "frequency", "1-0:99.1.0#4", "0-0:42.0.0", "1-0:9.9.9")
    rows = [line.split() for line in result.out.splitlines()[2:]]
    assert result.code == 0
    assert [row[0] for row in rows if len(row) > 3][:4] == [
        "energy",
        "frequency",
        "1-0:99.1.0#4",
        "0-0:42.0.0",
    ]
    assert ["1-0:99.1.0#4", "1-0:99.1.0#4", "7", "900"] in rows
    assert "object undefined" in result.out


def test_scalers_are_read_for_every_part_of_a_long_list(tmp_path):
    codes = [f"1-{b}:{c}.7.0" for b in (0, 1) for c in (32, 52, 72, 31, 51, 71, 14)]
    with one_meter(slot_s=HOUR_S) as fleet:
        result = run("read", meter_file(tmp_path, fleet), NAME, *codes, "--json")
    rows = result.json()["values"]
    assert {row["obis"]: row["unit"] for row in rows} == {
        code: "V" if ":32" in code or ":52" in code or ":72" in code else "Hz" if ":14" in code else "A"
        for code in codes
    }


def test_raw_values_have_their_type(tmp_path):
    with one_meter(slot_s=HOUR_S) as fleet:
        result = run(
            "read", meter_file(tmp_path, fleet), NAME, "voltage_l1", "0-0:1.0.0#3", "--raw", "--json"
        )
        voltage, zone = result.json()["values"]
        assert voltage["value"] == int(expected(fleet, "voltage_l1").scaleb(2))
    assert voltage["type"] == "uint32"
    assert (zone["type"], zone["value"]) == ("int16", 0)


def test_nothing_that_could_be_read_is_exit_1(tmp_path):
    with one_meter() as fleet:
        result = run("read", meter_file(tmp_path, fleet), NAME, "1-0:9.9.9")
    assert result.code == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("metre_1",), 'did you mean "meter_1"?'),
        (("zzz",), "devices: meter_1"),
        ((NAME, "voltage_11"), 'did you mean "voltage_l1"?'),
        ((NAME, "1-0:1.8.0#999"), "1 to 127"),
        ((NAME,), "reads nothing by itself"),
    ],
)
def test_mistakes_are_told_in_words(tmp_path, words, message):
    with one_meter() as fleet:
        result = run("read", meter_file(tmp_path, fleet), *words)
        assert fleet.counters(SERIAL).requests == 0
    assert result.code == 1
    assert message in result.err


def test_a_broken_file_tells_its_problems(tmp_path):
    with one_meter() as fleet:
        result = run("read", meter_file(tmp_path, fleet, pollPeriodd=3), NAME)
    assert result.code == 1
    assert "$.devices[0].pollPeriodd" in result.err
    assert 'did you mean "pollPeriod"?' in result.err
    path = tmp_path / "no.json"
    path.write_text("{")
    assert run("read", path, NAME).code == 1
    assert run("read", tmp_path / "none.json", NAME).code == 1


def test_a_refused_association_hints_at_the_gateway(tmp_path):
    with one_meter() as fleet:
        result = run("read", meter_file(tmp_path, fleet, client={"address": 5}), NAME, "voltage_l1")
    assert result.code == 1
    assert "is a gateway connected to this one?" in result.err


SECURITY = {
    "clientSystemTitle": CLIENT_TITLE.hex(),
    "encryptionKey": "${env:READ_EK}",
    "authenticationKey": "${env:READ_AK}",
}
CIPHERED = {"address": 1, "authentication": "gmac", "security": SECURITY}


@pytest.fixture
def ciphered(tmp_path, monkeypatch):
    monkeypatch.setenv("READ_EK", ENCRYPTION_KEYS[0].hex())
    monkeypatch.setenv("READ_AK", AUTHENTICATION_KEYS[0].hex())
    with one_meter(clients=clients(secured_client(5))) as fleet:
        yield fleet


def test_a_ciphered_meter_counts_in_the_gateways_file(tmp_path, ciphered):
    path = meter_file(tmp_path, ciphered, client=CIPHERED)
    gateway = StateStore(state_file(None, tmp_path))
    reserved = gateway.reserve_counters(f"{NAME}/1", at_least=7000)
    result = run("read", path, NAME, "voltage_l1")
    assert result.code == 0
    used = ciphered.call(lambda: max(ciphered.device(SERIAL).client_counters.values()))
    assert used >= reserved.stop
    assert gateway.reserve_counters(f"{NAME}/1").start > used
    assert gateway.get_all(NAME, "scalers") == {}
    gateway.close()
    assert ENCRYPTION_KEYS[0].hex() not in result.out + result.err


def test_a_gateway_goes_on_after_the_tool(tmp_path, ciphered):
    path = meter_file(tmp_path, ciphered, client=CIPHERED)
    (device,) = load_file(path).devices
    state = StateStore(state_file(None, tmp_path))
    line = make_line(device.transport)
    gateway = MeterSession(
        device, lambda client: make_channel(device, client, line, Interrupt()), state, on_event=lambda _: None
    )
    gateway.open()
    gateway.close(time.monotonic() + 2)
    assert run("read", path, NAME, "voltage_l1").code == 0
    gateway.open()  # its block of counters is behind the tool's by now
    assert isinstance(gateway.get(AttributeRef(3, Obis(1, 0, 32, 7, 0), 2)), int)
    gateway.close(time.monotonic() + 2)
    state.close()


def test_values_of_a_meter_do_not_steer_the_terminal(tmp_path):
    with one_meter() as fleet:
        evil = TypedValue(DataType.VISIBLE_STRING, "\x1b]0;owned\x07[red]x")
        fleet.override(SERIAL, 1, Obis(0, 0, 96, 1, 0), 2, evil)
        result = run("read", meter_file(tmp_path, fleet), NAME, "serialNumber")
    assert "\x1b" not in result.out
    assert "\\x1b]0;owned" in result.out
    assert "[red]x" in result.out


def test_without_a_gateways_file_the_meter_is_asked_and_none_is_made(tmp_path, ciphered):
    result = run("read", meter_file(tmp_path, ciphered, client=CIPHERED), NAME, "voltage_l1")
    assert result.code == 0
    assert "no gateway keeps its counters here" in result.err
    assert not state_file(None, tmp_path).exists()


def test_unknown_counters_are_never_guessed(tmp_path, ciphered):
    blind = {**CIPHERED, "security": {**SECURITY, "invocationCounter": {"read": False}}}
    result = run("read", meter_file(tmp_path, ciphered, client=blind), NAME, "voltage_l1")
    assert result.code == 1
    assert "--state-directory" in result.err
    assert ciphered.counters(SERIAL).requests == 0


def test_a_plain_meter_touches_no_state(tmp_path):
    with one_meter() as fleet:
        assert run("read", meter_file(tmp_path, fleet), NAME, "voltage_l1").code == 0
    assert [each.name for each in tmp_path.iterdir()] == ["m.json"]


def test_ctrl_c_leaves_the_meter_politely(tmp_path):
    with one_meter("hdlc", latency_s=0.3, recovery_s=600.0) as fleet:
        path = meter_file(tmp_path, fleet, "hdlc", **READS)
        script = "from dlms_connector.cli.main import main; main()"
        words = [sys.executable, "-c", script, "read", str(path), NAME]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            device = fleet.device(SERIAL)
            assert fleet.wait_for(lambda: device.counters.associations_open == 1, 30)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
        assert fleet.wait_for(lambda: device.counters.associations_open == 0, 5)
        assert fleet.call(lambda: device.blocked_until_s) == 0.0
    assert process.returncode == 130
    assert "Traceback" not in err


def test_the_command_as_a_process_of_its_own(tmp_path):
    with one_meter() as fleet:
        path = meter_file(tmp_path, fleet, **READS)
        script = "from dlms_connector.cli.main import main; main()"
        finished = subprocess.run(
            [sys.executable, "-c", script, "read", str(path), NAME, "--json"],
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert fleet.counters(SERIAL).associations_open == 0
    assert finished.returncode == 0, finished.stderr
    assert len(json.loads(finished.stdout)["values"]) == 3
