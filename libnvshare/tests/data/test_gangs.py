"""Whether the library sees that a program's work on one GPU is tied to work on another (E11)."""

import textwrap
from pathlib import Path

import pytest
from libnvshare.tests.data.conftest import Client, Run, ScriptedRelay

PROGRAM = """
import ctypes, uuid

class Id(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_char * 128)]

def uuid_of(gpu):
    return f"GPU-{uuid.UUID(bytes=bytes(ok(driver.cuDeviceGetUuid(gpu.device)).bytes))}"

gpus = [Gpu(0), Gpu(1)]
say(gpus=[uuid_of(gpu) for gpu in gpus])
gpus[1].use()
hear()
"""
# NCCL opened by the program itself, as JAX and vLLM do.
OPENED = """
comm, own = ctypes.c_void_p(), Id.from_buffer_copy(bytes(127) + bytes([3]))
say(result=ctypes.CDLL("{folder}/libnccl.so").ncclCommInitRank(ctypes.byref(comm), {ranks}, own, 1))
"""
# A library that is linked with NCCL and opened for itself, as PyTorch's are.
LINKED = 'say(result=ctypes.CDLL("{folder}/libtrainer.so").join({ranks}, 1))'
ALL_DEVICES = """
comms = (ctypes.c_void_p * 2)()
say(result=ctypes.CDLL("{folder}/libnccl.so").ncclCommInitAll(comms, {count}, None))
"""


def started(run: Run, relay: ScriptedRelay, call: str) -> tuple[Client, list[str], object]:
    """A program on two devices, with the second one current, that has done `call`: its client, the UUIDs of its
    devices, and what the call gave."""
    program = run(PROGRAM + textwrap.dedent(call) + "\nhear()", NVSHARE_EMULATOR_DEVICES="2")
    gpus = program.said()["gpus"]
    client = relay.client()
    for gpu in gpus:
        client.report_where(lambda report, gpu=gpu: report.gpu == gpu and not report.gang)  # type: ignore[misc]
    program.tell()
    return client, gpus, program.said()["result"]


def tied(client: Client, gpus: list[str]) -> list[bool]:
    """Which of the devices are called tied by reports that come from now on."""
    since = len(client.reports)
    return [client.report_where(lambda report, gpu=gpu: report.gpu == gpu, since).gang for gpu in gpus]  # type: ignore[misc]


@pytest.mark.parametrize(("call", "result"), [(OPENED, 1213), (LINKED, 1217)])
def test_e11_one_of_several_ranks_of_nccl_ties_its_current_device(
    call: str, result: int, relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    client, gpus, given = started(run, relay, call.format(folder=programs, ranks=2))
    assert given == result
    client.report_where(lambda report: report.gang)
    assert tied(client, gpus) == [False, True]


@pytest.mark.parametrize(("call", "result"), [(OPENED, 1113), (LINKED, 1117)])
def test_e11_a_single_rank_of_nccl_ties_nothing(
    call: str, result: int, relay: ScriptedRelay, run: Run, programs: Path
) -> None:
    client, gpus, given = started(run, relay, call.format(folder=programs, ranks=1))
    assert given == result
    assert tied(client, gpus) == [False, False]


def test_e11_nccl_over_all_devices_of_a_process_ties_each(relay: ScriptedRelay, run: Run, programs: Path) -> None:
    client, gpus, given = started(run, relay, ALL_DEVICES.format(folder=programs, count=2))
    assert given == 2020
    client.report_where(lambda report: report.gang)
    assert tied(client, gpus) == [True, True]


def test_e11_access_between_two_devices_ties_both(relay: ScriptedRelay, run: Run) -> None:
    call = "say(result=error_of(driver.cuCtxEnablePeerAccess(gpus[0].context, 0)))"
    client, gpus, given = started(run, relay, call)
    assert given == "CUDA_SUCCESS"
    for gpu in gpus:
        client.report_where(lambda report, gpu=gpu: report.gpu == gpu and report.gang)  # type: ignore[misc]


def test_e11_access_that_the_driver_refuses_ties_nothing(relay: ScriptedRelay, run: Run) -> None:
    call = "say(result=error_of(driver.cuCtxEnablePeerAccess(gpus[1].context, 0)))"
    client, gpus, given = started(run, relay, call)
    assert given != "CUDA_SUCCESS"
    assert tied(client, gpus) == [False, False]


def test_who_looks_for_nccl_and_has_none_finds_none(run: Run) -> None:
    program = run("import ctypes\nsay(found=hasattr(ctypes.CDLL(None), 'ncclCommInitRank'))")
    assert program.said() == {"found": False}


def test_what_nccl_has_and_we_do_not_wrap_is_found(run: Run, programs: Path) -> None:
    """A name that begins like those that we wrap."""
    program = run(
        f"""
    import ctypes
    nccl = ctypes.CDLL("{programs / "libnccl.so"}")
    say(lacks=hasattr(nccl, "ncclCommInitRankScalable"), result=nccl.ncclCommInitOther())
    """
    )
    assert program.said() == {"lacks": False, "result": 3000}


def test_a_second_nccl_in_the_process_is_called_as_without_us(run: Run, programs: Path) -> None:
    program = run(
        f"""
    import ctypes, shutil
    shutil.copy("{programs / "libnccl.so"}", "{programs / "libother.so"}")
    addresses = [ctypes.cast(ctypes.CDLL(f"{programs}/{{name}}.so").ncclCommInitAll, ctypes.c_void_p).value
                 for name in ("libnccl", "libother")]
    class Info(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                    ("address", ctypes.c_void_p)]
    def owner(address):
        info = Info()
        ctypes.CDLL(None).dladdr(ctypes.c_void_p(address), ctypes.byref(info))
        return os.path.basename(info.file.decode())
    say(owners=[owner(address) for address in addresses])
    """
    )
    assert program.said() == {"owners": ["libnvshare.so", "libother.so"]}
