"""The ways in: exported names, dlsym on any handle, both versions of cuGetProcAddress."""

import re
import subprocess
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import SOURCE, Run

from nvshare.emulator import library_directory
from nvshare.preload import library_path

# `owner(address)`: the file name of the library that an address lies in; `ask(…)`: what a resolver answers.
LOADER = """
    import ctypes
    from pathlib import Path

    class Info(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                    ("address", ctypes.c_void_p)]

    libc = ctypes.CDLL(None)
    cuda = ctypes.CDLL("libcuda.so.1")

    def found(address):
        info = Info()
        assert libc.dladdr(ctypes.c_void_p(address), ctypes.byref(info)) != 0
        return [Path(info.file.decode()).name, info.name.decode()]

    def by_name(library, name):
        return found(ctypes.cast(getattr(library, name), ctypes.c_void_p).value)

    def ask(resolver, name, version, flags, *more):
        pointer = ctypes.c_void_p()
        result = resolver(name.encode(), ctypes.byref(pointer), version, ctypes.c_uint64(flags), *more)
        return result, pointer.value
"""
OURS, DRIVERS = "libnvshare.so", "libcuda.so.1"


def hooked_names() -> set[str]:
    """What hooks.def, nvml.def and nccl.def say, expanded by the C preprocessor."""
    source = """
        #define NVS_STREAM_CALL(name, class, stream, params, args) @name @name##_ptsz
        #define NVS_AWAIT_CALL(name, stream, params, args) @name @name##_ptsz
        #define NVS_SYNC_CALL(name, class, params, args) @name @name##_ptds
        #define NVS_PLAIN_CALL(name, class, stream, params, args) @name
        #define NVS_LOOK_CALL(name, params, args) @name
        #define NVS_CUSTOM(name) @name
        #define NVS_NVML_CUSTOM(name) @name
        #define NVS_NCCL(name, sign, params, args) @name
        #include "hooks.def"
        #include "nvml.def"
        #include "nccl.def"
    """
    done = subprocess.run(
        ["cc", "-E", "-P", "-I", str(SOURCE / "src"), "-"], input=source, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"@\s*(\w+)", done.stdout))


def test_the_library_exports_its_hooks_and_dlsym_and_nothing_else() -> None:
    done = subprocess.run(
        ["nm", "-D", "--defined-only", str(library_path())], capture_output=True, text=True, check=True
    )
    exported = {line.split()[-1].split("@")[0] for line in done.stdout.splitlines()}
    assert exported == hooked_names() | {"dlsym", "ioctl"}


def test_dlsym_is_left_by_a_jump() -> None:
    """A call would leave our frame under the loader's, which finds out by it who asks for what is next."""
    done = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", "--disassemble=dlsym", str(library_path())],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert re.search(r"\tjmp +\*%r|\tbr\s+x", done.stdout)  # x86-64, aarch64


def test_rtld_next_means_behind_the_library_that_asks(run: Run, programs: Path) -> None:
    """Also for a name of the driver: the interposer that asks would be given itself otherwise."""
    assert run(programs / "next_program").said() == {"which": "second", "init": 1007}


@pytest.mark.parametrize("name", ["cuLaunchKernel", "cuLaunchKernel_ptsz", "cuMemAlloc_v2", "cuGetProcAddress_v2"])
def test_a_name_is_found_as_our_wrapper_on_every_handle(name: str, run: Run) -> None:
    program = run(f"{LOADER}\n    say(handle=by_name(cuda, '{name}'), default=by_name(libc, '{name}'))")
    assert program.said() == {"handle": [OURS, name], "default": [OURS, name]}


def test_a_name_that_we_do_not_wrap_is_the_drivers(run: Run) -> None:
    program = run(
        f"""{LOADER}
    resolved = ask(cuda.cuGetProcAddress_v2, "cuDeviceGetName", 12000, 0, None)
    say(handle=by_name(cuda, "cuDeviceGetName"), resolved=found(resolved[1]))
    """
    )
    assert program.said() == {"handle": [DRIVERS, "cuDeviceGetName"], "resolved": [DRIVERS, "cuDeviceGetName"]}


def test_other_libraries_whose_names_begin_alike_are_left_alone(run: Run, programs: Path) -> None:
    program = run(
        f"""{LOADER}
    second = ctypes.CDLL("{programs / "libsecond.so"}")
    say(second=by_name(second, "cuInit"), driver=by_name(cuda, "cuInit"))
    """
    )
    assert program.said() == {"second": ["libsecond.so", "cuInit"], "driver": [OURS, "cuInit"]}
    assert program.end() == ""


@pytest.mark.parametrize(
    ("name", "version", "flags", "wrapper"),
    [
        ("cuLaunchKernel", 4000, 0, "cuLaunchKernel"),
        ("cuLaunchKernel", 12000, 0, "cuLaunchKernel"),
        ("cuLaunchKernel", 12000, 2, "cuLaunchKernel_ptsz"),
        ("cuMemcpyHtoD", 12000, 0, "cuMemcpyHtoD_v2"),
        ("cuMemcpyHtoD", 12000, 2, "cuMemcpyHtoD_v2_ptds"),
        ("cuMemAlloc", 12000, 2, "cuMemAlloc_v2"),
        ("cuCtxCreate", 3020, 0, "cuCtxCreate_v2"),
        ("cuCtxCreate", 11040, 0, "cuCtxCreate_v3"),
        ("cuGetProcAddress", 11030, 0, "cuGetProcAddress"),
        ("cuGetProcAddress", 12000, 0, "cuGetProcAddress_v2"),
    ],
)
def test_the_resolver_gives_the_wrapper_of_the_very_version_asked_for(
    name: str, version: int, flags: int, wrapper: str, run: Run
) -> None:
    program = run(
        f"""{LOADER}
    one = ask(cuda.cuGetProcAddress, "{name}", {version}, {flags})
    two = ask(cuda.cuGetProcAddress_v2, "{name}", {version}, {flags}, None)
    say(one=[one[0], *found(one[1])], two=[two[0], *found(two[1])])
    """
    )
    assert program.said() == {"one": [0, OURS, wrapper], "two": [0, OURS, wrapper]}


def test_the_resolver_found_by_itself_writes_the_status_and_resolves(run: Run) -> None:
    """cudart asks the first resolver for the second, and lives with what it was given."""
    program = run(
        f"""{LOADER}
    address = ask(cuda.cuGetProcAddress, "cuGetProcAddress", 12000, 0)[1]
    parameters = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p
    resolver = ctypes.CFUNCTYPE(ctypes.c_int, *parameters)(address)
    def status(name, version):
        pointer, status = ctypes.c_void_p(), ctypes.c_int(77)
        result = resolver(name, ctypes.addressof(pointer), version, 0, ctypes.addressof(status))
        return [result, status.value, pointer.value is not None and found(pointer.value)[0]]
    name = b"cuLaunchKernelEx"
    say(good=status(name, 12000), old=status(name, 11000), none=status(b"cuNoSuch", 12000))
    """
    )
    words = program.said()
    native = run(f"{LOADER}\n    say(none=ask(cuda.cuGetProcAddress_v2, 'cuNoSuch', 12000, 0, None)[0])", preload="")
    assert words["good"] == [0, 0, OURS]
    assert words["old"][1:] == [2, False]  # CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
    assert words["none"] == [native.said()["none"], 1, False]  # CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND


def test_a_program_without_a_gpu_never_loads_the_driver(run: Run) -> None:
    program = run(Path("/bin/cat"), LD_DEBUG="files")
    assert program.process.stdin is not None
    program.process.stdin.close()
    assert str(library_directory()) not in program.end()
