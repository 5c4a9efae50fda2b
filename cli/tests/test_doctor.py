"""What `nvshare doctor` says of a machine and of its node: the checks on facts, and the command on this machine."""

import json
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nvshare.bus.node_directory import NodeDirectory
from nvshare.cli.doctor import command, gather_host
from nvshare.cli.doctor.check import Check, Verdict, exit_status
from nvshare.cli.doctor.command import check_line, judge, summary
from nvshare.cli.doctor.facts import (
    AllocationFacts,
    DriverFacts,
    Facts,
    FolderFacts,
    GpuFacts,
    HostFacts,
    KubeletFacts,
    NodeFacts,
    ToolkitFacts,
)
from nvshare.cli.doctor.gather_node import gather_folder, gather_kubelet
from nvshare.v1.control_pb2 import ClientStatus, GpuStatus, MemoryHolder, StatusReply

GIB = 1 << 30
GPU = "GPU-00000000-0000-0000-0000-000000000001"
OTHER_GPU = "GPU-00000000-0000-0000-0000-000000000002"
OK, UNKNOWN, WARNING, FAULT = Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.FAULT

HOST = HostFacts(
    root=True,
    container=False,
    kernel="6.8.0",
    glibc="2.36",
    membarrier=True,
    pidfd=True,
    peer_pidfd=True,
    memfd=True,
    memory_bytes=512 * GIB,
    available_bytes=500 * GIB,
)
DRIVER = DriverFacts("580.159.01", libcuda=True, gpus=(GpuFacts(0, GPU, "NVIDIA H200", 140 * GIB),))
KUBELET = KubeletFacts(
    "/var/lib/kubelet",
    present=True,
    plugins_writable=True,
    answers=True,
    pod_resources=True,
    devices={"nvshare.com/gpu": tuple(f"{GPU}::{number}" for number in range(10))},
)
FOLDER = FolderFacts("/var/lib/nvshare", present=True, mode=0o755, socket_path_bytes=70)
FACTS = Facts(
    user=0,
    host=HOST,
    driver=DRIVER,
    toolkit=ToolkitFacts(("nvidia-ctk",), ("/etc/containerd/config.toml",), default=True),
    kubelet=KUBELET,
    folder=FOLDER,
    node=None,
)
NO_KUBELET = KubeletFacts("/var/lib/kubelet")
NO_DRIVER = DriverFacts(refusal="NVML Shared Library Not Found")


def status(**changes: Any) -> StatusReply:
    """A node that is well, with one client, and with these changes."""
    gpu = GpuStatus(uuid=GPU, index=0, capacity_bytes=16 * GIB, clients=[ClientStatus(allocation="a", build="b1")])
    well = {"node": "n", "build": "b1", "relay_version": "0.1.0", "relay_build": "b1", "relay_age_us": 100_000}
    return StatusReply(**{"gpus": [gpu], **well, **changes})


def with_node(reply: StatusReply, **changes: Any) -> Facts:
    return replace(FACTS, node=replace(NodeFacts("/var/lib/nvshare", status=reply), **changes))


def find(facts: Facts, name: str) -> Check:
    """The only check of that name."""
    [check] = [check for check in judge(facts) if check.name == name]
    return check


def verdict(facts: Facts, name: str) -> Verdict:
    return find(facts, name).verdict


def test_a_machine_that_is_fit_has_nothing_to_do() -> None:
    checks = judge(FACTS)
    assert {check.verdict for check in checks} == {OK}
    assert not any(check.advice for check in checks)
    assert exit_status(checks) == 0
    assert summary(checks).plain == "all is well"


