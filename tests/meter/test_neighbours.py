"""Neighbours of the cases: one object at which the link ends, one result too many, texts where numbers are due."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from dlms_connector.cosem.services import AttributeRef
from dlms_connector.errors import CommandError, DlmsConnectorError, InvalidAnswer, LinkError
from dlms_connector.meter import operations
from dlms_connector.obis import Obis
from tests.meter.test_facts import SCALER, VALUE, Bench, energy_meter, scaler
from tests.support.fact_meter import FactMeter

PHASES = [Obis(1, 0, number, 7, 0) for number in (32, 52, 72)]
ENTRIES = [{"key": str(obis), "obis": str(obis), "class": 3} for obis in PHASES]
VOLTS = {AttributeRef(3, obis, 2): b"\x12\x09\x0c" for obis in PHASES} | {
    AttributeRef(3, obis, 3): scaler(-1, 35) for obis in PHASES
}
LIMITER = Obis(0, 0, 17, 0, 0)
DEVICE_NAME = AttributeRef(1, Obis(0, 0, 42, 0, 0), 2)


class Odd(FactMeter):
    """Answers every request that names an attribute with the same bytes, or not at all."""

    def spoil(self, ref: AttributeRef, answer: bytes | None) -> Odd:
        self._spoilt = (ref.to_bytes(), answer)
        return self

    def answer(self, apdu: bytes) -> bytes | None:
        key, answer = self._spoilt
        return answer if apdu[0] == 0xC0 and key in apdu else super().answer(apdu)


def last_values(bench: Bench, cycles: int = 8) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for _ in range(cycles):
        try:
            values = bench.values()
        except LinkError:
            values = {}
        bench.now_ms += 60_000
    return values


@pytest.mark.parametrize("attribute", [2, 3], ids=["value", "scaler"])
@pytest.mark.parametrize("answer", [None, "d80102", "d80202", "d80103", "0e010101"])
@pytest.mark.parametrize("spoilt", range(3))
@pytest.mark.parametrize("lists", [True, False])
def test_one_object_never_costs_the_others_for_good(
    lists: bool, spoilt: int, answer: str | None, attribute: int
) -> None:
    ref = AttributeRef(3, PHASES[spoilt], attribute)
    meter = Odd(dict(VOLTS)).spoil(ref, None if answer is None else bytes.fromhex(answer))
    bench = Bench(meter, timeseries=ENTRIES, client={"useLists": lists})
    right = {str(obis): 231.6 for obis in PHASES if obis != ref.obis}
    values = last_values(bench)
    assert {key: value for key, value in values.items() if key != str(ref.obis)} == right
    assert values.get(str(ref.obis)) in (None, 2316), "never a number scaled by a guess"


@pytest.mark.parametrize("answer", [None, "d80103", "d80202"])
def test_a_meter_that_knows_no_scaler_profile_is_read_all_the_same(answer: str | None) -> None:
    class NoProfiles(FactMeter):
        def answer(self, apdu: bytes) -> bytes | None:
            if apdu[0] == 0xC0 and apdu[1] == 1 and apdu[3:5] == b"\0\x07":
                return None if answer is None else bytes.fromhex(answer)
            return super().answer(apdu)

    meter = NoProfiles(energy_meter().values | VOLTS, refuse=lambda ref: 3 if ref == SCALER else 0)
    bench = Bench(meter, timeseries=[{"key": "energy", "obis": "1-0:1.8.0"}, ENTRIES[0]])
    assert last_values(bench)[str(PHASES[0])] == 231.6


def test_one_result_too_many_shifts_no_value() -> None:
    class Shifted(FactMeter):
        def answer(self, apdu: bytes) -> bytes | None:
            answer = super().answer(apdu)
            if answer is not None and answer[:2] == b"\xc4\x03":
                return answer[:4] + b"\x00\x12\x00\x01" + answer[4:]
            return answer

    bench = Bench(Shifted(dict(VOLTS)), timeseries=ENTRIES)
    assert bench.values() == {str(obis): 231.6 for obis in PHASES}


@pytest.mark.parametrize("said", [b"\x06\x00\x00\x00", b"\x0a\x04MTR", b"\x09\x04MTR"])
def test_a_meter_that_was_exchanged_is_not_read_with_the_facts_of_the_other(said: bytes) -> None:
    bench = Bench(FactMeter({**energy_meter().values, DEVICE_NAME: said + b"1"}))
    assert bench.values() == {"energy": 64300.834}
    bench.session.abandon()
    bench.meter.values |= {DEVICE_NAME: said + b"2", SCALER: scaler(-1)}
    assert bench.values() == {"energy": 6430083.4}


def test_a_meter_that_hangs_up_when_asked_for_its_name_is_read() -> None:
    bench = Bench(Odd(energy_meter().values).spoil(DEVICE_NAME, None))
    for _ in range(3):
        assert bench.values() == {"energy": 64300.834}
        bench.session.abandon()


def test_what_a_list_alone_refuses_is_asked_alone_again_after_it_was_good() -> None:
    refusals = {VALUE: 0}
    bench = Bench(
        FactMeter(energy_meter().values | VOLTS, refuse=lambda ref: refusals.get(ref, 0)),
        timeseries=[{"key": "energy", "obis": "1-0:1.8.0"}, *ENTRIES],
    )
    assert bench.values()["energy"] == 64300.834
    refusals[VALUE] = 2
    assert "energy" in bench.cycle().refused
    refusals[VALUE] = 0
    assert bench.values()["energy"] == 64300.834
    meter_answer = bench.meter.answer

    def only_in_lists(apdu: bytes) -> bytes | None:
        refusals[VALUE] = 2 if apdu[:2] == b"\xc0\x03" else 0
        return meter_answer(apdu)

    bench.meter.answer = only_in_lists  # type: ignore[method-assign]
    assert bench.values()["energy"] == 64300.834


def test_a_text_in_a_register_with_a_scaler_is_no_value() -> None:
    bench = Bench(FactMeter({VALUE: b"\x0a\x0512345", SCALER: scaler(-3)}))
    assert "no number" in bench.cycle().failed["energy"].message


@pytest.mark.parametrize(
    ("raw", "wanted", "right"),
    [
        ("090212e3", "number", None),
        ("04080f", "number", None),
        ("09023132", "number", Decimal(12)),
        ("040800", "boolean", False),
        ("040801", "boolean", True),
        ("090100", "boolean", False),
        ("0a0546414c5345", "boolean", False),
        ("0a0454525545", "boolean", True),
        ("0a056d61796265", "boolean", None),
    ],
)
def test_octets_and_bits_as_numbers_and_truth(raw: str, wanted: str, right: Any) -> None:
    ref = AttributeRef(1, Obis(0, 0, 96, 50, 0), 2)
    entry = {"key": "k", "obis": "0-0:96.50.0", "class": 1, "type": wanted}
    result = Bench(FactMeter({ref: bytes.fromhex(raw)}), timeseries=[entry]).cycle()
    assert [reading.value for reading in result.readings] == ([] if right is None else [right])
    assert ("k" in result.failed) == (right is None)


# writing


def writing_bench(values: dict[AttributeRef, bytes], **entry: Any) -> Bench:
    names = sorted({str(ref.obis) for ref in values})
    bench = Bench(FactMeter(values), allowWrite={"set": names}, **entry)
    bench.session.open()
    return bench


def write(bench: Bench, value: Any, **params: Any) -> Any:
    definition = operations.object_definition(bench.session.device, params)
    return operations.write(bench.session, definition, value)


def test_a_multiplier_is_taken_back() -> None:
    entry = {"key": "energy", "obis": "1-0:1.8.0", "multiplier": 40}
    bench = writing_bench({VALUE: b"\x12\x00\x0a", SCALER: scaler(-1)}, timeseries=[entry])
    assert write(bench, 40, key="energy")["raw"] == 10
    assert bench.meter.writes == [(VALUE, b"\x12\x00\x0a")]


def test_a_value_with_its_type_goes_raw_and_says_so() -> None:
    bench = writing_bench({VALUE: b"\x12\x00\x0a", SCALER: scaler(-1)})
    answer = write(bench, {"type": "uint16", "value": 25}, obis="1-0:1.8.0")
    assert (answer["raw"], answer["scaler"], answer["type"]) == (25, 0, "uint16")


@pytest.mark.parametrize("value", [{"type": "int32", "value": 25}, {"type": "null", "value": None}])
def test_a_type_that_the_meter_does_not_hold_is_not_sent(value: Any) -> None:
    bench = writing_bench({VALUE: b"\x12\x00\x0a", SCALER: scaler(-1)})
    with pytest.raises(CommandError, match="holds uint16"):
        write(bench, value, obis="1-0:1.8.0")
    assert not bench.meter.writes


@pytest.mark.parametrize(("class_id", "attribute"), [(71, 3), (71, 4), (71, 5)])
def test_a_threshold_counts_as_the_monitored_value(class_id: int, attribute: int) -> None:
    voltage = PHASES[0]
    monitored = b"\x02\x03\x12\x00\x03\x09\x06" + voltage.to_bytes() + b"\x0f\x02"
    values = {
        AttributeRef(class_id, LIMITER, attribute): b"\x12\x09\x0c",
        AttributeRef(class_id, LIMITER, 2): monitored,
        AttributeRef(3, voltage, 3): scaler(-1, 35),
    }
    bench = writing_bench(values)
    where = {"obis": str(LIMITER), "class": class_id, "attribute": attribute}
    definition = operations.object_definition(bench.session.device, where)
    assert operations.read(bench.session, definition) == 231.6
    assert write(bench, 253, **where)["raw"] == 2530
    bench.meter.refuse = lambda ref: 2 if ref.attribute == 3 else 0
    with pytest.raises(DlmsConnectorError):
        write(bench, 253, **where)
    del bench.meter.values[AttributeRef(class_id, LIMITER, 2)]
    with pytest.raises(DlmsConnectorError):
        write(bench, 253, **where)
    assert len(bench.meter.writes) == 1
    if attribute != 3:
        assert write(bench, {"type": "uint16", "value": 2530}, **where)["raw"] == 2530


def test_octets_are_never_guessed() -> None:
    ref = AttributeRef(1, Obis(0, 0, 96, 50, 0), 2)
    bench = writing_bench({ref: b"\x09\x04\x01\x02\xff\xee"})
    where = {"obis": "0-0:96.50.0", "class": 1}
    for value in ("0102FFEE", "20260101"):
        with pytest.raises(CommandError, match="hex:"):
            write(bench, value, **where)
    write(bench, "hex:0102FFEE", **where)
    write(bench, "text:20260101", **where)
    assert [sent for _, sent in bench.meter.writes] == [b"\x09\x04\x01\x02\xff\xee", b"\x09\x0820260101"]


def test_a_moment_is_written_as_the_meter_counts_its_deviation() -> None:
    ref = AttributeRef(1, Obis(0, 0, 96, 50, 0), 2)
    bench = writing_bench({ref: b"\x09\x0c" + bytes(12)}, clock={"deviationSign": "reversed"})
    write(bench, "2026-11-25T12:00:00+01:00", obis="0-0:96.50.0", **{"class": 1})
    assert bench.meter.writes[0][1][11:13].hex() == "003c"


def test_a_relay_that_tells_nothing_has_no_state() -> None:
    relay = {
        AttributeRef(70, operations.RELAY, 2): b"\x00",
        AttributeRef(70, operations.RELAY, 3): b"\x16\x01",
    }
    bench = writing_bench(relay)
    with pytest.raises(InvalidAnswer):
        operations.relay_state(bench.session)


def test_scalers_of_version_1_end(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Bench(energy_meter())
    first.state.put("m", "scalers", str(SCALER), [-3, "Wh"])
    adopted = Bench(energy_meter(), first.state)
    assert adopted.values() == {"energy": 64300.834}
    elsewhere = Bench(
        FactMeter({**energy_meter().values, SCALER: scaler(0)}),
        first.state,
        client={"address": 32},
    )
    assert elsewhere.values() == {"energy": 64300834}


def test_a_problem_that_passes_is_a_problem() -> None:
    bench = Bench(energy_meter(refuse=lambda ref: 250 if ref == VALUE else 0))
    with pytest.raises(DlmsConnectorError):
        operations.read(bench.session, operations.object_definition(bench.session.device, {"key": "energy"}))
