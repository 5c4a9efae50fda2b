"""Capacity over all processes, sparse backing, virtual memory management."""

import pytest
from emulator.tests.conftest import Cards

CONTEXT_BYTES = 128 << 20


def test_two_processes_share_one_cards_capacity(cards: Cards) -> None:
    holder = cards.start("""
        gpu = Gpu()
        call(driver.cuMemAlloc, 10 * GIB)
        print("holding", flush=True)
        sys.stdin.readline()
    """)
    assert holder.hear() == "holding"
    found = cards.run("""
        gpu = Gpu()
        print(json.dumps([error_of(driver.cuMemAlloc, 6 * GIB), error_of(driver.cuMemAlloc, 5 * GIB)]))
    """)
    assert found == [2, 0]


def test_free_memory_is_what_all_processes_leave(cards: Cards) -> None:
    holder = cards.start("""
        gpu = Gpu()
        call(driver.cuMemAlloc, 3 * GIB)
        print("holding", flush=True)
        sys.stdin.readline()
    """)
    assert holder.hear() == "holding"
    free_bytes, total_bytes = cards.run("""
        gpu = Gpu()
        print(json.dumps(call(driver.cuMemGetInfo)))
    """)
    assert total_bytes == 16 << 30
    assert free_bytes == total_bytes - (3 << 30) - 2 * CONTEXT_BYTES


def test_small_allocations_share_a_granule(cards: Cards) -> None:
    used = cards.run("""
        gpu = Gpu()
        before = call(driver.cuMemGetInfo)[0]
        for _ in range(64):
            call(driver.cuMemAlloc, 1024)
        print(before - call(driver.cuMemGetInfo)[0])
    """)
    assert used == 2 << 20


def test_freed_memory_comes_back_zeroed(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 4 * MIB)
        gpu.launch("fill", p, MIB, 1, 7, 1000)
        call(driver.cuMemFree, p)
        q = call(driver.cuMemAlloc, 4 * MIB)
        print(json.dumps([int(p) == int(q), gpu.read_u64(q)]))
    """)
    assert found == [True, 0]


def test_four_cards_of_16_gib_are_full_on_a_small_host(cards: Cards) -> None:
    cards.configure(devices=4)
    found = cards.run("""
        import resource
        n = 14 * GIB // 4
        sums = []
        for ordinal in range(4):
            gpu = Gpu(ordinal)
            p = call(driver.cuMemAlloc, 14 * GIB)
            gpu.launch("fill", p, n, 1 << 20, ordinal + 1, 1000)
            expected = sum((ordinal + 1) * (i + 1) for i in range(0, n, 1 << 20))
            sums.append(gpu.checksum(p, n, 1 << 20) == expected)
        resident_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        print(json.dumps({"right": sums, "resident_mib": resident_mib}))
    """)
    assert found["right"] == [True] * 4
    assert found["resident_mib"] < 512


def test_a_copy_of_memory_that_was_never_written_takes_no_host_memory(cards: Cards) -> None:
    found = cards.run("""
        import resource
        gpu = Gpu()
        p = call(driver.cuMemAlloc, 4 * GIB)
        gpu.launch("fill", int(p) + 3 * GIB, 1, 1, 5, 1000)
        host = call(driver.cuMemHostAlloc, 4 * GIB, 0)
        call(driver.cuMemcpyDtoH, host, p, 4 * GIB)
        q = call(driver.cuMemAlloc, 4 * GIB)
        call(driver.cuMemcpyHtoD, q, host, 4 * GIB)
        print(json.dumps([gpu.read_u64(int(q) + 3 * GIB), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10]))
    """)
    assert found[0] == 5
    assert found[1] < 512


VMM = """
    gpu = Gpu()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = 0
    access = driver.CUmemAccessDesc()
    access.location = properties.location
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
"""


def test_data_follows_physical_memory_from_address_to_address(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    size = 64 * MIB
    handle = call(driver.cuMemCreate, size, properties, 0)
    first, second = (int(call(driver.cuMemAddressReserve, size, 0, 0, 0)) for _ in range(2))
    call(driver.cuMemMap, first, size, 0, handle, 0)
    call(driver.cuMemSetAccess, first, size, [access], 1)
    gpu.launch("fill", first, size // 4, 1 << 16, 3, 1000)
    before = gpu.checksum(first, size // 4, 1 << 16)
    call(driver.cuMemUnmap, first, size)
    call(driver.cuMemMap, second, size, 0, handle, 0)
    call(driver.cuMemSetAccess, second, size, [access], 1)
    print(json.dumps([before > 0, gpu.checksum(second, size // 4, 1 << 16) == before]))
    """
    )
    assert found == [True, True]


