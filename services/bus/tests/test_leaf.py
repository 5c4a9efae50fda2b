"""What passes between a node and its hub, and who may say what there, on real servers."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from services.bus.tests.conftest import GPU, PASSWORD, ConnectBare, hub_access, hub_options

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.frames import Pub, Sub
from nvshare.bus.hub import NOTICES, Hub
from nvshare.bus.hub_access import HubAccess, HubAccessError
from nvshare.bus.hub_server import ALLOCATIONS, ANY_NODE, QUOTAS, HubOptions, HubServer
from nvshare.bus.leaf_watch import close_leaf
from nvshare.bus.nats_server import NatsServer, ServerProcess
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota
from nvshare.v1.node_pb2 import Allocation, RelayState

STAYS = {
    "a grant": subjects.grant(GPU, "a", "1-a"),
    "a report": subjects.report(GPU, "a", "1-a"),
    "a plan": subjects.plan(GPU),
    "what the relay knows": subjects.relay("node-1"),
    "a user's request": subjects.user("node-1", 0, "mode"),
    "the answer to a user": subjects.reply("node-1", 0, "token"),
}
EVENT = subjects.event(GPU, "client-joined")


class Heard:
    """The subjects on which messages came."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self._changed = asyncio.Condition()

    async def __call__(self, subject: str, message: RelayState) -> None:
        async with self._changed:
            self.subjects.append(subject)
            self._changed.notify_all()

    async def until(self, subject: str) -> list[str]:
        """What came up to the first message on `subject`."""
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(lambda: subject in self.subjects)
        return self.subjects


async def listen(bus: Bus) -> Heard:
    heard = Heard()
    for pattern in ("nvshare.v1.>", *STAYS.values()):  # by one pattern, and each by its own
        await bus.subscribe(pattern, RelayState, heard)
    await bus.flush()
    return heard


async def crosses(sender: Bus, receiver: Bus) -> None:
    """Waits until interest has spread: what is published then, arrives."""
    ready = asyncio.Event()
    await receiver.subscribe(subjects.event(GPU, "ready"), RelayState, lambda subject, message: ready.set())
    async with asyncio.timeout(5):
        while not ready.is_set():
            await sender.publish(subjects.event(GPU, "ready"), RelayState())
            await asyncio.sleep(0.01)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def node_bus(stack: AsyncExitStack, name: str, hub: HubAccess, folder: Path, service: str = "scheduler") -> Bus:
    """A service of the node `name`, whose server is a leaf of `hub`."""
    keys = NodeKeys.generate(name)
    server = NatsServer(keys, folder / name, hub=hub)
    await server.start()
    stack.push_async_callback(server.stop)
    bus = await Bus.connect(url=server.url, jwt=keys.signer.service_jwt(service), name=service)
    stack.push_async_callback(bus.close)
    return bus


async def user_bus(stack: AsyncExitStack, server: HubServer, user: str) -> Bus:
    """A user of the hub, at the hub."""
    bus = await Bus.connect_hub(hub_access(server.url, user), name=user)
    stack.push_async_callback(bus.close)
    return bus


