"""A platform that publishes an event with the published SDK and waits until it is delivered.

`pip install outpost_sdk`. It reads API_KEY, and optionally OUTPOST_URL, WEBHOOK_URL, SECRET, and EVERY_SECONDS,
which makes it publish again and again.
"""

import os
import time

from outpost_sdk import Outpost

URL = os.environ.get("OUTPOST_URL", "http://127.0.0.1:3333/api/v1")
WEBHOOK_URL = os.environ.get("WEBHOOK_URL", "http://127.0.0.1:9000/")
SECRET = os.environ.get("SECRET", "a-secret-for-the-example")
EVERY_SECONDS = float(os.environ.get("EVERY_SECONDS", "0"))
TENANT = "example"


def set_up(outpost: Outpost) -> None:
    """Makes the tenant and its destination. An upsert, so that the program can be run again."""
    outpost.tenants.upsert(tenant_id=TENANT)
    if not outpost.destinations.list(tenant_id=TENANT):
        outpost.destinations.create(
            tenant_id=TENANT,
            body={
                "type": "webhook",
                "topics": ["order.created"],
                "config": {"url": WEBHOOK_URL},
                "credentials": {"secret": SECRET},
            },
        )


def publish(outpost: Outpost, order: int) -> None:
    """Publishes one event and prints how its first attempt ended."""
    event = outpost.publish(request={"tenant_id": TENANT, "topic": "order.created", "data": {"order": order}})
    print(f"published {event.id} for {len(event.destination_ids)} destination", flush=True)
    while True:
        attempts = outpost.attempts.list(request={"event_id": event.id}).models
        if attempts:
            print(f"attempt: {attempts[0].status.value}, code {attempts[0].code}", flush=True)
            return
        time.sleep(0.2)


def main() -> None:
    with Outpost(api_key=os.environ["API_KEY"], server_url=URL) as outpost:
        set_up(outpost)
        order = int(time.time())
        publish(outpost, order)
        while EVERY_SECONDS:
            time.sleep(EVERY_SECONDS)
            order += 1
            publish(outpost, order)


if __name__ == "__main__":
    main()
