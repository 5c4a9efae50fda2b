"""Several users on one node that root runs: each has allocations of its own, and no way into another's."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nvshare.bus.node_client import AllocationClient, NodeClient, NodeError
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.node_launch import launch_node
from nvshare.cli.node_options import NodeOptions
from nvshare.v1.client_pb2 import Mode
from nvshare.v1.control_pb2 import (
    AllocateReply,
    AllocateRequest,
    ModeReply,
    ModeRequest,
    ReleaseReply,
    ReleaseRequest,
    StatusReply,
    StatusRequest,
)

ALICE = 61001
BOB = 61002


@pytest.fixture(scope="module")
def node() -> Iterator[NodeDirectory]:
    """Root's node with one emulated GPU, in a folder that every user can reach."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    folder = Path(tempfile.mkdtemp(prefix="nvshare-users-"))
    folder.chmod(0o755)
    launched = launch_node(NodeOptions(directory=folder / "node", emulated_gpus=1), detach=False)
    yield NodeDirectory(folder / "node")
    launched.stop()
    shutil.rmtree(folder)


def as_user(uid: int, action: Callable[[], str]) -> str:
    """What `action` returns in a process of that user; the text of its NodeError otherwise.

    A fork without exec: the interpreter may stand in a folder that only root can read.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "the action raised"
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            answer = action()
        except NodeError as error:
            answer = f"NodeError: {error}"
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


async def allocate(node: NodeDirectory, name: str) -> str:
    async with NodeClient.open(node.control_socket) as client:
        status = await client.request("status", StatusRequest(), StatusReply)
        request = AllocateRequest(gpus=[gpu.uuid for gpu in status.gpus], name=name)
        reply = await client.request("allocate", request, AllocateReply)
        return json.dumps({"error": reply.error, "id": reply.id, "socket": reply.socket})


async def join(socket: str) -> str:
    client = await AllocationClient.open(Path(socket))
    await client.close()
    return "joined"


async def release(node: NodeDirectory, allocation: str) -> str:
    async with NodeClient.open(node.control_socket) as client:
        return (await client.request("release", ReleaseRequest(id=allocation), ReleaseReply)).error or "released"


async def switch_off(node: NodeDirectory) -> str:
    async with NodeClient.open(node.control_socket) as client:
        status = await client.request("status", StatusRequest(), StatusReply)
        request = ModeRequest(gpu=status.gpus[0].uuid, mode=Mode.MODE_OFF)
        return (await client.request("mode", request, ModeReply)).error or "switched"


@pytest.fixture(scope="module")
def allocation_of_alice(node: NodeDirectory) -> dict[str, str]:
    reply: dict[str, str] = json.loads(as_user(ALICE, lambda: asyncio.run(allocate(node, "alice"))))
    assert reply["error"] == ""
    return reply


def test_a_user_joins_her_own_allocation(allocation_of_alice: dict[str, str]) -> None:
    assert as_user(ALICE, lambda: asyncio.run(join(allocation_of_alice["socket"]))) == "joined"


def test_another_user_cannot_join_it(allocation_of_alice: dict[str, str]) -> None:
    assert as_user(BOB, lambda: asyncio.run(join(allocation_of_alice["socket"]))).startswith("NodeError: ")


def test_another_user_cannot_release_it(node: NodeDirectory, allocation_of_alice: dict[str, str]) -> None:
    answer = as_user(BOB, lambda: asyncio.run(release(node, allocation_of_alice["id"])))
    assert answer not in ("released", "")
    assert Path(allocation_of_alice["socket"]).exists()


def test_users_have_different_allocations(node: NodeDirectory, allocation_of_alice: dict[str, str]) -> None:
    of_bob = json.loads(as_user(BOB, lambda: asyncio.run(allocate(node, "bob"))))
    assert of_bob["id"] != allocation_of_alice["id"]
    assert as_user(BOB, lambda: asyncio.run(join(of_bob["socket"]))) == "joined"
    assert as_user(ALICE, lambda: asyncio.run(join(of_bob["socket"]))).startswith("NodeError: ")


def test_a_user_without_the_right_cannot_change_the_mode(node: NodeDirectory) -> None:
    assert "needs root" in as_user(BOB, lambda: asyncio.run(switch_off(node)))


def test_root_can_change_the_mode(node: NodeDirectory) -> None:
    assert asyncio.run(switch_off(node)) == "switched"
