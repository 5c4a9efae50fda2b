"""Who is on the GPU: takes over what clients and the relay say. Every message is treated as hostile.

The relay's word decides who lives. A client's word counts for itself alone: its identity is the subject that the
server checked, so a lie about its own state harms only its own share.
"""

from __future__ import annotations

from dataclasses import replace

from nvshare.bus.compute import priority_word
from nvshare.bus.quantities import format_bytes
from nvshare.scheduler.clients import Client, key_of
from nvshare.scheduler.model import (
    Allocation,
    ClientReported,
    GangsRuled,
    PublishEvent,
    RelayReported,
    Report,
    Ruling,
)
from nvshare.scheduler.policy import SECOND_NS, Policy
from nvshare.scheduler.pool import pins
from nvshare.scheduler.state import ArbiterState, EarlyReport

_MEMORY_LIMIT = "memory limit"


def take_report(state: ArbiterState, event: ClientReported, now_ns: int, policy: Policy) -> list[PublishEvent]:
    """Takes over a client's report, or counts why not. Gives what is worth telling."""
    report = event.report
    client = state.clients.get(key_of(event.allocation, event.client))
    if client is None:
        _keep_early(state, event, now_ns, policy)
        return []
    if abs(report.protocol - policy.protocol) > 1:
        state.refused_reports += 1
        text = f"speaks protocol {report.protocol}, this scheduler {policy.protocol}: update the older of the two"
        return _once(client, "protocol-differs", text)
    if client.report is not None and report.sequence <= client.report.sequence:
        state.stale_reports += 1
        return []
    newest_epoch = client.granted.epoch if client.granted else state.latest_epoch
    if report.generation == state.generation and report.epoch > newest_epoch:
        state.refused_reports += 1
        return []
    events = [] if client.spoken else _once(client, "client-joined", f"joined: {report.name}, build {report.build}")
    before = client.report
    client.heard(_bounded(report, state.card.total_bytes), state.generation, now_ns)
    state.moved.add(before, report, pins=pins(client, now_ns, policy))
    if abs(report.monotonic_ns - now_ns) > policy.clock_difference_ns:
        seconds = abs(report.monotonic_ns - now_ns) / SECOND_NS
        events += _once(
            client, "clock-mismatch", f"has a clock that differs by {seconds:.1f} s: is it on another host?"
        )
    if report.build != policy.build:
        events += _once(client, "build-differs", f"has build {report.build}, this scheduler has {policy.build}")
    return events


def take_relay_state(state: ArbiterState, event: RelayReported, now_ns: int, policy: Policy) -> list[PublishEvent]:
    """Takes over who lives and which allocations there are. Gives what is worth telling."""
    if (event.generation, event.sequence) <= (state.relay_generation, state.relay_sequence):
        state.stale_reports += 1
        return []
    if state.relay_known_ns is None:
        state.relay_known_ns = now_ns
        state.settle_until_ns = now_ns + policy.settle_ns
    state.relay_generation, state.relay_sequence, state.relay_heard_ns = event.generation, event.sequence, now_ns
    events = _quota_changes(state, event)
    state.allocations = {allocation.id: allocation for allocation in event.allocations}
    living = {key_of(peer.allocation, peer.client): peer for peer in event.peers}
    for key in [key for key in state.clients if key not in living]:
        client = state.clients.pop(key)
        if client.on_gpu:
            state.card.died(client, now_ns)
            text = f"{client.client} ended with {format_bytes(client.resident_bytes)} on the card"
            events.append(PublishEvent("client-gone", text, client.allocation, client.client, client.resident_bytes))
    for key, peer in living.items():
        if key not in state.clients:
            state.registrations += 1
            client = Client(key, peer.allocation, peer.client, peer.pid, state.registrations)
            client.shown(state.card.listed_bytes(peer.pid))
            state.clients[key] = client
        state.clients[key].heard_of(peer, now_ns)
    for key in [key for key in state.early if key in living]:
        events += take_report(state, state.early.pop(key).reported, now_ns, policy)
    _drop_old_early(state, now_ns, policy)
    return events