@pytest.fixture
async def open_hub(stack: AsyncExitStack, tmp_path: Path) -> tuple[Bus, HubAccess]:
    """A hub that forbids nobody anything, as somebody else's may be: a client there, and the way in for leaves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        leaf_port = listening.getsockname()[1]

    def configure(port: int) -> str:
        where = f'host: "127.0.0.1"\nport: {port}\nports_file_dir: "{tmp_path / "open"}"\n'
        return f'{where}leafnodes {{ host: "127.0.0.1", port: {leaf_port} }}\n'

    server = ServerProcess(tmp_path / "open", configure)
    await server.start()
    stack.push_async_callback(server.stop)
    client = await Bus.connect_hub(HubAccess(server.url), name="anybody")
    stack.push_async_callback(client.close)
    return client, HubAccess(f"nats-leaf://127.0.0.1:{leaf_port}")


async def test_nothing_of_the_node_itself_comes_in_or_goes_out_whatever_the_hub_allows(
    stack: AsyncExitStack, open_hub: tuple[Bus, HubAccess], tmp_path: Path
) -> None:
    hub, way_in = open_hub
    node = await node_bus(stack, "node-1", way_in, tmp_path)
    at_node, at_hub = await listen(node), await listen(hub)
    await crosses(hub, node)
    await crosses(node, hub)
    for sender, receiver, heard in ((hub, node, at_node), (node, hub, at_hub)):
        before = len(heard.subjects)
        for subject in STAYS.values():
            await sender.publish(subject, RelayState(node="node-1", generation=9))
        await sender.publish(EVENT, RelayState())
        came = (await heard.until(EVENT))[before:]
        assert not set(came) & set(STAYS.values())
        heard.subjects.clear()
        await receiver.flush()


async def test_a_node_speaks_for_itself_only(stack: AsyncExitStack, hub_server: HubServer, tmp_path: Path) -> None:
    node = await node_bus(stack, "node-1", hub_access(hub_server.leaf_url, "leaf-node-1"), tmp_path)
    tool = await user_bus(stack, hub_server, "tool")
    heard = await listen(tool)
    await crosses(node, tool)
    foreign, own = subjects.notice("node-2"), subjects.notice("node-1")
    await node.publish(foreign, RelayState())
    await node.publish(own, RelayState())
    assert foreign not in await heard.until(own)


async def test_a_node_hears_nothing_of_another_one(
    stack: AsyncExitStack, hub_server: HubServer, tmp_path: Path
) -> None:
    first, second = [
        await node_bus(stack, name, hub_access(hub_server.leaf_url, f"leaf-{name}"), tmp_path)
        for name in ("node-1", "node-2")
    ]
    tool = await user_bus(stack, hub_server, "tool")
    heard, seen = await listen(second), await listen(tool)
    await crosses(first, tool)
    await first.publish(EVENT, RelayState())
    await seen.until(EVENT)
    await tool.flush()
    await second.publish(subjects.notice("node-2"), RelayState())  # from its own server, behind what the hub sent
    assert EVENT not in await heard.until(subjects.notice("node-2"))


async def test_each_writes_only_what_is_its_own(stack: AsyncExitStack, hub_server: HubServer, tmp_path: Path) -> None:
    way_in = hub_access(hub_server.leaf_url, "leaf-node-1")
    node = await node_bus(stack, "node-1", way_in, tmp_path, service="device-plugin")
    watcher, tool = [await user_bus(stack, hub_server, name) for name in ("watcher", "tool")]
    async with Hub(node) as at_node, Hub(watcher) as at_watcher, Hub(tool) as at_tool:
        await answers(at_node)
        assert await at_node.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation(id="a"))
        assert await at_watcher.bucket(QUOTAS, PodQuota).put("u-1", PodQuota(name="one"))
        assert await at_node.publish_kept(subjects.notice("node-1"), PodNotice(reason="own"))

        refused = await asyncio.gather(
            at_node.bucket(ALLOCATIONS, Allocation).put("node-2.a", Allocation(id="a")),
            at_node.bucket(QUOTAS, PodQuota).put("u-1", PodQuota(name="lie")),
            at_node.bucket(QUOTAS, PodQuota).delete("u-1"),
            at_node.publish_kept(subjects.notice("node-2"), PodNotice(reason="lie")),
            at_tool.bucket(QUOTAS, PodQuota).put("u-1", PodQuota(name="lie")),
            at_tool.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation(id="lie")),
            at_watcher.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation(id="lie")),
        )
        assert not any(refused)
        assert await at_node.bucket(QUOTAS, PodQuota).read_all() == {"u-1": PodQuota(name="one")}
        assert await at_node.bucket(ALLOCATIONS, Allocation).read_all() == {"node-1.a": Allocation(id="a")}


async def answers(hub: Hub) -> None:
    async with asyncio.timeout(5):
        while not hub.reachable:
            await asyncio.sleep(0.005)


async def test_who_has_the_password_that_nodes_share_speaks_for_any_node(stack: AsyncExitStack, tmp_path: Path) -> None:
    options = HubOptions(
        store=tmp_path / "store",
        port=-1,
        leaf_port=-1,
        nodes={ANY_NODE: PASSWORD},
        watcher_password=PASSWORD,
        tool_password=PASSWORD,
    )
    server = HubServer(options, tmp_path / "hub")
    await server.start()
    stack.push_async_callback(server.stop)
    node = await node_bus(stack, "node-1", hub_access(server.leaf_url, "leaf"), tmp_path, service="device-plugin")
    async with Hub(node) as hub:
        await answers(hub)
        assert await hub.publish_kept(subjects.notice("node-2"), PodNotice(), NOTICES)


async def test_a_leaf_that_is_closed_is_made_anew(keys: NodeKeys, leaf: NatsServer) -> None:
    system = await Bus.connect(url=leaf.url, jwt=keys.link_jwt(), name="link")
    bus = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("device-plugin"), name="device-plugin")
    async with Hub(bus) as hub:
        await answers(hub)
        before = await leafs(system)
        assert await close_leaf(system)
        async with asyncio.timeout(5):
            while await leafs(system) in (before, []):
                await asyncio.sleep(0.01)
            while await hub.bucket(ALLOCATIONS, Allocation).read_all() != {}:
                await asyncio.sleep(0.01)
    await bus.close()
    await system.close()


async def leafs(system: Bus) -> list[int]:
    """Numbers of the server's connections to the hub."""
    reply = await system.request("$SYS.REQ.SERVER.PING.LEAFZ", b"{}", timeout_seconds=1)
    return [one["id"] for one in json.loads(reply.data)["data"].get("leafs") or ()]


