"""aws_s3: what is saved, which key an object gets, and that no metadata breaks the request."""

from __future__ import annotations

import base64
import email.header
import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpost import errors, settings
from outpost.adapters import base, codes
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import s3 as aws_s3
from outpost.adapters.aws import s3_metadata
from outpost.adapters.shared import metadata
from outpost.adapters.shared import resources as shared
from outpost.domain import delivery

CONFIG = {"bucket": "my-bucket", "region": "eu-central-1"}
CREDENTIALS = {"key": "AKIDEXAMPLE", "secret": "very-secret", "session": "a-long-session-token"}
DATA = b'{"b": 1.0,  "customer":{"id":"c<1>"}, "n":42}'
EVENT = base.Delivery("evt_1", "order.created", "2026-01-02T03:04:05.600Z", {"tier": "gold"}, DATA, 1)


@pytest.fixture
def s3() -> aws_s3.S3:
    return aws_s3.build(shared.Shared(settings.Settings()))


def saved(s3: aws_s3.S3, config: dict[str, str], credentials: dict[str, str] = CREDENTIALS) -> base.Prepared:
    return s3.prepare(base.Save(config, credentials, None, credentials, True, 0))


@pytest.mark.behaviour(130, 133)
def test_everything_that_is_missing_is_named_at_once(s3: aws_s3.S3):
    assert [
        errors.Problem("config.bucket", "required"),
        errors.Problem("config.region", "required"),
        errors.Problem("credentials.key", "required"),
        errors.Problem("credentials.secret", "required"),
    ] == saved(s3, {}, {}).problems


@pytest.mark.behaviour(133)
def test_template_and_storage_class_are_checked_when_they_are_saved(s3: aws_s3.S3):
    config = {**CONFIG, "key_template": "join('', [", "storage_class": "COLD"}
    assert [
        errors.Problem("config.key_template", "pattern"),
        errors.Problem("config.storage_class", "enum"),
    ] == saved(s3, config).problems


@pytest.mark.parametrize("endpoint", ["minio.local", "ftp://minio.local", "http://u:p@minio.local"])
def test_the_endpoint_is_a_field_like_others(s3: aws_s3.S3, endpoint: str):
    assert "endpoint" in {field.key for field in s3.description.config_fields}
    assert [errors.Problem("config.endpoint", "pattern")] == saved(s3, {**CONFIG, "endpoint": endpoint}).problems
    assert [] == saved(s3, {**CONFIG, "endpoint": "http://minio.local:9000"}).problems


@pytest.mark.behaviour(133)
@pytest.mark.parametrize(
    ("given", "sent"),
    [("", "STANDARD"), ("glacier", "GLACIER"), ("Deep_Archive", "DEEP_ARCHIVE"), ("GLACIER_IR", "GLACIER_IR")],
)
def test_a_storage_class_is_one_of_amazons_in_any_case(s3: aws_s3.S3, given: str, sent: str):
    config = {**CONFIG, "storage_class": given}
    assert config == saved(s3, config).config
    assert sent == aws_s3.storage_class(config)


@pytest.mark.parametrize("region", ["us-gov-west-1", "eu-central-1", "cn-north-1"])
def test_a_region_may_have_three_or_four_parts(s3: aws_s3.S3, region: str):
    assert [] == saved(s3, {**CONFIG, "region": region}).problems


@pytest.mark.behaviour(133)
@pytest.mark.parametrize(
    ("changes", "page"),
    [
        ({}, "https://s3.console.aws.amazon.com/s3/buckets/my-bucket?region=eu-central-1"),
        (
            {"region": "us-gov-west-1"},
            "https://console.amazonaws-us-gov.com/s3/buckets/my-bucket?region=us-gov-west-1",
        ),
        ({"region": "cn-north-1"}, "https://console.amazonaws.cn/s3/buckets/my-bucket?region=cn-north-1"),
        ({"endpoint": "http://minio.local:9000"}, None),
        (
            {"endpoint": "https://bucket.vpce-1.s3.eu-central-1.vpce.amazonaws.com"},
            "https://s3.console.aws.amazon.com/s3/buckets/my-bucket?region=eu-central-1",
        ),
        (
            {"bucket": "arn:aws:s3:::x/y?z"},
            "https://s3.console.aws.amazon.com/s3/buckets/arn%3Aaws%3As3%3A%3A%3Ax%2Fy%3Fz?region=eu-central-1",
        ),
    ],
)
def test_the_target_is_the_bucket_with_its_page_at_amazon(
    s3: aws_s3.S3, changes: dict[str, str], page: str | None
):
    config = {**CONFIG, **changes}
    opened = base.OpenDestination("t", "d", "aws_s3", config, CREDENTIALS, {})
    assert (f"{config['bucket']} in {config['region']}", page) == s3.target(opened)


def test_all_three_credentials_are_masked(s3: aws_s3.S3):
    assert {
        "key": "AKID*******",
        "secret": "very*******",
        "session": "a-lo****************",
    } == s3.shown_credentials(CREDENTIALS, 0)


