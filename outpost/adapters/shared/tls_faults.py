"""Why TLS failed, in a sentence that its reader can act on.

Browsers forgive what we do not, so a receiver that works in one may fail here; the sentence says what is to be
mended, and holds nothing of this machine.
"""

from __future__ import annotations

import re
import ssl

_BY_VERIFY_CODE = {  # https://docs.openssl.org/3.0/man3/X509_STORE_CTX_get_error/
    9: "The server's certificate is not valid yet",
    10: "The server's certificate has expired",
    18: "The server's certificate is self-signed, and nobody here trusts it (DESTINATIONS_CA_FILE)",
    19: "The authority of the server's certificate is not trusted here (DESTINATIONS_CA_FILE)",
    20: "The issuer of the server's certificate is not known: the server does not send the intermediate"
    " certificate, or its authority is not trusted here (DESTINATIONS_CA_FILE)",
    23: "The server's certificate is revoked",
    26: "The server's certificate is not meant for servers",
    62: "The server's certificate is for another name",
    64: "The server's certificate is for another address",
    66: "The key of the server's certificate is too weak",
}
_BY_VERIFY_CODE[2] = _BY_VERIFY_CODE[21] = _BY_VERIFY_CODE[20]
_BY_VERIFY_CODE[67] = _BY_VERIFY_CODE[68] = _BY_VERIFY_CODE[66]
_NO_TLS = "The server does not speak TLS at this port"
_OLD = "The server only speaks versions of TLS that are older than 1.2"
_WEAK = "The server's keys are too weak"
_CERTIFICATE_WANTED = "The server wants a certificate of ours, and there is none"
_NO_RENEGOTIATION = "The server does not know secure renegotiation (RFC 5746); it is too old"
_NOTHING_IN_COMMON = "The server and we have no cipher in common, or it wants a certificate of ours"
_BY_REASON = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "HTTP_REQUEST": _NO_TLS,
    "PACKET_LENGTH_TOO_LONG": _NO_TLS,
    "RECORD_LAYER_FAILURE": _NO_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD,
    "WRONG_SSL_VERSION": _OLD,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD,
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": _NO_RENEGOTIATION,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": _NOTHING_IN_COMMON,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _CERTIFICATE_WANTED,
    "SSLV3_ALERT_BAD_CERTIFICATE": _CERTIFICATE_WANTED,
    "TLSV1_ALERT_UNKNOWN_CA": _CERTIFICATE_WANTED,
    "TLSV1_UNRECOGNIZED_NAME": "The server does not know this name",
    "TLSV1_ALERT_UNRECOGNIZED_NAME": "The server does not know this name",
    "DH_KEY_TOO_SMALL": _WEAK,
    "EE_KEY_TOO_SMALL": _WEAK,
    "CA_MD_TOO_WEAK": _WEAK,
    "UNEXPECTED_EOF_WHILE_READING": "The server ended the connection while TLS was being set up",
}
_LIBRARY = re.compile(r"^\[[^\]]{0,100}\] ?| ?\(_ssl\.c:[0-9]{1,6}\)")


def reason(exc: ssl.SSLError) -> str:
    """What was in the way. An error that a library made itself has but a text."""
    verify_code, word = getattr(exc, "verify_code", None), getattr(exc, "reason", None)
    if isinstance(exc, ssl.SSLCertVerificationError) and verify_code is not None:
        known = _BY_VERIFY_CODE.get(verify_code)
        return known or f"The server's certificate is not taken: {exc.verify_message}"
    if word:
        return _BY_REASON.get(word) or f"TLS failed: {word.replace('_', ' ').lower()}"
    if isinstance(exc, ssl.SSLEOFError):
        return _BY_REASON["UNEXPECTED_EOF_WHILE_READING"]
    return _LIBRARY.sub("", exc.strerror or str(exc))
