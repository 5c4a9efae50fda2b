"""`python -m nvshare.quota_watcher`: runs the watcher of a cluster."""

import asyncio
import contextlib
import os
import sys

from pydantic import ValidationError

from nvshare.bus.api_access import Access, AccessError, find_access
from nvshare.bus.connection import Bus
from nvshare.bus.hub import NOTICES, Hub
from nvshare.bus.hub_access import HubAccess, HubAccessError
from nvshare.bus.hub_server import QUOTAS
from nvshare.bus.runtime import run
from nvshare.quota_watcher.api import Api
from nvshare.quota_watcher.health import health_server
from nvshare.quota_watcher.service import Watcher
from nvshare.quota_watcher.settings import Settings
from nvshare.v1.kubernetes_pb2 import PodNotice, PodQuota

_NAME = "quota-watcher"


def main() -> None:
    try:
        settings = Settings()
        access = find_access(settings.api_server, settings.kubeconfig, os.environ)
        access.tls()  # certificates that cannot be used are said now
        hub = HubAccess.read(settings.hub_url, settings.hub_credentials, settings.hub_ca)
    except (ValidationError, AccessError, HubAccessError) as error:
        print(f"quota-watcher: {error}", file=sys.stderr)
        sys.exit(2)
    run(_NAME, lambda stop: _run(settings, access, hub, stop))


async def _run(settings: Settings, access: Access, hub: HubAccess, stop: asyncio.Event) -> None:
    """Until `stop`; also while it waits for the hub."""
    working = asyncio.create_task(_watch(settings, access, hub))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _watch(settings: Settings, access: Access, hub_access: HubAccess) -> None:
    """Until it is cancelled."""
    watcher: Watcher | None = None

    def hub_changed(reachable: bool) -> None:
        if watcher is not None:
            watcher.hub_changed(reachable)

    async with contextlib.AsyncExitStack() as stack:
        if settings.health_port:
            await stack.enter_async_context(health_server(lambda: watcher, settings.health_port))
        api = await stack.enter_async_context(Api(access))
        bus = await Bus.connect_hub(hub_access, name=_NAME)
        stack.push_async_callback(bus.close)
        hub = await stack.enter_async_context(Hub(bus, on_reachable=hub_changed))
        watcher = Watcher(api, hub.bucket(QUOTAS, PodQuota))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watcher.run())
            tasks.create_task(hub.consume_kept(NOTICES, _NAME, PodNotice, watcher.handle_notice))


if __name__ == "__main__":
    main()
