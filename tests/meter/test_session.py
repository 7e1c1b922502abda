"""One session against meters with habits, against liars, and against a counter that has run ahead."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import (
    AssociationError,
    DlmsConnectorError,
    LinkError,
    LinkTimeout,
    ObjectError,
    SecurityError,
)
from dlms_connector.io.channel import Channel
from dlms_connector.meter.session import MeterSession
from dlms_connector.obis import Obis
from dlms_connector.simulator.faults import Fault, FaultKind, Stage
from dlms_connector.simulator.fleet import SimulatedFleet
from dlms_connector.simulator.meter import ClientSettings, Quirks
from dlms_connector.simulator.quantities import scaled_value
from dlms_connector.state import StateStore
from tests.support.readers import Bench, device_settings, opened, read_all
from tests.support.simulated import (
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    SERIAL,
    clients,
    one_meter,
    secured_client,
)

SECRET = b"0123456789abcdef"
NOW_S = 1_790_000_000
VOLTAGE = Obis(1, 0, 32, 7, 0)
SHORT_MS = 300


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_PASSWORD", SECRET.decode())
    monkeypatch.setenv("SESSION_EK", ENCRYPTION_KEYS[0].hex())
    monkeypatch.setenv("SESSION_AK", AUTHENTICATION_KEYS[0].hex())


PASSWORD = "${env:SESSION_PASSWORD}"
SECURITY = {
    "clientSystemTitle": CLIENT_TITLE.hex(),
    "encryptionKey": "${env:SESSION_EK}",
    "authenticationKey": "${env:SESSION_AK}",
}
GMAC_CLIENT = {"address": 1, "authentication": "gmac", "security": SECURITY}


def ciphered_meter(link: str = "wrapper", **more: Any) -> SimulatedFleet:
    """A meter whose client 1 wants GMAC and ciphered, authenticated APDUs."""
    return one_meter(link, clients=clients(secured_client(5)), **more)


def check_values(session: MeterSession, before_s: float) -> None:
    """Every value is that of a second since then."""
    readings = read_all(session)
    for key in ("voltage_l1", "active_energy"):
        allowed = {scaled_value(SERIAL, key, second) for second in range(int(before_s), int(time.time()) + 1)}
        assert float(readings[key].value) in allowed


QUIRKS = {
    "refuses lists": Quirks(refuse_lists=True),
    "has no lists": Quirks(no_lists=True),
    "ignores RLRQ": Quirks(ignore_rlrq=True),
    "refuses RLRQ": Quirks(refuse_rlrq=True),
    "64-byte challenges": Quirks(challenge_bytes=64),
    "16-byte challenges only": Quirks(only_16_byte_challenges=True),
    "own counter always 0": Quirks(meter_counter_zero=True),
    "bytes after the answer": Quirks(bytes_after_answer=b"\x00\x55"),
    "notifications between": Quirks(notify_between=True),
    "blocks from 0": Quirks(zero_based_blocks=True),
    "UA without parameters": Quirks(ua_without_parameters=True),
}


@pytest.mark.parametrize("link", ["wrapper", "hdlc"])
@pytest.mark.parametrize("habit", QUIRKS)
@pytest.mark.parametrize("client", ["low", "gmac"])
def test_habits(habit: str, link: str, client: str) -> None:
    if habit == "bytes after the answer" and link == "wrapper":
        pytest.skip("a stream that is cut by lengths cannot lose two bytes; see the test below")
    made = secured_client(5) if client == "gmac" else ClientSettings(1, 1, SECRET)
    entry = (
        GMAC_CLIENT | {"challengeLength": 16}
        if client == "gmac"
        else {"address": 1, "authentication": "low", "password": PASSWORD}
    )
    with one_meter(link, quirks=QUIRKS[habit], clients=clients(made), max_pdu_bytes=200) as fleet:
        bench = Bench()
        session = bench.session(device_settings(fleet, SERIAL, client=entry, timeout=SHORT_MS * 5))
        before_s = time.time()
        for _ in range(2):
            with opened(session):
                check_values(session, before_s)
                check_values(session, before_s)
                assert len(session.get(AttributeRef(15, Obis(0, 0, 40, 0, 0), 2))) > 50  # by blocks
        assert fleet.wait_for(lambda: fleet.device(SERIAL).counters.associations_open == 0, 5)
        assert fleet.counters(SERIAL).associations_open_max == 1


def test_a_line_that_echoes() -> None:
    with one_meter("serial", quirks=Quirks(echo=True), clients=clients(secured_client(5))) as fleet:
        device = device_settings(fleet, SERIAL, client=GMAC_CLIENT, transport={"echo": True})
        with opened(Bench().session(device)) as session:
            check_values(session, time.time() - 1)


def test_bytes_behind_the_answer_on_the_wrapper_are_never_a_value() -> None:
    """The two bytes stand where the next header is: either they are dropped or the link is."""
    quirks = Quirks(bytes_after_answer=b"\x00\x55")
    with one_meter(quirks=quirks) as fleet:
        session = Bench().session(device_settings(fleet, SERIAL, timeout=SHORT_MS))
        before_s = time.time()
        good = 0
        for _ in range(6):
            try:
                if not session.is_open:
                    session.open()
                check_values(session, before_s)
                good += 1
            except LinkError:
                assert not session.is_open
        assert good


def test_challenges_of_64_bytes_make_both_apdus_long() -> None:
    quirks = Quirks(challenge_bytes=64)
    with one_meter(quirks=quirks, clients=clients(secured_client(6, secret=SECRET))) as fleet:
        client = GMAC_CLIENT | {"authentication": "sha256", "password": PASSWORD, "challengeLength": 64}
        with opened(Bench().session(device_settings(fleet, SERIAL, client=client))) as session:
            check_values(session, time.time() - 1)


@pytest.mark.parametrize("kind", [FaultKind.SILENT, FaultKind.CLOSE, FaultKind.WRONG_INVOKE_ID])
def test_lists_that_are_never_answered_are_given_up(kind: FaultKind) -> None:
    with one_meter() as fleet:
        bench = Bench()
        device = device_settings(fleet, SERIAL, timeout=SHORT_MS)
        session = bench.session(device)
        fleet.inject(SERIAL, Fault(kind, Stage.GET_LIST, count=None))
        failures = 0
        while failures < 5:
            session.open()
            try:
                check_values(session, time.time() - 1)
                break
            except LinkError:
                failures += 1
        assert failures == 1, "single reads that work show that the list was to blame"
        assert any("one by one" in event for event in bench.events)
        session.close(time.monotonic() + 1)
        again = bench.session(device)
        with opened(again):
            check_values(again, time.time() - 1)
        assert fleet.counters(SERIAL).get_lists == 1


def test_a_list_lost_once_is_not_given_up() -> None:
    with one_meter() as fleet:
        bench = Bench()
        session = bench.session(device_settings(fleet, SERIAL, timeout=SHORT_MS))
        with opened(session):
            check_values(session, time.time() - 1)
        for _ in range(4):
            fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.GET_LIST))
            session.open()
            with pytest.raises(LinkTimeout):
                read_all(session)
            assert not session.is_open
            with opened(session):
                for _ in range(2):  # one by one, then by a list again
                    check_values(session, time.time() - 1)
        assert not bench.events


# what the meter refuses


def test_refused_registers_are_set_aside_and_asked_again_later() -> None:
    with one_meter() as fleet:
        now = [1000.0]
        bench = Bench()
        device = device_settings(
            fleet,
            SERIAL,
            timeseries=["voltage_l1", "active_energy", {"key": "absent", "obis": "1-0:99.99.99"}],
            refusedRegisterPeriod="1h",
        )
        session = bench.session(device, clock=lambda: time.monotonic() + now[0])
        with opened(session):
            readings = read_all(session)
            assert set(readings) == {"voltage_l1", "active_energy"}
            clock_s = time.monotonic() + now[0]
            assert _planned(session, clock_s) == {"voltage_l1", "active_energy"}
            assert _planned(session, clock_s + 3601) == {"voltage_l1", "active_energy", "absent"}
        assert [event for event in bench.events if "absent" in event]


def _planned(session: MeterSession, now_s: float) -> set[str]:
    batches = session.plan.due(session.plan.periods_s, now_s)
    return {register.key for batch in batches for register in batch.registers}


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize(("code", "stays"), [(2, True), (4, False), (3, False), (250, True)])
def test_access_errors_cost_one_register_only(code: int, stays: bool, lists: bool) -> None:
    with one_meter() as fleet:
        session = Bench().session(device_settings(fleet, SERIAL, client={"useLists": lists}))
        with opened(session):
            fleet.refuse(SERIAL, 3, VOLTAGE, 2, code)
            readings = read_all(session)
            assert set(readings) == {"active_energy"}
            assert ("voltage_l1" in _planned(session, time.monotonic())) == stays
            fleet.heal(SERIAL)
            assert session.is_open


def test_a_scaler_that_is_refused_for_now_gives_no_value_instead_of_a_wrong_one() -> None:
    with one_meter() as fleet:
        session = Bench().session(device_settings(fleet, SERIAL))
        with opened(session):
            fleet.refuse(SERIAL, 3, VOLTAGE, 3, 2)
            assert set(read_all(session)) == {"active_energy"}
            fleet.heal(SERIAL)
            check_values(session, time.time() - 1)


@pytest.mark.parametrize("diagnostic", range(15))
def test_each_diagnostic_is_told_and_leaves_nothing_open(diagnostic: int) -> None:
    with one_meter() as fleet:
        fleet.inject(SERIAL, Fault(FaultKind.AARE_REFUSAL, Stage.AARQ, code=diagnostic))
        session = Bench().session(device_settings(fleet, SERIAL))
        with pytest.raises(AssociationError) as caught:
            session.open()
        assert caught.value.diagnostic == diagnostic
        assert not session.is_open
        with opened(session):
            check_values(session, time.time() - 1)


def test_a_wrong_password_is_told_without_it() -> None:
    with one_meter(clients=clients(ClientSettings(1, 1, b"another"))) as fleet:
        client = {"address": 1, "authentication": "low", "password": PASSWORD}
        with pytest.raises(AssociationError) as caught:
            Bench().session(device_settings(fleet, SERIAL, client=client)).open()
        assert "authentication failed" in caught.value.explain().lower()
        assert SECRET.decode() not in caught.value.explain()


@pytest.mark.parametrize("name", ["high", "md5", "sha1", "sha256"])
def test_a_wrong_secret_of_high_level_security(name: str) -> None:
    mechanism = {"high": 2, "md5": 3, "sha1": 4, "sha256": 6}[name]
    made = replace(secured_client(mechanism, 0, secret=b"another"), security=None)
    if name == "sha256":
        made = secured_client(mechanism, 0, secret=b"another")
    with one_meter(clients=clients(made)) as fleet:
        client = {"address": 1, "authentication": name, "password": PASSWORD}
        with pytest.raises(AssociationError):
            Bench().session(device_settings(fleet, SERIAL, client=client)).open()
        assert fleet.wait_for(lambda: fleet.device(SERIAL).counters.associations_open == 0, 5)


# invocation counters


def test_an_unknown_counter_is_read_through_the_public_client_once() -> None:
    with ciphered_meter(initial_client_counter=90_000) as fleet:
        bench = Bench()
        device = device_settings(fleet, SERIAL, client=GMAC_CLIENT)
        for expected in (2, 3):  # the public client once, then ours each time
            with opened(bench.session(device)) as session:
                check_values(session, time.time() - 1)
            assert fleet.counters(SERIAL).associations_opened == expected
        assert fleet.device(SERIAL).client_counters[1] > 90_000
        assert fleet.counters(SERIAL).replays == 0


def test_a_meter_that_is_ahead_is_asked_once() -> None:
    with ciphered_meter() as fleet:
        bench = Bench()
        session = bench.session(device_settings(fleet, SERIAL, client=GMAC_CLIENT))
        with opened(session):
            check_values(session, time.time() - 1)
        fleet.call(lambda: fleet.device(SERIAL).client_counters.update({1: 5_000_000}))
        opened_before = fleet.counters(SERIAL).associations_opened
        with opened(session):
            check_values(session, time.time() - 1)
        assert fleet.counters(SERIAL).associations_opened == opened_before + 2
        assert fleet.device(SERIAL).client_counters[1] > 5_000_000


def test_a_meter_that_is_silent_to_an_old_counter_is_asked_once() -> None:
    with ciphered_meter() as fleet:
        session = Bench().session(device_settings(fleet, SERIAL, client=GMAC_CLIENT, timeout=SHORT_MS))
        with opened(session):
            check_values(session, time.time() - 1)
        fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.AARQ))
        with opened(session):
            check_values(session, time.time() - 1)
        # A meter that is silent altogether is not asked twice at each attempt.
        fleet.freeze(SERIAL)
        requests = []
        for _ in range(3):
            before = fleet.counters(SERIAL).requests
            with pytest.raises(LinkError):
                session.open()
            requests.append(fleet.counters(SERIAL).requests - before)
        assert requests == [2, 1, 1]


def test_a_counter_that_a_meter_refuses_in_mid_session() -> None:
    with ciphered_meter() as fleet:
        session = Bench().session(device_settings(fleet, SERIAL, client=GMAC_CLIENT))
        session.open()
        fleet.call(lambda: fleet.device(SERIAL).client_counters.update({1: 70_000}))
        with pytest.raises(SecurityError, match="invocation counter"):
            read_all(session)
        assert not session.is_open
        with opened(session):
            check_values(session, time.time() - 1)


def test_a_meter_whose_counter_cannot_be_read_gets_the_true_reason() -> None:
    with ciphered_meter(initial_client_counter=10**6) as fleet:
        fleet.refuse(SERIAL, 1, "0.0.43.1.0.255", 2, 3)
        session = Bench().session(device_settings(fleet, SERIAL, client=GMAC_CLIENT))
        with pytest.raises(ObjectError, match=r"0-0:43\.1\.0"):
            session.open()
        assert not session.is_open


def test_counters_go_on_after_a_restart_and_after_a_lower_meter(tmp_path: Any) -> None:
    with ciphered_meter() as fleet:
        device = device_settings(fleet, SERIAL, client=GMAC_CLIENT)
        highest = 0
        for _ in range(3):
            state = StateStore(tmp_path / "state.sqlite")
            with opened(Bench(state).session(device)) as session:
                check_values(session, time.time() - 1)
            state.close()
            used = fleet.device(SERIAL).client_counters[1]
            assert used > highest
            highest = used
            # A meter that forgot (replaced board): ours must not fall back with it.
            fleet.call(lambda: fleet.device(SERIAL).client_counters.update({1: 5}))
        assert fleet.counters(SERIAL).replays == 0


# liars


class TamperingChannel:
    """A channel whose answers somebody changes on the way; the requests pass."""

    def __init__(self, inner: Channel, change: Callable[[bytes, bytes], bytes]) -> None:
        self._inner = inner
        self._change = change

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        return self._change(apdu, self._inner.exchange(apdu, deadline_s, numbered=numbered))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._inner, name, value)


def tampered(
    fleet: SimulatedFleet, change: Callable[[bytes, bytes], bytes], client: dict[str, Any] | None = None
) -> MeterSession:
    """A session whose answers pass through `change(request, answer)`."""
    session = Bench().session(device_settings(fleet, SERIAL, client=client or GMAC_CLIENT, timeout=200))
    session.channel = TamperingChannel(session.channel, change)  # type: ignore[assignment]
    return session


def test_no_bit_of_a_protected_answer_can_be_turned() -> None:
    with ciphered_meter(slot_s=10**9) as fleet:
        armed = [-1]
        size = [0]

        def turn(_: bytes, answer: bytes) -> bytes:
            size[0] = len(answer)
            at = armed[0]
            return answer if at < 0 else answer[:at] + bytes((answer[at] ^ 0x01,)) + answer[at + 1 :]

        session = tampered(fleet, turn)
        ref = AttributeRef(3, VOLTAGE, 2)
        session.open()
        true = session.get(ref)
        answer_bytes = size[0]
        for position in range(answer_bytes):
            armed[0] = -1
            if not session.is_open:
                session.open()
            armed[0] = position
            with pytest.raises(DlmsConnectorError):
                session.get(ref)
        armed[0] = -1
        if not session.is_open:
            session.open()
        assert session.get(ref) == true


def test_a_replayed_answer_is_no_answer() -> None:
    with ciphered_meter() as fleet:
        old: list[bytes] = []
        replaying = [False]

        def replay(_: bytes, answer: bytes) -> bytes:
            old.append(answer)
            return old[-17] if replaying[0] else answer

        session = tampered(fleet, replay)
        session.open()
        ref = AttributeRef(3, VOLTAGE, 2)
        for _ in range(20):
            session.get(ref)  # the invoke-id comes round: the sixteenth before has the same
        replaying[0] = True
        with pytest.raises(LinkTimeout):
            session.get(ref)
        assert not session.is_open


def test_an_answer_of_another_association_is_refused() -> None:
    """Replays across associations die by the dedicated key or by the counter of the invoke-id's answer."""
    with ciphered_meter() as fleet:
        client = GMAC_CLIENT | {"security": SECURITY | {"ciphering": "ded"}}
        kept: list[bytes] = []
        replaying = [False]

        def replay(request: bytes, answer: bytes) -> bytes:
            if request[:1] != b"\xd0":
                return answer
            kept.append(answer)
            return kept[0] if replaying[0] else answer

        session = tampered(fleet, replay, client)
        ref = AttributeRef(3, VOLTAGE, 2)
        session.open()
        session.get(ref)
        session.close(time.monotonic() + 1)
        replaying[0] = True
        session.open()
        with pytest.raises(SecurityError):
            session.get(ref)


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lambda answer: b"\xc4\x01" + b"\xc1\x00\x12\x00\x2a", id="plain answer"),
        pytest.param(lambda answer: answer[:10], id="cut"),
        pytest.param(lambda answer: b"", id="empty"),
        pytest.param(lambda answer: answer[:1] + b"\x08EVILEVIL" + answer[10:], id="title of another"),
        pytest.param(lambda answer: answer[:11] + b"\x00" + answer[12:], id="control byte: unprotected"),
        pytest.param(lambda answer: answer[:11] + b"\x20" + answer[12:], id="control byte: no tag"),
        pytest.param(lambda answer: answer[:11] + b"\xb0" + answer[12:], id="control byte: compressed"),
        pytest.param(lambda answer: b"\xd4" + answer[10:], id="dedicated key that was not agreed"),
        pytest.param(lambda answer: b"\xdb\x08" + answer[2:10] + b"\x84\xff\xff\xff\xff", id="long length"),
    ],
)
def test_a_forged_answer_never_becomes_a_value(lie: Callable[[bytes], bytes]) -> None:
    with ciphered_meter() as fleet:
        lying = [False]
        session = tampered(fleet, lambda _, answer: lie(answer) if lying[0] else answer)
        session.open()
        lying[0] = True
        with pytest.raises(LinkError):
            session.get(AttributeRef(3, VOLTAGE, 2))
        assert not session.is_open


