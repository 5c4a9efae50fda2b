"""The hub, as a service of a node sees it through the leaf, and one beside the nodes directly: what is kept for others.

A node goes on without its hub, so nothing here raises for the state of the link. `Hub.reachable` says how it is: a
small request each second is asked of the hub itself, because a link may stand and nobody answer behind it.

    async with Hub(bus) as hub:
        quotas = hub.bucket("nvshare-quotas", PodQuota)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(quotas.mirror(on_change))
"""

import asyncio
import contextlib
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Self, TypeVar

import structlog
from google.protobuf.message import Message

from nvshare.bus.bucket import Bucket
from nvshare.bus.connection import AwayError, Bus, Handler
from nvshare.bus.jetstream import Consumer, JetStream, RefusedError, Stored

DOMAIN = "hub"
"""The hub's JetStream domain, which makes its API reachable from the nodes."""

_PROBE_SECONDS = 1.0
_PROBE_AWAY_SECONDS = 0.25
_ACKNOWLEDGE_SECONDS = 30.0
_TRY_AGAIN_SECONDS = 1
_LONGEST_TRY_AGAIN_SECONDS = 15
_MOST_DELIVERIES = 5
_REFUSED_SECONDS = 1.0

_log = structlog.get_logger()

MessageT = TypeVar("MessageT", bound=Message)


class NotNowError(Exception):
    """A kept message cannot be handled now, through no fault of its own."""


@dataclass(frozen=True, slots=True)
class KeptStream:
    """A stream at the hub: which subjects it keeps, for how long, and how much at most; the oldest goes first."""

    name: str
    subjects: tuple[str, ...]
    max_age_seconds: int = 3600
    max_bytes: int = 64 * 1024 * 1024
    max_message_bytes: int = 16 * 1024

    def configuration(self) -> dict[str, Any]:
        """As JetStream's API has it."""
        return {
            "name": self.name,
            "subjects": list(self.subjects),
            "max_age": self.max_age_seconds * 1_000_000_000,
            "max_bytes": self.max_bytes,
            "max_msg_size": self.max_message_bytes,
            "discard": "old",
            "storage": "file",
            "num_replicas": 1,
            "duplicate_window": 120 * 1_000_000_000,
        }


NOTICES = KeptStream("nvshare-notices", ("nvshare.v1.node.*.notice",))
"""What device plugins want said of pods (`PodNotice`)."""


