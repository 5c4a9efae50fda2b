"""The arena on real sockets: real memory, real processes, and what hostile ones may not."""

import asyncio
import contextlib
import errno
import fcntl
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from services.relay.tests.conftest import GPU, Node

from nvshare.relay.allocations import Allocation
from nvshare.relay.arena_messages import Kind, Reply, Request, parse_reply
from nvshare.relay.arena_server import ArenaServer
from nvshare.relay.guests import Admins
from nvshare.relay.service import Relay
from nvshare.relay.session import ServerAddress

MIB = 2**20
SEGMENT = 64 * MIB
TOTAL = 256 * MIB
PROGRAM = Path(__file__).with_name("arena_program.py")


@dataclass
class Client:
    """A running arena_program.py."""

    process: asyncio.subprocess.Process

    async def answer(self) -> str:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 10)
        assert line, "the program ended"
        return line.decode().strip()

    def send(self, *words: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())

    async def ask(self, *words: object) -> str:
        self.send(*words)
        return await self.answer()

    async def numbers(self, *words: object) -> list[int]:
        return [int(word) for word in (await self.ask(*words)).split()]

    async def segment(self, size: int = SEGMENT) -> int:
        """Reserves so much more and has it made; the segment's number."""
        _, reserved, _ = await self.numbers("reserve", 0)
        await self.numbers("reserve", reserved + size)
        error, _, _, number = await self.numbers("segment", size)
        assert error == 0
        return number

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