async def test_a_stored_template_that_is_none_any_more_opens_nothing(s3: aws_s3.S3):
    with pytest.raises(errors.Invalid):
        await s3.connect(
            base.OpenDestination("t", "d", "aws_s3", {**CONFIG, "key_template": "["}, CREDENTIALS, {})
        )


def key(template: str = "", event: base.Delivery = EVENT, *, milliseconds: bool = False) -> str | None:
    return aws_s3.Keys(template, {"team": "blue"}, milliseconds=milliseconds).key(event)


@pytest.mark.behaviour(133)
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", "2026-01-02T03:04:05.6Z_evt_1.json"),
        (
            "join('', [time.rfc3339_nano, '_', metadata.\"event-id\", '.json'])",
            "2026-01-02T03:04:05.6Z_evt_1.json",
        ),
        (
            "join('/', [time.year, time.month, time.day, time.hour, time.minute, time.second])",
            "2026/01/02/03/04/05",
        ),
        ("join('/', [time.date, time.datetime, time.unix])", "2026-01-02/2026-01-02T03:04:05/1767323045"),
        ("time.rfc3339", "2026-01-02T03:04:05Z"),
        (
            "join('/', [metadata.topic, metadata.team, metadata.tier, data.customer.id])",
            "order.created/blue/gold/c<1>",
        ),
        ("data.n", "42"),
        ("data.n > `1`", "true"),
        ("data.missing", None),
        ("''", None),
        ("length(data.n)", None),
    ],
)
def test_the_key_is_what_the_template_says(template: str, expected: str | None):
    assert expected == key(template)


@pytest.mark.behaviour(133)
def test_the_usual_key_takes_the_event_id_of_the_metadata():
    event = base.Delivery("evt_1", "t", "2026-01-02T03:04:05.000Z", {"event-id": "mine"}, b"{}", 1)
    assert "2026-01-02T03:04:05Z_mine.json" == key("", event)


def test_the_timestamp_of_a_template_is_the_events_own_so_that_each_attempt_writes_the_same_object():
    template = "join('_', [metadata.timestamp, metadata.\"timestamp-ms\"])"
    assert "2026-01-02T03:04:05Z_2026-01-02T03:04:05.6Z" == key(template, milliseconds=True)


class Service:
    """Stands in for a client."""

    def __init__(self, answer: dict[str, Any] | aws_client.Refusal) -> None:
        self.asked: list[dict[str, Any]] = []
        self._answer = answer

    async def call(
        self, operation: str, parameters: dict[str, Any], deadline: float
    ) -> dict[str, Any] | aws_client.Refusal:
        assert ("put_object", 5.0) == (operation, deadline)
        self.asked.append(parameters)
        return self._answer


def publisher(service: Service, template: str = "") -> aws_s3.Publisher:
    client: Any = service
    merger = metadata.Merger({"team": "blue"}, milliseconds=False, clock_ns=lambda: 1_800_000_000 * 10**9)
    keys = aws_s3.Keys(template, {"team": "blue"}, milliseconds=False)
    return aws_s3.Publisher(
        client, merger, keys, {"Bucket": "my-bucket", "StorageClass": "STANDARD"}, aws_s3.sha256
    )


@pytest.mark.behaviour(130, 133)
async def test_an_object_holds_the_data_and_says_when_it_was_sent():
    service = Service({"ETag": '"0"'})
    [outcome] = await publisher(service).send([EVENT], 5.0)
    expected = "2026-01-02T03:04:05.6Z_evt_1.json"
    assert delivery.Delivered("OK", {"bucket": "my-bucket", "key": expected}) == outcome
    assert [
        {
            "Bucket": "my-bucket",
            "StorageClass": "STANDARD",
            "Key": expected,
            "Body": DATA,
            "Metadata": {
                "timestamp": "2027-01-15T08:00:00Z",
                "event-id": "evt_1",
                "topic": "order.created",
                "team": "blue",
                "tier": "gold",
            },
            "ChecksumSHA256": base64.b64encode(hashlib.sha256(DATA).digest()).decode(),
        }
    ] == service.asked


@pytest.mark.behaviour(103, 133)
async def test_a_template_that_says_nothing_fails_the_delivery_and_asks_nobody():
    service = Service({})
    assert [codes.UNFORMATTED] == await publisher(service, "data.missing").send([EVENT], 5.0)
    assert [] == service.asked


@pytest.mark.parametrize("answer", [{}, {"ETag": ""}, {"Error": {"Code": "InternalError"}}])
async def test_an_answer_without_an_etag_is_no_success(answer: dict[str, Any]):
    expected = codes.failed(codes.Code.ERR, "the service gave the object no ETag")
    assert [expected] == await publisher(Service(answer)).send([EVENT], 5.0)


