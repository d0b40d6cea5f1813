"""What AWS says, or what kept it from saying anything, has one code."""

from __future__ import annotations

import errno
import ssl

import pytest

from outpost.adapters.aws import errors as aws_errors
from outpost.adapters.codes import Code
from outpost.adapters.egress import addresses


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UnrecognizedClientException", Code.INVALID_CREDENTIALS),
        ("SignatureDoesNotMatch", Code.INVALID_CREDENTIALS),
        ("ExpiredTokenException", Code.INVALID_CREDENTIALS),
        ("AccessDenied", Code.ACCESS_DENIED),
        ("KMS.AccessDeniedException", Code.ACCESS_DENIED),
        ("KMSAccessDeniedException", Code.ACCESS_DENIED),
        ("KmsOptInRequired", Code.ACCESS_DENIED),
        ("KMSOptInRequired", Code.ACCESS_DENIED),
        ("KmsThrottled", Code.THROTTLED),
        ("KMS.ThrottlingException", Code.THROTTLED),
        ("KMSThrottlingException", Code.THROTTLED),
        ("KmsDisabled", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMS.DisabledException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMSDisabledException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMS.KMSInvalidStateException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMSInvalidStateException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KmsInvalidKeyUsage", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMS.NotFoundException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMSNotFoundException", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KmsNotFound", Code.ENCRYPTION_KEY_UNUSABLE),
        ("KMSInternalException", Code.ERR),
        ("Kms", Code.ERR),
        ("InvalidMessageContents", Code.MESSAGE_REFUSED),
        ("MalformedDetail", Code.MESSAGE_REFUSED),
        ("KeyTooLongError", Code.MESSAGE_REFUSED),
        ("AWS.SimpleQueueService.NonExistentQueue", Code.TARGET_NOT_FOUND),
        ("NoSuchBucket", Code.TARGET_NOT_FOUND),
        ("ProvisionedThroughputExceededException", Code.THROTTLED),
        ("SlowDown", Code.THROTTLED),
        ("AWS.SimpleQueueService.BatchRequestTooLong", Code.MESSAGE_TOO_LARGE),
        ("InternalFailure", Code.ERR),
    ],
)
def test_every_service_has_its_own_names_for_the_same_refusals(name: str, code: Code):
    assert code is aws_errors.code_of(name, 400)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.INVALID_CREDENTIALS),
        (403, Code.ACCESS_DENIED),
        (404, Code.TARGET_NOT_FOUND),
        (413, Code.MESSAGE_TOO_LARGE),
        (429, Code.THROTTLED),
        (500, Code.ERR),
    ],
)
def test_a_name_that_nobody_knows_leaves_the_status(status: int, code: Code):
    assert code is aws_errors.code_of(str(status), status)


def test_the_name_says_more_than_the_status():
    assert Code.INVALID_CREDENTIALS is aws_errors.code_of("InvalidClientTokenId", 403)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "InvalidParameterValue",
            "One or more parameters are invalid. Reason: Message must be shorter than 1024 bytes.",
        ),
        ("ValidationException", "Total size of the entries in the request is over the limit."),
    ],
)
def test_what_is_too_large_some_services_say_in_their_text_alone(name: str, text: str):
    assert Code.MESSAGE_TOO_LARGE is aws_errors.code_of(name, 400, text)
    assert Code.ERR is aws_errors.code_of(name, 400, "another parameter is wrong")


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (addresses.Blocked(), Code.BLOCKED_ADDRESS),
        (addresses.Unknown(), Code.DNS_ERROR),
        (TimeoutError(), Code.TIMEOUT),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Code.CONNECTION_REFUSED),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Code.CONNECTION_RESET),
        (OSError(errno.ENETUNREACH, "unreachable"), Code.NETWORK_UNREACHABLE),
        (ssl.SSLError(1, "certificate verify failed"), Code.TLS_ERROR),
    ],
)
def test_what_kept_us_from_connecting_is_told_by_the_published_words(failure: OSError, code: Code):
    assert code is aws_errors.unconnected(failure)[0]
