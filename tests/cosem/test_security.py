"""Ciphering against the Green Book's worked examples, NIST's GCM vectors and gurux_dlms."""

import pytest
from gurux_dlms.enums import Security
from gurux_dlms.GXCiphering import GXCiphering
from gurux_dlms.secure import GXDLMSSecureClient
from hypothesis import given
from hypothesis import strategies as st

from dlms_connector.cosem.security import (
    AUTHENTICATED,
    ENCRYPTED,
    CipherContext,
    Ciphering,
    Mechanism,
    Protector,
    SecurityParameters,
    StaleAnswer,
    hls_digest,
)
from dlms_connector.errors import DecodeError, SecurityError

# Green Book 9.2.7.2.4.2 and 9.2.7.4.3 (suite 0)
EK = bytes.fromhex("000102030405060708090A0B0C0D0E0F")
AK = bytes.fromhex("D0D1D2D3D4D5D6D7D8D9DADBDCDDDEDF")
SERVER_TITLE = bytes.fromhex("4D4D4D0000BC614E")
CLIENT_TITLE = bytes.fromhex("4D4D4D0000000001")
GET_CLOCK = bytes.fromhex("C0010000080000010000FF0200")
COUNTER = 0x01234567


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        (AUTHENTICATED, "1001234567C0010000080000010000FF020006725D910F9221D263877516"),
        (ENCRYPTED, "2001234567411312FF935A47566827C467BC"),
        (AUTHENTICATED | ENCRYPTED, "3001234567411312FF935A47566827C467BC7D825C3BE4A77C3FCC056B6B"),
    ],
)
def test_green_book_apdu_protection(control: int, expected: str) -> None:
    protector = Protector(EK, AK)
    body = protector.protect(control, SERVER_TITLE, COUNTER, GET_CLOCK)
    assert body.hex().upper() == expected
    assert protector.unprotect(SERVER_TITLE, body) == (GET_CLOCK, control, COUNTER)


def test_green_book_gmac_tokens() -> None:
    protector = Protector(EK, AK)
    to_client = protector.gmac(0x10, CLIENT_TITLE, 1, b"P6wRJ21F")
    to_server = protector.gmac(0x10, SERVER_TITLE, COUNTER, b"K56iVagY")
    assert to_client.hex().upper() == "1A52FE7DD3E72748973C1E28"
    assert to_server.hex().upper() == "FE1466AFB3DBCD4F9389E2B7"


