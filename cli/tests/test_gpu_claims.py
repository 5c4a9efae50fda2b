"""One node shares a real GPU, not two."""

import subprocess
import sys
import uuid

import pytest

from nvshare.cli.errors import CommandError
from nvshare.cli.gpu_claims import claimed

HOLDER = """
import sys
from nvshare.cli.gpu_claims import claimed
with claimed(sys.argv[1:]):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def gpu() -> str:
    """A UUID that no card has."""
    return f"GPU-{uuid.uuid4()}"


def test_a_gpu_that_another_node_shares_is_refused_until_that_node_is_killed(gpu: str) -> None:
    arguments = (sys.executable, "-c", HOLDER, "GPU-other", gpu)
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        with pytest.raises(CommandError, match=f"another node shares GPU {gpu}"), claimed([gpu]):
            pass
        holder.kill()
        holder.wait()
        with claimed([gpu]):
            pass


def test_a_refused_claim_gives_the_other_gpus_back(gpu: str) -> None:
    free = f"GPU-{uuid.uuid4()}"
    with claimed([gpu]):
        with pytest.raises(CommandError), claimed([free, gpu]):
            pass
        with claimed([free]):
            pass
