"""All that this package knows of nvshare: what a process without mounts must be told to use it. Pure."""

from __future__ import annotations

VARIABLES = {"NVSHARE_SOCKET": "/run/nvshare/client/nvshare.sock"}
"""Variables that name a path, and the path in a container where the same is looked for without them."""


def show_gpus(environment: dict[str, str]) -> dict[str, str]:
    """Does what NVIDIA's container toolkit does by NVIDIA_VISIBLE_DEVICES: the process sees these GPUs and no other."""
    gpus = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if gpus and gpus not in ("all", "none", "void"):
        return {"CUDA_VISIBLE_DEVICES": gpus, **environment}
    return environment
