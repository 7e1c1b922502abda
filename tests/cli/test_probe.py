import json
import signal
import socket
import subprocess
import sys

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.framing import control as ctl
from dlms_connector.framing.frames import FrameReader, encode_frame
from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings, Quirks
from tests.support.command_line import QUICK, peer, run, swallow
from tests.support.simulated import SERIAL, clients, one_meter, secured_client

PASSWORD = "Canary-4711"


@pytest.fixture(autouse=True)
def _password(monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setenv("PROBE_PASSWORD", PASSWORD)


def probe(port, *options, host="127.0.0.1"):
    return run("probe", f"{host}:{port}", *QUICK, *options)


def test_a_wrapper_meter_gives_an_entry_that_check_accepts(tmp_path):
    path = tmp_path / "found.json"
    with one_meter() as fleet:
        result = probe(fleet.port(SERIAL), "--out", path)
        assert fleet.counters(SERIAL).associations_open == 0
    assert result.code == 0
    assert "client 16, no password answered" in result.out
    assert "SIM00000001" in result.out
    assert "1024 bytes" in result.out
    assert run("check", path).code == 0
    (entry,) = json.loads(path.read_text())["devices"]
    assert entry["deviceName"] == "meter_00000001"
    assert "voltage_l1" in entry["timeseries"]


@pytest.mark.parametrize(
    ("logical", "physical", "size", "options"),
    [
        (1, 17, 2, ()),
        (1, 5678, 4, ("--serial-number", "12345678")),
        (17, 0, 1, ()),
        (0, 1, 1, ()),
        (5, 99, 4, ("--logical", "5", "--physical", "99")),
    ],
)
def test_hdlc_addresses_are_found(logical, physical, size, options):
    meter = one_meter("hdlc", logical_address=logical, physical_address=physical, address_size=size)
    with meter as fleet:
        result = probe(fleet.port(SERIAL), "--framing", "hdlc", "--json", *options)
    transport = result.json()["entry"]["transport"]
    assert result.code == 0
    found = (transport["serverLogicalAddress"], transport["serverPhysicalAddress"])
    if size == 1:  # one byte holds one of the two
        assert sum(found) == logical + physical
    else:
        assert found == (logical, physical)
    assert transport["addressSize"] == size
    assert result.json()["facts"]["maxInfoLength"] == 128


def test_silence_on_the_wrapper_leads_to_hdlc():
    with one_meter("hdlc") as fleet:
        document = probe(fleet.port(SERIAL), "--json").json()
    results = [(each["try"].split(",")[0], each["result"], each["layer"]) for each in document["tries"]]
    assert results[0] == ("wrapper", "silent", "wrapper")
    assert results[-1] == ("HDLC", "answered", "object")


def test_the_password_opens_the_client_and_stays_a_reference():
    with one_meter(clients=clients(ClientSettings(32, 1, PASSWORD.encode()))) as fleet:
        result = probe(fleet.port(SERIAL), "--password-env", "PROBE_PASSWORD", "--json")
        assert fleet.counters(SERIAL).associations_open_max == 1
    entry = result.json()["entry"]
    expected = {"address": 32, "authentication": "low", "password": "${env:PROBE_PASSWORD}"}
    assert entry["client"] == expected
    assert load_document({"devices": [entry]}).errors == ()
    assert PASSWORD not in result.out + result.err


def test_a_wrong_password_is_told_and_not_tried_for_ever():
    users = [ClientSettings(address, 1, b"another") for address in (1, 2, 17, 32, 48)]
    with one_meter(clients=tuple(users)) as fleet:
        result = probe(fleet.port(SERIAL), "--password-env", "PROBE_PASSWORD", "--json")
    document = result.json()
    assert result.code == 1
    assert sum(each["result"] == "password refused" for each in document["tries"]) == 3
    assert "refuses the password" in document["advice"]
    assert PASSWORD not in result.out + result.err


def test_a_missing_password_is_asked_for():
    with one_meter(clients=(ClientSettings(1, 1, b"12345678"),)) as fleet:
        result = probe(fleet.port(SERIAL), "--client", "1")
    assert result.code == 1
    assert "asks for a password: give --password-env" in result.out


@pytest.mark.parametrize("mechanism", [2, 5])
def test_hls_is_recognised_by_its_challenge(mechanism):
    secured = secured_client(mechanism, 0, secret=b"secret")
    with one_meter("hdlc", clients=(secured,)) as fleet:
        result = probe(fleet.port(SERIAL), "--framing", "hdlc", "--client", "1")
        assert fleet.counters(SERIAL).associations_open == 0
    assert result.code == 1
    assert f"asks for HLS {mechanism}" in result.out


def test_ciphered_apdus_are_recognised():
    with one_meter(clients=(secured_client(5),)) as fleet:
        result = probe(fleet.port(SERIAL), "--client", "1")
    assert result.code == 1
    assert "asks for ciphered APDUs" in result.out


def test_an_unknown_name_is_of_the_layer_dns():
    result = probe(4059, "--json", host="no-such-meter.invalid")
    document = result.json()
    assert result.code == 1
    assert [(each["result"], each["layer"]) for each in document["tries"]] == [("not reachable", "dns")]


def test_a_refused_connection_ends_the_probe_at_once():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    document = probe(port, "--json").json()
    assert [(each["result"], each["layer"]) for each in document["tries"]] == [("not reachable", "tcp")]
    assert "refused" in document["advice"].lower()


def test_a_port_that_says_nothing_is_silent_and_every_address_was_tried():
    with peer(swallow) as port:
        result = run("probe", f"127.0.0.1:{port}", "--timeout", "0.1", "--pause", "0", "--json")
    document = result.json()
    assert result.code == 1
    assert {each["result"] for each in document["tries"]} == {"silent"}
    assert {each["layer"] for each in document["tries"]} == {"wrapper", "hdlc"}
    assert "nobody answers" in document["advice"]


def test_the_time_for_all_tries_is_kept():
    with peer(swallow) as port:
        result = run(
            "probe", f"127.0.0.1:{port}", "--timeout", "0.5", "--limit", "1", "--pause", "0", "--json"
        )
    assert result.code == 1
    assert result.json()["ended"] == "the time of 1 s is over"
    assert len(result.json()["tries"]) <= 3


def test_another_protocol_is_shown_as_it_is():
    def greet(connection):
        connection.sendall(b"SSH-2.0-OpenSSH_9.2 \x1b]0;x\x07\r\n")
        swallow(connection)

    with peer(greet) as port:
        result = probe(port)
    assert result.code == 1
    assert "SSH-2.0-OpenSSH_9.2" in result.out
    assert "\x1b]0" not in result.out + result.err
    assert "Something else than a DLMS meter" in result.out


def test_a_port_that_hangs_up_is_told_apart_from_silence():
    with peer(lambda connection: None) as port:
        result = probe(port, "--json")
    assert {each["result"] for each in result.json()["tries"]} == {"hangs up"}
    assert "one client at a time" in result.json()["advice"]


def test_disconnected_mode_is_an_answer():
    def refuse(connection):
        reader = FrameReader()
        while data := connection.recv(4096):
            reader.feed(data)
            while (frame := reader.next()) is not None:
                connection.sendall(encode_frame(frame.source, frame.destination, 0x1F))

    with peer(refuse) as port:
        result = probe(port, "--framing", "hdlc", "--json")
    tries = result.json()["tries"]
    assert result.code == 1
    assert {(each["result"], each["layer"]) for each in tries} == {
        ("answers HDLC, but not this client", "hdlc")
    }
    assert len({each["try"].split(", client")[0] for each in tries}) == 1


def test_a_serial_port_is_probed_with_hdlc_alone():
    with one_meter("serial") as fleet:
        result = run("probe", fleet.path(SERIAL), *QUICK, "--json")
    entry = result.json()["entry"]
    assert result.code == 0
    assert entry["transport"]["type"] == "serial"
    assert load_document({"devices": [entry]}).errors == ()


def test_a_meter_that_ignores_the_release_is_given_time():
    quirks = Quirks(ignore_rlrq=True)
    users = (PUBLIC_CLIENT, ClientSettings(1, 1, PASSWORD.encode()))
    with one_meter("hdlc", quirks=quirks, clients=users, exclusive=True) as fleet:
        result = probe(fleet.port(SERIAL), "--framing", "hdlc", "--password-env", "PROBE_PASSWORD", "--json")
        assert fleet.counters(SERIAL).associations_open_max == 1
        assert fleet.counters(SERIAL).associations_open == 0
    assert result.json()["entry"]["client"]["address"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("127.0.0.1",), "the port is missing"),
        (("host:99999",), "1 to 65535"),
        (("/dev/ttyNONE",), "cannot be opened"),
        (("127.0.0.1:1", "--template", "micro"), 'did you mean "microstar"?'),
        (("127.0.0.1:1", "--password-env", "NOT_SET_HERE"), "NOT_SET_HERE is not set"),
        (("127.0.0.1:1", "--serial-number", "none"), "digits"),
        (
            (
                "127.0.0.1:1",
                "--framing",
                "hdlc",
                "--logical",
                "200",
                "--physical",
                "1",
                "--address-size",
                "1",
            ),
            "holds 200/1",
        ),
    ],
)
def test_mistakes_are_told_in_words(words, message):
    result = run("probe", *words, *QUICK)
    assert result.code == 1
    assert message in result.out + result.err


