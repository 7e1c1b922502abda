"""The usual keys of `simulated`, as gurux_dlms wants them."""

from __future__ import annotations

from gurux_dlms.enums import Security

from tests.support.gurux_client import GuruxSecurity
from tests.support.simulated import AUTHENTICATION_KEYS, CLIENT_TITLE, ENCRYPTION_KEYS

_POLICIES = {
    0: Security.NONE,
    0x10: Security.AUTHENTICATION,
    0x20: Security.ENCRYPTION,
    0x30: Security.AUTHENTICATION_ENCRYPTION,
}


def gurux_security(
    policy: int = 0x30, suite: int = 0, style: str = "general-glo", counter: int = 1
) -> GuruxSecurity:
    """Args: `style` one of glo, general-glo, ded, general-ded; `counter` the first one used."""
    key = ENCRYPTION_KEYS[suite]
    return GuruxSecurity(
        CLIENT_TITLE,
        key,
        AUTHENTICATION_KEYS[suite],
        policy=_POLICIES[policy],
        suite=suite,
        invocation_counter=counter,
        dedicated_key=key[::-1] if style.endswith("ded") else None,
        general=style.startswith("general"),
    )
