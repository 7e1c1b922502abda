import socket

import pytest

from dlms_connector.errors import CommandError
from dlms_connector.migration.bridge_db import read_bridge
from dlms_connector.migration.identity import FoundDevice, find_by_token, read_mapping
from dlms_connector.migration.thingsboard_rest import Sample, ThingsBoardRest
from tests.support.bridge_database import make_bridge, meter
from tests.support.thingsboard_rest import PASSWORD, USER, rest_stand_in


@pytest.fixture
def server():
    with rest_stand_in() as stand_in:
        yield stand_in


@pytest.fixture
def rest(server):
    pauses = []
    client = ThingsBoardRest(server.url, USER, lambda: PASSWORD, timeout_s=5, sleep=pauses.append)
    client.pauses = pauses
    yield client
    client.close()


def paths(server):
    return [path for _, path, _ in server.requests]


def test_devices_come_page_by_page(server, rest):
    for number in range(250):
        server.add(f"m{number}", f"t{number}")
    assert [device.name for device in rest.devices()] == [f"m{number}" for number in range(250)]
    assert paths(server).count("/api/tenant/devices") == 3


def test_no_devices_are_one_empty_page(rest):
    assert list(rest.devices()) == []


def test_a_device_by_name_and_none(server, rest):
    identity = server.add("a", "t", kind="DLMS Meter")
    device = rest.device_by_name("a")
    assert (device.id, device.type) == (identity, "DLMS Meter")
    assert rest.device_by_name("b") is None


def test_only_access_tokens_are_tokens(server, rest):
    assert rest.access_token(server.add("a", "t")) == "t"
    assert rest.access_token(server.add("b", "cert", credentials_type="X509_CERTIFICATE")) is None


@pytest.mark.parametrize("refresh_works", [True, False])
def test_an_expired_token_is_renewed_in_the_middle_of_the_work(server, rest, refresh_works):
    for number in range(250):
        server.add(f"m{number}", f"t{number}")
    server.refresh_works = refresh_works
    server.expire_after = 2
    assert len(list(rest.devices())) == 250
    assert paths(server).count("/api/auth/token") == 1
    assert paths(server).count("/api/auth/login") == (1 if refresh_works else 2)


def test_a_session_that_is_refused_again_ends_with_words(server, rest):
    server.fail_with = (401, {"status": 401, "message": "Authentication failed"})
    with pytest.raises(CommandError, match="status 401: Authentication failed") as caught:
        list(rest.devices())
    assert "tenant administrator" in caught.value.hint


def test_a_wrong_password_is_told_and_not_shown(server):
    rest = ThingsBoardRest(server.url, USER, lambda: "wrong-canary")
    with pytest.raises(CommandError, match="refuses the login") as caught:
        list(rest.devices())
    assert "canary" not in f"{caught.value}{caught.value.hint}{rest!r}"
    rest.close()


def test_a_rate_limit_is_waited_for_and_has_an_end(server, rest):
    server.add("a", "t")
    server.limit_next = 2
    assert len(list(rest.devices())) == 1
    assert rest.pauses == [1.0, 2.0]
    server.limit_next = 100
    with pytest.raises(CommandError, match="limits the rate"):
        list(rest.devices())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((500, {"message": "Internal error"}), "status 500: Internal error"),
        ((403, {"message": "You don't have permission"}), "status 403"),
        ((200, []), "something else than ThingsBoard"),
        ((200, {"data": [{"name": "x"}], "hasNext": False}), "no id or no name"),
    ],
)
def test_faults_of_the_server_are_told(server, rest, fault, words):
    server.fail_with = fault
    with pytest.raises(CommandError, match=words):
        list(rest.devices())


def test_a_proxy_s_page_instead_of_json_is_told(server, rest):
    server.rubbish = True
    with pytest.raises(CommandError, match="status 200"):
        list(rest.devices())


def test_a_server_that_is_not_there_is_told():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(CommandError, match="cannot be reached"):
        list(ThingsBoardRest(url, USER, lambda: PASSWORD).devices())


@pytest.mark.parametrize("url", ["tb.example.com", "ftp://x", "http://", "http://h:99999"])
def test_an_address_that_is_none_is_told(url):
    with pytest.raises(CommandError):
        ThingsBoardRest(url, USER, lambda: PASSWORD)


def test_series_longer_than_one_answer_are_complete_and_in_order(server, rest):
    identity = server.add("a", "t")
    server.series[identity] = {"p": [(1000 * n, n / 10) for n in range(25_000)], "q": []}
    series = rest.timeseries(identity, ["p", "q"], 1000, 24_999_000)
    assert series["q"] == []
    assert len(series["p"]) == 24_998
    assert (series["p"][0], series["p"][-1]) == (Sample(1000, 0.1), Sample(24_998_000, 2499.8))
    assert rest.timeseries_keys(identity) == ["p", "q"]


def test_meters_are_found_by_their_token_whatever_their_name(server, rest, tmp_path):
    for number in range(120):
        server.add(f"other{number}", f"t{number}")
    server.add("Medidor Norte", "TOKEN-CANARY-1", "Meter")
    server.add("medidor_2", "TOKEN-CANARY-2")
    meters = read_bridge(
        make_bridge(tmp_path / "a.db", [meter(1), meter(2), meter(3), meter(4, tb_token=None)])
    )
    assert find_by_token(rest, meters) == {
        1: FoundDevice("Medidor Norte", "Meter"),
        2: FoundDevice("medidor_2", "default"),
    }
    assert not any("CANARY" in str(request) for request in server.requests), "tokens stay here"


def test_devices_with_the_meters_names_are_asked_first(server, rest, tmp_path):
    for number in range(150):
        server.add(f"other{number}", f"t{number}")
    server.add("medidor_1", "TOKEN-CANARY-1")
    find_by_token(rest, read_bridge(make_bridge(tmp_path / "a.db", [meter(1)])))
    assert sum(path.endswith("/credentials") for path in paths(server)) == 1


def test_two_meters_with_one_token_are_both_found(server, rest, tmp_path):
    server.add("a", "TOKEN-CANARY-1")
    meters = read_bridge(make_bridge(tmp_path / "a.db", [meter(1), meter(2, tb_token="TOKEN-CANARY-1")]))
    assert set(find_by_token(rest, meters)) == {1, 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"medidor_1": "Norte"}', {1: "Norte"}),
        ("meter,device\nmedidor_1,Norte\nmedidor_2,\n", {1: "Norte"}),
        ("{", "not JSON"),
        ('{"medidor_1": 5}', "a mapping is"),
        ("a,b\n1,2\n", "columns meter and device"),
        ('{"nobody": "x"}', 'names "nobody"'),
    ],
)
def test_the_mapping_file(tmp_path, text, expected):
    meters = read_bridge(make_bridge(tmp_path / "a.db", [meter(1), meter(2)]))
    (tmp_path / "map").write_text(text)
    if isinstance(expected, dict):
        assert read_mapping(tmp_path / "map", meters) == expected
    else:
        with pytest.raises(CommandError, match=expected):
            read_mapping(tmp_path / "map", meters)
