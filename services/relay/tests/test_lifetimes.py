"""Who lives: death, disconnection, exec and fork, as the relay tells them."""

import asyncio
import os

from services.relay.tests.conftest import Node

from nvshare.v1.node_pb2 import LINK_CONNECTED, LINK_DISCONNECTED, RelayState


def clients(state: RelayState) -> list[str]:
    return [peer.client for peer in state.peers]


async def test_a_process_that_joins_is_a_connected_peer_under_its_pid(node: Node) -> None:
    peer = await node.peer(await node.allocation())

    state = await node.states.until(lambda state: len(state.peers) == 1)

    assert state.peers[0].pid == peer.process.pid
    assert state.peers[0].client.startswith(f"{peer.process.pid}-")
    assert state.peers[0].link == LINK_CONNECTED
    assert state.peers[0].start_time_ticks > 0


async def test_a_killed_process_is_no_peer_any_more(node: Node) -> None:
    peer = await node.peer(await node.allocation())

    await peer.kill()

    await node.states.until(lambda state: not state.peers, 0.5)


async def test_a_lost_connection_is_no_death(node: Node) -> None:
    client = await node.client(await node.allocation())
    await node.states.until(lambda state: clients(state) == [client.client])

    await client.close()

    state = await node.states.until(lambda state: state.peers[0].link == LINK_DISCONNECTED)
    assert clients(state) == [client.client]
    assert state.peers[0].pid == os.getpid()


async def test_a_process_that_comes_again_is_the_same_peer(node: Node) -> None:
    path = await node.allocation()
    first = await node.client(path, "0123456789abcdef")
    await first.close()
    await node.states.until(lambda state: bool(state.peers) and state.peers[0].link == LINK_DISCONNECTED)

    second = await node.client(path, "0123456789abcdef")

    state = await node.states.until(lambda state: state.peers[0].link == LINK_CONNECTED)
    assert clients(state) == [first.client] == [second.client]


async def test_a_second_connection_of_a_process_takes_the_place_of_the_first(node: Node) -> None:
    path = await node.allocation()
    first = await node.client(path, "0123456789abcdef")
    second = await node.client(path, "0123456789abcdef")

    assert await first.is_closed()
    assert await second.flush() == []
    state = await node.states.until(lambda state: clients(state) == [second.client])
    assert state.peers[0].link == LINK_CONNECTED


async def test_exec_replaces_the_peer_though_the_pid_stays(node: Node) -> None:
    path = await node.allocation()
    peer = await node.peer(path, "exec")

    peer.write("now\n")
    successor = await peer.line()

    assert successor.split("-")[0] == peer.client.split("-")[0]
    await node.states.until(lambda state: clients(state) == [successor])


async def test_a_dead_process_is_gone_though_its_child_holds_the_connection(node: Node) -> None:
    peer = await node.peer(await node.allocation(), "fork")
    child = int(await peer.line())

    await peer.kill()

    await node.states.until(lambda state: not state.peers, 0.5)
    os.kill(child, 0)  # it lives on


async def test_many_processes_that_die_at_once_are_all_gone(node: Node) -> None:
    path = await node.allocation()
    peers = [await node.peer(path) for _ in range(8)]
    await node.states.until(lambda state: len(state.peers) == len(peers))

    await asyncio.gather(*(peer.kill() for peer in peers))

    await node.states.until(lambda state: not state.peers, 1.0)