class Hub:
    """What is kept at the hub, through the connection `bus`; an asynchronous context, in which it looks whether the hub
    answers.

    `on_reachable(reachable)` is called when that changes. Counters: `poisonous_messages` (kept messages that nobody
    could handle), and those of the bus.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        domain: str = DOMAIN,
        on_reachable: Callable[[bool], Awaitable[None] | None] | None = None,
    ) -> None:
        self._stream = JetStream(bus, domain)
        self._on_reachable = on_reachable
        self._reachable = False
        self._answered = asyncio.Event()
        self._look_now = asyncio.Event()
        self._probing: asyncio.Task[None] | None = None
        self._logged: set[str] = set()
        self._made: set[str] = set()
        self.failures = 0  # probes without an answer, since the start
        self.poisonous_messages = 0

    async def __aenter__(self) -> Self:
        await self._probe()
        self._probing = asyncio.create_task(self._keep_probing(), name="probe of the hub")
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._probing is not None:
            self._probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._probing

    @property
    def bus(self) -> Bus:
        """The connection, with its counters."""
        return self._stream.bus

    @property
    def reachable(self) -> bool:
        """Whether the hub answered when it was asked last, a second ago at most."""
        return self._reachable

    def bucket(self, name: str, message_type: type[MessageT]) -> Bucket[MessageT]:
        """The bucket `name`, whose values are of `message_type`. Raises ValueError for a name that is none."""
        return Bucket(self, self._stream, name, message_type)

    async def publish_kept(self, subject: str, message: Message, stream: KeptStream = NOTICES) -> bool:
        """Sends `message` to be kept by `stream`; whether it is. After False the same message may be sent again: within
        two minutes it is kept once.
        """
        data = message.SerializeToString()
        identity = hashlib.sha256(subject.encode() + b"\0" + data).hexdigest()
        try:
            await self._make(stream)
            await self._stream.publish(subject, data, {"Nats-Msg-Id": identity})
        except AwayError:
            self._made.discard(stream.name)
            return False
        except RefusedError as error:
            self.refused(f"keep {subject}", error)
            return False
        return True

    async def consume_kept(
        self, stream: KeptStream, durable: str, message_type: type[MessageT], handler: Handler[MessageT]
    ) -> NoReturn:
        """Calls `handler(subject, message)` for each message that `stream` keeps, one after the other, until it is
        cancelled; after a restart it goes on behind what was handled. A message may come twice.

        One whose handling raises NotNowError comes again, less and less often, for as long as the stream keeps it. One
        whose handling raises anything else comes again a second later, five times in all; it is given up then, as one
        that cannot be parsed is at once, and counted. Handling should take no longer than some seconds.
        """
        while True:
            failures = self.failures
            try:
                await self._make(stream)
                async with self._stream.durable(stream.name, durable, _ACKNOWLEDGE_SECONDS) as consumer:
                    while failures == self.failures:
                        await self._consume(consumer, stream, message_type, handler)
            except AwayError as error:
                _log.debug("stream is not read", stream=stream.name, error=str(error))
                await self.answers_again(failures)
            except RefusedError as error:
                self._made.discard(stream.name)
                self.refused(f"read {stream.name}", error)
                await asyncio.sleep(_REFUSED_SECONDS)

    async def answers_again(self, failures: int) -> None:
        """Waits until the hub has answered a probe after something failed, when `failures` was this count."""
        if self.failures == failures:  # the probe has not noticed yet, or it was a hitch
            self._answered.clear()
            self._look_now.set()
        await self._answered.wait()

    def refused(self, what: str, error: RefusedError) -> None:
        """Says once that the hub refuses something."""
        if what not in self._logged:
            self._logged.add(what)
            _log.error("the hub refuses", what=what, error=str(error), hint="not logged again")

    async def _make(self, stream: KeptStream) -> None:
        if stream.name not in self._made:
            await self._stream.make_stream(stream.configuration())
            self._made.add(stream.name)

    async def _consume(
        self, consumer: Consumer, stream: KeptStream, message_type: type[MessageT], handler: Handler[MessageT]
    ) -> None:
        async for stored in consumer.pull():
            outcome = await self._handle(stored, stream, message_type, handler)
            await self.bus.acknowledge(stored.acknowledge_on, outcome)

    async def _handle(
        self, stored: Stored, stream: KeptStream, message_type: type[MessageT], handler: Handler[MessageT]
    ) -> bytes:
        """Handles one message; how it is acknowledged."""
        message = self.bus.parse(stream.name, message_type, stored.data, stored.subject)
        if message is None:
            self.poisonous_messages += 1
            return b"+TERM"
        try:
            outcome = handler(stored.subject, message)
            if inspect.isawaitable(outcome):
                await outcome
        except NotNowError as error:
            _log.debug("a kept message waits", subject=stored.subject, error=str(error))
            return _again(min(2 ** min(stored.deliveries - 1, 8), _LONGEST_TRY_AGAIN_SECONDS))
        except Exception:
            self.bus.failed_handlers += 1
            _log.exception("handler failed", subject=stored.subject)
            if stored.deliveries < _MOST_DELIVERIES:
                return _again(_TRY_AGAIN_SECONDS)
            self.poisonous_messages += 1
            return b"+TERM"
        return b"+ACK"

    async def _keep_probing(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            await self._probe()
            pause = _PROBE_SECONDS if self._reachable else _PROBE_AWAY_SECONDS
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(begun + pause):
                    await self._look_now.wait()
            self._look_now.clear()

    async def _probe(self) -> None:
        try:
            await self._stream.call("INFO")
            reachable = True
        except AwayError:
            reachable = False
        except RefusedError as error:
            self.refused("answer", error)
            reachable = False
        if reachable:
            self._answered.set()
        else:
            self.failures += 1
            self._answered.clear()
        if reachable != self._reachable:
            self._reachable = reachable
            _log.info("the hub answers" if reachable else "the hub is away; going on without it")
            await self._tell(reachable)

    async def _tell(self, reachable: bool) -> None:
        if self._on_reachable is None:
            return
        try:
            outcome = self._on_reachable(reachable)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            self.bus.failed_handlers += 1
            _log.exception("handler failed", reachable=reachable)


def _again(seconds: int) -> bytes:
    """The acknowledgement by which a message comes again after so long."""
    return b'-NAK {"delay": %d}' % (seconds * 1_000_000_000)
