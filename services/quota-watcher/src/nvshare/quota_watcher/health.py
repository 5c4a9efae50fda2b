"""`/livez` and `/readyz` for kubelet's probes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from nvshare.quota_watcher.service import Watcher

_STUCK_SECONDS = 180.0  # longer than a stream may be silent, and than a server may ask to be left alone


@contextlib.asynccontextmanager
async def health_server(
    find_watcher: Callable[[], Watcher | None], port: int, host: str = "0.0.0.0"
) -> AsyncIterator[int]:
    """Answers on `port` (0: any that is free) while the context is open; gives the port.

    It is alive while following the pods goes on, if only by trying, also before there is a watcher because it waits
    for the hub; it is ready when all quotas are in the bucket.
    """

    async def alive(_: web.Request) -> web.Response:
        watcher = find_watcher()
        if watcher is None:
            return _answer(True, "waiting for the hub")
        idle = asyncio.get_running_loop().time() - watcher.follower.active_at
        return _answer(idle < _STUCK_SECONDS, f"the last answer or try was {idle:.0f} s ago")

    async def ready(_: web.Request) -> web.Response:
        watcher = find_watcher()
        good = watcher is not None and watcher.ready
        return _answer(good, "all quotas are published" if good else "not all quotas are published")

    application = web.Application()
    application.router.add_get("/livez", alive)
    application.router.add_get("/readyz", ready)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _answer(good: bool, text: str) -> web.Response:
    return web.Response(status=200 if good else 503, text=text + "\n")