def take_rulings(state: ArbiterState, event: GangsRuled) -> None:
    """Takes over what the coordinator says about gangs."""
    rulings = {ruling.key: ruling for ruling in event.rulings}
    for key, client in state.clients.items():
        ruling = rulings.get(key)
        client.gang = ruling.gang if ruling else ""
        client.ruling = ruling.ruling if ruling else Ruling.NONE
        client.gang_since_ns = ruling.since_ns if ruling else 0


def _quota_changes(state: ArbiterState, event: RelayReported) -> list[PublishEvent]:
    """What to tell of quotas that are others now; an allocation that is new or gone changed nothing."""
    events = []
    for allocation in event.allocations:
        before = state.allocations.get(allocation.id)
        if before is None:
            continue
        was = dict(_quota_words(before))
        for quota, words in _quota_words(allocation):
            if words != was[quota]:
                text = f"{quota} of {allocation.name or allocation.id} is now {words} (was {was[quota]})"
                size_bytes = allocation.memory_limit_bytes if quota == _MEMORY_LIMIT else 0
                events.append(PublishEvent("quota-changed", text, allocation.id, "", size_bytes))
    return events


def _quota_words(allocation: Allocation) -> list[tuple[str, str]]:
    """The quotas of an allocation, for people: each one's name and value."""
    limit_bytes, percent = allocation.memory_limit_bytes, allocation.core_limit_percent
    return [
        (_MEMORY_LIMIT, format_bytes(limit_bytes) if limit_bytes else "the whole card"),
        ("core quota", f"{percent} %" if percent else "none"),
        ("weight", str(allocation.weight)),
        ("priority", priority_word(allocation.priority)),
        ("core burst", "on" if allocation.core_burst else "off"),
    ]


def _keep_early(state: ArbiterState, event: ClientReported, now_ns: int, policy: Policy) -> None:
    """A report may overtake the relay's word about its sender: the newest is kept until the relay speaks."""
    _drop_old_early(state, now_ns, policy)
    key = key_of(event.allocation, event.client)
    kept = state.early.get(key)
    if kept is None and len(state.early) >= policy.early_reports:
        state.refused_reports += 1
    elif kept is None or event.report.sequence > kept.reported.report.sequence:
        state.early[key] = EarlyReport(event, kept.came_ns if kept else now_ns)


def _drop_old_early(state: ArbiterState, now_ns: int, policy: Policy) -> None:
    for key in [key for key, kept in state.early.items() if now_ns - kept.came_ns > policy.early_report_ns]:
        del state.early[key]
        state.refused_reports += 1


def _bounded(report: Report, total_bytes: int) -> Report:
    """No client has, or can have, more than the card: a lie must not make sums meaningless."""
    largest_bytes = max(
        report.footprint_bytes,
        report.resident_bytes,
        report.wanted_bytes,
        report.external_bytes,
        report.needed_bytes,
        report.wanted_needed_bytes,
        report.pinned_bytes,
    )
    if largest_bytes <= total_bytes:
        return report
    return replace(
        report,
        footprint_bytes=min(report.footprint_bytes, total_bytes),
        resident_bytes=min(report.resident_bytes, total_bytes),
        wanted_bytes=min(report.wanted_bytes, total_bytes),
        external_bytes=min(report.external_bytes, total_bytes),
        needed_bytes=min(report.needed_bytes, total_bytes),
        wanted_needed_bytes=min(report.wanted_needed_bytes, 2 * total_bytes),
        pinned_bytes=min(report.pinned_bytes, total_bytes),
    )


def _once(client: Client, kind: str, text: str) -> list[PublishEvent]:
    if kind in client.told:
        return []
    client.told.add(kind)
    return [PublishEvent(kind, f"{client.client} {text}", client.allocation, client.client)]
