"""The azure_servicebus type: what may be saved, what it is shown as, and what its library's errors are called."""

from __future__ import annotations

import importlib.util
import ssl
import subprocess
import sys

import pytest

from outpost import errors
from outpost import settings as settings_
from outpost.adapters import base
from outpost.adapters.azure import connection_string as servicebus_string
from outpost.adapters.azure import link as servicebus_link
from outpost.adapters.azure import type as azure_servicebus
from outpost.adapters.codes import Code
from outpost.adapters.egress import addresses
from outpost.adapters.shared import resources as shared_

KEY = "c2VjcmV0LWtleS1vZi10aGUtdGVzdHM="
HOST = "Endpoint=sb://orders.servicebus.windows.net/"
NAMED = f"SharedAccessKeyName=outpost;SharedAccessKey={KEY}"
SIGNATURE = "SharedAccessSignature sr=sb%3A%2F%2Forders&sig=c2lnbmVk%3D&se=1900000000&skn=outpost"
GOOD = f"{HOST};{NAMED}"
TYPE = azure_servicebus.build(shared_.Shared(settings_.Settings()))
PATH = "credentials.connection_string"
needs_library = pytest.mark.skipif(not importlib.util.find_spec("azure.servicebus"), reason="needs outpost[azure]")


def prepare(text: str | None = GOOD, name: str | None = "orders") -> base.Prepared:
    config = {} if name is None else {"name": name}
    credentials = {} if text is None else {"connection_string": text}
    return TYPE.prepare(base.Save(config, credentials, None, credentials, True, 0))


def problems(text: str | None = GOOD, name: str | None = "orders") -> list[tuple[str, str]]:
    return [(problem.path, problem.rule) for problem in prepare(text, name).problems]


def opened(text: str, name: str = "orders") -> base.OpenDestination:
    return base.OpenDestination("t", "d", "azure_servicebus", {"name": name}, {"connection_string": text}, {})


@pytest.mark.behaviour(130, 136)
def test_every_missing_field_is_named_at_once() -> None:
    assert [("config.name", "required"), (PATH, "required")] == problems(None, None)


@pytest.mark.behaviour(136)
@pytest.mark.parametrize("name", ["a", "A9", "orders.eu-west_1", "a--b"])
def test_a_name_of_letters_digits_and_inner_marks_is_taken(name: str) -> None:
    assert [] == problems(name=name)


