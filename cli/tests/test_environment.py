"""The environments of services and programs."""

from pathlib import Path

from nvshare.cli.environment import EmulatedCards, job_environment, service_environment
from nvshare.cli.node_options import NodeOptions
from nvshare.cli.run import JobOptions

LIBRARY = Path("/opt/nvshare/libnvshare.so")
SOCKET = Path("/run/nvshare/allocations/run-1/nvshare.sock")
CARDS = EmulatedCards(folder=Path("/run/nvshare/emulator-1"), libraries=Path("/opt/nvshare/emulator"))


def test_a_program_gets_the_library_its_socket_and_its_gpus() -> None:
    environment = job_environment({"HOME": "/root"}, LIBRARY, SOCKET, ["GPU-a", "GPU-b"], None)
    assert environment == {
        "HOME": "/root",
        "LD_PRELOAD": str(LIBRARY),
        "NVSHARE_SOCKET": str(SOCKET),
        "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b",
    }


def test_what_was_preloaded_stays_behind_the_library() -> None:
    environment = job_environment({"LD_PRELOAD": "/a.so /b.so"}, LIBRARY, SOCKET, ["GPU-a"], None)
    assert environment["LD_PRELOAD"] == f"{LIBRARY}:/a.so:/b.so"


def test_the_library_is_preloaded_once_in_a_run_within_a_run() -> None:
    once = job_environment({"LD_PRELOAD": "/a.so"}, LIBRARY, SOCKET, ["GPU-a"], None)
    assert job_environment(once, LIBRARY, SOCKET, ["GPU-a"], None)["LD_PRELOAD"] == f"{LIBRARY}:/a.so"


def test_a_program_on_an_emulated_node_finds_its_cards_before_real_ones() -> None:
    environment = job_environment({"LD_LIBRARY_PATH": "/usr/cuda"}, LIBRARY, SOCKET, ["GPU-a"], CARDS)
    assert environment["LD_LIBRARY_PATH"] == "/opt/nvshare/emulator:/usr/cuda"
    assert environment["NVSHARE_EMULATOR_DIR"] == "/run/nvshare/emulator-1"


def test_emulated_data_is_moved_to_memory_without_pages_unless_the_caller_says_another() -> None:
    assert job_environment({}, LIBRARY, SOCKET, ["GPU-a"], CARDS)["NVSHARE_HOST_MEMORY"] == "sparse"
    assert job_environment({"NVSHARE_HOST_MEMORY": "own"}, LIBRARY, SOCKET, [], CARDS)["NVSHARE_HOST_MEMORY"] == "own"
    assert "NVSHARE_HOST_MEMORY" not in job_environment({}, LIBRARY, SOCKET, ["GPU-a"], None)


def test_services_are_never_preloaded() -> None:
    base = {"LD_PRELOAD": str(LIBRARY), "NVSHARE_SOCKET": str(SOCKET)}
    environment = service_environment(base, Path("/run/nvshare"), "box", NodeOptions(Path("/run/nvshare")), None)
    assert "LD_PRELOAD" not in environment
    assert "NVSHARE_SOCKET" not in environment


def test_what_a_node_is_told_about_turns_and_memory_reaches_its_services() -> None:
    folder = Path("/run/nvshare")
    told = NodeOptions(folder, quantum="auto", max_wait_seconds=15.0, overcommit_ratio=2.5, host_memory_bytes=64)
    environment = service_environment({}, folder, "box", told, None)
    assert environment["NVSHARE_QUANTUM"] == "auto"
    assert environment["NVSHARE_MAX_WAIT"] == "15.0"
    assert environment["NVSHARE_OVERCOMMIT"] == "2.5"
    assert environment["NVSHARE_ARENA"] == "64"
    untold = service_environment({}, folder, "box", NodeOptions(folder), None)
    assert not {"NVSHARE_QUANTUM", "NVSHARE_MAX_WAIT", "NVSHARE_OVERCOMMIT", "NVSHARE_ARENA"} & set(untold)


def test_how_a_node_shares_a_gpu_s_time_reaches_its_scheduler() -> None:
    folder = Path("/run/nvshare")
    told = service_environment({}, folder, "box", NodeOptions(folder, time_sharing="slices"), None)
    assert told["NVSHARE_TIME_SHARING"] == "slices"
    assert "NVSHARE_TIME_SHARING" not in service_environment({}, folder, "box", NodeOptions(folder), None)


def test_only_the_chosen_gpus_are_shared() -> None:
    folder = Path("/run/nvshare")
    assert service_environment({}, folder, "box", NodeOptions(folder, gpus=(0, 2)), None)["NVSHARE_GPUS"] == "0,2"
    assert "NVSHARE_GPUS" not in service_environment({}, folder, "box", NodeOptions(folder), None)


def test_a_detached_node_gets_every_option_that_was_given() -> None:
    options = NodeOptions(Path("/n"), 2, (0, 1), 5, "serial", "slots", 0.5, 15.0, 2.5, 64)
    assert " ".join(options.arguments()) == (
        "--node-dir /n --emulate 2 --gpu 0,1 --gpu-memory 5 --mode serial --time-sharing slots --quantum 0.5 "
        "--max-wait 15.0 --overcommit 2.5 --host-memory 64"
    )


def test_a_program_s_library_is_told_where_its_memory_goes() -> None:
    assert JobOptions().environment({"HOME": "/root"}) == {"HOME": "/root"}
    told = JobOptions(managed=True, host_memory="arena").environment({})
    assert told == {"NVSHARE_MANAGED": "1", "NVSHARE_HOST_MEMORY": "arena"}


def test_memory_is_a_real_cards_logical_capacity_and_an_emulated_cards_size() -> None:
    folder = Path("/run/nvshare")
    real = service_environment({}, folder, "box", NodeOptions(folder, gpu_memory_bytes=5), None)
    emulated = service_environment({}, folder, "box", NodeOptions(folder, 2, gpu_memory_bytes=5), CARDS)
    assert real["NVSHARE_GPU_MEMORY"] == "5"
    assert emulated["NVSHARE_EMULATOR_MEMORY"] == "5"
    assert emulated["NVSHARE_EMULATOR_DEVICES"] == "2"
    assert "NVSHARE_GPU_MEMORY" not in emulated
