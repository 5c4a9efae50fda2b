"""The container images: who runs in them, what is in them, and what is not."""

import json
import subprocess
import urllib.request
from typing import Any

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import HttpWaitStrategy

# The first test of these builds them.
pytestmark = pytest.mark.timeout(300)

SERVICES = ("link", "scheduler", "device-plugin", "quota-watcher")
OTHERS = ("fake-kubelet", "fake-api-server", "workload")
NEEDS_ROOT = {"link", "scheduler", "device-plugin", "fake-kubelet"}


@pytest.fixture(scope="module")
def described(images: str) -> dict[str, dict[str, Any]]:
    """What Docker says of each image."""
    names = {f"nvshare/{target}:{images}": target for target in SERVICES + OTHERS}
    inspect = subprocess.run(["docker", "image", "inspect", *names], capture_output=True, text=True, check=True)
    return {names[one["RepoTags"][0]]: one for one in json.loads(inspect.stdout)}


def in_image(image: str, *command: str) -> str:
    """What a command prints in a container without rights and without a network."""
    program, *arguments = command
    alone = ["--network=none", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp"]
    run = ["docker", "run", "--rm", *alone, f"--entrypoint={program}", image, *arguments]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_what_must_be_root_is_root(described: dict[str, dict[str, Any]]) -> None:
    roots = {target for target, image in described.items() if image["Config"]["User"] in ("", "0", "root")}
    assert roots == NEEDS_ROOT


def test_each_says_what_it_is_and_of_which_build(described: dict[str, dict[str, Any]], images: str) -> None:
    for target, image in described.items():
        labels = {name.rpartition(".")[2]: value for name, value in image["Config"]["Labels"].items()}
        assert labels["title"].startswith("nvshare "), target
        assert labels["description"], target
        assert labels["version"] == images
        assert labels["revision"] not in ("", "unknown"), target


def test_the_services_of_a_node_share_all_their_layers(described: dict[str, dict[str, Any]]) -> None:
    layers = {tuple(described[target]["RootFS"]["Layers"]) for target in SERVICES}
    assert len(layers) == 1


def test_the_services_find_their_libraries_without_rights_or_network(images: str) -> None:
    ask = "from nvshare import emulator, preload; preload.library_path(), emulator.library_directory()"
    in_image(f"nvshare/scheduler:{images}", "python3", "-c", ask)


def test_a_program_that_is_to_share_has_nothing_of_nvshare_s_services(images: str) -> None:
    parts = "('bus', 'preload', 'emulator')"
    ask = f"import importlib.util as u; print([part for part in {parts} if u.find_spec('nvshare.' + part)])"
    assert in_image(f"nvshare/workload:{images}", "python3", "-c", ask) == "[]\n"


def test_no_image_holds_a_package_installer(images: str) -> None:
    for target in ("fake-kubelet", "workload"):  # the others have their layers
        ask = "import importlib.util, sys; sys.exit(importlib.util.find_spec('pip') is not None)"
        in_image(f"nvshare/{target}:{images}", "python3", "-c", ask)


def test_the_api_server_s_stand_in_answers_from_its_image(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The reaper is one more image, which may not be there to pull; `with` ends the container just as well.
    monkeypatch.setattr("testcontainers.core.config.testcontainers_config.ryuk_disabled", True)
    container = DockerContainer(f"nvshare/fake-api-server:{images}", read_only=True, cap_drop=["ALL"])
    container.with_command("--host 0.0.0.0").with_exposed_ports(8001)
    container.waiting_for(HttpWaitStrategy(8001, "/version").for_status_code(200))
    with container as server:
        address = f"http://{server.get_container_host_ip()}:{server.get_exposed_port(8001)}"
        with urllib.request.urlopen(f"{address}/api/v1/pods") as answer:
            assert json.load(answer)["kind"] == "PodList"
