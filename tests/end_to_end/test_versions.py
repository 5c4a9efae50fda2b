"""E15: libraries and services one version apart work both ways; the unknown is counted; status shows both builds."""

import time
from pathlib import Path

import pytest

from builds import build
from live_node import GIB, MakeNode, wait_until
from nvshare.bus.node_client import AllocationClient
from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.job import allocate
from nvshare.cli.quota import Quota
from nvshare.v1.client_pb2 import CLIENT_STATE_WAITING, Grant, Report

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]
FIELD_OF_THE_NEXT_VERSION = bytes([0xF8, 0x3F, 0x01])  # field 1023, varint 1


@pytest.fixture(scope="module", params=[0, 2], ids=["older", "newer"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """libnvshare of another version of the contract, built from this tree."""
    options = {"NVSHARE_PROTOCOL": str(request.param), "NVSHARE_BUILD": f"protocol-{request.param}"}
    folder = build(tmp_path_factory, "library-other", ROOT / "libnvshare", **options)
    return request.param, folder / "libnvshare.so"


@pytest.mark.timeout(120)
def test_e15_a_library_one_version_apart_shares_the_gpu(
    make_node: MakeNode, library: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, path = library
    node = make_node("--emulate", "1", "--mode", "serial", "--quantum", "0.2")
    same = node.puppet("same")
    monkeypatch.setenv("NVSHARE_LIBRARY", str(path))
    other = node.puppet("other")
    for puppet in (same, other):
        puppet.do(f"alloc {GIB}")
        puppet.start("launch 2000000 200")
    for puppet in (same, other):
        assert puppet.answer()["error"] is None
    client = wait_until(lambda: node.clients().get("other"), 3, "the other client")
    assert client["protocol"] == protocol
    assert client["build"] == f"protocol-{protocol}"
    assert client["build"] != node.status()["build"]


async def test_e15_a_report_of_the_next_version_is_understood_counted_and_answered(make_node: MakeNode) -> None:
    node = make_node("--emulate", "1")
    directory = NodeDirectory(node.directory)
    gpu = (await node.status_async())["gpus"][0]["uuid"]
    share = await allocate(directory, [gpu], "newer", Quota())
    client = await AllocationClient.open(share.socket)
    client.subscribe(client.grant_subject(gpu))
    await client.flush()
    report = Report(
        gpu=gpu, client=client.client, sequence=1, state=CLIENT_STATE_WAITING, demand=True, protocol=2,
        build="tomorrow", monotonic_ns=time.monotonic_ns(),
    )  # fmt: skip
    client.publish(client.report_subject(gpu), report.SerializeToString() + FIELD_OF_THE_NEXT_VERSION)
    grant = Grant.FromString((await client.next_message()).payload)
    assert grant.may_launch
    assert grant.protocol == 1
    status = await node.status_async()
    assert [known["build"] for known in status["gpus"][0]["clients"]] == ["tomorrow"]
    assert status["unknown_messages"] >= 1
    await client.close()
