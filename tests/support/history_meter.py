"""A meter with random habits and faults: lists as meters do them, refusals and silence at random moments."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dlms_connector.cosem.services import AttributeRef
from tests.support.fact_meter import FactMeter, ref_of
from tests.support.history_profile import PROFILE, LoadProfile

SILENCE, EXCEPTION = -1, -2
CODES = (1, 2, 3, 4, 9, 11, 12, 13, 250)
_BUFFER, _IN_USE = AttributeRef(7, PROFILE, 2), AttributeRef(7, PROFILE, 7)
_OTHER_REASON, _UNKNOWN_SERVICE = b"\xd8\x01\x03", b"\xd8\x02\x02"


@dataclass
class ListHabits:
    """What a meter makes of lists.

    Args:
        supported: False refuses every list, as `over` says.
        most_items, most_bytes: limits of the request and of the answer; 0 for none.
        good_lists: so many lists are answered before the limits come.
        over: what comes of a list beyond them: silence, exception, unknown, refusal, fewer items.
        ends_at_refusal: everything behind the first refused item is refused, too.
        wraps_clocks: octets of a date-time are wrapped in octets.
    """

    supported: bool = True
    most_items: int = 0
    most_bytes: int = 0
    good_lists: int = 0
    over: str = "silence"
    ends_at_refusal: bool = False
    wraps_clocks: bool = False


def random_list_habits(rng: random.Random) -> ListHabits:
    """Habits that come together by chance; half of all meters have no limit."""
    limit = rng.choice(("", "", "items", "bytes"))
    return ListHabits(
        supported=rng.random() >= 0.1,
        most_items=rng.choice((1, 2, 3, 5, 7, 16)) if limit == "items" else 0,
        most_bytes=rng.choice((12, 30, 60, 100)) if limit == "bytes" else 0,
        good_lists=rng.choice((0, 0, 1, 2, 4)),
        over=rng.choice(("silence", "exception", "unknown", "refusal", "fewer", "miscounted")),
        ends_at_refusal=rng.random() < 0.2,
        wraps_clocks=rng.random() < 0.2,
    )


@dataclass
class HistoryMeter(FactMeter):
    """Registers and a load profile; `refuse` may give SILENCE and EXCEPTION as well as result codes."""

    lists: ListHabits = field(default_factory=ListHabits)
    profile: LoadProfile | None = None
    excepted: AttributeRef | None = None
    """This one is always answered with an exception."""
    now_ms: Callable[[], int] = lambda: 0
    refusals: dict[AttributeRef, list[int]] = field(default_factory=dict)
    """When each attribute was refused, epoch milliseconds."""
    _lists_seen: int = 0

    def answer(self, apdu: bytes) -> bytes | None:
        if apdu[0] != 0xC0:
            return super().answer(apdu)
        if apdu[1] == 1:
            return self._single(apdu)
        self._lists_seen += 1
        results = [self.result(ref_of(apdu[4 + 10 * index : 13 + 10 * index])) for index in range(apdu[3])]
        return self._list(apdu[2], results)

    def _single(self, apdu: bytes) -> bytes | None:
        ref = ref_of(apdu[3:12])
        result = self.result(ref, apdu[12:])
        if isinstance(result, bytes):
            return bytes((0xC4, 1, apdu[2], 0)) + result
        if result in (SILENCE, EXCEPTION):
            return None if result == SILENCE else _OTHER_REASON
        return bytes((0xC4, 1, apdu[2], 1, result))

    def _list(self, invoke_id: int, results: list[bytes | int]) -> bytes | None:
        """An answer to a list, as this meter makes them."""
        habits = self.lists
        if SILENCE in results:
            return None
        items: list[bytes] = []
        ended = False
        for result in results:
            if ended or isinstance(result, int):
                items.append(b"\x01\x04" if ended or result == EXCEPTION else bytes((1, int(result))))  # type: ignore[arg-type]
                ended = habits.ends_at_refusal
            elif habits.wraps_clocks and result[:2] == b"\x09\x0c":
                items.append(b"\x00\x09\x0e" + result)
            else:
                items.append(b"\x00" + result)
        body = b"".join(items)
        is_limited = self._lists_seen > habits.good_lists
        too_long = (0 < habits.most_items < len(items)) or (0 < habits.most_bytes < len(body))
        if not habits.supported or (is_limited and too_long):
            return self._beyond(invoke_id, items)
        return bytes((0xC4, 3, invoke_id, len(items))) + body

    def _beyond(self, invoke_id: int, items: list[bytes]) -> bytes | None:
        match self.lists.over:
            case "silence":
                return None
            case "exception":
                return _OTHER_REASON
            case "unknown":
                return _UNKNOWN_SERVICE
            case "refusal":
                return bytes((0xC4, 1, invoke_id, 1, 250))
        some = items[: len(items) // 2]
        count = len(items) if self.lists.over == "miscounted" else len(some)
        return bytes((0xC4, 3, invoke_id, count)) + b"".join(some)

    def result(self, ref: AttributeRef, access: bytes = b"\x00") -> bytes | int:
        """The data of an attribute, or why there is none."""
        code = EXCEPTION if ref == self.excepted else self.refuse(ref)
        profile = self.profile
        result: bytes | int = code
        if code == 0:
            if profile is not None and ref == _BUFFER:
                result = profile.answer(access, self.now_ms())
            elif profile is not None and ref == _IN_USE:
                result = profile.entries_in_use(self.now_ms())
            else:
                result = self.values.get(ref, 4)
        if isinstance(result, int):
            self.refusals.setdefault(ref, []).append(self.now_ms())
            if profile is not None and ref == _BUFFER:
                profile.rows_sent = 0  # what came before, by another access, is not used
        return result


def random_refusals(rng: random.Random) -> Callable[[AttributeRef], int]:
    """Any attribute may be refused with any code, unanswered, or answered with an exception."""
    share, codes = rng.random() * 0.5, [*CODES, EXCEPTION]
    silence = rng.choice((0.0, 0.0, 0.03))

    def refuse(_: AttributeRef) -> int:
        if rng.random() < silence:
            return SILENCE
        return rng.choice(codes) if rng.random() < share else 0

    return refuse


def scaler_refusals(rng: random.Random, places: Sequence[AttributeRef]) -> Callable[[AttributeRef], int]:
    """Some of these scalers are refused from a random read on, a few times; nothing else is."""
    chosen = rng.sample(places, k=min(len(places), rng.randint(1, 3)))
    codes = {ref: [0] * rng.randint(0, 3) + [rng.choice(CODES)] * rng.randint(1, 8) for ref in chosen}
    return lambda ref: codes[ref].pop(0) if codes.get(ref) else 0
