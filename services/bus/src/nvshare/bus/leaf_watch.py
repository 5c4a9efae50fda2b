"""Watches over the leaf of a node's server, and closes it when it is dead.

A connection may die without a word: an address that was translated on the way and is not any more, a host that is gone.
The server notices by its pings, 15 s later at most, and shorter ones would cut off programs that are stopped for a
moment. So the hub itself is asked each second. When it is silent twice, though the server has a leaf, the leaf is
closed; the server makes another one at once.
"""

import asyncio
import json
from typing import NoReturn

import structlog

from nvshare.bus.connection import AwayError, Bus, SilentError
from nvshare.bus.credentials import NodeKeys
from nvshare.bus.hub import DOMAIN
from nvshare.bus.jetstream import JetStream, RefusedError

_PROBE_SECONDS = 1.0
_SILENT_PROBES = 2
_AGAIN_SECONDS = 15.0  # a hub that is only slow does not get the load of all nodes coming again and again
_REQUEST_SECONDS = 1.0

_log = structlog.get_logger()


async def watch_leaf(url: str, keys: NodeKeys, domain: str = DOMAIN) -> NoReturn:
    """Watches over the leaf of the server at `url`, until it is cancelled."""
    bus = await Bus.connect(url=url, jwt=keys.signer.service_jwt("link"), name="link")
    try:
        system = await Bus.connect(url=url, jwt=keys.link_jwt(), name="link")
        try:
            await _watch(JetStream(bus, domain), system)
        finally:
            await system.close()
    finally:
        await bus.close()


async def _watch(hub: JetStream, system: Bus) -> NoReturn:
    clock = asyncio.get_running_loop().time
    silent = 0
    closed = -_AGAIN_SECONDS
    while True:
        begun = clock()
        silent = silent + 1 if await _is_silent(hub) else 0
        if silent >= _SILENT_PROBES and clock() >= closed + _AGAIN_SECONDS and await close_leaf(system):
            silent, closed = 0, clock()
        await asyncio.sleep(max(begun + _PROBE_SECONDS - clock(), 0.0))


async def _is_silent(hub: JetStream) -> bool:
    """Whether a hub that should be there does not answer."""
    try:
        await hub.call("INFO")
    except SilentError:
        return True
    except (AwayError, RefusedError):  # there is no leaf, or the hub has answered
        return False
    return False


async def close_leaf(system: Bus) -> bool:
    """Closes the server's leaf; whether there was one."""
    try:
        reply = await system.request("$SYS.REQ.SERVER.PING.LEAFZ", b"{}", timeout_seconds=_REQUEST_SECONDS)
        answer = json.loads(reply.data)
        server, leafs = answer["server"]["id"], [int(one["id"]) for one in answer["data"].get("leafs") or ()]
        for leaf in leafs:
            request = json.dumps({"cid": leaf}).encode()
            await system.request(f"$SYS.REQ.SERVER.{server}.KICK", request, timeout_seconds=_REQUEST_SECONDS)
    except (AwayError, ValueError, LookupError, TypeError) as error:
        _log.warning("the server's leaf cannot be closed", error=str(error))
        return False
    if leafs:
        _log.warning("the hub is silent; the connection to it is made anew")
    return bool(leafs)
