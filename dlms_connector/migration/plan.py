"""What each meter of the bridge becomes: a device entry, or the reason why not, and every warning.

The rules are the bridge's real behaviour: what it sends (client 1, logical 0, physical 1, one-byte
address, LLS), which codes it reads whatever its database says, and which columns it ignores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from dlms_connector.config.problems import did_you_mean
from dlms_connector.migration.bridge_db import BridgeMeter, BridgeRow
from dlms_connector.migration.identity import FoundDevice, Identities
from dlms_connector.obis import Obis

DEFAULT_PORT: Final = 3333
DEFAULT_SAMPLING_S: Final = 1.0
DEFAULT_PASSWORD: Final = "${env:DLMS_LLS_PASSWORD}"  # noqa: S105 - a reference, not a password
PORT_WITHOUT_TOKENS: Final = 1884
_TIMEOUT_MS: Final = 7_000
_SHORTEST_PERIOD_MS: Final = 100
_LONGEST_PERIOD_MS: Final = 31 * 86_400_000

READ_BY_BRIDGE: Final[Mapping[str, Obis]] = {
    **{f"voltage_l{phase}": Obis(1, 1, 12 + 20 * phase, 7, 0) for phase in (1, 2, 3)},
    **{f"current_l{phase}": Obis(1, 1, 11 + 20 * phase, 7, 0) for phase in (1, 2, 3)},
    "frequency": Obis(1, 1, 14, 7, 0),
    "active_power": Obis(1, 1, 1, 7, 0),
    "active_energy": Obis(1, 1, 1, 8, 0),
}
NEVER_READ_BY_BRIDGE: Final = ("reactive_power", "apparent_power", "power_factor", "reactive_energy")

Fate = Literal["ready", "stopped", "skipped"]


@dataclass(frozen=True)
class MeterPlan:
    """What becomes of one meter.

    `fate`: ready to be migrated; stopped until a person decides; skipped because the bridge does not read
    it. `entry` is its device entry, without one where it is not ready. No field holds a token.
    """

    meter_id: int
    name: str
    host: str | None
    port: int
    fate: Fate
    device_name: str | None
    entry: dict[str, Any] | None
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass
class _Findings:
    stops: list[str] = field(default_factory=list)
    skips: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def plan_meters(
    meters: Sequence[BridgeMeter], identities: Identities, password: str = DEFAULT_PASSWORD
) -> tuple[MeterPlan, ...]:
    """A plan for every meter, in the order of their ids.

    Args:
        meters: all of the bridge's meters: what they share is judged as well.
        identities: which devices they are.
        password: the reference that every migrated meter's LLS password gets.
    """
    findings = {meter.id: _Findings() for meter in meters}
    polled = [meter for meter in meters if meter.polled]
    for meter in meters:
        if not meter.polled:
            findings[meter.id].skips.append("tb_enabled is 0 or empty: the bridge does not poll it")
    names = {meter.id: _identify(meter, identities, findings[meter.id]) for meter in polled}
    _judge_names(polled, names, findings)
    _judge_servers(polled, findings)
    _judge_endpoints(polled, findings)
    return tuple(_plan(meter, names.get(meter.id), findings[meter.id], password) for meter in meters)


def _identify(meter: BridgeMeter, identities: Identities, found: _Findings) -> FoundDevice | None:
    confirmed = identities.by_operator.get(meter.id)
    by_token = identities.by_token.get(meter.id) if identities.by_token is not None else None
    if by_token is not None:
        return _agreed(meter, by_token, confirmed, found)
    if confirmed is not None:
        if identities.by_token is not None and meter.token is not None:
            found.warnings.append(f'no device of ThingsBoard has its token; the mapping names "{confirmed}"')
        return FoundDevice(confirmed)
    if identities.by_token is not None and meter.token is not None:
        found.stops.append("no device of ThingsBoard has its token: confirm its device in the mapping file")
        return None
    if identities.trust_names:
        name = meter.tb_device_name or meter.name
        found.warnings.append(f'the name "{name}" is taken from the bridge and was not checked')
        return FoundDevice(name)
    if meter.token is None:
        port = f" (port {PORT_WITHOUT_TOKENS})" if meter.tb_port == PORT_WITHOUT_TOKENS else ""
        found.stops.append(f"it has no token{port}: confirm its device in the mapping file")
    else:
        found.stops.append("its device is not known: give --tb-url, or a mapping file")
    return None


def _agreed(
    meter: BridgeMeter, device: FoundDevice, confirmed: str | None, found: _Findings
) -> FoundDevice | None:
    """The device of the token, unless somebody says otherwise; a mapping file settles the bridge's names."""
    if confirmed is not None:
        if confirmed != device.name:
            found.stops.append(f'its token is that of "{device.name}", the mapping says "{confirmed}"')
        return device
    for column, name in (("tb_device_name", meter.tb_device_name), ("name", meter.name)):
        if name is not None and name != device.name:
            found.stops.append(
                f'its token is that of "{device.name}", its {column} says "{name}": '
                "confirm the device in the mapping file"
            )
    return device


