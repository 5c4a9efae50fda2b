"""The stand-in for kubelet starts containers on a real Docker server, by its HTTP interface."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nvshare.fake_kubelet.docker_engine import DockerEngineRunner
from nvshare.fake_kubelet.launches import Launch
from nvshare.fake_kubelet.pods import Container, Pod
from nvshare.fake_kubelet.run_options import Mount
from nvshare.fake_kubelet.runner import StartError

# The first test of these builds the images.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def runner(docker: None) -> AsyncIterator[DockerEngineRunner]:
    async with DockerEngineRunner() as runner:
        yield runner


def launch(image: str, *command: str, mounts: tuple[Mount, ...] = (), **environment: str) -> Launch:
    """A start of a container in a pod of its own."""
    container = Container(name="main", image=image)
    pod = Pod(name="it", uid=str(uuid.uuid4()), containers=(container,))
    return Launch(pod, container, attempt=0, command=command, environment=environment, mounts=mounts)


async def test_a_container_has_its_words_and_mounts_and_its_output_is_kept(
    runner: DockerEngineRunner, images: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)  # the image runs as another user
    (tmp_path / "greeting").write_text("hello")
    mounts = (Mount("/mounted", str(tmp_path), read_only=True),)
    words = ("sh", "-c", 'cat /mounted/greeting; echo " $WHO"; echo no >/mounted/new || echo refused; exit 7')
    told = launch(f"nvshare/workload:{images}", *words, mounts=mounts, WHO="you")
    running = await runner.start(told, tmp_path / "log")
    assert await running.wait() == 7
    await running.remove()
    lines = (tmp_path / "log").read_text().splitlines()
    assert {"hello you", "refused"} <= set(lines)


async def test_a_container_that_is_stopped_gets_its_grace(
    runner: DockerEngineRunner, images: str, tmp_path: Path
) -> None:
    words = ("sh", "-c", "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done")
    running = await runner.start(launch(f"nvshare/workload:{images}", *words), tmp_path / "log")
    async with asyncio.timeout(20):
        while "up" not in (tmp_path / "log").read_text():
            await asyncio.sleep(0.05)
    await running.stop(20)
    assert await running.wait() == 3
    await running.remove()


async def test_an_image_that_is_not_there_is_never_pulled(runner: DockerEngineRunner, tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        await runner.start(launch("nvshare/nobody:0"), tmp_path / "log")
    assert refused.value.reason == "ErrImageNeverPull"
