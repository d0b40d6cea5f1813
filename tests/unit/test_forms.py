"""Request bodies: what is understood, and that everything wrong with one is told at once."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from outpost import errors
from outpost.api import schemas
from outpost.commands import destination_forms, forms, retry, values
from outpost.domain import times
from outpost.settings import Settings

NOW_MS = 1_790_000_000_123
NOW = "2026-09-21T14:13:20.123Z"
TOPICS = Settings(topics=("user.created",))
ANY_TOPIC = Settings()
VALID = {"tenant_id": "acme", "topic": "user.created", "data": {"n": 1}}


def publish(body: object, options: Settings = TOPICS) -> forms.publish.Publish:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return forms.publish_request(raw, options, NOW_MS)


def faults(body: object, options: Settings = TOPICS) -> list[str]:
    with pytest.raises(errors.Invalid) as caught:
        publish(body, options)
    return [problem.sentence() for problem in caught.value.problems]


def form_of(body: object, *, patch: bool = False) -> destination_forms.destinations.DestinationForm:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return destination_forms.destination_form(raw, NOW_MS, patch=patch)


def form_faults(body: object, *, patch: bool = False) -> list[str]:
    return [problem.sentence() for problem in form_of(body, patch=patch).problems]


@pytest.mark.behaviour(17)
def test_a_publish_without_id_time_and_eligibility_gets_them() -> None:
    request = publish(VALID)
    assert len("3f2504e0-4f89-41d3-9a0c-0305e82c3301") == len(request.id)
    assert request.time == NOW
    assert request.eligible is True
    assert request.destination is None


@pytest.mark.behaviour(17)
def test_given_id_time_and_eligibility_are_kept() -> None:
    given = {"id": "e 1", "time": "2026-01-02T05:04:05.6789+02:00", "eligible_for_retry": False}
    request = publish({**VALID, **given, "destination_id": "d1"})
    assert request.id == "e 1"
    assert request.time == "2026-01-02T03:04:05.678Z"
    assert request.eligible is False
    assert request.destination == "d1"


def test_a_generated_event_id_has_the_configured_prefix() -> None:
    options = Settings(idgen_event_prefix="evt_", idgen_type="nanoid")
    assert publish(VALID, options).id.startswith("evt_")


@pytest.mark.behaviour(16)
@pytest.mark.parametrize("metadata", [{}, {"metadata": None}, {"metadata": {}}])
def test_missing_metadata_is_an_empty_map(metadata: dict[str, object]) -> None:
    assert publish({**VALID, **metadata}).metadata == {}


@pytest.mark.parametrize("null", ["id", "destination_id", "eligible_for_retry", "time", "metadata"])
def test_null_is_the_same_as_leaving_out(null: str) -> None:
    request = publish({**VALID, null: None})
    assert request.eligible is True
    assert request.time == NOW


def test_data_is_kept_byte_for_byte() -> None:
    body = b'{"tenant_id":"acme","topic":"user.created","data": {"b" : 1.50, "a":"\\u00e9", "b":2 }  }'
    assert publish(body).data == b'{"b" : 1.50, "a":"\\u00e9", "b":2 }'


def test_every_fault_of_a_publish_is_told() -> None:
    body = {
        "tenant_id": 7,
        "topic": "unknown",
        "data": [],
        "id": "x" * 256,
        "destination_id": "a\nb",
        "metadata": {"a": 1, "b": "fine", "c": "nul \x00", "d": "y" * 8_193},
        "time": "2024-01-01",
        "eligible_for_retry": "yes",
    }
    assert faults(body) == [
        "tenant_id failed type validation",
        "eligible_for_retry failed type validation",
        "metadata.a failed type validation",
        "id must be at most 255 bytes",
        "destination_id must not contain control characters",
        "topic is invalid",
        "metadata.c must not contain control characters",
        "metadata.d must be at most 8192 bytes",
        "data must be a valid JSON object",
        "time must be an RFC 3339 date-time between 1970 and 2200",
    ]


@pytest.mark.behaviour(15)
@pytest.mark.parametrize("data", [None, "text", 7, [], [{}], True])
def test_data_must_be_an_object(data: object) -> None:
    assert faults({**VALID, "data": data}) == ["data must be a valid JSON object"]


@pytest.mark.behaviour(15)
def test_presence_is_told_for_all_fields_together() -> None:
    assert faults(b"{}") == ["tenant_id is required", "topic is required", "data is required"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "body failed json validation"),
        (b"{", "body failed json validation"),
        (b'{"data":{"a":1,}}', "body failed json validation"),
        (b"null", "body failed type validation"),
        (b"[]", "body failed type validation"),
        (b'"x"', "body failed type validation"),
        (b'{"data":{"a":"\xff"},"tenant_id":"t"}', "body failed utf8 validation"),
        (b'{"data":{},"tenant_id":"\xc3\x28"}', "body failed utf8 validation"),
        (b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "body must be nested at most 256 deep"),
        (b'{"data":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}", "body must be nested at most 256 deep"),
        (b"[" * 10_000, "body must be nested at most 256 deep"),
    ],
)
def test_a_body_that_is_no_json_object_is_told_so(body: bytes, sentence: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        publish(body)
    assert caught.value.message == "invalid JSON"
    assert [problem.sentence() for problem in caught.value.problems] == [sentence]
    with pytest.raises(errors.Invalid):
        form_of(body)


def test_brackets_in_text_are_no_nesting() -> None:
    assert publish({**VALID, "data": {"a": "[{" * 1000, "b": '\\"[' * 300}}).data


def test_many_brackets_side_by_side_are_no_nesting() -> None:
    assert publish({**VALID, "data": {"a": [[]] * 1000}}).data


def test_a_number_that_no_decoder_holds_is_passed_on() -> None:
    body = b'{"tenant_id":"acme","topic":"user.created","data":{"a":1e999}}'
    assert b'{"a":1e999}' == publish(body).data


@pytest.mark.case(16)
def test_a_byte_order_mark_is_no_part_of_a_body() -> None:
    body = b"\xef\xbb\xbf" + msgspec.json.encode(VALID)
    assert publish(body).data == b'{"n":1}'
    assert form_faults(b'\xef\xbb\xbf{"topics":["a"]}') == []
    assert faults(b"\xef\xbb\xbf\xef\xbb\xbf{}") == ["body failed json validation"]


@pytest.mark.behaviour(18)
@pytest.mark.parametrize(
    ("topic", "sentence"),
    [(None, "topic is required"), ("", "topic is required"), ("other", "topic is invalid")],
)
def test_a_topic_is_one_of_the_configured(topic: str | None, sentence: str) -> None:
    assert faults({**VALID, "topic": topic}) == [sentence]


def test_the_topic_of_everything_is_accepted() -> None:
    assert publish({**VALID, "topic": "*"}).topic == "*"


def test_without_configured_topics_any_topic_and_none_is_accepted() -> None:
    assert publish({**VALID, "topic": "anything"}, ANY_TOPIC).topic == "anything"
    assert publish({"tenant_id": "acme", "data": {}}, ANY_TOPIC).topic == ""


@pytest.mark.parametrize("field", ["tenant_id", "id", "destination_id", "topic"])
@pytest.mark.parametrize("value", ["\x00", "a\tb", "a\x7f", "\x85", "x" * 256, "é" * 128])
def test_ids_and_topics_are_short_and_without_control_characters(field: str, value: str) -> None:
    assert len(faults({**VALID, field: value}, ANY_TOPIC)) == 1


@pytest.mark.parametrize("value", ["x" * 255, "é" * 127, "a b", "日本語", 'quote"{}|\\'])
def test_other_text_is_a_fine_id(value: str) -> None:
    request = publish({**VALID, "tenant_id": value, "id": value}, ANY_TOPIC)
    assert request.id == value
    assert request.tenant == value


IGNORING = msgspec.structs.replace(TOPICS, api_unknown_fields="ignore")


def test_unknown_fields_of_a_publish_are_named_with_all_else_that_is_wrong() -> None:
    body = {"destinationId": "d", **VALID, "filters": [1], "topic": "unknown", "a\nb": 1}
    names = ["destinationId is not known here", "filters is not known here", "a?b is not known here"]
    assert faults(body) == [*names, "topic is invalid"]


def test_a_thousand_unknown_fields_are_not_all_named() -> None:
    body = {**VALID, **{f"f{number}" * 100: None for number in range(1_000)}}
    found = faults(body)
    assert values.MAX_PROBLEMS == len(found)
    assert max(len(sentence) for sentence in found) < 100


def test_unknown_fields_are_ignored_where_that_is_set() -> None:
    assert publish({**VALID, "unknown": [1]}, IGNORING).tenant == "acme"
    assert faults({**VALID, "unknown": [1], "topic": 1}, IGNORING) == ["topic failed type validation"]


@pytest.mark.parametrize("patch", [True, False])
def test_unknown_fields_of_destinations_and_tenants_are_named(patch: bool) -> None:
    assert form_faults({"filters": {}, "topic": "a"}, patch=patch)[:2] == [
        "filters is not known here",
        "topic is not known here",
    ]
    with pytest.raises(errors.Invalid) as caught:
        destination_forms.tenant_metadata(b'{"meta":{}}')
    assert ["meta is not known here"] == [problem.sentence() for problem in caught.value.problems]
    ignoring = destination_forms.destination_form(b'{"filters":1}', NOW_MS, patch=patch, refuses_unknown=False)
    assert ignoring.problems == []
    assert destination_forms.tenant_metadata(b'{"meta":{}}', refuses_unknown=False) is None


def test_what_answers_show_may_be_sent_back() -> None:
    shown = {field.encode_name: None for field in msgspec.structs.fields(schemas.Destination)}
    assert form_faults(shown, patch=True) == []
    tenant = {field.encode_name: None for field in msgspec.structs.fields(schemas.Tenant)}
    assert destination_forms.tenant_metadata(msgspec.json.encode(tenant)) is None


def test_unknown_fields_of_a_retry_are_named() -> None:
    with pytest.raises(errors.Invalid) as caught:
        retry.wanted(b'{"event_id":"e","destination_id":"d","tenantId":"t"}')
    assert ["tenantId is not known here"] == [problem.sentence() for problem in caught.value.problems]
    wanted = retry.wanted(b'{"event_id":"e","destination_id":"d","tenantId":"t"}', refuses_unknown=False)
    assert retry.Wanted("e", "d") == wanted


def test_the_schemas_know_the_same_fields_as_the_forms() -> None:
    def names(struct: type[msgspec.Struct]) -> list[str]:
        return sorted(field.encode_name for field in msgspec.structs.fields(struct))

    assert names(schemas.PublishRequest) == sorted(forms.FIELDS)
    assert form_faults(dict.fromkeys(names(schemas.DestinationCreate))) == []
    assert form_faults(dict.fromkeys(names(schemas.DestinationUpdate)), patch=True) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05.000Z"),
        ("2026-01-02t03:04:05z", "2026-01-02T03:04:05.000Z"),
        ("2026-01-02T03:04:05.9999999Z", "2026-01-02T03:04:05.999Z"),
        ("2026-01-01T23:30:00-03:30", "2026-01-02T03:00:00.000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_moments_are_normalised_to_utc_milliseconds(text: str, expected: str) -> None:
    assert publish({**VALID, "time": text}).time == expected


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02 03:04:05Z",
        "2026-13-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02T24:00:00Z",
        "2026-01-02T03:04:60Z",
        "2026-01-02T03:04:05+0100",
        "2026-01-02T03:04:05+25:00",
        "2026-01-02T03:04:05.Z",
        "٢٠٢٦-01-02T03:04:05Z",
        "1969-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
        "1790000000",
        "",
    ],
)
def test_what_is_no_moment_that_can_be_kept_is_refused(text: str) -> None:
    assert faults({**VALID, "time": text}) == ["time must be an RFC 3339 date-time between 1970 and 2200"]


@given(st.integers(times.EARLIEST_MS, times.LATEST_MS - 1))
def test_a_moment_reads_back_as_it_was_written(ms: int) -> None:
    assert times.parse(times.text(ms)) == ms


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "tenant_id",
        "id",
        "topic",
        "destination_id",
        "eligible_for_retry",
        "time",
        "metadata",
        "data",
        "type",
        "topics",
        "config",
        "credentials",
        "delivery_metadata",
        "filter",
        "created_at",
        "disabled_at",
        "unknown",
    ]
)


@given(st.dictionaries(FIELDS, JSON | st.just("user.created")))
def test_no_body_makes_a_form_fail_in_another_way(body: dict[str, object]) -> None:
    try:
        raw = msgspec.json.encode(body)
    except OverflowError:
        return
    for read in (publish, form_of):
        with contextlib.suppress(errors.Invalid):
            read(raw)


@given(st.binary(max_size=60))
def test_no_bytes_make_a_form_fail_in_another_way(body: bytes) -> None:
    for read in (publish, form_of, destination_forms.tenant_metadata):
        with contextlib.suppress(errors.Invalid):
            read(body)


@pytest.mark.behaviour(29)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (42, "42"),
        (True, "true"),
        (3.14, "3.14"),
        (1_000_000, "1000000"),
        (1_000_000.0, "1000000"),
        (123_456_789_012_345_678_901, "123456789012345678901"),
        (None, ""),
        ({"b": 1, "a": [True, None]}, '{"b":1,"a":[true,null]}'),
        ([], "[]"),
    ],
)
def test_tenant_metadata_takes_any_value_as_text(value: object, text: str) -> None:
    body = msgspec.json.encode({"metadata": {"k": value}})
    assert destination_forms.tenant_metadata(body) == {"k": text}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"metadata":null}'])
def test_a_tenant_body_without_metadata_clears_it(body: bytes) -> None:
    assert destination_forms.tenant_metadata(body) is None


def test_maps_of_a_destination_keep_null_apart_from_text() -> None:
    form = form_of({"config": {"a": None, "b": 1}, "credentials": None, "metadata": {}})
    assert form.config == {"a": None, "b": "1"}
    assert form.credentials is None
    assert form.metadata == {}
    assert form.delivery_metadata is UNSET


def test_what_a_patch_may_not_change_is_ignored() -> None:
    form = form_of({"id": 7, "created_at": "never", "updated_at": 1}, patch=True)
    assert form.problems == []
    assert form.id is UNSET
    assert form.created_ms is UNSET


def test_every_fault_of_a_destination_is_told() -> None:
    body = {
        "id": "a\x01",
        "type": ["webhook"],
        "config": [],
        "credentials": "x",
        "delivery_metadata": {"a\nb": "x", "c": "d\r\ne"},
        "metadata": {"k": "v" * 2049},
        "created_at": "2999-01-01T00:00:00Z",
        "updated_at": 5,
        "disabled_at": "tomorrow",
    }
    assert form_faults(body) == [
        "type failed type validation",
        "config failed type validation",
        "credentials failed type validation",
        "delivery_metadata.a?b must not contain control characters",
        "delivery_metadata.c must not contain control characters",
        "metadata.k must be at most 2048 bytes",
        "disabled_at must be an RFC 3339 date-time between 1970 and 2200",
        "id must not contain control characters",
        "created_at must be an RFC 3339 date-time between 1970 and 2200",
        "updated_at failed type validation",
    ]


@pytest.mark.behaviour(40)
@pytest.mark.parametrize("field", ["created_at", "updated_at", "disabled_at"])
def test_moments_of_a_destination_lie_in_the_past(field: str) -> None:
    assert form_faults({field: "2100-01-01T00:00:00Z"}) == [f"{field} cannot be in the future"]
    assert form_faults({field: NOW}) == []


def test_secrets_may_hold_what_metadata_may_not() -> None:
    form = form_of({"credentials": {"key": "-----BEGIN\nlines\n" + "x" * 5000}})
    assert form.problems == []


def test_a_key_that_an_answer_repeats_is_cut_and_cleaned() -> None:
    assert values.path_of("metadata", "a\nb" + "x" * 100) == "metadata.a?b" + "x" * 61


@pytest.mark.case(19)
@pytest.mark.parametrize("value", ["x" * 900, "x" * 8_192, "é" * 4_096, "eyJhbGciOi" * 100])
def test_a_long_value_of_metadata_is_taken(value: str) -> None:
    assert publish({**VALID, "metadata": {"authorization-token": value}}).metadata == {
        "authorization-token": value
    }


@pytest.mark.case(19)
def test_two_hundred_keys_of_metadata_are_taken_and_more_than_a_head_holds_is_not() -> None:
    assert 200 == len(publish({**VALID, "metadata": {f"key-{n}": "v" for n in range(200)}}).metadata)
    most = {"a" * 100: "x" * 8_092, "b" * 100: "é" * 4_046}
    assert publish({**VALID, "metadata": most}).metadata == most
    told = ["metadata must have at most 16384 bytes of keys and values"]
    assert faults({**VALID, "metadata": {**most, "": "x"}}) == told
    assert form_faults({"delivery_metadata": {f"k{n}": "v" * 2_048 for n in range(8)}}) == ["delivery_" + told[0]]
    assert form_faults({"metadata": {f"k{n}": "v" * 2_048 for n in range(8)}}) == []


@pytest.mark.case(19)
def test_a_key_of_metadata_has_255_bytes() -> None:
    assert faults({**VALID, "metadata": {"k" * 256: "v"}}) == [f"metadata.{'k' * 64} must be at most 255 bytes"]
