"""The annotations of pods that nvshare reads."""

PREFIX = "nvshare.com/"
MEMORY_LIMIT = PREFIX + "gpu-memory-limit"
CORE_LIMIT = PREFIX + "gpu-core-limit"
