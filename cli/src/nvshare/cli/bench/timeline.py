"""What a node's bus says while programs run: every grant, report and event, with the time at which it was heard.

The status says how things stand; a switch from one program's memory to another's takes less time than lies between two
looks at it.
"""

import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.node_directory import NodeDirectory
from nvshare.v1.client_pb2 import Grant, Report
from nvshare.v1.node_pb2 import Event


@dataclass(frozen=True)
class SeenGrant:
    """A grant, heard at `time_ns` (CLOCK_MONOTONIC), as all times here. `target_bytes`: that may be on the card."""

    time_ns: int
    allocation: str
    may_launch: bool
    target_bytes: int


@dataclass(frozen=True)
class SeenReport:
    """What a client said of its memory."""

    time_ns: int
    allocation: str
    resident_bytes: int
    needed_bytes: int
    swapped_out_bytes: int
    swapped_in_bytes: int


@dataclass(frozen=True)
class SeenEvent:
    """What the scheduler thought worth telling."""

    time_ns: int
    kind: str
    allocation: str
    text: str


@dataclass
class Timeline:
    """Everything in the order in which it was heard."""

    grants: list[SeenGrant] = field(default_factory=list)
    reports: list[SeenReport] = field(default_factory=list)
    events: list[SeenEvent] = field(default_factory=list)

    def last_report(self, allocation: str) -> SeenReport | None:
        """The newest report of an allocation's client; None: it has said nothing yet."""
        return next((one for one in reversed(self.reports) if one.allocation == allocation), None)

    def _hear_grant(self, subject: str, grant: Grant) -> None:
        allocation = subjects.parse_grant(subject).allocation
        target_bytes = grant.resident_bytes + grant.headroom_bytes
        self.grants.append(SeenGrant(time.monotonic_ns(), allocation, grant.may_launch, target_bytes))

    def _hear_report(self, subject: str, report: Report) -> None:
        self.reports.append(
            SeenReport(
                time.monotonic_ns(),
                subjects.parse_report(subject).allocation,
                report.resident_bytes,
                report.needed_bytes or report.footprint_bytes,
                report.swapped_out_bytes,
                report.swapped_in_bytes,
            )
        )

    def _hear_event(self, subject: str, event: Event) -> None:
        # It carries the time of day; a bench compares with what programs read from the monotonic clock.
        time_ns = event.time_unix_ns - (time.time_ns() - time.monotonic_ns())
        self.events.append(SeenEvent(time_ns, event.kind, event.allocation, event.text))

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, node: NodeDirectory) -> AsyncIterator["Timeline"]:
        """Listen on a node's bus until the context ends. Only for a node of this user: it reads a service's token."""
        timeline = cls()
        bus = await Bus.connect(
            url=str(node.read_description()["nats_url"]),
            jwt=node.service_credentials("scheduler").read_text(),
            name="bench",
        )
        try:
            await bus.subscribe(subjects.grant_any(), Grant, timeline._hear_grant)
            await bus.subscribe(subjects.report_any(), Report, timeline._hear_report)
            await bus.subscribe(subjects.event_any(), Event, timeline._hear_event)
            await bus.flush()
            yield timeline
        finally:
            await bus.close()