def test_every_warning_and_fault_says_what_to_do() -> None:
    bad = replace(
        with_node(
            status(relay_age_us=60_000_000, malformed_messages=1),
            hub=False,
            allocations=(AllocationFacts("x", "", 600),),
        ),
        host=replace(HOST, membarrier=False, pidfd=False, memfd=False, glibc="2.12", available_bytes=GIB),
        driver=replace(DRIVER, gpus=(GpuFacts(0, problem="GPU is lost"),), mps_pids=(7,)),
        toolkit=ToolkitFacts(),
        kubelet=replace(KUBELET, answers=False, pod_resources=False, devices={"nvidia.com/gpu": (GPU,)}),
        folder=replace(FOLDER, mode=0o777),
    )
    checks = [check for check in judge(bad) if check.verdict in (WARNING, FAULT)]
    assert len(checks) >= 12
    assert all(check.advice for check in checks)
    assert exit_status(checks) == 1


@pytest.mark.parametrize(
    ("lacks", "verdict"), [("pidfd", FAULT), ("memfd", FAULT), ("membarrier", WARNING), ("peer_pidfd", WARNING)]
)
def test_a_kernel_that_lacks_something_says_what_it_costs(lacks: str, verdict: Verdict) -> None:
    changes: dict[str, Any] = {lacks: False}
    facts = replace(FACTS, host=replace(HOST, **changes))
    check = find(facts, "kernel")
    assert check.verdict is verdict
    assert "Linux" in check.advice


@pytest.mark.parametrize(("glibc", "expected"), [("2.12", FAULT), ("2.17", OK), ("2.41", OK), ("", WARNING)])
def test_the_c_library_is_recent_enough(glibc: str, expected: Verdict) -> None:
    assert verdict(replace(FACTS, host=replace(HOST, glibc=glibc)), "C library") is expected


def test_without_a_driver_a_box_can_try_emulated_gpus_and_a_node_of_kubernetes_cannot() -> None:
    box = replace(FACTS, driver=NO_DRIVER, kubelet=NO_KUBELET)
    assert verdict(box, "driver") is WARNING
    assert "--emulate" in find(box, "driver").advice
    assert verdict(replace(box, kubelet=KUBELET), "driver") is FAULT


def test_what_the_nodes_scheduler_sees_need_not_be_seen_here() -> None:
    check = find(replace(with_node(status()), driver=NO_DRIVER), "driver")
    assert check.verdict is OK
    assert "1 GPU" in check.text
    unknown = replace(FACTS, driver=NO_DRIVER, node=NodeFacts("/var/lib/nvshare", refusal="no answer"))
    assert verdict(unknown, "driver") is FAULT


def test_a_container_of_the_node_does_not_take_the_host_for_one_without_kubelet() -> None:
    facts = replace(FACTS, kubelet=NO_KUBELET, host=replace(HOST, container=True))
    check = find(facts, "kubelet")
    assert check.verdict is UNKNOWN
    assert "on the host" in check.advice


def test_a_driver_whose_libraries_are_missing_is_told_apart_from_none() -> None:
    facts = replace(FACTS, driver=replace(NO_DRIVER, version="580.159.01"))
    assert "580.159.01" in find(facts, "driver").advice


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"problem": "GPU is lost"}, FAULT),
        ({"exclusive": True}, FAULT),
        ({"mig": True}, WARNING),
        ({"display": True}, WARNING),
        ({}, OK),
    ],
)
def test_a_gpu_that_cannot_be_shared_is_named(changes: dict[str, Any], expected: Verdict) -> None:
    gpu = replace(DRIVER.gpus[0], **changes)
    assert verdict(replace(FACTS, driver=replace(DRIVER, gpus=(gpu,))), "GPU 0") is expected


def test_mps_is_said() -> None:
    check = find(replace(FACTS, driver=replace(DRIVER, mps_pids=(7, 9))), "MPS")
    assert check.verdict is WARNING
    assert "7, 9" in check.text


def test_host_memory_for_less_than_one_card_is_said() -> None:
    assert verdict(replace(FACTS, host=replace(HOST, available_bytes=100 * GIB)), "host memory") is WARNING
    assert verdict(replace(FACTS, host=replace(HOST, memory_bytes=200 * GIB)), "host memory") is WARNING


