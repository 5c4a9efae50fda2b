"""A service's connection: typed messages, and what happens to those that are bad or late."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from services.bus.tests.conftest import GPU, ConnectBare

from nvshare.bus import subjects
from nvshare.bus.connection import Bus, has_unknown_fields
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.frames import Pub
from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES, NatsServer
from nvshare.bus.trace import current_traceparent
from nvshare.v1.client_pb2 import Report
from nvshare.v1.node_pb2 import Peer, RelayState

SUBJECT = subjects.report(GPU, "a", "1-a")
UNKNOWN_FIELD = b"\xf8\x7f\x01"  # field 2047, varint 1


@pytest.fixture
async def bus(keys: NodeKeys, nats: NatsServer) -> AsyncIterator[Bus]:
    """A service's connection."""
    bus = await Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("test"), name="test")
    yield bus
    await bus.close()


async def collect(bus: Bus) -> "asyncio.Queue[Report]":
    """Where the reports go that `bus` gets."""
    received: asyncio.Queue[Report] = asyncio.Queue()
    await bus.subscribe(subjects.report_any(), Report, lambda subject, report: received.put_nowait(report))
    await bus.flush()
    return received


async def publish_bytes(keys: NodeKeys, connect: ConnectBare, *payloads: bytes) -> None:
    sender = await connect(keys.signer.service_jwt("sender"))
    for payload in payloads:
        sender.send(Pub(SUBJECT, payload))
    assert await sender.errors() == []


async def test_messages_arrive_in_order(bus: Bus) -> None:
    received = await collect(bus)
    for sequence in range(100):
        await bus.publish(SUBJECT, Report(sequence=sequence))
    assert [(await asyncio.wait_for(received.get(), 5)).sequence for _ in range(100)] == list(range(100))


async def test_a_message_that_cannot_be_parsed_is_counted_and_skipped(
    keys: NodeKeys, connect: ConnectBare, bus: Bus
) -> None:
    received = await collect(bus)
    await publish_bytes(keys, connect, b"\xff\xff", Report(sequence=7).SerializeToString())
    assert (await asyncio.wait_for(received.get(), 5)).sequence == 7
    assert bus.malformed_messages == 1


async def test_e15_a_message_with_unknown_fields_is_counted_and_handled(
    keys: NodeKeys, connect: ConnectBare, bus: Bus
) -> None:
    received = await collect(bus)
    await publish_bytes(keys, connect, Report(sequence=7).SerializeToString() + UNKNOWN_FIELD)
    assert (await asyncio.wait_for(received.get(), 5)).sequence == 7
    assert (bus.unknown_messages, bus.malformed_messages) == (1, 0)


def test_e15_unknown_fields_are_seen_in_inner_messages() -> None:
    inner = Peer.FromString(Peer(pid=1).SerializeToString() + UNKNOWN_FIELD)
    assert has_unknown_fields(RelayState(peers=[Peer(pid=2), inner]))
    assert not has_unknown_fields(RelayState(peers=[Peer(pid=2)]))


async def test_a_message_that_is_too_large_is_dropped_and_said_once(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    received = await collect(bus)
    for _ in range(2):
        await bus.publish(SUBJECT, Report(client="x" * MAX_PAYLOAD_BYTES))
    await bus.publish(SUBJECT, Report(sequence=7))

    assert (await asyncio.wait_for(received.get(), 5)).sequence == 7
    assert bus.dropped_messages == 2
    assert capsys.readouterr().out.count("message too large for the bus") == 1


async def test_a_handler_that_raises_is_counted_and_the_next_message_is_handled(bus: Bus) -> None:
    received: asyncio.Queue[int] = asyncio.Queue()

    async def handle(subject: str, report: Report) -> None:
        if report.sequence == 1:
            raise RuntimeError("the first one is too much")
        received.put_nowait(report.sequence)

    await bus.subscribe(subjects.report_any(), Report, handle)
    await bus.publish(SUBJECT, Report(sequence=1))
    await bus.publish(SUBJECT, Report(sequence=2))

    assert await asyncio.wait_for(received.get(), 5) == 2
    assert bus.failed_handlers == 1


async def test_what_is_published_while_the_server_is_away_is_dropped_and_never_a_ghost(
    keys: NodeKeys, nats: NatsServer
) -> None:
    back = asyncio.Event()
    bus = await Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("test"), name="test", on_reconnect=back.set)
    received = await collect(bus)
    await nats.kill()
    async with asyncio.timeout(5):
        while bus.connected:
            await asyncio.sleep(0.005)  # nats-py has no event for it

    await bus.publish(SUBJECT, Report(sequence=1))
    assert bus.dropped_messages == 1

    await nats.start()
    await asyncio.wait_for(back.wait(), 5)
    await bus.publish(SUBJECT, Report(sequence=2))
    assert (await asyncio.wait_for(received.get(), 5)).sequence == 2
    await bus.close()


async def test_connecting_waits_for_a_server_that_is_not_there_yet(keys: NodeKeys, nats: NatsServer) -> None:
    await nats.kill()
    connecting = asyncio.ensure_future(Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("test"), name="test"))
    await asyncio.sleep(0)
    await nats.start()
    bus = await asyncio.wait_for(connecting, 5)
    assert bus.connected
    await bus.close()


async def test_the_trace_context_comes_with_the_message_and_leaves_with_the_answer(bus: Bus) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03"
    seen: asyncio.Queue[str | None] = asyncio.Queue()

    async def pass_on(subject: str, report: Report) -> None:
        await bus.publish(subjects.grant(GPU, "a", "1-a"), report)

    await bus.subscribe(subjects.report_any(), Report, pass_on)
    await bus.subscribe(
        subjects.grant_any(), Report, lambda subject, report: seen.put_nowait(current_traceparent.get())
    )

    context = current_traceparent.set(traceparent)
    await bus.publish(SUBJECT, Report())
    current_traceparent.reset(context)
    await bus.publish(SUBJECT, Report())

    assert [await asyncio.wait_for(seen.get(), 5) for _ in range(2)] == [traceparent, None]
