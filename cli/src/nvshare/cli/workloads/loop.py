"""The measured loop of a workload: launches in batches, bounded by time or by number, with points of progress.

Only the standard library: a workload runs with whatever Python its framework is installed for.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

BATCH_ITERATIONS = 20  # between two synchronisations
WARM_UP_ITERATIONS = 2 * BATCH_ITERATIONS
PROGRESS_NS = 100_000_000


@dataclass(frozen=True)
class Measurement:
    """What a loop did. Times are CLOCK_MONOTONIC, which all processes of a host share.

    `progress` are points (time in ns, iterations done by then), from (started_ns, 0) to (ended_ns, iterations).
    """

    iterations: int
    started_ns: int
    ended_ns: int
    progress: tuple[tuple[int, int], ...]


def measure(
    launch: Callable[[], None], synchronize: Callable[[], None], *, seconds: float | None, iterations: int | None
) -> Measurement:
    """Launch until `iterations` are done or `seconds` are over, whichever comes first; at least one is given."""
    started = time.monotonic_ns()
    ends = None if seconds is None else started + round(seconds * 1e9)
    done = 0
    now = started
    progress = [(started, 0)]
    while (iterations is None or done < iterations) and (ends is None or now < ends):
        batch = BATCH_ITERATIONS if iterations is None else min(BATCH_ITERATIONS, iterations - done)
        for _ in range(batch):
            launch()
        synchronize()
        done += batch
        now = time.monotonic_ns()
        if now - progress[-1][0] >= PROGRESS_NS:
            progress.append((now, done))
    if progress[-1] != (now, done):
        progress.append((now, done))
    return Measurement(done, started, now, tuple(progress))


def warm_up(launch: Callable[[], None], synchronize: Callable[[], None]) -> None:
    """Launch a little, so that what happens once only is not measured."""
    for _ in range(WARM_UP_ITERATIONS):
        launch()
    synchronize()


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all workloads have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--name", required=True, help="name in the answer")
    parser.add_argument("--gpus", type=int, default=1, help="do the same on each of so many")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--iterations", type=int, help="end after so many iterations")
    parser.add_argument(
        "--wait-for-start", action="store_true", help="say `ready` after the warm-up, and go on after a line on stdin"
    )
    return parser


def wait_for_start() -> None:
    """Tell the harness that the warm-up is done, and wait for its line."""
    print(json.dumps({"event": "ready"}), flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the harness went away before the start")


def print_answer(name: str, measurement: Measurement, checksum: int, *, correct: bool) -> None:
    """The workload's answer: one JSON line."""
    seconds = (measurement.ended_ns - measurement.started_ns) / 1e9
    answer = {
        "event": "result",
        "name": name,
        "seconds": seconds,
        "iterations_per_second": measurement.iterations / seconds,
        "checksum": f"{checksum:016x}",
        "correct": correct,
        **asdict(measurement),
    }
    print(json.dumps(answer), flush=True)
