"""`nvshare link` and `nvshare hub`: the bus of a node without its scheduler, and the hub between nodes, as commands."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from nvshare.bus.connection import Bus
from nvshare.bus.hub import Hub
from nvshare.bus.hub_server import ALLOCATIONS
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.subjects import relay
from nvshare.bus.way_in import WayIn
from nvshare.cli.hub import password
from nvshare.cli.main import main
from nvshare.v1.node_pb2 import Allocation, RelayState

BACK_SECONDS = 2.0

Run = Callable[..., subprocess.Popen[str]]
"""Starts `nvshare` with these arguments, and returns when it has said that it serves."""


@pytest.fixture
def run() -> Iterator[Run]:
    with ExitStack() as stack:

        def start(*arguments: object, serves: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "nvshare.cli", *map(str, arguments)], stdout=subprocess.PIPE, text=True
            )
            stack.callback(end, process)
            assert process.stdout is not None
            assert serves in process.stdout.readline()
            return process

        yield start


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait(10)
    if process.stdout is not None:
        process.stdout.close()


def link(run: Run, node_dir: Path, *arguments: object) -> subprocess.Popen[str]:
    return run("link", "--node", "worker.1", "--node-dir", node_dir, *arguments, serves="the bus of node worker-1")


async def heard(bus: Bus) -> None:
    """Waits until the node's relay was heard."""
    states: asyncio.Queue[RelayState] = asyncio.Queue()
    await bus.subscribe(relay(bus.node), RelayState, lambda subject, state: states.put_nowait(state))
    await asyncio.wait_for(states.get(), 5)


async def test_a_link_that_is_killed_and_started_again_has_its_services_back_within_2_s(run: Run, folder: Path) -> None:
    node = NodeDirectory(folder)
    first = link(run, folder)
    back = asyncio.Event()
    bus = await Bus.connect_node(WayIn(node, "scheduler"), on_reconnect=back.set)
    await heard(bus)
    before = node.read_description()
    services = [psutil.Process(pid) for pid in children(first)]
    first.kill()
    async with asyncio.timeout(10):
        while any(lives(service) for service in services):
            await asyncio.sleep(0.01)

    await asyncio.to_thread(link, run, folder)
    serves = time.monotonic()
    await asyncio.wait_for(back.wait(), 5)
    assert time.monotonic() - serves <= BACK_SECONDS
    await heard(bus)
    assert node.read_description()["nats_url"] == before["nats_url"]
    await bus.close()


def children(process: subprocess.Popen[str]) -> list[int]:
    """The NATS server and the relay of a link."""
    return [child.pid for child in psutil.Process(process.pid).children()]


def lives(process: psutil.Process) -> bool:
    """Whether it runs; one that nobody waits for may stay as a zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_ctrl_c_ends_all_of_a_link(run: Run, folder: Path) -> None:
    process = link(run, folder)
    services = [psutil.Process(pid) for pid in children(process)]
    assert len(services) == 2
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(10) == 0
    assert not any(lives(service) for service in services)
    assert not NodeDirectory(folder).description.exists()


def test_a_second_link_waits_for_the_first(run: Run, folder: Path) -> None:
    first = link(run, folder)
    second = run("link", "--node-dir", folder, serves="another node runs in")
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(10) == 0
    assert second.stdout is not None
    assert "the bus of node" in second.stdout.readline()


async def test_a_hub_makes_the_credentials_that_a_node_comes_in_with(run: Run, folder: Path) -> None:
    store, node_dir = folder / "hub", folder / "node"
    ports = ["--port", free_port(), "--leaf-port", leaf_port := free_port(), "--monitor-port", 0]
    arguments = ["hub", "--store", store, "--host", "127.0.0.1", *ports, "--node", "worker.1"]
    await asyncio.to_thread(run, *arguments, serves="the hub listens")
    assert (store / "leaf-worker-1").stat().st_mode & 0o777 == 0o600
    hub_options = ("--hub", f"nats-leaf://127.0.0.1:{leaf_port}", "--hub-credentials", store / "leaf-worker-1")
    await asyncio.to_thread(link, run, node_dir, *hub_options)

    bus = await Bus.connect_node(WayIn(NodeDirectory(node_dir), "device-plugin"))
    async with Hub(bus) as hub, asyncio.timeout(5):
        while not hub.reachable:
            await asyncio.sleep(0.01)
        assert await hub.bucket(ALLOCATIONS, Allocation).put("worker-1.a", Allocation(id="a"))
        assert not await hub.bucket(ALLOCATIONS, Allocation).put("worker-2.a", Allocation(id="a"))
    await bus.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["link", "--hub", "hub.example"], "is no address of a hub"),
        (["link", "--hub", "nats://hub.example", "--hub-credentials", "/nowhere"], "cannot be read"),
        (["link", "--hub", "nats://hub.example", "--hub-ca", "/nowhere"], "no file of certificates"),
        (["link", "--hub-ca", "/nowhere"], "give --hub"),
        (["link", "--nats-port", "65536"], "give a port"),
        (["hub", "--certificate", "/nowhere"], "needs both"),
        (["hub", "--store-size", "600MiB"], "or more"),
        (["hub", "--store", "/proc/hub"], "choose another folder with --store"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--node-dir", str(folder)] if arguments[0] == "link" else []
    assert main([*arguments, *where]) != 0
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_a_password_of_the_hub_stays_or_is_the_environments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = password(folder, "leaf")
    assert password(folder, "leaf") == made != password(folder, "tool")
    monkeypatch.setenv("NVSHARE_HUB_LEAF_PASSWORD", "given")
    assert password(folder, "leaf") == "given"
