"""What a preloaded library must be able to rely on, as with the real driver."""

import subprocess
from pathlib import Path

from emulator.tests.conftest import Cards

INTERPOSER = """
int cuMemAlloc_v2(unsigned long long *pointer, unsigned long bytes) { return 999; }
int cuMemHostAlloc(void **pointer, unsigned long bytes, unsigned flags) { return 999; }
"""


def test_the_drivers_own_calls_and_pointers_pass_by_a_preloaded_library(cards: Cards, tmp_path: Path) -> None:
    source, library = tmp_path / "interposer.c", tmp_path / "interposer.so"
    source.write_text(INTERPOSER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    found = cards.run(
        """
        gpu = Gpu()
        print(json.dumps([error_of(driver.cuMemAlloc, 8), error_of(driver.cuMemAllocHost, 8),
                          error_of(driver.cuMemAllocPitch, 8, 8, 4)]))
        """,
        LD_PRELOAD=str(library),
    )
    assert found == [0, 0, 0]
