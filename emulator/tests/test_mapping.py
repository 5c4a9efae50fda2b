"""Virtual memory management: reservations, physical memory, mappings, access, handles that other processes import."""

import pytest
from emulator.tests.conftest import Cards

VMM = """
    gpu = Gpu()
    properties = driver.CUmemAllocationProp()
    properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
    properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
    properties.location.id = 0
    access = driver.CUmemAccessDesc()
    access.location = properties.location
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
    def reserve(size):
        return int(call(driver.cuMemAddressReserve, size, 0, 0, 0))
    def back(address, size):
        handle = call(driver.cuMemCreate, size, properties, 0)
        call(driver.cuMemMap, address, size, 0, handle, 0)
        call(driver.cuMemSetAccess, address, size, [access], 1)
        call(driver.cuMemRelease, handle)
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


def test_a_first_part_of_a_handle_can_be_mapped_and_an_offset_is_refused(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    handle = call(driver.cuMemCreate, 8 * MIB, properties, 0)
    address = reserve(16 * MIB)
    errors = [error_of(driver.cuMemMap, address, size, offset, handle, 0)
        for size, offset in ((2 * MIB, 2 * MIB), (3 * MIB // 2, 0), (10 * MIB, 0), (4 * MIB, 0))]
    call(driver.cuMemSetAccess, address, 4 * MIB, [access], 1)
    gpu.launch("fill", address, MIB, 1, 3, 1000)
    print(json.dumps([errors, error_of(driver.cuCtxSynchronize)]))
    """
    )
    assert found == [[1, 1, 1, 0], 0]


def test_a_call_unmaps_several_whole_mappings_and_no_part_of_one(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    address = reserve(16 * MIB)
    for index in range(4):
        back(address + index * 4 * MIB, 4 * MIB)
    print(json.dumps([error_of(driver.cuMemUnmap, address, 6 * MIB),
        error_of(driver.cuMemUnmap, address + 4 * MIB, 8 * MIB),
        error_of(driver.cuMemUnmap, address, 16 * MIB),
        error_of(driver.cuMemAddressFree, address, 16 * MIB),
        error_of(driver.cuMemUnmap, address, 4 * MIB),
        error_of(driver.cuMemUnmap, address + 12 * MIB, 4 * MIB),
        error_of(driver.cuMemAddressFree, address, 16 * MIB)]))
    """
    )
    assert found == [1, 0, 1, 1, 0, 0, 0]


def test_thousands_of_mappings_in_a_tebibyte_of_addresses_take_little_time(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    address = reserve(1 << 40)
    step = (1 << 40) // 4096
    begin = time.process_time()
    for index in range(4096):
        back(address + index * step, 2 * MIB)
    for index in range(4096):
        call(driver.cuMemUnmap, address + index * step, 2 * MIB)
    print(json.dumps([time.process_time() - begin, error_of(driver.cuMemAddressFree, address, 1 << 40)]))
    """
    )
    assert found[0] < 2.0
    assert found[1] == 0


def test_more_physical_memory_than_the_card_has_is_refused(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    taken = call(driver.cuMemCreate, 12 * GIB, properties, 0)
    errors = [error_of(driver.cuMemCreate, size * GIB, properties, 0) for size in (4, 17, 64)]
    call(driver.cuMemRelease, taken)
    print(json.dumps([*errors, error_of(driver.cuMemCreate, 12 * GIB, properties, 0)]))
    """
    )
    assert found == [2, 2, 2, 0]


def test_released_memory_frees_the_hosts_pages(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    def shared_mib():
        with open("/proc/meminfo") as file:
            return next(int(line.split()[1]) >> 10 for line in file if line.startswith("Shmem:"))
    address = reserve(256 * MIB)
    back(address, 256 * MIB)
    before = shared_mib()
    call(driver.cuMemsetD8, address, 1, 256 * MIB)
    call(driver.cuCtxSynchronize)
    written = shared_mib() - before
    call(driver.cuMemUnmap, address, 256 * MIB)
    print(json.dumps([written, written - (shared_mib() - before)]))
    """
    )
    assert found[1] > 200


@pytest.mark.parametrize("call", ["cuMemcpyHtoD, address, host", "cuMemcpyDtoH, host, address"])
def test_a_copy_of_reserved_addresses_without_memory_is_refused(cards: Cards, call: str) -> None:
    found = cards.run(
        VMM
        + f"""
    host = int(call(driver.cuMemHostAlloc, MIB, 0))
    address = reserve(2 * MIB)
    print(error_of(driver.{call}, MIB))
    """
    )
    assert found == 1


