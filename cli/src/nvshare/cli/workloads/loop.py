"""The measured loop of a workload: launches in batches, bounded by time or by number, with points of progress.

Only the standard library: a workload runs with whatever Python its framework is installed for.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

BATCH_ITERATIONS = 20  # between two synchronisations
WARM_UP_ITERATIONS = 2 * BATCH_ITERATIONS
PROGRESS_MS = 100.0
KERNELS = ("sums", "graphs", "products", "training")
GRAPH_KERNELS = 10  # even: buffers that change places are where they were after each launch


@dataclass(frozen=True)
class Rhythm:
    """How a loop goes: `batch_iterations` between two synchronisations, a point of progress at most each `progress_ms`,
    and after each `burst_iterations` a pause of `pause_ms` (0: none).

    With a `seed` other than 0 bursts and pauses are of random length, up to twice as long. Before each launch the
    program computes for a time between the two of `gap_us`, without a wait for the card.
    """

    batch_iterations: int = BATCH_ITERATIONS
    progress_ms: float = PROGRESS_MS
    burst_iterations: int = BATCH_ITERATIONS
    pause_ms: float = 0.0
    seed: int = 0
    gap_us: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Measurement:
    """What a loop did. Times are CLOCK_MONOTONIC, which all processes of a host share.

    `progress` are points (time in ns, iterations done by then), from (started_ns, 0) to (ended_ns, iterations).
    `bursts_us` says how long each burst took, from its first launch to the end of its work; empty without pauses.
    """

    iterations: int
    started_ns: int
    ended_ns: int
    progress: tuple[tuple[int, int], ...]
    bursts_us: tuple[int, ...] = ()


def measure(
    launch: Callable[[], None],
    synchronize: Callable[[], None],
    *,
    seconds: float | None,
    iterations: int | None,
    rhythm: Rhythm = Rhythm(),
    told: threading.Event | None = None,
    after_batch: Callable[[float], None] | None = None,
) -> Measurement:
    """Launch until `iterations` are done, `seconds` are over or, after a batch, `told` is set, whichever comes first.
    At least one is given.

    `after_batch` is called with the share of the whole that is done, from 0 to 1.
    """
    chance = random.Random(rhythm.seed)
    gaps = random.Random(0)

    def vary() -> float:
        return chance.uniform(0.0, 2.0) if rhythm.seed else 1.0

    started = time.monotonic_ns()
    ends = None if seconds is None else started + round(seconds * 1e9)
    done = 0
    burst_ends = round(rhythm.burst_iterations * vary())
    now = burst_began = started
    bursts_us: list[int] = []
    progress = [(started, 0)]
    while (
        (iterations is None or done < iterations)
        and (ends is None or now < ends)
        and not (done > 0 and told is not None and told.is_set())
    ):
        batch = rhythm.batch_iterations if iterations is None else min(rhythm.batch_iterations, iterations - done)
        for _ in range(batch):
            if rhythm.gap_us[1]:
                compute(gaps.uniform(*rhythm.gap_us))
            launch()
        synchronize()
        done += batch
        now = time.monotonic_ns()
        if now - progress[-1][0] >= rhythm.progress_ms * 1e6:
            progress.append((now, done))
        if after_batch is not None:
            share = (now - started) / (ends - started) if ends is not None else 0.0
            after_batch(min(1.0, max(share, done / iterations if iterations is not None else 0.0)))
        if rhythm.pause_ms and done >= burst_ends:
            bursts_us.append((now - burst_began) // 1000)
            time.sleep(rhythm.pause_ms * vary() / 1e3)
            burst_ends = done + round(rhythm.burst_iterations * vary())
            burst_began = time.monotonic_ns()
    if progress[-1] != (now, done):
        progress.append((now, done))
    return Measurement(done, started, now, tuple(progress), tuple(bursts_us))


def compute(time_us: float) -> None:
    """Keep the thread's core busy for so long: a sleep would be many times longer than asked for."""
    ends_ns = time.monotonic_ns() + round(time_us * 1e3)
    while time.monotonic_ns() < ends_ns:
        pass


