"""Settings -> parameters of an association; secrets are resolved here, at use, and nowhere kept."""

from __future__ import annotations

from dlms_connector.config.client import KEY_SIZE_BYTES, ClientSettings, SecuritySettings
from dlms_connector.cosem.association import AssociationParameters
from dlms_connector.cosem.security import (
    AUTHENTICATED,
    ENCRYPTED,
    Ciphering,
    Mechanism,
    SecurityParameters,
)

_MECHANISMS = {
    "none": Mechanism.NONE,
    "low": Mechanism.LLS,
    "high": Mechanism.HLS_SECRET,
    "md5": Mechanism.HLS_MD5,
    "sha1": Mechanism.HLS_SHA1,
    "gmac": Mechanism.HLS_GMAC,
    "sha256": Mechanism.HLS_SHA256,
}
_POLICIES = {
    "none": 0,
    "authentication": AUTHENTICATED,
    "encryption": ENCRYPTED,
    "authenticated-encryption": AUTHENTICATED | ENCRYPTED,
}
_CIPHERINGS = {
    "general-glo": Ciphering.GENERAL_GLO,
    "glo": Ciphering.GLO,
    "general-ded": Ciphering.GENERAL_DED,
    "ded": Ciphering.DED,
}


def association_parameters(client: ClientSettings) -> AssociationParameters:
    """Parameters for this client's association.

    Raises:
        SecretError: a referenced secret is missing or does not fit.
    """
    mechanism = _MECHANISMS[client.authentication]
    security = client.security
    if security is None and mechanism is Mechanism.HLS_SHA256:
        security = SecuritySettings(policy="none")
    return AssociationParameters(
        mechanism=mechanism,
        secret=client.password.resolve_password() if client.password is not None else b"",
        challenge_length=client.challenge_length,
        association=client.association_obis,
        max_pdu_size=client.max_pdu_size,
        security=_security_parameters(security, mechanism) if security is not None else None,
    )


def _security_parameters(security: SecuritySettings, mechanism: Mechanism) -> SecurityParameters | None:
    policy = _POLICIES[security.policy]
    needs_keys = bool(policy) or mechanism is Mechanism.HLS_GMAC
    if not needs_keys and mechanism is not Mechanism.HLS_SHA256:
        return None
    size = KEY_SIZE_BYTES[security.suite]
    encryption, authentication = security.encryption_key, security.authentication_key
    server = security.server_system_title
    return SecurityParameters(
        suite=security.suite,
        policy=policy,
        ciphering=_CIPHERINGS[security.ciphering],
        client_title=bytes.fromhex(security.client_system_title),
        encryption_key=encryption.resolve_key(size) if needs_keys and encryption else b"",
        authentication_key=authentication.resolve_key(size) if needs_keys and authentication else b"",
        server_title=bytes.fromhex(server) if server else None,
    )


def public_client() -> AssociationParameters:
    """The public client: no authentication, no ciphering; for invocation counters."""
    return AssociationParameters()
