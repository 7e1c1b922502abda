"""One configuration for several gateways: each takes its share of the lines on its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from dlms_connector.config.settings import DeviceSettings, ShardSettings


def take_share(devices: Iterable[DeviceSettings], shard: ShardSettings | None) -> tuple[DeviceSettings, ...]:
    """The devices that this gateway polls: all of them without a shard.

    Rendezvous hashing (highest random weight) over the line: meters of one line stay together, and one
    gateway more takes about 1/N of the lines from the others while no line moves between those.
    """
    if shard is None or shard.count == 1:
        return tuple(devices)
    owner_by_line: dict[tuple[str, ...], int] = {}
    share: list[DeviceSettings] = []
    for device in devices:
        line = device.transport.line_key
        if line not in owner_by_line:
            owner_by_line[line] = owner_of(line, shard.count)
        if owner_by_line[line] == shard.index:
            share.append(device)
    return tuple(share)


def owner_of(line: tuple[str, ...], gateways: int) -> int:
    """Index of the gateway with the greatest weight for this line; equal on every machine and release."""
    name = "\0".join(line).encode()

    def weight(index: int) -> bytes:
        return hashlib.sha256(index.to_bytes(4, "big") + name).digest()

    return max(range(gateways), key=weight)
