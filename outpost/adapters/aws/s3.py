"""The aws_s3 destination type: an event becomes one object of a bucket.

Its key comes from a template over the event and its own time, never that of the attempt, so that an event that is
sent again overwrites its object rather than making another. Amazon gets a checksum header of its own; services
that only resemble S3 answer those with errors, and get the Content-MD5 that all of them know, under the signature.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from outpost import errors
from outpost.adapters import base, codes, declared, extras
from outpost.adapters.aws import client as aws_client
from outpost.adapters.aws import s3_metadata
from outpost.adapters.shared import metadata, templates
from outpost.adapters.shared import resources as shared_
from outpost.domain import delivery, times

TYPE = "aws_s3"
TEMPLATE = "key_template"
USUAL_CLASS = "STANDARD"
NO_ETAG = "the service gave the object no ETag"

# https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutObject.html#AmazonS3-PutObject-request-header-StorageClass
CLASSES = frozenset(
    {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER", "GLACIER_IR"}
    | {"DEEP_ARCHIVE", "OUTPOSTS", "SNOW", "EXPRESS_ONEZONE", "FSX_OPENZFS", "FSX_ONTAP"}
)
_CONSOLES = {"cn-": "console.amazonaws.cn/s3", "us-gov-": "console.amazonaws-us-gov.com/s3"}
_CONSOLE = "s3.console.aws.amazon.com/s3"
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn")
MAX_KEY_BYTES = 1_024
# What botocore sends: a name, or the ARN of an access point.
_BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}|arn:aws[a-z-]*:[a-z0-9-]+:[a-z0-9-]*:[0-9]*:[a-zA-Z0-9._:/-]{1,255}")
_PASTED = re.compile(r"(?:s3://|arn:aws[a-z-]*:s3:::)([a-zA-Z0-9._-]+)/?")
# No checksum beside those that are asked for.
_PLAIN: dict[str, Any] = {
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


class S3(declared.Declared):
    """The type; see base.Adapter."""

    max_open = 600  # a client of this service takes 330 KB, and a type may have 200 MB

    def completed(
        self, config: dict[str, str], credentials: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Without the blanks that come with pasting; the bucket without what is before its name."""
        for key in config.keys() - {TEMPLATE}:
            config[key] = config[key].strip()
        if found := _PASTED.fullmatch(config.get("bucket", "")):
            config["bucket"] = found[1]
        return config, credentials

    def problems(self, config: Mapping[str, str], credentials: Mapping[str, str]) -> list[errors.Problem]:
        """The bucket has to have a bucket's name; the key template has to be one, the storage class one of
        Amazon's."""
        found = [] if _BUCKET.fullmatch(config.get("bucket", "")) else [errors.Problem("config.bucket", "pattern")]
        found += templates.problems(config, TEMPLATE)
        if storage_class(config) not in CLASSES:
            found.append(errors.Problem("config.storage_class", "enum"))
        return found

    def target(self, destination: base.OpenDestination) -> tuple[str, str | None]:
        """The bucket and where it is; Amazon's console, unless the bucket is another's."""
        bucket, region = destination.config.get("bucket", ""), destination.config.get("region", "")
        return f"{bucket} in {region}", console(bucket, region, destination.config.get("endpoint", ""))

    async def connect(self, destination: base.OpenDestination) -> Publisher:
        """A publisher; opens no connection yet. Raises errors.Invalid where what is stored cannot be used."""
        config = destination.config
        if found := self.problems(config, {}):
            raise errors.Invalid(found)
        endpoint = config.get("endpoint", "")
        place = aws_client.Place(
            "s3",
            config.get("region", ""),
            endpoint,
            destination.credentials.get("key", ""),
            destination.credentials.get("secret", ""),
            destination.credentials.get("session", ""),
            destination.tenant,
        )
        # Whoever has an endpoint of their own has no host name for each bucket.
        style = {"addressing_style": "path" if endpoint else "auto"}
        own = not is_amazon(endpoint)
        signed = {"payload_signing_enabled": True} if own else {}
        client = aws_client.Client(self._shared, place, s3={**style, **signed}, **(_PLAIN if own else {}))
        fixed = {
            "Bucket": config.get("bucket", ""),
            "StorageClass": storage_class(config),
            "ContentType": "application/json",
        }
        milliseconds = self._shared.settings.include_millisecond_timestamp
        keys = Keys(config.get(TEMPLATE, ""), destination.delivery_metadata, milliseconds=milliseconds)
        return Publisher(client, self._metadata(destination), keys, fixed, md5 if own else sha256)


def build(shared: shared_.Shared) -> S3:
    """The type as the settings want it."""
    return S3(TYPE, shared, extras.missing(TYPE, "botocore", "aws"))