@pytest.mark.parametrize("name", ["high", "md5", "sha1"])
def test_a_meter_that_only_reflects_our_challenge_does_not_prove_itself(name: str) -> None:
    """It sends our own challenge as its own, then our own answer as its proof."""
    mechanism = {"high": 2, "md5": 3, "sha1": 4}[name]
    with one_meter(clients=clients(ClientSettings(1, mechanism, SECRET))) as fleet:

        def reflect(request: bytes, answer: bytes) -> bytes:
            if request[0] == 0x60:
                at = request.index(b"\xac\x12\x80\x10") + 4
                own = request[at : at + 16]
                start = answer.index(b"\xaa\x12\x80\x10") + 4
                return answer[:start] + own + answer[start + 16 :]
            token = request[15:]
            return bytes((0xC7, 1, request[2], 0, 1, 0, 9, len(token))) + token

        client = {"address": 1, "authentication": name, "password": PASSWORD}
        session = tampered(fleet, reflect, client)
        with pytest.raises(SecurityError):
            session.open()
        assert not session.is_open


@pytest.mark.parametrize("name", ["high", "md5", "sha1", "gmac", "sha256"])
def test_a_wrong_proof_is_refused(name: str) -> None:
    mechanism = {"high": 2, "md5": 3, "sha1": 4, "gmac": 5, "sha256": 6}[name]
    policy = 0
    made = secured_client(mechanism, policy, secret=SECRET)
    with one_meter(clients=clients(made)) as fleet:

        def forge(request: bytes, answer: bytes) -> bytes:
            return answer[:-1] + bytes((answer[-1] ^ 1,)) if request[0] == 0xC3 else answer

        client: dict[str, Any] = {"address": 1, "authentication": name}
        if name != "gmac":
            client["password"] = PASSWORD
        if name in ("gmac", "sha256"):
            client["security"] = SECURITY | {"policy": "none"}
        session = tampered(fleet, forge, client)
        with pytest.raises(SecurityError):
            session.open()
        assert not session.is_open


