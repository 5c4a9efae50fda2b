"""The relay or the NATS server is killed (design, section 10; issue A, must show 5): state agrees again within 2 s."""

import time

import pytest

from live_node import GIB, MakeNode, Node, wait_until
from nvshare.bus.node_client import NodeError

pytestmark = [pytest.mark.heavy, pytest.mark.alone]

AGREEMENT_SECONDS = 2.0


def agrees(node: Node, name: str, footprint_bytes: int) -> bool:
    try:
        client = node.clients().get(name, {})
    except NodeError:
        return False
    fresh = int(client.get("report_age_us", 10**9)) < 1_500_000
    return client.get("link") == "connected" and int(client.get("footprint_bytes", 0)) == footprint_bytes and fresh


@pytest.mark.parametrize("service", ["relay", "nats"])
def test_state_agrees_within_2_s_after_it_is_back(make_node: MakeNode, service: str) -> None:
    node = make_node("--emulate", "1")
    program, other = node.puppet("program"), node.puppet("other")
    program.do(f"alloc {GIB}")
    other.do(f"alloc {GIB}")
    with node.without_service(service):
        program.do(f"alloc {64 * 2**20}")  # within its headroom: nobody notices
        program.do("launch 1000 10")
        footprint_bytes = GIB + 64 * 2**20
    back = wait_until(lambda: node.service(service), 5, f"{service} back")
    started = time.monotonic()
    wait_until(lambda: agrees(node, "program", footprint_bytes), AGREEMENT_SECONDS + 3, "agreement")
    seconds = time.monotonic() - max(started, back.create_time() - time.time() + time.monotonic())
    assert seconds <= AGREEMENT_SECONDS
    other.do("launch 1000")
    other.do("sync")
