"""What a node's tokens allow, as the real NATS server sees it."""

import asyncio
import json
from urllib.parse import urlsplit

import pytest
from services.bus.tests.conftest import GPU, ConnectBare

from nvshare.bus import subjects
from nvshare.bus.connection import Bus
from nvshare.bus.credentials import CLIENT_PAYLOAD_BYTES, CredentialError, NodeKeys, ServiceCredential, Signer
from nvshare.bus.frames import Msg, Pub, Sub
from nvshare.bus.nats_server import NatsServer
from nvshare.v1.client_pb2 import Report

OWN = ("alloc-1", "10-aaaaaaaaaaaaaaaa")
OTHER = ("alloc-2", "20-bbbbbbbbbbbbbbbb")


async def test_a_client_publishes_its_reports_and_gets_its_grants(keys: NodeKeys, connect: ConnectBare) -> None:
    client = await connect(keys.signer.client_jwt(*OWN))
    service = await connect(keys.signer.service_jwt("scheduler"))
    service.send(Sub(subjects.report_any(), "1"))
    client.send(Sub(subjects.grant(GPU, *OWN), "1"))
    assert await service.errors() == []
    assert await client.errors() == []

    client.send(Pub(subjects.report(GPU, *OWN), b"report"))
    service.send(Pub(subjects.grant(GPU, *OWN), b"grant"))
    await client.flush()

    assert [frame.payload for frame in await service.flush() if isinstance(frame, Msg)] == [b"report"]
    service.send(Pub(subjects.grant(GPU, *OWN), b"again"))
    await service.flush()
    assert b"again" in [frame.payload for frame in await client.flush() if isinstance(frame, Msg)]


@pytest.mark.parametrize(
    "subject",
    [
        subjects.report(GPU, *OTHER),
        subjects.report(GPU, OTHER[0], OWN[1]),
        subjects.report(GPU, OWN[0], OTHER[1]),
        subjects.grant(GPU, *OWN),
        subjects.grant(GPU, *OTHER),
        subjects.plan(GPU),
        subjects.event(GPU, "lock-granted"),
        subjects.relay("node-1"),
        subjects.user("node-1", 0, "status"),
        "_INBOX.x",
        "$SYS.REQ.SERVER.PING",
        "$JS.API.INFO",
        "nvshare.v1.gpu.*.alloc.alloc-1.client.*.report",
    ],
)
async def test_a_client_publishes_nothing_else(keys: NodeKeys, connect: ConnectBare, subject: str) -> None:
    client = await connect(keys.signer.client_jwt(*OWN))

    client.send(Pub(subject, b"x"))

    errors = await client.errors()
    assert any(error.lower().startswith("permissions violation for publish") for error in errors)


@pytest.mark.parametrize(
    "subject",
    [
        subjects.grant(GPU, *OTHER),
        subjects.report(GPU, *OTHER),
        subjects.report(GPU, *OWN),
        subjects.grant_any(),
        subjects.plan(GPU),
        subjects.event(GPU, "lock-granted"),
        "nvshare.v1.gpu.*.alloc.alloc-1.client.*.grant",
        "nvshare.v1.>",
        ">",
        "*",
        "_INBOX.>",
        "$SYS.>",
        "$JS.>",
    ],
)
async def test_a_client_subscribes_to_nothing_else(keys: NodeKeys, connect: ConnectBare, subject: str) -> None:
    client = await connect(keys.signer.client_jwt(*OWN))

    client.send(Sub(subject, "1"))
    client.send(Sub(subject, "2", queue="q"))

    errors = await client.errors()
    assert len(errors) == 2
    assert all(error.lower().startswith("permissions violation for subscription") for error in errors)


async def test_a_user_asks_as_itself_only(keys: NodeKeys, connect: ConnectBare) -> None:
    user = await connect(keys.signer.user_jwt(1000, admin=False))
    for verb in ("status", "allocate", "release"):
        user.send(Pub(subjects.user("node-1", 1000, verb), b""))
    user.send(Sub(subjects.reply_any("node-1", 1000), "1"))
    assert await user.errors() == []

    user.send(Pub(subjects.user("node-1", 1001, "status"), b""))
    user.send(Pub(subjects.user("node-2", 1000, "status"), b""))
    user.send(Pub(subjects.reply("node-1", 1001, "x"), b""))
    user.send(Sub(subjects.reply_any("node-1", 1001), "2"))
    user.send(Sub("nvshare.v1.node.node-1.user.*.reply.*", "3"))

    assert len(await user.errors()) == 5


async def test_only_an_admin_sets_the_mode(keys: NodeKeys, connect: ConnectBare) -> None:
    user = await connect(keys.signer.user_jwt(1000, admin=False))
    admin = await connect(keys.signer.user_jwt(0, admin=True))

    user.send(Pub(subjects.user("node-1", 1000, "mode"), b""))
    admin.send(Pub(subjects.user("node-1", 0, "mode"), b""))

    assert len(await user.errors()) == 1
    assert await admin.errors() == []


