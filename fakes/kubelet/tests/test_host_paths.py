"""How a process of the host stands for one in a container."""

import pytest

from nvshare.fake_kubelet.host_paths import HostPaths, HostProcess, host_path, to_host
from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.nvshare_paths import show_gpus
from nvshare.fake_kubelet.path_map import PathMap
from nvshare.fake_kubelet.pods import Container, Pod
from nvshare.fake_kubelet.run_options import Mount

MOUNTS = (
    Mount("/opt/lib", "/host/lib", True),
    Mount("/opt/lib/deep", "/deep"),
    Mount("/etc/ld.so.preload", "/host/pre"),
)


def translated(
    environment: dict[str, str], *, variables: dict[str, str] | None = None, mounts: tuple[Mount, ...] = MOUNTS
) -> HostProcess:
    container = Container("main", working_directory="/opt/lib")
    launch = Launch(Pod("p", "u", (container,)), container, 0, ("run",), ("/opt/lib/x",), environment, mounts)
    files = {"/host/pre": "/opt/lib/a.so\n/usr/lib/b.so\n"}
    return HostPaths({"PATH": "/bin"}, files.__getitem__, variables or {})(launch)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/opt/lib", "/host/lib"),
        ("/opt/lib/a:/opt/lib/deep/b", "/host/lib/a:/deep/b"),
        ("--file=/opt/lib/a", "--file=/host/lib/a"),
        ("open('/opt/lib')", "open('/host/lib')"),
        ("/opt/library", "/opt/library"),
        ("/srv/opt/lib", "/srv/opt/lib"),
        ("/opt/lib.d", "/opt/lib.d"),
    ],
)
def test_paths_under_a_mount_become_the_hosts(text: str, expected: str) -> None:
    assert to_host(text, MOUNTS) == expected


def test_the_deepest_mount_counts() -> None:
    assert host_path("/opt/lib/deep/x", MOUNTS) == "/deep/x"
    assert host_path("/opt/lib/other", MOUNTS) == "/host/lib/other"
    assert host_path("/usr", MOUNTS) is None


def test_arguments_variables_and_the_directory_are_translated() -> None:
    process = translated({"LD_LIBRARY_PATH": "/opt/lib:/usr/lib"})

    assert process.arguments == ("run", "/host/lib/x")
    assert process.directory == "/host/lib"
    assert process.environment["LD_LIBRARY_PATH"] == "/host/lib:/usr/lib"
    assert process.environment["PATH"] == "/bin"


def test_a_mounted_preload_file_becomes_a_variable_behind_the_programs_own() -> None:
    assert translated({}).environment["LD_PRELOAD"] == "/host/lib/a.so:/usr/lib/b.so"
    own = translated({"LD_PRELOAD": "/opt/lib/own.so"}).environment["LD_PRELOAD"]
    assert own == "/host/lib/own.so:/host/lib/a.so:/usr/lib/b.so"


def test_a_fixed_path_is_told_by_a_variable_where_it_is_mounted() -> None:
    variables = {"SOCKET": "/opt/lib/socket"}

    assert translated({}, variables=variables).environment["SOCKET"] == "/host/lib/socket"
    assert translated({"SOCKET": "own"}, variables=variables).environment["SOCKET"] == "own"
    assert "SOCKET" not in translated({}, variables=variables, mounts=()).environment


def test_gpus_that_a_toolkit_would_show_are_shown() -> None:
    assert show_gpus({"NVIDIA_VISIBLE_DEVICES": "GPU-1,GPU-2"})["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert "CUDA_VISIBLE_DEVICES" not in show_gpus({"NVIDIA_VISIBLE_DEVICES": "void"})
    assert show_gpus({"NVIDIA_VISIBLE_DEVICES": "GPU-1", "CUDA_VISIBLE_DEVICES": "0"})["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_folder_has_another_name_elsewhere() -> None:
    there = PathMap((("/var/lib", "/srv/a"), ("/var/lib/deep", "/b")))

    assert there("/var/lib/x") == "/srv/a/x"
    assert there("/var/lib/deep/x") == "/b/x"
    assert there("/var/libx") == "/var/libx"
