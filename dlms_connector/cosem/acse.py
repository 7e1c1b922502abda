"""ACSE APDUs: AARQ, AARE, RLRQ, RLRE as BER (Green Book 9.4.2, 9.5).

The names, context ids, conformance bits and enumerations are dlms-cosem's; BER itself is read and written
here because challenges make an AARQ and AARE longer than the 127 bytes that the library's BER can do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from dlms_cosem.enumerations import (
    AcseServiceProviderDiagnostics,
    AcseServiceUserDiagnostics,
    AuthenticationMechanism,
)
from dlms_cosem.protocol.acse.base import AppContextName, MechanismName
from dlms_cosem.protocol.xdlms import Conformance, InitiateRequest

from dlms_connector.cosem.values import encode_length, read_length
from dlms_connector.errors import AssociationError, DecodeError

AARQ, AARE, RLRQ, RLRE = 0x60, 0x61, 0x62, 0x63

# What we can process, nothing else is proposed: a meter may use whatever is offered to it.
PROPOSED_CONFORMANCE = Conformance(
    attribute_0_supported_with_set=False,
    priority_management_supported=True,
    attribute_0_supported_with_get=False,
    block_transfer_with_get_or_read=True,
    block_transfer_with_set_or_write=True,
    block_transfer_with_action=True,
    multiple_references=True,
    get=True,
    set=True,
    selective_access=True,
    action=True,
)
PROPOSED_CONFORMANCE_CIPHERED = Conformance(
    **{**{name: getattr(PROPOSED_CONFORMANCE, name) for name in Conformance.conformance_bit_position},
       "general_protection": True}
)  # fmt: skip

_USER_DIAGNOSTICS_HINTS = {
    AcseServiceUserDiagnostics.APPLICATION_CONTEXT_NAME_NOT_SUPPORTED: (
        "the meter wants ciphering, or refuses it: check client.security"
    ),
    AcseServiceUserDiagnostics.CALLING_AP_TITLE_NOT_RECOGNIZED: "check security.clientSystemTitle",
    AcseServiceUserDiagnostics.AUTHENTICATION_MECHANISM_NAME_NOT_RECOGNIZED: (
        "this client uses another authentication: check client.authentication and client.address"
    ),
    AcseServiceUserDiagnostics.AUTHENTICATION_MECHANISM_NAME_REQUIRED: (
        "this client needs an authentication: check client.authentication"
    ),
    AcseServiceUserDiagnostics.AUTHENTICATION_FAILED: "check the password or the keys",
    AcseServiceUserDiagnostics.AUTHENTICATION_REQUIRED: "set client.authentication and its password",
    AcseServiceUserDiagnostics.NO_REASON_GIVEN: (
        "an association may still be open in the meter: wait its inactivity timeout; or check client.address"
    ),
}


@dataclass(frozen=True, slots=True)
class AssociationResponse:
    """What an AARE says. `result` 0 is accepted; `user_information` is the (ciphered) InitiateResponse."""

    result: int
    diagnostic: int
    diagnostic_source: int  # 1 acse-service-user, 2 acse-service-provider
    ciphered_context: bool | None
    server_title: bytes | None
    challenge: bytes | None
    user_information: bytes | None
    mechanism: int | None = None

    def raise_if_refused(self) -> None:
        """Raise AssociationError with the diagnostic in words unless the meter accepted."""
        if self.result == 0:
            return
        how = "for good" if self.result == 1 else "for now"
        raise AssociationError(
            f"the meter refused the association {how}: {self.diagnostic_text()}",
            result=self.result,
            diagnostic=self.diagnostic,
            hint=self._hint(),
        )

    def diagnostic_text(self) -> str:
        """The diagnostic's name in lower case words."""
        names: type[AcseServiceUserDiagnostics] | type[AcseServiceProviderDiagnostics] = (
            AcseServiceProviderDiagnostics if self.diagnostic_source == 2 else AcseServiceUserDiagnostics
        )
        try:
            return str(names(self.diagnostic).name).lower().replace("_", " ")
        except ValueError:
            return f"diagnostic {self.diagnostic}"

    def _hint(self) -> str:
        if self.diagnostic_source == 2:
            return ""
        return _USER_DIAGNOSTICS_HINTS.get(self.diagnostic, "")


