"""One association on the server's side: AARQ, HLS, services, release, and what each state allows."""

from __future__ import annotations

import hmac
import os
from enum import Enum

from dlms_connector.errors import DecodeError
from dlms_connector.simulator import acse_server as acse
from dlms_connector.simulator.faults import Fault, FaultKind, stage_of
from dlms_connector.simulator.meter import (
    GENERAL_PROTECTION,
    MULTIPLE_REFERENCES,
    ClientSettings,
    LogicalDevice,
    conformance_bits,
)
from dlms_connector.simulator.security_server import (
    Deciphered,
    HlsExchange,
    ProtectionError,
    ServerCipher,
    counter_seen,
    hls_answer,
)
from dlms_connector.simulator.xdlms_server import MALFORMED, NOT_ALLOWED, NOT_SUPPORTED, ServiceProvider

_REPLY_TO_HLS = bytes.fromhex("000f0000280000ff01")
_MIN_PDU_BYTES = 12
_LLS = 1
_UNLIMITED_PDU_BYTES = 0xFFFF
_SERVICE_ANSWERS = {0xC0: 0xC4, 0xC1: 0xC5, 0xC3: 0xC7}
_CONFIRMED_ERRORS = {0x60: 1, 0xC0: 5, 0xC1: 6}  # initiateError, read, write
_REFUSALS = (FaultKind.AARE_REFUSAL, FaultKind.AARE_PROVIDER_REFUSAL)


class State(Enum):
    IDLE = "idle"
    PENDING = "pending"  # HLS: AARE sent, the client has not proved itself
    ASSOCIATED = "associated"


class _Rejected(Exception):
    """The AARE's result, diagnostic and user-information."""

    def __init__(
        self,
        diagnostic: int,
        result: int = acse.REJECTED_PERMANENT,
        error: bytes = b"",
        *,
        by_provider: bool = False,
    ) -> None:
        super().__init__(f"result {result}, diagnostic {diagnostic}")
        self.result = result
        self.diagnostic = diagnostic
        self.error = error
        self.by_provider = by_provider


