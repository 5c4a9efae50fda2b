"""A workload over several emulated GPUs whose parts wait for each other: in each iteration every card computes the next
sum, and then waits until its neighbour has, too. The card itself waits, as in a collective: its work is in flight until
the other's is done. Prints one JSON line.
"""

import ctypes

from cuda.bindings import driver

from nvshare.cli.workloads.emulated import Card, Sums, call
from nvshare.cli.workloads.loop import argument_parser, measure_as_asked, print_answer, wait_for_start

FLAG_BYTES = 4


class Ring:
    """Cards of which each waits for the one before it, once a round. They may also read each other's memory."""

    def __init__(self, cards: list[Card]) -> None:
        self._cards = cards
        self._round = 0
        shared = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
        self._flags = int(call(driver.cuMemHostAlloc, FLAG_BYTES * len(cards), shared))
        ctypes.memset(self._flags, 0, FLAG_BYTES * len(cards))
        for place, card in enumerate(cards):
            card.select()
            call(driver.cuCtxEnablePeerAccess, cards[place - 1].context, 0)

    def meet(self) -> None:
        """Launch the end of a round on each card."""
        self._round += 1
        for place, card in enumerate(self._cards):
            card.select()
            before = (place - 1) % len(self._cards)
            call(driver.cuStreamWriteValue32, card.stream, self._flags + FLAG_BYTES * place, self._round, 0)
            waits = driver.CUstreamWaitValue_flags.CU_STREAM_WAIT_VALUE_GEQ
            call(driver.cuStreamWaitValue32, card.stream, self._flags + FLAG_BYTES * before, self._round, waits)


def main() -> None:
    """Run the workload as the command line says."""
    parser = argument_parser(__doc__ or "")
    parser.add_argument("--memory-bytes", type=int, required=True, help="of all buffers, on each card")
    parser.add_argument("--kernel-ns", type=int, required=True, help="modelled time of an iteration")
    arguments = parser.parse_args()
    call(driver.cuInit, 0)
    cards = [Card(index) for index in range(arguments.gpus)]
    ring = Ring(cards)
    if arguments.wait_for_memory:
        wait_for_start()
    works = [Sums(card, arguments.memory_bytes, arguments.kernel_ns, arguments.seed) for card in cards]

    def launch() -> None:
        for work in works:
            work.step()
        ring.meet()

    def synchronize() -> None:
        for card in cards:
            card.synchronize()

    measurement = measure_as_asked(arguments, launch, synchronize)
    checksums = [work.checksum() for work in works]
    correct = checksums == [work.expected_checksum() for work in works]
    print_answer(arguments.name, measurement, sum(checksums) % 2**64, correct=correct)


if __name__ == "__main__":
    main()