def test_an_answer_to_another_register_is_never_filed_here() -> None:
    """A late answer of the plain association bears an old invoke-id: it is dropped, and the right one taken."""
    with one_meter(slot_s=10**9) as fleet:
        session = Bench().session(device_settings(fleet, SERIAL, timeout=1000))
        with opened(session):
            fleet.inject(SERIAL, Fault(FaultKind.DUPLICATE, Stage.GET, count=None))
            first = session.get(AttributeRef(3, VOLTAGE, 2))
            second = session.get(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2))
            assert first != second
            for _ in range(20):
                assert session.get(AttributeRef(3, VOLTAGE, 2)) == first
                assert session.get(AttributeRef(3, Obis(1, 0, 1, 8, 0), 2)) == second


def test_invoke_ids_go_on_in_the_next_association() -> None:
    """An answer that comes late on a shared line, after a new association, bears a number that is not wanted yet."""
    with one_meter() as fleet:
        numbers: list[int] = []

        def watch(request: bytes, answer: bytes) -> bytes:
            if request[0] == 0xC0:
                numbers.append(request[2] & 0x0F)
            return answer

        session = tampered(fleet, watch, {"address": 16})
        for _ in range(6):
            with opened(session):
                for _ in range(3):
                    session.get(AttributeRef(3, VOLTAGE, 2))
        assert len(numbers) >= 18
        assert numbers == [(first + 1) % 16 for first in range(len(numbers))]