async def test_without_a_leaf_there_is_none_to_close(keys: NodeKeys, nats: NatsServer) -> None:
    system = await Bus.connect(url=nats.url, jwt=keys.link_jwt(), name="link")
    assert not await close_leaf(system)
    await system.close()


async def test_who_watches_over_the_leaf_may_do_nothing_else(keys: NodeKeys, connect: ConnectBare) -> None:
    link = await connect(keys.link_jwt())
    for subject in ("nvshare.v1.>", "$SYS.>", "_INBOX.>", "_INBOX.node.node-1.scheduler.>"):
        link.send(Sub(subject, "1"))
        assert "Permissions Violation" in str(await link.errors())
    for subject in (subjects.grant(GPU, "a", "1-a"), "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.SERVER.X.RELOAD"):
        link.send(Pub(subject, b""))
        assert "Permissions Violation" in str(await link.errors())


async def test_a_node_whose_password_is_wrong_goes_on_without_its_hub(
    stack: AsyncExitStack, hub_server: HubServer, tmp_path: Path
) -> None:
    wrong = HubAccess(hub_server.leaf_url, user="leaf-node-1", secret="wrong")
    node = await node_bus(stack, "node-1", wrong, tmp_path)
    heard = await listen(node)
    async with Hub(node) as hub:
        assert not await hub.bucket(ALLOCATIONS, Allocation).put("node-1.a", Allocation())
        await node.publish(subjects.relay("node-1"), RelayState())
        await heard.until(subjects.relay("node-1"))
        assert not hub.reachable


def test_the_passwords_are_for_the_servers_user_alone(hub_server: HubServer, leaf: NatsServer, tmp_path: Path) -> None:
    for folder in ("hub", "leaf"):
        assert (tmp_path / folder / "nats-server.conf").stat().st_mode & 0o077 == 0
    assert PASSWORD not in repr(hub_options(tmp_path))
    assert PASSWORD not in repr(hub_access(hub_server.leaf_url, "leaf-node-1"))


@pytest.mark.parametrize(
    ("url", "leaf_url"),
    [
        ("nats-leaf://hub.example", "nats-leaf://hub.example:7422"),
        ("nats://u:p%40@hub.example:7000", "nats-leaf://u:p%40@hub.example:7000"),
        ("tls://u:p@[::1]:7000", "tls://u:p@[::1]:7000"),
    ],
)
def test_an_address_of_the_hub_becomes_that_of_its_leaves(url: str, leaf_url: str) -> None:
    assert HubAccess.read(url).leaf_url() == leaf_url


@pytest.mark.parametrize(
    "url", ["", "hub.example:4222", "http://hub.example", "nats://", "nats://h:99999", "nats://h h"]
)
def test_what_is_no_address_of_a_hub_is_refused(url: str) -> None:
    with pytest.raises(HubAccessError, match="is no address of a hub"):
        HubAccess.read(url)


def test_the_hubs_credentials_come_from_a_file_before_the_address(tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("leaf:pass:word\n")
    assert (
        HubAccess.read("nats://other:one@hub.example", file).leaf_url()
        == "nats-leaf://leaf:pass%3Aword@hub.example:7422"
    )
    file.write_text("a-token\n")
    assert HubAccess.read("nats://hub.example", file).options() == {"token": "a-token"}
    with pytest.raises(HubAccessError, match="cannot use a token"):
        HubAccess.read("nats://hub.example", file).leaf_url()
    file.write_text("two words")
    with pytest.raises(HubAccessError, match="holds no credentials"):
        HubAccess.read("nats://hub.example", file)
