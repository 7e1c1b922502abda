"""What only shows when all devices are seen together: names and addresses that stand twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dlms_connector.config.problems import Problem
from dlms_connector.config.settings import DeviceSettings
from dlms_connector.config.transport import TcpTransport

PlacedDevice = tuple[str, DeviceSettings]


def without_duplicates(devices: Iterable[PlacedDevice]) -> tuple[list[PlacedDevice], list[Problem]]:
    """The devices whose name was not there before, and an error for each of the others."""
    first_place: dict[str, str] = {}
    kept: list[PlacedDevice] = []
    problems: list[Problem] = []
    for place, device in devices:
        name = device.device_name
        if name in first_place:
            problems.append(
                Problem(
                    f"{place}.deviceName",
                    f'the name "{name}" is already used at {first_place[name]}',
                    "two meters under one name would mix their histories; give this one its own",
                    name,
                )
            )
            continue
        first_place[name] = place
        kept.append((place, device))
    return kept, problems


def meter_address(device: DeviceSettings) -> tuple[int, ...]:
    """What tells a meter from its neighbours on the same line."""
    transport = device.transport
    if isinstance(transport, TcpTransport) and transport.framing == "wrapper":
        return (transport.server_logical_address,)
    return (transport.server_logical_address, transport.server_physical_address)


def doubtful(devices: Sequence[PlacedDevice]) -> list[Problem]:
    """Warnings: the same meter twice, and meters of which nothing is read."""
    problems: list[Problem] = []
    seen: dict[tuple[object, ...], tuple[str, DeviceSettings]] = {}
    for place, device in devices:
        if not (device.timeseries or device.attributes or device.profiles):
            problems.append(
                Problem(
                    place,
                    "nothing is read from this meter",
                    'add "timeseries", or name a template',
                    device.device_name,
                    "warning",
                )
            )
        if not device.enabled:
            continue
        address = (device.transport.line_key, meter_address(device))
        if address in seen:
            problems.append(_same_meter(place, device, *seen[address]))
        else:
            seen[address] = (place, device)
    return problems


def _same_meter(place: str, device: DeviceSettings, first: str, other: DeviceSettings) -> Problem:
    line = ":".join(device.transport.line_key[1:])
    same_client = device.client.address == other.client.address
    clients = "and as the same client" if same_client else "as another client"
    return Problem(
        f"{place}.transport",
        f'the same line ({line}) and server address as "{other.device_name}" at {first}, {clients}',
        "a meter holds one association at a time: meters on one line need distinct server addresses",
        device.device_name,
        "warning",
    )
