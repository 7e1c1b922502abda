"""AARQ in, AARE out: the ACSE and InitiateRequest on the server's side (Green Book 9.4 and 9.5)."""

from __future__ import annotations

from dataclasses import dataclass

from dlms_connector.cosem.acse import iterate_tlv, tlv
from dlms_connector.cosem.values import read_length
from dlms_connector.errors import DecodeError

LN_PLAIN, LN_CIPHERED = 1, 3
REJECTED_PERMANENT, REJECTED_TRANSIENT = 1, 2

# acse-service-user diagnostics
NO_REASON, CONTEXT_NOT_SUPPORTED, MECHANISM_NOT_RECOGNISED = 1, 2, 11
AUTHENTICATION_FAILURE, AUTHENTICATION_REQUIRED = 13, 14

# ServiceError initiate [6]
VERSION_TOO_LOW, INCOMPATIBLE_CONFORMANCE, PDU_TOO_SHORT = 1, 2, 3

RLRE = b"\x63\x03\x80\x01\x00"
_OBJECT_IDENTIFIER_ARC = bytes.fromhex("6085740508")
_DLMS_VERSION = 6
_LN_VAA_NAME = b"\x00\x07"


@dataclass(frozen=True)
class AssociationRequest:
    """What an AARQ says."""

    context: int
    mechanism: int
    authentication_value: bytes
    client_title: bytes
    user_information: bytes


@dataclass(frozen=True)
class Initiate:
    """What an InitiateRequest says; `max_pdu_bytes` 0 means no limit."""

    version: int
    conformance: int
    max_pdu_bytes: int
    dedicated_key: bytes


def decode_aarq(apdu: bytes) -> AssociationRequest:
    """Read an AARQ. Raises DecodeError."""
    length, start = read_length(apdu, 1)
    if start + length > len(apdu):
        raise DecodeError("AARQ is truncated", offset=1)
    fields = {tag: contents for tag, contents, _ in iterate_tlv(apdu, start, start + length)}
    return AssociationRequest(
        context=_arc(_inside(fields.get(0xA1, b"")), 1),
        mechanism=_arc(fields.get(0x8B, b""), 2),
        authentication_value=_inside(fields.get(0xAC, b"")),
        client_title=_inside(fields.get(0xA6, b"")),
        user_information=_inside(fields.get(0xBE, b"")),
    )


def _arc(name: bytes, branch: int) -> int:
    """The last number of joint-iso-ccitt ... DLMS-UA(8) branch n; 0 when absent, -1 when foreign."""
    if not name:
        return 0
    return name[-1] if name[:-1] == _OBJECT_IDENTIFIER_ARC + bytes((branch,)) else -1


def _inside(field: bytes) -> bytes:
    """The contents of the one element in an explicit field."""
    for _, contents, _ in iterate_tlv(field, 0, len(field)):
        return contents
    return b""


def decode_initiate(apdu: bytes) -> Initiate:
    """Read an InitiateRequest. Raises DecodeError."""
    try:
        return _initiate(apdu)
    except IndexError as error:
        raise DecodeError("InitiateRequest is truncated", offset=len(apdu)) from error


def _initiate(apdu: bytes) -> Initiate:
    if apdu[0] != 0x01:
        raise DecodeError("not an InitiateRequest", offset=0)
    at = 1
    dedicated_key = b""
    if apdu[at]:
        size, start = read_length(apdu, at + 1)
        dedicated_key = apdu[start : start + size]
        at = start + size
    else:
        at += 1
    at += 2 if apdu[at] else 1  # response-allowed
    at += 2 if apdu[at] else 1  # proposed-quality-of-service
    version = apdu[at]
    block = apdu[at + 1 : at + 10]
    if block[:3] != b"\x5f\x1f\x04" or len(block) < 9:
        raise DecodeError("conformance block is missing", offset=at + 1)
    return Initiate(
        version, int.from_bytes(block[4:7], "big"), int.from_bytes(block[7:9], "big"), dedicated_key
    )


def encode_initiate_response(conformance: int, max_pdu_bytes: int) -> bytes:
    """An InitiateResponse without quality of service."""
    block = b"\x5f\x1f\x04\x00" + conformance.to_bytes(3, "big")
    return bytes((0x08, 0, _DLMS_VERSION)) + block + max_pdu_bytes.to_bytes(2, "big") + _LN_VAA_NAME


def encode_initiate_error(error: int) -> bytes:
    """confirmedServiceError: initiateError, ServiceError initiate."""
    return bytes((0x0E, 1, 6, error))


def encode_aare(
    context: int,
    result: int,
    diagnostic: int,
    *,
    user_information: bytes = b"",
    server_title: bytes = b"",
    mechanism: int = 0,
    challenge: bytes = b"",
    by_provider: bool = False,
) -> bytes:
    """An AARE; `mechanism` and `challenge` belong to the second pass of HLS.

    `by_provider`: the diagnostic is acse-service-provider's, not acse-service-user's.
    """
    parts = [
        tlv(0xA1, tlv(0x06, _OBJECT_IDENTIFIER_ARC + bytes((1, context)))),
        tlv(0xA2, bytes((2, 1, result))),
        tlv(0xA3, tlv(0xA2 if by_provider else 0xA1, bytes((2, 1, diagnostic)))),
    ]
    if server_title:
        parts.append(tlv(0xA4, tlv(0x04, server_title)))
    if challenge:
        parts += [
            b"\x88\x02\x07\x80",
            tlv(0x89, _OBJECT_IDENTIFIER_ARC + bytes((2, mechanism))),
            tlv(0xAA, tlv(0x80, challenge)),
        ]
    if user_information:
        parts.append(tlv(0xBE, tlv(0x04, user_information)))
    return tlv(0x61, b"".join(parts))
