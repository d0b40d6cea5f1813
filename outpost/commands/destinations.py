"""Commands on a destination: create, patch, delete, enable, disable.

A form carries what a request says, with the problems found in it so far; the rules of topics, filter and type are
checked here, and every problem is told at once. Merging follows RFC 7396: a key with null is removed, `{}` changes
nothing, null for the whole clears it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import UNSET, UnsetType

from outpost import crypto, errors, ids
from outpost.adapters import base
from outpost.adapters import registry as registries
from outpost.commands import actor as actors
from outpost.commands import sealing, values
from outpost.commands import writer as writers
from outpost.domain import filter_check, filters
from outpost.domain import tenant as tenants
from outpost.domain import topics as topic_rules
from outpost.settings import Settings
from projections.config import query

Map = dict[str, str | None] | UnsetType | None  # values are coerced to text; None removes


class DestinationForm(msgspec.Struct):
    """What a request says of a destination. UNSET: not mentioned. Times in Unix ms, judged against `now_ms`."""

    now_ms: int
    id: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    topics: object = UNSET
    filter: object = UNSET
    config: Map = UNSET
    credentials: Map = UNSET
    delivery_metadata: Map = UNSET
    metadata: Map = UNSET
    created_ms: int | UnsetType = UNSET
    updated_ms: int | UnsetType = UNSET
    disabled_ms: int | UnsetType | None = UNSET
    problems: list[errors.Problem] = msgspec.field(default_factory=list)

    def __repr__(self) -> str:
        return f"DestinationForm(problems={self.problems!r})"


class Destinations:
    """The commands, with what they need: the writer, the types, the key that seals, the limits."""

    def __init__(
        self,
        writer: writers.Writer,
        types: registries.Registry,
        sealer: crypto.Sealer,
        settings: Settings,
    ) -> None:
        self._writer = writer
        self._types = types
        self._sealer = sealer
        self._settings = settings

    async def create(self, actor: actors.Actor, tenant: str, form: DestinationForm) -> writers.Written:
        """Adds a destination. Raises errors.Invalid with every problem, and as `Writer.execute`."""
        problems = _Problems(form.problems)
        topics = self._topics(form.topics, problems)
        filter_ = _filter(form.filter, None, problems)
        adapter = self._adapter(form.type, problems)
        prepared = base.Prepared()
        if adapter is not None:
            save = _save(actor, form, None)
            verified = base.NOT_VERIFIED if problems.found else await adapter.verify(save)
            prepared = adapter.prepare(msgspec.structs.replace(save, verified=verified))
            problems.found += prepared.problems
        problems.settle()
        id_ = form.id or ids.new_id(self._settings.idgen_type, self._settings.idgen_destination_prefix)
        created_ms = form.now_ms if form.created_ms is UNSET else form.created_ms
        destination = tenants.Destination(
            id=id_,
            type=str(form.type),
            topics=topics,
            filter=filter_,
            config=sealing.seal(self._sealer, tenant, id_, sealing.CONFIG, prepared.config),
            credentials=sealing.seal(self._sealer, tenant, id_, sealing.CREDENTIALS, prepared.credentials),
            delivery_metadata=self._seal_metadata(tenant, id_, merged({}, form.delivery_metadata)),
            metadata=merged({}, form.metadata) or None,
            created_ms=created_ms,
            updated_ms=created_ms if form.updated_ms is UNSET else form.updated_ms,
            disabled_ms=None if form.disabled_ms is UNSET else form.disabled_ms,
        )
        limit = self._settings.max_destinations_per_tenant
        done = await self._writer.execute(tenant, actor, lambda _: tenants.CreateDestination(destination, limit))
        assert isinstance(done, writers.Written)
        return done

    async def patch(
        self, actor: actors.Actor, tenant: str, destination: str, form: DestinationForm
    ) -> writers.Written:
        """Changes what the form mentions. Raises errors.Invalid with every problem, and as `Writer.execute`."""
        verified = await self._verify(actor, tenant, destination, form)

        def plan(state: tenants.TenantState) -> tenants.Command:
            present = _present(state, destination)
            problems = _Problems(list(form.problems))
            if form.type is not UNSET and form.type != present.type:
                problems.add("type", "immutable", "type cannot be updated")
            topics = present.topics
            if form.topics is not UNSET and form.topics is not None:
                topics = self._topics(form.topics, problems)
            filter_ = _filter(form.filter, present.filter, problems)
            opened = sealing.open_destination(self._sealer, tenant, present)
            prepared = self._prepare(actor, form, opened, verified, problems)
            problems.settle()
            delivery_metadata = present.delivery_metadata
            if form.delivery_metadata is not UNSET:
                changed = merged(opened.delivery_metadata, form.delivery_metadata)
                delivery_metadata = self._seal_metadata(tenant, destination, changed)
            present = sealing.with_sealed_config(self._sealer, tenant, present)
            config, credentials = present.config, present.credentials
            if prepared.config != opened.config:
                config = sealing.seal(self._sealer, tenant, destination, sealing.CONFIG, prepared.config)
            if prepared.credentials != opened.credentials:
                credentials = sealing.seal(
                    self._sealer, tenant, destination, sealing.CREDENTIALS, prepared.credentials
                )
            after = msgspec.structs.replace(
                present,
                topics=topics,
                filter=filter_,
                config=config,
                credentials=credentials,
                delivery_metadata=delivery_metadata,
                metadata=merged(present.metadata or {}, form.metadata) or None,
                updated_ms=form.now_ms,
                disabled_ms=present.disabled_ms if form.disabled_ms is UNSET else form.disabled_ms,
                disabled_reason=present.disabled_reason if form.disabled_ms is UNSET else UNSET,
            )
            kind: tenants.ChangeKind = "destination.secret_rotated" if prepared.rotated else "destination.updated"
            return tenants.ChangeDestination(after, kind)

        done = await self._writer.execute(tenant, actor, plan)
        assert isinstance(done, writers.Written)
        return done

    async def delete(self, actor: actors.Actor, tenant: str, destination: str) -> writers.Written:
        """Removes a destination. Raises errors.NotFound, and as `Writer.execute`."""
        done = await self._writer.execute(tenant, actor, lambda _: tenants.DeleteDestination(destination))
        assert isinstance(done, writers.Written)
        return done

    async def set_disabled(
        self,
        actor: actors.Actor,
        tenant: str,
        destination: str,
        disabled_ms: int | None,
        *,
        reason: str | UnsetType = UNSET,
        version: int | None = None,
    ) -> writers.Written | tenants.TenantState:
        """Disables from `disabled_ms` on, or enables (None). Where it is so already nothing is written: disabling
        again keeps the first time. `reason`: why, where nobody asked for it; `version`: only while it is of this
        one, so that what was true of another address does not disable it. Raises errors.NotFound, and as
        `Writer.execute`."""

        def plan(state: tenants.TenantState) -> tenants.Command | None:
            present = _present(state, destination)
            if present.enabled == (disabled_ms is None) or version not in (None, present.version):
                return None
            present = sealing.with_sealed_config(self._sealer, tenant, present)
            after = msgspec.structs.replace(present, disabled_ms=disabled_ms, disabled_reason=reason)
            kind: tenants.ChangeKind = "destination.enabled" if disabled_ms is None else "destination.disabled"
            return tenants.ChangeDestination(after, kind)

        return await self._writer.execute(tenant, actor, plan)

    def _topics(self, requested: object, problems: _Problems) -> tuple[str, ...]:
        if requested is UNSET or requested is None:
            problems.add("topics", "required")
            return ()
        settings = self._settings
        topics = topic_rules.normalise(requested, settings.topics, settings.topics_allow_wildcards)
        if isinstance(topics, topic_rules.TopicsProblem):
            problems.add("topics", topics.rule, topics.message)
            return ()
        return topics

    def _adapter(self, type_: str | UnsetType, problems: _Problems) -> base.Adapter | None:
        if type_ is UNSET or not type_:
            problems.add("type", "required")
            return None
        return self._usable(type_, problems)

    def _usable(self, type_: str, problems: _Problems) -> base.Adapter | None:
        adapter = self._types.get(type_)
        if adapter is None:
            problems.add("type", "invalid_type", f"no provider registered for destination type: {type_}")
        elif adapter.description.unavailable:
            problems.found.append(errors.Problem("type", "unavailable", text=adapter.description.unavailable))
            return None
        return adapter

    async def _verify(
        self, actor: actors.Actor, tenant: str, destination: str, form: DestinationForm
    ) -> base.Verified:
        """What the type's service says of the credentials that a patch sets, asked before the tenant is locked."""
        if not _requested(form.credentials) or form.problems:
            return base.NOT_VERIFIED
        present = (await query.fresh(self._writer.log, tenant)).destinations.get(destination)
        adapter = None if present is None else self._types.get(present.type)
        if present is None or adapter is None or adapter.description.unavailable:
            return base.NOT_VERIFIED  # the plan says so
        return await adapter.verify(_save(actor, form, sealing.open_destination(self._sealer, tenant, present)))

    def _prepare(
        self,
        actor: actors.Actor,
        form: DestinationForm,
        opened: base.OpenDestination,
        verified: base.Verified,
        problems: _Problems,
    ) -> base.Prepared:
        """The config and credentials to store; those that are stored, where the form mentions neither."""
        if form.config is UNSET and form.credentials is UNSET:
            return base.Prepared(opened.config, opened.credentials)
        adapter = self._usable(opened.type, problems)
        if adapter is None:
            return base.Prepared()
        prepared = adapter.prepare(msgspec.structs.replace(_save(actor, form, opened), verified=verified))
        problems.found += prepared.problems
        return prepared

    def _seal_metadata(self, tenant: str, destination: str, values: dict[str, str]) -> str | None:
        if not values:
            return None
        return sealing.seal(self._sealer, tenant, destination, sealing.DELIVERY_METADATA, values)