def test_without_kubelet_nothing_is_asked_of_kubernetes() -> None:
    names = [check.name for check in judge(replace(FACTS, kubelet=NO_KUBELET, toolkit=ToolkitFacts()))]
    assert "container toolkit" not in names
    assert "device plugins" not in names


@pytest.mark.parametrize(
    ("toolkit", "expected"),
    [
        (ToolkitFacts(), FAULT),
        (ToolkitFacts(("nvidia-ctk",)), WARNING),
        (ToolkitFacts(("nvidia-ctk",), ("/etc/docker/daemon.json",)), WARNING),
        (ToolkitFacts(("nvidia-ctk",), ("/etc/docker/daemon.json",), default=True), OK),
        (ToolkitFacts(cdi_specs=("/etc/cdi/nvidia.yaml",)), OK),
    ],
)
def test_containers_need_the_toolkit(toolkit: ToolkitFacts, expected: Verdict) -> None:
    assert verdict(replace(FACTS, toolkit=toolkit), "container toolkit") is expected


@pytest.mark.parametrize(("answers", "expected"), [(True, OK), (False, FAULT), (None, FAULT)])
def test_kubelet_must_listen_for_plugins(answers: bool | None, expected: Verdict) -> None:
    assert verdict(replace(FACTS, kubelet=replace(KUBELET, answers=answers)), "device plugins") is expected


def test_kubelet_must_tell_of_pods_resources() -> None:
    assert verdict(replace(FACTS, kubelet=replace(KUBELET, pod_resources=False)), "pod resources") is FAULT


@pytest.mark.parametrize("theirs", [(GPU,), (f"{GPU}::0", f"{GPU}::1")], ids=["whole", "time-sliced"])
def test_nvidias_plugin_on_the_same_gpus_is_a_fault(theirs: tuple[str, ...]) -> None:
    devices = {**(KUBELET.devices or {}), "nvidia.com/gpu": theirs}
    check = find(replace(FACTS, kubelet=replace(KUBELET, devices=devices)), "NVIDIA's device plugin")
    assert check.verdict is FAULT
    assert GPU in check.text


def test_before_the_install_nvidias_plugin_is_compared_with_the_drivers_gpus() -> None:
    kubelet = replace(KUBELET, devices={"nvidia.com/gpu": (GPU,)})
    assert verdict(replace(FACTS, kubelet=kubelet), "NVIDIA's device plugin") is FAULT


def test_nvidias_plugin_on_other_gpus_is_well() -> None:
    devices = {**(KUBELET.devices or {}), "nvidia.com/gpu": (OTHER_GPU,)}
    assert verdict(replace(FACTS, kubelet=replace(KUBELET, devices=devices)), "NVIDIA's device plugin") is OK


def test_what_only_root_may_see_is_said_to_be_unknown() -> None:
    facts = replace(FACTS, kubelet=KubeletFacts("/var/lib/kubelet", present=True, readable=False))
    check = find(facts, "kubelet")
    assert check.verdict is UNKNOWN
    assert "root" in check.advice
    assert exit_status([check]) == 0


def test_a_node_that_has_registered_no_share_is_a_fault() -> None:
    facts = with_node(status())
    assert verdict(facts, "shares") is OK
    assert verdict(replace(facts, kubelet=replace(KUBELET, devices={"nvshare.com/gpu": ()})), "shares") is FAULT


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"mode": 0o777}, FAULT),
        ({"mode": 0o775}, FAULT),
        ({"owner": 1000}, FAULT),
        ({"noexec": True}, FAULT),
        ({"socket_path_bytes": 108}, FAULT),
        ({"present": False}, OK),
    ],
)
def test_the_nodes_folder_is_its_own_and_can_hold_what_it_must(changes: dict[str, Any], expected: Verdict) -> None:
    assert verdict(replace(FACTS, folder=replace(FOLDER, **changes)), "node folder") is expected


