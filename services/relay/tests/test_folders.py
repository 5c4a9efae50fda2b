"""Allocations whose folder changes or goes while processes of it live."""

import asyncio
import os
import shutil
import time
from urllib.parse import urlsplit

from services.relay.tests.conftest import GPU, Node

from nvshare.bus.node_directory import write_atomically
from nvshare.relay.allocations import Allocation
from nvshare.relay.guests import Admins
from nvshare.relay.service import Relay
from nvshare.relay.session import ServerAddress
from nvshare.v1.node_pb2 import LINK_CONNECTED, RelayState

OTHER_GPU = GPU[:-1] + "2"


async def test_an_allocation_that_gets_other_gpus_is_in_each_state_and_its_clients_come_again(node: Node) -> None:
    client = await node.client(await node.allocation())
    seen: list[list[str]] = []

    def changed(state: RelayState) -> bool:
        seen.append([one.id for one in state.allocations])
        return list(state.allocations[0].gpus) == [OTHER_GPU]

    text = Allocation("a", (OTHER_GPU,), "a", -1, 0, 0, "device-plugin").to_json()
    write_atomically(node.directory.allocation_description("a"), text)
    await node.states.until(changed)

    assert await client.is_closed()
    again = await node.client(node.directory.allocation_socket("a"), client.client.split("-")[1])
    state = await node.states.until(lambda state: [peer.link for peer in state.peers] == [LINK_CONNECTED])
    assert state.peers[0].client == again.client
    assert all(ids == ["a"] for ids in seen)


async def test_a_bad_description_leaves_an_open_allocation_as_it_was(node: Node) -> None:
    client = await node.client(await node.allocation())
    node.directory.allocation_description("a").write_text("{")
    await node.allocation("later")  # so the folders were looked at again

    assert await client.flush() == []
    state = await node.states.until(lambda state: len(state.allocations) == 2)
    assert [list(one.gpus) for one in state.allocations] == [[GPU], [GPU]]


async def test_an_allocation_without_its_folder_is_listed_until_its_last_process_is_dead(node: Node) -> None:
    path = await node.allocation()
    peer = await node.peer(path)

    shutil.rmtree(path.parent)
    await node.allocation("later")

    assert {one.id for one in (await node.states.until(lambda state: True)).allocations} == {"a", "later"}
    await peer.kill()
    await node.states.until(lambda state: [one.id for one in state.allocations] == ["later"])


async def test_b9_a_changed_description_is_told_long_before_the_next_scan_when_its_writer_says_so(
    bare_node: Node,
) -> None:
    address = urlsplit(bare_node.nats.url)
    server = ServerAddress(str(address.hostname), int(address.port or 0))
    stop = asyncio.Event()
    relay = Relay(bare_node.directory, server, bare_node.keys.signer, Admins(os.geteuid(), None), scan_seconds=3600)
    running = asyncio.ensure_future(relay.run(stop))
    await bare_node.states.until(lambda state: True)
    await bare_node.allocation("a")  # a new folder needs no word
    changed = Allocation("a", (GPU,), "a", -1, 2**30, 0, "device-plugin").to_json()
    write_atomically(bare_node.directory.allocation_description("a"), changed)
    bare_node.directory.touch_allocations(time.time_ns())
    await bare_node.states.until(lambda state: state.allocations[0].memory_limit_bytes == 2**30)
    stop.set()
    await running
