"""From an error of the operating system or of TLS to the published word for it."""

from __future__ import annotations

import errno
import ssl
from typing import Final

from outpost.adapters.http import client
from outpost.adapters.shared import tls_faults

UNREADABLE: Final = "The receiver's answer could not be read"
BLOCKED: Final = client.Unanswered("blocked_address", final=True)  # the URL has the address itself
BLOCKED_NAME: Final = client.Unanswered("blocked_address")  # a resolver said so, and may say otherwise later
TIMEOUT: Final = client.Unanswered("timeout")
UNRESOLVED: Final = client.Unanswered("dns_error")
EARLY: Final = client.Unanswered("early_answer", "The answer came before the whole request was sent")
NOT_READ: Final = client.Unanswered("network_error", UNREADABLE)
CLOSED: Final = client.Unanswered("network_error")  # by ourselves

_BY_ERRNO: dict[int, client.Code] = {
    errno.ECONNREFUSED: "connection_refused",
    errno.ECONNRESET: "connection_reset",
    errno.EPIPE: "connection_reset",
    errno.ECONNABORTED: "connection_reset",
    errno.ENETUNREACH: "network_unreachable",
    errno.EHOSTUNREACH: "network_unreachable",
    errno.ENETDOWN: "network_unreachable",
    errno.EHOSTDOWN: "network_unreachable",
    errno.ETIMEDOUT: "timeout",
}


def unanswered(exc: BaseException | None) -> client.Unanswered:
    """What `exc` means: the word, and for TLS the reason."""
    return client.Unanswered(code_of(exc), tls_faults.reason(exc) if isinstance(exc, ssl.SSLError) else "")


def unreadable(reason: str = "") -> client.Unanswered:
    """What came is no answer in HTTP, for `reason`."""
    return client.Unanswered("network_error", f"{UNREADABLE}: {reason}" if reason else UNREADABLE)


def code_of(exc: BaseException | None) -> client.Code:
    """The word for `exc`; None is a connection that the peer closed."""
    match exc:
        case None:
            return "connection_reset"
        case ssl.SSLError():
            return "tls_error"
        case OSError(errno=None):  # the event loop's own
            return "connection_reset" if isinstance(exc, ConnectionResetError) else "network_error"
        case OSError():
            return _BY_ERRNO.get(exc.errno or 0, "network_error")
        case _:
            return "network_error"
