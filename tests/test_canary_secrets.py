"""Passwords and keys appear nowhere: everything runs with canaries, and every trace it leaves is searched for them."""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import DlmsConnectorError
from dlms_connector.meter.parameters import association_parameters
from dlms_connector.obis import Obis
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings, MeterSettings
from dlms_connector.simulator.security_server import ServerSecurity
from dlms_connector.simulator.thingsboard import RpcTimeout, ThingsBoardStandIn
from dlms_connector.state import StateStore
from tests.gateway.conftest import Installation, device_entry
from tests.support.pollers import RunningPollers
from tests.support.readers import Bench, device_settings, read_all

PASSWORD = "Kanarienvogel-4711"
WRONG_PASSWORD = "Falscher-Vogel-0815"
ENCRYPTION_KEY = bytes.fromhex("c0ffee0123456789abcdeffedcba9876")
AUTHENTICATION_KEY = bytes.fromhex("badc0de1f00dfacecafebabe8badf00d")
WRONG_KEY = bytes.fromhex("5ca1ab1edeadbeefd15ea5edba5eba11")
SHORT_KEY = "feedfacefeedface"
TITLE = b"SIM\x00\x00\x00\x00\x01"
ENVIRONMENT = {
    "CANARY_PASSWORD": PASSWORD,
    "CANARY_WRONG_PASSWORD": WRONG_PASSWORD,
    "CANARY_EK": ENCRYPTION_KEY.hex(),
    "CANARY_AK": AUTHENTICATION_KEY.hex(),
    "CANARY_WRONG_KEY": WRONG_KEY.hex(),
    "CANARY_SHORT": SHORT_KEY,
    "CANARY_NOT_HEX": "zz" + ENCRYPTION_KEY.hex()[2:],
}
_GOOD = "CANARY_PASSWORD"
MECHANISMS = {"low": 1, "high": 2, "md5": 3, "sha1": 4, "gmac": 5, "sha256": 6}


def _forms(secret: bytes) -> Iterator[bytes]:
    """How a secret might be written."""
    yield secret
    yield repr(secret)[2:-1].encode()
    for text in (secret.hex(), secret.hex(" "), secret.hex(":"), secret.hex("-")):
        yield text.encode()
        yield text.upper().encode()
    yield base64.b64encode(secret).rstrip(b"=")
    yield str(list(secret))[1:-1].encode()
    yield "".join(f"\\x{byte:02x}" for byte in secret).encode()


CANARIES = tuple(
    {
        form
        for secret in (
            PASSWORD.encode(),
            WRONG_PASSWORD.encode(),
            ENCRYPTION_KEY,
            AUTHENTICATION_KEY,
            WRONG_KEY,
            bytes.fromhex(SHORT_KEY),
            SHORT_KEY.encode(),
            ENVIRONMENT["CANARY_NOT_HEX"].encode(),
        )
        for form in _forms(secret)
    }
)


def assert_clean(data: bytes | str, where: str) -> None:
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else data
    for canary in CANARIES:
        at = raw.find(canary)
        assert at < 0, f"{where} shows a secret: ...{raw[max(0, at - 80) : at]!r}"


def test_the_search_finds_what_it_should() -> None:
    with pytest.raises(AssertionError):
        assert_clean(f"password {PASSWORD}", "this test")
    with pytest.raises(AssertionError):
        assert_clean(ENCRYPTION_KEY.hex(" ").upper(), "this test")


def client_entry(name: str, *, password: str = _GOOD, key: str = "CANARY_EK") -> dict[str, Any]:
    entry: dict[str, Any] = {"address": MECHANISMS[name], "authentication": name}
    if name != "gmac":
        entry["password"] = f"${{env:{password}}}"
    if name in ("gmac", "sha256"):
        entry["security"] = {"encryptionKey": f"${{env:{key}}}", "authenticationKey": "${env:CANARY_AK}"}
    return entry


def meter(serial: str) -> MeterSettings:
    security = ServerSecurity(TITLE, ENCRYPTION_KEY, AUTHENTICATION_KEY)
    made = [
        ClientSettings(
            number, number, PASSWORD.encode(), security=security if name in ("gmac", "sha256") else None
        )
        for name, number in MECHANISMS.items()
    ]
    return MeterSettings(serial, clients=(PUBLIC_CLIENT, *made))


