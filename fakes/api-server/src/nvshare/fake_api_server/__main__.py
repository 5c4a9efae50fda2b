"""`python -m nvshare.fake_api_server`: an API server to try things on."""

import argparse
import asyncio
import json
import signal
from pathlib import Path

from nvshare.fake_api_server.server import FakeApiServer

_EXAMPLES = """\
examples:
  python -m nvshare.fake_api_server --port 8001 --bind-pods
  curl localhost:8001/api/v1/pods
  curl -X PATCH -H 'Content-Type: application/merge-patch+json' \\
       -d '{"metadata":{"annotations":{"nvshare.com/gpu-core-limit":"30"}}}' \\
       localhost:8001/api/v1/namespaces/default/pods/web
  curl -d '{"action":"delay","seconds":2}' localhost:8001/fake/faults         # every answer comes 2 s later
  curl -d '{"action":"status","code":410,"verb":"watch","count":1}' localhost:8001/fake/faults
  curl -X POST localhost:8001/fake/watches/cut                                # breaks all streams off
  curl -X POST localhost:8001/fake/freeze                                     # nobody is answered; …/thaw
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nvshare.fake_api_server",
        description="A Kubernetes API server for tests: pods, nodes, namespaces, events, configmaps.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8001, help="port; 0: any that is free (default: %(default)s)")
    parser.add_argument(
        "--bind-pods", action="store_true", help="give pods without a node one that has what they ask for"
    )
    parser.add_argument("--bookmark-seconds", type=float, default=60.0, help="between bookmarks (default: %(default)s)")
    parser.add_argument("--token", default="", help="bearer token that every request must carry (default: none)")
    parser.add_argument("--objects", type=Path, metavar="FILE", help="JSON list of objects to begin with")
    asyncio.run(_serve(parser.parse_args()))


async def _serve(arguments: argparse.Namespace) -> None:
    server = FakeApiServer(
        bookmark_seconds=arguments.bookmark_seconds, token=arguments.token, bind_pods=arguments.bind_pods
    )
    if arguments.objects is not None:
        for body in json.loads(arguments.objects.read_text()):
            server.add(body)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start(arguments.host, arguments.port)
    print(f"listening on {server.url}", flush=True)
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    main()
