"""Headroom: memory that a client may add without asking, so that an allocation needs no round trip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment
from nvshare.scheduler.limits import Bound
from nvshare.scheduler.loading import ahead_bytes, older_loads_until
from nvshare.scheduler.model import Ruling
from nvshare.scheduler.room import Room


def take_spare(room: Room, clients: Sequence[Client], missing_bytes: int) -> None:
    """Takes headroom back until `missing_bytes` are on their way: first of those that do not want the GPU, then of
    those with the most."""
    missing_bytes -= sum(client.charge_bytes - client.kept_bytes for client in clients)
    for client in sorted(clients, key=lambda c: (c.demand, -c.spare_bytes, c.order)):
        if missing_bytes <= 0:
            return
        if client.reachable and client.spare_bytes > 0:
            missing_bytes -= client.spare_bytes
            room.set_ceiling(client, client.served_bytes)


def keep_what_was_used(room: Room) -> None:
    """Leaves to those that have a place the headroom that they used while it was taken back: they are charged with it
    anyway, and nobody told what they have to leave."""
    for client in room.clients:
        if client.place_ns is not None and not client.must_leave and client.ceiling_bytes < client.needed_bytes:
            room.set_ceiling(client, min(client.needed_bytes, client.charge_bytes))


def keep_within_quotas(room: Room) -> None:
    """Takes back what allocations were promised beyond a quota that fell: two processes could each use their own part
    of it. What is in use stays."""
    for allocation, excess_bytes in room.quota_excess_bytes().items():
        take_spare(room, [c for c in room.clients if c.allocation == allocation], excess_bytes)


def bring_back(room: Room, moment: Moment, *, calm: bool) -> int | None:
    """Where all that is away has fitted for long enough, with nobody waiting (`calm`), it comes back before its owner
    wants it: who comes soon after another has ended need not move it out again. Gives when it may; None: not in time.
    """
    away = [client for client in room.clients if client.swaps and client.reachable and not client.whole]
    fits = calm and sum(client.needed_bytes - client.ceiling_bytes for client in away) <= room.free_bytes
    due_ns = None
    for client in room.clients:
        if not fits or client not in away or client.ruling != Ruling.NONE:
            client.fits_since_ns = None
            continue
        if client.fits_since_ns is None:
            client.fits_since_ns = moment.now_ns
        if moment.now_ns < client.fits_since_ns + moment.policy.calm_ns:
            due_ns = client.fits_since_ns + moment.policy.calm_ns
        elif room.fits(client, client.needed_bytes):
            room.set_ceiling(client, client.needed_bytes)
            client.fits_since_ns = None
    return due_ns


def give_headroom(room: Room, bounds: Mapping[str, Bound], moment: Moment) -> None:
    """Nobody waits: everybody gets headroom, generous while less than half of the capacity is promised, and none where
    not everything fits: it would have to be taken back at each switch."""
    policy = moment.policy
    spare = room.capacity_bytes - sum(max(c.needed_bytes, c.charge_bytes) for c in room.clients)
    for client in room.clients:
        if not client.reachable or client.refused or not client.whole:
            continue
        plentiful = room.free_bytes > room.capacity_bytes // 2
        if client.needed_bytes == 0 and not plentiful:
            continue  # a newcomer is admitted by its wish, in its turn
        share = room.free_bytes // 8 // policy.step_bytes * policy.step_bytes
        usual = policy.headroom_bytes if plentiful else max(policy.step_bytes, ahead_bytes(client, policy))
        headroom = min(usual, max(0, share))
        if client.ceiling_bytes - client.needed_bytes >= headroom // 2 + 1:
            continue
        steps = -(-(client.needed_bytes + headroom) // policy.step_bytes)
        ceiling = min(steps * policy.step_bytes, _ceiling_within(client, bounds[client.key]))
        extra = ceiling - client.charge_bytes
        if ceiling <= client.ceiling_bytes or extra > spare or not room.fits(client, ceiling):
            continue
        if not _must_wait_for_older(client, ceiling, room, moment):
            spare -= max(0, extra)
            room.set_ceiling(client, ceiling)


def give_ahead(room: Room, served: Sequence[Client], bounds: Mapping[str, Bound], moment: Moment) -> None:
    """Gives those that load, and have just got what they asked for, more of what is free, others waiting or not."""
    policy = moment.policy
    held_bytes = sum(max(0, client.wish_bytes - client.charge_bytes) for client in served)
    for client in served:
        if not client.reachable or client.asks_for_memory:
            continue
        more_bytes = min(ahead_bytes(client, policy), room.free_bytes - held_bytes)
        most_bytes = client.ceiling_bytes + more_bytes // policy.step_bytes * policy.step_bytes
        ceiling_bytes = min(most_bytes, _ceiling_within(client, bounds[client.key]))
        if _must_wait_for_older(client, ceiling_bytes, room, moment):
            continue
        if ceiling_bytes > client.ceiling_bytes and room.fits(client, ceiling_bytes):
            room.set_ceiling(client, ceiling_bytes)


def _must_wait_for_older(client: Client, ceiling_bytes: int, room: Room, moment: Moment) -> bool:
    """Whether it would have to wait if it asked for that: then it gets no headroom to grow by without asking."""
    if not client.swaps:
        return False
    return older_loads_until(client, ceiling_bytes, room, (), 0, moment) is not None


def _ceiling_within(client: Client, bound: Bound) -> int:
    """What it may have on the card so that its footprint stays within its limit."""
    return client.needed_bytes + max(0, bound.limit_bytes - client.footprint_bytes)
