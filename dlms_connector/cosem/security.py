"""Ciphering of APDUs and the secrets of HLS: AES-GCM, security control byte, counters (Green Book 9.2).

Sans-io: a `CipherContext` belongs to one association, takes APDUs and gives APDUs. Nothing of a received
frame is used before its tag is verified; its counter is looked at only after that.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from dlms_connector.cosem.values import encode_length, read_length
from dlms_connector.errors import SecurityError

TAG_BYTES = 12
AUTHENTICATED = 0x10
ENCRYPTED = 0x20
BROADCAST_KEY = 0x40
COMPRESSED = 0x80
COUNTER_LIMIT = 0xFFFFFFFF

GENERAL_GLO = 0xDB
GENERAL_DED = 0xDC
GLO_INITIATE_REQUEST = 0x21
GLO_INITIATE_RESPONSE = 0x28
GLO_CONFIRMED_SERVICE_ERROR = 0x2E

# plain tag -> (service-specific global tag, service-specific dedicated tag)
_SPECIFIC_TAGS: dict[int, tuple[int, int]] = {
    0x01: (GLO_INITIATE_REQUEST, 0x41),
    0x08: (GLO_INITIATE_RESPONSE, 0x48),
    0x0E: (GLO_CONFIRMED_SERVICE_ERROR, 0x4E),
    0xC0: (0xC8, 0xD0),
    0xC1: (0xC9, 0xD1),
    0xC2: (0xCA, 0xD2),
    0xC3: (0xCB, 0xD3),
    0xC4: (0xCC, 0xD4),
    0xC5: (0xCD, 0xD5),
    0xC7: (0xCF, 0xD7),
}
_GLO_TAGS = frozenset(tags[0] for tags in _SPECIFIC_TAGS.values())
_DED_TAGS = frozenset(tags[1] for tags in _SPECIFIC_TAGS.values())
DEDICATED_TAGS = _DED_TAGS | {GENERAL_DED}
CIPHERED_TAGS = _GLO_TAGS | _DED_TAGS | {GENERAL_GLO, GENERAL_DED}
PLAIN_TAG_OF = {ciphered: plain for plain, tags in _SPECIFIC_TAGS.items() for ciphered in tags}


class StaleAnswer(SecurityError):
    """A well-protected answer that was seen before: to be dropped, the right one may still come."""


class Mechanism(IntEnum):
    """Authentication mechanisms of the ACSE."""

    NONE = 0
    LLS = 1
    HLS_SECRET = 2
    HLS_MD5 = 3
    HLS_SHA1 = 4
    HLS_GMAC = 5
    HLS_SHA256 = 6


class Ciphering(IntEnum):
    """How protected APDUs are wrapped."""

    GENERAL_GLO = 0
    GLO = 1
    GENERAL_DED = 2
    DED = 3

    @property
    def dedicated(self) -> bool:
        return self in (Ciphering.GENERAL_DED, Ciphering.DED)


@dataclass(frozen=True, slots=True)
class SecurityParameters:
    """Keys and policy of one association; the keys never show in a repr.

    HLS 6 without ciphering needs the titles alone: policy 0 and no keys.
    """

    suite: int
    policy: int  # AUTHENTICATED | ENCRYPTED bits, 0 for plain APDUs
    ciphering: Ciphering
    client_title: bytes
    encryption_key: bytes = field(repr=False, default=b"")
    authentication_key: bytes = field(repr=False, default=b"")
    server_title: bytes | None = None


class Protector:
    """AES-GCM with one key and authentication key, the cipher object cached.

    The library's fast AEAD knows only 16-byte tags, DLMS sends 12. Counter mode is its own inverse, so a
    received text is decrypted by encrypting it, then encrypted anew to compute the tag that it must bear.
    """

    __slots__ = ("_authentication_key", "_gcm")

    def __init__(self, key: bytes, authentication_key: bytes) -> None:
        self._gcm = AESGCM(key)
        self._authentication_key = authentication_key

    def protect(self, control: int, title: bytes, counter: int, plain: bytes) -> bytes:
        """Security header, text and tag: SC || IC || ciphertext || tag."""
        count = counter.to_bytes(4, "big")
        head = bytes((control,))
        nonce = title + count
        mode = control & (AUTHENTICATED | ENCRYPTED)
        if mode == AUTHENTICATED | ENCRYPTED:
            sealed = self._gcm.encrypt(nonce, plain, head + self._authentication_key)
            return head + count + sealed[: len(plain) + TAG_BYTES]
        if mode == AUTHENTICATED:
            return head + count + plain + self.gmac(control, title, counter, plain)
        if mode == ENCRYPTED:
            return head + count + self._gcm.encrypt(nonce, plain, None)[: len(plain)]
        return head + count + plain

    def unprotect(self, title: bytes, body: bytes) -> tuple[bytes, int, int]:
        """Verify and open SC || IC || text || tag: `(plain APDU, security control, counter)`.

        Raises:
            SecurityError: too short, compressed, or the tag is wrong.
        """
        if len(body) < 5:
            raise SecurityError(f"ciphered APDU of {len(body)} bytes has no security header")
        control = body[0]
        if control & COMPRESSED:
            raise SecurityError("the answer is compressed, which was not agreed")
        nonce = title + body[1:5]
        counter = int.from_bytes(body[1:5], "big")
        text = body[5:]
        tag = b""
        if control & AUTHENTICATED:
            if len(text) < TAG_BYTES:
                raise SecurityError("ciphered APDU is shorter than its tag")
            text, tag = text[:-TAG_BYTES], text[-TAG_BYTES:]
        if not control & ENCRYPTED:
            if control & AUTHENTICATED:
                self._verify(tag, self.gmac(control, title, counter, text))
            return text, control, counter
        plain = self._gcm.encrypt(nonce, text, None)[: len(text)]
        if control & AUTHENTICATED:
            aad = bytes((control,)) + self._authentication_key
            self._verify(tag, self._gcm.encrypt(nonce, plain, aad)[len(plain) : len(plain) + TAG_BYTES])
        return plain, control, counter

    def gmac(self, control: int, title: bytes, counter: int, data: bytes) -> bytes:
        """12-byte GMAC over SC || AK || data."""
        nonce = title + counter.to_bytes(4, "big")
        aad = bytes((control,)) + self._authentication_key + data
        return self._gcm.encrypt(nonce, b"", aad)[:TAG_BYTES]

    @staticmethod
    def _verify(got: bytes, expected: bytes) -> None:
        if not hmac.compare_digest(got, expected):
            raise SecurityError(
                "the authentication tag is wrong",
                hint="check encryptionKey, authenticationKey and the system titles",
            )


class CipherContext:
    """The protected side of one association.

    Args:
        parameters: keys and policy.
        next_counter: gives an invocation counter that was never used with the global key and never will
            be again (it is on disk before it is given out).
        dedicated_key: drawn for this association when the ciphering is dedicated.
    """

    def __init__(
        self,
        parameters: SecurityParameters,
        next_counter: Callable[[], int],
        dedicated_key: bytes | None = None,
    ) -> None:
        self.parameters = parameters
        self.dedicated_key = dedicated_key
        self.server_title = parameters.server_title
        self._next_counter = next_counter
        self._keyed = (
            Protector(parameters.encryption_key, parameters.authentication_key)
            if parameters.encryption_key
            else None
        )
        self._dedicated = (
            Protector(dedicated_key, parameters.authentication_key) if dedicated_key is not None else None
        )
        self._dedicated_counter = 0
        self._seen = {False: -1, True: -1}  # highest counter of the meter per key, True for the dedicated one
        self._control = parameters.policy | parameters.suite

    @property
    def _global(self) -> Protector:
        if self._keyed is None:
            raise SecurityError("no encryption key is configured", hint="set security.encryptionKey")
        return self._keyed

    def protect(self, apdu: bytes) -> bytes:
        """Wrap a request as the association's ciphering asks; plain where the policy is none."""
        if not self.parameters.policy:
            return apdu
        style = self.parameters.ciphering
        title = self.parameters.client_title
        if style.dedicated and self._dedicated is not None:
            body = self._dedicated.protect(self._control, title, self._next_dedicated(), apdu)
        else:
            body = self._global.protect(self._control, title, self._next_counter(), apdu)
        if style in (Ciphering.GENERAL_GLO, Ciphering.GENERAL_DED):
            tag = GENERAL_DED if style is Ciphering.GENERAL_DED else GENERAL_GLO
            return bytes((tag, len(title))) + title + encode_length(len(body)) + body
        tags = _SPECIFIC_TAGS[apdu[0]]
        return bytes((tags[1 if style.dedicated else 0],)) + encode_length(len(body)) + body

    def protect_initiate(self, apdu: bytes) -> bytes:
        """Wrap an InitiateRequest: always glo- with the global key, whatever style follows."""
        if not self.parameters.policy:
            return apdu
        body = self._global.protect(self._control, self.parameters.client_title, self._next_counter(), apdu)
        return bytes((GLO_INITIATE_REQUEST,)) + encode_length(len(body)) + body

    def unprotect(self, apdu: bytes) -> bytes:
        """Open an answer; a plain one is given back as it is where the policy is none.

        Raises:
            SecurityError: not protected though it must be, wrong tag, replayed counter.
            DecodeError: malformed lengths.
        """
        tag = apdu[0] if apdu else -1
        if tag not in CIPHERED_TAGS:
            if self.parameters.policy and tag in _SPECIFIC_TAGS and tag != 0x0E:
                raise SecurityError(
                    "the meter answered in plain in a ciphered association",
                    hint="check security.policy; a meter that protects nothing needs policy none",
                )
            return apdu
        dedicated = tag in DEDICATED_TAGS
        offset = 1
        title = self.server_title
        if tag in (GENERAL_GLO, GENERAL_DED):
            size, offset = read_length(apdu, offset)
            title = apdu[offset : offset + size] or title
            offset += size
        length, offset = read_length(apdu, offset)
        body = apdu[offset : offset + length]
        if len(body) != length:
            raise SecurityError(f"ciphered APDU of {length} bytes, only {len(body)} there")
        return self._open(body, title, dedicated)

    def _open(self, body: bytes, title: bytes | None, dedicated: bool) -> bytes:
        if title is None or len(title) != 8:
            raise SecurityError(
                "the meter's system title is not known",
                hint="set security.serverSystemTitle: 16 hexadecimal digits",
            )
        if self.server_title is not None and title != self.server_title:
            raise SecurityError("the answer bears the system title of another meter")
        protector = self._dedicated if dedicated else self._global
        if protector is None:
            raise SecurityError("the answer uses a dedicated key that was not agreed")
        plain, control, counter = protector.unprotect(title, body)
        self._check(control, counter, dedicated)
        return plain

    def _check(self, control: int, counter: int, dedicated: bool) -> None:
        if self.parameters.policy & AUTHENTICATED and not control & AUTHENTICATED:
            raise SecurityError("the answer bears no authentication tag though the policy asks for one")
        if not control & (AUTHENTICATED | ENCRYPTED) and self.parameters.policy:
            raise SecurityError("the answer is not protected though the policy asks for it")
        # Some meters do not count: all their answers bear 0. They cannot be told from replays by the counter.
        if counter and counter <= self._seen[dedicated]:
            raise StaleAnswer(
                f"the meter's invocation counter {counter} was seen before: a replayed or repeated answer"
            )
        self._seen[dedicated] = counter

    def _next_dedicated(self) -> int:
        # A dedicated key is fresh for each association, so its counter may start anew.
        self._dedicated_counter += 1
        return self._dedicated_counter

    def gmac_token(self, challenge: bytes) -> bytes:
        """Our answer to the meter's challenge: SC || IC || GMAC."""
        control = AUTHENTICATED | self.parameters.suite
        counter = self._next_counter()
        tag = self._global.gmac(control, self.parameters.client_title, counter, challenge)
        return bytes((control,)) + counter.to_bytes(4, "big") + tag

    def verify_gmac_token(self, token: bytes, challenge: bytes) -> None:
        """Check the meter's answer to our challenge. Raises SecurityError."""
        if len(token) != 5 + TAG_BYTES or self.server_title is None:
            raise SecurityError(f"the meter's GMAC token has {len(token)} bytes, not {5 + TAG_BYTES}")
        counter = int.from_bytes(token[1:5], "big")
        expected = self._global.gmac(token[0], self.server_title, counter, challenge)
        if not hmac.compare_digest(token[5:], expected):
            raise SecurityError(
                "the meter failed to prove that it knows the keys",
                hint="check encryptionKey and authenticationKey, and that this is the right meter",
            )


