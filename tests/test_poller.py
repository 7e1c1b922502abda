"""State by fault: whatever breaks and wherever, the meter comes back, its values stay true, nobody else notices.

Each row of a table is one meter of its own; the meters of a state run side by side with healthy ones.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.values import DataType, TypedValue
from dlms_connector.errors import CommandError, DlmsConnectorError, LinkError
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.polling.poller import UNBALANCED
from dlms_connector.polling.ports import Command
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.line import LineConnection
from dlms_connector.simulator.meter import ClientSettings, LogicalDevice, MeterSettings
from dlms_connector.simulator.quantities import scaled_value
from tests.support.pollers import RunningPollers, wait_until
from tests.support.readers import device_settings
from tests.support.simulated import (
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    clients,
    secured_client,
)

TIMEOUT_MS = 300
PERIOD_MS = 500
BACKOFF_CAP_MS = 400
HEALTHY = 4
RECOVERY_S = 3 * TIMEOUT_MS / 1000 + BACKOFF_CAP_MS / 1000 + PERIOD_MS / 1000 + 1.5
"""The failed request with its retries and goodbye, the longest pause, one period, and a loaded machine."""
SECRET = b"0123456789abcdef"
KEYS = ["voltage_l1", "voltage_l2", "voltage_l3", "current_l1", "frequency", "active_energy", "active_power"]
PROFILE = {"obis": "1-0:99.1.0", "backfill": "3h", "pollPeriod": 1000, "overlap": 0}
LONG_OBIS = "0-0:96.1.9"
LONG = {"key": "long", "obis": LONG_OBIS, "class": 1, "type": "text"}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLER_PASSWORD", SECRET.decode())
    monkeypatch.setenv("POLLER_EK", ENCRYPTION_KEYS[0].hex())
    monkeypatch.setenv("POLLER_AK", AUTHENTICATION_KEYS[0].hex())


Happening = Callable[[SimulatedFleet, str], None]


CLIENTS: dict[str, dict[str, Any]] = {
    WRAPPER: {"address": 1, "authentication": "md5", "password": "${env:POLLER_PASSWORD}"},
    HDLC: {
        "address": 1,
        "authentication": "gmac",
        "security": {
            "clientSystemTitle": CLIENT_TITLE.hex(),
            "encryptionKey": "${env:POLLER_EK}",
            "authenticationKey": "${env:POLLER_AK}",
        },
    },
}
SERVED = {WRAPPER: ClientSettings(1, 3, SECRET), HDLC: secured_client(5)}


@dataclass(frozen=True)
class Row:
    """One fault in one state."""

    name: str
    fault: Fault


_LINE_FAULTS = (
    FaultKind.SILENT,
    FaultKind.CLOSE,
    FaultKind.RESET,
    FaultKind.HALF_CLOSE,
    FaultKind.TRUNCATED,
    FaultKind.GARBAGE,
    FaultKind.EXTRA_BYTES,
    FaultKind.BAD_FCS,
    FaultKind.WRONG_ADDRESS,
    FaultKind.DUPLICATE,
)
_ACCESS_CODES = (1, 2, 3, 4, 9, 11, 12, 13, 14, 15, 16, 19, 250)


def rows(stage: Stage, skip: int) -> Iterator[Row]:
    """Every fault that an answer of this stage can have."""

    def row(kind: FaultKind, *, delay_s: float = 0.0, code: int = 0, count: int = 1, note: str = "") -> Row:
        name = " ".join(filter(None, (kind.value, note, str(code) if code else "")))
        return Row(name, Fault(kind, stage, count=count, skip=skip, delay_s=delay_s, code=code))

    yield from (row(kind) for kind in _LINE_FAULTS)
    if stage is not Stage.RLRQ and stage is not Stage.GET_NEXT:
        yield row(FaultKind.SILENT, count=3, note="three times")
    yield row(FaultKind.DRIP, delay_s=0.001, note="fast")
    yield row(FaultKind.DRIP, delay_s=0.05, note="slow")
    yield row(FaultKind.LATE, delay_s=TIMEOUT_MS / 1000 * 0.5, note="in time")
    yield row(FaultKind.LATE, delay_s=TIMEOUT_MS / 1000 * 1.3)
    if stage in (Stage.SNRM, Stage.DISC):
        return
    if stage is Stage.AARQ:
        yield from (row(FaultKind.AARE_REFUSAL, code=code) for code in range(15))
        yield from (row(FaultKind.AARE_PROVIDER_REFUSAL, code=code) for code in range(3))
    if stage in (Stage.AARQ, Stage.RLRQ):
        yield from (row(FaultKind.EXCEPTION, code=code) for code in (1, 2, 3, 4, 5, 6))
        yield row(FaultKind.SERVICE_ERROR)
        return
    yield row(FaultKind.WRONG_INVOKE_ID)
    yield from (row(FaultKind.EXCEPTION, code=code) for code in (1, 2, 3, 4, 5))
    yield row(FaultKind.SERVICE_ERROR)
    yield from (row(FaultKind.ACCESS_ERROR, code=code) for code in _ACCESS_CODES)


@dataclass(frozen=True)
class State:
    """A state of the poller, and how a meter is made and kept in it."""

    stage: Stage
    skip: int = 0
    entry: dict[str, Any] = field(default_factory=dict)
    max_pdu_bytes: int = 1024
    provoke: str = ""


STATES = {
    "SNRM": State(Stage.SNRM, provoke="drop"),
    "AARQ": State(Stage.AARQ, provoke="drop"),
    "HLS pass": State(Stage.HLS, provoke="drop"),
    "GET": State(Stage.GET, skip=1, entry={"useLists": False}),
    "block k": State(Stage.GET_NEXT, skip=1, entry={"timeseries": [*KEYS, LONG]}, max_pdu_bytes=100),
    "list": State(Stage.GET_LIST),
    "profile": State(Stage.GET, entry={"profiles": [PROFILE]}, provoke="start"),
    "profile rows": State(
        Stage.GET, 6, {"profiles": [PROFILE]}, provoke="start"
    ),  # after columns and scalers
    "profile block": State(Stage.GET_NEXT, 0, {"profiles": [PROFILE]}, max_pdu_bytes=250, provoke="start"),
    "RLRQ": State(Stage.RLRQ, provoke="pause"),
    "DISC": State(Stage.DISC, provoke="pause"),
}


def meter(serial: str, framing: str, max_pdu_bytes: int = 1024) -> LineSettings:
    settings = MeterSettings(
        serial, clients=clients(SERVED[framing]), max_pdu_bytes=max_pdu_bytes, profile_rows=40
    )
    return LineSettings((settings,), framing=framing)


def entry_for(fleet: SimulatedFleet, serial: str, **more: Any) -> DeviceSettings:
    framing = fleet.fleet.line_of(serial).settings.framing
    use_lists = more.pop("useLists", True)
    settings: dict[str, Any] = {
        "client": CLIENTS[framing] | {"useLists": use_lists},
        "timeout": TIMEOUT_MS,
        "pollPeriod": PERIOD_MS,
        "timeseries": KEYS,
        "backoff": {"initial": 50, "maximum": BACKOFF_CAP_MS},
        "breaker": {"reconnects": 1000},
        "refusedRegisterPeriod": 1000,
        "transport": {"hdlc": {"responseTimeout": TIMEOUT_MS // 3}},
        **more,
    }
    return device_settings(fleet, serial, **settings)


def _serial(index: int) -> str:
    return f"{index + 1:08d}"


@pytest.mark.slow
@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
@pytest.mark.parametrize("name", STATES)
def test_every_fault_in_every_state(name: str, framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlms_connector.meter.profile.task._RETRY_S", 1.0)
    state = STATES[name]
    if framing == WRAPPER and state.stage in (Stage.SNRM, Stage.DISC):
        pytest.skip("the wrapper has no connection of its own")
    chosen = [
        row
        for row in rows(state.stage, state.skip)
        # HDLC repeats the lost frame within the request, so there are no three of them.
        if framing == WRAPPER or row.fault.count == 1 or state.stage in (Stage.SNRM, Stage.DISC)
    ]
    table = {_serial(index): row for index, row in enumerate(chosen)}
    healthy = [_serial(len(table) + index) for index in range(HEALTHY)]
    lines = [meter(serial, framing, state.max_pdu_bytes) for serial in table]
    lines += [meter(serial, framing) for serial in healthy]
    with SimulatedFleet(FleetSettings(tuple(lines))) as fleet:
        running = RunningPollers(fleet)
        for serial, row in table.items():
            fleet.override(serial, 1, Obis.parse(LONG_OBIS), 2, long_value(serial))
            running.add(entry_for(fleet, serial, **state.entry))
            if state.provoke == "start":
                fleet.inject(serial, row_fault(row))
        for serial in healthy:
            running.add(entry_for(fleet, serial))
        began_s = time.time()
        with running:
            if state.provoke != "start":
                running.wait_for_readings(more=2 * len(KEYS))
                for serial, row in table.items():
                    fleet.inject(serial, row_fault(row))
                    provoke(running, serial, state.provoke)
            recoveries = _recoveries(running, table)
            for serial, row in table.items():
                assert recoveries[serial] < RECOVERY_S * _rounds(row.fault), (row.name, recoveries[serial])
            running.check_values()
            check_long_values(running)
            if "profiles" in state.entry:
                for serial, row in table.items():
                    check_profile(running, serial, row.name, began_s)
            running.check_punctual(healthy, PERIOD_MS / 1000)
        totals = fleet.totals().meters
        assert totals.associations_open_max == 1
        assert totals.replays == 0


def _rounds(fault: Fault) -> int:
    """The last of several faults counts, but the pauses have grown by then."""
    return 2 if (fault.count or 1) > 1 else 1


def row_fault(row: Row) -> Fault:
    """An order of its own: the meter counts it down."""
    return replace(row.fault)


def long_value(serial: str) -> TypedValue:
    """An octet-string of many blocks."""
    return TypedValue(DataType.OCTET_STRING, (f"meter {serial} " * 30).encode())


def check_long_values(running: RunningPollers) -> None:
    """What came in blocks was put together in order."""
    for name, readings in running.uplink.telemetry.items():
        texts = {reading.value for reading in readings if reading.key == "long"}
        assert texts <= {f"meter {name} " * 30}


def check_profile(running: RunningPollers, serial: str, note: str, began_s: float) -> None:
    """Every row of the last hours is there, at its second, with its values."""
    newest_s = int(began_s) // 900 * 900
    wanted = set(range(newest_s - 11 * 900, newest_s + 1, 900))
    columns = {"1-0:1.8.0": "active_energy", "1-0:2.8.0": "active_energy_export"}

    def rows_of(code: str) -> dict[int, Any]:
        return {item.ts_ms: item.value for item in running.uplink.rows[serial] if item.key == code}

    wait_until(
        lambda: {at_s * 1000 for at_s in wanted} <= set(rows_of("1-0:1.8.0")),
        15,
        lambda: (
            f"{serial} {note}: {len(rows_of('1-0:1.8.0'))} rows; {running.pollers[serial].health.last_error}"
        ),
    )
    for code, key in columns.items():
        for ts_ms, value in rows_of(code).items():
            assert ts_ms % 900_000 == 0
            assert float(value) == scaled_value(serial, key, ts_ms // 1000), (serial, code, ts_ms)


def provoke(running: RunningPollers, serial: str, how: str) -> None:
    """Bring the poller into the state."""
    if how == "drop":
        running.fleet.drop_connections(serial)
    elif how == "pause":
        running.pollers[serial].pause()


def _recoveries(running: RunningPollers, table: dict[str, Row]) -> dict[str, float]:
    """Seconds from the fault to the next reading, for each meter."""
    fleet = running.fleet
    hit: dict[str, tuple[float, int]] = {}
    done: dict[str, float] = {}

    def look() -> bool:
        now_s = time.monotonic()
        for serial in table:
            if serial not in hit and not fleet.device(serial).faults:
                hit[serial] = now_s, running.count(serial)
                if running.pollers[serial]._paused:
                    running.pollers[serial].resume()
            elif serial in hit and serial not in done and running.count(serial) > hit[serial][1] + len(KEYS):
                done[serial] = now_s - hit[serial][0]
        return len(done) == len(table)

    wait_until(
        look,
        15,
        lambda: (
            f"not hit: {[table[s].name for s in table if s not in hit]}; not back: "
            f"{[(table[s].name, running.pollers[s].health.last_error) for s in hit if s not in done]}"
        ),
    )
    return done


# idle: nothing is being asked when it happens


def _on_stream(act: Callable[[LineConnection, LogicalDevice], object]) -> Happening:
    """Something that the meter or its converter does to the connection on its own."""

    def happen(fleet: SimulatedFleet, serial: str) -> None:
        connections = fleet.fleet.line_of(serial).line.connections
        device = fleet.device(serial)
        fleet.call(lambda: [act(connection, device) for connection in list(connections)])

    return happen


def _again(kind: FaultKind | None = None, pause_s: float | None = None) -> Happening:
    return _on_stream(lambda connection, _: connection.say_again(kind, pause_s))


def _push(apdu: str) -> Happening:
    return _on_stream(lambda connection, device: connection.push(device, bytes.fromhex(apdu)))


def _power_cycle(fleet: SimulatedFleet, serial: str) -> None:
    fleet.power(False, [serial])
    fleet.power(True, [serial])


IDLE: dict[str, Happening] = {
    "reset": lambda fleet, serial: fleet.drop_connections(serial),
    "close": _on_stream(lambda connection, _: connection.stream.close()),
    "half-close": _on_stream(lambda connection, _: connection.stream.write_eof()),
    "drip": _again(pause_s=0.02),
    "drip of rubbish": _again(FaultKind.GARBAGE, pause_s=0.02),
    "truncated": _again(FaultKind.TRUNCATED),
    "garbage": _again(FaultKind.GARBAGE),
    "extra bytes": _on_stream(lambda connection, _: connection.stream.write(os.urandom(7))),
    "half a header": _on_stream(lambda connection, _: connection.stream.write(b"\x00\x01\x00")),
    "bad fcs": _again(FaultKind.BAD_FCS),
    "wrong address": _again(FaultKind.WRONG_ADDRESS),
    "late answer": _again(),
    "duplicate": _again(FaultKind.DUPLICATE),
    "answer to nothing": _push("c401c500121234"),
    "list to nothing": _push("c403c602000600000001000600000002"),
    "access error": _push("c401c70102"),
    "exception response": _push("d80102"),
    "service error": _push("0e050100"),
    "aare": _push("6129a109060760857405080101a203020100a305a103020100be10040e0800065f1f0400007e1f04000007"),
    "rlre": _push("6303800100"),
    "notification": _push("0f00000001001601"),
    "power cycle": _power_cycle,
}
AWAY: dict[str, tuple[Happening, Happening]] = {
    "silence": (SimulatedFleet.freeze, SimulatedFleet.thaw),
    "power off": (
        lambda fleet, serial: fleet.power(False, [serial]),
        lambda fleet, serial: fleet.power(True, [serial]),
    ),
}


@pytest.mark.parametrize("framing", [WRAPPER, HDLC])
def test_every_fault_while_idle(framing: str) -> None:
    table = {_serial(index): name for index, name in enumerate((*IDLE, *AWAY))}
    healthy = [_serial(len(table) + index) for index in range(HEALTHY)]
    with SimulatedFleet(
        FleetSettings(tuple(meter(serial, framing) for serial in [*table, *healthy]))
    ) as fleet:
        running = RunningPollers(fleet)
        for serial in [*table, *healthy]:
            running.add(entry_for(fleet, serial))
        with running:
            running.wait_for_readings(more=2 * len(KEYS))
            for _ in range(2):
                for serial, name in table.items():
                    if name in IDLE:
                        IDLE[name](fleet, serial)
                    else:
                        AWAY[name][0](fleet, serial)
                away = {serial: AWAY[name] for serial, name in table.items() if name in AWAY}
                running.wait_for_readings([*set(table) - set(away)], 2 * len(KEYS), RECOVERY_S + 1)
                for serial, (_, heal) in away.items():
                    health = running.pollers[serial].health
                    wait_until(lambda health=health: health.state == "offline")
                    tried = health.reconnects
                    wait_until(lambda health=health, tried=tried: health.reconnects >= tried + 2)
                    heal(fleet, serial)
                running.wait_for_readings(away, 2 * len(KEYS), RECOVERY_S + 1)
            running.check_values()
            running.check_punctual(healthy, PERIOD_MS / 1000)
        assert fleet.totals().meters.associations_open_max == 1


# many at once


def test_six_of_ten_silent_cost_the_others_nothing() -> None:
    serials = [_serial(index) for index in range(10)]
    silent, living = serials[:6], serials[6:]
    with SimulatedFleet(FleetSettings(tuple(meter(serial, WRAPPER) for serial in serials))) as fleet:
        running = RunningPollers(fleet)
        for serial in serials:
            running.add(entry_for(fleet, serial))
        with running:
            running.wait_for_readings(more=len(KEYS))
            for serial in silent:
                fleet.freeze(serial)
            began_s = time.monotonic()
            before = {serial: running.count(serial) for serial in living}
            running.wait_for_readings(living, 10 * len(KEYS))
            cycles = (time.monotonic() - began_s) / (PERIOD_MS / 1000)
            for serial in living:
                got = (running.count(serial) - before[serial]) / len(KEYS)
                assert got >= int(cycles) - 1
            running.check_punctual(living, PERIOD_MS / 1000)
            for serial in silent:
                fleet.thaw(serial)
            running.wait_for_readings(silent, len(KEYS), RECOVERY_S)
            running.check_values()


def test_a_hundred_meters_power_cycled_at_once_come_back_without_a_storm() -> None:
    serials = [_serial(index) for index in range(100)]
    gate = 10
    with SimulatedFleet(FleetSettings(tuple(meter(serial, WRAPPER) for serial in serials))) as fleet:
        running = RunningPollers(fleet, gate=gate)
        for serial in serials:
            running.add(entry_for(fleet, serial, pollPeriod=2000, timeout=3000))
        opening = CountingGate(running)
        with running:
            running.wait_for_readings(more=len(KEYS))
            before = {serial: fleet.line_counters(serial).connections for serial in serials}
            fleet.power(False)
            wait_until(lambda: all(poller.health.state == "offline" for poller in running.pollers.values()))
            fleet.power(True)
            running.wait_for_readings(more=len(KEYS), timeout_s=20)
            connects = [fleet.line_counters(serial).connections - before[serial] for serial in serials]
            assert max(connects) == 1
            running.check_values()
        assert opening.most <= gate
        assert fleet.totals().meters.associations_open_max == 1


class CountingGate:
    """Watches how many meters open a session at the same time."""

    def __init__(self, running: RunningPollers) -> None:
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        for poller in running.pollers.values():
            self._watch(poller.session)

    def _watch(self, session: MeterSession) -> None:
        open_session = session.open

        def watched() -> None:
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            try:
                open_session()
            finally:
                with self._lock:
                    self._now -= 1

        session.open = watched  # type: ignore[method-assign]


# commands


def test_a_command_is_answered_whatever_happens_to_the_meter() -> None:
    with SimulatedFleet(FleetSettings((meter("00000001", HDLC),))) as fleet:
        running = RunningPollers(fleet)
        poller = running.add(entry_for(fleet, "00000001"))
        answers: list[tuple[Any, DlmsConnectorError | None]] = []

        def ask(run: Callable[[MeterSession], Any], deadline_s: float = 1e12) -> None:
            poller.submit(
                Command("get", run, lambda result, error: answers.append((result, error)), deadline_s)
            )

        def get(session: MeterSession) -> Any:
            return session.get(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2))

        with running:
            running.wait_for_readings(more=len(KEYS))
            ask(get)
            wait_until(lambda: len(answers) == 1)
            assert isinstance(answers[0][0], int)
            fleet.inject("00000001", Fault(FaultKind.RESET, Stage.GET))
            ask(get)
            wait_until(lambda: len(answers) == 2)
            assert isinstance(answers[1][1], LinkError)
            running.wait_for_readings(more=len(KEYS))
            ask(lambda _: {}["absent"])
            ask(get, deadline_s=0.0)
            wait_until(lambda: len(answers) == 4)
            assert isinstance(answers[2][1], DlmsConnectorError)
            assert isinstance(answers[3][1], CommandError)
            running.log.lines.clear()  # the broken handler was told as an error, as it must be
            running.wait_for_readings(more=len(KEYS))
        ask(get)
        assert isinstance(answers[4][1], CommandError)


def test_a_key_of_a_time_series_and_of_an_attribute_is_both() -> None:
    """Read in the same cycle, so in the same list but for the key that they share."""
    entry: dict[str, Any] = {
        "timeseries": ["voltage_l1", {"key": "energy", "obis": "1-0:1.8.0"}],
        "attributes": [{"key": "energy", "obis": "1-0:3.8.0"}],
        "pollPeriod": 1000,
        "attributePeriod": 1000,
    }
    with SimulatedFleet(FleetSettings.uniform(1, template=MeterSettings("", slot_s=86_400))) as fleet:
        (name,) = fleet.serials
        pollers = RunningPollers(fleet)
        poller = pollers.add(device_settings(fleet, name, **entry))
        with pollers:
            wait_until(lambda: poller.book.asked >= 6)

        def expected(key: str, ts_ms: int) -> int | float:
            return scaled_value(name, key, ts_ms // 1000, 86_400)

        energies = [item for item in pollers.readings(name) if item.key == "energy"]
        assert len(energies) >= 2
        assert all(item.value == expected("active_energy", item.ts_ms) for item in energies)
        attributes = [item for item in pollers.uplink.attributes[name] if item.key == "energy"]
        assert attributes
        assert all(item.value == expected("reactive_energy", item.ts_ms) for item in attributes)


def test_a_book_that_does_not_balance_is_told() -> None:
    with SimulatedFleet(FleetSettings.uniform(1)) as fleet:
        pollers = RunningPollers(fleet)
        poller = pollers.add(device_settings(fleet, fleet.serials[0]))
        with pollers:
            pollers.wait_for_readings()
            poller.stop()
            poller.thread.join()
            assert not pollers.log.of("error")
            poller.book.asked += 1
            poller._leave()
            assert UNBALANCED in pollers.log.of("error")[0]
            poller.book.asked -= 1
            pollers.log.lines.clear()