def test_a_release_lost_once_is_not_the_end_of_releases() -> None:
    with one_meter() as fleet:
        bench = Bench()
        session = bench.session(device_settings(fleet, SERIAL, timeout=SHORT_MS))
        for lost in (True, False, True, False, True, True):
            assert not [event for event in bench.events if "from now on" in event]
            with opened(session):
                if lost:
                    fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.RLRQ))
        assert [event for event in bench.events if "from now on" in event]
        with opened(session):
            check_values(session, time.time() - 1)
            fleet.inject(SERIAL, Fault(FaultKind.SILENT, Stage.RLRQ))
        assert fleet.call(lambda: bool(fleet.device(SERIAL).faults))  # none was asked for


@pytest.mark.parametrize("client", ["plain", "gmac"])
def test_the_answer_to_the_request_before_is_dropped_and_the_right_one_taken(client: str) -> None:
    with ciphered_meter(slot_s=10**9) as fleet:
        queue: list[bytes] = []

        class Lagging(TamperingChannel):
            """Repeats the former answer before each new one."""

            def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
                queue.append(self._inner.exchange(apdu, deadline_s, numbered=numbered))
                return queue.pop(0) if len(queue) > 1 else queue[0]

            def receive(self, deadline_s: float) -> bytes:
                return queue[0]

        device = device_settings(
            fleet, SERIAL, client=GMAC_CLIENT if client == "gmac" else {"address": 16}, timeout=1000
        )
        session = Bench().session(device)
        session.open()
        refs = [AttributeRef(3, code, 2) for code in (VOLTAGE, Obis(1, 0, 1, 8, 0), Obis(1, 0, 14, 7, 0))]
        true = [session.get(ref) for ref in refs]
        session.close(time.monotonic() + 1)
        session.open()
        association = session._association
        assert association is not None
        association._channel = Lagging(session.channel, lambda _, answer: answer)
        for _ in range(8):
            assert [session.get(ref) for ref in refs] == true
        assert association.stale_answers >= 20
