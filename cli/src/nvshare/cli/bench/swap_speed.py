"""How long the card stands still between two large programs: from the revocation to the next one's first kernel.

Beside it the floor, a serial pinned copy of the bytes that had to move, and the driver's own ways of moving memory, all
measured in the same run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from nvshare.cli.bench.confined import NoControlGroupError, memory_limited
from nvshare.cli.bench.moves import Moved, checkpoint, move
from nvshare.cli.bench.node import BenchNode
from nvshare.cli.bench.options import BenchOptions
from nvshare.cli.bench.oversubscribed import GRACE_SECONDS, oversubscribed_node, run_from_start
from nvshare.cli.bench.result import Row
from nvshare.cli.bench.scenario import Findings, Job, Scenario, Steps, gpu_words, hardware_words
from nvshare.cli.bench.turns import Switch, switches
from nvshare.cli.bench.ways import Loading, first_over_later, loadings, swaps
from nvshare.cli.bench.workload import LARGE, Bounds, Workload, numbered

SECONDS = 30.0  # of the clock, waits included
QUANTUM_SECONDS = 3.0
FEWEST_SWITCHES = 6
CGROUP_BYTES = 2 * 2**30
FINE = ("--progress-ms", "0", "--batch-iterations", "1")


@dataclass(frozen=True)
class Exchange:
    """Two programs that took turns. `first_over_later`: of the time per byte of a program's ways; None: too few."""

    name: str
    status: str
    switches: tuple[Switch, ...]
    names: dict[str, str]  # of programs, by allocation
    first_over_later: float | None
    loadings: tuple[Loading, ...]

    def rows(self, gpu: str, floor: Moved) -> list[Row]:
        """A line for each switch; `solo_ratio` is the floor over its time."""
        return [
            Row(
                name=f"{self.names[one.leaving]} -> {self.names[one.coming]}",
                gpu=gpu,
                status=self.status,
                seconds=one.seconds,
                solo_ratio=floor.seconds_of(one.out_bytes, one.in_bytes) / one.seconds,
            )
            for one in self.switches
        ]

    def summary(self, prefix: str, floor: Moved) -> dict[str, float]:
        """The medians over all switches."""
        if not self.switches:
            return {}
        floors = [floor.seconds_of(one.out_bytes, one.in_bytes) for one in self.switches]
        found = {
            "switch_seconds": median(one.seconds for one in self.switches),
            "switch_over_floor": median(one.seconds / own for one, own in zip(self.switches, floors, strict=True)),
            "floor_seconds": median(floors),
            "standstill_seconds": median((one.begun_ns - one.stopped_ns) / 1e9 for one in self.switches),
            "out_bytes": fmean(one.out_bytes for one in self.switches),
            "in_bytes": fmean(one.in_bytes for one in self.switches),
        }
        if self.first_over_later is not None:
            found["first_over_later"] = self.first_over_later
        found |= self._loading(floor)
        return {f"{prefix}{name}": value for name, value in found.items()}

    def _loading(self, floor: Moved) -> dict[str, float]:
        """Of the slowest that loaded beside a full card; its floor is the largest load on a free one, byte for byte,
        after a plain copy of as many bytes out."""
        beside = [one for one in self.loadings if one.beside]
        alone = [one for one in self.loadings if not one.beside]
        if not beside:
            return {}
        slowest = max(beside, key=lambda one: one.seconds)
        found = {"loading_seconds": slowest.seconds, "loading_bytes": float(slowest.grown_bytes)}
        largest = max(alone, key=lambda one: one.grown_bytes, default=None)
        if largest is not None:
            least_seconds = largest.seconds_per_byte * slowest.grown_bytes + floor.seconds_of(slowest.grown_bytes, 0)
            found["loading_over_floor"] = slowest.seconds / least_seconds
        return found


