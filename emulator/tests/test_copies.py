"""Copies between host and card: sparse memory stays sparse, data is right, the account knows each one."""

import pytest
from emulator.tests.conftest import Cards

HOST = """
    import mmap, resource
    def anonymous(size):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call(driver.cuMemHostRegister, address, size, 0)
        return memory, address
    def huge(size):
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call(driver.cuMemHostRegister, address, size, 0)
        return memory, address
    files = []
    def shared(size):
        files.append(os.memfd_create("pool"))
        os.ftruncate(files[-1], size)
        memory = mmap.mmap(files[-1], size)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call(driver.cuMemHostRegister, address, size, 0)
        return memory, address
    def resident_mib():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 // MIB
"""
ACCOUNT = """
from nvshare.emulator import account
"""


@pytest.mark.parametrize("pool", ["anonymous", "huge", "shared"])
def test_sparse_memory_stays_sparse_on_its_way_out_and_back(cards: Cards, pool: str) -> None:
    found = cards.run(
        HOST
        + f"""
    gpu = Gpu()
    size = 4 * GIB
    p, q = call(driver.cuMemAlloc, size), call(driver.cuMemAlloc, size)
    n = size // 4
    gpu.launch("fill", p, n, 1 << 18, 7, 1000)
    before = resident_mib()
    memory, host = {pool}(size)
    call(driver.cuMemcpyDtoH, host, p, size)
    call(driver.cuMemcpyHtoD, q, host, size)
    grown = resident_mib() - before
    blocks = [os.fstat(file).st_blocks * 512 // MIB for file in files]
    print(json.dumps([gpu.checksum(q, n, 1 << 18) == gpu.checksum(p, n, 1 << 18) > 0, grown, blocks]))
    """
    )
    assert found[0] is True
    assert found[1] < 128
    assert sum(found[2]) < 64


def test_holes_clear_what_a_host_pool_held_before(cards: Cards) -> None:
    found = cards.run(
        HOST
        + """
    gpu = Gpu()
    size = 16 * MIB
    p = call(driver.cuMemAlloc, size)
    gpu.launch("fill", p, MIB, 1, 9, 1000)
    left = []
    for memory, host in (anonymous(size), shared(size)):
        memory[:] = b"\\xff" * size
        call(driver.cuMemcpyDtoH, host, p, size)
        left.append([memory[:4 * MIB] == b"\\x09\\0\\0\\0" * MIB, memory[4 * MIB:].count(0) == 12 * MIB])
    print(json.dumps(left))
    """
    )
    assert found == [[True, True]] * 2


def test_zero_pages_of_a_pool_take_no_memory_on_the_card(cards: Cards) -> None:
    found = cards.run(
        HOST
        + """
    gpu = Gpu()
    size = 256 * MIB
    def shared_mib():
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) >> 10 for line in file if line.startswith("Shmem:"))
    memory, host = anonymous(size)
    memory[:] = bytes(size)
    p = call(driver.cuMemAlloc, size)
    before = shared_mib()
    call(driver.cuMemcpyHtoD, p, host, size)
    print(shared_mib() - before)
    """
    )
    assert found < 128


def test_large_copies_both_ways_at_once_keep_all_data(cards: Cards) -> None:
    found = cards.run(
        HOST
        + """
    import random
    gpu = Gpu()
    size = 48 * MIB
    data = [random.Random(seed).randbytes(size) for seed in range(2)]
    (first, a), (second, b) = anonymous(size), shared(size)
    p, q = call(driver.cuMemAlloc, size), call(driver.cuMemAlloc, size)
    first[:], second[:] = data
    call(driver.cuMemcpyHtoD, p, a, size)
    streams = [call(driver.cuStreamCreate, 1) for _ in range(2)]
    call(driver.cuMemcpyDtoHAsync, a, p, size, streams[0])
    call(driver.cuMemcpyHtoDAsync, q, b, size, streams[1])
    call(driver.cuCtxSynchronize)
    out = ctypes.create_string_buffer(size)
    call(driver.cuMemcpyDtoH, ctypes.addressof(out), q, size)
    print(json.dumps([first[:] == data[0], out.raw == data[1]]))
    """
    )
    assert found == [True, True]