def storage_class(config: Mapping[str, str]) -> str:
    """As it is sent: in capitals however it was saved."""
    return config.get("storage_class", "").upper() or USUAL_CLASS


def console(bucket: str, region: str, endpoint: str) -> str | None:
    """The page of the bucket, if it is one of Amazon's."""
    if not is_amazon(endpoint):
        return None
    host = next((host for prefix, host in _CONSOLES.items() if region.startswith(prefix)), _CONSOLE)
    return f"https://{host}/buckets/{urllib.parse.quote(bucket, safe='')}?region={urllib.parse.quote(region)}"


def is_amazon(endpoint: str) -> bool:
    """Whether Amazon's own S3 is there: at one of its names, or where no endpoint is given."""
    return not endpoint or (urllib.parse.urlsplit(endpoint).hostname or "").endswith(_AMAZON)


def sha256(data: bytes) -> dict[str, str]:
    """The parameter by which Amazon checks what it got."""
    return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(data).digest()).decode()}


def md5(data: bytes) -> dict[str, str]:
    """The parameter by which every service of the protocol does; a bucket with locks demands one."""
    return {"ContentMD5": base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


class Keys:
    """The object keys of one destination."""

    def __init__(self, template: str, delivery_metadata: Mapping[str, str], *, milliseconds: bool) -> None:
        self._template = templates.compiled(template) if template else None
        self._delivery_metadata = delivery_metadata
        self._milliseconds = milliseconds

    def key(self, event: base.Delivery) -> str | None:
        """The same for every attempt at `event`; None if the template gives none."""
        at_us = times.parse_micros(event.time)
        if at_us is None:
            return None
        merged = metadata.Merger(
            self._delivery_metadata, milliseconds=self._milliseconds, clock_ns=lambda: at_us * 1000
        ).merged(event)
        moment = parts(at_us)
        if self._template is None:
            return f"{moment['rfc3339_nano']}_{merged[metadata.EVENT_ID]}.json"
        data = templates.document(event.data)
        return self._template.text({"data": data, "metadata": merged, "time": moment})


def parts(at_us: int) -> dict[str, str]:
    """What templates know as `time`: a moment (Unix microseconds) in UTC."""
    whole = metadata.seconds(at_us * 1000)
    date, _, clock = whole.removesuffix("Z").partition("T")
    year, month, day = date.split("-")
    hour, minute, second = clock.split(":")
    return {
        "year": year,
        "month": month,
        "day": day,
        "hour": hour,
        "minute": minute,
        "second": second,
        "date": date,
        "datetime": f"{date}T{clock}",
        "unix": str(at_us // 1_000_000),
        "rfc3339": whole,
        "rfc3339_nano": metadata.nanoseconds(at_us * 1000),
    }


class Publisher:
    """Puts objects into one bucket; see base.Publisher. `fixed`: the parameters that all calls have in common;
    `check`: makes that of the data's digest."""

    max_batch = 1

    def __init__(
        self,
        client: aws_client.Client,
        merger: metadata.Merger,
        keys: Keys,
        fixed: Mapping[str, Any],
        check: Callable[[bytes], dict[str, str]],
    ) -> None:
        self._client = client
        self._merger = merger
        self._keys = keys
        self._fixed = fixed
        self._check = check

    async def send(self, batch: Sequence[base.Delivery], deadline: float) -> list[delivery.Outcome]:
        """One object an event, at once."""
        if len(batch) == 1:
            return [await self._put(batch[0], deadline)]
        return await asyncio.gather(*(self._put(event, deadline) for event in batch))

    async def close(self) -> None:
        """Cuts off what is under way."""
        await self._client.close()

    async def _put(self, event: base.Delivery, deadline: float) -> delivery.Outcome:
        key = self._keys.key(event)
        if key is None:
            return codes.UNFORMATTED
        if (size := len(key.encode("utf-8", "replace"))) > MAX_KEY_BYTES:
            text = f"the key of the object has {size} bytes, and may have {MAX_KEY_BYTES}"
            return codes.failed(codes.Code.MESSAGE_REFUSED, text)
        told, left_out = s3_metadata.fitting(self._merger.merged(event))
        asked = {
            **self._fixed,
            "Key": key,
            "Body": event.data,
            "Metadata": told,
            **self._check(event.data),
        }
        answer = await self._client.call("put_object", asked, deadline)
        if isinstance(answer, aws_client.Refusal):
            return answer.outcome
        if not answer.get("ETag"):  # some services answer 200 and an error, or anything, for what they do not know
            return codes.failed(codes.Code.ERR, NO_ETAG)
        response = metadata.noted({"bucket": self._fixed["Bucket"], "key": key}, left_out)
        return delivery.Delivered(codes.OK, response)
