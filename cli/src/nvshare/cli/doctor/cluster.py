"""Checks of what Kubernetes needs: container toolkit, kubelet, other device plugins. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from nvshare.cli.doctor.check import Check, fault, ok, unknown, warning
from nvshare.cli.doctor.facts import Facts, KubeletFacts, ToolkitFacts

RESOURCE = "nvshare.com/gpu"
NVIDIA_RESOURCE = "nvidia.com/gpu"
_REPLICA = "::"  # stands between a GPU and the number of a share, in both plugins
_READ_AS_ROOT = "run `nvshare doctor` as root to see it"


def cluster_checks(facts: Facts) -> Iterator[Check]:
    """Of the machine as a node of Kubernetes; where there is no kubelet, that is all that is said."""
    kubelet = facts.kubelet
    if not kubelet.present and facts.host.container:
        yield unknown("kubelet", f"this is a container without {kubelet.folder}", "run it on the host to check it")
        return
    if not kubelet.present:
        yield ok("kubelet", f"no kubelet in {kubelet.folder}: this machine is no node of Kubernetes")
        return
    if not facts.driver.emulated and not (facts.node and facts.node.emulated):
        yield _toolkit_check(facts.toolkit)
    if not kubelet.readable:
        yield unknown("kubelet", f"{kubelet.folder} cannot be read", _READ_AS_ROOT)
        return
    yield _plugins_check(kubelet)
    yield _pod_resources_check(kubelet)
    yield _nvidia_plugin_check(facts)
    if facts.node is not None:
        yield _own_resource_check(kubelet)


def _toolkit_check(toolkit: ToolkitFacts) -> Check:
    name = "container toolkit"
    if not toolkit.programs and not toolkit.cdi_specs:
        advice = "install nvidia-container-toolkit and run `nvidia-ctk runtime configure`, then restart the runtime"
        return fault(name, "NVIDIA's container toolkit is not here: containers would not see the driver", advice)
    if not toolkit.runtimes and not toolkit.cdi_specs:
        advice = "run `nvidia-ctk runtime configure`, or `nvidia-ctk cdi generate` and set `injection.devices: cdi`"
        return warning(name, "it is installed, but no container runtime's settings name it", advice)
    found = f"found {', '.join([*toolkit.programs[:1], *toolkit.runtimes, *toolkit.cdi_specs])}"
    if toolkit.runtimes and not toolkit.default and not toolkit.cdi_specs:
        advice = "install the chart with `runtimeClassName=nvidia`, and give it to pods, or make it the default"
        return warning(name, f"{found}, but NVIDIA's runtime is not the default: pods need its runtime class", advice)
    return ok(name, found)


def _plugins_check(kubelet: KubeletFacts) -> Check:
    name = "device plugins"
    folder = f"{kubelet.folder}/device-plugins"
    if kubelet.answers is None:
        advice = "is kubelet elsewhere? Say where with --kubelet, and the chart with kubelet.path"
        return fault(name, f"there is no {folder}/kubelet.sock", advice)
    if not kubelet.answers:
        return fault(name, f"nobody listens on {folder}/kubelet.sock", "start kubelet")
    if kubelet.plugins_writable is False:
        return unknown(name, f"kubelet listens in {folder}; who registers there must be root", "")
    return ok(name, f"kubelet listens in {folder}")


def _pod_resources_check(kubelet: KubeletFacts) -> Check:
    name = "pod resources"
    if kubelet.pod_resources:
        return ok(name, "kubelet tells which pod has which share")
    advice = "use Kubernetes 1.28 or later, or switch the feature gate KubeletPodResources on"
    return fault(name, f"there is no {kubelet.folder}/pod-resources/kubelet.sock", advice)


def _nvidia_plugin_check(facts: Facts) -> Check:
    name = "NVIDIA's device plugin"
    kubelet = facts.kubelet
    advice = "keep it from this node (by a node label), or give each plugin GPUs of its own (`sharing.gpus`)"
    sockets = [socket for socket in kubelet.sockets if "nvidia" in socket]
    if kubelet.devices is None:
        if sockets:
            return warning(name, f"it seems to run ({', '.join(sockets)}); kubelet's record is not readable", advice)
        return unknown(name, "kubelet's record of devices is not readable", _READ_AS_ROOT)
    theirs = {device.partition(_REPLICA)[0] for device in kubelet.devices.get(NVIDIA_RESOURCE, ())}
    ours = {device.partition(_REPLICA)[0] for device in kubelet.devices.get(RESOURCE, ())}
    ours = ours or {gpu.uuid for gpu in facts.driver.gpus}
    both = sorted(theirs & ours)
    if both:
        return fault(name, f"it gives out the same GPUs, whole: {', '.join(both)}", advice)
    if theirs or sockets:
        return ok(name, "it runs beside nvshare, with other GPUs")
    return ok(name, "it does not run here")


def _own_resource_check(kubelet: KubeletFacts) -> Check:
    name = "shares"
    if kubelet.devices is None:
        return unknown(name, "kubelet's record of devices is not readable", _READ_AS_ROOT)
    shares = kubelet.devices.get(RESOURCE, ())
    if not shares:
        advice = "see the log of the device plugin (DaemonSet node), and whether it is there at all"
        return fault(name, f"kubelet has no {RESOURCE} of this node", advice)
    gpus = {share.partition(_REPLICA)[0] for share in shares}
    return ok(name, f"kubelet has {len(shares)} shares of {len(gpus)} GPUs")
