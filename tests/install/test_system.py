"""Without --root, on this machine's own paths: in a mount namespace whose /etc, /opt, /var and /run are thrown away."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.install.setup_script import Setup, clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ISOLATE = """
set -eu
copy=$(mktemp -d)
for folder in /etc /usr/local/bin; do
  mkdir -p "$copy$folder"
  cp -a "$folder/." "$copy$folder"
done
for folder in /opt /var/lib /var/log /run; do mkdir -p "$copy$folder"; done
mkdir -p "$copy/run/systemd/system"
for folder in /etc /usr/local/bin /opt /var/lib /var/log /run; do mount --bind "$copy$folder" "$folder"; done
look() {
  (cd "$copy" && find etc usr opt var run ! -name '*-' ! -name .pwd.lock -printf '%p %M %u %g %l %s\\n' | sort)
}
"""
SYSTEMCTL = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$1" in is-active) [ -e "$CALLS.up" ] ;; esac
"""


@pytest.fixture
def in_namespace(tmp_path: Path, setup: Setup, wheelhouse: Path, token_file: Path):
    """Runs shell text in the namespace, with `systemctl` replaced by one that writes down its calls."""
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /opt"]
    if os.geteuid() != 0 or subprocess.run(probe, check=False, capture_output=True).returncode != 0:
        pytest.skip("mount namespaces need rights that these tests do not have")
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "systemctl").write_text(SYSTEMCTL)
    (tools / "systemctl").chmod(0o755)
    options = f"--yes --host h --token-file {token_file} --wheelhouse {wheelhouse}"
    install = f"{setup.project}/setup_gateway.sh install {options}"

    def run(text: str) -> str:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", ISOLATE + text.replace("INSTALL", install)],
            check=False,
            capture_output=True,
            text=True,
            env=clean_environment(
                PATH=f"{tools}:{os.environ['PATH']}", CALLS=str(tmp_path / "calls"), TMPDIR=str(tmp_path)
            ),
            cwd="/",
            timeout=110,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_install_starts_the_service_and_the_loader_finds_the_system_folder(in_namespace, tmp_path, setup):
    (tmp_path / "calls.up").touch()
    told = in_namespace(
        f"""
look >before
INSTALL
id tb-gateway
/usr/local/bin/dlms-connector extension path
/usr/local/bin/dlms-connector extension check
{setup.project}/setup_gateway.sh stop
{setup.project}/setup_gateway.sh uninstall --yes --purge >/dev/null
look >after
diff before after
""".replace("before", f"{tmp_path}/before").replace("after", f"{tmp_path}/after")
    )
    assert "(tb-gateway)" in told
    assert "\n/var/lib/thingsboard_gateway/extensions/custom\n" in told
    assert "/var/lib/thingsboard_gateway/extensions/custom/dlms_extension.py: has DLMSConnector" in told
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.index("daemon-reload") < calls.index("restart tb-gateway") < calls.index("stop tb-gateway")
    assert "disable --now tb-gateway" in calls


def test_a_service_that_does_not_stay_up_leaves_the_machine_as_it_was(in_namespace, tmp_path):
    in_namespace(
        """
look >before
if INSTALL 2>errors; then exit 1; fi
look >after
diff before after
""".replace("before", f"{tmp_path}/before")
        .replace("after", f"{tmp_path}/after")
        .replace("errors", f"{tmp_path}/errors")
    )
    errors = (tmp_path / "errors").read_text()
    assert "the service does not stay up" in errors
    assert "everything is as it was before" in errors
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-2:] == ["stop tb-gateway", "daemon-reload"]