def test_a_node_that_is_well_has_nothing_to_do() -> None:
    facts = with_node(status(), hub=True, allocations=(AllocationFacts("x", "default/train", 600),))
    assert {check.verdict for check in judge(facts)} == {OK}


def test_a_scheduler_that_does_not_answer_is_a_fault_with_its_reason() -> None:
    facts = replace(FACTS, node=NodeFacts("/var/lib/nvshare", refusal="no answer after 2 s"))
    check = find(facts, "node")
    assert check.verdict is FAULT
    assert "no answer after 2 s" in check.text


@pytest.mark.parametrize("changes", [{"relay_age_us": 6_000_000}, {"relay_version": ""}])
def test_a_relay_that_is_not_heard_is_a_fault(changes: dict[str, Any]) -> None:
    assert verdict(with_node(status(**changes)), "relay") is FAULT


def test_e16_builds_that_differ_are_named() -> None:
    services = find(with_node(status(relay_build="b2")), "builds")
    assert services.verdict is WARNING
    assert "relay b2" in services.text
    facts = replace(with_node(status()), folder=replace(FOLDER, library_build="b3"))
    assert "library for new containers b3" in find(facts, "builds").text


def test_a_hub_that_does_not_answer_is_a_fault_and_one_that_nobody_asked_for_is_none() -> None:
    assert verdict(with_node(status(), hub=False), "hub") is FAULT
    assert not [check for check in judge(with_node(status())) if check.name == "hub"]
    assert verdict(with_node(status(), hub_problem="only root can ask it"), "hub") is UNKNOWN


def test_an_unmanaged_process_is_named_once_with_what_to_do() -> None:
    words = "process 77 (python) of pod default/train has 2.0 GiB on the card without nvshare"
    gpu = GpuStatus(uuid=GPU, index=0, problems=[words], holders=[MemoryHolder(pid=77, unmanaged=True)])
    check = find(with_node(status(gpus=[gpu])), "sharing of GPU 0")
    assert (check.verdict, check.text) == (WARNING, words)
    assert "nvshare.com/gpu" in check.advice


def test_every_problem_of_a_gpu_is_a_warning() -> None:
    gpu = GpuStatus(uuid=GPU, index=0, problems=["one is stuck", "another one is silent"])
    checks = [check for check in judge(with_node(status(gpus=[gpu]))) if check.name == "sharing of GPU 0"]
    assert [check.text for check in checks] == ["one is stuck", "another one is silent"]


@pytest.mark.parametrize(
    "client", [ClientStatus(timeslice_failure="driver 999 is not known"), ClientStatus(swap_failures=3)]
)
def test_what_a_client_was_refused_is_said(client: ClientStatus) -> None:
    facts = with_node(status(gpus=[GpuStatus(uuid=GPU, index=0, clients=[client])]))
    assert verdict(facts, "sharing of GPU 0") is WARNING


def test_an_allocation_that_belongs_to_no_pod_is_named_when_it_should_have_one() -> None:
    starting, lost = AllocationFacts("new", "", 5), AllocationFacts("old", "", 600)
    assert verdict(with_node(status(), allocations=(starting,)), "allocations") is OK
    assert "old" in find(with_node(status(), allocations=(starting, lost)), "allocations").text


def test_messages_that_nobody_understood_are_counted() -> None:
    assert "3 were not understood" in find(with_node(status(unknown_messages=3)), "messages").text


def test_a_check_is_one_line() -> None:
    assert check_line(Check("GPU 0", FAULT, "it is lost", "reset it")).plain == "fault   GPU 0: it is lost → reset it"


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ('[plugins."io.containerd.grpc.v1.cri".containerd]\n  default_runtime_name = "nvidia"\n', True),
        ('  default_runtime_name = "runc"\n[runtimes.nvidia]\n', False),
        ('[crio.runtime]\ndefault_runtime = "nvidia"\n', True),
        ('{\n  "default-runtime": "nvidia",\n  "runtimes": {}\n}\n', True),
        ('# default_runtime_name = "nvidia"\n', False),
    ],
)
def test_the_default_runtime_is_read_from_the_settings_of_all_runtimes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, default: bool
) -> None:
    settings = folder / "config"
    settings.write_text(text)
    monkeypatch.setattr(gather_host, "_RUNTIME_FILES", (str(settings),))
    toolkit = gather_host.gather_toolkit()
    assert toolkit.default is default
    assert toolkit.runtimes == (str(settings),)


