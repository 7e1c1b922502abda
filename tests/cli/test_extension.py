"""`dlms-connector extension`: the loader's way, and the knock at the server."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dlms_connector.cli import extension
from dlms_connector.cli.main import main
from dlms_connector.cli.server_check import Server, ServerAnswer, ask_server, connect_packet, read_server
from dlms_connector.errors import CommandError
from dlms_connector.simulator.thingsboard import ThingsBoardStandIn

PROJECT = Path(__file__).resolve().parents[2]
RIGHT = "right"


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv(
        "PYTHONPATH", str(PROJECT)
    )  # the gateway's environment, where the package may be vendored

    def call(*words: str | Path) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main(["extension", *map(str, words)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out + captured.err

    return call


def test_the_systems_folder_is_first_if_it_exists_and_the_only_one_without_a_gateway(
    monkeypatch, tmp_path, run
):
    package = extension.search_folders()[-1]
    assert package.parts[-2:] == ("thingsboard_gateway", "extensions")
    monkeypatch.setattr(extension, "SYSTEM_FOLDER", tmp_path / "absent")
    assert extension.search_folders() == [package]
    monkeypatch.setattr(extension, "SYSTEM_FOLDER", tmp_path)
    assert extension.search_folders() == [tmp_path, package]
    assert run("path") == (0, f"{tmp_path}/custom\n")
    monkeypatch.setattr(extension.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(extension, "SYSTEM_FOLDER", tmp_path / "absent")
    assert run("path") == (0, f"{tmp_path}/absent/custom\n")


def test_install_check_and_remove(tmp_path, run):
    assert run("check", "--extensions", tmp_path)[0] == 1
    assert run("install", "--extensions", tmp_path)[0] == 0
    shim = tmp_path / "custom/dlms_extension.py"
    assert shim.read_bytes() == extension.SHIM.read_bytes()
    assert shim.stat().st_mode & 0o777 == 0o644
    code, told = run("check", "--extensions", tmp_path)
    assert (code, told) == (0, f"{shim}: has DLMSConnector; the gateway will use this one\n")
    assert run("remove", "--extensions", tmp_path)[0] == 0
    assert list((tmp_path / "custom").iterdir()) == []


def test_a_file_that_is_not_ours_is_neither_replaced_nor_removed(tmp_path, run):
    theirs = tmp_path / "custom/dlms_extension.py"
    theirs.parent.mkdir()
    theirs.write_text("class Another: pass\n")
    for command in ("install", "remove"):
        code, told = run(command, "--extensions", tmp_path)
        assert code == 1
        assert "is not this extension" in told
    assert theirs.read_text() == "class Another: pass\n"


@pytest.mark.parametrize(
    ("source", "words", "goes_on"),
    [
        ("import nothing_of_this_name\n", "No module named 'nothing_of_this_name'; the loader goes on", True),
        ("class Another: pass\n", "has no DLMSConnector; the loader goes on", True),
        ("1 / 0\n", "ZeroDivisionError: division by zero", False),
        ("def broken(:\n", "SyntaxError", False),
        ("import os; os._exit(3)\n", "ends the process with 3", False),
    ],
)
def test_each_fault_of_a_file_beside_it_is_told_as_the_loader_takes_it(tmp_path, run, source, words, goes_on):
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom/other.py").write_text(source)
    (tmp_path / "custom/__init__.py").write_text("1 / 0")
    code, told = run("check", "--extensions", tmp_path)
    assert code == 1
    assert words in told
    assert ("no file has DLMSConnector" in told) is goes_on
    assert ("the loader stops searching" in told) is not goes_on


def test_the_gateways_settings_are_read_as_the_gateway_reads_them(tmp_path, monkeypatch):
    for name in ("HOST", "PORT", "ACCESS_TOKEN", "CA_CERT"):
        monkeypatch.delenv(f"TB_GW_{name}", raising=False)
    file = tmp_path / "tb_gateway.json"
    file.write_text(
        '{"thingsboard": {"host": "a", "port": 1, "security": {"accessToken": "t", "caCert": "ca.pem"}}}'
    )
    server = read_server(tmp_path)
    assert server == Server("a", 1, "t", True, tmp_path / "ca.pem")
    assert "'t'" not in repr(server)
    monkeypatch.setenv("TB_GW_ACCESS_TOKEN", "u")
    monkeypatch.setenv("TB_GW_HOST", "b")
    monkeypatch.setenv("TB_GW_PORT", "2")
    assert read_server(tmp_path) == Server("b", 2, "u", True, tmp_path / "ca.pem")


@pytest.mark.parametrize(
    "text", [None, "{", "[]", '{"thingsboard": {}}', '{"thingsboard": {"host": "a", "port": "x"}}']
)
def test_what_is_no_configuration_is_told(tmp_path, text):
    if text is not None:
        (tmp_path / "tb_gateway.json").write_text(text)
    with pytest.raises(CommandError, match=r"tb_gateway\.json"):
        read_server(tmp_path)


def plain(port: int, token: str = RIGHT, *, host: str = "127.0.0.1") -> Server:
    return Server(host, port, token, tls=False, ca_file=None)


@pytest.mark.parametrize("length", [1, 20, 120, 300])
def test_the_token_is_accepted_or_refused(length):
    token = "t" * length
    with ThingsBoardStandIn(tokens=[token]) as server:
        assert ask_server(plain(server.port, token)) is ServerAnswer.ACCEPTED
        assert ask_server(plain(server.port, "wrong")) is ServerAnswer.REFUSED
        assert ask_server(plain(server.port, "")) is ServerAnswer.NO_TOKEN


def test_no_server_and_no_such_host():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert ask_server(plain(port)) is ServerAnswer.UNREACHABLE
    assert ask_server(plain(port, host="no-such-host.invalid"), 5) is ServerAnswer.UNKNOWN_HOST


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00", None])
def test_something_else_that_answers(answer):
    """None: it says nothing at all, until the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask_server(plain(listener.getsockname()[1]), 0.3) is ServerAnswer.NOT_MQTT
        done.set()
        thread.join(10)


def write_certificate(folder: Path) -> None:
    """`cert` and `key` for localhost, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


def test_a_server_with_tls(tmp_path):
    """Its own authority accepts it, the system's do not know it, and MQTT without TLS gets no answer."""
    write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            for _ in range(3):
                connection, _ = listener.accept()
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1000)
                        secured.sendall(b"\x20\x02\x00\x00")
                        secured.recv(1000)
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        assert ask_server(Server("localhost", port, "t", True, tmp_path / "cert"), 5) is ServerAnswer.ACCEPTED
        assert ask_server(Server("localhost", port, "t", True, None), 5) is ServerAnswer.BAD_CERTIFICATE
        assert ask_server(plain(port), 5) is ServerAnswer.NOT_MQTT
        thread.join(10)


def test_the_packet_is_mqtt_3_1_1():
    """OASIS MQTT 3.1.1, 3.1: fixed header, remaining length over one and two bytes, name, level 4, flags, user name."""
    packet = connect_packet("abc")
    assert packet[:1] == b"\x10"
    assert packet[1] == len(packet) - 2
    assert packet[2:12] == b"\x00\x04MQTT\x04\x82\x00\x1e"
    assert packet.endswith(b"\x00\x03abc")
    long = connect_packet("a" * 200)
    assert (long[1] & 0x7F) + (long[2] << 7) == len(long) - 3
