"""A service's connection to the bus: typed messages over core NATS.

Everything on the bus is a whole state that is sent again (docs/protocol.md), so this connection loses messages rather
than keeping them: what is published while the server is away is dropped and counted. A message kept for later would be
a ghost: it would tell of the past as if it were now.

nats-py must be told so: `pending_size=0` (else publishes are kept and sent after a reconnect),
`max_reconnect_attempts=-1` (else it gives up), short waits, an inbox prefix of our own.
"""

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import nats.aio.client
import nats.errors
import structlog
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from nats.aio.msg import Msg

from nvshare.bus.credentials import ServiceCredential
from nvshare.bus.trace import HEADER, current_traceparent, valid_traceparent

_RECONNECT_WAIT_SECONDS = 0.1
_PING_SECONDS = 5

MessageT = TypeVar("MessageT", bound=Message)
Handler = Callable[[str, MessageT], Awaitable[None] | None]

_log = structlog.get_logger()


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
        await bus._client.connect(
            url,
            name=name,
            user_jwt_cb=lambda: bytearray(credential.jwt.encode()),
            signature_cb=credential.signature,
            pending_size=0,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # annotated int, used as seconds of sleep
            ping_interval=_PING_SECONDS,
            inbox_prefix=f"_INBOX_{name}",
            error_cb=bus._errored,
            disconnected_cb=bus._disconnected,
            reconnected_cb=bus._reconnected,
        )
        return bus

    @property
    def connected(self) -> bool:
        """Whether the server is there now."""
        return self._client.is_connected

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

    async def subscribe(self, subject: str, message_type: type[MessageT], handler: Handler[MessageT]) -> None:
        """Calls `handler(subject, message)` for each message on `subject`, one after the other, in the order of
        arrival.

        An exception in the handler is logged and counted, and the next message is handled as usual.
        """

        async def receive(received: Msg) -> None:
            message = self._parse(subject, message_type, received)
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

    def _parse(self, subscribed: str, message_type: type[MessageT], received: Msg) -> MessageT | None:
        try:
            message = message_type.FromString(received.data)
        except DecodeError:
            self.malformed_messages += 1
            self._log_once("malformed message", subscribed, message_type, sent_on=received.subject)
            return None
        if has_unknown_fields(message):
            self.unknown_messages += 1
            event = "message has fields that this build does not know"
            self._log_once(event, subscribed, message_type, sent_on=received.subject)
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

    async def _errored(self, error: Exception) -> None:
        if isinstance(error, OSError | nats.errors.UnexpectedEOF):  # comes with each attempt to connect
            self._say_away()
        else:
            _log.warning("bus error", error=str(error) or type(error).__name__)

    async def _disconnected(self) -> None:
        if not self._client.is_closed:
            self._say_away()

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
