"""Allocations that users ask for, and when they end."""

import asyncio
import json
import os
import stat
import time
from collections.abc import AsyncIterator

import pytest
from services.relay.tests.conftest import GPU, Node

from nvshare.bus.node_client import NodeClient
from nvshare.relay.folders import AllocationFolders
from nvshare.relay.journal import JournalFile
from nvshare.relay.limits import MAX_ALLOCATIONS_PER_USER
from nvshare.relay.peers import PeerKey, Process
from nvshare.relay.processes import identify, open_pidfd
from nvshare.relay.registry import Registry
from nvshare.relay.requests import Requests
from nvshare.v1.control_pb2 import (
    AllocateReply,
    AllocateRequest,
    QuotaReply,
    QuotaRequest,
    ReleaseReply,
    ReleaseRequest,
)

LONG_S = 61.0


async def allocate(node: Node) -> AllocateReply:
    async with NodeClient.open(node.directory.control_socket) as client:
        return await client.request("allocate", AllocateRequest(gpus=[GPU], name="job"), AllocateReply)


async def change_quota(node: Node, request: QuotaRequest) -> QuotaReply:
    async with NodeClient.open(node.directory.control_socket) as client:
        return await client.request("quota", request, QuotaReply)


async def release(node: Node, allocation: str) -> ReleaseReply:
    async with NodeClient.open(node.directory.control_socket) as client:
        return await client.request("release", ReleaseRequest(id=allocation), ReleaseReply)


async def test_an_allocation_is_a_folder_that_its_socket_is_in_at_once(node: Node) -> None:
    reply = await allocate(node)

    assert reply.error == ""
    assert reply.socket == str(node.directory.allocation_socket(reply.id))
    description = json.loads(node.directory.allocation_description(reply.id).read_text())
    assert description["uid"] == os.geteuid()
    assert description["source"] == "run"
    assert stat.S_IMODE(node.directory.allocation(reply.id).stat().st_mode) == 0o755
    client = await node.client(node.directory.allocation_socket(reply.id))
    assert client.allocation == reply.id


async def test_a_request_that_makes_no_sense_is_answered_with_one_line(node: Node) -> None:
    async with NodeClient.open(node.directory.control_socket) as client:
        reply = await client.request("allocate", AllocateRequest(name="job"), AllocateReply)
    assert reply.error == "no allocation: it names no GPU, too many, or something that is no GPU's UUID"


async def test_b9_another_core_quota_is_written_down_and_announced_and_the_rest_stays(node: Node) -> None:
    allocated = await allocate(node)
    weighed = QuotaRequest(id=allocated.id, memory_limit_bytes=7, weight=400)
    assert (await change_quota(node, weighed)).error == ""

    reply = await change_quota(node, QuotaRequest(id=allocated.id, keep_memory_limit=True, core_limit_percent=30))

    assert (reply.previous.core_limit_percent, reply.allocation.core_limit_percent) == (0, 30)
    assert (reply.allocation.memory_limit_bytes, reply.allocation.weight) == (7, 400)
    await node.states.until(lambda state: [one.core_limit_percent for one in state.allocations] == [30])
    description = json.loads(node.directory.allocation_description(allocated.id).read_text())
    assert (description["core_limit_percent"], description["memory_limit_bytes"]) == (30, 7)


async def test_e16_a_quota_that_was_set_by_hand_says_so_and_since_when(node: Node) -> None:
    allocated = await allocate(node)
    before_ns = time.time_ns()
    first = (await change_quota(node, QuotaRequest(id=allocated.id, memory_limit_bytes=7))).allocation
    assert first.quota_source == "user"
    assert before_ns <= first.quota_since_unix_ns <= time.time_ns()
    again = (await change_quota(node, QuotaRequest(id=allocated.id, memory_limit_bytes=7))).allocation
    assert again.quota_since_unix_ns == first.quota_since_unix_ns, "what did not change is in force since then"


async def test_b11_a_bad_quota_is_answered_with_one_line_and_changes_nothing(node: Node) -> None:
    allocated = await allocate(node)
    before = node.directory.allocation_description(allocated.id).read_text()

    reply = await change_quota(node, QuotaRequest(id=allocated.id, memory_limit_bytes=7, core_limit_percent=101))

    assert reply.error == "the quota stays as it is: its core limit is not 1 to 100 percent, or 0 for none"
    assert node.directory.allocation_description(allocated.id).read_text() == before


async def test_a_released_allocation_without_processes_is_gone(node: Node) -> None:
    allocated = await allocate(node)

    assert (await release(node, allocated.id)).error == ""

    assert not node.directory.allocation(allocated.id).exists()
    await node.states.until(lambda state: not state.allocations)


