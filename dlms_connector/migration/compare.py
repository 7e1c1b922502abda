"""Two systems that read the same meters, side by side: what each delivered, and whether to go on.

The left side is the one that is known (the bridge), the right side the one that is judged (the gateway).
Their windows may be the same (both run, on exports or on two devices) or follow one another (one device,
before and after a wave): then values are compared by their level and counters by their continuity.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from dlms_connector.migration.series import Point, Telemetry

Verdict = Literal["go on", "look", "roll back"]
_ORDER: Final[tuple[Verdict, ...]] = ("go on", "look", "roll back")
LATENCY_KEY: Final = "dlms_latencyMs"
HEALTH_PREFIX: Final = "dlms_"
_STEADY_KEYS: Final = ("voltage", "frequency")
_COUNTER_WORD: Final = "energy"


@dataclass(frozen=True)
class Window:
    """From `start_ms` up to and without `end_ms`."""

    start_ms: int
    end_ms: int

    def overlaps(self, other: Window) -> bool:
        return self.start_ms < other.end_ms and other.start_ms < self.end_ms


@dataclass(frozen=True)
class Thresholds:
    """Where "go on" ends. Shares are of 1; a relative difference of 0.01 is one per cent."""

    good_share: float = 0.95
    share_lost_look: float = 0.01
    share_lost_back: float = 0.10
    difference_look: float = 0.01
    difference_back: float = 0.05
    gap_periods: float = 2.5
    long_gap_periods: float = 10.0
    latency_ms: float = 2_000.0


@dataclass(frozen=True)
class Side:
    """What one system delivered of one key in its window. Gaps count the silence at both ends too."""

    count: int
    expected: int
    gaps: int
    longest_gap_ms: int
    latency_ms: float | None

    @property
    def share(self) -> float:
        """Delivered of expected, at most 1."""
        return min(1.0, self.count / self.expected) if self.expected else 0.0


@dataclass(frozen=True)
class Difference:
    """How the values differ; `relative` is the median of |right - left| / |left| over `pairs` pairs.

    Without pairs (windows that follow one another) `step` is right's first value less left's last.
    """

    pairs: int = 0
    largest: float | None = None
    relative: float | None = None
    factor: float | None = None
    step: float | None = None


@dataclass(frozen=True)
class KeyComparison:
    """One key of one meter."""

    key: str
    period_ms: int
    left: Side
    right: Side
    difference: Difference
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class MeterComparison:
    """One meter: its keys, and the worst of their verdicts."""

    left_name: str
    right_name: str
    keys: tuple[KeyComparison, ...]
    verdict: Verdict
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Pair:
    """The same meter under its name on either side."""

    left: str
    right: str


def compare(
    pairs: Sequence[Pair],
    left: Telemetry,
    right: Telemetry,
    left_window: Window,
    right_window: Window,
    period_of: Callable[[str, str], int | None],
    thresholds: Thresholds | None = None,
) -> tuple[MeterComparison, ...]:
    """Every meter judged, the worst first.

    Args:
        pairs: which meters.
        left: the known side's points.
        right: the judged side's points.
        left_window: what of the left side counts.
        right_window: what of the right side counts.
        period_of: (device on the right, key) to its nominal period in ms; None: estimated from the points.
        thresholds: where a verdict changes.
    """
    limits = thresholds or Thresholds()
    results = []
    for pair in pairs:
        known, judged = _of(left, pair.left, left_window), _of(right, pair.right, right_window)
        keys = sorted(key for key in known.keys() | judged.keys() if not key.startswith(HEALTH_PREFIX))
        compared = tuple(
            _compare_key(
                key,
                (known.get(key, []), judged.get(key, [])),
                (left_window, right_window),
                (_own_latency(known), _own_latency(judged)),
                period_of(pair.right, key),
                limits,
            )
            for key in keys
        )
        results.append(_meter(pair, compared))
    return tuple(sorted(results, key=lambda result: (-_ORDER.index(result.verdict), result.right_name)))


def _meter(pair: Pair, keys: tuple[KeyComparison, ...]) -> MeterComparison:
    if not keys:
        return MeterComparison(pair.left, pair.right, (), "look", ("neither side has a value",))
    verdict = max((key.verdict for key in keys), key=_ORDER.index)
    reasons = tuple(f"{key.key}: {reason}" for key in keys for reason in key.reasons)
    return MeterComparison(pair.left, pair.right, keys, verdict, reasons)


def _of(telemetry: Telemetry, device: str, window: Window) -> dict[str, list[Point]]:
    found = {}
    for (name, key), points in telemetry.items():
        if name == device:
            inside = [point for point in points if window.start_ms <= point.ts_ms < window.end_ms]
            if inside:
                found[key] = inside
    return found


def _own_latency(series: Mapping[str, Sequence[Point]]) -> float | None:
    """What the connector says of itself: the telemetry of its health."""
    values = [point.value for point in series.get(LATENCY_KEY, ()) if isinstance(point.value, float)]
    return median(values) if values else None


def _compare_key(
    key: str,
    points: tuple[Sequence[Point], Sequence[Point]],
    windows: tuple[Window, Window],
    own_latencies: tuple[float | None, float | None],
    nominal_ms: int | None,
    limits: Thresholds,
) -> KeyComparison:
    period_ms = nominal_ms or estimated_period_ms(*points)
    left, right = (
        _side(points[side], windows[side], period_ms, own_latencies[side], limits) for side in (0, 1)
    )
    difference = (
        _difference(*points, period_ms) if windows[0].overlaps(windows[1]) else _succession(key, *points)
    )
    findings = [*_judge_delivery(left, right, period_ms, limits), *_judge_values(key, difference, limits)]
    verdict = max((finding[0] for finding in findings), key=_ORDER.index, default=_ORDER[0])
    return KeyComparison(
        key, period_ms, left, right, difference, verdict, tuple(reason for _, reason in findings)
    )


def estimated_period_ms(*sides: Sequence[Point]) -> int:
    """The median distance of the side that has more points; 1 s where there is nothing to go by."""
    points = max(sides, key=len)
    distances = [later.ts_ms - earlier.ts_ms for earlier, later in itertools.pairwise(points)]
    return max(1, round(median(distances))) if distances else 1_000


def _side(
    points: Sequence[Point], window: Window, period_ms: int, own_latency_ms: float | None, limits: Thresholds
) -> Side:
    edges = [window.start_ms, *(point.ts_ms for point in points), window.end_ms]
    distances = [later - earlier for earlier, later in itertools.pairwise(edges)]
    latencies = [point.received_ms - point.ts_ms for point in points if point.received_ms is not None]
    return Side(
        count=len(points),
        expected=max(1, (window.end_ms - window.start_ms) // period_ms),
        gaps=sum(distance > limits.gap_periods * period_ms for distance in distances),
        longest_gap_ms=max(distances),
        latency_ms=median(latencies) if latencies else own_latency_ms,
    )


def _difference(left: Sequence[Point], right: Sequence[Point], period_ms: int) -> Difference:
    """Each left value against the right value nearest in time, at most half a period away."""
    times = [point.ts_ms for point in right]
    absolute: list[float] = []
    relative: list[float] = []
    ratios: list[float] = []
    for point in left:
        position = bisect_left(times, point.ts_ms)
        near = [right[index] for index in (position - 1, position) if 0 <= index < len(right)]
        if not near:
            continue
        other = min(near, key=lambda each: abs(each.ts_ms - point.ts_ms))
        if abs(other.ts_ms - point.ts_ms) * 2 > period_ms:
            continue
        if isinstance(point.value, float) and isinstance(other.value, float):
            absolute.append(abs(other.value - point.value))
            if point.value:
                relative.append(absolute[-1] / abs(point.value))
                ratios.append(other.value / point.value)
        else:
            absolute.append(float(point.value != other.value))
            relative.append(absolute[-1])
    if not absolute:
        return Difference()
    return Difference(
        pairs=len(absolute),
        largest=max(absolute),
        relative=median(relative) if relative else 0.0,
        factor=_power_of_ten(median(ratios)) if ratios else None,
    )


def _succession(key: str, left: Sequence[Point], right: Sequence[Point]) -> Difference:
    before = [point.value for point in left if isinstance(point.value, float)]
    after = [point.value for point in right if isinstance(point.value, float)]
    if not before or not after:
        return Difference()
    is_counter = _COUNTER_WORD in key
    factor = None
    if (is_counter or key.startswith(_STEADY_KEYS)) and median(before):
        factor = _power_of_ten(median(after) / median(before))
    return Difference(step=after[0] - before[-1] if is_counter else None, factor=factor)


def _power_of_ten(ratio: float) -> float | None:
    """10, 100, 0.001, ...: the units differ; None where the ratio is no such factor."""
    if ratio <= 0:
        return None
    exponent = round(math.log10(ratio))
    factor: float = 10.0**exponent
    return factor if exponent and abs(ratio / factor - 1) < 0.2 else None


def _judge_delivery(left: Side, right: Side, period_ms: int, limits: Thresholds) -> list[tuple[Verdict, str]]:
    if not right.count:
        return [("roll back", "nothing was delivered")] if left.count else []
    found: list[tuple[Verdict, str]] = []
    lost = left.share - right.share
    if lost > limits.share_lost_back:
        found.append(("roll back", f"{right.share:.1%} of the readings, before {left.share:.1%}"))
    elif lost > limits.share_lost_look or right.share < limits.good_share:
        found.append(("look", f"{right.share:.1%} of the readings, before {left.share:.1%}"))
    long_gap_ms = max(left.longest_gap_ms, limits.long_gap_periods * period_ms)
    if right.longest_gap_ms > long_gap_ms:
        found.append(("look", f"a gap of {right.longest_gap_ms / 1000:g} s"))
    if right.latency_ms is not None and right.latency_ms > max(limits.latency_ms, 2 * (left.latency_ms or 0)):
        found.append(("look", f"a latency of {right.latency_ms:g} ms"))
    return found


def _judge_values(key: str, difference: Difference, limits: Thresholds) -> list[tuple[Verdict, str]]:
    if difference.factor is not None:
        return [("roll back", f"the values differ by the factor {difference.factor:g}: another unit?")]
    if difference.step is not None and difference.step < 0:
        return [("roll back", f"the counter went back by {-difference.step:g}")]
    if difference.relative is not None and difference.relative > limits.difference_look:
        verdict: Verdict = "roll back" if difference.relative > limits.difference_back else "look"
        return [(verdict, f"the values differ by {difference.relative:.1%} in the median")]
    return []