def test_kubelets_folder_is_read(folder: Path) -> None:
    plugins = folder / "device-plugins"
    plugins.mkdir()
    (folder / "pod-resources").mkdir()
    (folder / "pod-resources" / "kubelet.sock").touch()
    document = {"Data": {"RegisteredDevices": {"nvidia.com/gpu": [GPU], "empty": None}}, "Checksum": 1}
    (plugins / "kubelet_internal_checkpoint").write_text(json.dumps(document))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(plugins / "kubelet.sock"))
        other.bind(str(plugins / "nvidia-gpu.sock"))
        listener.listen()
        facts = gather_kubelet(folder)
    assert facts == KubeletFacts(
        str(folder),
        present=True,
        plugins_writable=True,
        answers=True,
        pod_resources=True,
        sockets=("nvidia-gpu.sock",),
        devices={"nvidia.com/gpu": (GPU,), "empty": ()},
    )
    assert gather_kubelet(folder).answers is False  # nobody listens any more


def test_a_folder_of_kubelet_that_is_not_there_or_says_nothing_is_no_error(folder: Path) -> None:
    assert gather_kubelet(folder / "nowhere") == KubeletFacts(str(folder / "nowhere"))
    plugins = folder / "device-plugins"
    plugins.mkdir()
    (plugins / "kubelet_internal_checkpoint").write_text("{")
    facts = gather_kubelet(folder)
    assert (facts.answers, facts.pod_resources, facts.devices) == (None, False, None)


def test_the_build_of_the_library_for_new_containers_is_that_of_the_link(folder: Path) -> None:
    (folder / "lib").mkdir()
    (folder / "lib" / "current").symlink_to("0.1.0-b1-dirty")
    assert gather_folder(NodeDirectory(folder)).library_build == "b1-dirty"


def test_the_command_needs_no_rights_and_no_gpu(folder: Path, nvshare: Callable[..., Any]) -> None:
    answer = nvshare("doctor", "--json", "--node-dir", str(folder), "--kubelet", str(folder / "none"))
    checks = {check["check"]: check for check in json.loads(answer.stdout)}
    assert checks["kernel"]["verdict"] in ("ok", "warning")
    assert checks["node"]["text"] == "no node runs here"
    assert answer.returncode == int(any(check["verdict"] == "fault" for check in checks.values()))


def test_on_a_node_of_a_cluster_it_looks_at_the_clusters_folder(
    folder: Path, nvshare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NVSHARE_NODE_DIR", raising=False)
    monkeypatch.setattr(command, "CLUSTER_FOLDER", folder / "cluster")
    answer = nvshare("doctor", "--json", "--kubelet", str(folder))
    checks = {check["check"]: check["text"] for check in json.loads(answer.stdout)}
    assert str(folder / "cluster") in checks["node folder"]


def test_the_command_on_a_node_with_emulated_cards_finds_it_well(node_dir: Path, nvshare: Callable[..., Any]) -> None:
    answer = nvshare("doctor", "--json", "--node-dir", str(node_dir), "--kubelet", str(node_dir / "none"))
    checks = {check["check"]: check["verdict"] for check in json.loads(answer.stdout)}
    for name in ("node", "relay", "builds", "sharing of GPU 0", "sharing of GPU 1", "messages", "node folder"):
        assert checks[name] == "ok", answer.stdout
    text = nvshare("doctor", "--node-dir", str(node_dir), "--kubelet", str(node_dir / "none")).stdout
    assert f"node: node {os.uname().nodename}" in text
