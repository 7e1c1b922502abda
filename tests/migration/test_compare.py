import pytest

from dlms_connector.migration.compare import Pair, Thresholds, Window, compare
from dlms_connector.migration.series import Point

PERIOD_MS = 5_000
HOUR = Window(0, 3_600_000)
NEXT_HOUR = Window(3_600_000, 7_200_000)


def series(window=HOUR, value=230.0, keep=lambda n: True, shift_ms=0, received_ms=None):
    times = range(window.start_ms, window.end_ms, PERIOD_MS)
    return [
        Point(
            ts + shift_ms,
            value(n) if callable(value) else value,
            None if received_ms is None else ts + shift_ms + received_ms,
        )
        for n, ts in enumerate(times)
        if keep(n)
    ]


def judge(left, right, key="voltage_l1", windows=(HOUR, HOUR), period_ms=PERIOD_MS):
    (result,) = compare(
        [Pair("m", "m")],
        {("m", key): left} if left is not None else {},
        {("m", key): right} if right is not None else {},
        *windows,
        lambda _device, _key: period_ms,
    )
    return result


def test_two_equal_systems_go_on():
    result = judge(series(), series(shift_ms=700))
    assert (result.verdict, result.reasons) == ("go on", ())
    (key,) = result.keys
    assert (key.left.count, key.left.expected, key.left.share, key.left.gaps) == (720, 720, 1.0, 0)
    assert (key.difference.pairs, key.difference.relative) == (720, 0.0)


def test_a_gateway_that_delivers_more_than_the_bridge_goes_on():
    assert judge(series(keep=lambda n: n % 3), series()).verdict == "go on"


DELIVERIES = [
    (lambda n: n % 8 != 0, "roll back", "87.5% of the readings, before 100.0%"),
    (lambda n: n % 25 != 0, "look", "96.0% of the readings"),
    (lambda n: not 100 <= n < 102, "go on", ""),
    (lambda n: not 100 <= n < 106, "go on", ""),
    (lambda n: not 100 <= n < 111, "look", "a gap of 60 s"),
    (lambda n: n >= 360, "roll back", "50.0%"),
    (lambda n: n < 360, "roll back", "50.0%"),
]


@pytest.mark.parametrize(("keep", "verdict", "words"), DELIVERIES)
def test_what_is_lost_decides(keep, verdict, words):
    result = judge(series(), series(keep=keep))
    assert result.verdict == verdict
    assert words in " ".join(result.reasons)


def test_gaps_are_counted_at_both_ends_and_between():
    result = judge(series(), series(keep=lambda n: 20 <= n < 300 or 340 <= n < 700))
    right = result.keys[0].right
    assert (right.gaps, right.longest_gap_ms) == (3, 205_000)


def test_values_received_twice_are_not_more_than_all():
    assert judge(series(), [*series(), *series(shift_ms=1)]).keys[0].right.share == 1.0


@pytest.mark.parametrize(
    ("left", "right", "verdict"),
    [
        (series(), None, "roll back"),
        (series(), [], "roll back"),
        (None, series(), "go on"),
        (None, None, "look"),
    ],
)
def test_a_side_without_a_key(left, right, verdict):
    assert judge(left, right).verdict == verdict


@pytest.mark.parametrize(
    ("value", "verdict", "words"),
    [
        (230.5, "go on", ""),
        (235.0, "look", "differ by 2.2%"),
        (250.0, "roll back", "differ by 8.7%"),
        (0.23, "roll back", "factor 0.001"),
        (230_000.0, "roll back", "factor 1000"),
        (-230.0, "roll back", "differ by 200.0%"),
        ("text", "roll back", "differ"),
    ],
)
def test_values_at_the_same_time_are_compared(value, verdict, words):
    result = judge(series(), series(value=value, shift_ms=900))
    assert result.verdict == verdict
    assert words in " ".join(result.reasons)


def test_values_far_from_each_other_in_time_are_no_pairs():
    result = judge(series(keep=lambda n: n % 2), series(keep=lambda n: n % 2 == 0), period_ms=PERIOD_MS)
    assert result.keys[0].difference.pairs == 0


@pytest.mark.parametrize(
    ("key", "left", "right", "verdict", "words"),
    [
        ("active_energy", lambda n: 1e6 + n, lambda n: 1e6 + 720 + n, "go on", ""),
        ("active_energy", lambda n: 1e6 + n, lambda n: 5e5 + n, "roll back", "went back by"),
        ("active_energy", lambda n: 1e6 + n, lambda n: 1e9 + n, "roll back", "factor 1000"),
        ("voltage_l1", 230.0, 2300.0, "roll back", "factor 10"),
        ("voltage_l1", 230.0, 221.0, "go on", ""),
        ("active_power", 500.0, 5000.0, "go on", ""),
    ],
)
def test_windows_that_follow_one_another_are_compared_by_level_and_step(key, left, right, verdict, words):
    result = judge(series(value=left), series(NEXT_HOUR, value=right), key=key, windows=(HOUR, NEXT_HOUR))
    assert result.verdict == verdict
    assert words in " ".join(result.reasons)


def test_latency_is_judged_where_it_is_known():
    slow = judge(series(received_ms=300), series(received_ms=4_000))
    assert (slow.verdict, slow.keys[0].left.latency_ms, slow.keys[0].right.latency_ms) == ("look", 300, 4_000)
    assert "latency of 4000 ms" in slow.reasons[0]
    assert judge(series(), series()).keys[0].right.latency_ms is None


def test_the_connector_s_own_latency_stands_in_and_health_is_no_key():
    (result,) = compare(
        [Pair("m", "m")],
        {("m", "frequency"): series()},
        {("m", "frequency"): series(), ("m", "dlms_latencyMs"): series(value=120.0)},
        HOUR,
        HOUR,
        lambda _device, _key: PERIOD_MS,
    )
    assert [key.key for key in result.keys] == ["frequency"]
    assert result.keys[0].right.latency_ms == 120.0


def test_an_unknown_period_is_estimated_from_the_fuller_side():
    result = judge(series(keep=lambda n: n % 2), series(), period_ms=None)
    assert result.keys[0].period_ms == PERIOD_MS
    assert result.keys[0].left.share == 0.5


def test_the_worst_meter_comes_first_and_names_may_differ():
    left = {(name, "frequency"): series() for name in ("a", "b", "old")}
    right = {
        ("a", "frequency"): series(),
        ("b", "frequency"): series(keep=lambda n: n % 2),
        ("new", "frequency"): series(),
    }
    pairs = [Pair("a", "a"), Pair("b", "b"), Pair("old", "new")]
    results = compare(pairs, left, right, HOUR, HOUR, lambda *_: PERIOD_MS, Thresholds())
    assert [(result.right_name, result.verdict) for result in results] == [
        ("b", "roll back"),
        ("a", "go on"),
        ("new", "go on"),
    ]