def warm_up(launch: Callable[[], None], synchronize: Callable[[], None], iterations: int = WARM_UP_ITERATIONS) -> None:
    """Launch a little, so that what happens once only is not measured."""
    for _ in range(iterations):
        launch()
    synchronize()


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that all workloads have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--name", required=True, help="name in the answer")
    parser.add_argument("--gpus", type=int, default=1, help="do the same on each of so many")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--iterations", type=int, help="end after so many iterations")
    parser.add_argument("--until-told", action="store_true", help="end at a line on stdin, after the one for the start")
    parser.add_argument("--seed", type=int, default=1, help="of what the workload computes with")
    parser.add_argument(
        "--wait-for-start", action="store_true", help="say `ready` after the warm-up, and go on after a line on stdin"
    )
    parser.add_argument(
        "--wait-for-memory", action="store_true", help="the same with the card in use, but before any memory is"
    )
    default = Rhythm()
    parser.add_argument("--batch-iterations", type=int, default=default.batch_iterations, help="between two waits")
    parser.add_argument("--progress-ms", type=float, default=default.progress_ms, help="between two points of progress")
    parser.add_argument("--burst-iterations", type=int, default=default.burst_iterations, help="between two pauses")
    parser.add_argument("--pause-ms", type=float, default=default.pause_ms, help="length of a pause; 0: none")
    parser.add_argument(
        "--gap-us",
        type=float,
        nargs=2,
        default=default.gap_us,
        metavar=("FROM", "TO"),
        help="the program computes for so long before each launch",
    )
    parser.add_argument("--rhythm-seed", type=int, default=default.seed, help="bursts and pauses vary; 0: they do not")
    parser.add_argument(
        "--kernels",
        choices=KERNELS,
        default=KERNELS[0],
        help=f"an iteration is one sum, a CUDA graph of {GRAPH_KERNELS} sums, a product, which takes long, or a "
        "step of training",
    )
    parser.add_argument("--blocks", action="store_true", help="memory in the blocks of a training step")
    parser.add_argument("--grow-to-bytes", type=int, default=0, help="grow so far, in steps over the whole run")
    return parser


def rhythm_of(arguments: argparse.Namespace) -> Rhythm:
    """The rhythm that the command line asks for."""
    return Rhythm(
        arguments.batch_iterations,
        arguments.progress_ms,
        arguments.burst_iterations,
        arguments.pause_ms,
        arguments.rhythm_seed,
        (arguments.gap_us[0], arguments.gap_us[1]),
    )


def wait_for_start() -> None:
    """Tell the harness that the program could go on, and wait for its line."""
    print(json.dumps({"event": "ready"}), flush=True)
    if not sys.stdin.readline():
        raise SystemExit("the harness went away before the start")


def told_to_end() -> threading.Event:
    """Set when the harness writes another line, or goes away."""
    told = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        told.set()

    threading.Thread(target=listen, name="told-to-end", daemon=True).start()
    return told


def measure_as_asked(
    arguments: argparse.Namespace,
    launch: Callable[[], None],
    synchronize: Callable[[], None],
    after_batch: Callable[[float], None] | None = None,
) -> Measurement:
    """Warm up, wait for the harness where that is asked for, and measure by the arguments that all workloads have."""
    warm_up(launch, synchronize, min(WARM_UP_ITERATIONS, 2 * arguments.batch_iterations))
    if arguments.wait_for_start:
        wait_for_start()
    return measure(
        launch,
        synchronize,
        seconds=arguments.seconds,
        iterations=arguments.iterations,
        rhythm=rhythm_of(arguments),
        told=told_to_end() if arguments.until_told else None,
        after_batch=after_batch,
    )


def print_answer(
    name: str, measurement: Measurement, checksum: int, *, correct: bool, gpus: Sequence[str] = ()
) -> None:
    """The workload's answer: one JSON line. `finished_ns` is now, with the results checked; `gpus` are UUIDs."""
    seconds = (measurement.ended_ns - measurement.started_ns) / 1e9
    answer = {
        "event": "result",
        "name": name,
        "seconds": seconds,
        "iterations_per_second": measurement.iterations / seconds,
        "checksum": f"{checksum:016x}",
        "correct": correct,
        "gpus": list(gpus),
        "finished_ns": time.monotonic_ns(),
        **asdict(measurement),
    }
    print(json.dumps(answer), flush=True)
