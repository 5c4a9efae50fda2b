"""The workload of docker-compose.yml: makes pods over Kubernetes' interface, waits for their end, and prints the table.

    pods.py URL IMAGE [--pods 8] [--seconds 3] [--memory-bytes 1342177280]

Each pod has one share of a GPU and a memory quota, and computes sums that it checks at its end. Two of them do not fit
into one emulated GPU together, so they take turns there. Ends in 0 when all of them computed what they should.
"""

import argparse
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

POLL_SECONDS = 0.5
READY_SECONDS = 120
PODS = "/api/v1/namespaces/default/pods"
RESOURCE = "nvshare.com/gpu"
QUOTA = "nvshare.com/gpu-memory-limit"
# Says which GPU the pod has got, then what it computed; the library may say something between the two.
PROGRAM = 'echo "$CUDA_VISIBLE_DEVICES"; exec python3 -m nvshare.cli.workloads.emulated "$@"'


class Api:
    """The API server at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def text(self, method: str, path: str, body: object = None) -> str:
        """The answer's text. Raises OSError."""
        request = urllib.request.Request(
            self._url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON. Raises OSError."""
        return json.loads(self.text(method, path, body))


@dataclass(frozen=True)
class Row:
    """What became of a pod. `speed` is in iterations a second."""

    name: str
    node: str
    gpu: str
    status: str
    seconds: float = 0.0
    speed: float = 0.0
    correct: bool = False


def manifest(name: str, image: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A pod with one share, of which nothing but its resource and its annotation says that it is shared."""
    program = [
        *("--name", name, "--seed", str(seed), "--seconds", str(arguments.seconds)),
        *("--memory-bytes", str(arguments.memory_bytes), "--kernel-ns", "2000000"),
    ]
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", PROGRAM, "sh", *program],
        "resources": {"limits": {RESOURCE: 1}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {QUOTA: str(arguments.memory_bytes + 2**28)}},
        "spec": {"restartPolicy": "Never", "containers": [container]},
    }


def wait_for_nodes(api: Api, count: int) -> None:
    """Until so many nodes have shares to give. Raises SystemExit."""
    deadline = time.monotonic() + READY_SECONDS
    ready: list[str] = []
    while time.monotonic() < deadline:
        try:
            nodes = api.ask("GET", "/api/v1/nodes")["items"]
        except OSError:
            nodes = []
        ready = [one["metadata"]["name"] for one in nodes if int(allocatable(one).get(RESOURCE, 0)) > 0]
        if len(ready) >= count:
            return
        time.sleep(POLL_SECONDS)
    raise SystemExit(f"after {READY_SECONDS} s {len(ready)} of {count} nodes have shares: {', '.join(ready) or 'none'}")


def allocatable(node: dict[str, Any]) -> dict[str, str]:
    """What a node has to give."""
    found: dict[str, str] = node.get("status", {}).get("allocatable", {})
    return found


def wait_for_end(api: Api, names: Sequence[str], deadline: float) -> dict[str, dict[str, Any]]:
    """The pods, when all have ended or at `deadline`."""
    while True:
        pods = {name: api.ask("GET", f"{PODS}/{name}") for name in names}
        if all(ended(pod) for pod in pods.values()) or time.monotonic() > deadline:
            return pods
        time.sleep(POLL_SECONDS)


def ended(pod: dict[str, Any]) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def row(api: Api, name: str, pod: dict[str, Any]) -> Row:
    """What `pod` says of itself, by its log."""
    node, status = pod["spec"].get("nodeName", "-"), pod.get("status", {}).get("phase", "Pending")
    try:
        lines = api.text("GET", f"{PODS}/{name}/log").splitlines()
        gpu = next(line for line in lines if line.startswith("GPU-"))
        result = json.loads(next(line for line in lines if line.startswith("{")))
        return Row(
            name, node, gpu, status, result["seconds"], result["iterations_per_second"], result["correct"] is True
        )
    except (OSError, ValueError, LookupError, StopIteration):
        return Row(name, node, "-", status)


def table(rows: Sequence[Row]) -> str:
    """The rows, and the slowest, fastest and mean speed."""
    lines = [f"{'NAME':<12} {'NODE':<8} {'GPU':<12} {'STATUS':<10} {'SECONDS':>8} {'SPEED':>8}  RESULT"]
    lines += [
        f"{one.name:<12} {one.node:<8} {one.gpu[:12]:<12} {one.status:<10} {one.seconds:>8.1f} {one.speed:>8.1f}  "
        f"{'right' if one.correct else 'WRONG'}"
        for one in rows
    ]
    speeds = [one.speed for one in rows if one.speed] or [0.0]
    lines.append(f"speed: min {min(speeds):.1f}, max {max(speeds):.1f}, avg {sum(speeds) / len(speeds):.1f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("image")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--pods", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0, help="of work in each")
    parser.add_argument("--memory-bytes", type=int, default=5 * 2**28)
    parser.add_argument("--timeout", type=float, default=300.0)
    arguments = parser.parse_args()
    api = Api(arguments.url)
    wait_for_nodes(api, arguments.nodes)
    names = [f"job-{number}" for number in range(1, arguments.pods + 1)]
    for seed, name in enumerate(names, start=1):
        api.ask("POST", PODS, manifest(name, arguments.image, seed, arguments))
    print(f"{len(names)} pods on {arguments.nodes} nodes", flush=True)
    try:
        pods = wait_for_end(api, names, time.monotonic() + arguments.timeout)
        rows = [row(api, name, pods[name]) for name in names]
    finally:
        for name in names:
            try:
                api.ask("DELETE", f"{PODS}/{name}")
            except urllib.error.HTTPError as error:
                print(f"{name} stays: {error}", flush=True)
    print(table(rows), flush=True)
    raise SystemExit(0 if all(one.correct for one in rows) else 1)


if __name__ == "__main__":
    main()
