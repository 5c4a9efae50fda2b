"""How the API server is found, and who one is there."""

import base64
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nvshare.bus.api_access import Access, AccessError, find_access
from nvshare.fake_api_server.server import FakeApiServer
from nvshare.quota_watcher.api import Api, RefusedError, UnreachableError

CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture
async def secure() -> AsyncIterator[FakeApiServer]:
    """A server that asks for a certificate of its own authority."""
    server = FakeApiServer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=CERTIFICATES / "ca.crt")
    context.load_cert_chain(CERTIFICATES / "server.crt", CERTIFICATES / "server.key")
    context.verify_mode = ssl.CERT_OPTIONAL
    await server.start(tls=context)
    yield server
    await server.stop()


async def pods_through(access: Access) -> int:
    async with Api(access) as api:
        return len((await api.list_pods(0, "")).items)


def kubeconfig(folder: Path, cluster: dict[str, Any], user: dict[str, Any]) -> Path:
    """A file with one context, beside others."""
    document = {
        "current-context": "here",
        "contexts": [
            {"name": "there", "context": {"cluster": "none", "user": "none"}},
            {"name": "here", "context": {"cluster": "one", "user": "me"}},
        ],
        "clusters": [{"name": "one", "cluster": cluster}],
        "users": [{"name": "me", "user": user}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


def account(folder: Path, token: str) -> Path:
    """The files of a service account."""
    (folder / "token").write_text(token + "\n")
    (folder / "ca.crt").write_bytes((CERTIFICATES / "ca.crt").read_bytes())
    return folder


def environment(server: FakeApiServer) -> dict[str, str]:
    return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": server.url.rsplit(":", 1)[1]}


async def test_a_pod_uses_its_service_account(secure: FakeApiServer, tmp_path: Path) -> None:
    secure.token = "first"
    access = find_access("", None, environment(secure), account(tmp_path, "first"))
    assert await pods_through(access) == 0


async def test_a_token_that_was_renewed_is_used(secure: FakeApiServer, tmp_path: Path) -> None:
    secure.token = "second"
    access = find_access("", None, environment(secure), account(tmp_path, "first"))
    with pytest.raises(RefusedError, match="401"):
        await pods_through(access)
    account(tmp_path, "second")
    assert await pods_through(access) == 0


async def test_a_token_that_cannot_be_read_for_a_moment_is_remembered(tmp_path: Path) -> None:
    access = find_access("", None, {"KUBERNETES_SERVICE_HOST": "::1"}, account(tmp_path, "first"))
    assert access.url == "https://[::1]:443"
    access.headers()
    (tmp_path / "token").unlink()
    assert access.headers() == {"Authorization": "Bearer first"}


async def test_a_server_of_another_authority_is_not_believed(secure: FakeApiServer) -> None:
    with pytest.raises(UnreachableError, match="certificate"):
        await pods_through(Access(secure.url))


async def test_a_kubeconfig_with_certificates_in_files(secure: FakeApiServer, tmp_path: Path) -> None:
    for name in ("ca.crt", "client.crt", "client.key"):
        (tmp_path / name).write_bytes((CERTIFICATES / name).read_bytes())
    cluster = {"server": secure.url, "certificate-authority": "ca.crt"}
    user = {"client-certificate": "client.crt", "client-key": "client.key"}
    access = find_access("", kubeconfig(tmp_path, cluster, user), {})
    assert await pods_through(access) == 0


async def test_a_kubeconfig_with_data_and_a_token(secure: FakeApiServer, tmp_path: Path) -> None:
    secure.token = "secret"
    data = base64.b64encode((CERTIFICATES / "ca.crt").read_bytes()).decode()
    cluster = {"server": secure.url + "/", "certificate-authority-data": data}
    access = find_access("", kubeconfig(tmp_path, cluster, {"token": "secret"}), {})
    assert await pods_through(access) == 0


async def test_a_kubeconfig_may_leave_the_server_unverified(secure: FakeApiServer, tmp_path: Path) -> None:
    cluster = {"server": secure.url, "insecure-skip-tls-verify": True}
    assert await pods_through(find_access("", kubeconfig(tmp_path, cluster, {}), {})) == 0


async def test_a_plain_address(tmp_path: Path) -> None:
    server = FakeApiServer()
    await server.start()
    try:
        assert await pods_through(find_access(server.url + "/", None, {})) == 0
    finally:
        await server.stop()


@pytest.mark.parametrize(
    ("cluster", "user", "message"),
    [
        ({}, {}, "no usable current context"),
        ({"server": "https://x"}, {"exec": {"command": "aws"}}, "exec.*not supported"),
        ({"server": "https://x"}, {"username": "me"}, "password is not supported"),
        ({"server": "https://x", "proxy-url": "http://p"}, {}, "proxy-url is not supported"),
        ({"server": "https://x", "certificate-authority": "none.crt"}, {}, "cannot be read"),
        ({"server": "https://x", "certificate-authority-data": "!"}, {}, "cannot be read"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_says_why(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], message: str
) -> None:
    with pytest.raises(AccessError, match=message) as raised:
        find_access("", kubeconfig(tmp_path, cluster, user), {})
    assert "\n" not in str(raised.value)


def test_certificates_that_are_none_are_said(tmp_path: Path) -> None:
    data = base64.b64encode(b"no certificate").decode()
    cluster = {"server": "https://x", "certificate-authority-data": data}
    access = find_access("", kubeconfig(tmp_path, cluster, {}), {})
    with pytest.raises(AccessError, match="cannot be used"):
        access.tls()


def test_outside_of_a_cluster_it_says_what_to_set() -> None:
    with pytest.raises(AccessError, match="NVSHARE_KUBECONFIG or NVSHARE_API_SERVER"):
        find_access("", None, {})


def test_a_pod_without_a_service_account_says_so(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="automountServiceAccountToken"):
        find_access("", None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)


def test_an_address_that_is_none_says_how_to_write_it() -> None:
    with pytest.raises(AccessError, match="write it like"):
        find_access("localhost:8001", None, {})


def test_the_namespace_is_that_of_the_context_or_of_the_pod(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"server": "https://example.com"}, {"token": "t"})
    assert find_access("", path, {}).namespace == "default"
    document = yaml.safe_load(path.read_text())
    for context in document["contexts"]:
        context["context"]["namespace"] = "team"
    path.write_text(yaml.safe_dump(document))
    assert find_access("", path, {}).namespace == "team"
    for name in ("token", "ca.crt", "namespace"):
        (tmp_path / name).write_text("team\n")
    assert find_access("", None, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path).namespace == "team"
