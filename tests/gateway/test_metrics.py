"""The Prometheus endpoint: scraped over HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from dlms_connector.config.settings import HealthKey, PrometheusSettings
from dlms_connector.gateway import metrics
from dlms_connector.gateway.connector import DLMSConnector
from dlms_connector.gateway.metrics import HealthCollector, MetricsEndpoint
from dlms_connector.meter.book import Book
from dlms_connector.polling.health import Health, MeterState
from dlms_connector.simulator.fleet import FleetSettings, SimulatedFleet
from tests.gateway.test_lifecycle import Gateway, configuration
from tests.support.pollers import RecordingLog, wait_until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Poller:
    """A meter with a health of one's own choice."""

    def __init__(self, **health: Any) -> None:
        self.health = Health(**health)
        self.book = Book()

    def status(self) -> dict[str, str | int | float]:
        return {**self.health.values(), **self.book.values()}


def scrape(port: int, path: str = "/metrics", accept: str = "text/plain") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Accept": accept})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers.get("Content-Type", ""), body


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


def collector(**pollers: Poller) -> HealthCollector:
    meters: Any = pollers
    return HealthCollector("DLMS", lambda: meters, ())


@pytest.fixture
def endpoint(log: RecordingLog) -> Iterator[MetricsEndpoint]:
    online = Poller(
        state=MeterState.ONLINE,
        requests=7,
        responses=6,
        bytes_sent=70,
        bytes_received=600,
        reconnects=2,
        skipped_cycles=1,
        last_read_ms=1_700_000_000_500,
        clock_offset_s=-12.5,
    )
    online.health.cycle(True, 250.0)
    online.health.cycle(False, 0.0)
    resting = Poller(state=MeterState.BREAKER_OPEN, breaker="open", requests=1)
    serving = MetricsEndpoint(PrometheusSettings(port=0), collector(a=online, b=resting), log)
    serving.start()
    yield serving
    serving.stop()


def port_of(endpoint: MetricsEndpoint) -> int:
    assert endpoint.port is not None
    return endpoint.port


def test_what_health_says_is_what_prometheus_reads(endpoint: MetricsEndpoint) -> None:
    status, _, text = scrape(port_of(endpoint))
    assert status == 200
    read = samples(text)
    for name, value in {
        "dlms_meter_up": 1,
        "dlms_meter_success_ratio": 0.5,
        "dlms_meter_latency_seconds": 0.25,
        "dlms_meter_requests_total": 7,
        "dlms_meter_responses_total": 6,
        "dlms_meter_sent_bytes_total": 70,
        "dlms_meter_received_bytes_total": 600,
        "dlms_meter_reconnects_total": 2,
        "dlms_meter_skipped_cycles_total": 1,
        "dlms_meter_breaker_state": 0,
        "dlms_meter_last_reading_timestamp_seconds": 1_700_000_000.5,
        "dlms_meter_clock_offset_seconds": -12.5,
    }.items():
        assert read[of(name, device="a")] == value, name
    assert read[of("dlms_meter_up", device="b")] == 0
    assert read[of("dlms_meter_breaker_state", device="b")] == 2
    for unknown in ("latency_seconds", "last_reading_timestamp_seconds", "clock_offset_seconds"):
        assert of(f"dlms_meter_{unknown}", device="b") not in read
    assert read[of("dlms_connector_requests_total")] == 8
    assert read[of("dlms_connector_meters", state="online")] == 1
    assert read[of("dlms_connector_meters", state="breaker open")] == 1
    assert read[of("dlms_connector_meters", state="offline")] == 0
    assert read[of("dlms_connector_problems", severity="error")] == 0


def test_every_breaker_and_every_counter_of_health_is_known() -> None:
    shown = {key for _, key, _ in metrics._COUNTERS}
    counts = {"dlms_requests", "dlms_responses", "dlms_bytesSent", "dlms_bytesReceived", "dlms_reconnects"}
    booked = set(Book().values())
    assert shown == counts | {"dlms_skippedCycles"} | booked
    assert shown - booked <= set(HealthKey.__args__)  # type: ignore[attr-defined]


def test_openmetrics_for_who_asks_for_it(endpoint: MetricsEndpoint) -> None:
    _, kind, text = scrape(port_of(endpoint), accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics.text_string_to_metric_families(text)}
    assert {"dlms_meter_requests", "dlms_connector_requests", "dlms_connector"} <= families


