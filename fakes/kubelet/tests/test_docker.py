"""Containers by the docker command: its arguments, and what is made of its answers.

The command here is a script that plays docker; the real one runs in the tests of the images.
"""

from pathlib import Path

import pytest

from nvshare.fake_kubelet.docker_runner import DockerRunner, docker_arguments
from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.pods import Container, Pod
from nvshare.fake_kubelet.run_options import DeviceNode, Mount
from nvshare.fake_kubelet.runner import StartError

DOCKER = """\
#!/bin/sh
cd "$(dirname "$0")"
case "$1" in
  run) printf '%s\\n' "$@" >arguments; [ -e refuse ] && { cat refuse >&2; exit 125; }; echo c0ffee ;;
  logs) echo output; echo complaint >&2 ;;
  wait) while [ ! -e ended ]; do sleep 0.01; done; cat ended ;;
  stop) echo "$2" >stopped; echo 143 >ended ;;
  rm) touch removed ;;
esac
"""


def launch_of(container: Container) -> Launch:
    pod = Pod("p", "u", (container,), namespace="ns")
    return Launch(
        pod,
        container,
        2,
        container.command,
        container.args,
        {"A": "b c"},
        (Mount("/in", "/out", True), Mount("/rw", "/host")),
        (DeviceNode("/dev/x", "/dev/y", "rw"),),
        {"note": "1"},
        ("e.com/x=1",),
    )


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    program = tmp_path / "docker"
    program.write_text(DOCKER)
    program.chmod(0o755)
    return program


def test_a_container_is_started_as_the_plugins_and_the_pod_say() -> None:
    container = Container("main", image="img", command=("a", "b"), args=("c",), working_directory="/w")

    arguments = docker_arguments(launch_of(container), extra=["--network=none"], host=lambda path: f"/there{path}")

    assert arguments[:4] == ["run", "--detach", "--pull=never", "--name=k8s_main_p_ns_u_2"]
    assert {"--label=note=1", "--label=io.kubernetes.pod.uid=u", "--env=A=b c"} < set(arguments)
    assert [arguments[at + 1] for at, word in enumerate(arguments) if word == "-v"] == [
        "/there/out:/in:ro",
        "/there/host:/rw:rw",
    ]
    assert {"--device=/dev/y:/dev/x:rw", "--device=e.com/x=1", "--workdir=/w", "--entrypoint=a"} < set(arguments)
    assert arguments[-4:] == ["--network=none", "img", "b", "c"]


def test_without_a_command_the_images_own_runs() -> None:
    arguments = docker_arguments(launch_of(Container("main", image="img", args=("c",))))

    assert not [word for word in arguments if word.startswith("--entrypoint")]
    assert arguments[-2:] == ["img", "c"]


async def test_output_and_exit_code_are_dockers(docker: Path, tmp_path: Path) -> None:
    runner = DockerRunner(program=str(docker))

    running = await runner.start(launch_of(Container("main", image="img")), tmp_path / "logs" / "0.log")
    (tmp_path / "ended").write_text("3")

    assert await running.wait() == 3
    assert running.id == "docker://c0ffee"
    assert (tmp_path / "logs" / "0.log").read_text().split() == ["output", "complaint"]
    await running.remove()
    assert (tmp_path / "removed").exists()


async def test_a_stop_gives_the_grace_to_docker(docker: Path, tmp_path: Path) -> None:
    runner = DockerRunner(program=str(docker))
    running = await runner.start(launch_of(Container("main", image="img")), tmp_path / "0.log")

    await running.stop(4.2)

    assert (tmp_path / "stopped").read_text().strip() == "--time=5"
    assert await running.wait() == 143


async def test_an_image_that_is_not_there_is_told(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "refuse").write_text("docker: Error response from daemon: No such image: img:latest.")

    with pytest.raises(StartError, match="No such image") as failure:
        await DockerRunner(program=str(docker)).start(launch_of(Container("main", image="img")), tmp_path / "0.log")

    assert failure.value.reason == "ErrImageNeverPull"


async def test_a_container_that_was_made_but_not_started_leaves_its_name_free(docker: Path, tmp_path: Path) -> None:
    (tmp_path / "refuse").write_text("docker: Error response from daemon: mount failed")

    with pytest.raises(StartError, match="mount failed"):
        await DockerRunner(program=str(docker)).start(launch_of(Container("main", image="img")), tmp_path / "0.log")

    assert (tmp_path / "removed").exists()


async def test_docker_itself_may_be_missing(tmp_path: Path) -> None:
    runner = DockerRunner(program=str(tmp_path / "none"))

    with pytest.raises(StartError, match="cannot run"):
        await runner.start(launch_of(Container("main", image="img")), tmp_path / "0.log")
