"""What nvshare uses of JetStream, through any connection: requests to its API, and messages pulled from a consumer.

JetStream's API is JSON on subjects `$JS.<domain>.API.…` (docs/protocol.md, "The hub"). Everything here is a request
with an answer, so that whoever asks learns at once that the hub is away; a subscription over a link that was cut and
healed may stay silent for long.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nats.aio.msg import Msg

from nvshare.bus.connection import AwayError, Bus

REQUEST_SECONDS = 1.0
_PULL_SECONDS = 1.0  # how long the hub keeps a pull open
_PULL_ANSWER_SECONDS = 0.5  # how much later its answer may come
_BATCH = 256
_DURABLE_BATCH = 4  # what waits for its turn must not look as if it were forgotten
_NS = 1_000_000_000

STREAM_EXISTS_OTHERWISE = 10058  # nats-server's codes of errors
CONSUMER_EXISTS_OTHERWISE = 10148
NOT_FOUND = (10014, 10059)  # a consumer, a stream


class RefusedError(RuntimeError):
    """The hub answered, and does not do what it is asked. `code` is nats-server's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Stored:
    """A message of a stream, and where it stands there: its number, how often it was delivered, how many come after it
    now.
    """

    subject: str
    data: bytes
    headers: Mapping[str, str]
    sequence: int
    deliveries: int
    pending: int
    acknowledge_on: str


class JetStream:
    """Requests to the JetStream of one domain."""

    def __init__(self, bus: Bus, domain: str) -> None:
        self.bus = bus
        self.prefix = f"$JS.{domain}.API"

    async def call(self, name: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer of the API's `name`. Raises AwayError, RefusedError."""
        payload = b"" if body is None else json.dumps(body).encode()
        reply = await self.bus.request(f"{self.prefix}.{name}", payload, timeout_seconds=REQUEST_SECONDS)
        return _checked(reply.data)

    async def publish(self, subject: str, data: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Has a stream keep `data`; its number there. Raises AwayError when none says that it did, RefusedError."""
        reply = await self.bus.request(subject, data, headers=headers, timeout_seconds=REQUEST_SECONDS)
        return int(_checked(reply.data)["seq"])

    async def make_stream(self, configuration: Mapping[str, Any]) -> None:
        """Makes a stream; one that is there stays as it is. Raises AwayError, RefusedError."""
        try:
            await self.call(f"STREAM.CREATE.{configuration['name']}", configuration)
        except RefusedError as error:
            if error.code != STREAM_EXISTS_OTHERWISE:
                raise

    @asynccontextmanager
    async def last_of_each(self, stream: str, subjects: str) -> AsyncIterator[tuple["Consumer", int]]:
        """A consumer of the last message on each of `subjects`, and then of every new one, and how many it begins with.
        Raises AwayError, RefusedError.
        """
        configuration = {
            "deliver_policy": "last_per_subject",
            "filter_subject": subjects,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": 10 * _NS,
        }
        answer = await self.call(
            f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": {**configuration, "num_replicas": 1}}
        )
        name = str(answer["name"])
        async with self._consumer(stream, name) as consumer:
            try:
                yield consumer, int(answer.get("num_pending", 0))
            finally:
                await consumer.forget(f"CONSUMER.DELETE.{stream}.{name}")

    @asynccontextmanager
    async def durable(self, stream: str, name: str, acknowledge_seconds: float) -> AsyncIterator["Consumer"]:
        """The consumer `name` of all messages, which stays at the hub: what is not acknowledged comes again. Raises
        AwayError, RefusedError.
        """
        configuration = {
            "durable_name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(acknowledge_seconds * _NS),
            "max_ack_pending": 1000,
        }
        try:
            await self.call(
                f"CONSUMER.DURABLE.CREATE.{stream}.{name}", {"stream_name": stream, "config": configuration}
            )
        except RefusedError as error:
            if error.code != CONSUMER_EXISTS_OTHERWISE:
                raise
        async with self._consumer(stream, name, _DURABLE_BATCH) as consumer:
            yield consumer

    @asynccontextmanager
    async def _consumer(self, stream: str, name: str, batch: int = _BATCH) -> AsyncIterator["Consumer"]:
        arrived: asyncio.Queue[Msg] = asyncio.Queue()
        inbox, close = await self.bus.open_inbox(arrived.put)
        try:
            yield Consumer(self, f"CONSUMER.MSG.NEXT.{stream}.{name}", inbox, arrived, batch)
        finally:
            await close()


class Consumer:
    """Pulls messages of one consumer of a stream, at most `batch` at once."""

    def __init__(
        self, stream: JetStream, next_message: str, inbox: str, arrived: "asyncio.Queue[Msg]", batch: int
    ) -> None:
        self._stream = stream
        self._subject = f"{stream.prefix}.{next_message}"
        self._inbox = inbox
        self._arrived = arrived
        self._batch = batch
        self._left = 0  # of the pull that is open at the hub
        self._deadline = 0.0

    async def forget(self, delete: str) -> None:
        """Asks the hub to delete the consumer, which it does by itself after a while."""
        try:
            await self._stream.bus.ask(f"{self._stream.prefix}.{delete}", b"", self._inbox)
        except AwayError:
            return

    async def pull(self) -> AsyncIterator[Stored]:
        """The messages that come within a second, or fewer when many come. Raises AwayError when the hub does not
        answer or some were lost on the way: then a new consumer must read everything again.

        Whoever leaves early goes on with the next call: the hub knows of one pull.
        """
        clock = asyncio.get_running_loop().time
        if self._left == 0:
            body = {"batch": self._batch, "expires": int(_PULL_SECONDS * _NS)}
            await self._stream.bus.ask(self._subject, json.dumps(body).encode(), self._inbox)
            self._left = self._batch
            self._deadline = clock() + _PULL_SECONDS + _PULL_ANSWER_SECONDS
        while self._left > 0:
            try:
                async with asyncio.timeout_at(self._deadline):
                    message = await self._arrived.get()
            except TimeoutError:
                raise AwayError("the hub does not answer a pull") from None
            headers = message.headers or {}
            status = headers.get("Status", "").split(" ")[0]
            if status == "408":  # the second is over, and this is how many of the batch were not used
                left, self._left = self._left, 0
                if left != int(headers.get("Nats-Pending-Messages", left)):
                    raise AwayError("messages of the hub were lost on the way")
                return
            if status:
                raise AwayError(f"the hub ended a pull: {status} {headers.get('Description', '')}")
            self._left -= 1
            yield _stored(message)


def _stored(message: Msg) -> Stored:
    # $JS.ACK[.domain.account].stream.consumer.deliveries.sequence.consumed.time.pending[.token]
    tokens = message.reply.split(".")
    place = tokens[4:] if len(tokens) > 9 else tokens[2:]
    try:
        deliveries, sequence, pending = int(place[2]), int(place[3]), int(place[6])
    except (IndexError, ValueError):
        raise AwayError("the hub's messages do not say where they stand") from None
    return Stored(message.subject, message.data, message.headers or {}, sequence, deliveries, pending, message.reply)


def _checked(data: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RefusedError("the hub's answer is no JSON object", 0)
    error = answer.get("error")
    if isinstance(error, dict):
        raise RefusedError(str(error.get("description", "refused"))[:200], int(error.get("err_code", 0)))
    return answer