@pytest.mark.behaviour(130, 136)
@pytest.mark.parametrize("name", ["-a", "a-", ".a", "a_", "a/b", "a b", "ä", "a\nb"])
def test_any_other_name_breaks_the_published_pattern(name: str) -> None:
    assert [("config.name", "pattern")] == problems(name=name)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"{GOOD};",
        f"  {GOOD}\n",
        f"{GOOD};EntityPath=orders",
        f"{HOST};SharedAccessSignature={SIGNATURE}",
        f"endpoint=SB://orders.servicebus.windows.net;sharedaccesskeyname=a;sharedaccesskey={KEY}",
        f"Endpoint=sb://orders.servicebus.windows.net:443/;{NAMED}",
        f"Endpoint=sb://localhost:5672;{NAMED};UseDevelopmentEmulator=true",
        f"Endpoint=sb://[::1]:5672/;{NAMED};UseDevelopmentEmulator=true",
    ],
)
def test_what_the_portal_gives_out_is_taken_without_the_space_around_it(text: str) -> None:
    prepared = prepare(text)
    assert [] == prepared.problems
    assert {"connection_string": text.strip()} == prepared.credentials


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (KEY.rstrip("="), "format"),
        (f"{HOST};{KEY.rstrip('=')}", "format"),
        (f"{GOOD};=x", "format"),
        (NAMED, "endpoint"),
        (f"Endpoint=https://orders.servicebus.windows.net/;{NAMED}", "endpoint"),
        (f"Endpoint=sb:///;{NAMED}", "endpoint"),
        (f"Endpoint=sb://a b/;{NAMED}", "endpoint"),
        (f"Endpoint=sb://user@host/;{NAMED}", "endpoint"),
        (f"Endpoint=sb://host:0/;{NAMED}", "endpoint"),
        (f"Endpoint=sb://host:99999/;{NAMED}", "endpoint"),
        (f"Endpoint=sb://[::1/;{NAMED}", "endpoint"),
        (f"Endpoint=sb://host/path;{NAMED}", "endpoint"),
        (HOST, "key"),
        (f"{HOST};SharedAccessKeyName=outpost", "key"),
        (f"{HOST};SharedAccessKey={KEY}", "key"),
        (f"{GOOD};SharedAccessSignature={SIGNATURE}", "key"),
        (f"{HOST};SharedAccessSignature={SIGNATURE.replace('se=1900000000', 'se=soon')}", "signature"),
        (f"{HOST};SharedAccessSignature={SIGNATURE.replace('&skn=outpost', '')}", "signature"),
        (f"{HOST};SharedAccessSignature={KEY}", "signature"),
        (f"{GOOD};EntityPath=invoices", "entity_path"),
    ],
)
def test_a_string_that_cannot_work_is_refused_by_the_name_of_its_rule(text: str, rule: str) -> None:
    prepared = prepare(text)
    assert [(PATH, rule)] == [(problem.path, problem.rule) for problem in prepared.problems]
    [sentence] = [problem.sentence() for problem in prepared.problems]
    assert f"{PATH} {servicebus_string.RULES[rule]}" == sentence
    assert KEY not in sentence + repr(prepared)


@pytest.mark.parametrize(
    ("endpoint", "more", "expected"),
    [
        ("sb://host/", "", ("host", 5671, True)),
        ("sb://host:443/", "", ("host", 5671, True)),
        ("sb://host:5673", "", ("host", 5673, True)),
        ("sb://host", "UseDevelopmentEmulator=true", ("host", 5672, False)),
        ("sb://[::1]:7000/", "UseDevelopmentEmulator=true", ("::1", 7000, False)),
    ],
)
def test_where_a_string_leads(endpoint: str, more: str, expected: tuple[str, int, bool]) -> None:
    parsed = servicebus_string.parse(f"Endpoint={endpoint};{NAMED};{more}")
    assert isinstance(parsed, servicebus_string.Namespace)
    assert expected == (parsed.host, parsed.port, parsed.tls)
    assert KEY not in repr(parsed)


@pytest.mark.behaviour(136)
@pytest.mark.parametrize(
    ("text", "target"),
    [
        (GOOD, "orders/events"),
        (f"Endpoint=sb://127.0.0.1:5672/;{NAMED}", "127.0.0.1/events"),
        (f"Endpoint=sb://[::1]/;{NAMED}", "::1/events"),
        (f"Endpoint=sb://localhost/;{NAMED}", "localhost/events"),
        ("anything", "events"),
    ],
)
def test_the_target_is_the_namespace_and_the_name_or_the_name(text: str, target: str) -> None:
    assert (target, None) == TYPE.target(opened(text, "events"))


def test_the_connection_string_is_masked() -> None:
    shown = TYPE.shown_credentials({"connection_string": GOOD}, 0)["connection_string"]
    assert "Endp" + "*" * (len(GOOD) - 4) == shown


async def test_a_stored_string_that_cannot_be_read_is_told_and_not_sent_with() -> None:
    with pytest.raises(errors.Invalid):
        await TYPE.connect(opened("anything"))


