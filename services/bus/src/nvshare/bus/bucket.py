"""A key-value bucket at the hub: one message of one type for each key, the last one counts.

A bucket is a stream `KV_<bucket>` with the subjects `$KV.<bucket>.<key>` (NATS's ADR-8), so every tool that knows
NATS's buckets can read it. Nothing here raises for the state of the link: it says that the hub is away.
"""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import structlog
from google.protobuf.message import Message

from nvshare.bus.connection import AwayError
from nvshare.bus.jetstream import Consumer, JetStream, RefusedError, Stored

if TYPE_CHECKING:
    from nvshare.bus.hub import Hub

_KEY = re.compile(r"[A-Za-z0-9_=/-]+(\.[A-Za-z0-9_=/-]+)*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_MAX_KEY_CHARACTERS = 255
_READ_AGAIN_SECONDS = 30.0
_REFUSED_SECONDS = 1.0  # until the next try

_log = structlog.get_logger()

MessageT = TypeVar("MessageT", bound=Message)
OnChange = Callable[[Mapping[str, MessageT], frozenset[str]], Awaitable[None] | None]
"""Called with a view of the whole bucket, and the keys whose values came, changed or went since the last call."""


class Bucket(Generic[MessageT]):
    """One bucket. Made by `Hub.bucket`; it is made at the hub when it is first used."""

    def __init__(self, hub: "Hub", stream: JetStream, name: str, message_type: type[MessageT]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:80]!r} is no name of a bucket: use A-Z a-z 0-9 _ -")
        self._hub = hub
        self._stream = stream
        self._name = name
        self._type = message_type
        self._made = False

    async def put(self, key: str, message: MessageT) -> bool:
        """Keeps `message` under `key`. False: the hub is away, or refuses. What was put then may have arrived all the
        same: put again when the hub is back. Raises ValueError for a key that is none.
        """
        return await self._write(key, message.SerializeToString(), {})

    async def delete(self, key: str) -> bool:
        """Forgets what is under `key`, if anything is. Answers as `put` does."""
        return await self._write(key, b"", {"KV-Operation": "DEL"})

    async def read_all(self) -> dict[str, MessageT] | None:
        """What is in the bucket now; None: the hub is away, or refuses. A value that cannot be parsed is left out."""
        try:
            await self._make()
            async with self._stream.last_of_each(f"KV_{self._name}", self._subject(">")) as (consumer, count):
                return await self._read(consumer, count, {})
        except AwayError:
            return None
        except RefusedError as error:
            self._refused("read", error)
            return None

    async def mirror(self, on_change: OnChange[MessageT], read_again_seconds: float = _READ_AGAIN_SECONDS) -> NoReturn:
        """Tells `on_change` what is in the bucket, at once and then on each change, until it is cancelled.

        It follows the bucket, and reads all of it again when the hub is back and every `read_again_seconds`. While the
        hub is away, what it told last stays. A value that cannot be parsed changes nothing. An exception of `on_change`
        is logged and counted (`Bus.failed_handlers`).
        """
        values: dict[str, MessageT] = {}
        view = MappingProxyType(values)
        told = False

        async def replace(found: dict[str, MessageT]) -> None:
            nonlocal told
            changed = frozenset(key for key in values.keys() | found.keys() if values.get(key) != found.get(key))
            values.clear()
            values.update(found)
            if changed or not told:
                told = True
                await self._tell(on_change, view, changed)

        async def follow() -> None:
            await self._make()
            end = clock() + read_again_seconds
            async with self._stream.last_of_each(f"KV_{self._name}", self._subject(">")) as (consumer, count):
                await replace(await self._read(consumer, count, values))
                while clock() < end:
                    failures = self._hub.failures
                    async for stored in consumer.pull():
                        if (key := self._apply(values, stored)) is not None:
                            await self._tell(on_change, view, frozenset((key,)))
                    if self._hub.failures != failures:
                        raise AwayError("the hub did not answer meanwhile")

        clock = asyncio.get_running_loop().time
        while True:
            failures = self._hub.failures
            try:
                await follow()
            except AwayError as error:
                _log.debug("bucket is not followed", bucket=self._name, error=str(error))
                await self._hub.answers_again(failures)
            except RefusedError as error:
                self._made = False
                self._refused("follow", error)
                await asyncio.sleep(_REFUSED_SECONDS)

    async def _read(self, consumer: Consumer, count: int, before: Mapping[str, MessageT]) -> dict[str, MessageT]:
        """The whole bucket, of which `count` values are to come; for one that cannot be parsed, that of `before`."""
        values: dict[str, MessageT] = {}
        while count > 0:
            async for stored in consumer.pull():
                key = self._key(stored)
                if key in before:
                    values.setdefault(key, before[key])
                self._apply(values, stored)
                count = stored.pending
                if count == 0:
                    break
        return values

    def _apply(self, values: dict[str, MessageT], stored: Stored) -> str | None:
        """Changes `values` by what was stored; the key whose value is another now."""
        key = self._key(stored)
        before = values.get(key)
        if stored.headers.get("KV-Operation", "PUT") != "PUT" or "Nats-Marker-Reason" in stored.headers:
            values.pop(key, None)
        else:
            message = self._stream.bus.parse(self._name, self._type, stored.data, stored.subject)
            if message is not None:
                values[key] = message
        return key if values.get(key) != before else None

    def _key(self, stored: Stored) -> str:
        return stored.subject.removeprefix(self._subject(""))

    async def _write(self, key: str, data: bytes, headers: Mapping[str, str]) -> bool:
        if len(key) > _MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
            raise ValueError(f"{key[:80]!r} is no key: use A-Z a-z 0-9 _ = / - and single dots")
        try:
            await self._make()
            await self._stream.publish(f"{self._stream.prefix}.{self._subject(key)}", data, headers or None)
        except AwayError:
            self._made = False  # somebody may have deleted it: nobody answers then, either
            return False
        except RefusedError as error:
            self._refused("write", error)
            return False
        return True

    async def _make(self) -> None:
        if not self._made:
            await self._stream.make_stream(stream_configuration(self._name))
            self._made = True

    async def _tell(
        self, on_change: OnChange[MessageT], values: Mapping[str, MessageT], changed: frozenset[str]
    ) -> None:
        try:
            outcome = on_change(values, changed)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            self._stream.bus.failed_handlers += 1
            _log.exception("handler failed", bucket=self._name)

    def _refused(self, what: str, error: RefusedError) -> None:
        self._hub.refused(f"{what} {self._name}", error)

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"


def stream_configuration(bucket: str) -> dict[str, Any]:
    """The stream that is the bucket: its last value for each key, on the hub's disk."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "max_msgs_per_subject": 1,
        "max_msg_size": 64 * 1024,
        "max_bytes": 256 * 1024 * 1024,
        "discard": "new",
        "storage": "file",
        "num_replicas": 1,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }
