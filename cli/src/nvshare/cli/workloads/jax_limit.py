"""How much memory JAX preallocates: prints one JSON line with its own figure. Run it with the Python that has JAX."""

import json

import jax


def main() -> None:
    """Compute once, so that the memory is there, and tell JAX's limit."""
    array = jax.numpy.ones((1024, 1024))
    total = float((array @ array).sum())
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    answer = {
        "event": "result",
        "platform": device.platform,
        "limit_bytes": int(stats.get("bytes_limit", 0)),
        "correct": total == 1024.0**3,
    }
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