Start = Callable[[Path], Awaitable[Client]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts processes that speak with the arena at a socket."""
    clients: list[Client] = []

    async def start_one(path: Path) -> Client:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", PROGRAM, path, stdin=pipe, stdout=pipe, start_new_session=True
        )
        clients.append(Client(process))
        assert await clients[-1].answer() == "hello"
        return clients[-1]

    yield start_one
    for client in clients:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(client.process.pid, signal.SIGKILL)  # its children too
        await client.kill()


@pytest.fixture
async def arena(bare_node: Node) -> AsyncIterator[Node]:
    """A node whose relay has an arena of 256 MiB."""
    address = urlsplit(bare_node.nats.url)
    server = ServerAddress(str(address.hostname), int(address.port or 0))
    admins = Admins(node_uid=os.geteuid(), group=None)
    stop = asyncio.Event()
    signer = bare_node.keys.signer
    relay = Relay(bare_node.directory, server, signer, admins, scan_seconds=0.02, arena_bytes=TOTAL)
    running = asyncio.ensure_future(relay.run(stop))
    await bare_node.states.until(lambda state: True)
    yield bare_node
    stop.set()
    await running


async def socket_of(node: Node, allocation: str = "a") -> Path:
    await node.allocation(allocation)
    return node.directory.allocation_arena_socket(allocation)


async def until_made(node: Node, made_bytes: int) -> None:
    await node.states.until(lambda state: state.arena_made_bytes == made_bytes)


async def test_b1_a_segment_is_mapped_by_its_tenant_and_shown_in_the_relays_state(arena: Node, start: Start) -> None:
    client = await start(await socket_of(arena))
    assert await client.numbers("reserve", 2 * SEGMENT) == [0, 2 * SEGMENT, TOTAL - 2 * SEGMENT]
    number = (await client.numbers("segment", SEGMENT))[3]
    assert await client.ask("write", number, 9) == "ok"
    assert await client.ask("read", number) == "9 9"
    state = await arena.states.until(lambda state: state.arena_made_bytes == SEGMENT)
    assert (state.arena_bytes, state.arena_reserved_bytes) == (TOTAL, 2 * SEGMENT)


async def test_what_is_not_reserved_is_not_made(arena: Node, start: Start) -> None:
    client = await start(await socket_of(arena))
    assert (await client.numbers("segment", SEGMENT))[0] == errno.ENOMEM


async def test_two_tenants_are_never_promised_the_same_bytes(arena: Node, start: Start) -> None:
    path = await socket_of(arena)
    one, other = await start(path), await start(path)
    assert await one.numbers("reserve", 3 * SEGMENT) == [0, 3 * SEGMENT, SEGMENT]
    assert await other.numbers("reserve", 3 * SEGMENT) == [0, SEGMENT, 0]


async def test_what_a_killed_process_had_is_free_for_others(arena: Node, start: Start) -> None:
    path = await socket_of(arena)
    one, other = await start(path), await start(path)
    await one.segment(TOTAL)
    await until_made(arena, TOTAL)
    await one.kill()
    await until_made(arena, 0)
    assert await other.numbers("reserve", TOTAL) == [0, TOTAL, 0]


async def test_memory_of_a_dead_process_is_wiped_even_if_somebody_kept_its_descriptor(
    arena: Node, start: Start
) -> None:
    client = await start(await socket_of(arena))
    await client.segment()
    await until_made(arena, SEGMENT)
    child = int(await client.ask("fork"))
    await client.kill()
    await until_made(arena, 0)
    inherited = [one for one in Path(f"/proc/{child}/fd").iterdir() if "nvshare-arena" in str(one.readlink())]
    assert {one.stat().st_size for one in inherited} == {0}


async def test_what_is_given_back_is_wiped_and_free(arena: Node, start: Start) -> None:
    client = await start(await socket_of(arena))
    number = await client.segment()
    await until_made(arena, SEGMENT)
    await client.ask("write", number, 5)
    assert (await client.numbers("give", number))[0] == 0
    await until_made(arena, 0)
    assert await client.ask("read", number) == "void"
    assert (await client.numbers("give", number))[0] == errno.ENOENT


async def test_a_new_segment_holds_nothing_of_an_earlier_tenant(arena: Node, start: Start) -> None:
    path = await socket_of(arena)
    one, other = await start(path), await start(path)
    await one.ask("write", await one.segment(TOTAL), 0xEE)
    await until_made(arena, TOTAL)
    await one.kill()
    await until_made(arena, 0)
    assert await other.ask("read", await other.segment(TOTAL)) == "0 0"


async def test_a_process_whose_connection_was_cut_keeps_its_memory_and_its_reservation(
    arena: Node, start: Start
) -> None:
    client = await start(await socket_of(arena))
    number = await client.segment()
    await client.ask("write", number, 3)
    assert await client.ask("again") == "ok"
    assert await client.numbers("reserve", SEGMENT) == [0, SEGMENT, TOTAL - SEGMENT]
    assert await client.ask("read", number) == "3 3"


async def test_what_a_process_gave_up_while_it_was_cut_off_is_wiped(arena: Node, start: Start) -> None:
    """It hands in what it has before it asks for anything: the rest is not its any more."""
    client = await start(await socket_of(arena))
    given, kept = await client.segment(), await client.segment()
    await client.ask("write", kept, 6)
    assert await client.ask("drop", given) == "ok"
    assert await client.ask("again") == "ok"
    assert (await client.numbers("reserve", SEGMENT))[0] == 0
    await until_made(arena, SEGMENT)


async def test_a_program_that_calls_exec_loses_what_it_had(arena: Node, start: Start) -> None:
    client = await start(await socket_of(arena))
    await client.segment()
    await until_made(arena, SEGMENT)
    assert await client.ask("exec") == "hello"
    await until_made(arena, 0)
    assert (await client.numbers("reserve", 0))[1] == 0


async def test_a20_after_sigkill_of_the_relay_processes_hand_their_memory_in(bare_node: Node, start: Start) -> None:
    os.environ["NVSHARE_ARENA"] = str(TOTAL)
    try:
        await bare_node.start_relay()
        client = await start(await socket_of(bare_node))
        number = await client.segment()
        await client.numbers("reserve", 2 * SEGMENT)
        await client.ask("write", number, 4)
        await bare_node.kill_relay()
        assert await client.ask("read", number) == "4 4"  # it goes on without a relay
        await bare_node.start_relay()
    finally:
        del os.environ["NVSHARE_ARENA"]
    state = await bare_node.states.until(lambda state: True)
    assert state.arena_reserved_bytes == 2 * SEGMENT  # nobody else is promised it meanwhile
    assert await client.ask("again") == "ok"
    await until_made(bare_node, SEGMENT)
    assert await client.numbers("reserve", 2 * SEGMENT) == [0, 2 * SEGMENT, TOTAL - 2 * SEGMENT]
    await client.kill()
    await until_made(bare_node, 0)


async def test_a_relay_without_an_arena_has_no_socket_for_it(node: Node) -> None:
    path = await node.allocation()
    assert not path.with_name("arena.sock").exists()


# ---- Who speaks from this process


class Raw:
    """A connection of this process that says what it likes."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.descriptors: list[int] = []

    async def send(self, packet: bytes, *descriptors: int) -> None:
        socket.send_fds(self.socket, [packet], descriptors)

    async def receive(self) -> bytes:
        """The next packet; empty: the relay ended the connection."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.socket.fileno(), arrived.set)
        try:
            await asyncio.wait_for(arrived.wait(), 10)
            packet, self.descriptors, _, _ = socket.recv_fds(self.socket, 64, 4)
            return packet
        except ConnectionResetError:
            return b""
        finally:
            loop.remove_reader(self.socket.fileno())

    async def ask(self, request: Request, *descriptors: int) -> Reply:
        await self.send(request.encode(), *descriptors)
        return parse_reply(await self.receive())

    def close(self) -> None:
        self.socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
async def raw(arena: Node) -> AsyncIterator[Raw]:
    """A connection that has not said who it is."""
    connection = Raw(await socket_of(arena))
    yield connection
    connection.close()


@pytest.fixture
async def tenant(raw: Raw) -> Raw:
    assert (await raw.ask(Request(Kind.HELLO, 1, 1))).error == 0
    return raw


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        bytes(31),
        bytes(33),
        bytes(32),
        bytes(4096),
        struct.pack("<IiQQQ", 99, 0, 0, 0, 0),
        Request(Kind.RESERVE, MIB).encode(),
        Request(Kind.SEGMENT, SEGMENT).encode(),
        Request(Kind.HELLO, 2, 1).encode(),
    ],
    ids=["short", "31", "33", "kind 0", "long", "unknown kind", "no HELLO", "no HELLO, segment", "other version"],
)
async def test_who_sends_what_is_no_request_is_disconnected(raw: Raw, packet: bytes) -> None:
    await raw.send(packet)
    assert await raw.receive() == b""


async def test_hello_twice_is_refused_and_counted(arena: Node, tenant: Raw) -> None:
    await tenant.send(Request(Kind.HELLO, 1, 1).encode())
    assert await tenant.receive() == b""
    await arena.states.until(lambda state: state.refused_connections == 1)


async def test_a_descriptor_that_was_not_asked_for_is_closed(tenant: Raw) -> None:
    reading, writing = os.pipe()
    reply = await tenant.ask(Request(Kind.RESERVE, MIB), writing)
    os.close(writing)
    assert reply.error == 0
    assert os.read(reading, 1) == b""  # nobody else has it
    os.close(reading)


def sealed_file(size: int, seals: int, written: int | None = None) -> int:
    descriptor = os.memfd_create("nvshare-arena", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    os.posix_fallocate(descriptor, 0, size if written is None else written)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


OURS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.mark.parametrize(
    ("size", "seals", "written", "claimed"),
    [
        (16 * MIB, fcntl.F_SEAL_GROW, 16 * MIB, 16 * MIB),
        (16 * MIB, OURS | fcntl.F_SEAL_SHRINK, 16 * MIB, 16 * MIB),
        (16 * MIB, OURS, MIB, 16 * MIB),
        (16 * MIB, OURS, 16 * MIB, 32 * MIB),
        (MIB, OURS, MIB, MIB),
    ],
    ids=["may be sealed later", "cannot be wiped", "has no pages", "another size", "an odd size"],
)
async def test_what_is_no_segment_of_an_arena_is_not_adopted(
    tenant: Raw, size: int, seals: int, written: int, claimed: int
) -> None:
    descriptor = sealed_file(size, seals, written)
    reply = await tenant.ask(Request(Kind.ADOPT, claimed), descriptor)
    os.close(descriptor)
    assert reply.error in (errno.EBADF, errno.EINVAL)
    assert reply.reserved_bytes == 0


async def test_a_pipe_is_not_adopted(tenant: Raw) -> None:
    reading, writing = os.pipe()
    assert (await tenant.ask(Request(Kind.ADOPT, 16 * MIB), writing)).error != 0
    os.close(reading)
    os.close(writing)


async def test_a_segment_cannot_grow_and_cannot_be_sealed_against_wiping(tenant: Raw) -> None:
    await tenant.ask(Request(Kind.RESERVE, 16 * MIB))
    assert (await tenant.ask(Request(Kind.SEGMENT, 16 * MIB))).error == 0
    (descriptor,) = tenant.descriptors
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 32 * MIB)
    with pytest.raises(PermissionError):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    with mmap.mmap(descriptor, 16 * MIB) as mapped:
        mapped[-1] = 1


async def test_wishes_beyond_all_bounds_are_only_wishes(tenant: Raw) -> None:
    reply = await tenant.ask(Request(Kind.RESERVE, 2**64 - 1))
    assert (reply.error, reply.reserved_bytes, reply.free_bytes) == (0, TOTAL, 0)
    assert (await tenant.ask(Request(Kind.SEGMENT, 2**64 - 1))).error == errno.EINVAL
    assert (await tenant.ask(Request(Kind.GIVE, segment=2**64 - 1))).error == errno.ENOENT


async def test_a_second_connection_of_a_program_takes_the_place_of_the_first(arena: Node, tenant: Raw) -> None:
    await tenant.ask(Request(Kind.RESERVE, 16 * MIB))
    second = Raw(arena.directory.allocation_arena_socket("a"))
    assert (await second.ask(Request(Kind.HELLO, 1, 1))).reserved_bytes == 16 * MIB
    assert await tenant.receive() == b""
    second.close()


async def test_who_asks_and_never_reads_holds_up_nobody(arena: Node, tenant: Raw, start: Start) -> None:
    for _ in range(200):
        await tenant.send(Request(Kind.RESERVE, MIB).encode())
    client = await start(arena.directory.allocation_arena_socket("a"))
    assert (await client.numbers("reserve", 16 * MIB))[0] == 0


async def test_who_connects_and_says_nothing_holds_up_nobody(arena: Node, start: Start) -> None:
    path = await socket_of(arena)
    silent = [Raw(path) for _ in range(20)]
    client = await start(path)
    assert (await client.numbers("reserve", 16 * MIB))[0] == 0
    for one in silent:
        one.close()


async def test_no_more_connections_than_an_allocation_may_have(arena: Node) -> None:
    path = await socket_of(arena)
    many = [Raw(path) for _ in range(65)]
    ended = await asyncio.wait_for(many[-1].receive(), 5)
    assert ended == b""
    for one in many:
        one.close()


@pytest.fixture
async def alone(short_folder: Path) -> AsyncIterator[tuple[ArenaServer, Raw]]:
    """An arena that waits for nobody who was cut off, and a tenant in this process."""
    allocation = Allocation("a", (GPU,), "a", -1, 0, 0, "test")
    server = ArenaServer(
        TOTAL, short_folder / "arena.json", lambda _: allocation, lambda: None, lambda _: None, grace_seconds=0.0
    )
    listener = server.listen(short_folder / "arena.sock", allocation)
    making = asyncio.ensure_future(server.serve())
    tenant = Raw(short_folder / "arena.sock")
    await tenant.ask(Request(Kind.HELLO, 1, 1))
    await tenant.ask(Request(Kind.RESERVE, 32 * MIB))
    assert (await tenant.ask(Request(Kind.SEGMENT, 16 * MIB))).error == 0
    yield server, tenant
    making.cancel()
    listener.close()
    server.close()
    tenant.close()


async def until_noticed(server: ArenaServer) -> None:
    """The server has seen that its tenant's connection is gone."""
    async with asyncio.timeout(5):
        while server.connection_count:
            await asyncio.sleep(0.005)


async def test_who_was_cut_off_and_has_the_memory_mapped_keeps_it(alone: tuple[ArenaServer, Raw]) -> None:
    server, tenant = alone
    with mmap.mmap(tenant.descriptors[0], 16 * MIB) as mapped:
        tenant.socket.close()
        await until_noticed(server)
        await server.sweep()
        mapped[-1] = 1
        assert (server.account.reserved_bytes, server.account.made_bytes) == (32 * MIB, 16 * MIB)


async def test_who_was_cut_off_and_does_without_the_memory_loses_it(alone: tuple[ArenaServer, Raw]) -> None:
    server, tenant = alone
    tenant.socket.close()
    await until_noticed(server)
    await server.sweep()
    async with asyncio.timeout(5):
        while server.account.made_bytes:
            await asyncio.sleep(0.005)
    assert server.account.reserved_bytes == 0
    assert os.fstat(tenant.descriptors[0]).st_size == 0


async def test_one_tenant_that_has_much_made_does_not_hold_up_another(arena: Node, start: Start) -> None:
    """They ask together; the second one's first segment comes before the last one of the first."""
    path_a, path_b = await socket_of(arena), await socket_of(arena, "b")
    one, other = await start(path_a), await start(path_b)
    await one.numbers("reserve", 12 * 16 * MIB)
    await other.numbers("reserve", 16 * MIB)
    order: list[str] = []

    async def make(client: Client, name: str, count: int) -> None:
        for _ in range(count):
            assert (await client.numbers("segment", 16 * MIB))[0] == 0
            order.append(name)

    await asyncio.gather(make(one, "one", 12), make(other, "other", 1))
    assert order.index("other") < 6
