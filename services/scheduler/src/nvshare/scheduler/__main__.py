"""`python -m nvshare.scheduler`: runs the scheduler of a node. `… replay FILE`: replays a history that one wrote."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from nvshare.bus.connection import Bus
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.runtime import run
from nvshare.bus.version import BUILD, PROTOCOL
from nvshare.bus.way_in import WayIn
from nvshare.scheduler.device_memory import Driver, DriverError
from nvshare.scheduler.generation import next_generation
from nvshare.scheduler.history import replay
from nvshare.scheduler.modes import Sharing
from nvshare.scheduler.policy import Policy
from nvshare.scheduler.service import NodeShare, Scheduler
from nvshare.scheduler.settings import Settings


def main() -> None:
    """Does what the arguments say, and exits with one line when it cannot."""
    match sys.argv[1:]:
        case []:
            serve()
        case ["replay", path]:
            sys.exit(replay_file(Path(path)))
        case _:
            sys.exit("usage: python -m nvshare.scheduler [replay FILE]")


def serve() -> None:
    """Runs the scheduler until it is told to stop."""
    try:
        settings = Settings()
        directory = NodeDirectory(settings.node_dir) if settings.node_dir else NodeDirectory.default()
        if not directory.path.is_dir():
            sys.exit(f"nvshare.scheduler: no node to serve in {directory.path}, run `nvshare up` first")
        way = WayIn(directory, "scheduler", settings.node, settings.nats_url)
        directory.scheduler.mkdir(parents=True, exist_ok=True)
        driver = Driver(settings.gpu_indices)
        share = NodeShare(
            node="",  # as the bus says
            folder=directory.scheduler,
            generation=next_generation(directory.scheduler, int(time.time())),
            default=Sharing(settings.default_mode, settings.default_quantum_ns, settings.max_wait_ns),
            logical_capacity_bytes=settings.gpu_memory,
            policy=Policy(
                protocol=PROTOCOL,
                build=BUILD,
                reserve_bytes=settings.reserve,
                overcommit_percent=settings.overcommit_percent,
                time_sharing=settings.time_sharing_means,
            ),
            gangs=settings.gangs == "auto",
        )
    except ValidationError as error:
        faults = "; ".join(f"NVSHARE_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        sys.exit(f"nvshare.scheduler: settings are wrong: {faults}")
    except (OSError, ValueError) as error:
        sys.exit(f"nvshare.scheduler: cannot use the node's folder: {error!r}")
    except DriverError as error:
        sys.exit(f"nvshare.scheduler: {error}")

    async def schedule(stop: asyncio.Event) -> None:
        connecting = asyncio.ensure_future(Bus.connect_node(way))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not connecting.done():  # told to stop before the bus was there
            connecting.cancel()
            return
        bus = connecting.result()
        try:
            await Scheduler(replace(share, node=bus.node), driver, bus).run(stop)
        finally:
            await bus.close()
            driver.close()

    run("scheduler", schedule)


def replay_file(path: Path) -> int:
    """Replays a history. Gives the exit status: 0 when every command is the same."""
    try:
        with path.open() as lines:
            entries, differences = replay(lines)
    except (OSError, ValueError) as error:
        print(f"cannot replay {path}: {error}", file=sys.stderr)
        return 2
    for difference in differences:
        print(f"{difference.gpu} entry {difference.entry} came out different:")
        for title, commands in (("recorded", difference.recorded), ("replayed", difference.replayed)):
            for command in commands:
                print(f"  {title}: {command}")
    print(
        f"{entries} entries, {len(differences)} with other commands" if differences else f"{entries} entries, identical"
    )
    return 1 if differences else 0


if __name__ == "__main__":
    main()
