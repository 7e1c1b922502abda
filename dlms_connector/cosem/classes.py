"""Names of the COSEM interface classes (Blue Book 4)."""

from __future__ import annotations

from typing import Final

CLASS_NAMES: Final[dict[int, str]] = {
    1: "data", 3: "register", 4: "extended register", 5: "demand register", 6: "register activation",
    7: "profile generic", 8: "clock", 9: "script table", 10: "schedule", 11: "special days table",
    12: "association SN", 15: "association LN", 17: "SAP assignment", 18: "image transfer",
    19: "IEC local port setup", 20: "activity calendar", 21: "register monitor", 22: "single action schedule",
    23: "IEC HDLC setup", 26: "utility tables", 40: "push setup", 41: "TCP-UDP setup", 42: "IPv4 setup",
    44: "PPP setup", 45: "GPRS modem setup", 47: "GSM diagnostic", 61: "register table",
    62: "compact data", 63: "status mapping", 64: "security setup", 65: "parameter monitor",
    68: "arbitrator", 70: "disconnect control", 71: "limiter", 72: "M-Bus client", 111: "account",
    112: "credit", 113: "charge", 115: "token gateway",
}  # fmt: skip


def class_text(class_id: int) -> str:
    """`3 register`, or the number alone."""
    return f"{class_id} {CLASS_NAMES.get(class_id, '')}".rstrip()
