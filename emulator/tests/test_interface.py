"""Finding entry points, devices and NVML's answers."""

import os
import re
import subprocess
from pathlib import Path

from emulator.tests.conftest import Cards

from nvshare.emulator import library_directory

RESOLVE = """
    library = ctypes.CDLL("libcuda.so.1")
    pointer = ctypes.c_void_p
    library.cuGetProcAddress_v2.argtypes = [ctypes.c_char_p, pointer, ctypes.c_int, ctypes.c_uint64, pointer]
    def address(symbol):
        return ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
    def resolve(name, version, flags=0):
        found, status = ctypes.c_void_p(), ctypes.c_int(-1)
        result = library.cuGetProcAddress_v2(name.encode(), ctypes.byref(found), version, flags, ctypes.byref(status))
        return result, status.value, found.value
"""


def test_the_resolver_honours_versions_and_default_streams(cards: Cards) -> None:
    found = cards.run(
        RESOLVE
        + """
    print(json.dumps({
        "newest": resolve("cuMemAlloc", 13000) == (0, 0, address("cuMemAlloc_v2")),
        "oldest of two": resolve("cuGetProcAddress", 11030) == (0, 0, address("cuGetProcAddress")),
        "newest of two": resolve("cuGetProcAddress", 12000) == (0, 0, address("cuGetProcAddress_v2")),
        "per thread": resolve("cuLaunchKernel", 7000, 2) == (0, 0, address("cuLaunchKernel_ptsz")),
        "per thread before it existed": resolve("cuLaunchKernel", 4000, 2) == (0, 0, address("cuLaunchKernel")),
        "too old": resolve("cuLaunchKernelEx", 11000),
        "unknown": resolve("cuNoSuchThing", 13000),
        "empty": resolve("", 0)[0],
    }))
    """
    )
    assert found == {
        "newest": True,
        "oldest of two": True,
        "newest of two": True,
        "per thread": True,
        "per thread before it existed": True,
        "too old": [500, 2, None],
        "unknown": [500, 1, None],
        "empty": 500,
    }


def test_every_entry_point_that_is_exported_is_found_by_the_resolver_too() -> None:
    table = Path(__file__).parents[1] / "src" / "symbols.def"
    listed = re.findall(r"^EMU_SYMBOL\(\"\w+\",\s*\d+,\s*(\w+),", table.read_text(), re.MULTILINE)
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library_directory() / "libcuda.so.1"], capture_output=True, text=True, check=True
    ).stdout
    assert sorted(listed) == sorted(re.findall(r" T (cu[A-Z]\w+)$", symbols, re.MULTILINE))


def test_devices_are_chosen_by_index_and_by_uuid(cards: Cards) -> None:
    cards.configure(devices=3)
    program = """
        call(driver.cuInit, 0)
        uuids = [call(driver.cuDeviceGetUuid, i).bytes.hex() for i in range(call(driver.cuDeviceGetCount))]
        print(json.dumps(uuids))
    """
    every = cards.run(program)
    assert len(set(every)) == 3
    assert cards.run(program, CUDA_VISIBLE_DEVICES="2,0") == [every[2], every[0]]
    text = f"GPU-{every[1][:8]}-{every[1][8:12]}-{every[1][12:16]}-{every[1][16:20]}-{every[1][20:]}"
    assert cards.run(program, CUDA_VISIBLE_DEVICES=text) == [every[1]]
    assert cards.run("print(error_of(driver.cuInit, 0))", CUDA_VISIBLE_DEVICES="") == 100


def test_a_malformed_setting_is_named_and_replaced_by_its_default(cards: Cards) -> None:
    cards.configure(memory="16 apples")
    assert (
        cards.run("""
        call(driver.cuInit, 0)
        print(call(driver.cuDeviceTotalMem, 0))
    """)
        == 16 << 30
    )


