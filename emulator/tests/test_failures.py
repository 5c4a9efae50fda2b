"""Failures of a card that are put in from outside, and what NVML says of them."""

import subprocess
import sys
from pathlib import Path

from emulator.tests.conftest import Cards, Program

from nvshare.emulator import library_directory

NVML = """
    import pynvml as nvml
    nvml.nvmlInit()
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    def address(handle):  # a lost card does not answer who it is
        return ctypes.cast(handle, ctypes.c_void_p).value
    addresses = [address(handle) for handle in handles]
    def problem(call, *arguments):
        try:
            call(*arguments)
        except nvml.NVMLError as error:
            return type(error).__name__
    def event_set(*of):
        made = nvml.nvmlEventSetCreate()
        for handle in of:
            nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, made)
        return made
    def hear(events, milliseconds=10_000):
        try:
            data = nvml.nvmlEventSetWait_v2(events, milliseconds)
        except nvml.NVMLError as error:
            return type(error).__name__
        return [addresses.index(address(data.device)), data.eventData, data.eventType]
    def repair(handle):
        value = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION])[0]
        return [value.nvmlReturn, value.value.uiVal]
    print("ready", flush=True)
    sys.stdin.readline()
"""


def command(cards: Cards, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nvshare.emulator", *arguments], env=cards.environment, capture_output=True, text=True
    )


def watcher(cards: Cards, prepare: str, after: str) -> Program:
    """A program that runs `prepare`, waits for a line, and then runs `after`."""
    head, tail = NVML.rsplit('    print("ready"', 1)
    program = cards.start(head + f"    {prepare}\n" + '    print("ready"' + tail + f"    {after}\n")
    assert program.hear() == "ready"
    return program


def test_c4_an_xid_error_reaches_who_listens_to_the_card(cards: Cards) -> None:
    cards.configure(devices=2)
    program = watcher(cards, "events = event_set(*handles)", "print(json.dumps(hear(events)))")
    assert command(cards, "fail", "1", "--xid", "48").returncode == 0
    program.say("go")
    assert program.result() == [1, 48, 8]


def test_a_wait_ends_as_soon_as_an_error_comes(cards: Cards) -> None:
    program = watcher(
        cards,
        "events = event_set(*handles)",
        "print('waiting', flush=True)\n    print(json.dumps(hear(events, 3600_000)))",
    )
    program.say("go")
    assert program.hear() == "waiting"
    assert command(cards, "fail", "0", "--xid", "62").returncode == 0
    assert program.result() == [0, 62, 8]


def test_errors_come_in_their_order_and_once_to_each_listener(cards: Cards) -> None:
    program = watcher(
        cards,
        "first, second = event_set(*handles), event_set(*handles)",
        "print(json.dumps([hear(first, 0), hear(first, 0), hear(first, 0), hear(second, 0)]))",
    )
    for xid in ("13", "48"):
        assert command(cards, "fail", "0", "--xid", xid).returncode == 0
    program.say("go")
    assert program.result() == [[0, 13, 8], [0, 48, 8], "NVMLError_Timeout", [0, 13, 8]]


def test_an_error_from_before_the_registration_is_not_told(cards: Cards) -> None:
    cards.run("call(driver.cuInit, 0)\nprint(0)")
    assert command(cards, "fail", "0", "--xid", "48").returncode == 0
    program = watcher(cards, "events = event_set(*handles)", "print(json.dumps(hear(events, 0)))")
    program.say("go")
    assert program.result() == "NVMLError_Timeout"


def test_a_lost_card_answers_nothing_and_the_others_all(cards: Cards) -> None:
    cards.configure(devices=2)
    program = watcher(
        cards,
        "events = event_set(*handles)",
        """print(json.dumps([
            hear(events), hear(events), nvml.nvmlDeviceGetCount(),
            problem(nvml.nvmlDeviceGetMemoryInfo, handles[0]), problem(nvml.nvmlDeviceGetHandleByIndex, 0),
            problem(nvml.nvmlDeviceRegisterEvents, handles[0], 8, events),
            problem(nvml.nvmlDeviceGetMemoryInfo, handles[1]), problem(nvml.nvmlDeviceGetHandleByIndex, 1)]))""",
    )
    assert command(cards, "fail", "0").returncode == 0
    program.say("go")
    lost = "NVMLError_GpuIsLost"
    assert program.result() == [[0, 79, 8], lost, 2, lost, lost, lost, None, None]


def test_a_card_that_recovered_answers_again_and_can_be_listened_to(cards: Cards) -> None:
    program = watcher(
        cards,
        "pass",
        """events = event_set(*handles)
    print(json.dumps([problem(nvml.nvmlDeviceGetMemoryInfo, handles[0]), repair(handles[0]), hear(events, 0)]))""",
    )
    assert command(cards, "fail", "0").returncode == 0
    assert command(cards, "recover", "0").returncode == 0
    program.say("go")
    assert program.result() == [None, [0, 0], "NVMLError_Timeout"]


def test_only_an_error_that_no_program_caused_asks_for_a_reset(cards: Cards) -> None:
    cards.configure(devices=2)
    program = watcher(cards, "pass", "print(json.dumps([repair(handle) for handle in handles]))")
    assert command(cards, "fail", "0", "--xid", "13").returncode == 0
    assert command(cards, "fail", "1", "--xid", "48").returncode == 0
    program.say("go")
    assert program.result() == [[0, 0], [0, 1]]


def test_a_program_on_a_card_that_fails_goes_on(cards: Cards) -> None:
    program = cards.start("""
        gpu = Gpu()
        print("ready", flush=True)
        sys.stdin.readline()
        gpu.launch("spin", 1000)
        call(driver.cuCtxSynchronize)
        print("done")
    """)
    assert program.hear() == "ready"
    assert command(cards, "fail", "0").returncode == 0
    program.say("go")
    assert program.hear() == "done"


def test_a_card_is_named_by_its_uuid_too_and_a_wrong_name_is_refused(cards: Cards) -> None:
    cards.configure(devices=2)
    uuid = cards.run(
        "import pynvml as n\nn.nvmlInit()\nprint(json.dumps(n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByIndex(1))))"
    )
    assert command(cards, "fail", uuid).returncode == 0
    refused = command(cards, "fail", "GPU-nobody")
    assert refused.returncode == 1
    assert uuid in refused.stderr


def test_events_and_only_xid_errors_are_supported(cards: Cards) -> None:
    program = watcher(
        cards,
        "pass",
        """print(json.dumps([nvml.nvmlDeviceGetSupportedEventTypes(handles[0]),
            problem(nvml.nvmlDeviceRegisterEvents, handles[0], 0x10, event_set())]))""",
    )
    program.say("go")
    assert program.result() == [8, "NVMLError_NotSupported"]


def test_e13_events_have_versioned_and_unversioned_names() -> None:
    library = (library_directory() / "libnvidia-ml.so.1").read_bytes()
    for name in ("nvmlEventSetCreate", "nvmlEventSetFree", "nvmlEventSetWait", "nvmlEventSetWait_v2"):
        assert b"\x00" + name.encode() + b"\x00" in library, name


def test_the_folder_is_an_argument_too(cards: Cards, tmp_path: Path) -> None:
    folder = str(tmp_path / "others")
    assert command(cards, "--folder", folder, "fail", "0").returncode == 0
    state = cards.run(
        "import pynvml as n\nn.nvmlInit()\ntry:\n    n.nvmlDeviceGetHandleByIndex(0); print(0)\n"
        "except n.NVMLError_GpuIsLost:\n    print(1)",
        NVSHARE_EMULATOR_DIR=folder,
    )
    assert state == 1