async def test_a_released_allocation_with_a_process_goes_when_that_has_ended(node: Node) -> None:
    allocated = await allocate(node)
    peer = await node.peer(node.directory.allocation_socket(allocated.id))

    assert (await release(node, allocated.id)).error == ""
    assert node.directory.allocation(allocated.id).exists()
    await peer.kill()

    await node.states.until(lambda state: not state.allocations)
    assert not node.directory.allocation(allocated.id).exists()


async def test_an_unknown_allocation_and_a_containers_are_not_released(node: Node) -> None:
    await node.allocation("pod")
    assert "there is no allocation" in (await release(node, "run-0")).error
    assert "ends with its pod" in (await release(node, "pod")).error


class Shop:
    """The parts that serve requests, without the bus, and with a clock of the test."""

    def __init__(self, node: Node) -> None:
        self.registry = Registry(JournalFile(node.directory.relay_journal), lambda: None)
        self.folders = AllocationFolders(
            node.directory,
            make_protocol=lambda allocation: asyncio.Protocol(),
            in_use=lambda name: bool(self.registry.peers.of_allocation(name)),
            on_change=lambda: None,
            on_moved=lambda name: None,
        )
        self.registry.load()
        node.directory.allocations.mkdir()
        self.admins: set[int] = set()
        self.requests = Requests(self.folders, self.registry, self.admins.__contains__)

    async def allocate(self, uid: int, owner: Process | None = None) -> str:
        if owner is not None:
            self.requests.asked_by(uid, "token", owner)
        reply = await self.requests.allocate(uid, AllocateRequest(gpus=[GPU], reply_token="token"))
        assert reply.error == ""
        return reply.id

    def close(self) -> None:
        self.folders.close()
        self.registry.close()


@pytest.fixture
async def shop(bare_node: Node) -> AsyncIterator[Shop]:
    """A node's requests, served by hand."""
    shop = Shop(bare_node)
    yield shop
    shop.close()


def this_process() -> Process:
    pidfd = open_pidfd(os.getpid())
    try:
        return identify(os.getpid(), pidfd)
    finally:
        os.close(pidfd)


DEAD = Process(this_process().pid, 1)  # an earlier life of this pid


async def test_a_user_has_a_bounded_number_of_allocations(shop: Shop) -> None:
    for _ in range(MAX_ALLOCATIONS_PER_USER):
        await shop.allocate(1000)
    reply = await shop.requests.allocate(1000, AllocateRequest(gpus=[GPU]))
    assert f"you have {MAX_ALLOCATIONS_PER_USER} allocations already" in reply.error
    await shop.allocate(1001)


async def test_only_its_owner_and_admins_release_an_allocation(shop: Shop) -> None:
    first, second = await shop.allocate(1000), await shop.allocate(1000)
    shop.admins.add(1)
    assert "another user's" in (await shop.requests.release(1001, ReleaseRequest(id=first))).error
    assert (await shop.requests.release(1000, ReleaseRequest(id=first))).error == ""
    assert (await shop.requests.release(1, ReleaseRequest(id=second))).error == ""
    assert list(shop.folders) == []


async def test_an_allocation_whose_owner_died_ends_after_a_minute_without_processes(shop: Shop) -> None:
    await shop.allocate(1000, DEAD)
    shop.requests.sweep(0.0)
    shop.requests.sweep(LONG_S - 2)
    assert len(list(shop.folders)) == 1
    shop.requests.sweep(LONG_S)
    assert list(shop.folders) == []


async def test_an_allocation_lasts_as_long_as_its_owner(shop: Shop) -> None:
    await shop.allocate(1000, this_process())
    shop.requests.sweep(0.0)
    shop.requests.sweep(LONG_S)
    assert len(list(shop.folders)) == 1


async def test_an_allocation_lasts_as_long_as_a_process_in_it(shop: Shop) -> None:
    allocation = await shop.allocate(1000, DEAD)
    shop.registry.peers.joined(PeerKey(allocation, "1-0"), this_process())
    shop.requests.sweep(0.0)
    shop.requests.sweep(LONG_S)
    assert len(list(shop.folders)) == 1


async def test_the_owner_of_an_allocation_is_known_after_a_restart(bare_node: Node) -> None:
    before = Shop(bare_node)
    allocation = await before.allocate(1000, this_process())
    before.close()

    registry = Registry(JournalFile(bare_node.directory.relay_journal), lambda: None)
    registry.load()

    assert registry.owners == {allocation: this_process()}
    registry.close()
