"""The plugin and kubelet, on real sockets."""

import random
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nvshare.device_plugin.allocator import Load
from nvshare.device_plugin.records import Pod
from nvshare.device_plugin.shares import Share
from nvshare.fake_kubelet.kubelet import AdmissionError, PluginError, reboot
from nvshare.fake_kubelet.options import Grouping, Options
from nvshare.fake_kubelet.pods import Container
from nvshare.fake_kubelet.pods import Pod as KubePod
from plugin_node import RESOURCE, Cards, Node, gpus_by_requirement, make_node, until


async def test_kubelet_lists_the_shares_of_all_gpus(node: Node) -> None:
    assert node.kubelet.capacity(RESOURCE).capacity == 20


async def test_c1_ids_are_the_same_after_the_plugins_restart(node: Node) -> None:
    before = set(node.kubelet.accounts.resources[RESOURCE].healthy)
    await node.stop_plugin()
    await node.until_listed(0)
    await node.start_plugin()
    await node.until_listed(20)
    assert set(node.kubelet.accounts.resources[RESOURCE].healthy) == before


async def test_c2_two_shares_of_a_pod_are_on_two_gpus(node: Node) -> None:
    assert node.gpus_of(await node.run(2)) == ["GPU-0", "GPU-1"]


async def test_c2_four_pods_are_two_on_each_gpu(node: Node) -> None:
    for _ in range(4):
        await node.run(1)
    assert node.in_use() == [2, 2]


async def test_gpus_of_different_numbers_of_shares(short_folder: Path) -> None:
    async with make_node(short_folder, shares="3,GPU-1=5") as node:
        await node.start_plugin()
        await node.until_listed(8)


async def test_a_container_gets_its_folder_its_library_and_its_gpus(node: Node) -> None:
    pod = node.pod(2)
    await node.kubelet.admit(pod)
    options = await node.kubelet.start_container(pod.uid, "app")
    mounted = {mount.container_path: Path(mount.host_path) for mount in options.mounts}
    assert (mounted["/run/nvshare/client"] / "allocation.json").is_file()
    assert mounted["/etc/ld.so.preload"].read_text() == "/usr/local/nvshare/current/libnvshare.so\n"
    assert options.environment == {"NVIDIA_VISIBLE_DEVICES": "GPU-0,GPU-1"}


@pytest.mark.parametrize("grouping", Grouping)
async def test_the_pod_is_known_before_its_container_starts(short_folder: Path, grouping: Grouping) -> None:
    async with make_node(short_folder, options=Options(grouping=grouping)) as node:
        await node.start_plugin()
        await node.until_listed(20)
        pod = await node.run(3)
        assert [one.pod for one in node.records().values()] == [Pod("default", pod.name, pod.uid, "app")]


async def test_each_container_of_a_pod_has_an_allocation_of_its_own(node: Node) -> None:
    pod = KubePod("web", "uid-w", (Container("a", {RESOURCE: 1}), Container("b", {RESOURCE: 1}), Container("c")))
    await node.kubelet.admit(pod)
    for name in "abc":
        await node.kubelet.start_container(pod.uid, name)
    assert node.record_of(pod, "a").id != node.record_of(pod, "b").id
    assert len(node.records()) == 2


async def test_an_init_container_has_an_allocation_of_its_own_on_the_same_shares(node: Node) -> None:
    pod = await node.run(1, init_shares=1)
    init, app = node.record_of(pod, "init"), node.record_of(pod, "app")
    assert init.id != app.id
    assert init.shares == app.shares


async def test_a_container_that_starts_again_has_the_same_folder(node: Node) -> None:
    pod = await node.run()
    before = node.record_of(pod)
    await node.kubelet.start_container(pod.uid, "app")
    assert node.record_of(pod) == before


async def test_what_is_missing_of_a_folder_is_made_again_before_the_next_start(node: Node) -> None:
    pod = await node.run()
    folder = node.folder / "node" / "allocations" / node.record_of(pod).id
    (folder / "ld.so.preload").unlink()
    (folder / "allocation.json").unlink()
    await node.kubelet.start_container(pod.uid, "app")
    assert (folder / "ld.so.preload").is_file()
    assert node.record_of(pod).id == folder.name


