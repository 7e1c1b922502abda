"""Every combination that the standards allow is read by our session and compared value by value."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dlms_connector.errors import SecurityError
from dlms_connector.simulator.fleet import HDLC, WRAPPER, FleetSettings, LineSettings, SimulatedFleet
from dlms_connector.simulator.meter import PUBLIC_CLIENT, ClientSettings, MeterSettings
from dlms_connector.simulator.quantities import QUANTITIES, scaled_value
from tests.support.readers import Bench, device_settings, opened, read_all
from tests.support.simulated import (
    AUTHENTICATION_KEYS,
    CLIENT_TITLE,
    ENCRYPTION_KEYS,
    SERVER_TITLE,
    secured_client,
)

NOW_S = 1_790_000_000.0
"""The meter's clock stands still, so that each value is known."""
SECRET = b"0123456789abcdef"
MECHANISMS = {"none": 0, "low": 1, "high": 2, "md5": 3, "sha1": 4, "gmac": 5, "sha256": 6}
POLICIES = {"none": 0, "authentication": 0x10, "encryption": 0x20, "authenticated-encryption": 0x30}
CIPHERINGS = ("general-glo", "glo", "ded", "general-ded")
SUITES = (0, 1, 2)
PDU_BYTES = (128, 1024, 65535)
KEYS = [key for key in QUANTITIES if key not in ("max_demand", "average_demand")]
SERIAL_OF = {pdu_bytes: f"{pdu_bytes:08d}" for pdu_bytes in PDU_BYTES}
EXPECTED = {
    serial: {key: scaled_value(serial, key, int(NOW_S)) for key in KEYS} for serial in SERIAL_OF.values()
}


@dataclass(frozen=True)
class Combination:
    """What one client of the meter wants."""

    authentication: str
    policy: str = "none"
    suite: int = 0

    @property
    def needs_security(self) -> bool:
        return self.policy != "none" or self.authentication in ("gmac", "sha256")

    def client(self, address: int) -> ClientSettings:
        mechanism = MECHANISMS[self.authentication]
        if not self.needs_security:
            return ClientSettings(address, mechanism, SECRET)
        return secured_client(mechanism, POLICIES[self.policy], self.suite, address=address, secret=SECRET)


def _combinations() -> list[Combination]:
    made = []
    for authentication, policy, suite in itertools.product(MECHANISMS, POLICIES, SUITES):
        combination = Combination(authentication, policy, suite)
        # Without ciphering the suite shows in the token of GMAC alone.
        if suite == 0 or policy != "none" or authentication == "gmac":
            made.append(combination)
    return made


ADDRESS_OF = {combination: 20 + index for index, combination in enumerate(_combinations())}


@pytest.fixture(scope="module", autouse=True)
def _secrets() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MATRIX_PASSWORD", SECRET.decode())
        for suite in SUITES:
            patch.setenv(f"MATRIX_EK_{suite}", ENCRYPTION_KEYS[suite].hex())
            patch.setenv(f"MATRIX_AK_{suite}", AUTHENTICATION_KEYS[suite].hex())
        yield


@pytest.fixture(scope="module")
def fleets() -> Iterator[dict[str, SimulatedFleet]]:
    clients = (PUBLIC_CLIENT, *(item.client(address) for item, address in ADDRESS_OF.items()))
    meters = [
        MeterSettings(serial, clients=clients, max_pdu_bytes=pdu_bytes, initial_client_counter=4711)
        for pdu_bytes, serial in SERIAL_OF.items()
    ]
    started = {}
    try:
        for framing in (WRAPPER, HDLC):
            lines = tuple(LineSettings((meter,), framing=framing) for meter in meters)
            started[framing] = SimulatedFleet(FleetSettings(lines), clock=lambda: NOW_S).start()
        yield started
    finally:
        for fleet in started.values():
            fleet.stop()


@pytest.fixture(scope="module")
def benches() -> dict[str, Bench]:
    return {framing: Bench() for framing in (WRAPPER, HDLC)}


def client_entry(combination: Combination, ciphering: str, pdu_bytes: int) -> dict[str, object]:
    """The section `client` of a device entry."""
    entry: dict[str, object] = {
        "address": ADDRESS_OF[combination],
        "authentication": combination.authentication,
        "maxPduSize": pdu_bytes,
    }
    if combination.authentication not in ("none", "gmac"):
        entry["password"] = "${env:MATRIX_PASSWORD}"
    if combination.needs_security:
        suite = combination.suite
        entry["security"] = {
            "suite": suite,
            "policy": combination.policy,
            "ciphering": ciphering,
            "clientSystemTitle": CLIENT_TITLE.hex(),
            "encryptionKey": f"${{env:MATRIX_EK_{suite}}}",
            "authenticationKey": f"${{env:MATRIX_AK_{suite}}}",
        }
    return entry


def _table() -> Iterator[tuple[str, Combination, str, int]]:
    for framing, combination in itertools.product((WRAPPER, HDLC), ADDRESS_OF):
        styles = CIPHERINGS if combination.policy != "none" else CIPHERINGS[:1]
        for style, pdu_bytes in itertools.product(styles, PDU_BYTES):
            yield framing, combination, style, pdu_bytes


def _name(row: tuple[str, Combination, str, int]) -> str:
    framing, combination, style, pdu_bytes = row
    what = f"{combination.authentication}-{combination.policy}-suite{combination.suite}-{style}"
    return f"{framing}-{what}-{pdu_bytes}"


@pytest.mark.parametrize("row", list(_table()), ids=_name)
def test_values_are_the_meters(
    row: tuple[str, Combination, str, int],
    fleets: dict[str, SimulatedFleet],
    benches: dict[str, Bench],
) -> None:
    framing, combination, style, pdu_bytes = row
    serial = SERIAL_OF[pdu_bytes]
    device = device_settings(
        fleets[framing],
        serial,
        client=client_entry(combination, style, pdu_bytes),
        timeseries=[*KEYS, "serialNumber"],
    )
    session = benches[framing].session(device)
    with opened(session):
        readings = read_all(session)
        batches = session.plan.due(session.plan.periods_s, 0.0)
    benches[framing].lines.release(device.transport)
    assert {key: float(readings[key].value) for key in KEYS} == pytest.approx(EXPECTED[serial], rel=1e-12)
    assert readings["serialNumber"].value == serial
    assert readings["voltage_l1"].unit == "V"
    assert (len(batches) > 1) == (pdu_bytes == 128)


def test_the_title_of_another_meter_is_refused(fleets: dict[str, SimulatedFleet]) -> None:
    combination = Combination("gmac", "authenticated-encryption", 0)
    entry = client_entry(combination, "general-glo", 1024)
    wrong = bytes(reversed(SERVER_TITLE)).hex()
    entry["security"] = {**entry["security"], "serverSystemTitle": wrong}  # type: ignore[dict-item]
    session = Bench().session(device_settings(fleets[WRAPPER], SERIAL_OF[1024], client=entry))
    with pytest.raises(SecurityError, match="system title"):
        session.open()
    assert not session.is_open
