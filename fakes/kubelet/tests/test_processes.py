"""Pods whose containers are processes: their order, their restarts, their ends."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from fakes.kubelet.tests.conftest import RESOURCE, TinyPlugin

from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.pod_worker import BackOff, PodWorker
from nvshare.fake_kubelet.pods import Container, Kind, Pod, Variable
from nvshare.fake_kubelet.process_runner import ProcessRunner
from nvshare.fake_kubelet.statuses import ContainerRecord, Ended, Started, Waiting, phase

SLEEP = ("sleep", "1000")
_NO_DEVICE: dict[str, int] = {}


@pytest.fixture
async def node(directory: Path) -> AsyncIterator[Node]:
    runner = ProcessRunner(HostPaths({"PATH": os.environ["PATH"]}, lambda path: Path(path).read_text()))
    async with Node(Kubelet(directory), runner, back_off=BackOff(0.01, 0.02)) as node:
        yield node


@pytest.fixture
async def plugin(node: Node, make_plugin: Callable[..., TinyPlugin]) -> TinyPlugin:
    plugin = make_plugin(node.kubelet)
    plugin.pre_start = True
    plugin.list_devices("a", "b")
    await plugin.start()
    return plugin


def shell(script: str, name: str = "main", kind: Kind = Kind.APP, devices: int = 0) -> Container:
    limits = {RESOURCE: devices} if devices else _NO_DEVICE
    return Container(name, limits, kind, command=("sh", "-c", script))


def pod_of(*containers: Container, restart: str = "Never", grace_seconds: float = 5.0) -> Pod:
    return Pod("p", "u", containers, restart_policy=restart, grace_seconds=grace_seconds)


async def until(node: Node, worker: PodWorker, condition: Callable[[ContainerRecord], bool]) -> None:
    await node.kubelet.until(lambda: condition(worker.record.containers["main"]))


def started(record: ContainerRecord) -> bool:
    return isinstance(record.state, Started)


async def until_dead(pid: int) -> None:
    """Who has ended may be a zombie for a while: nobody here is its parent."""
    async with asyncio.timeout(5):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.01)


async def test_a_process_has_the_plugins_environment_and_its_output_is_kept(node: Node, plugin: TinyPlugin) -> None:
    worker = node.run(pod_of(shell("echo $DEVICES; echo complaint >&2", devices=2)))

    record = await worker.wait()

    assert phase(record) == "Succeeded"
    output = worker.log_path("main").read_text().split()
    assert (sorted(output[0].split(",")), output[1]) == (["a", "b"], "complaint")


async def test_it_has_no_variable_of_who_runs_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    worker = node.run(pod_of(Container("main", command=("env",), environment=(Variable("A", "b"),))))

    await worker.wait()

    names = {line.partition("=")[0] for line in worker.log_path("main").read_text().splitlines()}
    assert names == {"PATH", "HOSTNAME", "A"}


async def test_the_exit_code_is_told(node: Node) -> None:
    record = await node.run(pod_of(shell("exit 3"))).wait()

    state = record.containers["main"].state
    assert isinstance(state, Ended)
    assert state.exit_code == 3
    assert phase(record) == "Failed"


async def test_init_containers_run_one_after_the_other_before_the_others(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "order"
    containers = [shell(f"echo {name} >>{file}", name, Kind.INIT) for name in ("one", "two")]

    await node.run(pod_of(*containers, shell(f"echo main >>{file}"))).wait()

    assert file.read_text().split() == ["one", "two", "main"]


async def test_an_init_container_that_fails_for_good_fails_the_pod(node: Node) -> None:
    record = await node.run(pod_of(shell("exit 1", "one", Kind.INIT), shell("exit 0"))).wait()

    assert phase(record) == "Failed"
    assert isinstance(record.containers["main"].state, Waiting)


async def test_a_sidecar_runs_beside_the_others_and_ends_with_them(node: Node) -> None:
    record = await node.run(pod_of(shell("exec sleep 1000", "side", Kind.SIDECAR), shell("exit 0"))).wait()

    assert phase(record) == "Succeeded"
    assert isinstance(record.containers["side"].state, Ended)


async def test_a_container_starts_again_until_it_ends_well(node: Node, plugin: TinyPlugin, tmp_path: Path) -> None:
    script = f"echo x >>{tmp_path}/tries; test $(wc -l <{tmp_path}/tries) -ge 3"
    worker = node.run(pod_of(shell(script, devices=1), restart="OnFailure"))

    record = await worker.wait()

    assert phase(record) == "Succeeded"
    assert record.containers["main"].restarts == 2
    assert len(plugin.requests("PreStartContainer")) == 3
    assert len(plugin.requests("Allocate")) == 1


async def test_a_start_that_the_plugin_refuses_is_tried_again(node: Node, plugin: TinyPlugin) -> None:
    plugin.failing.add("PreStartContainer")
    worker = node.run(pod_of(shell("exit 0", devices=1)))
    await until(node, worker, lambda record: record.state == Waiting(
        "CreateContainerConfigError", "device plugin PreStartContainer rpc failed with err: "
        "rpc error: code = Internal desc = PreStartContainer fails"))  # fmt: skip

    plugin.failing.clear()

    assert phase(await worker.wait()) == "Succeeded"


async def test_a_command_that_is_not_there_is_told(node: Node) -> None:
    worker = node.run(pod_of(Container("main", command=("/no/such/program",))))

    expected = Waiting("RunContainerError", "/no/such/program: no such program")
    await until(node, worker, lambda record: record.state == expected)


async def test_a_deleted_pod_is_asked_to_end(node: Node) -> None:
    worker = node.run(pod_of(shell("trap 'echo asked; exit 7' TERM; echo up; sleep 1000 & wait")))
    await until(node, worker, started)
    while "up" not in worker.log_path("main").read_text():
        await asyncio.sleep(0.01)

    await node.delete("u")

    assert worker.log_path("main").read_text().split() == ["up", "asked"]
    assert node.kubelet.pods == {}


async def test_who_does_not_end_within_the_grace_is_killed_with_its_children(node: Node) -> None:
    script = "trap '' TERM; sleep 1000 & echo $!; wait; sleep 1000"
    worker = node.run(pod_of(shell(script)))
    while not (worker.log_path("main").exists() and worker.log_path("main").read_text()):
        await asyncio.sleep(0.01)
    child = int(worker.log_path("main").read_text())

    await worker.delete(0.05)

    state = worker.record.containers["main"].state
    assert isinstance(state, Ended)
    assert state.exit_code == 137
    await until_dead(child)


async def test_a_pod_that_is_not_admitted_starts_nothing(node: Node, plugin: TinyPlugin, tmp_path: Path) -> None:
    record = await node.run(pod_of(shell(f"touch {tmp_path}/ran", devices=3))).wait()

    assert record.failure is not None
    assert record.failure[0] == "UnexpectedAdmissionError"
    assert not (tmp_path / "ran").exists()


async def test_a_restart_of_kubelet_leaves_running_processes_alone(node: Node, plugin: TinyPlugin) -> None:
    worker = node.run(pod_of(Container("main", {RESOURCE: 1}, command=SLEEP), restart="Always"))
    await until(node, worker, started)
    before = worker.process_of("main")

    await node.kubelet.restart()
    await plugin.start()

    assert worker.process_of("main") is before
    assert worker.record.containers["main"].restarts == 0


async def test_a_reboot_ends_all_and_starts_them_again_with_the_same_devices(node: Node, plugin: TinyPlugin) -> None:
    worker = node.run(pod_of(Container("main", {RESOURCE: 1}, command=SLEEP), restart="Always"))
    await until(node, worker, started)
    devices = node.kubelet.devices_of("u", "main")

    await node.reboot(admit_pods=False)
    await plugin.start()
    await node.kubelet.admit_again()

    await until(node, worker, lambda record: started(record) and record.restarts == 1)
    assert node.kubelet.devices_of("u", "main") == devices


async def test_a_pod_whose_plugin_is_late_after_a_reboot_has_failed(node: Node, plugin: TinyPlugin) -> None:
    worker = node.run(pod_of(Container("main", {RESOURCE: 1}, command=SLEEP), restart="Always"))
    await until(node, worker, started)

    await node.reboot()

    record = await worker.wait()
    assert record.failure is not None
    assert "no healthy devices present" in record.failure[1]


async def test_the_first_process_ends_and_so_do_those_it_left(node: Node) -> None:
    script = "import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)"
    worker = node.run(pod_of(Container("main", command=(sys.executable, "-c", script))))

    await worker.wait()

    await until_dead(int(worker.log_path("main").read_text()))
