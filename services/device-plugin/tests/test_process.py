"""The plugin as a process of its own, on emulated cards, with kubelet's stand-in."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nvshare.emulator import library_directory
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.options import Options
from nvshare.fake_kubelet.pods import Container, Pod

RESOURCE = "nvshare.com/gpu"


class Plugin:
    """Its environment, and what is done to its cards."""

    def __init__(self, folder: Path, kubelet: Kubelet) -> None:
        self.kubelet = kubelet
        self.node_folder = folder / "node"
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library_directory()),
            "NVSHARE_EMULATOR_DIR": str(folder / "cards"),
            "NVSHARE_EMULATOR_DEVICES": "2",
            "NVSHARE_NODE_DIR": str(self.node_folder),
            "NVSHARE_KUBELET_DIR": str(kubelet.plugin_directory),
            "NVSHARE_POD_RESOURCES_SOCKET": str(kubelet.pod_resources_socket),
            "NVSHARE_QUOTA_WAIT_SECONDS": "0",
            "NVSHARE_PARENT_DEATH": "1",
            "NVSHARE_LOG": "warn",
        }

    async def start(self, *arguments: str, **settings: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *(arguments or ("nvshare.device_plugin",)),
            env={**self._environment, **settings},
            stderr=asyncio.subprocess.PIPE,
        )

    async def do(self, *arguments: str) -> None:
        """Something to the cards."""
        process = await self.start("nvshare.emulator", *arguments)
        assert await process.wait() == 0

    async def until_listed(self, shares: int) -> float:
        """Waits until kubelet can give so many; for how many seconds."""
        began = time.monotonic()
        await self.kubelet.until_allocatable(RESOURCE, shares, 10)
        return time.monotonic() - began


@asynccontextmanager
async def prepared(folder: Path) -> AsyncIterator[Plugin]:
    kubelet = Kubelet(folder / "kubelet", Options())
    await kubelet.start()
    try:
        yield Plugin(folder, kubelet)
    finally:
        await kubelet.stop()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Plugin]:
    async with prepared(folder) as plugin:
        process = await plugin.start()
        try:
            await plugin.until_listed(20)
            yield plugin
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0


@pytest.mark.parametrize("xid", ["79", pytest.param("48", marks=pytest.mark.heavy)])
async def test_c4_a_card_that_fails_is_withdrawn_and_comes_back_and_running_pods_stay(
    short_folder: Path, xid: str
) -> None:
    async with running(short_folder) as plugin:
        pod = Pod("pod", "uid-1", (Container("app", {RESOURCE: 2}),))
        await plugin.kubelet.admit(pod)
        await plugin.kubelet.start_container(pod.uid, "app")
        await plugin.do("fail", "1", "--xid", xid)
        assert await plugin.until_listed(10) < 5
        assert plugin.kubelet.capacity(RESOURCE).capacity == 20
        assert not plugin.kubelet.pods[pod.uid].ended
        await plugin.do("recover", "1")
        assert await plugin.until_listed(20) < 5


async def test_the_library_is_there_before_kubelet_knows_a_share(short_folder: Path) -> None:
    async with running(short_folder) as plugin:
        current = plugin.node_folder / "lib" / "current"
        assert (current / "libnvshare.so").is_file()


async def test_a_driver_that_is_not_there_is_waited_for(short_folder: Path) -> None:
    async with prepared(short_folder) as plugin:
        (short_folder / "cards").touch()  # no folder can be there
        process = await plugin.start()
        try:
            assert process.stderr is not None
            async for line in process.stderr:
                if b"the driver does not answer" in line:
                    break
            assert process.returncode is None
            (short_folder / "cards").unlink()
            await plugin.until_listed(20)
        finally:
            process.terminate()
            await process.communicate()


async def test_a_wrong_setting_is_named_in_one_line(short_folder: Path) -> None:
    async with prepared(short_folder) as plugin:
        process = await plugin.start(NVSHARE_IGNORED_XIDS="79,many")
        _, said = await process.communicate()
        assert process.returncode == 1
        assert said.decode().count("\n") == 1
        assert "NVSHARE_IGNORED_XIDS" in said.decode()
