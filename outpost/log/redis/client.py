"""The way to Redis: scripts and commands, and the border where foreign errors become ours.

There are two doors. Scripts and plain commands are pipelined: many callers share a connection. Reads that may
block have a connection each. Scripts with much to send, and plain commands, have pipelined connections of their
own, so that small calls of scripts never wait behind them. Nothing is sent twice by itself: a command that is sent
twice writes twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Self, TypeVar

import msgspec
import redis.exceptions

from outpost import errors
from outpost.log import batching
from outpost.log import partition as partitions
from outpost.log.redis import connection as wire
from outpost.log.redis import log_identity, shapes

COMMAND_TIMEOUT_S = 3.0  # a command that takes longer has failed; what it did is found out by asking again
BLOCK_MS = 1_000  # how long a blocking read waits for entries; also how long a loop takes to see a stop
BLOCKING_TIMEOUT_S = BLOCK_MS / 1000 + 5.0
CONFIG_ENTRIES = 500  # of `cfg`, by one read and one `advance`
LARGE_CALL_BYTES = 262_144  # a call of scripts from this size on goes over the connection of large ones
CLUSTER = (
    "it is in cluster mode, where a script may not touch keys of several slots: use a server, or a plan of your "
    "provider, without cluster mode"
)
# What is refused for good: whoever asks again is refused again.
_ADVICE: dict[type[Exception], str] = {
    redis.exceptions.AuthenticationError: "it does not accept the user or the password: see REDIS_URL, or "
    "REDIS_USERNAME and REDIS_PASSWORD",
    redis.exceptions.NoPermissionError: "the user may not do that: allow it all commands, and the keys that begin "
    "with outpost: (ACL SETUSER .. +@all ~outpost:*)",
    wire.ClusterError: CLUSTER,
    redis.exceptions.ClusterCrossSlotError: CLUSTER,
    redis.exceptions.ClusterDownError: CLUSTER,
    redis.exceptions.AskError: CLUSTER,  # of which MovedError is one
}
_REFUSALS = tuple(_ADVICE)
_CAUSES = 6  # how deep a cause may lie
DISK = "it cannot write to its disk"

Arg = wire.Arg
RedisAddress = wire.RedisAddress
Call = tuple[Sequence[str], Sequence[Arg]]  # keys and arguments of one script call
T = TypeVar("T")


class ByPartition(dict[int, T]):
    """The answer of each partition that gave one. `failed` has the errors of the others; asking for the answer of
    such a partition raises its error, so that the trouble of one partition is nobody else's."""

    def __init__(self, answers: Mapping[int, T] = {}, failed: Mapping[int, errors.StoreUnavailable] = {}) -> None:
        super().__init__(answers)
        self.failed = dict(failed)

    def __missing__(self, partition: int) -> T:
        raise self.failed[partition]

    def checked(self) -> Self:
        """This, unless every partition failed: then raises errors.StoreUnavailable."""
        if self.failed and not self:
            raise next(iter(self.failed.values()))
        return self

    def whole(self) -> Self:
        """This, unless a partition failed: then raises errors.StoreUnavailable."""
        for exc in self.failed.values():
            raise exc
        return self


class Script(msgspec.Struct, frozen=True):
    """A Lua script of ours; the SHA names the exact text, so two versions of this program run side by side."""

    name: str
    text: str
    sha: str


