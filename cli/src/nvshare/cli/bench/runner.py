"""Runs scenarios by name."""

from collections.abc import Mapping
from datetime import UTC, datetime

from nvshare.cli.bench.busy import PAIR_SMALL_AUTO, QUAD_SMALL_AUTO, WEIGHTED
from nvshare.cli.bench.core_quota_live import QUOTA_LIVE
from nvshare.cli.bench.core_quotas import QUOTA_PAIRS, QUOTA_SOLO
from nvshare.cli.bench.core_quotas_two_gpus import QUOTA_TWO_GPUS
from nvshare.cli.bench.demo import DEMO
from nvshare.cli.bench.gang_pair import GANG_PAIR
from nvshare.cli.bench.grant_latency import GRANT_LATENCY
from nvshare.cli.bench.growth import GROW_AFTER_ADMISSION
from nvshare.cli.bench.latency import BUSY_PLUS_BURSTY, PRIORITY
from nvshare.cli.bench.launch_overhead import LAUNCH_OVERHEAD
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.pairs import PAIR_LARGE_SERIAL, PAIR_SMALL
from nvshare.cli.bench.paused import PAUSED
from nvshare.cli.bench.policies import POLICIES
from nvshare.cli.bench.quotas import MEMORY_QUOTA
from nvshare.cli.bench.residents import TRIO_IDLE, TRIO_SMALL_FIT
from nvshare.cli.bench.result import Result
from nvshare.cli.bench.scenario import Scenario, Steps
from nvshare.cli.bench.solo import SOLO_LARGE, SOLO_SMALL
from nvshare.cli.bench.survivor import SURVIVOR
from nvshare.cli.bench.swap_speed import SWAP_SPEED
from nvshare.cli.bench.turn_taking import PAIR_LARGE_AUTO, QUAD_LARGE_AUTO
from nvshare.cli.bench.two_gpus import TWO_GPUS
from nvshare.cli.errors import CommandError

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        SOLO_LARGE,
        SOLO_SMALL,
        PAIR_SMALL,
        PAIR_LARGE_SERIAL,
        PAIR_LARGE_AUTO,
        QUAD_LARGE_AUTO,
        TRIO_SMALL_FIT,
        TRIO_IDLE,
        SURVIVOR,
        GROW_AFTER_ADMISSION,
        SWAP_SPEED,
        MEMORY_QUOTA,
        PAIR_SMALL_AUTO,
        QUAD_SMALL_AUTO,
        WEIGHTED,
        BUSY_PLUS_BURSTY,
        PRIORITY,
        PAUSED,
        POLICIES,
        QUOTA_SOLO,
        QUOTA_PAIRS,
        QUOTA_TWO_GPUS,
        QUOTA_LIVE,
        TWO_GPUS,
        GANG_PAIR,
        LAUNCH_OVERHEAD,
        GRANT_LATENCY,
        DEMO,
    )
}


class SilentSteps:
    """Shows nothing."""

    def expect(self, count: int) -> None:
        """Nothing to show."""

    def step(self, text: str) -> None:
        """Nothing to show."""


def find_scenario(name: str) -> Scenario:
    """A scenario by its name. Raises CommandError when there is none."""
    scenario = SCENARIOS.get(name)
    if scenario is None:
        raise CommandError(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}", exit_code=2)
    return scenario


async def run_scenario(name: str, options: BenchOptions, steps: Steps | None = None) -> Result:
    """Run a scenario on a node of its own; returns what it found.

    Raises CommandError when there is no such scenario, no GPU, or a program fails.
    """
    scenario = find_scenario(name)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    findings = await scenario.run(options, steps if steps is not None else SilentSteps())
    return Result(scenario.name, date, findings.hardware, options.command, findings.rows, findings.summary)
