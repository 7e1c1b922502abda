"""The catalogue: names an operator may write instead of an OBIS code, and the usual class of a code.

Codes follow the electricity part of the OBIS list (IEC 62056-61, Blue Book 7.5) with B = 0. A template
or the device's own `objects` override an entry key by key, e.g. for meters that answer on B = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dlms_connector.obis import Obis


@dataclass(frozen=True)
class NamedObject:
    """One name of the catalogue. `unit` is what is expected; what the meter tells counts."""

    obis: Obis
    unit: str
    description: str
    type: str = "auto"

    @property
    def class_id(self) -> int:
        """The class that a conforming meter has here."""
        return default_class(self.obis)

    def as_definition(self) -> dict[str, object]:
        """The entry as an operator would write it; the class is left to the rules and to the template."""
        return {"obis": str(self.obis), "type": self.type}


_PHASE_OFFSETS: Final = {"l1": 20, "l2": 40, "l3": 60}

# name: (value group C of the total, unit, description); phases add 20, 40 and 60 to C.
_POWERS: Final = {
    "active_power": (1, "W", "active power, import"),
    "active_power_export": (2, "W", "active power, export"),
    "reactive_power": (3, "var", "reactive power, import"),
    "reactive_power_export": (4, "var", "reactive power, export"),
    "apparent_power": (9, "VA", "apparent power, import"),
    "power_factor": (13, "", "power factor"),
}
_ENERGIES: Final = {
    "active_energy": (1, "Wh", "active energy, import"),
    "active_energy_export": (2, "Wh", "active energy, export"),
    "reactive_energy": (3, "varh", "reactive energy, import"),
    "reactive_energy_export": (4, "varh", "reactive energy, export"),
    "apparent_energy": (9, "VAh", "apparent energy, import"),
}
_TARIFFS: Final = (1, 2, 3, 4)


def _register(c: int, d: int, e: int, unit: str, description: str) -> NamedObject:
    return NamedObject(Obis(1, 0, c, d, e), unit, description)


def _catalogue() -> dict[str, NamedObject]:
    names: dict[str, NamedObject] = {}
    for quantity, offset_c, unit in (("voltage", 12, "V"), ("current", 11, "A")):
        for phase, step in _PHASE_OFFSETS.items():
            names[f"{quantity}_{phase}"] = _register(
                offset_c + step, 7, 0, unit, f"{quantity}, {phase.upper()}"
            )
    names["current_n"] = _register(91, 7, 0, "A", "current, neutral")
    names["frequency"] = _register(14, 7, 0, "Hz", "supply frequency")
    for name, (c, unit, description) in _POWERS.items():
        names[name] = _register(c, 7, 0, unit, f"{description}, sum of the phases")
        for phase, step in _PHASE_OFFSETS.items():
            names[f"{name}_{phase}"] = _register(c + step, 7, 0, unit, f"{description}, {phase.upper()}")
    for name, (c, unit, description) in _ENERGIES.items():
        names[name] = _register(c, 8, 0, unit, f"{description}, all tariffs")
        for tariff in _TARIFFS:
            names[f"{name}_t{tariff}"] = _register(c, 8, tariff, unit, f"{description}, tariff {tariff}")
    names["clock"] = NamedObject(Obis(0, 0, 1, 0, 0), "", "date and time of the meter")
    for name, obis, description in (
        ("serialNumber", Obis(0, 0, 96, 1, 0), "serial number (device ID 1)"),
        ("logicalDeviceName", Obis(0, 0, 42, 0, 0), "COSEM logical device name"),
        ("firmware", Obis(1, 0, 0, 2, 0), "active firmware identifier"),
    ):
        names[name] = NamedObject(obis, "", description, type="text")
    return names


CATALOGUE: Final[dict[str, NamedObject]] = _catalogue()
_NAMES: Final = {entry.obis: name for name, entry in reversed(CATALOGUE.items())}


def name_of(obis: Obis) -> str:
    """The catalogue's name of a code, whatever channel group B says; empty where there is none."""
    return _NAMES.get(obis) or _NAMES.get(obis._replace(b=0), "")


# (A, C, D) -> class for the objects of one kind each; None stands for any value of the group.
_ABSTRACT: Final[tuple[tuple[int, int | None, int], ...]] = (
    (1, 0, 8),  # clock
    (10, 0, 9),  # script tables
    (11, 0, 11),  # special days
    (12, 0, 10),  # schedules
    (13, 0, 20),  # activity calendar
    (14, 0, 6),  # register activation
    (15, 0, 22),  # single action schedules
    (16, 0, 21),  # register monitor
    (16, 1, 65),  # parameter monitor
    (17, 0, 71),  # limiters
    (21, 0, 7),  # standard readout
    (22, 0, 23),  # IEC HDLC setup
    (24, 1, 72),  # M-Bus client
    (24, 2, 4),  # M-Bus values
    (24, 3, 7),  # M-Bus profile
    (24, 4, 70),  # M-Bus disconnect control
    (25, 0, 41),  # TCP-UDP setup
    (25, 1, 42),  # IPv4 setup
    (25, 9, 40),  # push setup
    (40, 0, 15),  # associations (logical names)
    (41, 0, 17),  # SAP assignment
    (43, 0, 64),  # security setup
    (44, 0, 18),  # image transfer
    (66, 0, 7),  # ciphered readout
    (94, None, 3),  # country-specific values
    (98, None, 7),  # data of billing periods
    (99, None, 7),  # profiles and event logs
)
_DISCONNECT_CONTROL: Final = (96, 3, 10)


def default_class(obis: Obis) -> int:
    """The COSEM interface class that a code usually has, where the operator names none.

    Deterministic and free of I/O, in this order:

    1. abstract objects (A = 0): the table above; 96.3.10 is disconnect control (70); else Data (1);
    2. profiles and billing data of a medium (C = 98, 99): ProfileGeneric (7);
    3. identifiers and parameters of a medium (C = 0, e.g. 1-0:0.2.0): Data (1);
    4. running averages (D = 4, 14, 24, and 5, 15, 25 for the last one): DemandRegister (5);
    5. maximum demand (D = 6, 16, 26): ExtendedRegister (4);
    6. anything else: Register (3).
    """
    if obis.a == 0:
        if (obis.c, obis.d, obis.e) == _DISCONNECT_CONTROL:
            return 70
        for c, d, class_id in _ABSTRACT:
            if obis.c == c and d in (None, obis.d):
                return class_id
        return 1
    if obis.c in (98, 99):
        return 7
    if obis.c == 0:
        return 1
    if obis.d in (4, 14, 24, 5, 15, 25):
        return 5
    if obis.d in (6, 16, 26):
        return 4
    return 3
