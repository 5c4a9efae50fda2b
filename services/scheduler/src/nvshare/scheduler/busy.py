"""Who keeps the card busy: decided from the busy shares that clients measure and report, never from the time for which
they hold something."""

from __future__ import annotations

from collections.abc import Sequence

from nvshare.scheduler.clients import Client
from nvshare.scheduler.policy import Policy


def decide_who_is_busy(clients: Sequence[Client], policy: Policy) -> None:
    """Sets of each client whether its work keeps the card busy, for as much of the time as its slots leave it. Who is
    counted as busy stays so until it clearly is not."""
    for client in clients:
        client.keeps_busy = client.may_launch and _keeps_busy(client, policy)


def _keeps_busy(client: Client, policy: Policy) -> bool:
    if client.report is None:
        return False
    permille = policy.idle_permille if client.keeps_busy else policy.busy_permille
    return client.report.busy_permille >= permille * client.slots_part
