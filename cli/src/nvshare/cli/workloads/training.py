"""The kernels of a training step, as a list of times, for an emulated card. Pure.

Those of one layer go from 0.05 ms, an activation or a norm, to 3 ms, a product or its gradient.
"""

LAYER_KERNELS_NS = (50_000, 400_000, 100_000, 1_600_000, 50_000, 800_000, 200_000, 3_000_000)


def training_step_kernels_ns(step_ns: int) -> list[int]:
    """Times of the kernels of a step that takes `step_ns`: layer after layer, the last of them cut short."""
    kernels_ns: list[int] = []
    left_ns = step_ns
    while left_ns > 0:
        kernels_ns.append(min(left_ns, LAYER_KERNELS_NS[len(kernels_ns) % len(LAYER_KERNELS_NS)]))
        left_ns -= kernels_ns[-1]
    return kernels_ns
