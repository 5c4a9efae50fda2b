"""The scheduler as a process: a real NATS server, the emulated GPU's NVML, and a test that plays relay and clients."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.nats_server import NatsServer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.emulator import library_directory
from nvshare.scheduler.device_memory import Driver, Gpu
from nvshare.scheduler.model import MemorySampled, Mode
from nvshare.scheduler.modes import Sharing, load_sharing
from nvshare.scheduler.policy import GIB, Policy
from nvshare.scheduler.service import NodeShare, Scheduler
from nvshare.v1 import client_pb2, control_pb2, node_pb2

NODE = "node-1"
UID = 1234
SCHEDULER = [sys.executable, "-m", "nvshare.scheduler"]


@dataclass
class Inbox:
    """The messages that arrive on one subject."""

    messages: list[Any] = field(default_factory=list)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def receive(self, subject: str, message: Any) -> None:
        async with self._news:
            self.messages.append(message)
            self._news.notify_all()

    async def until(self, true: Callable[[Any], bool], timeout_seconds: float = 10.0) -> Any:
        """The first message that is `true`."""
        async with asyncio.timeout(timeout_seconds), self._news:
            await self._news.wait_for(lambda: any(true(message) for message in self.messages))
        return next(message for message in self.messages if true(message))


@dataclass
class Node:
    """A node with a scheduler in a process of its own."""

    keys: NodeKeys
    directory: NodeDirectory
    nats: NatsServer
    bus: Bus
    process: asyncio.subprocess.Process | None = None
    relay_sequence: int = 0
    report_sequence: int = 0
    tokens: int = 0
    peers: list[node_pb2.Peer] = field(default_factory=list)
    allocations: list[node_pb2.Allocation] = field(default_factory=list)

    def environment(self, **changes: str) -> dict[str, str]:
        return {
            **os.environ,
            "LD_LIBRARY_PATH": str(library_directory()),
            "NVSHARE_EMULATOR_DIR": str(self.directory.path / "emulator"),
            "NVSHARE_NODE_DIR": str(self.directory.path),
            "NVSHARE_NODE": NODE,
            "NVSHARE_NATS_URL": self.nats.url,
            "NVSHARE_PARENT_DEATH": "1",
            "NVSHARE_LOG": "warn",
            **changes,
        }

    async def start_scheduler(self, **changes: str) -> None:
        self.process = await asyncio.create_subprocess_exec(*SCHEDULER, env=self.environment(**changes))
        async with asyncio.timeout(20):
            while not (await self.ask("status", control_pb2.StatusRequest, control_pb2.StatusReply, 0.2)):
                assert self.process.returncode is None

    async def stop_scheduler(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.terminate()
            assert await asyncio.wait_for(self.process.wait(), 10) == 0

    async def ask(
        self, verb: str, request_type: Any, reply_type: Any, timeout_seconds: float = 10.0, **fields: Any
    ) -> Any:
        """What the scheduler answers to a user; None when it does not."""
        self.tokens += 1
        token, inbox = f"t{self.tokens}", Inbox()
        await self.bus.subscribe(subjects.reply(NODE, UID, token), reply_type, inbox.receive)
        await self.bus.publish(subjects.user(NODE, UID, verb), request_type(reply_token=token, **fields))
        try:
            return await inbox.until(lambda reply: True, timeout_seconds)
        except TimeoutError:
            return None

    async def status(self) -> control_pb2.StatusReply:
        reply = await self.ask("status", control_pb2.StatusRequest, control_pb2.StatusReply)
        assert isinstance(reply, control_pb2.StatusReply)
        return reply

    async def gpu(self) -> control_pb2.GpuStatus:
        return (await self.status()).gpus[0]

    async def set_mode(self, gpu: str, mode: int, quantum_us: int = 0) -> control_pb2.ModeReply:
        reply = await self.ask(
            "mode", control_pb2.ModeRequest, control_pb2.ModeReply, gpu=gpu, mode=mode, quantum_us=quantum_us
        )
        assert isinstance(reply, control_pb2.ModeReply)
        return reply

    async def relay(self) -> None:
        """The relay speaks."""
        self.relay_sequence += 1
        state = node_pb2.RelayState(
            node=NODE,
            generation=1,
            sequence=self.relay_sequence,
            allocations=self.allocations,
            peers=self.peers,
            version="0.0.9",
            build="relay-build",
            arena_bytes=64 * GIB,
            arena_reserved_bytes=12 * GIB,
            arena_made_bytes=3 * GIB,
        )
        await self.bus.publish(subjects.relay(NODE), state)

    async def join(self, gpu: str, name: str) -> Inbox:
        """A client connects, and the relay says so. Gives where its grants arrive."""
        self.allocations.append(node_pb2.Allocation(id=name, gpus=[gpu], name=name, uid=UID))
        self.peers.append(
            node_pb2.Peer(allocation=name, client=f"7-{name}", pid=os.getpid(), link=node_pb2.LINK_CONNECTED)
        )
        inbox = Inbox()
        await self.bus.subscribe(subjects.grant(gpu, name, f"7-{name}"), client_pb2.Grant, inbox.receive)
        await self.relay()
        return inbox

    async def report(self, gpu: str, allocation: str, **fields: Any) -> None:
        self.report_sequence += 1
        report = client_pb2.Report(
            gpu=gpu,
            client=f"7-{allocation}",
            sequence=self.report_sequence,
            state=client_pb2.CLIENT_STATE_WAITING,
            monotonic_ns=time.monotonic_ns(),
            build="client-build",
            protocol=1,
            **fields,
        )
        await self.bus.publish(subjects.report(gpu, allocation, f"7-{allocation}"), report)


@pytest.fixture
async def bare_node(tmp_path: Path) -> AsyncIterator[Node]:
    """A node whose scheduler does not run yet."""
    keys = NodeKeys.generate(NODE)
    directory = NodeDirectory(tmp_path)
    (tmp_path / "emulator").mkdir()
    directory.credentials.mkdir()
    directory.service_credentials("scheduler").write_text(keys.signer.service_jwt("scheduler"))
    nats = NatsServer(keys, directory.nats)
    await nats.start()
    bus = await Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("test"), name="test")
    node = Node(keys, directory, nats, bus)
    yield node
    await node.stop_scheduler()
    await bus.close()
    await nats.stop()


@pytest.fixture
async def node(bare_node: Node) -> Node:
    await bare_node.start_scheduler()
    return bare_node


async def run(*arguments: str, **changes: str) -> tuple[int | None, str]:
    """Runs the program to its end. Gives its status and what it wrote."""
    process = await asyncio.create_subprocess_exec(
        *SCHEDULER,
        *arguments,
        env={**os.environ, **changes},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, output.decode().strip()


async def test_a_report_is_answered_by_a_grant_on_the_clients_own_subject(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.report(gpu, "a")
    grant = await grants.until(lambda grant: grant.may_launch)
    assert (grant.gpu, grant.client, grant.epoch, grant.protocol) == (gpu, "7-a", 1, 1)
    assert grant.headroom_bytes == 1 << 30


async def test_status_shows_the_client_and_both_builds(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.report(gpu, "a", name="train.py", footprint_bytes=5 << 20, launches=7, gate_wait_us=9)
    await grants.until(lambda grant: True)
    status = await node.status()
    client = status.gpus[0].clients[0]
    assert (client.allocation, client.client, client.name, client.uid) == ("a", "7-a", "train.py", UID)
    assert (client.footprint_bytes, client.launches, client.gate_wait_us) == (5 << 20, 7, 9)
    assert client.may_launch
    assert (client.build, status.relay_build) == ("client-build", "relay-build")
    assert status.build
    assert status.protocol == 1
    assert not status.settling
    assert status.gpus[0].total_bytes == 16 << 30
    assert [allocation.id for allocation in status.allocations] == ["a"]


async def test_status_shows_the_sums_of_the_node_arena(node: Node) -> None:
    await node.join((await node.gpu()).uuid, "a")
    status = await node.status()
    sums = (status.arena_bytes, status.arena_reserved_bytes, status.arena_made_bytes)
    assert sums == (64 * GIB, 12 * GIB, 3 * GIB)


async def test_how_time_is_shared_is_as_the_environment_says_and_in_the_status(bare_node: Node) -> None:
    await bare_node.start_scheduler(NVSHARE_TIME_SHARING="slots")
    assert (await bare_node.gpu()).time_sharing == control_pb2.TIME_SHARING_SLOTS


async def test_a_status_before_the_relay_speaks_says_so(node: Node) -> None:
    status = await node.status()
    assert status.settling
    assert "the relay has not spoken yet" in status.gpus[0].problems[0]


async def test_a_mode_is_changed_told_to_clients_and_kept_over_a_restart(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.report(gpu, "a")
    reply = await node.set_mode(gpu, client_pb2.MODE_SERIAL, 500_000)
    assert (reply.error, reply.mode, reply.quantum_us) == ("", client_pb2.MODE_SERIAL, 500_000)
    await grants.until(lambda grant: grant.mode == client_pb2.MODE_SERIAL)
    await node.stop_scheduler()
    await node.start_scheduler()
    status = await node.gpu()
    assert (status.mode, status.quantum_us) == (client_pb2.MODE_SERIAL, 500_000)


async def test_e14_a_scheduler_that_is_stopped_between_two_turns_gives_the_gpu_to_the_next_first(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    await node.set_mode(gpu, client_pb2.MODE_SERIAL, 500_000)
    first = await node.join(gpu, "a")
    await node.report(gpu, "a", demand=True)
    held = await first.until(lambda grant: grant.may_launch)
    await node.report(gpu, "a", demand=True, generation=held.generation, epoch=held.epoch)
    second = await node.join(gpu, "b")
    await node.report(gpu, "b", demand=True)
    withdrawn = await first.until(lambda grant: grant.epoch > held.epoch and not grant.may_launch)
    assert node.process is not None
    node.process.terminate()
    with pytest.raises(TimeoutError):  # it waits for the first to let go
        await asyncio.wait_for(node.process.wait(), 0.5)

    await node.report(gpu, "a", demand=True, generation=withdrawn.generation, epoch=withdrawn.epoch)

    await second.until(lambda grant: grant.may_launch)
    assert await asyncio.wait_for(node.process.wait(), 10) == 0


async def test_a_changed_default_wins_over_a_mode_that_was_set_before(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    await node.set_mode(gpu, client_pb2.MODE_SERIAL)
    await node.stop_scheduler()
    await node.start_scheduler(NVSHARE_MODE="concurrent")
    assert (await node.gpu()).mode == client_pb2.MODE_CONCURRENT


async def test_a_mode_for_an_unknown_gpu_names_the_gpus_that_there_are(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    reply = await node.set_mode("GPU-nobody", client_pb2.MODE_SERIAL)
    assert "GPU-nobody" in reply.error
    assert gpu in reply.error


async def test_a_quantum_out_of_bounds_is_refused_and_the_mode_stays(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    reply = await node.set_mode(gpu, client_pb2.MODE_SERIAL, 1)
    assert "between" in reply.error
    assert reply.mode == client_pb2.MODE_AUTO


async def test_a_quantum_changes_nothing_when_the_mode_beside_it_is_refused(node: Node) -> None:
    gpu = await node.gpu()
    grants = await node.join(gpu.uuid, "a")
    await node.report(gpu.uuid, "a", wanted_bytes=2 * gpu.total_bytes, allocation_waits=True)
    await grants.until(lambda grant: True)
    reply = await node.set_mode(gpu.uuid, client_pb2.MODE_OFF, quantum_us=500_000)
    assert "cannot switch sharing off" in reply.error
    assert (reply.quantum_us, reply.mode) == (gpu.quantum_us, gpu.mode)
    assert not (node.directory.scheduler / "modes.json").exists()


async def test_a6_the_quantum_is_automatic_by_default_and_kept_when_it_is_set(node: Node) -> None:
    gpu = await node.gpu()
    assert (gpu.quantum_auto, gpu.max_wait_us) == (True, 30_000_000)
    assert (await node.set_mode(gpu.uuid, client_pb2.MODE_UNSPECIFIED, 700_000)).quantum_auto is False
    reply = await node.ask(
        "mode",
        control_pb2.ModeRequest,
        control_pb2.ModeReply,
        gpu=gpu.uuid,
        quantum_auto=True,
        max_wait_us=9_000_000,
    )
    assert (reply.error, reply.quantum_auto, reply.max_wait_us) == ("", True, 9_000_000)
    await node.stop_scheduler()
    await node.start_scheduler()
    gpu = await node.gpu()
    assert (gpu.quantum_auto, gpu.max_wait_us) == (True, 9_000_000)


async def test_quantum_longest_wait_and_overcommit_are_settings(bare_node: Node) -> None:
    await bare_node.start_scheduler(NVSHARE_QUANTUM="7", NVSHARE_MAX_WAIT="11", NVSHARE_OVERCOMMIT="1.5")
    await bare_node.relay()
    gpu = await bare_node.gpu()
    assert (gpu.quantum_us, gpu.quantum_auto, gpu.max_wait_us) == (7_000_000, False, 11_000_000)
    assert gpu.overcommit_bytes == gpu.capacity_bytes * 3 // 2


async def test_what_a_client_says_about_its_memory_is_in_its_grant_and_in_status(node: Node) -> None:
    gpu = await node.gpu()
    grants = await node.join(gpu.uuid, "a")
    memory = {"footprint_bytes": 6 << 30, "needed_bytes": 7 << 30, "resident_bytes": 7 << 30, "pinned_bytes": 1 << 30}
    moved = {"swapped_out_bytes": 3 << 30, "swap_out_us": 60_000, "swap_failures": 1, "swap_failure": "no host memory"}
    await node.report(gpu.uuid, "a", swaps=True, host_room_bytes=64 << 30, pinned_reason="exported", **memory, **moved)
    grant = await grants.until(lambda grant: grant.may_launch)
    assert grant.resident_bytes + grant.headroom_bytes >= 7 << 30
    assert grant.limited_by == client_pb2.LIMIT_CARD
    client = (await node.gpu()).clients[0]
    assert (client.needed_bytes, client.resident_bytes, client.pinned_reason) == (7 << 30, 7 << 30, "exported")
    assert (client.swapped_out_bytes, client.swap_failure) == (3 << 30, "no host memory")
    assert client.target_bytes >= 7 << 30


UNMANAGED = """
import ctypes, sys
driver = ctypes.CDLL("libcuda.so.1")
context, pointer = ctypes.c_void_p(), ctypes.c_void_p()
assert driver.cuInit(0) == 0
assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert driver.cuCtxSetCurrent(context) == 0
assert driver.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(2 << 30)) == 0
sys.stdin.read()
"""


async def test_a_process_without_nvshare_is_told_shown_and_lowers_the_capacity(node: Node) -> None:
    before = await node.gpu()
    events = Inbox()
    await node.bus.subscribe(subjects.event(before.uuid, "unmanaged-process"), node_pb2.Event, events.receive)
    await node.relay()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", UNMANAGED, env=node.environment(), stdin=asyncio.subprocess.PIPE
    )
    try:
        told = await events.until(lambda event: True)
        assert f"process {process.pid} (python" in told.text
        gpu = await node.gpu()
        assert gpu.capacity_bytes == before.capacity_bytes - told.bytes
        assert told.bytes >= 2 << 30
        [holder] = gpu.holders
        assert (holder.pid, holder.unmanaged, holder.bytes) == (process.pid, True, told.bytes)
        assert told.text in gpu.problems
    finally:
        process.kill()
        await process.communicate()


async def fail(node: Node, *arguments: str) -> None:
    """Do something to the cards from outside."""
    command = [sys.executable, "-m", "nvshare.emulator", *arguments]
    process = await asyncio.create_subprocess_exec(*command, env=node.environment(NVSHARE_EMULATOR_DEVICES="2"))
    assert await process.wait() == 0


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_c4_a_gpu_that_is_lost_while_it_is_shared_is_a_problem_until_it_answers(node: Node) -> None:
    async def is_silent() -> bool:
        return any("the driver has not answered" in problem for problem in (await node.gpu()).problems)

    async def answers() -> bool:
        return not await is_silent()

    await node.relay()
    await fail(node, "fail", "0")
    await until(is_silent)
    await fail(node, "recover", "0")
    await until(answers)


async def test_c4_a_lost_gpu_keeps_no_other_from_being_shared_and_is_shared_when_it_answers(bare_node: Node) -> None:
    await fail(bare_node, "fail", "1")
    await bare_node.start_scheduler()
    assert [gpu.index for gpu in (await bare_node.status()).gpus] == [0]
    await fail(bare_node, "recover", "1")
    assert bare_node.process is not None
    assert await asyncio.wait_for(bare_node.process.wait(), 15) == 0
    await bare_node.start_scheduler()
    assert [gpu.index for gpu in (await bare_node.status()).gpus] == [0, 1]


async def test_where_no_gpu_answers_the_reason_is_said_in_one_line(bare_node: Node) -> None:
    await fail(bare_node, "fail", "0")
    await fail(bare_node, "fail", "1")
    status, said = await run(**bare_node.environment())
    assert status == 1
    assert said.count("\n") == 0
    assert "GPU 1: GPU is lost" in said


class BrokenDriver(Driver):
    """One GPU, whose memory cannot be read for a reason that nobody foresaw."""

    def __init__(self) -> None:
        self.gpus = (Gpu("GPU-broken", 0, "broken", 1 << 34),)

    def sample(self, uuid: str, clients: Collection[int] = ()) -> MemorySampled:
        raise RuntimeError("unforeseen")


async def test_the_service_ends_when_the_watch_over_the_memory_dies(bare_node: Node, tmp_path: Path) -> None:
    default = Sharing(Mode.AUTO, 2_000_000_000)
    share = NodeShare(NODE, tmp_path, 1, default, 0, Policy(sample_ns=1_000_000))
    with pytest.raises(RuntimeError, match="unforeseen"):
        await asyncio.wait_for(Scheduler(share, BrokenDriver(), bare_node.bus).run(asyncio.Event()), 10)


async def test_after_a_kill_the_generation_is_greater_and_a_living_client_is_served_again(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.report(gpu, "a")
    first = await grants.until(lambda grant: True)
    assert node.process is not None
    node.process.kill()
    await node.process.wait()
    await node.start_scheduler()
    await node.relay()
    await node.report(gpu, "a", generation=first.generation, epoch=first.epoch)
    second = await grants.until(lambda grant: grant.generation > first.generation)
    assert second.may_launch


async def test_the_plan_and_events_are_published(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    plans, events = Inbox(), Inbox()
    await node.bus.subscribe(subjects.plan(gpu), node_pb2.Plan, plans.receive)
    await node.bus.subscribe(subjects.event(gpu, "client-joined"), node_pb2.Event, events.receive)
    await node.join(gpu, "a")
    await node.report(gpu, "a")
    plan = await plans.until(lambda plan: len(plan.grants) == 1)
    assert plan.grants[0].client == "7-a"
    event = await events.until(lambda event: event.client == "7-a")
    assert event.time_unix_ns > 0


async def test_messages_that_cannot_be_read_are_counted_and_nothing_else_happens(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.bus._client.publish(subjects.report(gpu, "a", "7-a"), b"\xff\xff\xff garbage")
    await node.bus._client.publish(subjects.relay(NODE), b"\xff garbage")
    await node.report("GPU-of-another-node", "a")
    await node.bus.publish(subjects.user(NODE, UID, "status"), control_pb2.StatusRequest(reply_token="a.b"))
    await node.report(gpu, "a")
    await grants.until(lambda grant: grant.may_launch)
    assert (await node.status()).malformed_messages == 4


async def test_the_history_is_written_at_the_end_and_its_replay_is_identical(node: Node) -> None:
    gpu = (await node.gpu()).uuid
    grants = await node.join(gpu, "a")
    await node.report(gpu, "a")
    await grants.until(lambda grant: True)
    await node.stop_scheduler()
    history = node.directory.scheduler / "history.jsonl"
    status, text = await run("replay", str(history))
    assert (status, text.split(", ")[-1]) == (0, "identical")
    history.write_text(history.read_text().replace('"may_launch": true', '"may_launch": false'))
    status, text = await run("replay", str(history))
    assert status == 1
    assert "came out different" in text


async def test_sigusr1_writes_the_history_of_a_running_scheduler(node: Node) -> None:
    await node.relay()
    async with asyncio.timeout(10):
        while (await node.status()).settling:
            await asyncio.sleep(0.01)
    history = node.directory.scheduler / "history.jsonl"
    assert node.process is not None
    node.process.send_signal(signal.SIGUSR1)
    async with asyncio.timeout(10):
        while not history.exists():
            await asyncio.sleep(0.01)
    assert json.loads(history.read_text().splitlines()[0])["line"] == "start"


async def test_a_logical_capacity_and_the_reserve_are_settings(bare_node: Node) -> None:
    await bare_node.start_scheduler(NVSHARE_GPU_MEMORY="4GiB")
    await bare_node.relay()
    assert (await bare_node.gpu()).capacity_bytes == 4 << 30
    await bare_node.stop_scheduler()
    await bare_node.start_scheduler(NVSHARE_RESERVE="1GiB")
    await bare_node.relay()
    assert (await bare_node.gpu()).capacity_bytes == 15 << 30


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"NVSHARE_GPU_MEMORY": "much"}, "NVSHARE_GPU_MEMORY"),
        ({"NVSHARE_MODE": "fast"}, "NVSHARE_MODE"),
        ({"NVSHARE_QUANTUM": "soon"}, "NVSHARE_QUANTUM"),
        ({"NVSHARE_QUANTUM": "0"}, "NVSHARE_QUANTUM"),
        ({"NVSHARE_NODE_DIR": "/nonexistent", "NVSHARE_NODE": NODE, "NVSHARE_NATS_URL": "nats://x:1"}, "nvshare up"),
    ],
)
async def test_wrong_settings_end_in_one_line(changes: dict[str, str], text: str) -> None:
    status, output = await run(**changes)
    assert status == 1
    assert text in output
    assert len(output.splitlines()) == 1


def test_a_damaged_file_of_modes_is_ignored(tmp_path: Path) -> None:
    default = Sharing(Mode.AUTO, 2_000_000_000)
    for text in ("{", "[]", '{"g": 3}', '{"g": {"chosen": {"mode": 99}}}'):
        (tmp_path / "modes.json").write_text(text)
        assert load_sharing(tmp_path, "g", default) == default
