"""What was learned of a meter, from whom, and until when: scalers, the length of lists, whether it answers a release.

A fact is *known* (the meter answered), *none* (it was asked again and again over minutes and refused each time) or
*not now* (refused, or not asked yet). "Not now" never becomes a value: it raises, waits, or holds back.

A known fact has a cause: the end point and address of the meter, the client address and authentication with which it
was asked, its system title, and what its identifying objects said. With another cause it is dropped. It has an end as
well: after `LIFE_MS` it is asked again, and where the meter does not say it then, it is believed for as long once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from dlms_connector.config.settings import DeviceSettings
from dlms_connector.cosem.services import AttributeRef
from dlms_connector.cosem.units import MAX_SCALER
from dlms_connector.errors import InvalidAnswer
from dlms_connector.meter.links import server_key
from dlms_connector.state import StateStore
from dlms_connector.state.keeper import Keeper

LIFE_MS = 30 * 86_400_000
REFUSALS = 3
"""So many refusals, over `REFUSED_OVER_MS` at least, stand for "there is none"."""
REFUSED_OVER_MS = 120_000
_SCALERS, _ABILITIES, _IDENTITY = "scalers", "abilities", "identity"
_KINDS = (_SCALERS, _ABILITIES, _IDENTITY)
_LIST_LIMIT, _RELEASE = "list limit", "release"
_MARKED = "marked as unscaled"  # of what the server was told, no fact of the meter: no cause, not forgotten


class Standing(Enum):
    """What is known of a fact."""

    KNOWN = "known"
    NOT_NOW = "not now"
    NONE = "none"


class Scaler(NamedTuple):
    """Power of ten and unit of a register, as the meter told them."""

    exponent: int
    unit: str


@dataclass(slots=True)
class _Refusals:
    """How often and since when a scaler was refused, and when it is asked again once it counts as "none"."""

    first_ms: int
    count: int = 0
    reason: str = ""
    again_ms: int = 0


class ScalerUnknown(InvalidAnswer):
    """A number was read (or is to be written) whose scaler the meter did not tell."""

    def __init__(self, ref: AttributeRef, reason: str) -> None:
        super().__init__(
            f"the scaler of {ref.obis} is not known: {reason}",
            hint='try again; where the meter never tells it, set "scaler" of this object',
        )


class MeterFacts:
    """Learns and answers the facts of one meter; its poller's thread alone uses it.

    Args:
        ask_again_ms: how long "none" is believed.
        on_event: takes one line for the log.
        wall_ms: epoch milliseconds: facts outlive the process.
    """

    def __init__(
        self,
        device: DeviceSettings,
        state: StateStore,
        on_event: Callable[[str], None],
        wall_ms: Callable[[], int],
    ) -> None:
        self.generation = 0
        """Rises whenever facts were dropped: who keeps a copy asks again."""
        self._name = device.device_name
        self._state = state
        self._keeper = Keeper(on_event)
        self._on_event = on_event
        self._wall_ms = wall_ms
        self._ask_again_ms = device.refused_register_period_ms
        self._cause = cause_of(device)
        self._scalers: dict[str, tuple[Scaler, int]] = {}
        self._refused: dict[str, _Refusals] = {}
        self._identity: dict[str, str] = {}
        self._abilities: dict[str, tuple[object, int]] = {}
        self.marked = frozenset(state.get_all(self._name, _MARKED))
        """Keys of which the server was told that they have no scaler; the next reader of the meter takes it back."""
        self._recall()

    def _recall(self) -> None:
        adopted: dict[str, object] = {}
        for key, fact in self._state.get_facts(self._name, _SCALERS).items():
            scaler = _stored_scaler(fact.value)
            if scaler is None or fact.cause not in ("", self._cause):
                continue
            until_ms = fact.until_ms
            if (
                not fact.cause or not until_ms
            ):  # a file of version 1 told neither: they begin with this release
                until_ms = self._wall_ms() + LIFE_MS
                adopted[key] = list(scaler)
            self._scalers[key] = (scaler, until_ms)
        if adopted:
            self._keep(_SCALERS, adopted, self._wall_ms() + LIFE_MS)
        for key, fact in self._state.get_facts(self._name, _IDENTITY).items():
            if fact.cause == self._cause and isinstance(fact.value, str):
                self._identity[key] = fact.value
        for key, fact in self._state.get_facts(self._name, _ABILITIES).items():
            if fact.cause in ("", self._cause):
                self._abilities[key] = (fact.value, fact.until_ms)

    def scaler(self, ref: AttributeRef) -> Scaler | None:
        """The scaler at this place, None unless it is known now."""
        known = self._scalers.get(str(ref))
        return None if known is None or known[1] + LIFE_MS <= self._wall_ms() else known[0]

    def standing(self, ref: AttributeRef) -> Standing:
        """Whether the scaler at this place is known, refused for good, or not known now."""
        if self.scaler(ref) is not None:
            return Standing.KNOWN
        refusals = self._refused.get(str(ref))
        return Standing.NONE if refusals is not None and refusals.again_ms else Standing.NOT_NOW

    def wants_scaler(self, ref: AttributeRef) -> bool:
        """Whether the meter is to be asked: not while it is known, rarely once it was refused for good."""
        known = self._scalers.get(str(ref))
        if known is not None and known[1] > self._wall_ms():
            return False
        refusals = self._refused.get(str(ref))
        return refusals is None or refusals.again_ms <= self._wall_ms()

    def why_unknown(self, ref: AttributeRef) -> str:
        """The meter's last words on this scaler."""
        refusals = self._refused.get(str(ref))
        return refusals.reason if refusals is not None and refusals.reason else "not asked yet"

    def learn_scalers(self, scalers: dict[AttributeRef, Scaler]) -> None:
        """The meter told these; kept on disk."""
        if not scalers:
            return
        until_ms = self._wall_ms() + LIFE_MS
        for ref, scaler in scalers.items():
            key = str(ref)
            before = self._scalers.get(key)
            if before is not None and before[0] != scaler:
                self._on_event(f"the scaler of {ref.obis} was {_text(before[0])} and is {_text(scaler)} now")
                self.generation += 1
            self._scalers[key] = (scaler, until_ms)
            self._refused.pop(key, None)
        self._keep(_SCALERS, {str(ref): list(scaler) for ref, scaler in scalers.items()}, until_ms)

    def _keep(self, kind: str, values: dict[str, object], until_ms: int = 0) -> None:
        """On disk if it can be: where not, it is known until the process ends, and that is told once."""
        self._keeper.attempt(
            lambda: self._state.put_many(self._name, kind, values, cause=self._cause, until_ms=until_ms)
        )

    def refuse_scaler(self, ref: AttributeRef, reason: str) -> None:
        """The meter did not tell it. After some refusals over some minutes that is an answer: there is none."""
        now_ms = self._wall_ms()
        refusals = self._refused.setdefault(str(ref), _Refusals(now_ms))
        refusals.count += 1
        refusals.reason = reason
        if refusals.count >= REFUSALS and now_ms - refusals.first_ms >= REFUSED_OVER_MS:
            if not refusals.again_ms:
                self._on_event(
                    f"{ref.obis} has no readable scaler ({reason}); "
                    '"unscaled" of the device decides what comes of its values, "scaler" of the object sets one'
                )
            refusals.again_ms = now_ms + self._ask_again_ms

    def knows_name(self, key: str) -> bool:
        """Whether this identifying object said something before."""
        return key in self._identity

    def identify(self, key: str, value: str) -> bool:
        """An identifying object (firmware, serial number, system title) said this. True when facts were dropped."""
        before = self._identity.get(key)
        if before == value:
            return False
        self._identity[key] = value
        if before is not None:
            self._on_event(
                f"{key} was {before!r} and is {value!r} now: what was learned of the meter is asked again"
            )
            self.forget(keep_identity=True)
        self._keep(_IDENTITY, {key: value})
        return before is not None

    def forget(self, *, keep_identity: bool = False) -> None:
        """Drop every fact of this meter; others' stay. A disk that refuses costs no value: it is told."""
        self.generation += 1
        self._scalers.clear()
        self._refused.clear()
        self._abilities.clear()
        if not keep_identity:
            self._identity.clear()
        kept = (_IDENTITY,) if keep_identity else ()
        self._keeper.attempt(lambda: forget(self._state, self._name, keep=kept))

    def mark(self, keys: Iterable[str]) -> None:
        """The server was told of these keys, and of no others."""
        self.marked = frozenset(keys)
        self._keeper.attempt(lambda: self._state.forget(self._name, _MARKED))
        self._keeper.attempt(
            lambda: self._state.put_many(self._name, _MARKED, dict.fromkeys(self.marked, True))
        )

    @property
    def list_limit(self) -> int | None:
        """How many attributes a list may hold (1: no lists), None where no list failed yet."""
        value = self._ability(_LIST_LIMIT)
        return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None

    @list_limit.setter
    def list_limit(self, limit: int) -> None:
        self._learn_ability(_LIST_LIMIT, limit)

    @property
    def answers_release(self) -> bool:
        """False once releases were lost again and again."""
        return self._ability(_RELEASE) is not False

    def learn_no_release(self) -> None:
        self._learn_ability(_RELEASE, False)

    def _ability(self, key: str) -> object:
        value, until_ms = self._abilities.get(key, (None, 0))
        return None if until_ms and until_ms <= self._wall_ms() else value

    def _learn_ability(self, key: str, value: int) -> None:
        until_ms = self._wall_ms() + LIFE_MS
        self._abilities[key] = (value, until_ms)
        self._keep(_ABILITIES, {key: value}, until_ms)


def forget(state: StateStore, device_name: str, *, keep: Iterable[str] = ()) -> None:
    """Drop what was learned of one meter; counters, cursors and other meters' facts stay. Raises StateError."""
    for kind in _KINDS:
        if kind not in keep:
            state.forget(device_name, kind)


def cause_of(device: DeviceSettings) -> str:
    """Names which meter is asked and as whom, without any secret: facts of another cause are not believed."""
    client = device.client
    security = client.security
    parts = (
        *device.transport.line_key,
        server_key(device.transport),
        str(client.address),
        client.authentication,
        str(client.association_obis),
        security.policy if security is not None else "",
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _stored_scaler(value: object) -> Scaler | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    exponent, unit = value
    usable = isinstance(exponent, int) and abs(exponent) <= MAX_SCALER and isinstance(unit, str)
    return Scaler(exponent, unit) if usable else None


def _text(scaler: Scaler) -> str:
    return f"10^{scaler.exponent} {scaler.unit}".rstrip()
