"""The meter's side of ciphering and high level security (Green Book 9.2); AES-GCM is `cosem.security`'s."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from dlms_connector.cosem.security import AUTHENTICATED, ENCRYPTED, Protector
from dlms_connector.cosem.values import encode_length, read_length
from dlms_connector.errors import DecodeError, SecurityError

if TYPE_CHECKING:
    from dlms_connector.simulator.acse_server import AssociationRequest
    from dlms_connector.simulator.meter import ClientSettings, LogicalDevice

_GENERAL_GLO, _GENERAL_DED, _EXCEPTION = 0xDB, 0xDC, 0xD8
_GLO_INITIATE_REQUEST, _GLO_INITIATE_RESPONSE = 0x21, 0x28
_GLO_REQUESTS, _DED_REQUESTS = frozenset({0x21, 0xC8, 0xC9, 0xCB}), frozenset({0xD0, 0xD1, 0xD3})
# plain answer -> (glo-, ded-)
_ANSWER_TAGS = {
    0x08: (0x28, 0x48),
    0x0E: (0x2E, 0x4E),
    0xC4: (0xCC, 0xD4),
    0xC5: (0xCD, 0xD5),
    0xC7: (0xCF, 0xD7),
}
_NOT_ALLOWED = b"\xd8\x01\x01"
_DECIPHERING_ERROR = b"\xd8\x01\x05"
_COUNTER_ERROR = b"\xd8\x01\x06"
# Tag, system title, length, security header and authentication tag.
_OVERHEAD_BYTES = 1 + 9 + 3 + 5 + 12


@dataclass(frozen=True)
class ServerSecurity:
    """Keys and policy for one client of a meter; keys of 16 bytes in suites 0 and 1, of 32 in suite 2.

    `policy` has the bits of the security control byte (0x10 authenticated, 0x20 encrypted); 0 leaves the
    APDUs plain, and the keys and titles serve HLS alone. `client_title` None lets any in.
    """

    server_title: bytes
    encryption_key: bytes = field(default=b"", repr=False)
    authentication_key: bytes = field(default=b"", repr=False)
    suite: int = 0
    policy: int = AUTHENTICATED | ENCRYPTED
    client_title: bytes | None = None

    @property
    def is_ciphered(self) -> bool:
        return bool(self.policy)


@dataclass(frozen=True)
class Deciphered:
    """A request in plain, and the tag that it came under (0 when it was plain)."""

    plain: bytes
    tag: int = 0


class ProtectionError(Exception):
    """The request is not protected as it must be; `answer` tells the client so."""

    def __init__(self, answer: bytes) -> None:
        super().__init__(answer.hex())
        self.answer = answer


class ServerCipher:
    """The protected side of one association, as the meter sees it."""

    overhead_bytes = _OVERHEAD_BYTES

    def __init__(
        self, device: LogicalDevice, client: ClientSettings, security: ServerSecurity, client_title: bytes
    ) -> None:
        self._device = device
        self._client = client
        self._security = security
        self._client_title = client_title
        self._global = Protector(security.encryption_key, security.authentication_key)
        self._dedicated: Protector | None = None
        self._dedicated_seen = -1
        self._dedicated_own = 0
        self._initiate_tag = _GLO_INITIATE_REQUEST

    def use_dedicated_key(self, key: bytes) -> None:
        """The key that the InitiateRequest brought; empty for none."""
        if key:
            self._dedicated = Protector(key, self._security.authentication_key)

    def unprotect(self, apdu: bytes) -> Deciphered:
        """Verify and open a request. Raises ProtectionError."""
        try:
            return self._unprotect(apdu)
        except (SecurityError, DecodeError, IndexError) as error:
            raise ProtectionError(_DECIPHERING_ERROR) from error

    def _unprotect(self, apdu: bytes) -> Deciphered:
        tag = apdu[0]
        at = 1
        title = self._client_title
        if tag in (_GENERAL_GLO, _GENERAL_DED):
            size, at = read_length(apdu, at)
            title = apdu[at : at + size] or title
            at += size
        elif tag not in _GLO_REQUESTS and tag not in _DED_REQUESTS:
            raise ProtectionError(_NOT_ALLOWED)
        if self._security.client_title is not None and title != self._security.client_title:
            raise ProtectionError(_DECIPHERING_ERROR)
        length, at = read_length(apdu, at)
        if len(apdu) != at + length:
            raise ProtectionError(_DECIPHERING_ERROR)
        is_dedicated = tag == _GENERAL_DED or tag in _DED_REQUESTS
        protector = self._dedicated if is_dedicated else self._global
        if protector is None:
            raise ProtectionError(_NOT_ALLOWED)
        plain, control, counter = protector.unprotect(title, apdu[at:])
        if control & self._security.policy != self._security.policy or control & 0x0F != self._security.suite:
            raise ProtectionError(_NOT_ALLOWED)
        self._check_counter(counter, is_dedicated)
        if plain[:1] == b"\x01":
            self._initiate_tag = tag
        return Deciphered(plain, tag)

    def _check_counter(self, counter: int, is_dedicated: bool) -> None:
        if not is_dedicated:
            accept_counter(self._device, self._client.address, counter)
        elif counter <= self._dedicated_seen:
            raise replayed(self._device, self._dedicated_seen)
        else:
            self._dedicated_seen = counter

    def protect(self, answer: bytes, request: Deciphered) -> bytes:
        """Wrap an answer in the style of its request; an ExceptionResponse stays plain."""
        if not answer or answer[0] == _EXCEPTION:
            return answer
        is_dedicated = request.tag == _GENERAL_DED or request.tag in _DED_REQUESTS
        body = self._seal(answer, is_dedicated)
        if request.tag in (_GENERAL_GLO, _GENERAL_DED):
            title = self._security.server_title
            return bytes((request.tag, len(title))) + title + encode_length(len(body)) + body
        tags = _ANSWER_TAGS[answer[0]]
        return bytes((tags[is_dedicated],)) + encode_length(len(body)) + body

    def protect_initiate(self, response: bytes) -> bytes:
        """The InitiateResponse under the global key, in the style of its request."""
        return self.protect(response, Deciphered(response, self._initiate_tag))

    def _seal(self, plain: bytes, is_dedicated: bool) -> bytes:
        if is_dedicated and self._dedicated is not None:
            self._dedicated_own += 1
            protector, counter = self._dedicated, self._dedicated_own
        else:
            protector, counter = self._global, next_own_counter(self._device)
        if self._device.settings.quirks.meter_counter_zero:
            counter = 0
        control = self._security.policy | self._security.suite
        return protector.protect(control, self._security.server_title, counter, plain)


def next_own_counter(device: LogicalDevice) -> int:
    """The meter's invocation counter for what it protects with the global key."""
    device.own_counter += 1
    return device.own_counter


