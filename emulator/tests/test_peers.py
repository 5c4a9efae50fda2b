"""Several cards in one process, and one card's memory in several processes."""

from emulator.tests.conftest import Cards

PAIR = """
    first, second = Gpu(0), Gpu(1)
    def on(gpu):
        call(driver.cuCtxSetCurrent, gpu.context)
    on(first)
    p = call(driver.cuMemAlloc, 4 * MIB)
    first.launch("fill", p, MIB, 1, 7, 1000)
    call(driver.cuCtxSynchronize)
"""


def test_a_kernel_reads_a_peers_memory_once_access_is_enabled(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        PAIR
        + """
    on(second)
    call(driver.cuCtxEnablePeerAccess, first.context, 0)
    print(json.dumps([second.checksum(p, 16), error_of(driver.cuCtxEnablePeerAccess, first.context, 0)]))
    """
    )
    assert found == [7 * sum(range(1, 17)), 704]


def test_a_kernel_without_peer_access_fails(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        PAIR
        + """
    on(second)
    call(driver.cuCtxEnablePeerAccess, first.context, 0)
    call(driver.cuCtxDisablePeerAccess, first.context)
    second.launch("fill", p, 16, 1, 1, 1000)
    print(error_of(driver.cuCtxSynchronize))
    """
    )
    assert found == 700


def test_a_copy_between_cards_needs_no_peer_access(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        PAIR
        + """
    on(second)
    q = call(driver.cuMemAlloc, 4 * MIB)
    call(driver.cuMemcpyPeer, q, second.context, p, first.context, 4 * MIB)
    print(second.checksum(q, 16))
    """
    )
    assert found == 7 * sum(range(1, 17))


def test_pool_memory_is_opened_to_a_peer_by_the_pool(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        PAIR
        + """
    pool = call(driver.cuDeviceGetDefaultMemPool, 0)
    q = call(driver.cuMemAllocAsync, MIB, 0)
    first.launch("fill", q, 16, 1, 3, 1000)
    call(driver.cuCtxSynchronize)
    access = driver.CUmemAccessDesc()
    access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    access.location.id = 1
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    call(driver.cuMemPoolSetAccess, pool, [access], 1)
    on(second)
    print(second.checksum(q, 16))
    """
    )
    assert found == 3 * sum(range(1, 17))


def test_cards_say_that_they_can_be_peers(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run("""
        call(driver.cuInit, 0)
        attribute = driver.CUdevice_P2PAttribute
        print(json.dumps([call(driver.cuDeviceCanAccessPeer, 0, 1), call(driver.cuDeviceCanAccessPeer, 0, 0),
            call(driver.cuDeviceGetP2PAttribute, attribute.CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, 0, 1)]))
    """)
    assert found == [1, 0, 1]


IPC = """
    gpu = Gpu()
    handle = driver.CUipcMemHandle()
    ctypes.memmove(handle.getPtr(), bytes.fromhex(sys.stdin.readline()), 64)
"""
EXPORTER = """
    gpu = Gpu()
    call(driver.cuMemAlloc, 1000)
    p = call(driver.cuMemAlloc, 4000)
    gpu.launch("fill", p, 1000, 1, 5, 1000)
    call(driver.cuCtxSynchronize)
    handle = call(driver.cuIpcGetMemHandle, p)
    print(ctypes.string_at(handle.getPtr(), 64).hex(), flush=True)
    sys.stdin.readline()
    print(gpu.read_u64(p) & 0xff, error_of(driver.cuIpcOpenMemHandle, handle, 1), flush=True)
    sys.stdin.readline()
"""


def test_a_legacy_handle_opens_the_same_memory_in_another_process(cards: Cards) -> None:
    exporter = cards.start(EXPORTER)
    handle = exporter.hear()
    importer = cards.start(
        IPC
        + """
    q = call(driver.cuIpcOpenMemHandle, handle, 1)
    again = call(driver.cuIpcOpenMemHandle, handle, 1)
    print(json.dumps([gpu.read_u64(q) & 0xff, int(q) == int(again), call(driver.cuMemGetAddressRange, q)[1],
        error_of(driver.cuMemFree, q)]), flush=True)
    gpu.launch("fill", q, 1000, 1, 9, 1000)
    call(driver.cuCtxSynchronize)
    print(json.dumps([error_of(driver.cuIpcCloseMemHandle, q) for _ in range(3)]))
    """
    )
    importer.say(handle)
    assert importer.hear() == "[5, true, 4000, 1]"
    assert importer.hear() == "[0, 0, 1]"
    exporter.say("look")
    assert exporter.hear() == "9 201"


def test_opened_memory_is_charged_to_its_owner_alone(cards: Cards) -> None:
    exporter = cards.start(EXPORTER)
    handle = exporter.hear()
    importer = cards.start(
        IPC
        + """
    before = call(driver.cuMemGetInfo)[0]
    call(driver.cuIpcOpenMemHandle, handle, 1)
    print(before - call(driver.cuMemGetInfo)[0])
    """
    )
    importer.say(handle)
    assert importer.hear() == "0"


def test_a_handle_of_a_process_that_is_gone_is_refused(cards: Cards) -> None:
    exporter = cards.start(EXPORTER)
    handle = exporter.hear()
    exporter.kill()
    importer = cards.start(IPC + "    print(error_of(driver.cuIpcOpenMemHandle, handle, 1))")
    importer.say(handle)
    assert importer.hear() == "400"


def test_only_memory_of_cumemalloc_has_a_legacy_handle(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        capable = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE
        pointers = [int(call(driver.cuMemAlloc, 64)), int(call(driver.cuMemAllocAsync, 64, 0)),
            int(call(driver.cuMemHostAlloc, 64, 0))]
        print(json.dumps([[bool(call(driver.cuPointerGetAttribute, capable, p)), error_of(driver.cuIpcGetMemHandle, p)]
            for p in pointers]))
    """)
    assert found == [[True, 0], [False, 1], [False, 1]]