def test_memory_is_unmapped_beside_copies_of_other_memory(cards: Cards) -> None:
    found = cards.run(
        HOST
        + """
    gpu = Gpu()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access = driver.CUmemAccessDesc()
    access.location = properties.location
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    size, parts = 8 * MIB, 16
    base = int(call(driver.cuMemAddressReserve, parts * size, 0, 0, 0))
    memory, host = anonymous(parts * size)
    stream = call(driver.cuStreamCreate, 1)
    events = [call(driver.cuEventCreate, 2) for _ in range(parts)]
    for part in range(parts):
        handle = call(driver.cuMemCreate, size, properties, 0)
        call(driver.cuMemMap, base + part * size, size, 0, handle, 0)
        call(driver.cuMemRelease, handle)
    call(driver.cuMemSetAccess, base, parts * size, [access], 1)
    gpu.launch("fill", base, parts * size // 4, 1, 5, 1000)
    call(driver.cuCtxSynchronize)
    for part in range(parts):
        call(driver.cuMemcpyDtoHAsync, host + part * size, base + part * size, size, stream)
        call(driver.cuEventRecord, events[part], stream)
    for part in range(parts):
        call(driver.cuEventSynchronize, events[part])
        call(driver.cuMemUnmap, base + part * size, size)
    print(json.dumps([error_of(driver.cuCtxSynchronize), memory[:] == b"\\5\\0\\0\\0" * (parts * size // 4)]))
    """
    )
    assert found == [0, True]


def test_the_account_shows_every_copy_over_the_link(cards: Cards) -> None:
    program = cards.start("""
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 64 * MIB)
        host = call(driver.cuMemHostAlloc, 64 * MIB, 0)
        for size in (16 * MIB, 32 * MIB):
            call(driver.cuMemcpyHtoD, p, host, size)
        call(driver.cuMemcpyDtoH, host, p, 64 * MIB)
        call(driver.cuMemcpyDtoD, p, int(p) + 32 * MIB, 32 * MIB)
        call(driver.cuCtxSynchronize)
        print("done", flush=True)
        sys.stdin.readline()
    """)
    assert program.hear() == "done"
    look = ACCOUNT + "\nprint(json.dumps([[c.pid, c.out, c.bytes, c.end_ns - c.start_ns] for c in account.copies()]))"
    found = cards.run(look)
    assert [entry[:3] for entry in found] == [
        [program.pid, False, 16 << 20],
        [program.pid, False, 32 << 20],
        [program.pid, True, 64 << 20],
    ]
    assert [entry[3] for entry in found] == [pytest.approx(entry[2] / 55.3, abs=2) for entry in found]
    totals = cards.run(
        ACCOUNT
        + """
print(json.dumps([[card.copied_in_bytes, card.copied_out_bytes] for card in
    (account.totals(), *(entry for entry in account.accounts() if entry.launches))]))
"""
    )
    assert totals == [[48 << 20, 64 << 20]] * 2


def test_both_directions_at_once_move_101_7_gigabytes_a_second(cards: Cards) -> None:
    """As measured on the H200 (measurements-h200.md)."""
    found = cards.run(
        ACCOUNT
        + """
gpu = Gpu()
size = 256 * MIB
p, q = call(driver.cuMemAlloc, size), call(driver.cuMemAlloc, size)
a, b = call(driver.cuMemHostAlloc, size, 0), call(driver.cuMemHostAlloc, size, 0)
streams = [call(driver.cuStreamCreate, 1) for _ in range(2)]
gate = call(driver.cuEventCreate, 2)
gpu.launch("spin", 20_000_000)
call(driver.cuEventRecord, gate, 0)
for stream in streams:
    call(driver.cuStreamWaitEvent, stream, gate, 0)
for _ in range(8):
    call(driver.cuMemcpyHtoDAsync, p, a, size, streams[0])
    call(driver.cuMemcpyDtoHAsync, b, q, size, streams[1])
call(driver.cuCtxSynchronize)
copies = account.copies()
seconds = (max(copy.end_ns for copy in copies) - min(copy.start_ns for copy in copies)) / 1e9
print(json.dumps([len(copies), sum(copy.bytes for copy in copies) / seconds]))
"""
    )
    assert found[0] == 16
    assert found[1] == pytest.approx(101.7e9, rel=0.02)


def test_a_slower_link_slows_copies_and_nothing_else(cards: Cards) -> None:
    cards.configure(link_bytes_per_second=1_000_000_000)
    found = cards.run("""
        gpu = Gpu()
        size = 64 * MIB
        p, host = call(driver.cuMemAlloc, size), call(driver.cuMemHostAlloc, size, 0)
        start, middle, end = (call(driver.cuEventCreate, 0) for _ in range(3))
        call(driver.cuEventRecord, start, 0)
        call(driver.cuMemcpyHtoDAsync, p, host, size, 0)
        call(driver.cuEventRecord, middle, 0)
        gpu.launch("spin", 1_000_000)
        call(driver.cuEventRecord, end, 0)
        call(driver.cuCtxSynchronize)
        print(json.dumps([call(driver.cuEventElapsedTime, *ends) for ends in ((start, middle), (middle, end))]))
    """)
    assert found == [pytest.approx(67.1, abs=1), pytest.approx(1.0, abs=0.5)]