def hls_digest(
    mechanism: Mechanism, secret: bytes, challenge: bytes, other_challenge: bytes = b"", titles: bytes = b""
) -> bytes:
    """f(challenge) of HLS 2, 3, 4 and 6 (Green Book 9.2.7.4), computed by the side that was challenged.

    `titles` (own system title, then the peer's) and `other_challenge` count for HLS 6 only. HLS 2 is left to
    the manufacturers; what meters do is AES-128 of the challenge with the secret as key.
    """
    if mechanism is Mechanism.HLS_MD5:
        return hashlib.md5(challenge + secret).digest()  # noqa: S324 (the meter's choice)
    if mechanism is Mechanism.HLS_SHA1:
        return hashlib.sha1(challenge + secret).digest()  # noqa: S324 (the meter's choice)
    if mechanism is Mechanism.HLS_SHA256:
        return hashlib.sha256(secret + titles + challenge + other_challenge).digest()
    if mechanism is Mechanism.HLS_SECRET:
        size = (max(len(challenge), len(secret)) + 15) // 16 * 16
        encryptor = Cipher(algorithms.AES(secret.ljust(16, b"\0")[:16]), modes.ECB()).encryptor()  # noqa: S305
        return encryptor.update(challenge.ljust(size, b"\0")) + encryptor.finalize()
    raise ValueError(f"{mechanism.name} has no digest")
