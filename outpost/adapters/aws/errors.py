"""From what AWS answers, or what kept it from answering, to the code of the attempt: one table for all services.

The same refusal has other names in other services and protocols; the names here are those of the common errors and
of the services that we send to (https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html and the list of
errors of each call in its API reference). Does not import botocore.
"""

from __future__ import annotations

import re
import ssl

from outpost.adapters.codes import Code
from outpost.adapters.egress import addresses
from outpost.adapters.http import failures
from outpost.adapters.shared import answers, tls_faults

_NAMES: dict[Code, tuple[str, ...]] = {
    Code.INVALID_CREDENTIALS: (
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotSignedUp",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    ),
    Code.ACCESS_DENIED: (
        "AccessDenied",
        "AccessDeniedException",
        "AccountProblem",
        "AllAccessDisabled",
        "NotAuthorized",
        "NotAuthorizedForDetailTypeException",
        "NotAuthorizedForSourceException",
        "OptInRequired",
        "UnauthorizedAccess",
    ),
    Code.TARGET_NOT_FOUND: (
        "AWS.SimpleQueueService.NonExistentQueue",
        "InvalidAddress",
        "NoSuchBucket",
        "QueueDoesNotExist",
        "ResourceNotFoundException",
    ),
    Code.THROTTLED: (
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    ),
    Code.MESSAGE_TOO_LARGE: (
        "AWS.SimpleQueueService.BatchRequestTooLong",
        "BatchRequestTooLong",
        "EntityTooLarge",
        "MetadataTooLarge",
        "RequestEntityTooLarge",
    ),
    Code.MESSAGE_REFUSED: (
        "AWS.SimpleQueueService.InvalidMessageContents",
        "InvalidMessageContents",
        "KeyTooLongError",
        "MalformedDetail",
    ),
}
# The key by which a queue, a stream, a bucket or a bus is encrypted: each service has its own spelling of the same
# words, such as KMS.DisabledException, KMSDisabledException and KmsDisabled.
_KMS = re.compile(r"KMS\.?(?:KMS)?([A-Za-z]+?)(?:Exception)?", re.IGNORECASE)
_OF_KMS = {
    "accessdenied": Code.ACCESS_DENIED,
    "optinrequired": Code.ACCESS_DENIED,
    "throttled": Code.THROTTLED,
    "throttling": Code.THROTTLED,
    "disabled": Code.ENCRYPTION_KEY_UNUSABLE,
    "invalidkeyusage": Code.ENCRYPTION_KEY_UNUSABLE,
    "invalidstate": Code.ENCRYPTION_KEY_UNUSABLE,
    "keyunavailable": Code.ENCRYPTION_KEY_UNUSABLE,
    "notfound": Code.ENCRYPTION_KEY_UNUSABLE,
}
_BY_NAME = {name: code for code, names in _NAMES.items() for name in names}
# A service behind a proxy, or one that only resembles AWS, may say no more than this.
_BY_STATUS = {
    401: Code.INVALID_CREDENTIALS,
    403: Code.ACCESS_DENIED,
    404: Code.TARGET_NOT_FOUND,
    413: Code.MESSAGE_TOO_LARGE,
    429: Code.THROTTLED,
}


# Some have no name for this, and say it in their text: SQS of a queue that takes less than it might, EventBridge.
_TOO_LARGE = re.compile(r"must be shorter than \d+ bytes|entries in the request is over the limit", re.IGNORECASE)


def code_of(name: str, status: int = 0, text: str = "") -> Code:
    """The code for the error that the service calls `name`, in an answer of that status and text."""
    if code := _BY_NAME.get(name):
        return code
    kms = _KMS.fullmatch(name)
    if kms is not None and (code := _OF_KMS.get(kms[1].lower())):
        return code
    if _TOO_LARGE.search(text):
        return Code.MESSAGE_TOO_LARGE
    return _BY_STATUS.get(status, Code.ERR)


def unconnected(failure: OSError) -> tuple[Code, str]:
    """The code where there was no connection or it was given up, and what is worth telling of it."""
    match failure:
        case addresses.Blocked():
            return Code.BLOCKED_ADDRESS, ""
        case addresses.Unknown():
            return Code.DNS_ERROR, ""
        case answers.AnswerTooLarge():
            return Code.ANSWER_TOO_LARGE, str(failure)
        case TimeoutError():
            return Code.TIMEOUT, ""
        case ssl.SSLError():
            return Code.TLS_ERROR, tls_faults.reason(failure)
        case _:
            return Code(failures.code_of(failure)), ""
