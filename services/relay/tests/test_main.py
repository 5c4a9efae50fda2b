"""`python -m nvshare.relay` with settings that it cannot use: one line that names them, and a non-zero exit."""

import os
import subprocess
import sys

import pytest

from nvshare.bus.credentials import NodeKeys

GOOD = {"NVSHARE_NODE": "node-1", "NVSHARE_NATS_URL": "nats://127.0.0.1:4222", "NVSHARE_SIGNING_SEEDS_FD": "0"}


def run(seeds: bytes, **settings: str) -> "subprocess.CompletedProcess[bytes]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NVSHARE_")}
    return subprocess.run(
        [sys.executable, "-m", "nvshare.relay"],
        input=seeds,
        capture_output=True,
        timeout=20,
        env={**environment, **GOOD, **settings},
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"NVSHARE_NODE": "a.b"}, "NVSHARE_NODE"),
        ({"NVSHARE_NATS_URL": "http://x"}, "NVSHARE_NATS_URL"),
        ({"NVSHARE_SIGNING_SEEDS_FD": "x"}, "NVSHARE_SIGNING_SEEDS_FD"),
        ({"NVSHARE_ADMIN_GROUP": "no-such-group"}, "NVSHARE_ADMIN_GROUP"),
        ({"NVSHARE_ARENA": "half"}, "NVSHARE_ARENA"),
        ({"NVSHARE_NODE": "node-2"}, "the seeds are for node 'node-1'"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(settings: dict[str, str], named: str) -> None:
    ended = run(NodeKeys.generate("node-1").signer.to_bytes(), **settings)
    assert ended.returncode != 0
    assert named in ended.stderr.decode()
    assert len(ended.stderr.splitlines()) == 1


def test_seeds_that_cannot_be_read_are_said_in_one_line() -> None:
    ended = run(b"nothing")
    assert ended.returncode != 0
    assert b"NVSHARE_SIGNING_SEEDS_FD" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