async def test_a_refusal_is_the_outcome():
    denied = codes.failed(codes.Code.ACCESS_DENIED, "no")
    assert [denied, denied] == await publisher(Service(aws_client.Refusal(denied))).send([EVENT, EVENT], 5.0)


@pytest.mark.parametrize(
    ("told", "sent"),
    [
        ({"Team": "Blue"}, {"team": "Blue"}),
        ({"Team": "a", "TEAM": "b"}, {"team": "b"}),
        ({"": "x"}, {}),
        ({"empty": ""}, {"empty": ""}),
        ({"two words": "x"}, {"two%20words": "x"}),
        ({"größe": "x"}, {"gr%C3%B6%C3%9Fe": "x"}),
        ({"a:b\r\nc": "x"}, {"a%3Ab%0D%0Ac": "x"}),
        ({"100%": "x"}, {"100%25": "x"}),
        ({"a": "Zoë"}, {"a": "=?UTF-8?B?Wm/Dqw==?="}),
        ({"a": "1\r\nx-amz-acl: public-read"}, {"a": "=?UTF-8?B?MQ0KeC1hbXotYWNsOiBwdWJsaWMtcmVhZA==?="}),
        ({"a": " x "}, {"a": "=?UTF-8?B?IHgg?="}),
        ({"a": "=?UTF-8?B?eA==?="}, {"a": "=?UTF-8?B?PT9VVEYtOD9CP2VBPT0/PQ==?="}),
    ],
)
def test_metadata_is_written_so_that_a_header_can_hold_it(told: dict[str, str], sent: dict[str, str]):
    assert sent == s3_metadata.headers(told)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_is_a_header_and_comes_back(text: str):
    sent = s3_metadata.value(text)
    assert sent.isascii()
    assert sent.isprintable()
    assert sent == sent.strip()
    assert text == str(email.header.make_header(email.header.decode_header(sent)))
    assert all(len(word) <= 75 for word in sent.split(" ")) or sent == text
    assert re.fullmatch(r"[!#$&'*+.^_`|~0-9A-Za-z%-]+", s3_metadata.name(text))


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=600)


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30), TEXTS, max_size=12))
def test_metadata_that_an_object_cannot_carry_is_left_out_and_named(told: dict[str, str]):
    kept, left_out = s3_metadata.fitting({"event-id": "e1", **told})
    assert sum(len(name) + len(value) for name, value in kept.items()) <= s3_metadata.MAX_BYTES
    assert "event-id" in kept
    whole = s3_metadata.headers({"event-id": "e1", **told})
    assert kept == {name: whole[name] for name in kept}
    assert whole.keys() - kept.keys() == {s3_metadata.name(key) for key in left_out}


def test_an_attempt_names_what_was_left_out_up_to_twenty_keys():
    assert {"key": "k"} == metadata.noted({"key": "k"}, [])
    found = metadata.noted({}, [f"k{number}" for number in range(100)])
    assert [f"k{number}" for number in range(metadata.MAX_NOTED)] == found[metadata.LEFT_OUT]


@pytest.mark.parametrize(
    ("pasted", "stored"),
    [
        (" my-bucket\n", "my-bucket"),
        ("arn:aws:s3:::my-bucket", "my-bucket"),
        ("arn:aws-us-gov:s3:::my.bucket_1", "my.bucket_1"),
        ("s3://my-bucket", "my-bucket"),
        ("s3://my-bucket/", "my-bucket"),
        (
            "arn:aws:s3:eu-central-1:123456789012:accesspoint/a",
            "arn:aws:s3:eu-central-1:123456789012:accesspoint/a",
        ),
    ],
)
def test_the_name_of_a_bucket_as_consoles_show_it_is_taken(s3: aws_s3.S3, pasted: str, stored: str):
    credentials = {"key": "k", "secret": "s"}
    prepared = s3.prepare(base.Save(CONFIG | {"bucket": pasted}, credentials, None, credentials, True, 0))
    assert ([], stored) == (prepared.problems, prepared.config["bucket"])


@pytest.mark.parametrize("bucket", ["my bucket", "bucket/folder", "s3://bucket/folder", "b" * 256, "b?x"])
def test_what_no_bucket_can_be_called_is_refused_when_it_is_saved(s3: aws_s3.S3, bucket: str):
    credentials = {"key": "k", "secret": "s"}
    prepared = s3.prepare(base.Save(CONFIG | {"bucket": bucket}, credentials, None, credentials, True, 0))
    assert [errors.Problem("config.bucket", "pattern")] == prepared.problems


@pytest.mark.parametrize(
    ("endpoint", "amazons"),
    [
        ("", True),
        ("https://s3.eu-central-1.amazonaws.com", True),
        ("https://bucket.vpce-1.s3.eu-central-1.vpce.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://minio.example:9000", False),
        ("https://s3.amazonaws.com.example", False),
        ("http://127.0.0.1:9000", False),
    ],
)
def test_amazons_own_s3_is_known_by_its_name(endpoint: str, amazons: bool):
    assert amazons == aws_s3.is_amazon(endpoint)
