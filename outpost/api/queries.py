"""Query parameters: lists in every spelling that published clients use, times, pages.

Parameters that are wrong are told together; `Query.settle` raises what was found.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Iterable
from typing import Literal
from urllib.parse import parse_qsl

from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler

from outpost import errors
from outpost.api import openapi, paths, problems, schemas
from outpost.commands import values
from outpost.domain import times
from projections.logs import paging, rows

MOST_PARAMETERS = 1_000
LOG_LIMIT, LOG_LIMIT_MAX = 100, 1_000
TENANT_LIMIT, TENANT_LIMIT_MAX = 20, 100
OPERATORS = ("gte", "lte", "gt", "lt")

_INDEX = re.compile(r"\[(\d{1,9})\]", re.ASCII)
_ELEMENT = re.compile(r"\[[^\[\]]*\]$")  # of a list, or a bound; an index that is no number was always ignored
_LOST_PLUS = re.compile(r" (\d\d:\d\d)$", re.ASCII)  # of a zone: a plus that nobody escaped is read as a blank
_INTEGER = re.compile(r"[+-]?\d{1,18}", re.ASCII)


class Query:
    """The parameters of one request."""

    def __init__(self, query_string: bytes) -> None:
        """Raises errors.Refused if there are too many of them."""
        try:
            pairs = parse_qsl(
                query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=MOST_PARAMETERS
            )
        except ValueError:
            raise errors.Refused(f"at most {MOST_PARAMETERS} query parameters are accepted") from None
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)
        self.found: list[errors.Problem] = []

    def settle(self) -> None:
        """Raises errors.Invalid if anything was wrong."""
        if self.found:
            raise errors.Invalid(self.found)

    def names(self) -> Iterable[str]:
        """The names as they were sent."""
        return self._values

    def one(self, name: str) -> str | None:
        """The first value; None if there is none."""
        given = self._values.get(name)
        return given[0] if given else None

    def many(self, name: str) -> tuple[str, ...]:
        """`name[0]=a&name[1]=b` in the order of the indexes, else `name[]=a&name[]=b`, else `name=a&name=b`."""
        indexed = [
            (int(found[1]), value)
            for key, given in self._values.items()
            if key.startswith(name) and (found := _INDEX.fullmatch(key, len(name)))
            for value in given
        ]
        wanted = tuple(value for _, value in sorted(indexed, key=lambda pair: pair[0]))
        wanted = wanted or tuple(self._values.get(f"{name}[]") or self._values.get(name) or ())
        path = problems.QUERY + name
        for value in wanted:
            if not values.plain(value) and (problem := values.text_problem(path, value)):
                self.found.append(problem)
        return wanted

    def tenant(self) -> str | None:
        """The one tenant that a single row is looked for in; None if it may be of any."""
        given = self.many("tenant_id")
        return given[0] or None if given else None

    def time(self, name: str = "time") -> rows.TimeRange:
        """The bounds `name[gte]` and so on, where they are not empty. Raises errors.Refused for an operator that
        there is none of."""
        bounds: dict[str, int] = {}
        for key, given in self._values.items():
            if not (key.startswith(f"{name}[") and key.endswith("]") and given[0]):
                continue
            operator = key[len(name) + 1 : -1]
            if operator not in OPERATORS:
                supported = "'gte', 'lte', 'gt', or 'lt'"
                raise errors.Refused(f"operator '{values.shown(operator)}' is not supported, use {supported}")
            micros = times.parse_date_or_time(_LOST_PLUS.sub(r"+\1", given[0]))
            if micros is None:
                self._wrong(key, "rfc3339", "invalid format, expected RFC3339 or YYYY-MM-DD")
            else:
                bounds[operator] = micros
        return rows.TimeRange(**bounds)

    def log_page(self, max_bytes: int) -> paging.PageRequest:
        """The page of a log list: a limit that is no number from 1 on is the default, a larger one the largest.
        Raises errors.Refused for two cursors."""
        limit = self._integer("limit")
        limit = LOG_LIMIT if limit is None or limit < 1 else min(limit, LOG_LIMIT_MAX)
        return self._page(limit, "time", max_bytes)

    def tenant_page(self, max_bytes: int) -> paging.PageRequest:
        """The page of the list of tenants, whose limit is strict. Raises errors.Refused for that, or two
        cursors."""
        limit = self._integer("limit") if self.one("limit") else TENANT_LIMIT
        if limit is None:
            raise errors.Refused("invalid limit: must be an integer")
        if not 1 <= limit <= TENANT_LIMIT_MAX:
            raise errors.Refused(f"invalid limit: must be between 1 and {TENANT_LIMIT_MAX}")
        return self._page(limit, "created_at", max_bytes)

    def _page(self, limit: int, order: str, max_bytes: int) -> paging.PageRequest:
        following, previous = self.one("next") or None, self.one("prev") or None
        if following and previous:
            raise errors.Refused("cannot specify both 'next' and 'prev' cursors")
        if self.one("order_by") not in (None, "", order):
            self._wrong("order_by", "oneof", f"must be one of: [{order}]")
        direction: Literal["asc", "desc"] = "desc"
        match self.one("dir"):
            case "asc":
                direction = "asc"
            case "desc" | None | "":
                pass
            case _:
                self._wrong("dir", "oneof", "must be 'asc' or 'desc'")
        return paging.PageRequest(limit, direction, following, previous, max_bytes)

    def _integer(self, name: str) -> int | None:
        value = self.one(name)
        return int(value) if value and _INTEGER.fullmatch(value) else None

    def _wrong(self, name: str, rule: str, text: str) -> None:
        self.found.append(errors.Problem(problems.QUERY + name, rule, text=text))


async def guard(connection: ASGIConnection[object, object, object, State], handler: BaseRouteHandler) -> None:
    """Refuses parameters that the route does not read, before it does anything. Raises errors.Invalid, and
    errors.NotFound for a tenant of the path that does not exist."""
    deps = connection.app.state.deps
    if not connection.scope["query_string"] or not deps.refuses_unknown:
        return
    refusing = functools.partial(check_names, connection.scope["query_string"], openapi.parameters(handler.opt))
    if "tenant_id" not in connection.path_params or openapi.makes_tenant(handler.opt):
        refusing()
        return
    async with paths.tenant_first(deps.log, paths.tenant(connection)):
        refusing()


def check_names(query_string: bytes, known: Container[str]) -> None:
    """Raises errors.Invalid if a parameter is not `known`, in any spelling of a list or a range; errors.Refused if
    there are too many of them."""
    names = Query(query_string).names()
    found = values.unknown_problems((name for name in names if _base(name) not in known), (), problems.QUERY)
    if found:
        raise errors.Invalid(found)


def _base(name: str) -> str:
    """`name` without what makes it an element of a list or a bound."""
    return _ELEMENT.sub("", name)


def only(tenants: tuple[str, ...]) -> str | None:
    """The one tenant that is asked for, if it is one."""
    return tenants[0] if len(tenants) == 1 else None


def pagination(
    request: paging.PageRequest, order: str, following: str | None, previous: str | None
) -> schemas.Pagination:
    """The block that tells a client where it is."""
    return schemas.Pagination(order, request.dir, request.limit, following, previous)
