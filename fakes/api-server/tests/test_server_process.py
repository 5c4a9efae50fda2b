"""The server as a process, and the logs that it asks of kubelets."""

import asyncio
import subprocess
import sys
from pathlib import Path

from aiohttp import ClientSession, web

from api_client import PODS, Client
from nvshare.fake_api_server.objects import node, pod
from nvshare.fake_api_server.server import FakeApiServer


async def test_it_runs_with_objects_to_begin_with(tmp_path: Path) -> None:
    objects = tmp_path / "objects.json"
    objects.write_text('[{"kind": "Node", "metadata": {"name": "n1"}}]')
    command = [sys.executable, "-m", "nvshare.fake_api_server", "--port", "0", "--objects", str(objects)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        url = (await process.stdout.readline()).decode().split()[-1]
        async with ClientSession() as session, session.get(f"{url}/api/v1/nodes") as answer:
            names = [item["metadata"]["name"] for item in (await answer.json())["items"]]
        process.terminate()
        assert (names, await process.wait()) == (["n1"], 0)


async def test_a_log_is_that_of_the_kubelet_of_the_pods_node(client: Client, server: FakeApiServer) -> None:
    async def log(request: web.Request) -> web.Response:
        return web.Response(text=f"{request.path}?{request.query_string}")

    application = web.Application()
    application.router.add_get("/{path:.*}", log)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made = node("n1")
    made["status"]["addresses"] = [{"type": "InternalIP", "address": "127.0.0.1"}]
    made["status"]["daemonEndpoints"] = {"kubeletEndpoint": {"Port": runner.addresses[0][1]}}
    server.add(made)
    server.add(pod("web", node="n1"))
    _, text = await client.ask("GET", f"{PODS}/web/log", query={"tailLines": "1"})
    await runner.cleanup()
    assert text == "/containerLogs/default/web/main?tailLines=1"


async def test_a_pod_without_a_node_has_no_log(client: Client, server: FakeApiServer) -> None:
    server.add(pod("web"))
    assert (await client.ask("GET", f"{PODS}/web/log"))[0] == 404
