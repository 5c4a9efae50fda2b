"""What a container gets, and the library that it loads."""

import os
from pathlib import Path

import pytest

from nvshare.device_plugin.injection import DeviceList, EmulatedCards, Injection, Injections
from nvshare.device_plugin.library import install, prune

FOLDER = Path("/node/allocations/ab12")
GPUS = ("GPU-0", "GPU-1")


def mounts(injections: Injections) -> dict[str, tuple[str, bool]]:
    answer = injections.answer(FOLDER, GPUS)
    return {mount.container_path: (mount.host_path, mount.read_only) for mount in answer.mounts}


def environment(injections: Injections) -> dict[str, str]:
    return dict(injections.answer(FOLDER, GPUS).envs)


def test_the_folder_the_libraries_and_the_preload_file_are_mounted_read_only() -> None:
    assert mounts(Injections(Path("/node/lib"))) == {
        "/run/nvshare/client": ("/node/allocations/ab12", True),
        "/usr/local/nvshare": ("/node/lib", True),
        "/etc/ld.so.preload": ("/node/allocations/ab12/ld.so.preload", True),
    }


def test_by_environment_nothing_is_mounted_over_a_file_of_the_image() -> None:
    injections = Injections(Path("/node/lib"), Injection.ENVIRONMENT)
    assert "/etc/ld.so.preload" not in mounts(injections)
    assert environment(injections)["LD_PRELOAD"] == "/usr/local/nvshare/current/libnvshare.so"


def test_gpus_come_by_environment() -> None:
    assert environment(Injections(Path("/node/lib"))) == {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1"}


def test_gpus_come_by_mounts() -> None:
    injections = Injections(Path("/node/lib"), device_list=DeviceList.MOUNTS)
    assert mounts(injections)["/var/run/nvidia-container-devices/GPU-1"] == ("/dev/null", True)
    assert environment(injections) == {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}


def test_gpus_come_by_cdi() -> None:
    answer = Injections(Path("/node/lib"), device_list=DeviceList.CDI).answer(FOLDER, GPUS)
    assert [device.name for device in answer.cdi_devices] == ["nvidia.com/gpu=GPU-0", "nvidia.com/gpu=GPU-1"]
    assert not answer.envs


def test_emulated_cards_are_where_they_are_on_the_host() -> None:
    cards = EmulatedCards(Path("/node/cards"), Path("/opt/emulator"))
    injections = Injections(Path("/node/lib"), device_list=DeviceList.EMULATED, emulated=cards)
    assert mounts(injections)["/node/cards"] == ("/node/cards", False)
    assert mounts(injections)["/opt/emulator"] == ("/opt/emulator", True)
    assert environment(injections) == {
        "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1",
        "LD_LIBRARY_PATH": "/opt/emulator",
        "NVSHARE_EMULATOR_DIR": "/node/cards",
        "NVSHARE_HOST_MEMORY": "sparse",
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "libnvshare.so"
    path.write_bytes(b"one")
    return path


def current(folder: Path) -> bytes:
    return (folder / "current" / "libnvshare.so").read_bytes()


def test_the_library_is_where_the_link_leads(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    assert install(source, folder, "0.1.0", "v0.1-3-gabc").name == "0.1.0-v0.1-3-gabc"
    assert current(folder) == b"one"


def test_installing_the_same_again_changes_nothing(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    install(source, folder, "0.1.0", "b1")
    inode = (folder / "current" / "libnvshare.so").stat().st_ino
    install(source, folder, "0.1.0", "b1")
    assert (folder / "current" / "libnvshare.so").stat().st_ino == inode
    assert len(list(folder.iterdir())) == 2


def test_another_library_of_the_same_name_does_not_replace_one_that_is_mapped(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    first = install(source, folder, "0.1.0", "b1")
    source.write_bytes(b"two")
    install(source, folder, "0.1.0", "b1")
    assert current(folder) == b"two"
    assert (first / "libnvshare.so").read_bytes() == b"one"


def test_an_older_library_stays_while_a_container_of_its_time_is_there(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    first = install(source, folder, "0.1.0", "b1")
    second = install(source, folder, "0.2.0", "b2")
    os.utime(first, ns=(100, 100))
    os.utime(second, ns=(200, 200))
    assert prune(folder, [150, 300]) == []
    assert prune(folder, [250, 300]) == ["0.1.0-b1"]
    assert current(folder) == b"one"


def test_without_containers_only_the_current_library_stays(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    first = install(source, folder, "0.1.0", "b1")
    os.utime(first, ns=(100, 100))
    second = install(source, folder, "0.2.0", "b2")
    prune(folder, [])
    assert sorted(one.name for one in folder.iterdir()) == [second.name, "current"]


def test_going_back_to_an_older_library_makes_it_the_current_one_again(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    first = install(source, folder, "0.1.0", "b1")
    os.utime(first, ns=(100, 100))
    second = install(source, folder, "0.2.0", "b2")
    os.utime(second, ns=(200, 200))
    install(source, folder, "0.1.0", "b1")
    prune(folder, [])
    assert sorted(one.name for one in folder.iterdir()) == [first.name, "current"]
