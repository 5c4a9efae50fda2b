"""Programs with known data on the card, and how a test has it moved."""

from typing import Any

from libnvshare.tests.data.conftest import RUNNING, WAITING, Client, Program, Run, ScriptedRelay

from nvshare.v1.client_pb2 import Report

# Data that sums() reads back on the card from `blocks` (addresses and sizes), whoever made them.
DATA = """
    STRIDE = 1021
    gpu = Gpu()
    out = gpu.allocate(MIB)

    def fill(seed):
        for index, (address, size_bytes) in enumerate(blocks):
            gpu.launch("fill", address, size_bytes // 4, STRIDE, seed + index, 1000)

    def sums():
        for index, (address, size_bytes) in enumerate(blocks):
            gpu.launch("checksum", out + 8 * index, address, size_bytes // 4, STRIDE, 1000)
        data = gpu.read(out, 8 * len(blocks))
        return [int.from_bytes(data[8 * index : 8 * index + 8], "little") for index in range(len(blocks))]

    def expected(seed):
        return [
            (seed + index) * sum(range(1, size_bytes // 4 + 1, STRIDE)) % 2**64
            for index, (_, size_bytes) in enumerate(blocks)
        ]
"""
# Blocks of cuMemAlloc with known data. `sizes` in MiB.
FILLED = (
    DATA
    + """
    blocks = [(gpu.allocate(int(size * MIB)), int(size * MIB)) for size in {sizes}]
    fill(5)
    gpu.synchronize()
    say(filled=True)
"""
)
# One handle of the program's own, mapped at `address`, with known data.
MAPPED = (
    DATA
    + """
    SIZE = {mib} * MIB
    address, handle = reserve(4 * SIZE), create(SIZE, exportable={exportable})
    attach(address, SIZE, handle)
    blocks = [(address, SIZE)]
    fill(5)
    gpu.synchronize()
    say(filled=True)
"""
)
CHECKS = """
    while hear() == "check":
        say(right=sums() == expected(5))
"""


def mapped(mib: int, *, exportable: bool = False) -> str:
    """A program with a handle of this size, mapped at `address`, with known data."""
    return MAPPED.format(mib=mib, exportable=exportable)


def started(relay: ScriptedRelay, run: Run, source: str, **environment: str) -> tuple[Program, Client]:
    """A program that has said that its memory is filled, and its client."""
    program = run(source, **environment)
    client = relay.client_with_plan()
    program.said()
    return program, client


def move(client: Client, target_bytes: int, **fields: Any) -> Report:
    """Takes the right to launch away and has it keep so much; returns the report that says that no more is there."""
    since = len(client.reports)
    epoch = client.grant(may_launch=False, resident_bytes=target_bytes, **fields)
    return client.report_where(
        lambda report: report.epoch == epoch and report.state == WAITING and report.resident_bytes <= target_bytes,
        since,
    )


def bring_back(client: Client, **fields: Any) -> Report:
    """Lets it have all and launch; returns the report that says that it does."""
    since = len(client.reports)
    epoch = client.grant(**fields)
    return client.report_where(
        lambda report: (
            report.epoch == epoch and report.state == RUNNING and report.resident_bytes == report.needed_bytes
        ),
        since,
    )


def end_right(program: Program) -> None:
    """A program that ends with CHECKS finds its data right, and ends well."""
    program.tell("check")
    assert program.said() == {"right": True}
    program.tell("end")
    program.end()
