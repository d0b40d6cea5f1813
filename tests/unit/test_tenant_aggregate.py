"""The aggregate: what may happen to a tenant and its destinations, and what is left when it has."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost.domain import tenant as tenants
from outpost.domain.tenant import (
    Change,
    ChangeDestination,
    CreateDestination,
    DeleteDestination,
    DeleteTenant,
    Refusal,
    TenantState,
    UpsertTenant,
)

NOBODY = TenantState()
ACME = UpsertTenant("acme", {"plan": "gold"}, 100)


def _destination(id_: str = "d", **changes: object) -> tenants.Destination:
    made = tenants.Destination(
        id=id_, type="webhook", topics=("*",), config="s1.x", credentials="s1.x", created_ms=5, updated_ms=5
    )
    return msgspec.structs.replace(made, **changes)


def _after(state: TenantState, *commands: tenants.Command) -> TenantState:
    for command in commands:
        change = tenants.decide(state, command)
        assert isinstance(change, Change)
        state = tenants.evolve(state, change)
    return state


def _create(id_: str = "d", limit: int = 20) -> CreateDestination:
    return CreateDestination(_destination(id_), limit)


def test_a_tenant_is_created_once_and_then_updated_and_keeps_its_birthday() -> None:
    state = _after(NOBODY, ACME)
    assert TenantState(1, tenants.Tenant("acme", {"plan": "gold"}, 100, 100)) == state
    change = tenants.decide(state, UpsertTenant("acme", None, 200))
    assert Change("tenant.updated", 2, state=tenants.Tenant("acme", None, 100, 200)) == change


@pytest.mark.behaviour(31)
def test_deleting_a_tenant_takes_its_destinations_and_keeps_its_version() -> None:
    state = _after(NOBODY, ACME, _create(), DeleteTenant("acme"))
    assert TenantState(3) == state
    assert Refusal("tenant_not_found") == tenants.decide(state, DeleteTenant("acme"))


@pytest.mark.behaviour(28)
def test_a_deleted_tenant_is_made_again_with_versions_that_go_on() -> None:
    state = _after(NOBODY, ACME, DeleteTenant("acme"))
    change = tenants.decide(state, UpsertTenant("acme", None, 300))
    assert Change("tenant.created", 3, state=tenants.Tenant("acme", None, 300, 300)) == change


@pytest.mark.parametrize("command", [DeleteTenant("acme"), _create(), DeleteDestination("d")])
def test_nothing_happens_to_a_tenant_that_is_not_there(command: tenants.Command) -> None:
    assert Refusal("tenant_not_found") == tenants.decide(NOBODY, command)


def test_a_destination_is_named_by_the_version_that_made_it() -> None:
    state = _after(NOBODY, ACME, _create("d"), _create("e"))
    assert {"d": (2, 2), "e": (3, 3)} == {k: (d.created, d.version) for k, d in state.destinations.items()}


def test_a_changed_destination_keeps_what_made_it_and_gets_a_version_of_its_own() -> None:
    state = _after(NOBODY, ACME, _create("d"), _create("e"))
    disabled = ChangeDestination(_destination(disabled_ms=7, created=99, version=99), "destination.disabled")
    after = _after(state, disabled)
    assert (2, 4, False) == _told(after.destinations["d"])
    assert state.destinations["e"] == after.destinations["e"]


def _told(destination: tenants.Destination) -> tuple[int, int, bool]:
    return destination.created, destination.version, destination.enabled


def test_a_namesake_that_is_made_again_is_another_destination() -> None:
    """D8 rests on it."""
    state = _after(NOBODY, ACME, _create(), DeleteDestination("d"), _create())
    assert (4, 4, True) == _told(state.destinations["d"])


def test_an_id_that_is_taken_is_refused_and_so_is_one_that_is_not_there() -> None:
    state = _after(NOBODY, ACME, _create())
    assert Refusal("destination_exists") == tenants.decide(state, _create())
    assert Refusal("destination_not_found") == tenants.decide(state, DeleteDestination("e"))
    change = ChangeDestination(_destination("e"), "destination.updated")
    assert Refusal("destination_not_found") == tenants.decide(state, change)


@pytest.mark.behaviour(40)
def test_the_limit_refuses_one_more_and_a_deletion_makes_room() -> None:
    state = _after(NOBODY, ACME, _create("d", 2), _create("e", 2))
    assert Refusal("too_many_destinations") == tenants.decide(state, _create("f", 2))
    assert {"e", "f"} == {*_after(state, DeleteDestination("d"), _create("f", 2)).destinations}


@pytest.mark.behaviour(30)
def test_a_tenant_s_topics_are_the_sorted_union_or_the_star_alone() -> None:
    state = _after(NOBODY, ACME)
    assert [] == state.topics()
    for id_, topics in (("d", ("b", "a")), ("e", ("c", "a"))):
        state = _after(state, CreateDestination(_destination(id_, topics=topics), 20))
    assert ["a", "b", "c"] == state.topics()
    assert ["*"] == _after(state, _create("f")).topics()


def test_a_change_that_lost_its_state_is_not_applied_in_silence() -> None:
    with pytest.raises(ValueError):
        tenants.evolve(NOBODY, Change("tenant.created", 1))
    with pytest.raises(ValueError):
        tenants.evolve(NOBODY, Change("destination.created", 1, "d"))


COMMANDS = st.one_of(
    st.builds(UpsertTenant, st.just("acme"), st.none(), st.integers(1, 9)),
    st.just(DeleteTenant("acme")),
    st.builds(CreateDestination, st.builds(_destination, st.sampled_from("de")), st.integers(1, 2)),
    st.builds(DeleteDestination, st.sampled_from("de")),
    st.builds(
        ChangeDestination,
        st.builds(_destination, st.sampled_from("de"), disabled_ms=st.none() | st.just(5)),
        st.sampled_from(["destination.disabled", "destination.enabled", "destination.updated"]),
    ),
)


@given(st.lists(COMMANDS, max_size=30))
def test_versions_count_the_changes_and_every_state_is_within_its_rules(commands: list[tenants.Command]) -> None:
    state, changes = NOBODY, 0
    for command in commands:
        decided = tenants.decide(state, command)
        if isinstance(decided, Change):
            state, changes = tenants.evolve(state, decided), changes + 1
        assert changes == state.version
        assert len(state.destinations) <= 2
        assert state.tenant is not None or not state.destinations
        assert all(1 <= d.created <= d.version <= state.version for d in state.destinations.values())
        assert all(id_ == destination.id for id_, destination in state.destinations.items())
