"""`python -m tests.benchmarks`, or `make bench-destinations`: the options, and what the exit code says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from outpost import errors
from outpost.cli import bench
from tests.benchmarks import destinations, report

NAME = "make bench-destinations"
EVENTS = 10_000
SECONDS = 5.0

DESCRIPTION = """\
Measure what one delivery costs, for each type of destination, against a stand-in of its service on this machine
(a real RabbitMQ, Kafka broker and S3 server, moto, stand-ins of the repository for the others; each in a process
of its own).

Outpost's side is what sends in a server: its senders, publishers and the type's real adapter, without Redis and
Postgres before it. Events go to one destination; those that wait go out together where the service takes batches.
The other side is the same number of single calls through the service's own library, as many at once as serve it
best: httpx, boto3 in threads, azure-servicebus, google-cloud-pubsub, aio-pika, aiokafka.
"""

EPILOG = """\
figures: deliveries a second; CPU time of the sending process for one delivery, in microseconds; how many events
a send carried, on average and at most; and Outpost's figures divided by those of the library (rates are better
above 1, CPU time below). Rates end where the stand-in's do, so they compare the sides and say nothing of the real
service; the CPU time is the sender's own.

checks: what was delivered is in the stand-in, once. The exit code is 0 if all holds, 1 with a sentence a finding
if not, 2 if the bench could not run. A type whose stand-in is not on this machine is left out, with the reason.

examples:
  make bench-destinations
  make bench-destinations ARGS='--type aws_sqs --type kafka --events 2000 --json -'
"""


def main(argv: Sequence[str]) -> int:
    """Measures; returns 0 if every check held, 1 if one failed, 2 if the bench could not run."""
    args = _parser().parse_args(argv)
    try:
        result = destinations.run(destinations.from_args(args), tell=_tell)
    except errors.ConfigurationError as exc:
        for problem in exc.problems:
            print(f"{NAME}: {problem}", file=sys.stderr)
        return bench.REFUSED_EXIT
    except errors.OutpostError as exc:
        print(f"{NAME}: {exc}", file=sys.stderr)
        return bench.REFUSED_EXIT
    report.show(result, args.json_path)
    return 1 if result.problems else 0


def _tell(sentence: str) -> None:
    print(f"{NAME}: {sentence}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME, description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--type", action="append", default=[], dest="types", metavar="TYPE", help="only this one; repeatable"
    )
    parser.add_argument("--events", type=int, default=EVENTS, help="deliveries by each side (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="after so long a side begins no more (%(default)g)"
    )
    parser.add_argument("--json", dest="json_path", metavar="FILE", help="write JSON; - prints only it")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