async def test_a_folder_of_which_nothing_is_left_is_found_in_kubelets_checkpoint(node: Node) -> None:
    pod = await node.run()
    before = node.record_of(pod)
    shutil.rmtree(node.folder / "node" / "allocations")
    await node.kubelet.start_container(pod.uid, "app")
    assert node.record_of(pod).id == before.id
    assert node.record_of(pod).shares == before.shares


async def test_shares_allocated_again_are_a_new_allocation(short_folder: Path) -> None:
    async with make_node(short_folder, gpus=1, shares="1") as node:
        await node.start_plugin()
        await node.until_listed(1)
        first = await node.run(name="db-0")
        before = node.record_of(first)
        node.end(first)
        second = await node.run(name="db-0")
        assert node.record_of(second).id != before.id
        assert node.record_of(second).pod == Pod("default", "db-0", second.uid, "app")


async def test_a_start_is_tried_again_when_its_folder_cannot_be_made(node: Node) -> None:
    pod = await node.run()
    allocations = node.folder / "node" / "allocations"
    allocations.rename(node.folder / "away")
    allocations.write_text("in the way")
    with pytest.raises(PluginError, match="PreStartContainer"):
        await node.kubelet.start_container(pod.uid, "app")
    allocations.unlink()
    await node.kubelet.start_container(pod.uid, "app")


async def test_e4_what_has_ended_counts_no_longer(node: Node) -> None:
    """Two rounds with nothing in between: the second one is balanced as the first one."""
    for pod in [await node.run() for _ in range(5)][:3]:
        node.end(pod)
    for _ in range(4):
        await node.run()
    assert abs(node.in_use()[0] - node.in_use()[1]) <= 1


async def test_c4_a_gpu_that_fails_is_withdrawn_and_comes_back(node: Node) -> None:
    pod = await node.run(2)
    node.cards.set_health("GPU-1", False)
    await node.until_listed(10)
    assert node.kubelet.capacity(RESOURCE).capacity == 20
    node.cards.set_health("GPU-1", True)
    await node.until_listed(20)
    assert node.gpus_of(pod) == ["GPU-0", "GPU-1"]


async def test_nothing_is_registered_before_the_driver_has_answered(short_folder: Path) -> None:
    async with make_node(short_folder) as node:
        cards, node.cards = node.cards, Cards(None)
        plugin = await node.start_plugin()
        await until(lambda: plugin.has_started)
        assert plugin.registration.count == 0
        node.cards.appear(cards.gpus)
        await node.until_listed(20)


async def test_b4_a_full_gpus_free_shares_are_not_listed(short_folder: Path) -> None:
    async with make_node(short_folder, overcommit=1.0, default_memory="8Gi") as node:
        await node.start_plugin()
        await node.until_listed(4)
        await node.run(2)
        await node.until_listed(4)
        await node.run(2)
        with pytest.raises(AdmissionError):
            await node.kubelet.admit(node.pod())


async def test_a_folder_of_kubelets_that_was_made_anew_is_found(node: Node) -> None:
    await node.kubelet.stop()
    shutil.rmtree(node.kubelet.plugin_directory)
    await node.kubelet.start()
    await node.until_settled(20)


async def test_the_plugin_starts_before_kubelet(short_folder: Path) -> None:
    async with make_node(short_folder) as node:
        await node.kubelet.stop()
        node.kubelet.delete_sockets()
        await node.start_plugin()
        await node.kubelet.start()
        await node.until_listed(20)


async def test_a_plugin_that_was_killed_leaves_nothing_in_the_way(short_folder: Path) -> None:
    async with make_node(short_folder) as node:
        await node.start_plugin()
        await node.until_listed(20)
        await node.kill_plugin()
        await node.start_plugin()
        await node.until_listed(20)
        assert len(list(node.kubelet.plugin_directory.glob("nvshare-*.sock"))) == 1


async def test_a_new_plugin_takes_over_while_the_old_one_still_serves(node: Node) -> None:
    await node.run(2)
    old, old_task = node.detach_plugin()
    await node.start_plugin()
    assert node.plugin is not None
    new = node.plugin
    await until(lambda: new.registration.count == 1)
    old.set()
    await old_task
    await node.until_listed(20)
    assert node.gpus_of(await node.run(2)) == ["GPU-0", "GPU-1"]


