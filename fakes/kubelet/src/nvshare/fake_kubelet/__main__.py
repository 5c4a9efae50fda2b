"""`python -m nvshare.fake_kubelet`: the kubelet of one node, for a cluster without any."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

from nvshare.fake_kubelet.agent import Agent
from nvshare.fake_kubelet.api_client import ApiClient
from nvshare.fake_kubelet.docker_engine import DockerEngineRunner
from nvshare.fake_kubelet.docker_runner import DockerRunner
from nvshare.fake_kubelet.host_paths import HostPaths
from nvshare.fake_kubelet.kubelet import Kubelet
from nvshare.fake_kubelet.node import Node
from nvshare.fake_kubelet.nvshare_paths import VARIABLES, show_gpus
from nvshare.fake_kubelet.options import Grouping, Options, Topology
from nvshare.fake_kubelet.path_map import PathMap
from nvshare.fake_kubelet.pod_worker import BackOff
from nvshare.fake_kubelet.process_runner import ProcessRunner
from nvshare.fake_kubelet.runner import Runner

_EXAMPLES = """\
examples:
  # a node that runs pods as processes of this machine: images are ignored, commands are not
  python -m nvshare.fake_kubelet --root /tmp/n1 --node n1 --api http://localhost:8001

  # in containers; the plugin's paths are those of docker's host below /srv/n1
  python -m nvshare.fake_kubelet --root /tmp/n1 --node n1 --api http://localhost:8001 \\
      --runner docker --docker-path /var/lib/nvshare=/srv/n1 --docker-argument=--network=none

  # only the sockets for device plugins, without a cluster
  python -m nvshare.fake_kubelet --root /tmp/n1 --node n1

A device plugin finds its sockets in ROOT/device-plugins and ROOT/pod-resources.
SIGHUP is a restart of kubelet: sockets are deleted, registrations lost, containers go on.
SIGUSR1 is a reboot of the node. SIGTERM and SIGINT end it, and all its containers.
"""
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR")


def main() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(_serve(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nvshare.fake_kubelet",
        description="Kubelet of one node: serves device plugins, and runs the pods that the API server has for it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=Path, required=True, help="folder of its sockets and files; /var/lib/kubelet on a real node")
    add("--node", required=True, help="name of the node")
    add("--api", default="", metavar="URL", help="API server; without one there are no pods")
    add("--token", default=os.environ.get("API_TOKEN", ""), help="bearer token for it (default: $API_TOKEN)")
    add("--address", default="127.0.0.1", help="where the API server reaches this node (default: %(default)s)")
    add(
        "--label",
        type=_pair,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of the node's object; may be repeated",
    )
    add("--runner", choices=("process", "docker", "docker-engine"), default="process",
        help="what containers are; docker-engine: of Docker, without its command (default: %(default)s)")  # fmt: skip
    add("--host-pid", action="store_true", help="docker-engine: all containers see the host's processes")
    add("--path-variable", type=_pair, action="append", default=[], metavar="NAME=PATH",
        help="process: a variable that tells a program where PATH of its container is on the host")  # fmt: skip
    add("--docker-argument", action="append", default=[], metavar="ARGUMENT", help="docker: further one of docker run")
    add("--docker-path", type=_pair, action="append", default=[], metavar="HERE=THERE",
        help="docker: a folder that has another path where docker's server is")  # fmt: skip
    add("--docker", default="docker", metavar="COMMAND", help="docker: the program (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the order in which devices are taken (default: %(default)s)")
    add("--topology", choices=[one.value for one in Topology], default="none", help="policy (default: %(default)s)")
    add("--grouping", choices=[one.value for one in Grouping], default="device",
        help="what an entry of PodResources holds (default: %(default)s)")  # fmt: skip
    add("--list-ended-pods", action="store_true", help="PodResources shows ended pods, as up to 1.33")
    add("--back-off", type=float, default=10.0, metavar="SECONDS",
        help="before the second start after a failure; doubles each time (default: %(default)s)")  # fmt: skip
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    return name, value


async def _serve(arguments: argparse.Namespace) -> None:
    kubelet = Kubelet(
        arguments.root.resolve(),
        Options(
            seed=arguments.seed,
            topology=Topology(arguments.topology),
            grouping=Grouping(arguments.grouping),
            list_ended_pods=arguments.list_ended_pods,
        ),
    )
    back_off = BackOff(first_seconds=arguments.back_off)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        _runner(arguments) as runner,
        Node(kubelet, runner, address=arguments.address, back_off=back_off) as node,
    ):
        restarts = asyncio.Lock()
        background: set[asyncio.Task[None]] = set()

        async def again(reboot: bool) -> None:
            async with restarts:
                await (node.reboot() if reboot else kubelet.restart())

        def on_signal(reboot: bool) -> None:
            task = loop.create_task(again(reboot))
            background.add(task)
            task.add_done_callback(background.discard)

        loop.add_signal_handler(signal.SIGHUP, on_signal, False)
        loop.add_signal_handler(signal.SIGUSR1, on_signal, True)
        print(f"serving device plugins in {kubelet.plugin_directory}", flush=True)
        await _until(stop, node, arguments)


async def _until(stop: asyncio.Event, node: Node, arguments: argparse.Namespace) -> None:
    if not arguments.api:
        await stop.wait()
        return
    async with ApiClient(arguments.api, arguments.token) as api:
        agent = asyncio.create_task(Agent(node, arguments.node, api, dict(arguments.label)).run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({agent, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        agent.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await agent


def _runner(arguments: argparse.Namespace) -> contextlib.AbstractAsyncContextManager[Runner]:
    if arguments.runner == "docker-engine":
        return DockerEngineRunner(host_pid=arguments.host_pid)
    return contextlib.nullcontext(_plain_runner(arguments))


def _plain_runner(arguments: argparse.Namespace) -> Runner:
    if arguments.runner == "docker":
        return DockerRunner(
            program=arguments.docker, extra=arguments.docker_argument, host=PathMap(tuple(arguments.docker_path))
        )
    variables = VARIABLES | dict(arguments.path_variable)
    base = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return ProcessRunner(HostPaths(base, lambda path: Path(path).read_text(), variables, show_gpus))


if __name__ == "__main__":
    main()