def _judge_names(
    meters: Sequence[BridgeMeter], names: Mapping[int, FoundDevice | None], findings: Mapping[int, _Findings]
) -> None:
    users: dict[str, list[BridgeMeter]] = {}
    for meter in meters:
        device = names[meter.id]
        if device is not None:
            users.setdefault(device.name, []).append(meter)
    for name, sharers in users.items():
        for meter in sharers if len(sharers) > 1 else ():
            others = ", ".join(other.name for other in sharers if other is not meter)
            findings[meter.id].stops.append(f'the device "{name}" is also that of {others}')


def _judge_servers(meters: Sequence[BridgeMeter], findings: Mapping[int, _Findings]) -> None:
    """All meters must go to one server: a gateway has one connection."""
    servers = Counter((meter.tb_host.lower(), meter.tb_port) for meter in meters if meter.tb_host)
    if len(servers) <= 1:
        return
    usual = servers.most_common(1)[0][0]
    for meter in meters:
        if meter.tb_host and (meter.tb_host.lower(), meter.tb_port) != usual:
            findings[meter.id].stops.append(
                f"it sends to {meter.tb_host}:{meter.tb_port}, the others to {usual[0]}:{usual[1]}: "
                "a gateway has one server"
            )


def _judge_endpoints(meters: Sequence[BridgeMeter], findings: Mapping[int, _Findings]) -> None:
    users: dict[tuple[str, int], list[BridgeMeter]] = {}
    for meter in meters:
        if meter.host:
            users.setdefault((meter.host.lower(), meter.port or DEFAULT_PORT), []).append(meter)
    for (host, port), sharers in users.items():
        for meter in sharers if len(sharers) > 1 else ():
            others = ", ".join(other.name for other in sharers if other is not meter)
            findings[meter.id].warnings.append(
                f"{host}:{port} is also the endpoint of {others}: a meter serves one association"
            )


def _plan(meter: BridgeMeter, device: FoundDevice | None, found: _Findings, password: str) -> MeterPlan:
    port = meter.port if meter.port is not None else DEFAULT_PORT
    if meter.host is None:
        found.stops.append("it has no ip_address")
    if not 1 <= port <= 65535:
        found.stops.append(f"port {port} is none")
    for column, value in (("client_id", meter.client_id), ("server_id", meter.server_id)):
        if value not in (None, 1):
            found.warnings.append(f"{column} {value} is ignored, as the bridge does: it sends client 1, 0/1")
    rows = _rows_to_read(meter, found)
    period_ms = _period_ms(meter, found)
    if meter.polled and not rows:
        found.skips.append("the bridge reads nothing from it")
    fate: Fate = "skipped" if found.skips else "stopped" if found.stops else "ready"
    entry = None
    if fate == "ready" and device is not None:
        entry = _entry(meter, device, port, [row.measurement for row in rows], period_ms, password)
    return MeterPlan(
        meter_id=meter.id,
        name=meter.name,
        host=meter.host,
        port=port,
        fate=fate,
        device_name=device.name if device else None,
        entry=entry,
        reasons=(*found.skips, *found.stops),
        warnings=tuple(found.warnings),
    )


