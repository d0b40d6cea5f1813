"""The services of `make bench-destinations`, without the proxies of the worlds: what is to be measured is the
sender. Each runs in a process of its own, `python -m tests.benchmarks.stage`, told by lines on stdin:
see `tests.benchmarks.stand_ins` for what is asked and answered.
"""

from __future__ import annotations

import abc
import asyncio
import importlib
import secrets

from outpost.cli.bench import pipe
from tests.benchmarks import stand_ins
from tests.harness import destinations

ARRIVAL_LIMIT_S = 60.0
POLL_S = 0.05
INSTALL = "its stand-in needs {}: pip install -e '.[dev]'"

# type -> `module:class` beside this one
STAGES = {
    "webhook": "stage_others:Webhook",
    "hookdeck": "stage_others:Hookdeck",
    "aws_sqs": "stage_aws:Sqs",
    "aws_kinesis": "stage_aws:Kinesis",
    "aws_s3": "stage_aws:S3",
    "aws_eventbridge": "stage_aws:EventBridge",
    "azure_servicebus": "stage_others:ServiceBus",
    "gcp_pubsub": "stage_others:PubSub",
    "rabbitmq": "stage_brokers:RabbitMQ",
    "kafka": "stage_brokers:Kafka",
}


class Stage(abc.ABC):
    """One service. `start` is called once, `target` for every side that is measured."""

    @abc.abstractmethod
    async def start(self) -> None: ...

    @abc.abstractmethod
    async def target(self, name: str) -> stand_ins.Place:
        """A place of that name."""

    @abc.abstractmethod
    async def count(self, key: str) -> int:
        """How many events are in it."""

    @abc.abstractmethod
    async def close(self) -> None: ...


def found(type_: str) -> Stage | str:
    """The stage of a type, or what has to be installed for it."""
    module, _, name = STAGES[type_].partition(":")
    try:
        missing = destinations.world_of(type_).missing() if type_ in destinations.WORLDS else ""
        made: Stage = getattr(importlib.import_module(f"tests.benchmarks.{module}"), name)()
    except ModuleNotFoundError as error:
        return INSTALL.format(error.name)
    return missing or made


async def serve(commands: pipe.Commands) -> None:
    """Answers until the command closes the pipe."""
    stage = found(commands.decode(await commands.line(), stand_ins.Wanted).type)
    commands.answer(stand_ins.Found(stage if isinstance(stage, str) else ""))
    started = False
    while line := await commands.line():
        asked = commands.decode(line, stand_ins.Ask)
        if isinstance(stage, str):
            commands.answer(stand_ins.Count(0))
            continue
        match asked.do:
            case "target":
                if not started:
                    await stage.start()
                    started = True
                commands.answer(await stage.target(f"bench-{secrets.token_hex(4)}"))
            case "count":
                commands.answer(stand_ins.Count(await _arrived(stage, asked)))
            case "close":
                if started:
                    await stage.close()
                commands.answer(stand_ins.Count(0))


async def _arrived(stage: Stage, asked: stand_ins.Ask) -> int:
    loop = asyncio.get_running_loop()
    end = loop.time() + ARRIVAL_LIMIT_S
    while (there := await stage.count(asked.key)) < asked.expected and loop.time() < end:
        await asyncio.sleep(POLL_S)
    return there


async def _main() -> None:
    await serve(await pipe.Commands.open())


if __name__ == "__main__":
    asyncio.run(_main())
