"""One application association: AARQ, both passes of HLS, protected requests, RLRQ.

Thread-free and clock-injected; bytes go through an `ApduChannel`. An association is fresh each time: after
any LinkError it is over, and a new one is made on a new channel state.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from dlms_cosem.protocol.xdlms import Conformance

from dlms_connector.cosem import acse
from dlms_connector.cosem.exceptions import raise_for_exception
from dlms_connector.cosem.security import (
    CipherContext,
    Mechanism,
    SecurityParameters,
    StaleAnswer,
    hls_digest,
)
from dlms_connector.cosem.values import DataType, decode, encode_length
from dlms_connector.errors import AssociationError, Layer, LinkTimeout, ProtocolError, SecurityError
from dlms_connector.obis import Obis

CURRENT_ASSOCIATION = Obis(0, 0, 40, 0, 0)
CONFIRMED_HIGH_PRIORITY = 0xC0
_NOTIFICATIONS = frozenset((0x0F, 0xC2))
_INVOKE_BYTES = tuple(bytes((CONFIRMED_HIGH_PRIORITY | number,)) for number in range(16))
_MAX_DIVERTED = 64


class ApduChannel(Protocol):
    """Carries whole APDUs; see `link.channel`."""

    def exchange(self, apdu: bytes, deadline_s: float, *, numbered: bool = False) -> bytes:
        """Send one APDU and wait for one; of a numbered one the caller knows the answer by its invoke-id."""

    def receive(self, deadline_s: float) -> bytes:
        """Wait for one more APDU after an exchange."""


@dataclass(frozen=True, slots=True)
class AssociationParameters:
    """Who we are to the meter. Secrets never show in a repr."""

    mechanism: Mechanism = Mechanism.NONE
    secret: bytes = field(default=b"", repr=False)
    challenge_length: int = 16
    association: Obis = CURRENT_ASSOCIATION
    max_pdu_size: int = 65535
    security: SecurityParameters | None = None


class Association:
    """The client side of one association.

    Args:
        channel: an open channel to the meter.
        parameters: client and security.
        timeout_s: deadline of each request.
        next_counter: invocation counters for the global key, each given out once.
        on_notification: takes DataNotification and EventNotification APDUs that come in between.
        clock: monotonic seconds.
        random: unpredictable bytes, for challenges and dedicated keys.
        invoke_id: the last one that was used towards this meter: an answer that comes late, after a new
            association was opened on the same line, then bears an old number.
    """

    def __init__(
        self,
        channel: ApduChannel,
        parameters: AssociationParameters,
        *,
        timeout_s: float,
        next_counter: Callable[[], int] | None = None,
        on_notification: Callable[[bytes], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = secrets.token_bytes,
        invoke_id: int = 0,
    ) -> None:
        self.timeout_s = timeout_s
        self.conformance = Conformance()
        self.max_request_bytes = 0
        self.stale_answers = 0
        self.requests = 0
        self.responses = 0
        self.assumption = ""
        """What had to be assumed because the meter did not tell it; empty mostly."""
        self.responses_at_open = 0
        """Answers that opening took (HLS): only what came after them shows that the meter serves."""
        self._channel = channel
        self._parameters = parameters
        self._on_notification = on_notification
        self._clock = clock
        self._random = random
        self.invoke_id = invoke_id
        self._cipher = self._make_cipher(next_counter)
        self._initiate = b""

    def _make_cipher(self, next_counter: Callable[[], int] | None) -> CipherContext | None:
        security = self._parameters.security
        if security is None:
            return None
        if next_counter is None:
            raise ValueError("ciphering needs a source of invocation counters")
        dedicated = security.policy and security.ciphering.dedicated
        key = self._random(len(security.encryption_key)) if dedicated else None
        return CipherContext(security, next_counter, key)

    @property
    def _ciphered(self) -> bool:
        security = self._parameters.security
        return security is not None and security.policy != 0

    @property
    def overhead_bytes(self) -> int:
        """What ciphering adds to a request: header, system title, counter, tag, lengths."""
        return 40 if self._ciphered else 0

    def open(self) -> None:
        """Associate, and pass HLS where the mechanism asks for it.

        Raises:
            AssociationError: refused, with the diagnostic.
            SecurityError: the meter could not prove itself, or its answer is not well protected.
            LinkError: the channel failed.
        """
        parameters = self._parameters
        challenge = self._first_value()
        cipher = self._cipher
        self._initiate = acse.encode_initiate(
            ciphered=self._ciphered,
            max_pdu_size=parameters.max_pdu_size,
            dedicated_key=cipher.dedicated_key if cipher else None,
        )
        security = parameters.security
        aarq = acse.encode_aarq(
            parameters.mechanism,
            cipher.protect_initiate(self._initiate) if cipher else self._initiate,
            ciphered=self._ciphered,
            client_title=security.client_title if security else None,
            authentication_value=challenge,
        )
        try:
            answer = self._channel.exchange(aarq, self._deadline())
            while answer[:1] and answer[0] in _NOTIFICATIONS:
                self._divert(answer)
                answer = self._channel.receive(self._deadline())
        except LinkTimeout as error:
            raise LinkTimeout(
                f"the meter did not answer the association request within {self.timeout_s:g} s",
                layer=Layer.ASSOCIATION,
                hint="check client and server address; a former association may have to time out first",
            ) from error
        self._accept(self._read_aare(answer), challenge)
        self.responses_at_open = self.responses

    def now_s(self) -> float:
        """Monotonic seconds of the clock that this association goes by."""
        return self._clock()

    @property
    def server_title(self) -> bytes | None:
        """The meter's system title; None where there is no ciphering."""
        return self._cipher.server_title if self._cipher is not None else None

    def _first_value(self) -> bytes:
        parameters = self._parameters
        if parameters.mechanism is Mechanism.LLS:
            return parameters.secret
        if parameters.mechanism > Mechanism.LLS:
            return self._random(parameters.challenge_length)
        return b""

    @staticmethod
    def _read_aare(answer: bytes) -> acse.AssociationResponse:
        if answer[:1] in (b"\xd8", b"\x0e"):
            raise_for_exception(answer)
        return acse.decode_aare(answer)

    def _accept(self, response: acse.AssociationResponse, challenge: bytes) -> None:
        mechanism = self._parameters.mechanism
        hls = mechanism > Mechanism.LLS
        # HLS: "authentication required" with result 0 is how the meter asks for the second pass.
        response.raise_if_refused()
        if self._cipher is not None and response.server_title is not None:
            self._adopt_title(response.server_title)
        negotiated = self._negotiated(response)
        self.conformance = negotiated.conformance
        self.max_request_bytes = negotiated.max_pdu_size
        if hls:
            if not response.challenge:
                raise AssociationError("the meter sent no challenge for HLS")
            if secrets.compare_digest(response.challenge, challenge):
                # Our own answer would then be the proof that it owes us.
                raise SecurityError("the meter sent our own challenge back: it may know no secret")
            self._prove(response.challenge, challenge)

    def _negotiated(self, response: acse.AssociationResponse) -> acse.InitiateAnswer:
        """The xDLMS context; where a plain AARE tells none, a careful one is assumed and `assumption` says so."""
        plain = response.user_information
        if self._cipher is not None:
            if plain is None:
                raise AssociationError("the meter accepted the association but told no xDLMS context")
            return acse.decode_initiate_response(self._cipher.unprotect(plain))
        if plain is not None:
            return acse.decode_initiate_response(plain)
        self.assumption = (
            "the meter accepted the association and told no xDLMS context: all that was proposed is taken for "
            f"granted, and requests have at most {acse.UNTOLD_PDU_BYTES} bytes"
        )
        return acse.untold_context()

    def _adopt_title(self, title: bytes) -> None:
        cipher = self._cipher
        if cipher is None or len(title) != 8:
            return
        expected = cipher.parameters.server_title
        if expected is not None and expected != title:
            raise SecurityError(
                f"the meter's system title is {title.hex().upper()}, not {expected.hex().upper()}",
                hint="another meter may answer at this address; check security.serverSystemTitle",
            )
        cipher.server_title = title

    def _prove(self, server_challenge: bytes, client_challenge: bytes) -> None:
        """The second pass: ACTION reply_to_HLS_authentication, and the meter's proof in the answer."""
        own = self._hls_value(server_challenge, client_challenge)
        data = bytes((DataType.OCTET_STRING,)) + encode_length(len(own)) + own
        request = b"\xc3\x01\xc1\x00\x0f" + self._parameters.association.to_bytes() + b"\x01\x01" + data
        answer = self.request(request, 0xC7)
        if len(answer) < 4 or answer[1] != 1 or answer[3] != 0:
            raise AssociationError(
                "the meter refused our HLS answer", hint="check the password or the keys of this client"
            )
        # action-response-normal: result, then optional Get-Data-Result: presence, choice, data.
        proof = decode(answer, 6)[0] if answer[4:6] == b"\x01\x00" else None
        if not isinstance(proof, bytes):
            raise SecurityError("the meter did not prove itself in the second pass of HLS")
        self._verify_proof(proof, server_challenge, client_challenge)

    def _hls_value(self, server_challenge: bytes, client_challenge: bytes) -> bytes:
        mechanism = self._parameters.mechanism
        if mechanism is Mechanism.HLS_GMAC:
            return self._need_cipher().gmac_token(server_challenge)
        titles = self._titles(own_first=True) if mechanism is Mechanism.HLS_SHA256 else b""
        return hls_digest(mechanism, self._parameters.secret, server_challenge, client_challenge, titles)

    def _verify_proof(self, proof: bytes, server_challenge: bytes, client_challenge: bytes) -> None:
        mechanism = self._parameters.mechanism
        if mechanism is Mechanism.HLS_GMAC:
            self._need_cipher().verify_gmac_token(proof, client_challenge)
            return
        titles = self._titles(own_first=False) if mechanism is Mechanism.HLS_SHA256 else b""
        expected = hls_digest(mechanism, self._parameters.secret, client_challenge, server_challenge, titles)
        if not secrets.compare_digest(proof, expected):
            raise SecurityError(
                "the meter failed to prove that it knows the secret",
                hint="check the password of this client, and that this is the right meter",
            )

    def _titles(self, *, own_first: bool) -> bytes:
        cipher = self._need_cipher()
        own, peer = cipher.parameters.client_title, cipher.server_title or b""
        return own + peer if own_first else peer + own

    def _need_cipher(self) -> CipherContext:
        if self._cipher is None:
            raise SecurityError(
                f"{self._parameters.mechanism.name} needs the section client.security (system titles, keys)"
            )
        return self._cipher

    def request(self, apdu: bytes, response_tag: int) -> bytes:
        """Send one request and give the plain answer to it.

        The byte at index 2 of `apdu` (invoke-id and priority) is replaced; an answer counts only with the
        same invoke-id and `response_tag`. Notifications are diverted, stale answers dropped.

        Raises:
            ServiceRefused: ExceptionResponse or confirmedServiceError.
            ProtocolError, SecurityError, LinkError: the association is over.
        """
        number = self.invoke_id = (self.invoke_id + 1) & 0x0F
        numbered = apdu[:2] + _INVOKE_BYTES[number] + apdu[3:]
        cipher = self._cipher
        deadline = self._clock() + self.timeout_s
        self.requests += 1
        try:
            return self._await_answer(
                self._channel.exchange(
                    cipher.protect(numbered) if cipher else numbered, deadline, numbered=True
                ),
                response_tag,
                number,
                deadline,
            )
        except LinkTimeout as error:
            raise LinkTimeout(
                f"the meter did not answer within {self.timeout_s:g} s",
                layer=Layer.SERVICE,
                hint="it may be slow or overloaded: raise timeout; or the line lost the answer",
            ) from error

    def _await_answer(self, answer: bytes, response_tag: int, number: int, deadline: float) -> bytes:
        """The first answer that fits; everything else is diverted, dropped or an error."""
        cipher = self._cipher
        for _ in range(_MAX_DIVERTED):
            try:
                plain = cipher.unprotect(answer) if cipher else answer
            except StaleAnswer:
                plain = b""
            if len(plain) >= 3 and plain[0] == response_tag and plain[2] & 0x0F == number:
                self.responses += 1
                return plain
            self._divert_or_raise(plain)
            answer = self._channel.receive(deadline)
        raise ProtocolError(f"{_MAX_DIVERTED} APDUs came and none answers the request")

    def _divert_or_raise(self, plain: bytes) -> None:
        tag = plain[0] if plain else None
        if tag in (0xD8, 0x0E):
            raise_for_exception(plain)
        if tag in _NOTIFICATIONS:
            self._divert(plain)
        else:
            self.stale_answers += 1

    def _divert(self, apdu: bytes) -> None:
        if self._on_notification is not None:
            self._on_notification(apdu)

    def release(self) -> None:
        """Say goodbye with RLRQ. Meters that ignore or refuse it are left to their own devices.

        Raises:
            LinkError: nothing (or not an RLRE) came back; the caller closes the link either way.
        """
        cipher = self._cipher
        information = cipher.protect_initiate(self._initiate) if cipher and self._ciphered else None
        # Numbered it is not, but a late answer to a request is known by its tag.
        answer = self._channel.exchange(acse.encode_rlrq(information), self._deadline(), numbered=True)
        for _ in range(_MAX_DIVERTED):
            if answer[:1] and answer[0] not in _NOTIFICATIONS and answer[0] not in (0xC4, 0xC5, 0xC7):
                return
            answer = self._channel.receive(self._deadline())

    def _deadline(self) -> float:
        return self._clock() + self.timeout_s
