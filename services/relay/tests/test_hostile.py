"""What a peer that means harm, or is broken, gets: an error, and the end of its own connection."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
from services.relay.tests.conftest import GPU, Node

from nvshare.bus import subjects
from nvshare.bus.frames import Err
from nvshare.bus.node_client import AllocationClient, NodeClient, NodeError
from nvshare.v1.client_pb2 import Grant, Report
from nvshare.v1.control_pb2 import ModeReply, ModeRequest, ReleaseReply, ReleaseRequest

PAYLOAD_LIMIT_BYTES = 16 * 1024
FRAMES_AT_ONCE = 1000


async def error_then_end(client: AllocationClient) -> str:
    """The error that ends a connection."""
    while not isinstance(frame := await client.next_frame(), Err):
        pass
    assert await client.is_closed()
    return frame.text


async def raw(path: Path, data: bytes) -> bytes:
    """Everything that the relay says to one who sends `data` at once and then reads to the end."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        async with asyncio.timeout(10):
            answer = await reader.readline()
            writer.write(data)
            return answer + await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_message_of_the_largest_size_passes_and_a_larger_one_ends_the_connection(node: Node) -> None:
    client = await node.client(await node.allocation())
    client.publish(client.report_subject(GPU), b"x" * PAYLOAD_LIMIT_BYTES)
    assert await client.flush() == []

    client.publish(client.report_subject(GPU), b"x" * (PAYLOAD_LIMIT_BYTES + 1))

    assert await error_then_end(client) == "maximum payload violation"
    await node.states.until(lambda state: sum(peer.refused_messages for peer in state.peers) == 1)


async def test_a_flood_ends_the_connection_of_who_floods_and_of_nobody_else(node: Node) -> None:
    path = await node.allocation()
    neighbour = await node.peer(path)
    client = await node.client(path)
    client.send_raw(b"PING\r\n" * FRAMES_AT_ONCE * 3)

    assert await error_then_end(client) == "too many messages a second"
    state = await node.states.until(lambda state: any(peer.refused_messages for peer in state.peers))
    assert neighbour.client in [peer.client for peer in state.peers if not peer.refused_messages]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100 + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"A" * 10_000,
        b"PUB x 0\r\n\r\n",
        b"PING\r\n",
        b"CONNECT {}\r\n",
        b'CONNECT {"name": 5}\r\n',
        b'CONNECT {"name": "*"}\r\n',
        b'CONNECT {"name": "AAAAAAAAAAAAAAAA"}\r\n',
        b'CONNECT {"name": "0123456789abcdef"}\r\nCONNECT {"name": "0123456789abcdef"}\r\n',
        b"MSG a 1 0\r\n\r\n",
    ],
)
async def test_bytes_that_do_not_join_are_answered_with_an_error_and_the_end(node: Node, data: bytes) -> None:
    answer = await raw(await node.allocation(), data)

    assert answer.startswith(b"INFO ")
    assert b"-ERR '" in answer


async def test_refused_connections_are_counted(node: Node) -> None:
    path = await node.allocation()
    before = (await node.states.until(lambda state: True)).refused_connections
    await raw(path, b"NONSENSE\r\n")
    await node.states.until(lambda state: state.refused_connections == before + 1)


async def test_who_leaves_at_any_point_leaves_nothing_behind(node: Node) -> None:
    path = await node.allocation()
    connect = b'CONNECT {"name":"0123456789abcdef"}\r\nPUB nvshare 100\r\nabc'
    for length in range(0, len(connect), 7):
        reader, writer = await asyncio.open_unix_connection(str(path))
        if length:
            await reader.readline()
            writer.write(connect[:length])
        writer.close()

    client = await node.client(path)

    assert await client.flush() == []


async def test_who_comes_again_and_again_does_not_send_more_than_its_allocation_may(node: Node) -> None:
    path = await node.allocation()
    flood = b'CONNECT {"name":"0123456789abcdef"}\r\n' + b"PING\r\n" * 900 + b"NONSENSE\r\n"

    answers = [await raw(path, flood) for _ in range(20)]  # each within what a connection may send at once

    assert b"too many messages a second" not in answers[0]
    assert b"too many messages a second" in answers[-1]


async def test_an_allocation_has_a_bounded_number_of_connections(node: Node) -> None:
    path = await node.allocation()
    connections = [await asyncio.open_unix_connection(str(path)) for _ in range(64)]
    for reader, _ in connections:
        assert (await reader.readline()).startswith(b"INFO ")

    with pytest.raises(NodeError, match="too many connections"):
        await AllocationClient.open(path)

    for _, writer in connections:
        writer.close()


async def test_a_foreign_subject_is_refused_by_the_server_and_counted(node: Node) -> None:
    client = await node.client(await node.allocation())

    client.publish(subjects.report(GPU, "b", client.client), b"")
    client.subscribe(subjects.grant_any())

    assert [type(frame) for frame in await client.flush()] == [Err, Err]
    await node.states.until(lambda state: sum(peer.refused_messages for peer in state.peers) == 2)


