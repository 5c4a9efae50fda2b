"""Checks of the node's folder and of the node that runs in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from nvshare.bus.quantities import format_bytes
from nvshare.cli.doctor.check import Check, fault, ok, unknown, warning
from nvshare.cli.doctor.facts import Facts, FolderFacts, NodeFacts
from nvshare.cli.status import client_name
from nvshare.v1.control_pb2 import ClientStatus, GpuStatus, StatusReply
from nvshare.v1.node_pb2 import Allocation

SOCKET_PATH_BYTES = 107  # of sockaddr_un.sun_path, less its closing zero
_OTHERS_MAY_WRITE = 0o022
_SILENT_US = 5_000_000
_MANAGE = (
    "start it by `nvshare run` or, in Kubernetes, with the resource nvshare.com/gpu; what it has is shared with nobody"
)
_JOINING_SECONDS = 120.0  # what a start may take, from kubelet's first word to the container's


def node_checks(facts: Facts) -> Iterator[Check]:
    """Of the folder, and of all that a node that runs says about itself."""
    yield _folder_check(facts.folder, facts.user)
    node = facts.node
    if node is None:
        yield ok("node", "no node runs here")
        return
    if node.status is None:
        advice = f"see {node.path}/logs, or the logs of the pods of nvshare"
        yield fault("node", f"a node runs in {node.path}, and its scheduler does not answer: {node.refusal}", advice)
        return
    yield ok("node", f"node {node.status.node} runs in {node.path}, GPUs: {len(node.status.gpus)}")
    yield _relay_check(node.status)
    yield _builds_check(node, facts.folder)
    yield from _hub_checks(node)
    for gpu in sorted(node.status.gpus, key=lambda gpu: gpu.index):
        yield from _gpu_checks(gpu, node.status)
    yield from _allocation_checks(node)
    yield _messages_check(node.status)


def _folder_check(folder: FolderFacts, user: int) -> Check:
    name = "node folder"
    if folder.socket_path_bytes > SOCKET_PATH_BYTES:
        return fault(name, f"{folder.path} is too long a path for the sockets in it", "choose a shorter one")
    if not folder.present:
        return ok(name, f"{folder.path} will be made")
    if folder.mode & _OTHERS_MAY_WRITE:
        return fault(name, f"others may write into {folder.path}", f"run `chmod go-w {folder.path}`")
    if folder.owner not in (0, user):
        return fault(name, f"{folder.path} belongs to uid {folder.owner}", "choose a folder of your own")
    if folder.noexec:
        advice = "mount it with `exec`, or choose another folder: the library is loaded from there"
        return fault(name, f"{folder.path} is on a file system without the right to execute", advice)
    return ok(name, folder.path)


def _relay_check(status: StatusReply) -> Check:
    name = "relay"
    advice = "see the log of the relay: without it no program can start or end"
    if not status.relay_version:
        return fault(name, "the scheduler has not heard it since it started", advice)
    if status.relay_age_us > _SILENT_US:
        return fault(name, f"it was heard {status.relay_age_us / 1e6:.0f} s ago for the last time", advice)
    return ok(name, f"heard {status.relay_age_us / 1e6:.1f} s ago")


def _builds_check(node: NodeFacts, folder: FolderFacts) -> Check:
    name, status = "builds", node.status
    assert status is not None
    builds = {"scheduler": status.build, "relay": status.relay_build}
    if folder.library_build is not None:
        builds["library for new containers"] = folder.library_build
    allocations = {allocation.id: allocation for allocation in status.allocations}
    for gpu in status.gpus:
        for client in gpu.clients:
            if client.build:
                builds[f"library in {client_name(client, allocations.get(client.allocation, Allocation()))}"] = (
                    client.build
                )
    services = {builds["scheduler"], builds["relay"]}
    others = {build for build in builds.values() if build} - services
    listed = ", ".join(f"{who} {build}" for who, build in builds.items() if build)
    if len(services) > 1 and all(services):
        return warning(
            name, f"they differ: {listed}", "finish the upgrade: delete the pod of the link, or restart the node"
        )
    if others:
        return warning(name, f"they differ: {listed}", "programs get the new library when they start again")
    return ok(name, f"all are of build {status.build}")


def _hub_checks(node: NodeFacts) -> Iterator[Check]:
    if node.hub:
        yield ok("hub", "it answers")
    elif node.hub is False:
        text = "it does not answer: the node goes on with the last quotas, and new annotations have no effect"
        yield fault("hub", text, "see the hub's pods, and the log of this node's link")
    elif node.hub_problem:
        yield unknown("hub", node.hub_problem)


def _gpu_checks(gpu: GpuStatus, status: StatusReply) -> Iterator[Check]:
    name = f"sharing of GPU {gpu.index}"
    found = [
        warning(name, problem, _MANAGE if _is_unmanaged(problem, gpu) else "see `nvshare status`")
        for problem in gpu.problems
    ]
    refused = {client.timeslice_failure for client in gpu.clients if client.timeslice_failure}
    if refused:
        text = f"hardware time slices were refused ({'; '.join(sorted(refused))}): programs take turns by slots"
        found.append(
            warning(name, text, "on virtual GPUs and under MPS there is nothing else; it is a little less even")
        )
    for client in gpu.clients:
        if client.swap_failures:
            why = client.swap_failure or "nobody knows why"
            text = f"memory of {_name(client, status)} could not be moved {client.swap_failures} times: {why}"
            found.append(warning(name, text, "is there enough host memory? See docs/memory.md"))
    promised = f"{format_bytes(gpu.promised_bytes)} of {format_bytes(gpu.capacity_bytes)}"
    yield from found or [ok(name, f"clients: {len(gpu.clients)}; {promised} promised")]


def _is_unmanaged(problem: str, gpu: GpuStatus) -> bool:
    """Whether the problem is a process that uses the card without nvshare."""
    return any(problem.startswith(f"process {holder.pid} ") for holder in gpu.holders if holder.unmanaged)


def _name(client: ClientStatus, status: StatusReply) -> str:
    known = {allocation.id: allocation for allocation in status.allocations}
    return client_name(client, known.get(client.allocation, Allocation()))


def _allocation_checks(node: NodeFacts) -> Iterator[Check]:
    lost = [one for one in node.allocations if not one.pod and one.age_seconds > _JOINING_SECONDS]
    if lost:
        text = f"allocations that belong to no pod: {', '.join(one.id for one in lost)}"
        yield warning(
            "allocations", text, "see the log of the device plugin: does kubelet answer on its pod-resources socket?"
        )
    elif node.allocations:
        yield ok("allocations", f"all of {len(node.allocations)} are joined to their pods")


def _messages_check(status: StatusReply) -> Check:
    name = "messages"
    if status.malformed_messages or status.unknown_messages:
        text = f"{status.unknown_messages} were not understood, {status.malformed_messages} were malformed or refused"
        return warning(
            name, text, "are builds more than one version apart? Otherwise somebody sends what he should not"
        )
    return ok(name, "all were understood")
