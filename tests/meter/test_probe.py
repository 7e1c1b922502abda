"""The order of the tries and their politeness, without a meter: outcomes by table, a clock that is told."""

import pytest

from dlms_connector.config.loader import load_document
from dlms_connector.config.secrets import SecretRef
from dlms_connector.errors import Layer
from dlms_connector.survey.attempt import Facts, Outcome, Verdict
from dlms_connector.survey.probe import (
    HDLC_SERVERS,
    MICROSTAR_CLIENTS,
    ProbePlan,
    Prober,
    Server,
    is_possible,
    servers_for,
)

TCP = {"type": "tcp", "host": "192.0.2.1", "port": 3333}
SILENT = Outcome(Verdict.SILENT, Layer.HDLC, "")
REFUSED = Outcome(Verdict.REFUSED, Layer.ASSOCIATION, "")
WANTS = Outcome(Verdict.WANTS_AUTHENTICATION, Layer.ASSOCIATION, "")
ANSWERED = Outcome(Verdict.ANSWERED, Layer.OBJECT, "", facts=Facts(1024, ()))
WRONG = Outcome(Verdict.WRONG_PASSWORD, Layer.ASSOCIATION, "")
UNREACHABLE = Outcome(Verdict.UNREACHABLE, Layer.TCP, "")


class World:
    """Answers by a rule over (framing, server, client, authentication, mechanism); counts time."""

    def __init__(self, rule, cost_s=0.0):
        self.rule = rule
        self.now_s = 0.0
        self.cost_s = cost_s
        self.pauses = []

    def sleep(self, duration_s):
        self.pauses.append(duration_s)
        self.now_s += duration_s

    def attempt(self, device, mechanism):
        self.now_s += self.cost_s
        where = device.transport
        server = (where.server_logical_address, where.server_physical_address, where.address_size)
        return self.rule(
            where.framing, server, device.client.address, device.client.authentication, mechanism
        )

    def probe(self, **options):
        settings = {"framings": ("hdlc", "wrapper"), "clients": MICROSTAR_CLIENTS, **options}
        prober = Prober(
            ProbePlan(TCP, **settings), attempt=self.attempt, sleep=self.sleep, clock=lambda: self.now_s
        )
        prober.run()
        return prober


def clients(prober):
    return [finding.candidate.client for finding in prober.findings]


def test_a_microstar_is_asked_first_as_the_field_units_answer():
    prober = World(lambda *_: ANSWERED).probe()
    (finding,) = prober.findings
    assert finding.candidate.server == Server(0, 1, 1)
    assert (finding.candidate.framing, finding.candidate.client) == ("hdlc", 1)


def test_an_address_that_says_anything_is_asked_for_every_client():
    def rule(framing, server, client, authentication, mechanism):
        return SILENT if server != (1, 17, 2) else ANSWERED if client == 32 else REFUSED

    prober = World(rule).probe()
    heard = [finding.candidate.client for finding in prober.findings if finding.outcome.heard]
    assert heard == [1, 16, 17, 32]
    assert prober.best.candidate.server == Server(1, 17, 2)


def test_silence_is_asked_again_with_the_second_client():
    def rule(framing, server, client, authentication, mechanism):
        return ANSWERED if (server, client) == ((1, 16, 4), 16) else SILENT

    prober = World(rule).probe()
    assert prober.best.candidate.client == 16
    assert clients(prober)[: len(HDLC_SERVERS)] == [1] * len(HDLC_SERVERS)


def test_a_meter_that_refuses_is_not_asked_in_the_other_framing():
    prober = World(lambda *_: REFUSED).probe()
    assert {finding.candidate.framing for finding in prober.findings} == {"hdlc"}
    everything = World(lambda *_: REFUSED).probe(everything=True)
    assert {finding.candidate.framing for finding in everything.findings} == {"hdlc", "wrapper"}


def test_a_client_that_wants_authentication_is_asked_which():
    def rule(framing, server, client, authentication, mechanism):
        return Outcome(Verdict.WANTS_HLS, Layer.ASSOCIATION, "", mechanism=2) if mechanism == 2 else WANTS

    prober = World(rule).probe(clients=(1,))
    asked = [finding.candidate.mechanism for finding in prober.findings]
    assert asked == [0, 5, 2]


def test_with_a_password_the_public_client_is_not_enough(monkeypatch):
    monkeypatch.setenv("P", "x")

    def rule(framing, server, client, authentication, mechanism):
        return ANSWERED if (client, authentication) in ((16, "none"), (32, "low")) else REFUSED

    prober = World(rule).probe(password=SecretRef("env", "P"))
    assert len(prober.answers) == 2
    assert prober.best.candidate.client == 32
    entry = prober.plan.entry(prober.best.candidate, "m")
    assert entry["client"]["password"] == "${env:P}"
    assert load_document({"devices": [entry]}).errors == ()


def test_three_wrong_passwords_are_enough():
    def rule(framing, server, client, authentication, mechanism):
        return WRONG if authentication == "low" else REFUSED

    prober = World(rule).probe(password=SecretRef("env", "P"), clients=(1, 2, 3, 4, 5, 6))
    tried = [finding.candidate.authentication for finding in prober.findings]
    assert tried == ["low"] * 3 + ["none"] * 3


def test_pauses_stand_between_the_tries_and_are_long_after_an_unclean_end():
    outcomes = iter(
        [REFUSED, Outcome(Verdict.REFUSED, Layer.ASSOCIATION, "", is_clean=False), REFUSED, ANSWERED]
    )
    world = World(lambda *_: next(outcomes))
    world.probe(pause_s=1.5, recovery_s=20.0)
    assert world.pauses == [1.5, 20.0, 1.5]


def test_the_time_for_all_is_a_bound():
    world = World(lambda *_: SILENT, cost_s=7.0)
    prober = world.probe(limit_s=60.0, pause_s=1.0)
    assert prober.ended == "the time of 60 s is over"
    assert world.now_s <= 60.0 + 7.0 + 1.0


def test_no_connection_ends_the_probe_and_a_lost_one_is_tried_again():
    assert len(World(lambda *_: UNREACHABLE).probe().findings) == 1
    outcomes = iter([REFUSED, UNREACHABLE, ANSWERED])
    assert World(lambda *_: next(outcomes)).probe().best is not None
    outcomes = iter([REFUSED, UNREACHABLE, UNREACHABLE])
    assert World(lambda *_: next(outcomes)).probe().ended


@pytest.mark.parametrize(
    ("serial", "expected"),
    [
        ("12345678", {Server(1, 5678, 4), Server(1, 6678, 4), Server(1, 94, 2)}),
        ("MS-2024/00001007", {Server(1, 1007, 4), Server(1, 2007, 4), Server(1, 23, 2)}),
    ],
)
def test_addresses_from_a_serial_number(serial, expected):
    assert set(servers_for(serial)) == expected


def test_impossible_addresses_are_left_out():
    assert not is_possible(Server(1, 17, 1))
    assert not is_possible(Server(1, 200, 2))
    assert not is_possible(Server(127, 0, 1))  # all stations
    assert all(map(is_possible, HDLC_SERVERS))
    with pytest.raises(ValueError, match="digits"):
        servers_for("none")