def test_a_silent_association_request_is_told_apart_and_the_link_is_ended():
    kinds = []

    def serve(connection):
        reader = FrameReader()
        while data := connection.recv(4096):
            reader.feed(data)
            while (frame := reader.next()) is not None:
                kinds.append(ctl.kind(frame.control))
                if kinds[-1] is not ctl.Kind.I:
                    connection.sendall(encode_frame(frame.source, frame.destination, ctl.UA))

    with peer(serve) as port:
        result = probe(port, "--framing", "hdlc", "--client", "1", "--json")
    (only,) = result.json()["tries"]
    assert result.code == 1
    assert (only["result"], only["layer"]) == ("silent", "association")
    assert kinds[0] is ctl.Kind.SNRM
    assert kinds[-2:] == [ctl.Kind.SNRM, ctl.Kind.DISC]


def test_the_password_may_stand_in_a_file(tmp_path):
    secret = tmp_path / "password"
    secret.write_text(PASSWORD + "\n")
    with one_meter("hdlc", clients=(ClientSettings(1, 1, PASSWORD.encode()),)) as fleet:
        words = ("--framing", "hdlc", "--client", "1", "--password-file", secret, "--json")
        result = probe(fleet.port(SERIAL), *words)
    assert result.json()["entry"]["client"]["password"] == f"${{file:{secret}}}"
    assert PASSWORD not in result.out + result.err