def test_nist_gcm_test_case_4() -> None:
    """McGrew & Viega / NIST GCM test case 4; the AAD there stands for SC || AK here."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308")
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    cipher = bytes.fromhex(
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091"
    )
    # SC is the AAD's first byte 0xfe, whose low bits ask for authentication and encryption (0x30).
    body = Protector(key, aad[1:]).protect(aad[0], nonce[:8], int.from_bytes(nonce[8:], "big"), plain)
    assert body[5:-12] == cipher
    assert body[-12:] == bytes.fromhex("5bc94fbc3221a5db94fae95a")


@pytest.mark.parametrize("suite_key", [EK, EK * 2])
@pytest.mark.parametrize("policy", [AUTHENTICATED, ENCRYPTED, AUTHENTICATED | ENCRYPTED])
@given(plain=st.binary(min_size=1, max_size=300), counter=st.integers(0, 2**32 - 1))
def test_round_trip_and_every_flipped_bit_is_found(
    suite_key: bytes, policy: int, plain: bytes, counter: int
) -> None:
    protector = Protector(suite_key, AK)
    body = protector.protect(policy, CLIENT_TITLE, counter, plain)
    assert protector.unprotect(CLIENT_TITLE, body)[0] == plain
    if policy & AUTHENTICATED:
        broken = bytearray(body)
        broken[5 + counter % (len(body) - 5)] ^= 1 << counter % 8
        with pytest.raises(SecurityError):
            protector.unprotect(CLIENT_TITLE, bytes(broken))


def _parameters(policy: int = 0x30, ciphering: Ciphering = Ciphering.GENERAL_GLO) -> SecurityParameters:
    return SecurityParameters(0, policy, ciphering, CLIENT_TITLE, EK, AK, SERVER_TITLE)


def _server(policy: int = 0x30, ciphering: Ciphering = Ciphering.GENERAL_GLO) -> CipherContext:
    counters = iter(range(10, 1000))
    parameters = SecurityParameters(0, policy, ciphering, SERVER_TITLE, EK, AK, CLIENT_TITLE)
    return CipherContext(parameters, lambda: next(counters))


@pytest.mark.parametrize(
    ("policy", "gurux_security"),
    [
        (0x10, Security.AUTHENTICATION),
        (0x20, Security.ENCRYPTION),
        (0x30, Security.AUTHENTICATION_ENCRYPTION),
    ],
)
def test_gurux_reads_what_we_protect(policy: int, gurux_security: Security) -> None:
    """gurux_dlms deciphers our general-glo APDU, of more than 127 bytes too."""
    context = CipherContext(_parameters(policy), lambda: 7)
    apdu = b"\xc0\x03\xc1\x14" + b"\x00\x03\x01\x00\x01\x08\x00\xff\x02\x00" * 20
    protected = context.protect(apdu)
    client = GXDLMSSecureClient(True)
    client.ciphering.security = gurux_security
    from gurux_dlms.AesGcmParameter import AesGcmParameter
    from gurux_dlms.GXByteBuffer import GXByteBuffer

    parameter = AesGcmParameter(0xDB, CLIENT_TITLE, EK, AK)
    assert bytes(GXCiphering.decrypt(client.settings, parameter, GXByteBuffer(protected)) or b"") == apdu


def test_a_frame_is_looked_at_only_after_its_tag() -> None:
    """A forged frame with a huge counter must not move the counter that later frames are measured by."""
    client, server = CipherContext(_parameters(), lambda: 1), _server()
    good = server.protect(b"\xc4\x01\xc1\x00\x11\x05")
    forged = bytearray(good)
    forged[14:18] = b"\xff\xff\xff\xff"
    with pytest.raises(SecurityError):
        client.unprotect(bytes(forged))
    assert client.unprotect(good) == b"\xc4\x01\xc1\x00\x11\x05"
    with pytest.raises(StaleAnswer):
        client.unprotect(good)


def test_plain_answer_in_a_ciphered_association_is_refused() -> None:
    with pytest.raises(SecurityError, match="plain"):
        CipherContext(_parameters(), lambda: 1).unprotect(b"\xc4\x01\xc1\x00\x11\x05")


def test_weaker_answer_is_refused() -> None:
    client = CipherContext(_parameters(0x30), lambda: 1)
    with pytest.raises(SecurityError, match="tag"):
        client.unprotect(_server(ENCRYPTED).protect(b"\xc4\x01\xc1\x00\x11\x05"))


def test_stronger_answer_is_read_by_its_own_control_byte() -> None:
    client = CipherContext(_parameters(AUTHENTICATED), lambda: 1)
    assert client.unprotect(_server(0x30).protect(b"\xc4\x01\xc1\x00\x11\x05")) == b"\xc4\x01\xc1\x00\x11\x05"


@given(st.binary(max_size=64))
def test_rubbish_never_gets_through(data: bytes) -> None:
    client = CipherContext(_parameters(), lambda: 1)
    with pytest.raises((SecurityError, DecodeError)):
        client.unprotect(b"\xdb" + data)


def test_keys_do_not_show() -> None:
    text = repr(_parameters())
    assert EK.hex() not in text.lower()
    assert repr(EK)[2:-1] not in text
    assert repr(AK)[2:-1] not in text


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        (Mechanism.HLS_MD5, "md5"),
        (Mechanism.HLS_SHA1, "sha1"),
    ],
)
def test_digests_are_challenge_then_secret(mechanism: Mechanism, expected: str) -> None:
    import hashlib

    assert (
        hls_digest(mechanism, b"secret", b"challenge") == hashlib.new(expected, b"challengesecret").digest()
    )


@pytest.mark.parametrize(
    "mechanism", [Mechanism.HLS_SECRET, Mechanism.HLS_MD5, Mechanism.HLS_SHA1, Mechanism.HLS_SHA256]
)
def test_digests_agree_with_gurux(mechanism: Mechanism) -> None:
    from gurux_dlms.enums import Authentication
    from gurux_dlms.GXSecure import GXSecure

    client = GXDLMSSecureClient(True)
    client.ciphering.systemTitle = CLIENT_TITLE
    client.settings.authentication = Authentication(mechanism.value)
    client.settings.sourceSystemTitle = SERVER_TITLE
    challenge, other, secret = b"0123456789abcdef", b"fedcba9876543210", b"1234567890123456"
    client.settings.ctoSChallenge = other
    client.settings.stoCChallenge = challenge
    their_secret = secret
    if mechanism is Mechanism.HLS_SHA256:
        their_secret = secret + CLIENT_TITLE + SERVER_TITLE + challenge + other
    theirs = bytes(GXSecure.secure(client.settings, client.ciphering, 0, challenge, their_secret))
    ours = hls_digest(mechanism, secret, challenge, other, CLIENT_TITLE + SERVER_TITLE)
    assert ours == theirs
