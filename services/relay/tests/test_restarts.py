"""What is known after the relay, or nats-server, was killed and came back."""

import asyncio

import pytest
from services.relay.tests.conftest import GPU, Node

from nvshare.bus import subjects
from nvshare.bus.node_client import AllocationClient, NodeError
from nvshare.v1.client_pb2 import Grant, Report
from nvshare.v1.node_pb2 import LINK_CONNECTED, LINK_DISCONNECTED, JournalBytes

MIB = 2**20
GENERATION = 5


async def grant(node: Node, client: AllocationClient, epoch: int, resident_bytes: int, headroom_bytes: int) -> None:
    """The scheduler's grant, when the client has it."""
    sent = Grant(
        gpu=GPU,
        client=client.client,
        generation=GENERATION,
        epoch=epoch,
        resident_bytes=resident_bytes,
        headroom_bytes=headroom_bytes,
    )
    await node.bus.publish(client.grant_subject(GPU), sent)
    assert Grant.FromString((await client.next_message()).payload) == sent


async def report(client: AllocationClient, epoch: int, resident_bytes: int) -> None:
    """The client's report, when the relay has it."""
    sent = Report(gpu=GPU, client=client.client, generation=GENERATION, epoch=epoch, resident_bytes=resident_bytes)
    client.publish(client.report_subject(GPU), sent.SerializeToString())
    await client.flush()


async def joined(node: Node) -> AllocationClient:
    client = await node.client(await node.allocation())
    client.subscribe(client.grant_subject(GPU))
    await client.flush()
    return client


async def test_after_sigkill_of_the_relay_each_living_process_is_listed_with_its_bytes(relay_process: Node) -> None:
    node = relay_process
    client = await joined(node)
    await grant(node, client, epoch=1, resident_bytes=64 * MIB, headroom_bytes=32 * MIB)
    await report(client, epoch=1, resident_bytes=48 * MIB)
    await grant(node, client, epoch=2, resident_bytes=16 * MIB, headroom_bytes=0)

    await node.kill_relay()
    await node.start_relay()

    state = await node.states.until(lambda state: True)
    assert [peer.client for peer in state.peers] == [client.client]
    assert state.peers[0].link == LINK_DISCONNECTED
    # It may still follow the first grant: no report has shown the second one in force.
    expected = JournalBytes(gpu=GPU, resident_bytes=48 * MIB, promised_bytes=96 * MIB)
    assert list(state.peers[0].journal) == [expected]


async def test_a_report_voids_the_grants_before_the_one_in_force_even_after_a_restart(relay_process: Node) -> None:
    node = relay_process
    client = await joined(node)
    nonce = client.client.split("-")[1]
    await grant(node, client, epoch=1, resident_bytes=64 * MIB, headroom_bytes=0)
    await grant(node, client, epoch=2, resident_bytes=16 * MIB, headroom_bytes=0)
    await node.kill_relay()
    await node.start_relay()

    again = await node.client(node.directory.allocation_socket("a"), nonce)
    await report(again, epoch=2, resident_bytes=16 * MIB)

    expected = JournalBytes(gpu=GPU, resident_bytes=16 * MIB, promised_bytes=16 * MIB)
    state = await node.states.until(lambda state: list(state.peers[0].journal) == [expected])
    assert state.peers[0].link == LINK_CONNECTED


async def test_who_died_while_the_relay_was_away_is_not_listed(relay_process: Node) -> None:
    node = relay_process
    path = await node.allocation()
    lasting, dying = await node.peer(path), await node.peer(path)

    await node.kill_relay()
    await dying.kill()
    await node.start_relay()

    state = await node.states.until(lambda state: True)
    assert [peer.client for peer in state.peers] == [lasting.client]


async def test_a_process_of_before_the_restart_is_still_watched(relay_process: Node) -> None:
    node = relay_process
    peer = await node.peer(await node.allocation())
    await node.kill_relay()
    await node.start_relay()
    await node.states.until(lambda state: len(state.peers) == 1)

    await peer.kill()

    await node.states.until(lambda state: not state.peers, 0.5)


async def test_each_life_of_the_relay_has_a_greater_generation(relay_process: Node) -> None:
    node = relay_process
    before = await node.states.until(lambda state: True)
    await node.kill_relay()
    await node.start_relay()
    after = await node.states.until(lambda state: True)
    assert after.generation > before.generation


async def test_when_nats_was_killed_the_state_agrees_again_within_two_seconds(relay_process: Node) -> None:
    node = relay_process
    client = await joined(node)
    path, nonce = node.directory.allocation_socket("a"), client.client.split("-")[1]

    await node.nats.kill()
    assert await client.is_closed()
    node.states.latest = None
    await node.nats.start()

    async with asyncio.timeout(2):
        client = await rejoin(node, client)
        await node.states.until(lambda state: [peer.link for peer in state.peers] == [LINK_CONNECTED])
        assert client.client.endswith(nonce)
        assert path.is_socket()
        await node.bus.publish(client.grant_subject(GPU), Grant(gpu=GPU, client=client.client))
        assert (await client.next_message()).subject == subjects.grant(GPU, "a", client.client)


async def rejoin(node: Node, client: AllocationClient) -> AllocationClient:
    """Connects until it is let in, as the library does."""
    while True:
        try:
            client = await node.client(node.directory.allocation_socket("a"), client.client.split("-")[1])
        except NodeError:
            await asyncio.sleep(0.01)
        else:
            client.subscribe(client.grant_subject(GPU))
            await client.flush()
            return client


async def test_a_journal_that_is_damaged_costs_only_its_damaged_lines(relay_process: Node) -> None:
    node = relay_process
    peer = await node.peer(await node.allocation())
    await node.kill_relay()
    with node.directory.relay_journal.open("a") as journal:
        journal.write('{"op": "joined", "allocation": "a", "cli')
    await node.start_relay()
    state = await node.states.until(lambda state: True)
    assert [one.client for one in state.peers] == [peer.client]


@pytest.mark.parametrize("name", ["UPPER", ".hidden", "two"])
async def test_a_bad_allocation_folder_harms_no_other(relay_process: Node, name: str) -> None:
    node = relay_process
    folder = node.directory.allocation(name)
    folder.mkdir(parents=True)
    (folder / "allocation.json").write_text('{"id": "else"}')

    path = await node.allocation("good")

    assert path.is_socket()
    assert not (folder / "nvshare.sock").exists()