def load_script(name: str) -> Script:
    """The script `scripts/<name>.lua`."""
    text = importlib.resources.files("outpost.log").joinpath("scripts", f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


class Log:
    """A deployment's log: its keys and the connections to it. One a process, closed by its owner."""

    def __init__(self, address: RedisAddress, keys: partitions.Keys) -> None:
        self.keys = keys
        self.pin = log_identity.LogIdentity(keys.meta)
        self._wire = wire.Wire(address, COMMAND_TIMEOUT_S, self.pin)
        self._large_calls = wire.Wire(address, COMMAND_TIMEOUT_S, self.pin)
        self._commands = wire.Wire(address, COMMAND_TIMEOUT_S, self.pin)
        self._blocking = wire.WirePool(address, COMMAND_TIMEOUT_S, self.pin)
        # What was learned of the size of config entries, for everybody who catches up with them.
        self.config_reading = batching.Reading(CONFIG_ENTRIES, batching.CALL_BYTES)
        self.config_sending = batching.Sending(CONFIG_ENTRIES)

    async def call(self, script: Script, calls: Sequence[Call]) -> list[Any]:
        """Runs `script` once for each of `calls` in one round trip and returns the replies in order.

        Loads the script where the server does not have it. Raises errors.StoreUnavailable: then any of the calls
        may have happened.
        """
        return await self._good(await self._replies(script, calls))

    async def call_each(
        self, script: Script, calls: Mapping[int, Call], read: Callable[[int, Any], T]
    ) -> ByPartition[T]:
        """As `call`, with one call for each partition; `read` makes an answer of its reply. Raises
        errors.StoreUnavailable where the store is away; `failed` has what was wrong with single partitions."""
        replies = await self._replies(script, calls.values())
        outcome: ByPartition[T] = ByPartition()
        for partition, reply in zip(calls, replies, strict=True):
            if not isinstance(reply, Exception):
                outcome[partition] = read(partition, reply)
                continue
            if isinstance(reply, redis.exceptions.ReadOnlyError):  # which is true of every partition
                await self._fail(reply)
            try:
                with mapped_errors():
                    raise reply
            except errors.StoreUnavailable as exc:
                outcome.failed[partition] = exc
        return outcome

    async def _replies(self, script: Script, calls: Collection[Call]) -> list[Any]:
        """The replies in order, errors as values. Loads the script where the server does not have it. Raises
        errors.StoreUnavailable."""
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for keys, args in calls]
        packed = wire.pack(commands)
        way = self._wire if len(packed) < LARGE_CALL_BYTES else self._large_calls
        try:
            replies, _ = await way.exchange(packed, len(commands), COMMAND_TIMEOUT_S)
            if redis.exceptions.NoScriptError in map(type, replies):
                missing = [
                    i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)
                ]
                packed = wire.pack([("SCRIPT", "LOAD", script.text), *(commands[i] for i in missing)])
                (_, *again), _ = await way.exchange(packed, 1 + len(missing), COMMAND_TIMEOUT_S)
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
        except Exception as exc:  # noqa: BLE001 -- raised in any case, as an error of ours if it is known
            await self._fail(exc)
        return replies

    async def pipeline(self, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        """Plain commands in one round trip; `shapes` says in which form they are answered. Raises
        errors.StoreUnavailable."""
        return await self._good(await self.pipeline_each(commands))

    async def pipeline_each(self, commands: Sequence[Sequence[Arg]]) -> list[Any]:
        """As `pipeline`, but an error that is the reply to a single command is a value of its own."""
        found, _ = await self._exchange(commands)
        return [shapes.shaped(command, reply) for command, reply in zip(commands, found, strict=True)]

    async def pipeline_measured(self, commands: Sequence[Sequence[Arg]]) -> tuple[list[Any], int]:
        """As `pipeline`, for commands whose replies have no other shape than Redis sends, with about how many
        bytes the replies are."""
        found, size = await self._exchange(commands)
        return await self._good(found), size

    async def _exchange(self, commands: Sequence[Sequence[Arg]]) -> tuple[list[Any], int]:
        packed = wire.pack(commands)
        try:
            return await self._commands.exchange(packed, len(commands), COMMAND_TIMEOUT_S)
        except Exception as exc:  # noqa: BLE001 -- as in `_replies`
            await self._fail(exc)

    async def command(self, *args: Arg) -> Any:
        """One plain command. Raises errors.StoreUnavailable."""
        return (await self.pipeline([args]))[0]

    async def wait(self, *args: Arg) -> Any:
        """One command that may block for `BLOCK_MS`, as plain lists and bytes. Raises errors.StoreUnavailable."""
        return (await self.wait_measured(*args))[0]

    async def wait_measured(self, *args: Arg) -> tuple[Any, int]:
        """As `wait`, with about how many bytes the reply is."""
        try:
            return await self._blocking.execute(args, BLOCKING_TIMEOUT_S)
        except Exception as exc:  # noqa: BLE001 -- as in `_replies`
            await self._fail(exc)

    async def _good(self, replies: list[Any]) -> list[Any]:
        """The replies, if none is an error. Raises errors.StoreUnavailable."""
        for reply in replies:
            if isinstance(reply, Exception):
                await self._fail(reply)
        return replies

    async def _fail(self, exc: Exception) -> NoReturn:
        """Raises it, as errors.StoreUnavailable if that is what it means. A primary that was made a replica is
        left, for the name may point to another by now."""
        try:
            if isinstance(exc, redis.exceptions.ReadOnlyError):
                await self.disconnect()
            with mapped_errors():
                raise exc
        finally:
            del exc  # whose traceback refers to this frame

    async def disconnect(self) -> None:
        """Drops every connection; the next commands dial anew. What is under way gets errors.StoreUnavailable."""
        for way in (self._wire, self._large_calls, self._commands, self._blocking):
            await way.close()

    async def close(self) -> None:
        """Closes every connection."""
        await self.disconnect()


@contextlib.contextmanager
def mapped_errors() -> Iterator[None]:
    """Turns what a connection raises into errors.StoreUnavailable, or errors.StoreRefused where asking again would
    not help; the text is the kind of failure only."""
    try:
        yield
    except redis.exceptions.OutOfMemoryError as exc:
        raise errors.StoreFull("redis", "its memory is used up") from exc
    except redis.exceptions.MasterDownError as exc:  # for redis-py a kind of ClusterDownError; a failover mends it
        raise errors.StoreUnavailable("redis", type(exc).__name__) from exc
    except _REFUSALS as exc:
        raise errors.StoreRefused(
            "redis", _ADVICE[next(kind for kind in _ADVICE if isinstance(exc, kind))]
        ) from exc
    except log_identity.OtherLog as exc:
        raise errors.LogReplaced from exc
    except (redis.exceptions.RedisError, OSError, TimeoutError) as exc:
        kind = str(exc).partition(" ")[0] if isinstance(exc, redis.exceptions.ResponseError) else ""
        match kind:
            case "OOM":
                raise errors.StoreFull("redis", "its memory is used up") from exc
            case "MISCONF":  # the last write of the append-only file or of a snapshot failed
                raise errors.StoreFull("redis", DISK) from exc
            case "NOGROUP":
                raise errors.GroupMissing("redis", "the consumer group is missing") from exc
        if advice := _tls_advice(exc):
            raise errors.StoreRefused("redis", advice) from exc
        raise errors.StoreUnavailable("redis", type(exc).__name__) from exc
    except RuntimeError as exc:
        if wire.says_closed(exc):
            raise errors.StoreUnavailable("redis", "ConnectionClosed") from exc
        raise


def _tls_advice(exc: BaseException) -> str:
    """What is to be changed where the certificate is refused; redis-py hides that behind an error of its own."""
    cause: BaseException | None = exc
    for _ in range(_CAUSES):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}): see SSL_CERT_FILE and REDIS_TLS_VERIFY"
            )
        cause = (cause.__cause__ or cause.__context__) if cause else None
    return ""


def open_log(address: RedisAddress, deployment_id: str = "") -> Log:
    """The log of a deployment; connects at the first command."""
    return Log(address, partitions.keys_of(deployment_id))