def test_a_copy_whose_memory_is_unmapped_before_its_turn_fails(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    host = int(call(driver.cuMemHostAlloc, MIB, 0))
    address = reserve(2 * MIB)
    back(address, 2 * MIB)
    gpu.launch("spin", 30_000_000)
    call(driver.cuMemcpyDtoHAsync, host, address, MIB, 0)
    call(driver.cuMemUnmap, address, 2 * MIB)
    print(error_of(driver.cuCtxSynchronize))
    """
    )
    assert found == 700


def test_a_peer_reaches_mapped_memory_once_access_is_set_for_it(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        VMM
        + """
    def get(device):
        location = driver.CUmemLocation()
        location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        location.id = device
        return int(call(driver.cuMemGetAccess, location, address))
    address = reserve(2 * MIB)
    back(address, 2 * MIB)
    before = [get(0), get(1)]
    access.location.id = 1
    call(driver.cuMemSetAccess, address, 2 * MIB, [access], 1)
    other = Gpu(1)
    other.launch("fill", address, 16, 1, 5, 1000)
    print(json.dumps([before, [get(0), get(1)], error_of(driver.cuCtxSynchronize), gpu.read_u64(address) & 0xff]))
    """
    )
    assert found == [[3, 0], [3, 3], 0, 5]


def test_a_kernel_of_a_device_without_access_fails(cards: Cards) -> None:
    cards.configure(devices=2)
    found = cards.run(
        VMM
        + """
    address = reserve(2 * MIB)
    back(address, 2 * MIB)
    other = Gpu(1)
    other.launch("fill", address, 16, 1, 5, 1000)
    print(error_of(driver.cuCtxSynchronize))
    """
    )
    assert found == 700


def test_a_kernel_that_writes_memory_with_read_access_fails(cards: Cards) -> None:
    found = cards.run(
        VMM
        + """
    address = reserve(2 * MIB)
    back(address, 2 * MIB)
    access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READ
    call(driver.cuMemSetAccess, address, 2 * MIB, [access], 1)
    read = gpu.checksum(address, 16)
    gpu.launch("fill", address, 16, 1, 5, 1000)
    print(json.dumps([read, error_of(driver.cuCtxSynchronize)]))
    """
    )
    assert found == [0, 700]


EXCHANGE = (
    VMM
    + """
    import socket
    size = 64 * MIB
    kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
    path = os.environ["NVSHARE_EMULATOR_DIR"] + "/handle.sock"
    address = reserve(size)
    def show(handle):
        call(driver.cuMemMap, address, size, 0, handle, 0)
        call(driver.cuMemSetAccess, address, size, [access], 1)
    def used_mib():
        return (16 * GIB - call(driver.cuMemGetInfo)[0]) // MIB
"""
)
EXPORTER = (
    EXCHANGE
    + """
    properties.requestedHandleTypes = kind
    handle = call(driver.cuMemCreate, size, properties, 0)
    show(handle)
    gpu.launch("fill", address, 4, 1, 42, 1000)
    call(driver.cuCtxSynchronize)
    before = used_mib()
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    descriptor = call(driver.cuMemExportToShareableHandle, handle, kind, 0)
    print(json.dumps([before, used_mib()]), flush=True)
    peer, _ = server.accept()
    socket.send_fds(peer, [b"x"], [descriptor])
    sys.stdin.readline()
"""
)
IMPORTER = (
    EXCHANGE
    + """
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    _, (descriptor,), _, _ = socket.recv_fds(client, 1, 1)
    handle = call(driver.cuMemImportFromShareableHandle, descriptor, kind)
    show(handle)
"""
)


def test_exporting_mapped_memory_keeps_its_data_and_its_charge(cards: Cards) -> None:
    exporter = cards.start(
        EXPORTER
        + """
    gpu.launch("fill", address + 8, 1, 1, 43, 1000)
    print(json.dumps([gpu.read_u64(address) & 0xff, gpu.read_u64(address + 8) & 0xff]), flush=True)
    """
    )
    assert exporter.hear() == "[192, 192]"
    cards.start(IMPORTER + "    sys.stdin.readline()\n")
    exporter.say("go on")
    assert exporter.hear() == "[42, 43]"


def test_shared_memory_counts_once_until_its_last_holder_lets_go(cards: Cards) -> None:
    exporter = cards.start(EXPORTER)
    exporter.hear()
    importer = cards.start(
        IMPORTER
        + """
    print(used_mib(), flush=True)
    sys.stdin.readline()
    print(used_mib(), gpu.read_u64(address) & 0xff, flush=True)
    sys.stdin.readline()
    call(driver.cuMemUnmap, address, size)
    call(driver.cuMemRelease, handle)
    print(used_mib())
    """
    )
    assert importer.hear() == str(64 + 2 * 128)
    exporter.kill()
    importer.say("the exporter is dead")
    assert importer.hear() == f"{64 + 128} 42"
    importer.say("let go")
    assert importer.hear() == "128"


def test_shared_memory_of_a_dead_holder_comes_back_with_the_last_one(cards: Cards) -> None:
    exporter = cards.start(EXPORTER)
    exporter.hear()
    importer = cards.start(IMPORTER + "    print('holding', flush=True)\n    sys.stdin.readline()\n")
    assert importer.hear() == "holding"
    importer.kill()
    exporter.kill()
    assert cards.run("gpu = Gpu()\nprint((16 * GIB - call(driver.cuMemGetInfo)[0]) // MIB)") == 128


def test_a_file_that_no_card_knows_is_no_handle(cards: Cards) -> None:
    found = cards.run(
        EXCHANGE
        + """
    stranger = os.memfd_create("stranger")
    os.ftruncate(stranger, 2 * MIB)
    print(json.dumps([error_of(driver.cuMemImportFromShareableHandle, file, kind) for file in (stranger, 999)]))
    """
    )
    assert found == [1, 1]
