"""One publisher's client of one AWS service: botocore in the threads that all types share, under our deadlines.

The credentials are the tenant's, always, and nothing of this process's own is read; only a queue of the operator's
may be opened over a session that does (`sessions`). Nor does the SDK try again by itself. A call that is cut off
takes its connection with it; the client has no other state, so its other calls go on.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import urllib.parse
from collections.abc import Callable
from typing import Any

import msgspec

from outpost import collecting
from outpost.adapters import codes
from outpost.adapters.aws import errors as aws_errors
from outpost.adapters.aws import sessions
from outpost.adapters.egress import addresses
from outpost.adapters.shared import long_lived_client, tracebacks
from outpost.adapters.shared import resources as shared_
from outpost.adapters.shared import turns as turns_
from outpost.domain import delivery

# A client takes 4 to 10 ms of CPU and up to 190 KB with one connection, since botocore makes a class and copies
# its table of events for each. A thousand are the 200 MB that one type may have in a process.
MAX_OPEN = 1_000
CLIENT_BYTES = 262_144  # of a client that is closed: botocore's are cycles
MOST_KEPT = 32  # idle connections of one publisher; more than that at once are closed after use
DEFAULT_REGION = "us-east-1"  # where the endpoint is not Amazon's own and says nothing of a region


class Place(msgspec.Struct, frozen=True):
    """Which service, and as whom. `service` is botocore's name; `endpoint` is a URL, "" for Amazon's own; `tenant`
    is whose destination it is."""

    service: str
    region: str
    endpoint: str
    key: str
    secret: str
    session: str = ""
    tenant: str = ""

    def __repr__(self) -> str:
        return f"Place({self.service!r}, {self.region!r})"

    @property
    def host(self) -> str:
        """Of the endpoint; "" where it is Amazon's own."""
        return urllib.parse.urlsplit(self.endpoint).hostname or ""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be in no text that we hand on."""
        return self.secret, self.session, self.key


class Refusal(msgspec.Struct, frozen=True):
    """No success. `request`: the service finds fault with what was asked, so that it may take a part of it.
    `name`: what the service calls it, where it answered."""

    outcome: delivery.Failed
    request: bool = False
    name: str = ""


class Own(msgspec.Struct, frozen=True):
    """What a client has in the place of what all destinations of a process share; as `resources.Shared`."""

    addresses: addresses.Addresses
    threads: concurrent.futures.ThreadPoolExecutor
    timeout_s: float
    ca_file: str = ""
    aws_builds: turns_.Turns = msgspec.field(default_factory=turns_.Turns)


class Client:
    """Built at first use. `session` is another one than that of destinations; where it has a chain, the chain's
    credentials are used and none of `place`. An answer may have `max_answer_bytes`, aws_sockets.MAX_ANSWER_BYTES
    where it is None; `config` is further `botocore.config.Config` of the type."""

    def __init__(
        self,
        shared: shared_.Shared | Own,
        place: Place,
        *,
        session: sessions.Session | None = None,
        max_answer_bytes: int | None = None,
        **config: Any,
    ) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._threads = shared.threads
        self._turns = shared.aws_builds
        self._ca_file = shared.ca_file
        self._addresses = shared.addresses.for_tenant(place.tenant)
        self._place = place
        self._session = session
        self._config = config
        self._timeout_s = shared.timeout_s
        self._held = long_lived_client.LongLivedClient(self._open, self._shut, self._timeout_s)
        self._calls: set[Any] = set()

    async def call(self, operation: str, parameters: dict[str, Any], deadline: float) -> dict[str, Any] | Refusal:
        """What the service answers to `operation` (the name of botocore's method), or why there is no success.
        Ends at `deadline`, and at once when it is cancelled; raises nothing but CancelledError."""
        try:
            async with asyncio.timeout_at(deadline):
                client = await self._held.get()
                return await self._in_thread(client, operation, parameters, deadline)
        except TimeoutError:
            return Refusal(codes.failed(codes.Code.TIMEOUT))
        except ConnectionError:  # closed
            return Refusal(codes.failed(codes.Code.NETWORK_ERROR))
        except Exception as exc:  # noqa: BLE001 -- botocore's own, on what it was to be built from
            code, _ = _broken(exc)
            return Refusal(codes.failed(code, str(exc), self._place.secrets))

    async def close(self) -> None:
        """Cuts off what is under way."""
        for call in list(self._calls):
            call.cut()
        await self._held.close()

    async def _in_thread(
        self, client: Any, operation: str, parameters: dict[str, Any], deadline: float
    ) -> dict[str, Any] | Refusal:
        from outpost.adapters.aws import sockets as aws_sockets

        loop = asyncio.get_running_loop()
        max_bytes = self._max_answer_bytes or aws_sockets.MAX_ANSWER_BYTES
        call = aws_sockets.Call(self._addresses, loop, deadline, max_bytes)
        self._calls.add(call)
        try:
            ask = functools.partial(
                _ask, call, self._secrets, self._place.host, getattr(client, operation), parameters
            )
            return await loop.run_in_executor(self._threads, ask)
        finally:
            self._calls.discard(call)
            call.cut()

    async def _open(self) -> Any:
        loop, turns = asyncio.get_running_loop(), self._turns
        await turns.wait(self._place.tenant)
        try:
            building = self._threads.submit(
                _build, self._place, self._timeout_s, self._ca_file, self._session, self._config
            )
        except BaseException:  # the process ends
            turns.passed()
            raise
        # The thread goes on when this is cancelled, and its turn lasts until it has ended.
        building.add_done_callback(functools.partial(_pass_on, loop, turns))
        return await asyncio.wrap_future(building)

    def _secrets(self) -> tuple[str, ...]:
        return self._place.secrets if self._session is None else self._session.secrets()

    async def _shut(self, client: Any) -> None:
        client.close()
        collecting.count(CLIENT_BYTES)


def _pass_on(loop: asyncio.AbstractEventLoop, turns: turns_.Turns, _: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(turns.passed)


def _ask(
    call: Any, secrets: Callable[[], tuple[str, ...]], host: str, method: Any, parameters: dict[str, Any]
) -> dict[str, Any] | Refusal:
    """In a thread. Raises nothing that is ours or botocore's."""
    from botocore import exceptions

    from outpost.adapters.aws import sockets as aws_sockets

    try:
        with aws_sockets.calling(call):
            answered: dict[str, Any] = method(**parameters)
            return answered
    except exceptions.ClientError as exc:
        tracebacks.clear(exc)
        return _refused(exc, secrets())
    except Exception as exc:  # noqa: BLE001 -- whatever it is, there was no answer
        code, text = _broken(exc) if call.failure is None else aws_errors.unconnected(call.failure)
        tracebacks.clear(exc)
        final = code is codes.Code.BLOCKED_ADDRESS and call.refuses(host)
        return Refusal(codes.failed(code, text, secrets() if text else (), final=final))
    finally:
        call.failure = None  # its traceback has this frame


def _refused(exc: Any, secrets: tuple[str, ...]) -> Refusal:
    error = exc.response.get("Error", {})
    name = str(error.get("Code", ""))
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = aws_errors.code_of(name, status, str(error.get("Message", "")))
    request = 400 <= status < 500 and code in (codes.Code.ERR, codes.Code.MESSAGE_TOO_LARGE)
    return Refusal(codes.failed(code, str(exc), secrets), request, name)


def _broken(exc: Exception) -> tuple[codes.Code, str]:
    """A connection that was there, or a request that botocore does not make."""
    from botocore import exceptions

    match exc:
        case exceptions.ReadTimeoutError() | exceptions.ConnectTimeoutError():
            return codes.Code.TIMEOUT, ""
        case exceptions.ConnectionClosedError():
            return codes.Code.CONNECTION_RESET, ""
        case exceptions.HTTPClientError():
            return codes.Code.NETWORK_ERROR, ""
        case exceptions.ParamValidationError():
            return codes.Code.ERR, str(exc)
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.ProfileNotFound():
            return codes.Code.INVALID_CREDENTIALS, str(exc)
        case exceptions.CredentialRetrievalError() | exceptions.TokenRetrievalError():
            return codes.Code.NETWORK_ERROR, "the credentials of this process could not be renewed"
        case _:
            return codes.Code.ERR, type(exc).__name__


_described: set[str] = set()  # services whose description botocore has loaded; it keeps that for good


def _build(
    place: Place, timeout_s: float, ca_file: str, given: sessions.Session | None, config: dict[str, Any]
) -> Any:
    """A client, in a thread: the library takes 50 ms to import, and a session 5 ms to make."""
    from botocore import config as configs

    from outpost.adapters.aws import sockets as aws_sockets

    session = given or sessions.of_destinations()
    with session.building:
        client = session.made.create_client(
            place.service,
            region_name=place.region,
            endpoint_url=place.endpoint or None,
            aws_access_key_id=None if session.chain else place.key,
            aws_secret_access_key=None if session.chain else place.secret,
            aws_session_token=place.session or None,
            verify=True,
            config=configs.Config(
                retries={"total_max_attempts": 1, "mode": "standard"},
                proxies={},
                ignore_configured_endpoint_urls=True,
                user_agent="outpost",  # botocore's own names the environment that it runs in
                **config,
            ),
        )
    client._endpoint.http_session.close()  # noqa: SLF001 -- botocore has no other way to be given a session
    answers = aws_sockets.Session(timeout_s, MOST_KEPT, ca_file, has_xml=_has_xml(client))
    client._endpoint.http_session = answers  # noqa: SLF001
    if place.service not in _described:
        _described.add(place.service)
        collecting.leave_out_what_is_loaded()
    return client


def _has_xml(client: Any) -> bool:
    """Whether its answers are parsed as XML. Those in JSON may hold one as text."""
    protocol: str = client.meta.service_model.resolved_protocol
    return protocol != "json"