def test_other_paths_and_methods_are_refused(endpoint: MetricsEndpoint) -> None:
    assert scrape(port_of(endpoint), "/")[0] == 200
    assert scrape(port_of(endpoint), "/secret")[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", port_of(endpoint), timeout=10)
    connection.request("POST", "/metrics", b"x")
    assert connection.getresponse().status == 501
    connection.close()


def test_a_device_name_with_quotes_and_lines_stays_one_label(log: RecordingLog) -> None:
    name = 'a"b\\c\nd ñ'
    serving = MetricsEndpoint(PrometheusSettings(port=0), collector(**{name: Poller()}), log)
    serving.start()
    try:
        assert of("dlms_meter_up", device=name) in samples(scrape(port_of(serving))[2])
    finally:
        serving.stop()


def test_a_client_that_drips_holds_the_others_up_for_a_moment_only(
    endpoint: MetricsEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_REQUEST_S", 0.3)
    with socket.create_connection(("127.0.0.1", port_of(endpoint))) as dripping:
        stop = threading.Event()

        def drip() -> None:
            try:
                dripping.sendall(b"GET /metrics HTTP/1.0\r\nX: ")
                while not stop.wait(0.02):
                    dripping.sendall(b"x")
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert scrape(port_of(endpoint))[0] == 200
        finally:
            stop.set()
            thread.join()


def test_garbage_is_answered_and_forgotten(endpoint: MetricsEndpoint, log: RecordingLog) -> None:
    for garbage in (b"\x00\xff\r\n\r\n", b"GET\r\n\r\n", b"G" * 70_000 + b"\r\n", b""):
        with socket.create_connection(("127.0.0.1", port_of(endpoint))) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            client.settimeout(10)
            try:
                while client.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert scrape(port_of(endpoint))[0] == 200
    assert log.of("error") == []


def test_a_collector_that_fails_is_told_and_does_not_end_the_endpoint(log: RecordingLog) -> None:
    class Broken(Collector):
        failing = False

        def collect(self) -> Any:
            if self.failing:
                raise KeyError("injected")
            return []

    broken = Broken()
    serving = MetricsEndpoint(PrometheusSettings(port=0), broken, log)
    serving.start()
    try:
        broken.failing = True
        with pytest.raises((http.client.HTTPException, OSError)):
            scrape(port_of(serving))
        broken.failing = False
        assert scrape(port_of(serving))[0] == 200
        assert len(log.of("error")) == 1
    finally:
        serving.stop()


def test_stop_leaves_no_socket_and_no_thread_even_in_the_middle_of_a_request(log: RecordingLog) -> None:
    descriptors = psutil.Process().num_fds()
    serving = MetricsEndpoint(PrometheusSettings(port=0), collector(a=Poller()), log)
    serving.start()
    port = port_of(serving)
    client = socket.create_connection(("127.0.0.1", port))
    client.sendall(b"GET /metrics HTTP/1.0\r\n")
    began_s = time.monotonic()
    serving.stop()
    assert time.monotonic() - began_s < 2
    client.close()
    assert serving.port is None
    assert "dlms metrics" not in [thread.name for thread in threading.enumerate()]
    assert psutil.Process().num_fds() <= descriptors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    serving.stop()


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    monkeypatch.chdir(tmp_path)
    return Gateway(tmp_path)


def metrics_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "dlms metrics"]


def test_a_connector_shows_its_meters_and_closes_with_everything(gateway: Gateway) -> None:
    with SimulatedFleet(FleetSettings.uniform(2)) as fleet:
        document = configuration(fleet) | {"prometheus": {"enabled": True, "port": 0}}
        connector = DLMSConnector(gateway, document, "custom")
        connector.open()
        try:
            assert connector._metrics is not None
            port = port_of(connector._metrics)
            names = [f"meter {serial}" for serial in fleet.serials]

            def all_up() -> bool:
                read = samples(scrape(port)[2])
                return all(read[of("dlms_meter_up", device=name)] == 1 for name in names)

            wait_until(all_up)
            read = samples(scrape(port)[2])
            for name in names:
                assert read[of("dlms_meter_received_bytes_total", device=name)] > 0
        finally:
            connector.close()
        assert metrics_threads() == []


def test_it_is_off_unless_it_is_wanted(gateway: Gateway) -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        connector = DLMSConnector(gateway, configuration(fleet), "custom")
        connector.open()
        try:
            gateway.sent.get(timeout=20)
            assert metrics_threads() == []
        finally:
            connector.close()


def test_a_taken_port_is_told_and_the_meters_are_polled(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        document = configuration(fleet) | {"prometheus": {"enabled": True, "port": port}}
        connector = DLMSConnector(gateway, document, "custom")
        connector.open()
        try:
            gateway.sent.get(timeout=20)
        finally:
            connector.close()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert f"port {port}" in errors[0]
