"""The Prometheus endpoint: what each meter's health says at the moment somebody asks.

Nothing is counted here and nothing costs a poll anything. One thread serves one request after the other, each
within a few seconds, so no client can tie up more than its own scrape.
"""

from __future__ import annotations

import io
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from dlms_connector.config.problems import Problem
from dlms_connector.config.settings import PrometheusSettings
from dlms_connector.gateway.status import Values, totals
from dlms_connector.polling.health import MeterState
from dlms_connector.polling.poller import DevicePoller
from dlms_connector.polling.ports import Log
from dlms_connector.version import release

_REQUEST_S: Final = 5.0
_STOP_S: Final = 1.0
_BREAKER: Final = {"closed": 0, "half-open": 1, "open": 2}
_COUNTERS: Final = (
    ("requests", "dlms_requests", "Requests sent to the meter"),
    ("responses", "dlms_responses", "Answers of the meter"),
    ("sent_bytes", "dlms_bytesSent", "Bytes on the wire to the meter"),
    ("received_bytes", "dlms_bytesReceived", "Bytes on the wire from the meter"),
    ("reconnects", "dlms_reconnects", "Attempts to connect anew"),
    ("skipped_cycles", "dlms_skippedCycles", "Polls left out because the one before took too long"),
    ("keys_asked", "dlms_keysAsked", "Keys of polls: delivered, refused, held and failed ones together"),
    ("keys_delivered", "dlms_keysDelivered", "Values that the gateway took"),
    ("keys_refused", "dlms_keysRefused", "Keys that the meter refused"),
    ("keys_held", "dlms_keysHeld", "Numbers held back because their scaler is not known"),
    ("keys_failed", "dlms_keysFailed", "Keys without an answer or with one that is no value"),
    ("rows_received", "dlms_rowsReceived", "Rows of profiles: delivered ones and those left out together"),
    ("rows_delivered", "dlms_rowsDelivered", "Rows of profiles that the gateway took"),
    ("rows_left_out", "dlms_rowsLeftOut", "Rows of profiles that were left out"),
)
_TOTALS: Final = (
    ("requests", "requests", "Requests sent to all meters"),
    ("responses", "responses", "Answers of all meters"),
    ("sent_bytes", "bytesSent", "Bytes on the wire to all meters"),
    ("received_bytes", "bytesReceived", "Bytes on the wire from all meters"),
)


class HealthCollector(Collector):
    """Metrics of a connector and its meters, made when they are asked for."""

    def __init__(
        self, connector: str, pollers: Callable[[], Mapping[str, DevicePoller]], problems: Iterable[Problem]
    ) -> None:
        self._connector = connector
        self._pollers = pollers
        severities = [problem.severity for problem in problems]
        self._problems = {severity: severities.count(severity) for severity in ("error", "warning")}

    def collect(self) -> Iterator[Metric]:
        meters = {name: poller.status() for name, poller in self._pollers().items()}
        yield from self._of_the_connector(meters)
        yield from _gauges(meters)
        for name, key, text in _COUNTERS:
            counter = CounterMetricFamily(f"dlms_meter_{name}", text, labels=["device"])
            for device, values in meters.items():
                counter.add_metric([device], float(values[key]))
            yield counter

    def _of_the_connector(self, meters: Mapping[str, Values]) -> Iterator[Metric]:
        about = {"connector": self._connector, "version": release()}
        yield InfoMetricFamily("dlms_connector", "Name and release of the connector", value=about)
        together = totals(meters.values())
        states = GaugeMetricFamily("dlms_connector_meters", "Meters by state", labels=["state"])
        for state in MeterState:
            states.add_metric([str(state)], together["states"].get(str(state), 0))
        yield states
        problems = GaugeMetricFamily(
            "dlms_connector_problems", "Problems of the configuration", labels=["severity"]
        )
        for severity, count in self._problems.items():
            problems.add_metric([severity], count)
        yield problems
        for name, key, text in _TOTALS:
            yield CounterMetricFamily(f"dlms_connector_{name}", text, value=together[key])


