"""Two large programs in turns; one dies in its turn, just after the other one's memory went out: how soon is the
survivor at its full speed again?"""

import asyncio
import contextlib
import time
from dataclasses import replace

from nvshare.cli.bench.moves import move
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import GRACE_SECONDS, oversubscribed_node, run_from_start
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, gpu_words, hardware_words, started
from nvshare.cli.bench.throughput import Progress, iterations_at
from nvshare.cli.bench.timeline import Timeline
from nvshare.cli.bench.workload import LARGE, Bounds, RunningWorkload, numbered
from nvshare.cli.errors import CommandError

SECONDS = 8.0  # that the survivor is measured after the other one's death
QUANTUM_SECONDS = 2.0
RECOVERED = 0.98
WINDOW_NS = 250_000_000
POLL_SECONDS = 0.005


def recovered_ns(progress: Progress, since_ns: int, full_speed: float, share: float = RECOVERED) -> int | None:
    """The first moment after `since_ns` from which a program is at full speed (iterations/s) again; None: never.

    It is so when the next quarter of a second has this `share` of the iterations of full speed.
    """
    for place, (time_ns, done) in enumerate(progress):
        if time_ns <= since_ns or place == 0 or time_ns + WINDOW_NS > progress[-1][0]:
            continue
        later = iterations_at(progress, time_ns + WINDOW_NS)
        if (later - done) / (WINDOW_NS / 1e9) >= share * full_speed:
            # The point is the end of a batch of so many iterations.
            begun_ns = time_ns - round((done - progress[place - 1][1]) / full_speed * 1e9)
            return max(begun_ns, since_ns)
    return None


async def run_survivor(options: BenchOptions, steps: Steps) -> Findings:
    """`survivor_ratio` is the survivor's speed from its recovery to its end over its solo speed.

    `recovery_seconds` is the time from the other one's death to full speed, `floor_seconds` a pinned copy of what the
    survivor had to get back, measured in the same run; `recovery_over_floor_seconds` is their difference.
    """
    steps.expect(3)
    seconds = options.seconds or SECONDS
    options = replace(options, quantum=options.quantum or QUANTUM_SECONDS)
    fine = ("--progress-ms", "0", "--batch-iterations", "5")
    program = replace(LARGE, options=fine)
    async with oversubscribed_node(options) as node:
        steps.step("one alone, without nvshare")
        bounds = Bounds(seconds=seconds)
        alone = await run_from_start(
            node, options, [Job(program, bounds)], managed=False, limit_seconds=seconds + GRACE_SECONDS
        )
        full_speed = alone.answers[0].iterations_per_second
        steps.step("two at once, under nvshare, until one is killed")
        # The survivor's work is bounded by its own clock: turns until the other one's death, then what is measured.
        quantum_seconds = options.quantum if isinstance(options.quantum, float) else QUANTUM_SECONDS
        jobs = [Job(one, Bounds(seconds=seconds + 8 * quantum_seconds)) for one in numbered(program, 2)]
        async with contextlib.AsyncExitStack() as stack:
            timeline = await stack.enter_async_context(Timeline.of(node.directory))
            survivor, victim = await stack.enter_async_context(
                started(node, options, jobs, managed=True, wait="--wait-for-memory")
            )
            away_bytes = await swapped_out(timeline, survivor, victim)
            died_ns = victim.kill()
            answer = await survivor.answer()
        steps.step("the floor: pinned copies of the same bytes")
        floor = await move(node, "pinned", away_bytes, away_bytes)
        floor_seconds = floor.seconds_of(0, away_bytes)
        back_ns = recovered_ns(answer.progress, died_ns, full_speed)
        gpu = gpu_words(node.gpus[0])
        rows = (
            Row(f"{program.name} alone", gpu, alone.answers[0].status, alone.answers[0].seconds, full_speed),
            Row(
                name="survivor",
                gpu=gpu,
                status=answer.status if back_ns is not None else "never at full speed again",
                seconds=(answer.ended_ns - died_ns) / 1e9,
                iterations_per_second=answer.iterations_per_second,
                checksum=answer.checksum,
            ),
        )
        summary = {"floor_seconds": floor_seconds, "away_bytes": float(away_bytes)}
        if back_ns is not None:
            done = answer.iterations - iterations_at(answer.progress, back_ns)
            summary = {
                "survivor_ratio": done / ((answer.ended_ns - back_ns) / 1e9) / full_speed,
                "recovery_seconds": (back_ns - died_ns) / 1e9,
                "recovery_over_floor_seconds": (back_ns - died_ns) / 1e9 - floor_seconds,
                **summary,
            }
        return Findings(hardware_words(node.gpus), rows, summary)


async def swapped_out(timeline: Timeline, survivor: RunningWorkload, victim: RunningWorkload) -> int:
    """Wait until all of the victim's memory is on the card and the survivor's has just gone out, after both had a turn;
    bytes that the survivor misses. Raises CommandError when that does not come about."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        own, other = timeline.last_report(survivor.allocation), timeline.last_report(victim.allocation)
        if own is not None and other is not None:
            both_had_a_turn = own.swapped_in_bytes > 0 and own.swapped_out_bytes > own.swapped_in_bytes
            if both_had_a_turn and own.resident_bytes < own.needed_bytes and other.resident_bytes >= other.needed_bytes:
                return own.needed_bytes - own.resident_bytes
        await asyncio.sleep(POLL_SECONDS)
    raise CommandError("the two programs did not take turns: nothing was moved off the card")


SURVIVOR = Scenario(
    "survivor", "One of two large programs dies in its turn: how soon is the other at full speed?", run_survivor
)
