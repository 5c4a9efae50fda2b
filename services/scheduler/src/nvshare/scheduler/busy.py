"""Who keeps the card busy, and how much of it each one uses: decided from the busy shares that clients measure and
report, never from the time for which they hold something.

A client whose slots are short cannot show what it wants. So who uses its slots up counts as wanting all, and at once;
that it uses less is believed when it has done so for a while, and small changes are not followed: each new split of an
allocation's share costs a grant for all.
"""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.policy import Policy

_ALL = 1.0
_MORE = 1.1  # what is within these factors of what a client used before is no change
_LESS = 0.75


def decide_who_is_busy(clients: Sequence[Client], now_ns: int, policy: Policy) -> None:
    """Sets of each client whether its work keeps the card busy, for as much of the time as its slots leave it, and
    which share it uses. Who is counted as busy stays so until it clearly is not."""
    for client in clients:
        client.keeps_busy = client.may_launch and _keeps_busy(client, policy)
        if _rests(client, now_ns, policy):
            client.rested_ns = now_ns
        _follow_use(client, now_ns, policy)


def _keeps_busy(client: Client, policy: Policy) -> bool:
    if client.report is None:
        return False
    permille = policy.idle_permille if client.keeps_busy else policy.busy_permille
    return client.report.busy_permille >= permille * client.slots_part


def _rests(client: Client, now_ns: int, policy: Policy) -> bool:
    """Whether it leaves the card unused now and then; slots that follow from that it does not cost it a little."""
    if client.report is None or not client.demand:
        return True
    steady = now_ns - client.rested_ns >= policy.steady_ns
    permille = policy.restful_permille if steady else policy.restless_permille
    return client.report.busy_permille < permille * client.slots_part


def _follow_use(client: Client, now_ns: int, policy: Policy) -> None:
    use = _use(client, now_ns, policy)
    if use > _LESS * client.use:
        if use > _MORE * client.use:
            client.use = use
        client.use_seen_ns, client.less_use = now_ns, 0.0
        return
    client.less_use = max(client.less_use, use)
    if now_ns - client.use_seen_ns >= policy.less_use_ns:
        client.use, client.use_seen_ns, client.less_use = client.less_use, now_ns, 0.0


def _use(client: Client, now_ns: int, policy: Policy) -> float:
    """The share of the card that it uses by its last report. Who is new, or comes again, may want all."""
    if client.report is None or not client.may_launch or not client.wants_the_card(now_ns, policy.contested_ns):
        return _ALL
    if client.demand and client.reported_ns - client.progress_ns >= policy.long_work_ns:
        return client.use  # it runs long work, or pays for it: that shows when the work has ended
    if client.report.busy_permille >= policy.busy_permille * client.slots_part:
        return _ALL
    return client.report.busy_permille / 1000
