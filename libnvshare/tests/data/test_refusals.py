"""What the log says when an allocation is refused: by whom, and what would help."""

import pytest
from libnvshare.tests.data.conftest import MIB, Run, ScriptedRelay

from nvshare.v1.client_pb2 import Limit

PROGRAM = """
    gpu = Gpu()
    gpu.allocate(64 * MIB)
    say(error=error_of(driver.cuMemAlloc(128 * MIB)))
"""


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit.LIMIT_UNSPECIFIED, "the limit is 104857600\n"),
        (Limit.LIMIT_QUOTA, "the memory quota"),
        (Limit.LIMIT_CARD, "no more fits on the card"),
        (Limit.LIMIT_HOST_ROOM, "could neither stay on the card for good nor be moved"),
        (Limit.LIMIT_OVERCOMMIT, "overcommit ratio"),
    ],
)
def test_a_refused_allocation_says_what_its_limit_comes_from(
    limit: Limit, words: str, relay: ScriptedRelay, run: Run
) -> None:
    program = run(PROGRAM, NVSHARE_LOG="info")
    relay.client_with_plan(limit_bytes=100 * MIB, limited_by=limit)
    assert program.said() == {"error": "CUDA_ERROR_OUT_OF_MEMORY"}
    stderr = program.end()
    assert f"{128 * MIB} bytes are refused, {64 * MIB} are allocated" in stderr
    assert words in stderr


def test_whose_memory_could_not_be_moved_is_told_without_asking_for_it(relay: ScriptedRelay, run: Run) -> None:
    program = run(PROGRAM)
    client = relay.client_with_plan(limit_bytes=100 * MIB, limited_by=Limit.LIMIT_HOST_ROOM)
    assert program.said() == {"error": "CUDA_ERROR_OUT_OF_MEMORY"}
    room_bytes = [report.host_room_bytes for report in client.reports]
    stderr = program.end()
    assert any(f"{number} bytes of host memory are available to this process" in stderr for number in room_bytes)
