"""Where a tenant's data lives, for ever: partitions, hash tags and the spelling of every key."""

from __future__ import annotations

import zlib
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.cluster import key_slot

from outpost.log import partition as partitions

# Written out, because a key that is spelt otherwise is a log that is lost.
TAGS = {
    0: "p00.62", 1: "p01.61", 2: "p02.0", 3: "p03.3", 4: "p04.12", 5: "p05.11", 6: "p06.21", 7: "p07.22",
    8: "p08.42", 9: "p09.41", 10: "p10.62", 11: "p11.61", 12: "p12.43", 13: "p13.40", 14: "p14.12", 15: "p15.11",
}  # fmt: skip


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=50))
def test_a_tenant_has_one_partition_by_the_checksum_of_its_id(tenant: str) -> None:
    assert zlib.crc32(tenant.encode()) % 16 == partitions.partition_of(tenant)


def test_known_tenants_stay_where_they_are() -> None:
    assert {"acme": 14, "": 0, "größe": 9, "tenant_1": 11} == {
        tenant: partitions.partition_of(tenant) for tenant in ("acme", "", "größe", "tenant_1")
    }


def test_tenants_spread_over_every_partition() -> None:
    counts = Counter(partitions.partition_of(f"tenant_{n}") for n in range(16_000))
    assert 16 == len(counts)
    assert max(counts.values()) < 1.2 * min(counts.values())


def test_hash_tags_are_what_they_were() -> None:
    assert TAGS == {p: partitions.hash_tag(p) for p in range(partitions.PARTITIONS)}


def test_slots_are_those_of_the_cluster_and_evenly_spaced() -> None:
    slots = [key_slot(f"{{{partitions.hash_tag(p)}}}".encode()) for p in range(partitions.PARTITIONS)]
    assert [partitions.slot_of(partitions.hash_tag(p)) for p in range(partitions.PARTITIONS)] == slots
    assert [*range(16)] == [slot // 1_024 for slot in slots]
    for shards in (2, 4, 8):
        assert dict.fromkeys(range(shards), 16 // shards) == Counter(slot * shards // 16_384 for slot in slots)


def test_every_key_of_a_partition_is_spelt_as_documented_and_lies_in_its_slot() -> None:
    keys = partitions.keys_of().partitions[7]
    prefix = f"outpost:{{{TAGS[7]}}}"
    spelt = {
        "cfg": keys.cfg,
        "evt": keys.evt,
        "dlv": keys.dlv,
        "ver": keys.ver,
        "due": keys.due,
        "want": keys.want,
        "manual": keys.manual,
        "mend": keys.mend,
        "gen": keys.gen,
        "idem": keys.idem,
        "idem:59666": keys.bucket(59_666),
        "g2:ck": keys.checkpoint(2),
        "g2:t:ac:me": keys.tenant(2, "ac:me"),
        "g2:tenants": keys.tenants(2),
        "lease:trim": keys.lease("trim"),
    }
    assert {name: f"{prefix}:{name}" for name in spelt} == spelt
    assert {partitions.slot_of(TAGS[7])} == {key_slot(key.encode()) for key in spelt.values()}


@pytest.mark.parametrize("tenant", ["a}b", "{x}", "}{", "t:acme"])
def test_a_tenant_with_braces_stays_in_its_slot(tenant: str) -> None:
    key = partitions.keys_of().partitions[7].tenant(1, tenant)
    assert partitions.slot_of(TAGS[7]) == key_slot(key.encode())


def test_a_deployment_has_keys_of_its_own() -> None:
    blue, green = partitions.keys_of("blue"), partitions.keys_of()
    assert ("outpost:blue:slots", "outpost:blue:meta") == (blue.slots, blue.meta)
    assert ("outpost:slots", "outpost:meta") == (green.slots, green.meta)
    assert f"outpost:blue:{{{TAGS[3]}}}:evt" == blue.partitions[3].evt


@pytest.mark.parametrize("name", partitions.STREAMS)
def test_a_stream_by_name_is_its_key(name: partitions.Stream) -> None:
    keys = partitions.keys_of().partitions[0]
    assert getattr(keys, name) == keys.stream(name)