def _gauges(meters: Mapping[str, Values]) -> Iterator[Metric]:
    """What rises and falls; a meter has no sample of what is not known of it."""
    rows: tuple[tuple[str, str, Callable[[Values], float | None]], ...] = (
        ("up", "1 while the meter answers", lambda values: values["dlms_state"] == str(MeterState.ONLINE)),
        (
            "success_ratio",
            "Good polls among the last hundred",
            lambda values: float(values["dlms_successRate"]) / 100,
        ),
        (
            "latency_seconds",
            "Time of a poll, smoothed",
            lambda values: float(values["dlms_latencyMs"]) / 1000 or None,
        ),
        (
            "breaker_state",
            "0 closed, 1 half-open, 2 open: the meter is left alone for a while",
            lambda values: _BREAKER[str(values["dlms_breaker"])],
        ),
        (
            "last_reading_timestamp_seconds",
            "When the last reading came",
            lambda values: float(values["lastReadTs"]) / 1000 or None,
        ),
        (
            "clock_offset_seconds",
            "How far the meter's clock is ahead, when it was last looked at",
            lambda values: float(values["dlms_clockOffset"]) if "dlms_clockOffset" in values else None,
        ),
    )
    for name, text, value_of in rows:
        gauge = GaugeMetricFamily(f"dlms_meter_{name}", text, labels=["device"])
        for device, values in meters.items():
            value = value_of(values)
            if value is not None:
                gauge.add_metric([device], float(value))
        yield gauge


class MetricsEndpoint:
    """`GET /metrics` on an address of the configuration."""

    def __init__(self, settings: PrometheusSettings, collector: Collector, log: Log) -> None:
        self._settings = settings
        self._log = log
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(collector)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int | None:
        """The port that is listened on; None while there is none."""
        return self._server.server_address[1] if self._server is not None else None

    def start(self) -> None:
        """Listen; what does not work is told, and the meters are polled without it."""
        address = (self._settings.host, self._settings.port)
        try:
            self._server = _Server(address, self._registry, self._log)
        except OSError as error:
            self._log.error("no metrics on %s port %d: %s", *address, error.strerror or error)
            return
        self._thread = threading.Thread(target=self._server.serve_forever, name="dlms metrics", daemon=True)
        self._thread.start()
        self._log.info("metrics on http://%s:%d/metrics", self._settings.host, self.port)

    def stop(self) -> None:
        """Close the socket and end the thread, also in the middle of a request."""
        if self._server is None or self._thread is None:
            return
        self._server.end()
        self._thread.join(_STOP_S)
        self._server.server_close()
        self._server = None


class _Server(HTTPServer):
    """One request at a time; `end` does not wait for a client."""

    request_queue_size = 16
    allow_reuse_port = False

    def __init__(self, address: tuple[str, int], registry: CollectorRegistry, log: Log) -> None:
        self.registry = registry
        self._log = log
        self._lock = threading.Lock()
        self._current: socket.socket | None = None
        self._ending = False
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As the socket server does it; the HTTP server's would ask the resolver for our name."""
        super(HTTPServer, self).server_bind()

    def verify_request(self, request: Any, _: Any) -> bool:
        with self._lock:
            self._current = request
            return not self._ending

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._current = None
        super().shutdown_request(request)

    def handle_error(self, _: Any, client: Any) -> None:
        """A client that went away or dawdled is its own affair; anything else is ours."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._log.debug("a request for metrics from %s ended early: %s", client[0], error)
        else:
            self._log.error("a request for metrics from %s failed: %r", client[0], error)

    def end(self) -> None:
        with self._lock:
            self._ending = True
            if self._current is not None:
                with suppress(OSError):
                    self._current.shutdown(socket.SHUT_RDWR)
        self.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version = "dlms-connector"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Deadlined(self.connection, time.monotonic() + _REQUEST_S))

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in ("/", "/metrics"):
            self.send_error(404)
            return
        encode, content_type = choose_encoder(self.headers.get("Accept") or "")
        body = encode(self.server.registry)
        self.connection.settimeout(_REQUEST_S)
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Scrapes are no events."""


class _Deadlined(io.RawIOBase):
    """Reads of a socket that end at one moment all together, however slowly the peer drips."""

    def __init__(self, connection: socket.socket, deadline_s: float) -> None:
        super().__init__()
        self._connection = connection
        self._deadline_s = deadline_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left_s)
        return self._connection.recv_into(buffer)