def tlv(tag: int, contents: bytes) -> bytes:
    """One BER element with a one-byte tag."""
    return bytes((tag,)) + encode_length(len(contents)) + contents


def iterate_tlv(data: bytes, offset: int, end: int) -> Iterator[tuple[int, bytes, int]]:
    """Walk BER elements: `(tag, contents, offset of the contents)`.

    Raises:
        DecodeError: an element reaches behind `end`, or a tag has several bytes.
    """
    while offset < end:
        tag = data[offset]
        if tag & 0x1F == 0x1F:
            raise DecodeError("BER tag of several bytes", offset=offset)
        length, start = read_length(data, offset + 1)
        if start + length > end:
            raise DecodeError(f"BER element of {length} bytes, {end - start} are left", offset=offset)
        yield tag, data[start : start + length], start
        offset = start + length


def encode_initiate(*, ciphered: bool, max_pdu_size: int, dedicated_key: bytes | None) -> bytes:
    """An InitiateRequest in A-XDR that proposes what we can process."""
    if dedicated_key is None:
        return _initiate_without_key(ciphered, max_pdu_size)
    return _initiate(ciphered, max_pdu_size, dedicated_key)


@lru_cache(maxsize=64)
def _initiate_without_key(ciphered: bool, max_pdu_size: int) -> bytes:
    return _initiate(ciphered, max_pdu_size, None)


def _initiate(ciphered: bool, max_pdu_size: int, dedicated_key: bytes | None) -> bytes:
    request = InitiateRequest(
        proposed_conformance=PROPOSED_CONFORMANCE_CIPHERED if ciphered else PROPOSED_CONFORMANCE,
        client_max_receive_pdu_size=max_pdu_size,
        dedicated_key=dedicated_key,
    )
    return bytes(request.to_bytes())


def encode_aarq(
    mechanism: int,
    initiate: bytes,
    *,
    ciphered: bool,
    client_title: bytes | None = None,
    authentication_value: bytes | None = None,
) -> bytes:
    """An AARQ with logical name referencing.

    Args:
        initiate: the InitiateRequest, ciphered where the context is.
        authentication_value: the LLS password or our challenge; sent exactly when `mechanism` is not 0.
    """
    context = AppContextName(logical_name_refs=True, ciphered_apdus=ciphered)
    parts = [tlv(0xA1, context.to_bytes())]
    if client_title is not None:
        parts.append(tlv(0xA6, tlv(0x04, client_title)))
    if mechanism:
        name = MechanismName(AuthenticationMechanism(mechanism)).to_bytes()
        parts += [b"\x8a\x02\x07\x80", tlv(0x8B, name), tlv(0xAC, tlv(0x80, authentication_value or b""))]
    parts.append(tlv(0xBE, tlv(0x04, initiate)))
    return tlv(AARQ, b"".join(parts))


def decode_aare(apdu: bytes) -> AssociationResponse:
    """Read an AARE; unknown elements are passed over, bytes behind it too.

    Raises:
        DecodeError: not an AARE, or malformed.
    """
    if not apdu or apdu[0] != AARE:
        raise DecodeError(f"not an AARE (tag {apdu[:1].hex() or 'missing'})", offset=0)
    length, start = read_length(apdu, 1)
    if start + length > len(apdu):
        raise DecodeError(f"AARE of {length} bytes, only {len(apdu) - start} there", offset=1)
    fields: dict[int, tuple[bytes, int]] = {}
    for tag, contents, offset in iterate_tlv(apdu, start, start + length):
        fields[tag] = (contents, offset)
    if 0xA2 not in fields:
        raise DecodeError("AARE without a result", offset=start)
    source, diagnostic = _diagnostic(*fields.get(0xA3, (b"", start)))
    context = fields.get(0xA1)
    return AssociationResponse(
        result=_integer(*fields[0xA2]),
        diagnostic=diagnostic,
        diagnostic_source=source,
        ciphered_context=context[0][-1] in (3, 4) if context and context[0] else None,
        server_title=_octets(fields.get(0xA4)),
        challenge=_octets(fields.get(0xAA)),
        user_information=_octets(fields.get(0xBE)),
        mechanism=fields[0x89][0][-1] if fields.get(0x89, (b"",))[0] else None,
    )


