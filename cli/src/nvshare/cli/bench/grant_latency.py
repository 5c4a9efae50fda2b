"""How long a call waits for the lock in serial mode, when whoever holds it is idle."""

import asyncio
import contextlib
import math
from collections.abc import Sequence

from nvshare.cli.bench.node import temporary_node
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Scenario, Steps, gpu_words, hardware_words, node_options
from nvshare.cli.bench.timed_launches import TimedLaunches, build, timed_launches
from nvshare.cli.errors import CommandError
from nvshare.cli.node_query import fetch_status

IDLE_SECONDS = 0.04  # between two calls: the library says after 20 to 30 ms that its program wants nothing
STEPS = 20


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


async def run_grant_latency(options: BenchOptions, steps: Steps) -> Findings:
    """Clients launch in turns, round robin, each when the one before has been idle for a while.

    A sample is the time from the gated call to its return. `hand_overs` counts how often the lock moved meanwhile, and
    must be about the number of samples: else the calls did not wait for a grant.
    """
    if options.clients < 2:
        raise CommandError(f"--clients {options.clients}: a hand-over needs at least 2")
    steps.expect(STEPS)
    samples_ms: list[list[float]] = [[] for _ in range(options.clients)]
    async with temporary_node(node_options(options, mode="serial")) as node, contextlib.AsyncExitStack() as stack:
        program = build(node.directory.path)
        clients: list[TimedLaunches] = []
        for number in range(options.clients):
            environment = await stack.enter_async_context(
                node.environment(f"client-{number + 1}", [node.gpus[0]], managed=True)
            )
            log = node.logs / f"client-{number + 1}.log"
            clients.append(
                await stack.enter_async_context(timed_launches(program, environment, log, emulated=options.emulated))
            )
        await asyncio.gather(*(client.ready() for client in clients))
        hand_overs_before = sum(client.hand_overs for client in (await fetch_status(node.directory)).gpus[0].clients)
        for sample in range(options.samples):
            if sample * STEPS // options.samples != (sample - 1) * STEPS // options.samples:
                steps.step(f"{options.clients} clients in turns, {options.samples} calls")
            turn = sample % options.clients
            await asyncio.sleep(IDLE_SECONDS)
            samples_ms[turn].append(await clients[turn].launch_ns(1) / 1e6)
        # Reports come at least once a second; the last hand-overs may not be in yet.
        await asyncio.sleep(1.1)
        hand_overs = sum(client.hand_overs for client in (await fetch_status(node.directory)).gpus[0].clients)
        rows = tuple(
            Row(
                name=f"client-{number + 1}",
                gpu=gpu_words(node.gpus[0]),
                status="ok",
                seconds=sum(own) / 1e3,
                iterations_per_second=1e3 * len(own) / sum(own),
            )
            for number, own in enumerate(samples_ms)
            if own
        )
        every = [sample for own in samples_ms for sample in own]
        summary = {
            "p50_ms": percentile(every, 50),
            "p99_ms": percentile(every, 99),
            "max_ms": max(every),
            "samples": float(len(every)),
            "clients": float(options.clients),
            "hand_overs": float(hand_overs - hand_overs_before),
        }
        return Findings(hardware_words(node.gpus), rows, summary)


GRANT_LATENCY = Scenario(
    "grant-latency",
    "From a waiting client's gated call to its return, in serial mode, the holder idle.",
    run_grant_latency,
)