async def test_credentials_of_its_own_do_not_help_a_peer(node: Node) -> None:
    """A service's token in CONNECT is put aside, and the peer is the client that it is."""
    stolen = node.keys.signer.service_jwt("scheduler").encode()
    subject = subjects.grant(GPU, "b", "1-b").encode()
    data = b'CONNECT {"name":"0123456789abcdef","jwt":"%b"}\r\nPUB %b 0\r\n\r\nPUB x 99999\r\n' % (stolen, subject)

    answer = await raw(await node.allocation(), data)

    assert b"Permissions Violation for Publish" in answer or b"maximum payload" in answer


async def test_a_reply_address_reaches_neither_the_services_nor_its_target(node: Node) -> None:
    client = await node.client(await node.allocation())
    victim = await node.peer(await node.allocation("b"), "listen")
    assert await victim.line() == "ready"
    arrived: asyncio.Queue[str] = asyncio.Queue()
    await node.bus.subscribe(subjects.report_any(), Report, lambda subject, report: arrived.put_nowait(subject))
    await node.bus.flush()

    client.publish(client.report_subject(GPU), b"", reply=subjects.grant(GPU, "b", victim.client))
    assert await asyncio.wait_for(arrived.get(), 5) == client.report_subject(GPU)

    # The first message that the victim gets is the one that the scheduler means for it.
    await node.bus.publish(subjects.grant(GPU, "b", victim.client), Grant(gpu=GPU))
    assert await victim.line() == subjects.grant(GPU, "b", victim.client)


async def test_a_client_that_does_not_read_does_not_hold_up_the_others(node: Node) -> None:
    path = await node.allocation()
    deaf = await node.peer(path, "deaf")
    reader = await node.client(path)
    reader.subscribe(reader.grant_subject(GPU))
    await reader.flush()
    large = Grant(gpu=GPU, traceparent="x" * 60_000)

    for _ in range(200):
        await node.bus.publish(subjects.grant(GPU, "a", deaf.client), large)
    await node.bus.publish(reader.grant_subject(GPU), Grant(gpu=GPU))

    assert (await reader.next_message(1.0)).subject == reader.grant_subject(GPU)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@needs_root
async def test_a_user_that_is_no_admin_is_told_that_mode_needs_one(node: Node) -> None:
    async def set_mode() -> str:
        async with NodeClient.open(node.directory.control_socket) as client:
            await client.request("mode", ModeRequest(), ModeReply)
        return "done"

    answer = await as_user(4242, set_mode)

    assert answer == "NodeError: `mode` needs root, the user that runs the node, or its admin group"


@needs_root
async def test_another_user_cannot_join_an_allocation(node: Node) -> None:
    path = await node.allocation("mine", uid=4241)

    async def join() -> str:
        client = await AllocationClient.open(path)
        await client.close()
        return client.allocation

    assert "this allocation belongs to another user" in await as_user(4242, join)
    assert await as_user(4241, join) == "mine"


async def as_user(uid: int, action: Callable[[], Coroutine[None, None, str]]) -> str:
    """What `action` returns, or the error that it raises, in a process of the user `uid`."""

    def run() -> str:
        reading, writing = os.pipe()
        child = (
            os.fork()
        )  # from a thread, so that the child has no running event loop; an interpreter may be root's only
        if child == 0:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            try:
                text = asyncio.run(action())
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
            os.write(writing, text.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            text = stream.read()
        os.waitpid(child, 0)
        return text

    return await asyncio.to_thread(run)


async def test_whoever_runs_the_node_is_an_admin(node: Node) -> None:
    async with NodeClient.open(node.directory.control_socket) as client:
        assert (client.node, client.uid, client.admin) == ("node-1", os.geteuid(), True)

        async def answer(subject: str, request: ModeRequest) -> None:
            user = subjects.parse_user(subject)
            await node.bus.publish(subjects.reply(user.node, user.uid, request.reply_token), ModeReply(gpu=request.gpu))

        await node.bus.subscribe(subjects.user_any("node-1", "mode"), ModeRequest, answer)
        await node.bus.flush()
        assert (await client.request("mode", ModeRequest(gpu=GPU), ModeReply)).gpu == GPU


async def test_a_node_that_is_not_there_is_said_in_one_line(short_folder: Path) -> None:
    with pytest.raises(NodeError, match="start one with `nvshare up`"):
        await NodeClient.open(short_folder / "control.sock")


async def test_a_user_that_asks_too_often_is_slowed_down_and_gets_every_answer(node: Node) -> None:
    requests, burst, per_second = 70, 64, 20
    loop = asyncio.get_running_loop()
    async with NodeClient.open(node.directory.control_socket) as client:
        begin_s = loop.time()
        for _ in range(requests):
            reply = await client.request("release", ReleaseRequest(id="run-0"), ReleaseReply)
            assert "there is no allocation" in reply.error
        # The last one is let in and paid for afterwards.
        assert loop.time() - begin_s >= (requests - 1 - burst) / per_second - 0.05