def _integer(data: bytes, offset: int) -> int:
    for tag, contents, start in iterate_tlv(data, 0, len(data)):
        if tag == 0x02 and 1 <= len(contents) <= 4:
            return int.from_bytes(contents, "big", signed=True)
        raise DecodeError("not a BER integer", offset=offset + start)
    raise DecodeError("BER integer is missing", offset=offset)


def _diagnostic(data: bytes, offset: int) -> tuple[int, int]:
    for tag, contents, start in iterate_tlv(data, 0, len(data)):
        return (2 if tag == 0xA2 else 1), _integer(contents, offset + start)
    return 1, 0


def _octets(field: tuple[bytes, int] | None) -> bytes | None:
    """The octets inside the first element of an explicit field; some meters leave the inner tag out."""
    if field is None:
        return None
    data, offset = field
    if len(data) >= 2 and data[0] in (0x04, 0x80, 0x81):
        length, start = read_length(data, 1)
        if start + length <= len(data):
            return data[start : start + length]
        raise DecodeError("octet string is truncated", offset=offset)
    return data or None


def encode_rlrq(user_information: bytes | None = None) -> bytes:
    """An RLRQ with reason normal; in a ciphered context it carries the protected InitiateRequest."""
    contents = b"\x80\x01\x00"
    if user_information is not None:
        contents += tlv(0xBE, tlv(0x04, user_information))
    return tlv(RLRQ, contents)


@dataclass(frozen=True, slots=True)
class InitiateAnswer:
    """The negotiated xDLMS context."""

    conformance: Conformance
    max_pdu_size: int


UNTOLD_PDU_BYTES = 128
_CONFORMANCE_TAGS = (b"\x5f\x1f\x04", b"\x5f\x04")


def untold_context() -> InitiateAnswer:
    """What is assumed of a meter that accepts and tells no xDLMS context: what was proposed, in small requests."""
    return InitiateAnswer(conformance=PROPOSED_CONFORMANCE, max_pdu_size=UNTOLD_PDU_BYTES)


@lru_cache(maxsize=256)  # the meters of a fleet negotiate the same
def decode_initiate_response(apdu: bytes) -> InitiateAnswer:
    """Read an InitiateResponse (plain).

    Raises:
        AssociationError: the meter answered with a confirmedServiceError instead.
        DecodeError: malformed.
    """
    if apdu[:1] == b"\x0e":
        raise AssociationError(
            f"the meter refused the xDLMS context: initiate error {apdu[2:4].hex()}",
            hint="check client.maxPduSize and client.security",
        )
    if apdu[:1] != b"\x08":
        raise DecodeError(f"not an InitiateResponse (tag {apdu[:1].hex() or 'missing'})", offset=0)
    offset = 1
    # negotiated-quality-of-service is OPTIONAL: a presence byte, then one byte.
    offset += 2 if apdu[offset : offset + 1] == b"\x01" else 1
    if apdu[offset : offset + 1] != b"\x06":
        raise DecodeError("the meter speaks another DLMS version than 6", offset=offset)
    conformance_at = offset + 1
    # [APPLICATION 31]: two octets of tag, one where a meter follows the encoding of the first edition.
    head = next((tag for tag in _CONFORMANCE_TAGS if apdu.startswith(tag, conformance_at)), None)
    if head is None:
        raise DecodeError("conformance block is missing", offset=conformance_at)
    block = apdu[conformance_at + len(head) :][:6]
    if len(block) < 6:
        raise DecodeError("conformance block is cut off", offset=conformance_at)
    return InitiateAnswer(
        conformance=Conformance.from_bytes(block[:4]),
        max_pdu_size=int.from_bytes(block[4:6], "big"),
    )
