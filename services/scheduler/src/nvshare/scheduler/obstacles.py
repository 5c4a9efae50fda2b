"""What keeps clients from getting room: memory that cannot leave the card, and clients that do not leave it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.clients import Client
from nvshare.scheduler.eviction import Moment, overdue
from nvshare.scheduler.model import PublishEvent


def find_hopeless(
    clients: Sequence[Client], cooperating: Collection[Client], goals_bytes: Mapping[str, int], capacity_bytes: int
) -> None:
    """Notes for whom there is no room even if all leave that can. `goals_bytes`: what those that wait need on the card,
    by their keys."""
    stays_bytes = {
        client: client.staying_bytes if client.swaps and client in cooperating else client.charge_bytes
        for client in clients
    }
    all_bytes = sum(stays_bytes.values())
    for client, own_bytes in stays_bytes.items():
        goal_bytes = goals_bytes.get(client.key, 0)
        client.hopeless = goal_bytes > 0 and goal_bytes + all_bytes - own_bytes > capacity_bytes


def note_failures(clients: Sequence[Client], moment: Moment) -> list[PublishEvent]:
    """Finds who should have left by now. Gives what to tell."""
    events = []
    for client in clients:
        since_ns = client.leaving_since_ns
        if since_ns is None or overdue(client, moment) or moment.now_ns < since_ns + moment.policy.leave_limit_ns:
            continue
        client.failed_ns = moment.now_ns
        if "client-stays" not in client.told:
            client.told.add("client-stays")
            failure = client.report.swap_failure if client.report else ""
            text = (
                f"{client.client} should leave the card and {format_bytes(client.resident_bytes)} of it are still "
                f"there{': ' + failure if failure else ''}; those that fit go on"
            )
            events.append(PublishEvent("client-stays", text, client.allocation, client.client, client.resident_bytes))
    return events


def held_words(client: Client, clients: Sequence[Client]) -> str:
    """Who has memory that cannot leave, and why."""
    words = []
    for other in clients:
        if other is client or other.kept_bytes == 0:
            continue
        if other.swaps and other.staying_bytes > 0:
            reason = other.report.pinned_reason if other.report else ""
            reason = reason or "pinned, or more than its host memory could hold"
            words.append(f"{other.client} has {format_bytes(other.staying_bytes)} ({reason})")
        elif not other.swaps:
            words.append(f"{other.client} has {format_bytes(other.kept_bytes)} and cannot move any")
        else:
            words.append(f"{other.client} has {format_bytes(other.kept_bytes)}")
    return ", ".join(words) or "nobody's"