def replayed(device: LogicalDevice, seen: int) -> ProtectionError:
    """Count a replay, and tell the client which counter is wanted."""
    device.counters.replays += 1
    return ProtectionError(_COUNTER_ERROR + (seen + 1).to_bytes(4, "big"))


def counter_seen(device: LogicalDevice, client_address: int) -> int:
    """The highest invocation counter that a client has used; -1 when it used none."""
    return device.client_counters.get(client_address, device.settings.initial_client_counter or -1)


def accept_counter(device: LogicalDevice, client_address: int, counter: int) -> None:
    """Take a client's invocation counter, which must grow. Raises ProtectionError."""
    seen = counter_seen(device, client_address)
    if counter <= seen:
        raise replayed(device, seen)
    device.client_counters[client_address] = counter


_Digest = Callable[[bytes, bytes, bytes, bytes, bytes], bytes]


def _aes(secret: bytes, challenge: bytes, *_: bytes) -> bytes:
    size_bytes = -(-max(len(challenge), 1) // 16) * 16
    encryptor = Cipher(algorithms.AES(secret.ljust(16, b"\0")[:16]), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(challenge.ljust(size_bytes, b"\0"))


# secret, challenge, the other challenge, own title, the other title
_DIGESTS: dict[int, _Digest] = {
    2: _aes,
    3: lambda secret, challenge, *_: hashlib.md5(challenge + secret).digest(),  # noqa: S324
    4: lambda secret, challenge, *_: hashlib.sha1(challenge + secret).digest(),  # noqa: S324
    6: lambda secret, challenge, other, own_title, other_title: hashlib.sha256(
        secret + own_title + other_title + challenge + other
    ).digest(),
}
_GMAC = 5


@dataclass(frozen=True)
class HlsExchange:
    """Both challenges, and the client's counter when the association was asked for."""

    request: AssociationRequest
    challenge: bytes
    counter_floor: int


def hls_answer(
    device: LogicalDevice, client: ClientSettings, exchange: HlsExchange, token: bytes
) -> bytes | None:
    """f(CtoS) if the client's token is f(StoC); None if it is not."""
    security = client.security
    if client.mechanism == _GMAC:
        return _gmac_answer(device, client, exchange, token)
    request, challenge = exchange.request, exchange.challenge
    server_title = security.server_title if security is not None else b""
    digest = _DIGESTS[client.mechanism]
    own = request.authentication_value
    expected = digest(client.secret, challenge, own, request.client_title, server_title)
    if not hmac.compare_digest(expected, token):
        return None
    return digest(client.secret, own, challenge, server_title, request.client_title)


def _gmac_answer(
    device: LogicalDevice, client: ClientSettings, exchange: HlsExchange, token: bytes
) -> bytes | None:
    security = client.security
    if security is None or len(token) != 17:
        return None
    counter = int.from_bytes(token[1:5], "big")
    protector = Protector(security.encryption_key, security.authentication_key)
    request = exchange.request
    expected = protector.gmac(token[0], request.client_title, counter, exchange.challenge)
    if token[0] != AUTHENTICATED | security.suite or not hmac.compare_digest(token[5:], expected):
        return None
    # The token may be made before or after the APDU that carries it.
    if counter <= exchange.counter_floor:
        device.counters.replays += 1
        return None
    device.client_counters[client.address] = max(counter, counter_seen(device, client.address))
    own_counter = next_own_counter(device)
    control = AUTHENTICATED | security.suite
    tag = protector.gmac(control, security.server_title, own_counter, request.authentication_value)
    return bytes((control,)) + own_counter.to_bytes(4, "big") + tag
