"""A service's connection to the bus: typed messages over core NATS.

Everything on the bus is a whole state that is sent again (docs/protocol.md), so this connection loses messages rather
than keeping them: what is published while the server is away is dropped and counted. A message kept for later would be
a ghost: it would tell of the past as if it were now.

nats-py must be told so: `pending_size=0` (else publishes are kept and sent after a reconnect),
`max_reconnect_attempts=-1` (else it gives up), short waits, an inbox prefix of our own.

What is kept for others is at the hub: `nvshare.bus.hub`.
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import nats.aio.client
import nats.errors
import structlog
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from nats.aio.msg import Msg

from nvshare.bus.credentials import ServiceCredential
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.trace import HEADER, current_traceparent, valid_traceparent
from nvshare.bus.way_in import Found, NoWayInError, WayIn

_RECONNECT_WAIT_SECONDS = 0.1
_PING_SECONDS = 5
_CLOSE_SECONDS = 0.5

MessageT = TypeVar("MessageT", bound=Message)
Handler = Callable[[str, MessageT], Awaitable[None] | None]

_log = structlog.get_logger()


class AwayError(TimeoutError):
    """Nobody answered: the server, or who is asked behind it, is away."""


class SilentError(AwayError):
    """Somebody should have answered, and did not in time."""


class Bus:
    """One connection. Made by `Bus.connect`; it reconnects for ever until `close`.

    Counters: `dropped_messages` (published while disconnected), `malformed_messages` (could not be parsed),
    `unknown_messages` (had fields that this build does not know; they are handled all the same), `failed_handlers` (a
    handler raised).
    """

    def __init__(self, name: str, on_reconnect: Callable[[], Awaitable[None] | None] | None) -> None:
        self._name = name
        self._on_reconnect = on_reconnect
        self._client = nats.aio.client.Client()
        self._logged: set[tuple[str, str]] = set()
        self._away = False  # and it was said
        self._way: WayIn | None = None
        self._found: Found | None = None
        self.dropped_messages = 0
        self.malformed_messages = 0
        self.unknown_messages = 0
        self.failed_handlers = 0

    @classmethod
    async def connect(
        cls,
        *,
        url: str,
        jwt: str,
        name: str,
        on_reconnect: Callable[[], Awaitable[None] | None] | None = None,
    ) -> "Bus":
        """Connects to the NATS server at `url` with `jwt`, a text of `Signer.service_jwt`; waits for as long as the
        server is not there. Raises CredentialError.

        `on_reconnect` is called after each reconnect, when the subscriptions are in force again.
        """
        credential = ServiceCredential.from_text(jwt)
        bus = cls(name, on_reconnect)
        await bus._open(
            url,
            user_jwt_cb=lambda: bytearray(credential.jwt.encode()),
            signature_cb=credential.signature,
            inbox_prefix=credential.inbox or f"_INBOX.{name}",
        )
        return bus

    @classmethod
    async def connect_node(
        cls,
        way: WayIn,
        *,
        on_reconnect: Callable[[], Awaitable[None] | None] | None = None,
    ) -> "Bus":
        """Connects a service to its node's bus; waits for as long as there is none. Whenever the bus is away, what the
        node's folder says is read again: the bus may be elsewhere then, and let in only who has a new credential.
        """
        found = await way.wait()
        bus = cls(way.service, on_reconnect)
        bus._way, bus._found = way, found
        await bus._open(
            found.url,
            signature_cb=bus._sign,  # before the next one, at each attempt
            user_jwt_cb=lambda: bytearray(bus._credential.jwt.encode()),
            inbox_prefix=found.credential.inbox or f"_INBOX.{way.service}",
        )
        return bus

    @classmethod
    async def connect_hub(
        cls,
        access: HubAccess,
        *,
        name: str,
        on_reconnect: Callable[[], Awaitable[None] | None] | None = None,
    ) -> "Bus":
        """Connects to the hub itself, as one does who is on no node; waits for as long as it is not there."""
        bus = cls(name, on_reconnect)
        await bus._open(access.url, inbox_prefix=access.inbox(name), **access.options())
        return bus

    async def _open(self, url: str, **options: Any) -> None:
        await self._client.connect(
            url,
            name=self._name,
            pending_size=0,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # annotated int, used as seconds of sleep
            ping_interval=_PING_SECONDS,
            error_cb=self._errored,
            disconnected_cb=self._disconnected,
            reconnected_cb=self._reconnected,
            **options,
        )

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._client.is_connected

    @property
    def node(self) -> str:
        """Name of the node whose bus it is, where the node's folder led here; else empty."""
        return "" if self._found is None else self._found.node

    async def publish(self, subject: str, message: Message) -> None:
        """Sends `message`; drops and counts it when the server is away. Never raises for the state of the
        connection.
        """
        traceparent = current_traceparent.get()
        headers = {HEADER: traceparent} if traceparent else None
        try:
            await self._client.publish(subject, message.SerializeToString(), headers=headers)
        except nats.errors.MaxPayloadError:
            self.dropped_messages += 1
            self._log_once("message too large for the bus; dropped", subject, type(message), logging.ERROR)
        except (nats.errors.Error, OSError) as error:
            self.dropped_messages += 1
            _log.debug("message dropped", subject=subject, error=type(error).__name__)

    async def request(
        self, subject: str, payload: bytes, *, timeout_seconds: float, headers: Mapping[str, str] | None = None
    ) -> Msg:
        """The answer to `payload`. Raises SilentError when none comes in time, AwayError when nobody listens."""
        try:
            # Without its own timeout, a wait_for, which loses a cancellation that comes with the answer (Python 3.11).
            async with asyncio.timeout(timeout_seconds):
                return await self._client.request(
                    subject,
                    payload,
                    timeout=None,  # type: ignore[arg-type]  # annotated float, handed to wait_for
                    headers=None if headers is None else dict(headers),
                )
        except TimeoutError:
            raise SilentError(f"no answer on {subject} in time") from None
        except (nats.errors.Error, OSError) as error:
            raise AwayError(f"no answer on {subject}: {type(error).__name__}") from error

    async def ask(self, subject: str, payload: bytes, reply: str) -> None:
        """Sends `payload`; what answers goes to `reply`. Raises AwayError when the server is away."""
        try:
            await self._client.publish(subject, payload, reply=reply)
        except (nats.errors.Error, OSError) as error:
            raise AwayError(f"cannot ask {subject}: {type(error).__name__}") from error

    async def acknowledge(self, subject: str, outcome: bytes) -> None:
        """Tells the hub what became of a message that it keeps; while the server is away it asks again by itself."""
        try:
            await self._client.publish(subject, outcome)
        except (nats.errors.Error, OSError) as error:
            _log.debug("not acknowledged", subject=subject, error=type(error).__name__)

    async def open_inbox(self, receive: Callable[[Msg], Awaitable[None]]) -> tuple[str, Callable[[], Awaitable[None]]]:
        """A new subject that answers can go to, and how to close it. `receive` gets what arrives there."""
        inbox = self._client.new_inbox()
        subscription = await self._client.subscribe(inbox, cb=receive)

        async def close() -> None:
            try:
                await subscription.unsubscribe()
                await self.flush(_CLOSE_SECONDS)  # what the hub sends there from now on would be lost
            except (TimeoutError, nats.errors.Error, OSError) as error:
                _log.debug("an inbox is not closed at the server", error=type(error).__name__)

        return inbox, close

    async def subscribe(self, subject: str, message_type: type[MessageT], handler: Handler[MessageT]) -> None:
        """Calls `handler(subject, message)` for each message on `subject`, one after the other, in the order of
        arrival.

        An exception in the handler is logged and counted, and the next message is handled as usual.
        """

        async def receive(received: Msg) -> None:
            message = self.parse(subject, message_type, received.data, received.subject)
            if message is None:
                return
            traceparent = (received.headers or {}).get(HEADER, "")
            context = current_traceparent.set(traceparent if valid_traceparent(traceparent) else None)
            try:
                outcome = handler(received.subject, message)
                if inspect.isawaitable(outcome):
                    await outcome
            except Exception:
                self.failed_handlers += 1
                _log.exception("handler failed", subject=received.subject)
            finally:
                current_traceparent.reset(context)

        await self._client.subscribe(subject, cb=receive)

    async def flush(self, timeout_seconds: float = 2.0) -> None:
        """Waits until the server has handled everything sent so far. Raises TimeoutError when it does not answer."""
        try:
            # nats-py writes its PING ahead of what its flusher still holds: only the second one is behind everything.
            for _ in range(2):
                await self._client.flush(timeout=timeout_seconds)  # type: ignore[arg-type]  # annotated int, is seconds
        except nats.errors.Error as error:
            raise TimeoutError("the NATS server does not answer") from error

    async def close(self) -> None:
        """Ends the connection; what was published before is sent first when the server is there."""
        if self._client.is_connected:
            try:
                await self.flush(1.0)
            except TimeoutError:
                _log.debug("closing without a last flush")
        await self._client.close()

    def parse(self, source: str, message_type: type[MessageT], data: bytes, sent_on: str) -> MessageT | None:
        """The message that `data` is. One that cannot be parsed (None), or has unknown fields, is counted, and the
        first of its kind from `source` logged.
        """
        try:
            message = message_type.FromString(data)
        except DecodeError:
            self.malformed_messages += 1
            self._log_once("malformed message", source, message_type, sent_on=sent_on)
            return None
        if has_unknown_fields(message):
            self.unknown_messages += 1
            event = "message has fields that this build does not know"
            self._log_once(event, source, message_type, sent_on=sent_on)
        return message

    def _log_once(
        self,
        event: str,
        subject: str,
        message_type: type[Message],
        level: int = logging.WARNING,
        sent_on: str = "",
    ) -> None:
        """Logs the first of its kind on `subject` (a subscription's may be a wildcard: `sent_on` says who sent it)."""
        if (event, subject) not in self._logged:
            self._logged.add((event, subject))
            name, hint = message_type.DESCRIPTOR.name, "counted, not logged again"
            _log.log(level, event, subject=sent_on or subject, message=name, hint=hint)

    def _sign(self, nonce: str) -> bytes:
        """The answer to the server's nonce, with the credential that the node's folder has now."""
        self._look_again()
        return self._credential.signature(nonce)

    @property
    def _credential(self) -> ServiceCredential:
        assert self._found is not None  # it connects by what it found
        return self._found.credential

    async def _errored(self, error: Exception) -> None:
        unreachable = isinstance(error, OSError | nats.errors.UnexpectedEOF)
        if unreachable or not (
            self._client.is_connected or self._client.is_closed
        ):  # comes with each attempt to connect
            self._look_again()
            self._say_away()
        else:
            _log.warning("bus error", error=str(error) or type(error).__name__)

    async def _disconnected(self) -> None:
        if not self._client.is_closed:
            self._look_again()
            self._say_away()

    def _look_again(self) -> None:
        """Reads again where the bus is, and who one is there."""
        if self._way is None or self._found is None:
            return
        try:
            found = self._way.read()
        except NoWayInError as error:
            _log.debug("no new way to the bus", reason=str(error))
            return
        before, self._found = self._found, found
        if found.url != before.url and not self._client.is_closed:
            _log.info("the bus has moved", url=found.url)
            self._client.set_server_pool([found.url])

    async def _reconnected(self) -> None:
        self._away = False
        _log.info("the NATS server is back")
        if self._on_reconnect is not None:
            outcome = self._on_reconnect()
            if inspect.isawaitable(outcome):
                await outcome

    def _say_away(self) -> None:
        if not self._away:
            self._away = True
            _log.warning("the NATS server is away; trying for ever")


def has_unknown_fields(message: Message) -> bool:
    """Whether `message`, or a message in it, has fields that its generated code does not know."""
    return len(UnknownFieldSet(message)) > 0 or any(
        has_unknown_fields(part)
        for name in _message_fields(message.DESCRIPTOR)
        for part in _parts(getattr(message, name))
    )


def _parts(value: Message | Iterable[Message]) -> Iterable[Message]:
    return (value,) if isinstance(value, Message) else value


@functools.cache
def _message_fields(descriptor: Descriptor) -> tuple[str, ...]:
    """Names of the fields that hold messages: none in a Report, which arrives most often."""
    return tuple(field.name for field in descriptor.fields if field.type == FieldDescriptor.TYPE_MESSAGE)