def merged(present: Mapping[str, str], change: Map) -> dict[str, str]:
    """`present` after an RFC 7396 merge of `change` (one level; values are text)."""
    if change is UNSET:
        return dict(present)
    if change is None:
        return {}
    result = {k: v for k, v in present.items() if k not in change}
    return result | {k: v for k, v in change.items() if v is not None}


class _Problems:
    """Collects problems; a lone one may have a published sentence of its own."""

    def __init__(self, found: list[errors.Problem]) -> None:
        self.found = list(found)
        self._message = "validation error"

    def add(self, path: str, rule: str, message: str | None = None) -> None:
        if any(problem.path == path for problem in self.found):
            return  # what is wrong in itself is not missing as well
        self.found.append(errors.Problem(path, rule))
        self._message = message or self._message

    def settle(self) -> None:
        if self.found:
            raise errors.Invalid(self.found, self._message if len(self.found) == 1 else "validation error")


def _save(actor: actors.Actor, form: DestinationForm, opened: base.OpenDestination | None) -> base.Save:
    return base.Save(
        config=merged({} if opened is None else opened.config, form.config),
        credentials=merged({} if opened is None else opened.credentials, form.credentials),
        previous=opened,
        requested=_requested(form.credentials),
        admin=actor.admin,
        now_ms=form.now_ms,
    )


def _present(state: tenants.TenantState, destination: str) -> tenants.Destination:
    if state.tenant is None:
        raise errors.NotFound("tenant")
    present = state.destinations.get(destination)
    if present is None:
        raise errors.NotFound("destination")
    return present


def _requested(change: Map) -> Mapping[str, str | None]:
    return {} if change is UNSET or change is None else change


def _filter(requested: object, present: dict[str, object] | None, problems: _Problems) -> dict[str, object] | None:
    if requested is UNSET:
        return present
    if requested is None or requested == {}:
        return None
    problem = filters.problem(requested)
    if problem is not None:
        problems.found.append(errors.Problem("filter", "type", text=problem))
        return None
    assert isinstance(requested, dict)
    problems.found += [_mistake(mistake) for mistake in filter_check.mistakes(requested)]
    return requested


def _mistake(mistake: filter_check.Mistake) -> errors.Problem:
    """With the path as JSON paths are written: `filter.$or[0].data`."""
    path = "filter"
    for part in mistake.path:
        path += f"[{part}]" if isinstance(part, int) else f".{values.shown(part)}"
    return errors.Problem(path, "filter", text=f"{path} {mistake.text}")
