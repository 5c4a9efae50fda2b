"""How `nvshare doctor` finds out whether a node's hub answers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub_access import HubAccess
from nvshare.bus.hub_server import HubOptions, HubServer
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.doctor.gather_node import ask_hub

NODE, PASSWORD = "node-1", "secret"


@dataclass
class Leaf:
    """A node's bus."""

    directory: NodeDirectory
    nats: NatsServer


async def start_leaf(folder: Path, hub: HubAccess | None) -> Leaf:
    keys = NodeKeys.generate(NODE)
    directory = NodeDirectory(folder)
    directory.credentials.mkdir(parents=True)
    directory.service_credentials("device-plugin").write_text(keys.signer.service_jwt("device-plugin"))
    nats = NatsServer(keys, directory.nats, hub=hub)
    await nats.start()
    directory.write_description({"node": NODE, "nats_url": nats.url})
    return Leaf(directory, nats)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    options = HubOptions(
        store=tmp_path / "store",
        port=-1,
        leaf_port=-1,
        nodes={NODE: PASSWORD},
        watcher_password=PASSWORD,
        tool_password=PASSWORD,
    )
    server = HubServer(options, tmp_path / "hub")
    await server.start()
    yield server
    await server.stop()


async def until_answered(directory: NodeDirectory) -> bool:
    """What it says once the leaf has found its hub, or after some tries."""
    for _ in range(10):
        answers, _ = await ask_hub(directory)
        if answers:
            return True
    return False


async def test_a_hub_that_answers_and_one_that_is_gone_are_told_apart(tmp_path: Path, hub: HubServer) -> None:
    leaf = await start_leaf(tmp_path / "node", HubAccess(hub.leaf_url, user=f"leaf-{NODE}", secret=PASSWORD))
    try:
        assert await until_answered(leaf.directory)
        await hub.stop()
        assert await ask_hub(leaf.directory) == (False, "")
    finally:
        await leaf.nats.stop()


async def test_a_node_without_a_hub_has_none(tmp_path: Path) -> None:
    leaf = await start_leaf(tmp_path / "node", None)
    try:
        assert await ask_hub(leaf.directory) == (None, "")
    finally:
        await leaf.nats.stop()


async def test_a_bus_that_does_not_answer_is_not_waited_for_long(tmp_path: Path) -> None:
    leaf = await start_leaf(tmp_path / "node", HubAccess("nats-leaf://127.0.0.1:1", user="a", secret="b"))
    await leaf.nats.stop()
    assert await ask_hub(leaf.directory) == (False, "")


async def test_without_a_node_there_is_nothing_to_ask(tmp_path: Path) -> None:
    assert await ask_hub(NodeDirectory(tmp_path)) == (None, "")