async def run_swap_speed(options: BenchOptions, steps: Steps) -> Findings:
    """Two large programs exchange the card with a point of progress for each iteration: as PyTorch allocates them, in
    the many blocks of a training step, and in a control group of 2 GiB, whose swapped memory the node's arena holds.

    `switch_seconds` is the median of all switches, `switch_over_floor` the same over a serial copy of the bytes that
    were moved for it; `standstill_seconds` from the leaving one's last kernel to the coming one's first;
    `first_over_later` compares the first ways of a program's memory off the card and back, byte for byte, with later
    ones: the time in which it had to move (ways.py). `loading_seconds` is how long the second program took to load what
    did not fit beside the first one, whose memory leaves for it meanwhile; `loading_over_floor` compares that with
    loading on a free card after a plain copy out. The variants have prefixes. `managed_` and `checkpoint_` are
    the driver's ways for as many bytes as one program has.
    """
    options = replace(options, quantum=options.quantum or QUANTUM_SECONDS)
    steps.expect(4 if options.emulated else 6)
    program = replace(LARGE, options=FINE)
    rows: list[Row] = []
    summary: dict[str, float] = {}
    async with oversubscribed_node(options) as node:
        gpu = gpu_words(node.gpus[0])
        steps.step("the floor: pinned copies")
        floor = await move(node, "pinned", program.memory_bytes, program.memory_bytes)
        rows.append(_moved_row("pinned copies, out and in", gpu, floor))
        variants: list[tuple[str, Workload]] = [
            ("", program),
            ("blocks_", replace(program, name="blocks", options=(*FINE, "--blocks"))),
        ]
        for prefix, variant in variants:
            steps.step(f"two {variant.name} programs take turns")
            jobs = [Job(one, _bounds(options)) for one in numbered(variant, 2)]
            exchange = await _exchange(node, options, variant.name, jobs)
            rows += exchange.rows(gpu, floor)
            summary |= exchange.summary(prefix, floor)
            if not prefix:
                summary["handovers"] = float(len(exchange.switches))
        steps.step("one of two in a control group of 2 GiB")
        found = await _confined(node, options, program, gpu, floor)
        rows += found[0]
        summary |= found[1]
        for name, moved in (await _driver_s_own_ways(node, options, program, steps)).items():
            rows.append(_moved_row(f"{name}, out and in", gpu, moved))
            if not moved.error:
                summary[f"{name}_seconds"] = moved.seconds
        return Findings(hardware_words(node.gpus), tuple(rows), summary)


def _bounds(options: BenchOptions) -> Bounds:
    return Bounds(seconds=options.seconds or SECONDS)


async def _exchange(node: BenchNode, options: BenchOptions, name: str, jobs: Sequence[Job]) -> Exchange:
    seconds = options.seconds or SECONDS
    run = await run_from_start(node, options, jobs, managed=True, limit_seconds=4 * seconds + GRACE_SECONDS)
    runs = dict(zip(run.allocations, (answer.progress for answer in run.answers), strict=True))
    found = tuple(one for one in switches(runs, run.timeline.grants, run.timeline.reports) if one.out_bytes)
    status = next((answer.status for answer in run.answers if not answer.correct), "ok")
    if status == "ok" and len(found) < FEWEST_SWITCHES:
        status = f"only {len(found)} switches"
    seen = run.timeline.grants, run.timeline.reports
    loaded = loadings({allocation: progress[0][0] for allocation, progress in runs.items()}, *seen)
    names = dict(zip(run.allocations, run.names, strict=True))
    return Exchange(name, status, found, names, first_over_later(swaps(*seen)), tuple(loaded))


async def _confined(
    node: BenchNode, options: BenchOptions, program: Workload, gpu: str, floor: Moved
) -> tuple[list[Row], dict[str, float]]:
    """The same with one of the programs in a control group that could not hold its own memory."""
    if options.emulated:
        reason = "an emulated card's memory is the host's"
        return [Row(f"in a control group: not here, {reason}", gpu, "ok", 0.0)], {}
    try:
        with memory_limited(CGROUP_BYTES) as prefix:
            free, bounded = numbered(replace(program, name="confined"), 2)
            settings = {"NVSHARE_HOST_MEMORY": "arena"}
            jobs = [Job(free, _bounds(options)), Job(bounded, _bounds(options), prefix=prefix, settings=settings)]
            exchange = await _exchange(node, options, "confined", jobs)
            return exchange.rows(gpu, floor), exchange.summary("confined_", floor)
    except NoControlGroupError as reason:
        return [Row(f"in a control group: not here, {reason}", gpu, "ok", 0.0)], {}


async def _driver_s_own_ways(
    node: BenchNode, options: BenchOptions, program: Workload, steps: Steps
) -> dict[str, Moved]:
    size_bytes = program.memory_bytes
    if options.emulated:  # its managed memory is the host's, and would really be written
        nothing = Moved(size_bytes, size_bytes, error="the card is emulated")
        return {"managed": nothing, "checkpoint": nothing}
    steps.step("managed memory, prefetched out and in")
    managed = await move(node, "managed", size_bytes, size_bytes)
    steps.step("the driver's checkpoint of a process")
    return {"managed": managed, "checkpoint": await checkpoint(node, size_bytes)}


def _moved_row(name: str, gpu: str, moved: Moved) -> Row:
    """A line for a way of moving memory; one that the driver does not have says so and fails nobody."""
    return Row(f"{name}: not here, {moved.error}" if moved.error else name, gpu, "ok", moved.seconds)


SWAP_SPEED = Scenario(
    "swap-speed",
    "From one large program's revocation to the next one's first kernel, over a plain copy.",
    run_swap_speed,
)