def test_the_library_is_not_imported_before_it_is_used() -> None:
    code = "import sys, outpost.adapters.azure.type; sys.exit('azure.servicebus' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (TimeoutError(), Code.TIMEOUT),
        (addresses.Blocked(), Code.BLOCKED_ADDRESS),
        (addresses.Unknown(), Code.DNS_ERROR),
        (ConnectionRefusedError(111, "refused"), Code.CONNECTION_REFUSED),
        (ConnectionResetError(), Code.CONNECTION_RESET),
        (OSError("Server unexpectedly closed connection"), Code.CONNECTION_RESET),
        (OSError(101, "unreachable"), Code.NETWORK_UNREACHABLE),
        (ssl.SSLCertVerificationError(1, "wrong name"), Code.TLS_ERROR),
    ],
)
def test_what_the_network_does_has_a_code(raised: Exception, code: Code) -> None:
    assert code == servicebus_link.told_by(raised)[0]


@needs_library
@pytest.mark.parametrize(
    ("condition", "code"),
    [
        (b"amqp:unauthorized-access", Code.ACCESS_DENIED),
        (b"amqp:not-found", Code.TARGET_NOT_FOUND),
        (b"com.microsoft:server-busy", Code.THROTTLED),
        (b"amqp:resource-limit-exceeded", Code.THROTTLED),
        (b"amqp:link:message-size-exceeded", Code.MESSAGE_TOO_LARGE),
        (b"com.microsoft:timeout", Code.TIMEOUT),
        (b"amqp:connection:forced", Code.CONNECTION_RESET),
        (b"com.microsoft:entity-disabled", Code.ERR),
    ],
)
def test_what_the_service_says_has_a_code_wherever_the_library_puts_it(condition: bytes, code: Code) -> None:
    from azure.servicebus._pyamqp.error import AMQPLinkError, ErrorCondition
    from azure.servicebus.exceptions import ServiceBusError

    bare = AMQPLinkError(condition, description="Told.")
    assert (code, True) == (servicebus_link.told_by(bare)[0], "Told." in servicebus_link.told_by(bare)[1])
    assert code == servicebus_link.told_by(ServiceBusError("text", error=bare))[0]
    if condition in list(ErrorCondition):
        assert code == servicebus_link.told_by(AMQPLinkError(ErrorCondition(condition)))[0]


@needs_library
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.INVALID_CREDENTIALS),
        (403, Code.ACCESS_DENIED),
        (404, Code.TARGET_NOT_FOUND),
        (0, "invalid_credentials"),
    ],
)
def test_a_refused_token_has_a_code_and_the_words_of_the_service(status: int, code: str) -> None:
    from azure.servicebus._pyamqp.error import TokenAuthFailure
    from azure.servicebus.exceptions import ServiceBusConnectionError

    found, text = servicebus_link.told_by(
        ServiceBusConnectionError(error=TokenAuthFailure(status, b"InvalidSignature"))
    )
    assert code == found
    assert "InvalidSignature" in text


@needs_library
def test_a_signature_that_has_ended_meanwhile_is_an_invalid_credential() -> None:
    from azure.servicebus._pyamqp.error import ErrorCondition, TokenExpired

    expired = TokenExpired(ErrorCondition.InternalError, description="CBS Authentication Expired.")
    assert Code.INVALID_CREDENTIALS == servicebus_link.told_by(expired)[0]


@needs_library
def test_what_the_library_does_not_explain_is_told_in_its_words() -> None:
    assert (Code.ERR, "SASL negotiation failed.") == servicebus_link.told_by(
        ValueError("SASL negotiation failed.")
    )


@needs_library
def test_an_error_of_the_socket_is_told_and_not_what_the_library_makes_of_it() -> None:
    from azure.servicebus._pyamqp.error import AMQPConnectionError, ErrorCondition
    from azure.servicebus.exceptions import ServiceBusConnectionError

    cause = ConnectionRefusedError(111, "refused")
    wrapped = AMQPConnectionError(ErrorCondition.SocketError, description="..", error=cause)
    assert Code.CONNECTION_REFUSED == servicebus_link.told_by(ServiceBusConnectionError(error=wrapped))[0]
