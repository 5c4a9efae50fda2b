"""Room in the node arena that is kept for what a program may have to move there."""

import pytest
from libnvshare.tests.data.conftest import MIB, Run, ScriptedRelay
from libnvshare.tests.pool.conftest import Arena


@pytest.mark.heavy
def test_room_for_what_a_program_no_longer_has_is_given_back(relay: ScriptedRelay, run: Run) -> None:
    arena = Arena(relay.path.parent)
    program = run(
        """
        gpu = Gpu()
        gpu.allocate(MIB)
        large = gpu.allocate(512 * MIB)
        hear()
        ok(driver.cuMemFree(large))
        hear()
        """,
        NVSHARE_HOST_MEMORY="arena",
    )
    relay.client_with_plan(pool_bytes=16 * MIB)
    arena.until(lambda reserved, made: reserved >= 512 * MIB)
    program.tell()
    arena.until(lambda reserved, made: reserved < 512 * MIB)
    program.tell()
    program.end()
    arena.kill()
