import json
import subprocess
import sys

import pytest

from dlms_connector.cli.main import COMMANDS, main

GOOD = {
    "devices": [
        {
            "deviceName": "m",
            "transport": {"host": "h"},
            "client": {"address": 1, "authentication": "low", "password": "${env:CHECK_PASSWORD}"},
            "pollPeriod": 500,
            "timeseries": ["voltage_l1", {"key": "active_energy", "pollPeriod": 1000}],
        }
    ]
}


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("CHECK_PASSWORD", raising=False)

    def check(content, *options):
        path = tmp_path / "c.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return check_path(path, *options)

    def check_path(path, *options):
        with pytest.raises(SystemExit) as ended:
            main(["check", str(path), *options])
        return ended.value.code, capsys.readouterr().out

    check.path = check_path
    return check


def test_a_sound_file_is_summed_up(run, monkeypatch):
    monkeypatch.setenv("CHECK_PASSWORD", "12345678")
    code, out = run(GOOD)
    assert code == 0
    assert "sound" in out
    assert ["registers", "a", "second", "3"] in [line.split() for line in out.splitlines()]
    assert "12345678" not in out


def test_a_secret_that_is_missing_here_is_a_warning_or_on_request_an_error(run):
    code, out = run(GOOD)
    assert code == 0
    assert "CHECK_PASSWORD is not set" in out
    code, out = run(GOOD, "--secrets")
    assert code == 1


@pytest.mark.parametrize(
    ("suite", "key", "words"),
    [
        (0, "00" * 16, ""),
        (0, "00" * 15, "has 15 bytes; this security suite takes 16"),
        (2, "00" * 16, "has 16 bytes; this security suite takes 32"),
        (0, "not-hex-canary", "is not hexadecimal"),
    ],
)
def test_keys_of_a_wrong_length_are_told_with_their_path(run, monkeypatch, suite, key, words):
    monkeypatch.setenv("CHECK_KEY", key)
    security = {"suite": suite, "encryptionKey": "${env:CHECK_KEY}", "authenticationKey": "${env:CHECK_KEY}"}
    client = {"authentication": "gmac", "security": security}
    code, out = run({"devices": [{**GOOD["devices"][0], "client": client}]}, "--secrets", "--json")
    problems = json.loads(out)["problems"]
    assert code == (1 if words else 0)
    assert [(problem["path"], words in problem["message"]) for problem in problems] == (
        [("$.devices[0].client.security.encryptionKey", True)] if words else []
    )
    assert "canary" not in out


def test_every_problem_is_told_with_path_and_hint(run):
    code, out = run(
        {"devices": [{"deviceName": "m", "pollperiod": 5, "transport": {"host": "h", "port": "x"}}]}
    )
    assert code == 1
    assert "$.devices[0].pollperiod" in out
    assert 'did you mean "pollPeriod"?' in out
    assert "$.devices[0].transport.port" in out


def test_the_result_as_json_is_for_programs(run):
    code, out = run(GOOD, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["ok"], result["devices"], result["lines"], result["registersPerSecond"]) == (
        True,
        1,
        1,
        3.0,
    )
    assert result["problems"][0]["severity"] == "warning"
    code, out = run({"devices": 5}, "--json")
    assert (code, json.loads(out)["problems"][0]["path"]) == (1, "$.devices")


@pytest.mark.parametrize("content", [b"\x00\xff\xfe", b"{", b"[]", b'"x"', b'{"devices": [{}]}', b"{\x00}"])
def test_no_content_gives_a_traceback(run, content):
    code, out = run(content)
    assert code == 1
    assert "error" in out
    assert "Traceback" not in out


def test_a_file_that_is_not_there_or_a_directory_is_told(run, tmp_path):
    assert run.path(tmp_path / "none.json")[0] == 1
    code, out = run.path(tmp_path)
    assert code == 1
    assert "is a directory" in out


def test_markup_in_names_is_printed_and_not_obeyed(run):
    code, out = run({"devices": [{"deviceName": "[red]x[/]", "transport": 5}]})
    assert code == 1
    assert "[red]x[/]" in out


def test_the_command_line_imports_only_the_command_that_is_called():
    script = (
        "import sys\n"
        "from dlms_connector.cli.main import build_app\n"
        "build_app(['check', 'x'])\n"
        "heavy = [m for m in ('thingsboard_gateway', 'dlms_cosem', 'matplotlib', 'requests',"
        " 'dlms_connector.migration.bridge_db') if m in sys.modules]\n"
        "sys.exit(repr(heavy) if heavy else 0)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=60
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_and_version_are_there_for_every_command(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out


def test_an_unknown_command_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["chek"])
    assert ended.value.code == 2