def test_physical_memory_counts_until_it_is_released_and_unmapped(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    size = 256 * MIB
    free = lambda: call(driver.cuMemGetInfo)[0]
    start = free()
    handle = call(driver.cuMemCreate, size, properties, 0)
    address = int(call(driver.cuMemAddressReserve, size, 0, 0, 0))
    call(driver.cuMemMap, address, size, 0, handle, 0)
    call(driver.cuMemRelease, handle)
    mapped = start - free()
    call(driver.cuMemUnmap, address, size)
    print(json.dumps([mapped, start - free()]))
    """
    )
    assert found == [256 << 20, 0]


@pytest.mark.parametrize("set_access", [False, True])
def test_work_on_an_unmapped_or_inaccessible_range_fails(cards: Cards, set_access: bool) -> None:
    found = cards.run(
        VMM
        + f"""
    size = 2 * MIB
    handle = call(driver.cuMemCreate, size, properties, 0)
    address = int(call(driver.cuMemAddressReserve, size, 0, 0, 0))
    call(driver.cuMemMap, address, size, 0, handle, 0)
    if {set_access}:
        call(driver.cuMemSetAccess, address, size, [access], 1)
        gpu.launch("spin", 5_000_000)
        gpu.launch("fill", address, 16, 1, 1, 1000)
        call(driver.cuMemUnmap, address, size)
    else:
        gpu.launch("fill", address, 16, 1, 1, 1000)
    print(error_of(driver.cuCtxSynchronize))
    """
    )
    assert found == 700


def test_a_handle_goes_to_another_process_as_a_descriptor(cards: Cards) -> None:
    program = (
        VMM
        + """
    import socket
    size = 2 * MIB
    kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    path = os.environ["NVSHARE_EMULATOR_DIR"] + "/handle.sock"
    address = int(call(driver.cuMemAddressReserve, size, 0, 0, 0))
    def show(handle):
        call(driver.cuMemMap, address, size, 0, handle, 0)
        call(driver.cuMemSetAccess, address, size, [access], 1)
    """
    )
    exporter = cards.start(
        program
        + """
    properties.requestedHandleTypes = kind
    handle = call(driver.cuMemCreate, size, properties, 0)
    show(handle)
    gpu.launch("fill", address, 4, 1, 42, 1000)
    call(driver.cuCtxSynchronize)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    print("ready", flush=True)
    peer, _ = server.accept()
    socket.send_fds(peer, [b"x"], [call(driver.cuMemExportToShareableHandle, handle, kind, 0)])
    peer.recv(1)
    """
    )
    assert exporter.hear() == "ready"
    found = cards.run(
        program
        + """
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    _, (descriptor,), _, _ = socket.recv_fds(client, 1, 1)
    show(call(driver.cuMemImportFromShareableHandle, descriptor, kind))
    print(gpu.read_u64(address) & 0xffffffff)
    """
    )
    assert found == 42


def test_stream_ordered_memory_is_freed_when_the_stream_gets_there(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        stream = call(driver.cuStreamCreate, 1)
        free = lambda: call(driver.cuMemGetInfo)[0]
        start = free()
        p = call(driver.cuMemAllocAsync, GIB, stream)
        gpu.launch("spin", 30_000_000, stream=stream)
        call(driver.cuMemFreeAsync, p, stream)
        during = start - free()
        call(driver.cuStreamSynchronize, stream)
        print(json.dumps([during, start - free()]))
    """)
    assert found == [1 << 30, 0]


def test_pointer_attributes_tell_device_from_host(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        attribute = driver.CUpointer_attribute
        def kind(pointer):
            return int(call(driver.cuPointerGetAttribute, attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, pointer))
        device = call(driver.cuMemAlloc, 64)
        host = call(driver.cuMemHostAlloc, 64, 0)
        managed = call(driver.cuMemAllocManaged, 64, 1)
        print(json.dumps([kind(int(device)), kind(int(host)),
            bool(call(driver.cuPointerGetAttribute, attribute.CU_POINTER_ATTRIBUTE_IS_MANAGED, int(managed))),
            int(call(driver.cuMemGetAddressRange, int(device) + 8)[1])]))
    """)
    assert found == [2, 1, True, 64]
