"""`python -m nvshare.device_plugin`: runs the device plugin of a node."""

from __future__ import annotations

import asyncio
import sys

from pydantic import ValidationError

from nvshare import preload
from nvshare.bus.runtime import run
from nvshare.bus.version import BUILD, VERSION
from nvshare.device_plugin.library import install
from nvshare.device_plugin.nvml_events import NvmlDevices
from nvshare.device_plugin.service import DevicePlugin
from nvshare.device_plugin.settings import Settings


def main() -> None:
    """Serves until it is told to stop; exits with one line when it cannot begin."""
    try:
        settings = Settings()
        install(preload.library_path(), settings.libraries, VERSION, BUILD, settings.selinux_label)
    except ValidationError as error:
        faults = "; ".join(f"NVSHARE_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        sys.exit(f"nvshare.device_plugin: settings are wrong: {faults}")
    except OSError as error:
        sys.exit(f"nvshare.device_plugin: the library cannot be installed for containers: {error}")
    source = NvmlDevices(settings.gpu_indices, settings.ignored, settings.gpu_memory)

    async def serve(stop: asyncio.Event) -> None:
        await DevicePlugin(settings, source).run(stop)

    run("device-plugin", serve)


if __name__ == "__main__":
    main()
