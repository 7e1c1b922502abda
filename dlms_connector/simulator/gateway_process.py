"""The real thingsboard-gateway as a process, in a folder of its own.

The gateway looks for extensions inside its own package. Instead of writing into somebody's site-packages,
the process gets an overlay first on its path: a `thingsboard_gateway` of symbolic links whose `extensions`
folder alone is real.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
SHIM = _PACKAGE / "gateway" / "extension" / "dlms_extension.py"
# Read by the gateway under these plain names; each would replace a part of its configuration.
_MISLEADING_VARIABLES = {
    "host",
    "port",
    "type",
    "accessToken",
    "caCert",
    "privateKey",
    "cert",
    "clientId",
    "username",
    "password",
    "proxy_host",
    "proxy_port",
}
_RUN = "from thingsboard_gateway.tb_gateway import daemon; daemon()"
_STOP_TIMEOUT_S = 30.0

MEMORY_STORAGE = {"type": "memory", "read_records_count": 1000, "max_records_count": 100_000}


def sqlite_storage(max_read_records_count: int = 1000) -> dict[str, Any]:
    """Storage on disk, in the process's own folder."""
    return {
        "type": "sqlite",
        "data_file_path": "./data/data.db",
        "messages_ttl_check_in_hours": 1,
        "messages_ttl_in_days": 7,
        "max_read_records_count": max_read_records_count,
        "size_limit": 1024,
        "max_db_amount": 10,
    }


@dataclass
class Connector:
    """One entry of `connectors` with the content of its file."""

    name: str
    configuration: dict[str, Any]
    file: str = "dlms_connector.json"
    type: str = "custom"
    class_name: str | None = "DLMSConnector"

    def entry(self) -> dict[str, Any]:
        entry = {"type": self.type, "name": self.name, "configuration": self.file}
        if self.class_name is not None:
            entry["class"] = self.class_name
        return entry


@dataclass
class GatewayProcess:
    """Writes the folders, starts and stops the process; also a context manager.

    Args:
        folder: an empty folder for everything the process writes.
        port, host: of the ThingsBoard end point.
        storage: `MEMORY_STORAGE`, or what `sqlite_storage` returns.
        log_levels: of the gateway's loggers, e.g. {"connector": "DEBUG"}.
        extensions: more files for `extensions/custom`; the shim of this project is there if it exists.
        thingsboard: settings that override those of the `thingsboard` section.
        environment: more variables for the process.
    """

    folder: Path
    port: int
    connectors: Sequence[Connector] = ()
    storage: dict[str, Any] = field(default_factory=sqlite_storage)
    remote_configuration: bool = False
    token: str = "gateway-token"
    log_levels: dict[str, str] = field(default_factory=dict)
    extensions: Sequence[Path] = ()
    thingsboard: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] | None = None

    @property
    def config_folder(self) -> Path:
        return self.folder / "config"

    @property
    def output_file(self) -> Path:
        return self.folder / "output.log"

    def __enter__(self) -> GatewayProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> GatewayProcess:
        """Start it; on the first start the configuration is written, a later one finds what is there."""
        if not (self.config_folder / "tb_gateway.json").exists():
            self.write_configuration()
        self._link_package()
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in _MISLEADING_VARIABLES and not name.startswith("TB_GW_")
        }
        search_path = [str(self.folder / "overlay"), str(_PACKAGE.parent), environment.get("PYTHONPATH", "")]
        environment |= {
            "TB_GW_CONFIG_DIR": str(self.config_folder),
            "TB_GW_LOGS_PATH": str(self.folder / "logs"),
            "PYTHONPATH": os.pathsep.join(filter(None, search_path)),
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }
        with self.output_file.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _RUN],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is for whoever stops this process in order
            )
        return self

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> int | None:
        """SIGINT, as the unit file does; SIGKILL when that does not end it. Returns the exit status."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL: what a power cut does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(_STOP_TIMEOUT_S)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def log_text(self) -> str:
        """Everything the process printed since the first start; its console has every logger."""
        return self.output_file.read_text(errors="replace") if self.output_file.exists() else ""

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> bool:
        """Wait for a state outside this process's reach of notification; False on timeout or when it died."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if predicate():
                return True
            if not self.is_running:
                return predicate()
            time.sleep(0.05)
        return predicate()

    def wait_for_log(self, text: str, timeout_s: float) -> bool:
        return self.wait_for(lambda: text in self.log_text(), timeout_s)

    def write_configuration(self) -> None:
        """tb_gateway.json, logs.json and one file a connector."""
        for name in ("config", "logs", "data"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._write("tb_gateway.json", self._general())
        self._write("logs.json", self._logging())
        for connector in self.connectors:
            self._write(connector.file, connector.configuration)

    def _write(self, name: str, document: object) -> None:
        (self.config_folder / name).write_text(json.dumps(document, indent=2))

    def _general(self) -> dict[str, Any]:
        thingsboard = {
            "host": self.host,
            "port": self.port,
            "keep_alive": 15,
            "remoteShell": False,
            "remoteConfiguration": self.remote_configuration,
            "statistics": {"enable": False},
            "deviceFiltering": {"enable": False, "filterFile": "list.json"},
            "maxPayloadSizeBytes": 8196,
            "minPackSendDelayMS": 200,
            "minPackSizeToSend": 500,
            "checkConnectorsConfigurationInSeconds": 60,
            "handleDeviceRenaming": True,
            "security": {"type": "accessToken", "accessToken": self.token},
            "qos": 1,
            "reportStrategy": {"type": "ON_RECEIVED"},
            "checkingDeviceActivity": {"checkDeviceInactivity": False},
            **self.thingsboard,
        }
        return {
            "thingsboard": thingsboard,
            "storage": self.storage,
            "grpc": {"enabled": False},
            "connectors": [connector.entry() for connector in self.connectors],
        }

    def _logging(self) -> dict[str, Any]:
        names = ("database", "service", "connector", "converter", "tb_connection", "storage", "extension")
        text = "%(asctime)s.%(msecs)03d|%(levelname)s|%(name)s|%(threadName)s|%(message)s"
        return {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"class": "logging.Formatter", "format": text}},
            "handlers": {
                "consoleHandler": {
                    "class": "logging.StreamHandler",
                    "formatter": "line",
                    "stream": "ext://sys.stdout",
                }
            },
            "loggers": {
                name: {
                    "handlers": ["consoleHandler"],
                    "level": self.log_levels.get(name, "INFO"),
                    "propagate": False,
                }
                for name in names
            },
            "root": {"level": "ERROR", "handlers": ["consoleHandler"]},
        }

    def _link_package(self) -> None:
        overlay = self.folder / "overlay" / "thingsboard_gateway"
        if overlay.exists():
            shutil.rmtree(overlay)
        package = installed_gateway()
        _link_children(package, overlay, except_for="extensions")
        _link_children(package / "extensions", overlay / "extensions", except_for="custom")
        custom = overlay / "extensions" / "custom"
        custom.mkdir()
        for extension in [*([SHIM] if SHIM.exists() else []), *self.extensions]:
            shutil.copy(extension, custom / extension.name)


def installed_gateway() -> Path:
    """The folder of the installed thingsboard_gateway package. Raises ModuleNotFoundError."""
    spec = importlib.util.find_spec("thingsboard_gateway")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("thingsboard_gateway is not installed")
    return Path(spec.origin).parent


def _link_children(source: Path, target: Path, *, except_for: str) -> None:
    target.mkdir(parents=True)
    for child in source.iterdir():
        if child.name not in (except_for, "__pycache__"):
            (target / child.name).symlink_to(child)