def test_contexts_are_pushed_popped_and_destroyed(cards: Cards) -> None:
    found = cards.run("""
        gpu = Gpu()
        made = call(driver.cuCtxCreate, driver.CUctxCreateParams(), 0, gpu.device)
        current = int(call(driver.cuCtxGetCurrent)) == int(made)
        call(driver.cuCtxPopCurrent)
        back = int(call(driver.cuCtxGetCurrent)) == int(gpu.context)
        call(driver.cuCtxPushCurrent, made)
        p = call(driver.cuMemAlloc, GIB)
        call(driver.cuCtxDestroy, made)
        print(json.dumps([current, back, int(call(driver.cuCtxGetCurrent)) == int(gpu.context),
                          error_of(driver.cuCtxPushCurrent, made), call(driver.cuMemGetInfo)[0]]))
    """)
    assert found == [True, True, True, 201, (16 << 30) - (128 << 20)]


def test_calls_before_initialisation_and_without_a_context_say_so(cards: Cards) -> None:
    found = cards.run("""
        first = error_of(driver.cuDeviceGetCount)
        call(driver.cuInit, 0)
        print(json.dumps([first, error_of(driver.cuMemAlloc, 8)]))
    """)
    assert found == [3, 201]


NVML = """
    import pynvml as nvml
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
"""


def test_nvml_and_the_driver_name_the_same_card(cards: Cards) -> None:
    found = cards.run(
        NVML
        + """
    call(driver.cuInit, 0)
    uuid = nvml.nvmlDeviceGetUUID(handle)
    print(json.dumps([uuid.replace("-", "")[3:] == call(driver.cuDeviceGetUuid, 0).bytes.hex(),
        nvml.nvmlDeviceGetIndex(nvml.nvmlDeviceGetHandleByUUID(uuid)), nvml.nvmlDeviceGetName(handle),
        nvml.nvmlDeviceGetPciInfo(handle).busId, nvml.nvmlSystemGetCudaDriverVersion(), nvml.nvmlDeviceGetCount()]))
    """
    )
    assert found == [True, 0, "NVIDIA Emulated GPU", "00000000:01:00.0", 13000, 1]


def test_nvml_shows_memory_processes_and_utilisation(cards: Cards) -> None:
    found = cards.run(
        NVML
        + """
    gpu = Gpu()
    call(driver.cuMemAlloc, GIB)
    busy_until(gpu, time.monotonic() + 1.15)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    second = nvml.nvmlDeviceGetMemoryInfo(handle, nvml.nvmlMemory_v2)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    print(json.dumps({"used": memory.used, "equal": second.used == memory.used, "sum": memory.used + memory.free,
        "processes": [[p.pid - os.getpid(), p.usedGpuMemory] for p in processes],
        "busy": nvml.nvmlDeviceGetUtilizationRates(handle).gpu}))
    """
    )
    used = (1 << 30) + (128 << 20)
    assert found["used"] == used
    assert found["equal"]
    assert found["sum"] == 16 << 30
    assert found["processes"] == [[0, used]]
    assert found["busy"] >= 90


def test_nvml_exports_versioned_and_unversioned_names() -> None:
    library = (library_directory() / "libnvidia-ml.so.1").read_bytes()
    for name in (
        "nvmlInit",
        "nvmlInit_v2",
        "nvmlDeviceGetCount",
        "nvmlDeviceGetCount_v2",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetComputeRunningProcesses_v2",
        "nvmlDeviceGetComputeRunningProcesses_v3",
    ):
        assert b"\x00" + name.encode() + b"\x00" in library, name


def test_the_folder_is_made_anew_when_it_is_from_another_boot(cards: Cards) -> None:
    program = "call(driver.cuInit, 0)\nprint(json.dumps(call(driver.cuDeviceGetUuid, 0).bytes.hex()))"
    first = cards.run(program)
    assert cards.run(program) == first
    state = Path(cards.environment["NVSHARE_EMULATOR_DIR"]) / "cards"
    with state.open("r+b") as file:
        file.seek(16)
        file.write(os.urandom(8))
    assert cards.run(program) != first
