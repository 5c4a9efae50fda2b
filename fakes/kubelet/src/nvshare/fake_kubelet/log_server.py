"""Kubelet's own HTTP server, as much of it as the API server needs for `kubectl logs`."""

from __future__ import annotations

import asyncio

from aiohttp import web

from nvshare.fake_kubelet.node import Node


async def serve_logs(node: Node, host: str, port: int = 0) -> tuple[web.AppRunner, int]:
    """Serves `/containerLogs/<namespace>/<pod>/<container>` over plain HTTP (`?previous=true`: of the start before).

    Returns what to clean up, and the port.
    """

    async def logs(request: web.Request) -> web.Response:
        wanted = (request.match_info["namespace"], request.match_info["pod"])
        container = request.match_info["container"]
        for worker in reversed(node.workers.values()):
            record = worker.record
            if (worker.pod.namespace, worker.pod.name) == wanted and container in record.containers:
                before = request.query.get("previous") in ("true", "1")
                path = worker.log_path(container, record.containers[container].restarts - 1 if before else None)
                if not path.exists():
                    return web.Response(status=404, text=f"container {container} has not started\n")
                return web.Response(body=await asyncio.to_thread(path.read_bytes), content_type="text/plain")
        return web.Response(status=404, text="no such container here\n")

    application = web.Application()
    application.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    runner = web.AppRunner(application, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    return runner, runner.addresses[0][1]