def _rows_to_read(meter: BridgeMeter, found: _Findings) -> list[BridgeRow]:
    """The measurements that the bridge delivers, each once; everything else is told."""
    chosen: dict[str, BridgeRow] = {}
    for row in meter.rows:
        name = row.measurement
        if not row.enabled:
            continue
        if name is None:
            found.warnings.append(f"row {row.id} has no measurement_name")
        elif name in chosen:
            found.warnings.append(f"row {row.id} repeats {name}")
        elif name in NEVER_READ_BY_BRIDGE:
            found.warnings.append(
                f"{name} is left out: the bridge offers it and cannot read it; add it by hand if wanted"
            )
        elif name not in READ_BY_BRIDGE:
            hint = did_you_mean(name, READ_BY_BRIDGE)
            found.warnings.append(
                f'"{name}" is left out: the bridge does not know it' + (f"; {hint}" if hint else "")
            )
        else:
            chosen[name] = row
            _judge_row(name, row, found)
    return list(chosen.values())


def _judge_row(name: str, row: BridgeRow, found: _Findings) -> None:
    real = READ_BY_BRIDGE[name]
    if row.obis is not None:
        try:
            written: Obis | None = Obis.parse(row.obis)
        except ValueError:
            written = None
        if written is None:
            found.warnings.append(f'{name}: "{row.obis}" is no OBIS code; {real} is read, as by the bridge')
        elif written != real:
            found.warnings.append(
                f"{name}: the database says {written}, the bridge reads {real}, and so it stays"
            )
    if row.tb_key is not None and row.tb_key != name:
        found.warnings.append(
            f'{name}: tb_key "{row.tb_key}" is ignored, as by the bridge; the key stays {name}'
        )


def _period_ms(meter: BridgeMeter, found: _Findings) -> int:
    """The bridge polls a meter as its first row says."""
    rows = [row for row in meter.rows if row.enabled] or list(meter.rows)
    if not rows:
        return round(DEFAULT_SAMPLING_S * 1000)
    intervals_s = [row.sampling_s if row.sampling_s is not None else DEFAULT_SAMPLING_S for row in rows]
    chosen_s = intervals_s[0]
    if len(set(intervals_s)) > 1:
        found.warnings.append(
            f"its rows have different sampling intervals; the first decides, as in the bridge: {chosen_s:g} s"
        )
    period_ms = chosen_s * 1000
    if not _SHORTEST_PERIOD_MS <= period_ms <= _LONGEST_PERIOD_MS:  # not a number fails both
        found.warnings.append(
            f"sampling interval {chosen_s:g} s cannot be kept; {DEFAULT_SAMPLING_S:g} s is used"
        )
        return round(DEFAULT_SAMPLING_S * 1000)
    return round(period_ms)


def _entry(
    meter: BridgeMeter,
    device: FoundDevice,
    port: int,
    keys: Sequence[str | None],
    period_ms: int,
    password: str,
) -> dict[str, Any]:
    known = {
        "model": meter.model,
        "serial_number": meter.serial_number,
        "firmware_version": meter.firmware_version,
    }
    attributes = {key: value for key, value in known.items() if value is not None}
    return {
        "deviceName": device.name,
        **({"deviceType": device.type} if device.type else {}),
        "template": "microstar",
        "transport": {
            "type": "tcp",
            "host": meter.host,
            "port": port,
            "framing": "hdlc",
            "serverLogicalAddress": 0,
            "serverPhysicalAddress": 1,
            "addressSize": 1,
        },
        "client": {"address": 1, "authentication": "low", "password": password},
        "timeout": _TIMEOUT_MS,
        "pollPeriod": period_ms,
        "timeseries": list(keys),
        **({"staticAttributes": attributes} if attributes else {}),
    }
