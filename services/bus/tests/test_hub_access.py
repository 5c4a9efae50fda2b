"""The ways into a hub: by TLS, and by a credentials file as `nsc` writes it."""

import base64
import binascii
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from services.bus.tests.conftest import PASSWORD, hub_access, hub_options
from services.bus.tests.test_hub import becomes

from nvshare.bus.connection import Bus
from nvshare.bus.credentials import CredentialError, NodeKeys, Role, ServiceCredential, SigningKey
from nvshare.bus.hub import Hub
from nvshare.bus.hub_access import HubAccess, HubAccessError
from nvshare.bus.hub_server import HubServer
from nvshare.bus.nats_server import NatsServer

CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture
async def tls_hub(tmp_path: Path) -> AsyncIterator[HubServer]:
    """A hub that speaks TLS only."""
    options = hub_options(tmp_path / "store")
    certificate, key = CERTIFICATES / "certificate.pem", CERTIFICATES / "key.pem"
    server = HubServer(replace(options, certificate=certificate, certificate_key=key), tmp_path / "hub")
    await server.start()
    yield server
    await server.stop()


def by_tls(url: str, user: str) -> HubAccess:
    return replace(hub_access(url.replace("nats://", "tls://"), user), ca_file=CERTIFICATES / "certificate.pem")


async def test_a_node_and_a_user_come_in_by_tls(keys: NodeKeys, tls_hub: HubServer, tmp_path: Path) -> None:
    leaf = NatsServer(keys, tmp_path / "leaf", hub=by_tls(tls_hub.leaf_url, "leaf-node-1"))
    await leaf.start()
    node = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("scheduler"), name="scheduler")
    watcher = await Bus.connect_hub(by_tls(tls_hub.url, "watcher"), name="watcher")
    for bus in (node, watcher):
        async with Hub(bus) as hub:
            await becomes(hub, reachable=True)
        await bus.close()
    await leaf.stop()


async def test_a_hub_whose_certificate_nobody_vouches_for_is_not_used(
    keys: NodeKeys, tls_hub: HubServer, tmp_path: Path
) -> None:
    way_in = hub_access(tls_hub.leaf_url.replace("nats-leaf:", "tls:"), "leaf-node-1")
    with (tmp_path / "log").open("wb") as log:
        leaf = NatsServer(keys, tmp_path / "leaf", hub=way_in, log=log)
        await leaf.start()
        bus = await Bus.connect(url=leaf.url, jwt=keys.signer.service_jwt("scheduler"), name="scheduler")
        async with Hub(bus) as hub:
            while "certificate" not in (tmp_path / "log").read_text():
                await bus.flush()
            assert not hub.reachable
        await bus.close()
        await leaf.stop()
    assert PASSWORD not in (tmp_path / "log").read_text()


def creds(key: SigningKey, jwt: str) -> str:
    """A file of credentials as `nsc generate creds` writes it."""
    prefix = 18 << 3  # of seeds (nats-io/nkeys)
    raw = bytes([prefix | key.role.value >> 5, (key.role.value & 31) << 3]) + key.secret
    seed = base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )


async def test_a_credentials_file_lets_in(keys: NodeKeys, nats: NatsServer, tmp_path: Path) -> None:
    """A node's own server, which knows its users by JWT, stands for somebody else's hub."""
    service = ServiceCredential.from_text(keys.signer.service_jwt("scheduler"))
    file = tmp_path / "user.creds"
    file.write_text(creds(service.key, service.jwt))
    access = HubAccess.read(nats.url, file)
    bus = await Bus.connect_hub(access, name="quota-watcher")
    assert bus.connected
    await bus.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("SU", "SA"),
        lambda text: text[: text.index("-----BEGIN USER NKEY")],
        lambda text: text.replace("SEED-----\nS", "SEED-----\n"),
    ],
)
def test_a_damaged_credentials_file_is_refused(damage: object, tmp_path: Path) -> None:
    key = SigningKey.generate(Role.USER)
    text = creds(key, "a.b.c")
    assert ServiceCredential.from_creds(text).key == key
    assert callable(damage)
    file = tmp_path / "user.creds"
    file.write_text(damage(text))
    with pytest.raises(CredentialError):
        ServiceCredential.from_creds(file.read_text())
    with pytest.raises(HubAccessError):
        HubAccess.read("nats://hub.example", file)