async def test_a_reply_address_of_another_client_steers_nothing_there(
    keys: NodeKeys, nats: NatsServer, connect: ConnectBare
) -> None:
    """The services answer to the address that the subject gives; the one that NATS carries is never read."""
    hostile = await connect(keys.signer.client_jwt(*OWN))
    victim = await connect(keys.signer.client_jwt(*OTHER))
    victim.send(Sub(subjects.grant(GPU, *OTHER), "1"))
    await victim.flush()
    service = await Bus.connect(url=nats.url, jwt=keys.signer.service_jwt("scheduler"), name="scheduler")
    asked = asyncio.Event()

    async def answer(subject: str, report: Report) -> None:
        sender = subjects.parse_report(subject)
        await service.publish(subjects.grant(sender.gpu, sender.allocation, sender.client), report)
        asked.set()

    await service.subscribe(subjects.report_any(), Report, answer)
    await service.flush()
    hostile.send(Sub(subjects.grant(GPU, *OWN), "1"))

    hostile.send(Pub(subjects.report(GPU, *OWN), b"", reply=subjects.grant(GPU, *OTHER)))
    await asyncio.wait_for(asked.wait(), 2)
    await service.flush()

    assert [frame.subject for frame in await hostile.flush() if isinstance(frame, Msg)] == [subjects.grant(GPU, *OWN)]
    assert [frame for frame in await victim.flush() if isinstance(frame, Msg)] == []
    await service.close()


@pytest.mark.parametrize("name", ["*", ">", "a.b", "", "a b", "A", "é", "{{name()}}", "x" * 65])
def test_a_name_that_would_widen_a_permission_gets_no_token(keys: NodeKeys, name: str) -> None:
    with pytest.raises(CredentialError):
        keys.signer.client_jwt(name, OWN[1])
    with pytest.raises(CredentialError):
        keys.signer.client_jwt(OWN[0], name)


@pytest.mark.parametrize("uid", [-1, 2**32])
def test_what_is_no_uid_gets_no_token(keys: NodeKeys, uid: int) -> None:
    with pytest.raises(CredentialError):
        keys.signer.user_jwt(uid, admin=False)


async def test_a_message_beyond_a_clients_limit_ends_the_connection(keys: NodeKeys, connect: ConnectBare) -> None:
    client = await connect(keys.signer.client_jwt(*OWN))
    client.send(Pub(subjects.report(GPU, *OWN), b"x" * (CLIENT_PAYLOAD_BYTES + 1)))
    await client.flush()
    assert client.closed_by_server


@pytest.mark.parametrize("damage", ["", "no.token.here"])
async def test_without_a_token_nobody_gets_in(connect: ConnectBare, damage: str) -> None:
    client = await connect(damage)
    await client.flush()
    assert client.closed_by_server


async def test_a_token_of_another_nodes_keys_does_not_get_in(connect: ConnectBare) -> None:
    client = await connect(NodeKeys.generate("node-1").signer.service_jwt("scheduler"))
    await client.flush()
    assert client.closed_by_server


async def test_a_services_token_without_its_key_does_not_get_in(keys: NodeKeys, connect: ConnectBare) -> None:
    """Whoever took the server's port after a crash has seen the token, and not the key."""
    client = await connect(ServiceCredential.from_text(keys.signer.service_jwt("scheduler")).jwt)
    await client.flush()
    assert client.closed_by_server


@pytest.mark.parametrize("text", ["", "a.b.c", "a.b.c.d", "a.b.c.\u00e9", "a.b." + "A" * 43])
def test_a_text_that_is_no_services_credential_is_an_error(text: str) -> None:
    with pytest.raises(CredentialError, match="the service's credential cannot be read"):
        ServiceCredential.from_text(text)


async def test_a_hostile_leaf_node_is_not_let_in(keys: NodeKeys, nats: NatsServer) -> None:
    """There is no leaf listener; whoever speaks the leaf protocol to the client port with a valid token is cut off."""
    address = urlsplit(nats.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    info = json.loads((await reader.readline()).removeprefix(b"INFO "))
    assert "leafnode_urls" not in info
    hello = {"jwt": keys.signer.client_jwt(*OWN), "remote_account": "NODE", "is_queue_leaf": True, "leafnode": "x"}
    writer.write(b"CONNECT " + json.dumps(hello).encode() + b"\r\nLS+ nvshare.v1.>\r\nPING\r\n")

    async with asyncio.timeout(5):
        answer = await reader.read()  # to the end: the server closes

    assert b"PONG" not in answer
    writer.close()


def test_the_seeds_reach_another_process_whole_and_do_not_show_in_a_log(keys: NodeKeys) -> None:
    data = keys.signer.to_bytes()
    assert Signer.from_bytes(data) == keys.signer
    assert keys.signer.client_key.secret.hex() not in repr(keys)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"node":"n","account":"A","seeds":{}}', b"\xff"])
def test_seeds_that_cannot_be_read_are_refused(data: bytes) -> None:
    with pytest.raises(CredentialError):
        Signer.from_bytes(data)
