"""Send slots: which ready lane gets the next one, and how many a lane, a tenant and all doubtful lanes may hold.

The payloads of the sends under way have a bound in bytes too, and a tenant has a share of it.

A tenant that holds its share is parked: its ready lanes keep their order but have no turn, and come back behind
the others as soon as one of its sends is done. So a parked tenant always has a send under way that will wake it.
"""

from __future__ import annotations

import sys

from outpost.dispatch.fairness import lane as lane_rules
from outpost.dispatch.fairness import tenant as tenants
from outpost.dispatch.fairness import turns, unproven

MAX_BYTES = 64 * 1024 * 1024  # of the payloads of all sends under way; beyond it no further send begins
TENANT_BYTES_SHARE = 2  # one tenant may have one in so many of them
READING_SHARE = 8  # of its sends at once are left to a lane while a flood is read
_UNLIMITED = sys.maxsize


class Slots:
    """The ready lanes and the sends under way. `lane`, `tenant` and `tenant_doubtful` bound the sends at once to
    one destination, of one tenant, and of one tenant to destinations that have not answered lately (None: they are
    not bounded)."""

    def __init__(self, doubt: unproven.Doubt, lane: int, tenant: int | None, tenant_doubtful: int | None) -> None:
        self._doubt = doubt
        self._doubting = not doubt.off
        self._lane = self._lane_now = lane
        self._tenant = tenant or _UNLIMITED
        self._tenant_doubtful = tenant_doubtful or _UNLIMITED
        self._sure, self._unsure = turns.Alternating(), turns.Alternating()
        self._unsure_next = False
        self._bytes = 0  # of the payloads of the sends under way
        self._tenant_bytes = MAX_BYTES // TENANT_BYTES_SHARE

    def let_read(self, flood: bool) -> None:
        """While a `flood` is read a lane sends a few at a time: whoever stands behind it waits for its reading,
        which shares a CPU with the sends."""
        self._lane_now = max(1, self._lane // READING_SHARE) if flood else self._lane

    def next(self) -> lane_rules.Lane | None:
        """Takes the next lane that may send. Sure and unsure lanes go by turns, so that neither starves; unsure
        ones within their share."""
        unsure = bool(self._unsure) and self._doubt.may_start()
        if (not unsure and not self._sure) or self._bytes >= MAX_BYTES:
            return None
        chosen = self._unsure if unsure and (self._unsure_next or not self._sure) else self._sure
        self._unsure_next = chosen is self._sure
        lane = chosen.next()
        lane.turn = None
        if chosen is self._unsure:
            self._doubt.started()
        return lane

    def startable(self, enough: int) -> int:
        """How many tasks of the sure lanes that have a turn may be sent at once; counts up to `enough`."""
        found = 0
        for lane in self._sure.lanes():
            found += min(len(lane.waiting), self._lane - lane.in_flight)
            if found >= enough:
                break
        return found

    def queue(self, lane: lane_rules.Lane) -> None:
        """Puts a lane into the turns, if it is ready and does not stand there."""
        if lane.turn is None and lane.ready(self._lane_now, self._doubting):
            late = lane.waiting[0].id.attempt > 1 or lane.standing == "times_out"
            among = self._unsure if self._doubting and lane.doubtful else self._sure
            lane.turn = among.again if late else among.first
            lane.turn.add(lane)

    def unqueue(self, lane: lane_rules.Lane) -> None:
        """Takes a lane out of the turns, if it stands there."""
        if lane.turn is not None:
            lane.turn.remove(lane)
            lane.turn = None

    def begin(self, lane: lane_rules.Lane, size: int) -> None:
        """A send of this lane begins, with a payload of `size` bytes as far as it is known."""
        tenant = lane.tenant
        lane.in_flight += 1
        tenant.in_flight += 1
        self._bytes += size
        tenant.in_flight_bytes += size
        at_limit = tenant.in_flight == self._tenant or tenant.in_flight_bytes >= self._tenant_bytes
        if lane.doubtful:
            self._doubt.in_flight += 1
            tenant.doubtful_in_flight += 1
            at_limit = at_limit or tenant.doubtful_in_flight == self._tenant_doubtful
        if at_limit:
            self._park_or_resume(tenant)

    def loaded(self, lane: lane_rules.Lane, size: int) -> None:
        """The payload of a send that has begun was read: it has `size` bytes."""
        self._bytes += size
        lane.tenant.in_flight_bytes += size
        if lane.tenant.in_flight_bytes >= self._tenant_bytes:
            self._park_or_resume(lane.tenant)

    def end(self, lane: lane_rules.Lane, size: int) -> None:
        """A send of this lane, with a payload of `size` bytes, is done."""
        tenant = lane.tenant
        at_limit = tenant.in_flight == self._tenant or tenant.in_flight_bytes >= self._tenant_bytes
        lane.in_flight -= 1
        tenant.in_flight -= 1
        self._bytes -= size
        tenant.in_flight_bytes -= size
        if lane.doubtful:
            at_limit = at_limit or tenant.doubtful_in_flight == self._tenant_doubtful
            self._doubt.in_flight -= 1
            tenant.doubtful_in_flight -= 1
        if at_limit:
            self._park_or_resume(tenant)

    def judge(self, lane: lane_rules.Lane, standing: lane_rules.Standing) -> None:
        """Changes the standing of a lane, which leaves the turns until it is queued again."""
        self.unqueue(lane)
        doubted = lane.doubtful
        lane.judge(standing)
        change = lane.in_flight * (lane.doubtful - doubted)
        if change:
            self._doubt.in_flight += change
            lane.tenant.doubtful_in_flight += change
            self._park_or_resume(lane.tenant)

    def wait_s(self) -> float | None:
        """How long until an unsure lane may start for the pace of their sends; None if none waits for it."""
        return (self._doubt.wait_s() or None) if self._unsure else None

    def _park_or_resume(self, tenant: tenants.Tenant) -> None:
        parked = tenant.in_flight >= self._tenant or tenant.in_flight_bytes >= self._tenant_bytes
        self._sure.set_parked(tenant.name, parked)
        self._unsure.set_parked(tenant.name, parked or tenant.doubtful_in_flight >= self._tenant_doubtful)
