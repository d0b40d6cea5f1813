"""Every error that may leave one of our functions.

    OutpostError
    +-- ConfigurationError      the settings are wrong; carries every problem
    +-- StartRefused            a store or its content does not fit this version; one sentence says what to do
    +-- EmbeddedError           an embedded store could not be installed, started or locked
    +-- StoreUnavailable        Redis or Postgres cannot be reached or does not answer
    |   +-- StoreRefused        it refuses us for good: a wrong password, a missing permission, another version
    |   +-- StoreFull           Redis refuses writes because its memory or its disk is used up
    |   |   +-- OverBudget      we refuse before it does
    |   +-- LogReplaced         Redis came back without the log that we started with, or with another one
    |   +-- GroupMissing        the dispatcher's group is gone from a partition; `projections.due.repair` makes it
    +-- Halted                  the config projection stopped before an entry that it cannot decode
    +-- UndecodableEntry        one entry of a stream breaks a rule of the envelope
    +-- Contended               a tenant changed under a command more often than it retries
    +-- Busy                    as much is being done of its kind as a process does at once
    +-- UnsealError             a sealed value does not open with this key and place
    +-- Invalid                 a request breaks rules; carries every problem with its path
    +-- Refused                 a request is well formed, and the present state forbids it
    +-- NotFound                the named thing does not exist

Foreign exceptions are mapped where they cross our border, always `from` their cause. Nothing parses messages;
no message carries a secret or a payload.
"""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One broken rule: a dotted path into the request (`config.url`) and the rule's name (`required`). `text` is
    the sentence where the published one does not follow from the rule."""

    path: str
    rule: str
    limit: int | None = None
    text: str | None = None

    def sentence(self) -> str:
        """The published wording, such as `config.url is required`."""
        if self.text is not None:
            return self.text
        match self.rule:
            case "required" | "forbidden":
                return f"{self.path} is {self.rule}"
            case "maxlength":
                return f"{self.path} must be at most {self.limit} characters"
            case "minlength":
                return f"{self.path} must be at least {self.limit} characters"
            case _ if self.limit is not None:
                return f"{self.path} failed {self.rule}={self.limit} validation"
            case _:
                return f"{self.path} failed {self.rule} validation"


class OutpostError(Exception):
    """The root: `except OutpostError` catches all that we raise on purpose."""


class ConfigurationError(OutpostError):
    """`problems`: one sentence for each, naming the variable and the rule."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class StartRefused(OutpostError):
    """The process must not start; the text says why and what to do."""


class EmbeddedError(OutpostError):
    """An embedded store cannot be used; the text says why and what to do."""


class StoreUnavailable(OutpostError):
    """`store` is `redis` or `postgres`; the text is the kind of failure, never an address with a password."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(f"{store} is unavailable: {reason}")
        self.store = store
        self.reason = reason


class StoreRefused(StoreUnavailable):
    """The store answers, and refuses us until somebody changes something; `reason` says what, in words. A start
    ends with it at once; what runs goes on asking, since somebody may."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)
        self.args = (f"{store} refuses: {reason}",)


class StoreFull(StoreUnavailable):
    """Redis answered that it is out of memory, or that it cannot write to its disk."""


class OverBudget(StoreFull):
    """The memory that the log may take is used up; nothing was written, and Redis was not asked."""


class LogReplaced(StoreUnavailable):
    """What answers as Redis is not the log that this process started with. Nothing is read from it nor written."""

    def __init__(self) -> None:
        super().__init__("redis", "it does not hold the log that this process started with")


class GroupMissing(StoreUnavailable):
    """The consumer group of `evt` is not there in at least one of the partitions that were asked."""


class Halted(OutpostError):
    """`position` cannot be decoded, so nothing behind it can be applied until an operator skips it."""

    def __init__(self, position: str) -> None:
        super().__init__(f"the config projection is halted before {position}; see `outpost streams skip`")
        self.position = position


class UndecodableEntry(OutpostError):
    """An entry breaks the envelope; `field` and `rule` say where and how."""

    def __init__(self, position: str, field: str, rule: str) -> None:
        super().__init__(f"{position}: field {field!r} {rule}")
        self.position = position
        self.field = field
        self.rule = rule


class Contended(OutpostError):
    """A tenant's version moved under a command or a publish as often as it retries."""

    def __init__(self, tenant: str) -> None:
        super().__init__("the tenant is being changed concurrently; try again")
        self.tenant = tenant


class Busy(OutpostError):
    """Nothing was done, since too much of the same kind waits already. `work` says of what kind, such as
    `matching`; asking again later helps."""

    def __init__(self, work: str) -> None:
        super().__init__(f"too much {work} is under way; try again")
        self.work = work


class UnsealError(OutpostError):
    """A sealed value was not made by this key for this place; carries neither."""


class Invalid(OutpostError):
    """A request breaks rules. `message` is the published text, `problems` name path and rule."""

    def __init__(self, problems: list[Problem], message: str = "validation error") -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems


class Refused(OutpostError):
    """The state forbids what was asked; the text is what the client is told."""

    def __init__(self, message: str, data: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.data = data


class NotFound(OutpostError):
    """`thing` is what does not exist: `tenant`, `destination`, `event`, `attempt`, `destination type`."""

    def __init__(self, thing: str) -> None:
        super().__init__(f"{thing} not found")
        self.thing = thing