@pytest.mark.heavy
async def test_an_older_kubelet_has_all_shares_again_after_the_old_plugins_end(short_folder: Path) -> None:
    async with make_node(short_folder, options=Options(overlapping_plugins=False)) as node:
        await node.start_plugin()
        await node.until_listed(20)
        old, old_task = node.detach_plugin()
        await node.start_plugin()
        assert node.plugin is not None
        new = node.plugin
        await until(lambda: new.registration.count == 1)
        old.set()
        await old_task
        await node.until_listed(20)
        assert (await node.run()).name


async def test_a_reboot_keeps_the_folders_of_pods_that_start_again(node: Node) -> None:
    pod = await node.run()
    before = node.record_of(pod)
    await node.kill_plugin()
    await node.kubelet.stop()
    node.kubelet.reboot_node()
    await node.kubelet.start(admit_pods=False)
    await node.start_plugin()
    await node.until_listed(20)
    await node.kubelet.admit_again()
    await node.kubelet.start_container(pod.uid, "app")
    assert node.record_of(pod).id == before.id


async def restart_kubelet(node: Node) -> None:
    await node.kubelet.restart()


async def delete_sockets(node: Node) -> None:
    for path in node.kubelet.plugin_directory.glob("nvshare-*.sock"):
        path.unlink()


async def restart_plugin(node: Node) -> None:
    await node.stop_plugin()
    await node.start_plugin()


async def kill_plugin(node: Node) -> None:
    await node.kill_plugin()
    await node.start_plugin()


async def fail_gpu(node: Node) -> None:
    node.cards.set_health("GPU-1", False)


async def recover_gpu(node: Node) -> None:
    node.cards.set_health("GPU-1", True)


FAULTS: list[Callable[[Node], Awaitable[None]]] = [
    restart_kubelet,
    delete_sockets,
    restart_plugin,
    kill_plugin,
    fail_gpu,
    recover_gpu,
]


@pytest.mark.parametrize("seed", range(3))
async def test_c1_c4_after_faults_in_any_order_capacity_is_right_within_five_seconds(node: Node, seed: int) -> None:
    pods = [await node.run(size) for size in (1, 2, 1)]
    given = [node.kubelet.devices_of(pod.uid, "app") for pod in pods]
    faults = list(FAULTS)
    random.Random(seed).shuffle(faults)
    for fault in faults:
        await fault(node)
    assert node.cards.gpus is not None
    healthy = sum(gpu.healthy for gpu in node.cards.gpus)
    await node.until_settled(10 * healthy, 5.0)
    assert [node.kubelet.devices_of(pod.uid, "app") for pod in pods] == given
    assert all(state.rejection is None for state in node.kubelet.pods.values())


async def test_the_node_reboots_and_kubelet_is_first(node: Node) -> None:
    await node.kill_plugin()
    await reboot(node.kubelet)
    await node.start_plugin()
    await node.until_listed(20)


@pytest.mark.parametrize(
    ("gpus", "rounds"), [(2, 30), *(pytest.param(gpus, 200, marks=pytest.mark.heavy) for gpus in (2, 4, 8))]
)
async def test_c3_rounds_with_restarts_are_what_the_requirement_says(
    short_folder: Path, gpus: int, rounds: int
) -> None:
    chance = random.Random(gpus)
    async with make_node(short_folder, gpus) as node:
        await node.start_plugin()
        await node.until_listed(10 * gpus)
        listed = [Share(f"GPU-{gpu}", number) for gpu in range(gpus) for number in range(10)]
        pods: list[KubePod] = []
        for round_number in range(rounds):
            if round_number % 40 == 20:
                await restart_kubelet(node)
                await node.until_settled(10 * gpus)
            if round_number % 40 == 0:
                await kill_plugin(node)
                await node.until_settled(10 * gpus)
            while pods and (chance.random() < 0.45 or len(node.taken()) > len(listed) - 4):
                node.end(pods.pop(chance.randrange(len(pods))))
            size = chance.randint(1, 4)
            taken = node.taken()
            # Without quotas a GPU has promised as much for each share in use.
            promised = {f"GPU-{gpu}": Load(sum(one.gpu == f"GPU-{gpu}" for one in taken)) for gpu in range(gpus)}
            wanted = gpus_by_requirement(listed, taken, promised, size)
            pods.append(await node.run(size))
            assert node.gpus_of(pods[-1]) == sorted(wanted), f"round {round_number}"
