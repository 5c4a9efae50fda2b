"""Capacity over all processes, sparse backing, virtual memory management."""

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


def test_pointer_attributes_remember_and_tell_what_was_asked_for(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        attribute = driver.CUpointer_attribute
        def get(name, pointer):
            return int(call(driver.cuPointerGetAttribute, getattr(attribute, "CU_POINTER_ATTRIBUTE_" + name), pointer))
        p = int(call(driver.cuMemAlloc, 64))
        before = get("SYNC_MEMOPS", p)
        call(driver.cuPointerSetAttribute, True, attribute.CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, p)
        properties = driver.CUmemAllocationProp()
        properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.requestedHandleTypes = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        handle = call(driver.cuMemCreate, 2 * MIB, properties, 0)
        q = int(call(driver.cuMemAddressReserve, 2 * MIB, 0, 0, 0))
        call(driver.cuMemMap, q, 2 * MIB, 0, handle, 0)
        print(json.dumps([before, get("SYNC_MEMOPS", p), get("RANGE_SIZE", p + 8), get("RANGE_START_ADDR", p + 8) == p,
            get("BUFFER_ID", p) == get("BUFFER_ID", p + 8) != get("BUFFER_ID", q)]))
    """)
    assert found == [0, 1, 64, True, True]


def test_a_range_of_device_memory_has_a_descriptor_to_hand_out(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        p = int(call(driver.cuMemAlloc, 4 * MIB))
        kind = driver.CUmemRangeHandleType.CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD
        descriptor = call(driver.cuMemGetHandleForAddressRange, p, MIB, kind, 0)
        print(json.dumps([os.fstat(int(descriptor)).st_size,
            error_of(driver.cuMemGetHandleForAddressRange, p + 8, MIB, kind, 0),
            error_of(driver.cuMemGetHandleForAddressRange, p, 8 * MIB, kind, 0)]))
    """)
    assert found == [1 << 20, 1, 1]


def test_a_pools_peak_begins_anew_at_zero_and_its_use_cannot_be_set(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        pool = call(driver.cuDeviceGetDefaultMemPool, 0)
        kind = driver.CUmemPool_attribute
        high, used = kind.CU_MEMPOOL_ATTR_USED_MEM_HIGH, kind.CU_MEMPOOL_ATTR_USED_MEM_CURRENT
        number = driver.cuuint64_t
        p = call(driver.cuMemAllocAsync, MIB, 0)
        call(driver.cuMemFreeAsync, p, 0)
        call(driver.cuCtxSynchronize)
        before = int(call(driver.cuMemPoolGetAttribute, pool, high))
        errors = [error_of(driver.cuMemPoolSetAttribute, pool, high, number(5)),
            error_of(driver.cuMemPoolSetAttribute, pool, used, number(0)),
            error_of(driver.cuMemPoolSetAttribute, pool, high, number(0))]
        print(json.dumps([before, errors, int(call(driver.cuMemPoolGetAttribute, pool, high))]))
    """)
    assert found == [1 << 20, [1, 1, 0], 0]
