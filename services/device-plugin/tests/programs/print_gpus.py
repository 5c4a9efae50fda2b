"""Prints the GPUs of the node, as JSON, each time that they change."""

import asyncio
import json
import sys

import structlog

from nvshare.device_plugin.nvml_events import NvmlDevices


async def main() -> None:
    devices = NvmlDevices()

    def show() -> None:
        print(json.dumps([gpu.healthy for gpu in devices.gpus or ()]), flush=True)

    await devices.watch(show)


structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
asyncio.run(main())
