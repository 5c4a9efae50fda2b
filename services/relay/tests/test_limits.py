"""The limits of one allocation, one user and the node, and that the state fits one message at all of them."""

from nvshare.bus.nats_server import MAX_PAYLOAD_BYTES
from nvshare.relay.allocations import ANY_UID, Allocation
from nvshare.relay.limits import (
    MAX_ALLOCATIONS_PER_NODE,
    MAX_ALLOCATIONS_PER_USER,
    MAX_CLIENTS_PER_NODE,
    MAX_PEERS_PER_ALLOCATION,
    MAX_PEERS_PER_NODE,
    MAX_PEERS_PER_USER,
    allocation_refusal,
    peer_refusal,
)
from nvshare.relay.peers import Peer, PeerKey, Process
from nvshare.relay.promises import GrantOrder, Promise
from nvshare.v1.node_pb2 import RelayState

GPUS = tuple(f"GPU-{number:036x}" for number in range(16))
LARGEST = 2**63


def allocation(name: str, uid: int = 1000, gpus: int = 1) -> Allocation:
    return Allocation(name, GPUS[:gpus], "\U0001f600" * 64, uid, LARGEST - 1, 100, "run", 1000, core_burst=True)


def peer(name: str, pid: int, gpus: int = 0) -> Peer:
    promise = Promise(LARGEST, ((GrantOrder(1, 1), LARGEST),))
    client = PeerKey(name, f"{pid}-0123456789abcdef")
    return Peer(client, Process(pid, 2**40), True, dict.fromkeys(GPUS[:gpus], promise), refused_messages=2**40)


def test_the_largest_state_that_users_can_make_fits_one_message() -> None:
    gpus_each = MAX_CLIENTS_PER_NODE // MAX_PEERS_PER_NODE
    allocations = [allocation("run-" + "f" * 30 + f"{n:06d}", gpus=16) for n in range(MAX_ALLOCATIONS_PER_NODE)]
    peers = [peer(allocations[0].id, 4_000_000 + pid, gpus_each) for pid in range(MAX_PEERS_PER_NODE)]
    state = RelayState(
        node="n" * 64,
        generation=LARGEST,
        sequence=LARGEST,
        allocations=[one.to_message() for one in allocations],
        peers=[one.to_message() for one in peers],
    )
    assert state.ByteSize() < MAX_PAYLOAD_BYTES


def test_a_process_too_many_is_refused_and_says_of_what() -> None:
    mine, other, shared = allocation("a"), allocation("b"), allocation("c", uid=ANY_UID)
    known = {one.id: one for one in (mine, other, shared)}

    def refusal(of: Allocation, *counts: tuple[str, int]) -> str:
        names = [name for name, count in counts for _ in range(count)]
        return peer_refusal(of, 1, [peer(name, 2 + number) for number, name in enumerate(names)], known.get)

    assert refusal(mine, ("a", MAX_PEERS_PER_ALLOCATION - 1)) == ""
    assert refusal(mine, ("a", MAX_PEERS_PER_ALLOCATION)) == "too many processes in this allocation"
    assert refusal(mine, ("a", 100), ("b", MAX_PEERS_PER_USER - 100)) == "too many processes of this user"
    assert refusal(shared, ("b", MAX_PEERS_PER_USER)) == ""
    assert refusal(shared, ("gone", MAX_PEERS_PER_NODE)) == "too many processes on this node"


def test_many_gpus_count_as_many_clients() -> None:
    wide = allocation("a", gpus=16)
    peers = [peer("a", 2 + number) for number in range(64)]
    assert peer_refusal(wide, 1, peers[:63], lambda name: wide) == ""
    assert peer_refusal(wide, 1, peers, lambda name: wide) == "too many processes of this user"


def test_a_process_that_calls_exec_is_not_one_more() -> None:
    mine = allocation("a")
    peers = [peer("a", 1 + number) for number in range(MAX_PEERS_PER_ALLOCATION)]
    assert peer_refusal(mine, 1, peers, lambda name: mine) == ""


def test_an_allocation_too_many_is_refused_and_a_containers_does_not_count() -> None:
    mine = [allocation(str(number)) for number in range(MAX_ALLOCATIONS_PER_USER)]
    assert "you have 64 allocations already" in allocation_refusal(1000, mine)
    assert allocation_refusal(1001, mine) == ""
    all_users = [allocation(str(number), uid=number) for number in range(MAX_ALLOCATIONS_PER_NODE)]
    assert "the node has 512 allocations already" in allocation_refusal(1000, all_users)
    containers = [Allocation(str(number), GPUS[:1], "", 1000, 0, 0, "device-plugin") for number in range(600)]
    assert allocation_refusal(1000, containers) == ""
