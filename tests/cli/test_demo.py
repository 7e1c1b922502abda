"""The first command of the README, as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dlms_connector.cli.demo import KEYS, METERS

REPOSITORY = Path(__file__).resolve().parents[2]
_DEMO = [sys.executable, "-c", "from dlms_connector.cli.main import main; main()", "demo"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "COLUMNS": "120"}


@pytest.mark.contract
def test_demo_once_shows_every_meter_and_ends_by_itself() -> None:
    done = subprocess.run(
        [*_DEMO, "--once"], capture_output=True, text=True, timeout=110, env=environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in METERS:
        assert name in done.stdout
    for key in KEYS:
        assert key in done.stdout
    assert "..." not in done.stdout.split("What ThingsBoard stores")[-1]
    assert "Traceback" not in done.stdout + done.stderr
    assert "assword" not in done.stdout + done.stderr


@pytest.mark.contract
def test_demo_stops_cleanly_on_ctrl_c() -> None:
    process = subprocess.Popen(
        _DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment()
    )
    killer = threading.Timer(100, process.kill)
    killer.start()
    assert process.stdout is not None
    assert "Starting" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    killer.cancel()
    assert process.wait() == 0, rest
    assert "Stopped cleanly." in rest
    assert "Traceback" not in rest


def test_a_real_server_needs_a_token() -> None:
    done = subprocess.run(
        [*_DEMO, "--host", "h"], capture_output=True, text=True, timeout=60, env=environment(), check=False
    )
    assert done.returncode == 1
    assert "--token-file" in done.stderr
    assert "Traceback" not in done.stderr