def test_the_template_leads_the_way_and_the_entry_builds_on_it(tmp_path):
    users = (ClientSettings(1, 1, PASSWORD.encode()),)
    meter = one_meter("hdlc", clients=users, logical_address=0, physical_address=1, address_size=1)
    path = tmp_path / "m.json"
    with meter as fleet:
        result = probe(
            fleet.port(SERIAL),
            "--template",
            "microstar",
            "--password-env",
            "PROBE_PASSWORD",
            "--json",
            "--out",
            path,
        )
        assert run("read", path, "meter_00000001", "voltage_l1").code == 0
    document = result.json()
    assert len(document["tries"]) == 1
    assert document["entry"]["template"] == "microstar"


def test_ctrl_c_leaves_the_meter_politely():
    with one_meter("hdlc", latency_s=0.5, recovery_s=600.0) as fleet:
        script = "from dlms_connector.cli.main import main; main()"
        words = [
            sys.executable,
            "-c",
            script,
            "probe",
            f"127.0.0.1:{fleet.port(SERIAL)}",
            "--framing",
            "hdlc",
        ]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            device = fleet.device(SERIAL)
            assert fleet.wait_for(lambda: device.counters.associations_open == 1, 30)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
        assert fleet.wait_for(lambda: device.counters.associations_open == 0, 5)
        assert fleet.call(lambda: device.blocked_until_s) == 0.0  # the meter was not left uncleanly
    assert process.returncode == 130
    assert "Traceback" not in out + err
    assert "stopped by Ctrl-C" in out
