"""What a release consists of: the script, the unit, the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.install.setup_script import PROJECT, Setup, clean_environment

SCRIPTS = [PROJECT / "setup_gateway.sh", *sorted((PROJECT / "config/install").glob("*.sh"))]


def witness(name: str) -> str:
    """A tool that a developer's machine may lack and CI must not."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("DLMS_REQUIRE_WITNESSES") == "1":
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return path


def test_shellcheck_has_nothing_to_say():
    done = subprocess.run(
        [witness("shellcheck"), "-xa", "setup_gateway.sh"],
        cwd=PROJECT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout == ""
    assert done.returncode == 0


def test_the_unit_is_verified_and_its_score_is_the_documented_one(tmp_path: Path):
    analyze = witness("systemd-analyze")
    unit = tmp_path / "tb-gateway.service"
    text = (PROJECT / "tb-gateway.service").read_text()
    # Its command is there once it is installed.
    unit.write_text(re.sub(r"(?m)^ExecStart=.*$", "ExecStart=/bin/true", text))
    done = subprocess.run([analyze, "verify", unit], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    scored = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", unit],
        check=False,
        capture_output=True,
        text=True,
    )
    score = re.search(r"exposure level for tb-gateway.service: (\S+)", scored.stdout)
    assert score is not None, scored.stdout + scored.stderr
    documented = re.search(
        r"exposure level for tb-gateway.service: (\S+)", (PROJECT / "docs/install.md").read_text()
    )
    assert documented is not None
    # Each systemd weighs a little differently; a line of hardening that is lost is a larger step.
    assert float(score[1]) <= float(documented[1]) + 0.3


def test_the_units_user_may_reach_serial_ports_and_the_gateway_gets_sigint():
    text = (PROJECT / "tb-gateway.service").read_text()
    for line in ("KillSignal=SIGINT", "TimeoutStopSec=30", "UMask=0077", "SupplementaryGroups=dialout"):
        assert line in text
    assert "ExecStop" not in text


def test_every_phrase_is_there_in_both_languages():
    """A name that the catalogue lacks would end the script; formats must take the same values in both."""
    catalogue = PROJECT / "config/install/messages.sh"
    loop = """for name in "${!MESSAGES[@]}"; do printf '%s\\0%s\\0' "$name" "${MESSAGES[$name]}"; done"""
    phrases = {}
    for language in ("C.UTF-8", "es_CO.UTF-8"):
        done = subprocess.run(
            ["bash", "-c", f". {catalogue}; {loop}"],
            check=True,
            capture_output=True,
            text=True,
            env=clean_environment(LANG=language),
        )
        words = done.stdout.split("\0")[:-1]
        phrases[language] = dict(zip(words[::2], words[1::2], strict=True))
    english, spanish = phrases["C.UTF-8"], phrases["es_CO.UTF-8"]
    for name, text in english.items():
        assert text.count("%s") == spanish[name].count("%s"), name
        assert text != spanish[name] or name in ("check_todo", "c_modes_do", "c_service_do"), name
    lines = [line for script in SCRIPTS for line in script.read_text().splitlines() if script != catalogue]
    code = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    used = set(re.findall(r"\b(?:say|warn|fail|phrase|good|note|bad) ([a-z][a-z_]+)", code))
    used |= set(re.findall(r" -- ([a-z][a-z_]+)", code))
    assert used - set(english) == set()
    assert set(english) - used == set()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["nonsense"], {}, "unknown command 'nonsense'"),
        (["nonsense"], {"LANG": "es_CO.UTF-8"}, "orden desconocida 'nonsense'"),
        (["nonsense"], {"LC_ALL": "es_ES.UTF-8"}, "orden desconocida 'nonsense'"),
        (["install", "--hots", "h"], {}, "unknown option '--hots'"),
        (["install", "--host"], {}, "--host needs a value"),
        (["install", "--token", "secret"], {}, "unknown option '--token'"),
        (["install", "--root", "/nonexistent-root", "--yes"], {}, "--host HOST"),
        (["install", "--root", "/nonexistent-root", "--yes", "--host", "h"], {}, "--token-file FILE"),
        (
            ["install", "--root", "/nonexistent-root", "--host", "h", "--port", "70000"],
            {},
            "'70000' is not a port",
        ),
        (["install", "--root", "/nonexistent-root", "--host", "h;x"], {}, "'h;x' is not a host name"),
        (
            ["install", "--root", "/nonexistent-root", "--host", "h", "--ca", "/no/ca"],
            {},
            "/no/ca cannot be read",
        ),
        (["upgrade", "--root", "/nonexistent-root"], {}, "nothing was installed"),
        (["check", "--root", "/nonexistent-root"], {}, "is not installed"),
    ],
)
def test_a_wrong_command_is_told_in_plain_words(arguments, environment, words):
    done = Setup(PROJECT)(*arguments, env=environment)
    assert done.returncode == 1
    assert words in done.stderr
    assert not Path("/nonexistent-root").exists()


@pytest.mark.parametrize("token", ["", "two words", "quo'te", "line\nline", "ünï"])
def test_a_token_that_no_environment_file_can_hold_is_refused_without_being_shown(tmp_path, token):
    (tmp_path / "token").write_text(token)
    done = Setup(PROJECT)(
        "install", "--root", tmp_path / "root", "--yes", "--host", "h", "--token-file", tmp_path / "token"
    )
    assert done.returncode == 1
    assert "is not one line of printable characters" in done.stderr
    assert not token or token not in done.stdout + done.stderr
    assert not (tmp_path / "root").exists()


@pytest.mark.slow
def test_the_wheel_has_everything_that_runs(wheelhouse):
    (wheel,) = wheelhouse.glob("dlms_connector-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"dlms_connector/py.typed", "dlms_connector/gateway/extension/dlms_extension.py"}
    for pattern in ("*.py", "*.json"):
        expected |= {
            str(path.relative_to(PROJECT)) for path in (PROJECT / "dlms_connector/config").rglob(pattern)
        }
    assert expected <= names
    assert not {name for name in names if name.startswith(("tests/", "build/"))}
