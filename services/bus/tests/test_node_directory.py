"""Where a node's files are, and which node is found."""

import fcntl
import os
from pathlib import Path

import pytest

from nvshare.bus.node_directory import NodeDirectory


def test_every_path_is_the_documented_one() -> None:
    node = NodeDirectory(Path("/n"))
    documented = {
        node.lock: "node.lock",
        node.description: "node.json",
        node.control_socket: "control.sock",
        node.service_credentials("scheduler"): "credentials/scheduler.creds",
        node.nats: "nats",
        node.allocation_description("a"): "allocations/a/allocation.json",
        node.allocation_socket("a"): "allocations/a/nvshare.sock",
        node.relay_journal: "relay/journal.jsonl",
        node.scheduler: "scheduler",
        node.log("relay"): "logs/relay.log",
    }
    assert {str(path.relative_to("/n")) for path in documented} == set(documented.values())


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NVSHARE_NODE_DIR", str(tmp_path))
    assert NodeDirectory.default() == NodeDirectory(tmp_path)


@pytest.mark.parametrize(
    ("uid", "runtime", "expected"),
    [
        (0, "/run/user/0", "/run/nvshare"),
        (1000, "/run/user/1000", "/run/user/1000/nvshare"),
        (1000, None, "/tmp/nvshare-1000"),
    ],
)
def test_without_it_the_folder_is_the_users(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str | None, expected: str
) -> None:
    monkeypatch.delenv("NVSHARE_NODE_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert NodeDirectory.default().path == Path(expected)


def test_a_node_is_found_while_its_lock_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NVSHARE_NODE_DIR", str(tmp_path))
    node = NodeDirectory(tmp_path)
    assert NodeDirectory.find() is None
    with node.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert NodeDirectory.find() is None  # it has not described itself yet
        node.write_description({"node": "node-1"})
        assert NodeDirectory.find() == node
    assert NodeDirectory.find() is None


def test_the_description_is_read_as_it_was_written(tmp_path: Path) -> None:
    node = NodeDirectory(tmp_path)
    node.write_description({"node": "node-1", "emulated": True})
    node.write_description({"node": "node-2"})
    assert node.read_description() == {"node": "node-2"}
    assert [path.name for path in tmp_path.iterdir()] == ["node.json"]


def test_a_description_that_is_no_object_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text("[]")
    with pytest.raises(ValueError, match="not a JSON object"):
        NodeDirectory(tmp_path).read_description()


@pytest.mark.parametrize(("mode", "trusted"), [(0o755, True), (0o700, True), (0o775, False), (0o1777, False)])
def test_a_folder_is_trusted_when_nobody_else_may_write_into_it(tmp_path: Path, mode: int, trusted: bool) -> None:
    folder = tmp_path / "node"
    folder.mkdir()
    folder.chmod(mode)
    assert NodeDirectory(folder).is_trusted() is trusted


def test_a_link_an_absent_folder_and_another_users_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    owner = tmp_path.stat().st_uid
    assert not NodeDirectory(link).is_trusted()
    assert not NodeDirectory(tmp_path / "absent").is_trusted()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert NodeDirectory(tmp_path).is_trusted() is (owner == 0)  # root's is everybody's


def test_a_folder_that_anybody_may_have_made_is_not_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NVSHARE_NODE_DIR", raising=False)
    monkeypatch.setattr(NodeDirectory, "default", lambda: NodeDirectory(tmp_path))
    node = NodeDirectory(tmp_path)
    with node.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        node.write_description({"node": "node-1"})
        tmp_path.chmod(0o755)
        assert NodeDirectory.find() == node
        tmp_path.chmod(0o777)
        assert NodeDirectory.find() != node