class ServerAssociation:
    """Between one meter and one client address on one link. Plain or protected APDUs in, answers out."""

    def __init__(self, device: LogicalDevice, client_address: int) -> None:
        self.device = device
        self.client_address = client_address
        self.state = State.IDLE
        self.client: ClientSettings | None = None
        self.services: ServiceProvider | None = None
        self.request: acse.AssociationRequest | None = None
        self._cipher: ServerCipher | None = None
        self._exchange: HlsExchange | None = None

    def handle(self, apdu: bytes) -> tuple[bytes | None, Fault | None]:
        """The answer to one APDU (None where the meter keeps silent), and the fault ordered for it.

        Faults inside the APDU are in the answer already; those of the line are left to the line.
        """
        if not apdu:
            return None, None
        self.device.current = self
        faults = self.device.faults
        if apdu[0] in (0x60, 0x62):
            fault = faults.take(stage_of(apdu)) if faults else None
            spoilt = spoil(apdu, fault)
            if spoilt is not None:
                return spoilt, fault
            return (self._associate(apdu, fault) if apdu[0] == 0x60 else self._release()), fault
        if self.state is State.IDLE or self.services is None:
            return NOT_ALLOWED, None
        try:
            opened = self._open(apdu)
        except ProtectionError as error:
            return error.answer, None
        if not faults and self._cipher is None:
            return self._serve(opened.plain), None
        cipher = self._cipher  # a failed proof ends the association
        fault = faults.take(stage_of(opened.plain)) if faults else None
        answer = spoil(opened.plain, fault) or self._serve(opened.plain)
        if fault is not None and fault.kind is FaultKind.WRONG_INVOKE_ID:
            answer = answer[:2] + bytes((answer[2] ^ 0x01,)) + answer[3:]
        return (cipher.protect(answer, opened) if cipher else answer), fault

    def _open(self, apdu: bytes) -> Deciphered:
        if self._cipher is None:
            return Deciphered(apdu)
        return self._cipher.unprotect(apdu)

    def _serve(self, apdu: bytes) -> bytes:
        assert self.services is not None  # noqa: S101 - not idle
        if self.state is State.PENDING or apdu[3:12] == _REPLY_TO_HLS:
            return self._prove(apdu) if apdu[:1] == b"\xc3" else NOT_ALLOWED
        return self.services.handle(apdu)

    def end_with_link(self, *, cleanly: bool) -> None:
        """The link was lost, or closed in the orderly way, and the association with it."""
        self._end(cleanly=cleanly)

    def _end(self, *, cleanly: bool) -> None:
        self.state = State.IDLE
        self.services = None
        self._cipher = None
        self.device.closed(self, cleanly=cleanly)

    def _release(self) -> bytes | None:
        quirks = self.device.settings.quirks
        if quirks.ignore_rlrq:
            return None
        if quirks.refuse_rlrq:
            return NOT_SUPPORTED
        self._end(cleanly=True)
        return acse.RLRE

    # AARQ

    def _associate(self, apdu: bytes, fault: Fault | None) -> bytes | None:
        self._end(cleanly=True)
        context = acse.LN_PLAIN
        try:
            request = acse.decode_aarq(apdu)
            context = request.context if request.context > 0 else acse.LN_PLAIN
            if fault is not None and fault.kind in _REFUSALS:
                raise _Rejected(fault.code, by_provider=fault.kind is FaultKind.AARE_PROVIDER_REFUSAL)
            answer = self._accept(request)
        except _Rejected as rejection:
            self.device.counters.associations_refused += 1
            self._end(cleanly=True)
            return acse.encode_aare(
                context,
                rejection.result,
                rejection.diagnostic,
                user_information=rejection.error,
                by_provider=rejection.by_provider,
            )
        except DecodeError:
            self._end(cleanly=True)
            return MALFORMED
        return answer

    def _accept(self, request: acse.AssociationRequest) -> bytes:
        device = self.device
        if device.is_busy(self):
            raise _Rejected(acse.NO_REASON, acse.REJECTED_TRANSIENT)
        client = device.clients.get(self.client_address)
        if client is None:
            raise _Rejected(acse.NO_REASON)
        self._check_context(client, request)
        self._authenticate(client, request)
        cipher, initiate = self._initiate(client, request)
        conformance, max_pdu_bytes = self._negotiate(initiate, is_ciphered=cipher is not None)
        overhead_bytes = cipher.overhead_bytes if cipher else 0
        self.client, self.request, self._cipher = client, request, cipher
        self.services = ServiceProvider(device, client, conformance, max_pdu_bytes - overhead_bytes)
        response = acse.encode_initiate_response(conformance, device.settings.max_pdu_bytes)
        if cipher is not None:
            response = cipher.protect_initiate(response)
        server_title = client.security.server_title if client.security else b""
        if client.mechanism <= _LLS:
            self._opened()
            return acse.encode_aare(
                request.context, 0, 0, user_information=response, server_title=server_title
            )
        self.state = State.PENDING
        challenge = os.urandom(device.settings.quirks.challenge_bytes)
        self._exchange = HlsExchange(request, challenge, counter_seen(device, client.address))
        return acse.encode_aare(
            request.context,
            0,
            acse.AUTHENTICATION_REQUIRED,
            user_information=response,
            server_title=server_title,
            mechanism=client.mechanism,
            challenge=challenge,
        )

    def _opened(self) -> None:
        self.state = State.ASSOCIATED
        self.device.opened(self)

    @staticmethod
    def _check_context(client: ClientSettings, request: acse.AssociationRequest) -> None:
        ciphered = client.security is not None and client.security.is_ciphered
        if request.context != (acse.LN_CIPHERED if ciphered else acse.LN_PLAIN):
            raise _Rejected(acse.CONTEXT_NOT_SUPPORTED)

    def _authenticate(self, client: ClientSettings, request: acse.AssociationRequest) -> None:
        if request.mechanism != client.mechanism:
            absent = client.mechanism and not request.mechanism
            raise _Rejected(acse.AUTHENTICATION_REQUIRED if absent else acse.MECHANISM_NOT_RECOGNISED)
        value = request.authentication_value
        if client.mechanism == _LLS and not hmac.compare_digest(value, client.secret):
            raise _Rejected(acse.AUTHENTICATION_FAILURE)
        if client.mechanism > _LLS:
            sizes = range(16, 17) if self.device.settings.quirks.only_16_byte_challenges else range(8, 65)
            if len(value) not in sizes:
                raise _Rejected(acse.AUTHENTICATION_FAILURE)

    def _initiate(
        self, client: ClientSettings, request: acse.AssociationRequest
    ) -> tuple[ServerCipher | None, acse.Initiate]:
        information = request.user_information
        cipher = None
        if client.security is not None and client.security.is_ciphered:
            cipher = ServerCipher(self.device, client, client.security, request.client_title)
            try:
                information = cipher.unprotect(information).plain
            except ProtectionError as error:
                raise _Rejected(acse.AUTHENTICATION_FAILURE) from error
        initiate = acse.decode_initiate(information)
        if cipher is not None:
            cipher.use_dedicated_key(initiate.dedicated_key)
        return cipher, initiate

    def _negotiate(self, initiate: acse.Initiate, *, is_ciphered: bool) -> tuple[int, int]:
        settings = self.device.settings
        if initiate.version < 6:
            raise _Rejected(acse.NO_REASON, error=acse.encode_initiate_error(acse.VERSION_TOO_LOW))
        if 0 < initiate.max_pdu_bytes < _MIN_PDU_BYTES:
            raise _Rejected(acse.NO_REASON, error=acse.encode_initiate_error(acse.PDU_TOO_SHORT))
        offered = settings.conformance
        if settings.quirks.no_lists:
            offered &= ~conformance_bits(MULTIPLE_REFERENCES)
        if not is_ciphered:
            offered &= ~conformance_bits(GENERAL_PROTECTION)
        conformance = initiate.conformance & offered
        if not conformance:
            raise _Rejected(acse.NO_REASON, error=acse.encode_initiate_error(acse.INCOMPATIBLE_CONFORMANCE))
        return conformance, min(initiate.max_pdu_bytes or _UNLIMITED_PDU_BYTES, settings.max_pdu_bytes)

    # the third and fourth pass of HLS

    def _prove(self, apdu: bytes) -> bytes:
        """reply_to_HLS_authentication: check the client's f(StoC), answer f(CtoS)."""
        if len(apdu) < 15 or apdu[1] != 1 or apdu[3:12] != _REPLY_TO_HLS or not self._exchange:
            return NOT_ALLOWED
        assert self.client is not None  # noqa: S101 - set when the challenge was
        token = apdu[15:]
        is_octet_string = apdu[12:14] == b"\x01\x09" and apdu[14] == len(token)
        exchange, self._exchange = self._exchange, None
        answer = hls_answer(self.device, self.client, exchange, token) if is_octet_string else None
        if answer is None:
            self.device.counters.associations_refused += 1
            self._end(cleanly=True)
            return bytes((0xC7, 1, apdu[2], 250, 0))
        self._opened()
        return bytes((0xC7, 1, apdu[2], 0, 1, 0, 9, len(answer))) + answer


def spoil(request: bytes, fault: Fault | None) -> bytes | None:
    """The answer that an ordered fault puts in the place of the true one; None for other faults."""
    if fault is None or len(request) < 3:
        return None
    if fault.kind is FaultKind.EXCEPTION:
        return bytes((0xD8, 1, fault.code or 1))
    if fault.kind is FaultKind.SERVICE_ERROR:
        return bytes((0x0E, _CONFIRMED_ERRORS.get(request[0], 5), 1, fault.code))
    if fault.kind is not FaultKind.ACCESS_ERROR or request[0] in (0x60, 0x62):
        return None
    head = bytes((_SERVICE_ANSWERS.get(request[0], 0xC4), request[1], request[2]))
    if request[:2] == b"\xc0\x03":
        return head + request[3:4] + bytes((1, fault.code)) * request[3]
    if request[0] == 0xC0:
        return bytes((0xC4, 1, request[2], 1, fault.code))
    return bytes((head[0], 1, request[2], fault.code)) + (b"\x00" if request[0] == 0xC3 else b"")
