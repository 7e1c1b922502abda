"""Who we are to the meter: client address, authentication, ciphering."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator
from typing_extensions import Self

from dlms_connector.config.secrets import Secret
from dlms_connector.config.types import ObisCode, Section, Whole
from dlms_connector.obis import Obis

AuthenticationName = Literal["none", "low", "high", "md5", "sha1", "gmac", "sha256"]
KEY_SIZE_BYTES = {0: 16, 1: 16, 2: 32}


def _system_title(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Fa-f]{16}", text):
        raise ValueError("a system title is 8 bytes, written as 16 hexadecimal digits")
    return text.upper()


SystemTitle = Annotated[str, AfterValidator(_system_title)]


class InvocationCounterSettings(Section):
    """Where the meter's view of our invocation counter is read before a ciphered association."""

    obis: ObisCode = Obis(0, 0, 43, 1, 0)
    client_address: Whole = Field(16, ge=1, le=127, description="public client that may read it")
    read: bool = Field(True, description="read it from the meter when the stored one is unknown or refused")


class SecuritySettings(Section):
    """Ciphering of APDUs (Green Book 9.2)."""

    suite: Literal[0, 1, 2] = 0
    policy: Literal["none", "authentication", "encryption", "authenticated-encryption"] = (
        "authenticated-encryption"
    )
    ciphering: Literal["general-glo", "glo", "general-ded", "ded"] = "general-glo"
    client_system_title: SystemTitle = "444C4D5300000001"
    server_system_title: SystemTitle | None = Field(
        None, description="only where the meter does not tell it in its AARE"
    )
    encryption_key: Secret | None = None
    authentication_key: Secret | None = None
    invocation_counter: InvocationCounterSettings = InvocationCounterSettings()


class ClientSettings(Section):
    """The client side of the application association."""

    address: Whole = Field(16, ge=1, le=65535, description="client SAP: HDLC client address or wrapper port")
    authentication: AuthenticationName = "none"
    password: Secret | None = Field(None, description="LLS password, or the secret of HLS 2, 3, 4 and 6")
    challenge_length: Whole = Field(16, ge=8, le=64)
    association_obis: ObisCode = Obis(0, 0, 40, 0, 0)
    max_pdu_size: Whole = Field(65535, ge=64, le=65535, description="largest APDU that we accept")
    security: SecuritySettings | None = None
    use_lists: bool = Field(
        True, description="GET-with-list; switched off by itself where the meter refuses it"
    )
    max_list_size: Whole = Field(
        60, ge=1, le=60, description="attributes in one list; found by itself where the meter takes fewer"
    )

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("authentication") == "lls":
            return {**value, "authentication": "low"}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needs_password = {"low", "high", "md5", "sha1", "sha256"}
        if self.authentication in needs_password and self.password is None:
            raise ValueError(
                f'authentication "{self.authentication}" needs a password (a reference such as ${{env:NAME}})'
            )
        ciphered = self.security is not None and self.security.policy != "none"
        if ciphered or self.authentication == "gmac":
            security = self.security
            what = "ciphering" if ciphered else 'authentication "gmac"'
            if security is None:
                raise ValueError(f"{what} needs the section security with its keys")
            if security.encryption_key is None:
                raise ValueError(f"{what} needs security.encryptionKey")
            authenticates = security.policy != "encryption" or self.authentication == "gmac"
            if authenticates and security.authentication_key is None:
                raise ValueError(f"{what} needs security.authenticationKey")
        return self
