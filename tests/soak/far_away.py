"""Long windows with the API server slow, dead, and the hub cut off, beside a healthy one: what programs that take turns
on a GPU have of it, by the card's own account. In each a pod starts, a quota changes, and the scheduler is restarted.

    PYTHONPATH=tests/support python tests/soak/far_away.py --seconds 60
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from outages import SETTINGS, measured_outages
from whole_cluster import whole_cluster


async def main(seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="nvs-") as name:
        Path(name).chmod(0o755)
        async with whole_cluster(Path(name), gpus=1, **SETTINGS) as cluster:
            windows = await measured_outages(cluster, seconds)
    for name, window in windows.items():
        print(f"{name}: {window}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each window")
    asyncio.run(main(parser.parse_args().seconds))
