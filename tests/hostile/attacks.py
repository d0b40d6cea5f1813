"""Every attack of the hostile suite: all of them run at once in `together`. A new one is added here."""

from __future__ import annotations

from collections.abc import Sequence

from tests.hostile.attack import Attack
from tests.hostile.attackers import clients, echo, examples, false_services, names, receivers, work

ALL: Sequence[Attack] = (
    examples.SilentClients(),
    examples.EndlessAnswers(),
    *clients.ALL,
    *work.ALL,
    echo.Echo(),
    names.SlowNames(),
    *receivers.FALSE_RECEIVERS,
    *false_services.SERVICES,
)