@pytest.fixture
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("_environment")
@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
def test_sessions_errors_and_state(framing: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    said: list[str] = []
    try:
        state = StateStore(tmp_path / "state.sqlite")
        with SimulatedFleet(FleetSettings((LineSettings((meter("00000001"),), framing=framing),))) as fleet:
            bench = Bench(state)
            for name in MECHANISMS:
                for entry in (
                    client_entry(name),
                    client_entry(name, password="CANARY_WRONG_PASSWORD"),
                    client_entry(name, key="CANARY_WRONG_KEY"),
                    client_entry(name, key="CANARY_SHORT"),
                    client_entry(name, key="CANARY_NOT_HEX"),
                    client_entry(name, key="CANARY_ABSENT", password="CANARY_ABSENT"),
                ):
                    device = device_settings(fleet, "00000001", client=entry, timeout=500)
                    session = bench.session(device)
                    said += [repr(device), str(device), device.model_dump_json()]
                    try:
                        said.append(repr(association_parameters(device.client)))
                        session.open()
                        said += [repr(read_all(session)), repr(vars(session)), repr(session._association)]
                        association = session._association
                        assert association is not None
                        said += [repr(vars(association)), repr(vars(association._cipher or object))]
                        session.get(AttributeRef(3, Obis(9, 9, 9, 9, 9), 2))
                    except DlmsConnectorError as error:
                        said += [repr(error), error.explain(), *traceback.format_exception(error)]
                    finally:
                        session.close(time.monotonic() + 1)
            said += bench.events
        state.close()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    for path in tmp_path.iterdir():
        assert_clean(path.read_bytes(), path.name)
    assert_clean("\n".join(said), "an error or a repr")
    assert_clean(stream.getvalue(), "the log")
    captured = capfd.readouterr()
    assert_clean(captured.out + captured.err, "stdout")


@pytest.mark.usefixtures("_environment")
def test_pollers_and_their_uplink() -> None:
    serials = [f"{index:08d}" for index in range(1, 5)]
    lines = tuple(LineSettings((meter(serial),)) for serial in serials)
    with SimulatedFleet(FleetSettings(lines)) as fleet:
        running = RunningPollers(fleet)
        entries = (
            client_entry("low"),
            client_entry("gmac"),
            client_entry("md5", password="CANARY_WRONG_PASSWORD"),
            client_entry("gmac", key="CANARY_SHORT"),
        )
        for serial, entry in zip(serials, entries, strict=True):
            running.add(
                device_settings(
                    fleet, serial, client=entry, pollPeriod=200, backoff={"initial": 50, "maximum": 100}
                )
            )
        with running:
            running.wait_for_readings(serials[:2], 6)
            traces = [repr(poller.status()) for poller in running.pollers.values()]
        assert running.log.of("warning")
        assert_clean("\n".join([*traces, repr(running.log.lines), repr(running.uplink)]), "a poller")


def test_a_secret_written_into_the_configuration_is_refused_without_being_repeated() -> None:
    for field, value in (("password", PASSWORD), ("password", 4711), ("password", {"x": PASSWORD})):
        entry = {
            "deviceName": "m",
            "transport": {"type": "tcp", "host": "h", "port": 1},
            "client": {"address": 1, "authentication": "low", field: value},
            "timeseries": ["voltage_l1"],
        }
        loaded = load_document({"devices": [entry]})
        assert not loaded.devices
        text = "\n".join(f"{problem} {problem!r}" for problem in loaded.problems)
        assert "reference" in text
        assert_clean(text, "a problem")


class TestRealGateway:
    """Logs at DEBUG, state, backups, telemetry, attributes, RPC replies, the command line."""

    @pytest.fixture
    def installation(self, tmp_path: Path) -> Iterator[Installation]:
        settings = FleetSettings(tuple(LineSettings((meter(f"{index:08d}"),)) for index in range(1, 6)))
        with SimulatedFleet(settings) as fleet, ThingsBoardStandIn() as server:
            made = Installation(tmp_path, fleet, server)
            yield made
            for gateway in made.gateways:
                gateway.stop()

    @pytest.mark.contract
    @pytest.mark.slow
    def test_nothing_that_a_gateway_leaves_shows_a_secret(self, installation: Installation) -> None:
        fleet, server = installation.fleet, installation.server
        clients = (
            client_entry("low"),
            client_entry("gmac"),
            client_entry("sha256"),
            client_entry("low", password="CANARY_WRONG_PASSWORD"),
            client_entry("gmac", key="CANARY_SHORT"),
        )
        devices = [
            device_entry(fleet, serial, client=client, serverSideRpc=[{"method": "mine", "call": "read"}])
            for serial, client in zip(fleet.serials, clients, strict=True)
        ]
        configuration = {"devices": devices, "logLevel": "DEBUG", "enableRemoteLogging": True}
        levels = dict.fromkeys(
            ("connector", "converter", "service", "storage", "extension", "tb_connection"), "DEBUG"
        )
        gateway = installation.gateway(
            configuration, environment=ENVIRONMENT, log_levels=levels, remote_configuration=True
        )
        installation.wait_until_started()
        for serial in fleet.serials[:3]:
            installation.wait_for_readings(serial, 2)
        replies = []
        for serial in fleet.serials:
            patience_s = 10.0 if serial in fleet.serials[:3] else 0.5
            for method, params in (
                ("get", "1-0:1.8.0"),
                ("getStatus", None),
                ("test", None),
                ("readProfile", {"obis": "1-0:99.1.0"}),
                ("set", {"obis": "1-0:1.8.0", "value": 5}),
                ("discover", None),
                ("unknown", {"password": "x"}),
            ):
                try:
                    replies.append(server.rpc(f"meter {serial}", method, params, timeout_s=patience_s))
                except RpcTimeout:
                    continue  # a meter that never was online is no device yet
        for method in ("status", "devices", "probe", "pause", "resume", "nonsense"):
            replies.append(server.gateway_rpc(f"custom_{method}"))
        assert len(replies) > 15
        files = installation.folder / "gateway"
        config = files / "config" / "dlms_connector.json"
        self._run_command_line(config, fleet.serials[0])
        gateway.stop()
        assert_clean(json.dumps(replies), "an RPC reply")
        records = [*(server.device(name) for name in server.devices()), server.gateway()]
        assert_clean(repr(records), "the server")
        searched = 0
        for path in files.rglob("*"):
            if path.is_file() and not path.is_symlink() and "overlay" not in path.parts:
                assert_clean(path.read_bytes(), str(path.relative_to(files)))
                searched += 1
        assert searched > 5

    @staticmethod
    def _run_command_line(config: Path, serial: str) -> None:
        for arguments in (["check", str(config)], ["read", str(config), f"meter {serial}"]):
            done = subprocess.run(
                [sys.executable, "-c", "from dlms_connector.cli.main import main; main()", *arguments],
                env={**ENVIRONMENT, "PATH": "/usr/bin", "PYTHONPATH": str(Path(__file__).parents[1])},
                cwd=config.parent,
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert done.stdout
            assert_clean(done.stdout + done.stderr, arguments[0])
