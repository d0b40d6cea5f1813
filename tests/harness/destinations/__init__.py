"""The services that events are delivered to: real ones, or stand-ins that speak the same protocol.

`WORLDS` names the world of each type; `tests/contract/test_destination_types.py` runs every case against each.
"""

from __future__ import annotations

import importlib

from tests.harness.destinations import world

# type -> `module:class` below this package
WORLDS: dict[str, str] = {
    "webhook": "webhook:World",
    "hookdeck": "hookdeck:World",
    "aws_sqs": "sqs:World",
    "aws_kinesis": "kinesis:World",
    "aws_s3": "s3:World",
    "aws_eventbridge": "eventbridge:World",
    "azure_servicebus": "servicebus:World",
    "gcp_pubsub": "pubsub:World",
    "rabbitmq": "rabbitmq:World",
    "kafka": "kafka:World",
}


def world_of(type_: str) -> type[world.World]:
    """The world of a type; imports what that needs."""
    module, _, name = WORLDS[type_].partition(":")
    found: type[world.World] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return found
