"""How to reach the API server of Kubernetes: from inside of a cluster, by a kubeconfig file, or at a plain address."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_UNSUPPORTED = {
    "exec": "credentials from a program (exec)",
    "auth-provider": "an auth-provider",
    "username": "a user name and password",
    "password": "a user name and password",
}


Login = Callable[[Mapping[str, Any]], Callable[[], str]]
"""Of what a kubeconfig says of a program (`exec`), a function that gives the token to use now. Raises AccessError."""


class AccessError(RuntimeError):
    """The API server cannot be reached as it was said; the message is one line that says what to do."""


@dataclass
class Access:
    """An address, and the proofs of who is there and who asks. Files are read again when they change."""

    url: str
    token: str = ""
    token_file: Path | None = None
    current_token: Callable[[], str] | None = None
    ca_file: Path | None = None
    ca_data: str = ""
    client_certificate: bytes = b""
    client_key: bytes = b""
    tls_server_name: str | None = None
    verify: bool = True
    namespace: str = "default"
    """Where one is if one names none."""
    _context: ssl.SSLContext | None = field(default=None, repr=False)
    _context_of: int = 0  # when its ca_file was written, in ns

    def headers(self) -> dict[str, str]:
        """For each request. Tokens of service accounts expire within an hour or so; kubelet writes new ones into the
        file. While that cannot be read the last one is used. Raises AccessError where a program gives none.
        """
        if self.current_token is not None:
            self.token = self.current_token()
        if self.token_file is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                self.token = self.token_file.read_text().strip() or self.token
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def tls(self) -> ssl.SSLContext | None:
        """For each connection; None: the server speaks plain HTTP. Raises AccessError."""
        if not self.url.startswith("https:"):
            return None
        written = self.ca_file.stat().st_mtime_ns if self.ca_file is not None and self.ca_file.exists() else 0
        if self._context is None or written != self._context_of:
            self._context, self._context_of = self._make_context(), written
        return self._context

    def _make_context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.ca_file, cadata=self.ca_data or None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.client_certificate:
                with _as_file(self.client_certificate + b"\n" + self.client_key) as path:
                    context.load_cert_chain(path)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise AccessError(f"the certificates for {self.url} cannot be used: {error}") from None
        return context


def find_access(
    url: str,
    kubeconfig: Path | None,
    environment: Mapping[str, str],
    account: Path = SERVICE_ACCOUNT,
    login: Login | None = None,
) -> Access:
    """By the address `url` where it is given, else by the file `kubeconfig`, else as a pod in a cluster. `login` runs
    the program that a kubeconfig may name; without it none is run. Raises AccessError.
    """
    if url:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise AccessError(f"{url!r} is no address of an API server: write it like http://127.0.0.1:8001")
        return Access(url.rstrip("/"))
    if kubeconfig is not None:
        return from_kubeconfig(kubeconfig, login)
    if "KUBERNETES_SERVICE_HOST" in environment:
        return in_cluster(environment, account)
    raise AccessError(
        "no API server: run in a cluster with a service account, or set NVSHARE_KUBECONFIG or NVSHARE_API_SERVER"
    )


def in_cluster(environment: Mapping[str, str], account: Path = SERVICE_ACCOUNT) -> Access:
    """As a pod with a service account. Raises AccessError."""
    host = environment["KUBERNETES_SERVICE_HOST"]
    port = environment.get("KUBERNETES_SERVICE_PORT_HTTPS", environment.get("KUBERNETES_SERVICE_PORT", "443"))
    token, authority = account / "token", account / "ca.crt"
    if not token.is_file() or not authority.is_file():
        raise AccessError(f"the pod has no service account in {account}: set automountServiceAccountToken")
    address = f"[{host}]" if ":" in host else host
    namespace = "default"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        namespace = (account / "namespace").read_text().strip() or namespace
    return Access(f"https://{address}:{port}", token_file=token, ca_file=authority, namespace=namespace)


def from_kubeconfig(path: Path, login: Login | None = None) -> Access:
    """As the current context of a kubeconfig file says. Raises AccessError, also for what is not supported."""
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document, "contexts", "context", document["current-context"])
        cluster = _named(document, "clusters", "cluster", context["cluster"])
        user = _named(document, "users", "user", context["user"]) if context.get("user") else {}
        url = str(cluster["server"]).rstrip("/")
    except OSError as error:
        raise AccessError(f"kubeconfig {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, StopIteration) as error:
        raise AccessError(f"kubeconfig {path} has no usable current context: {type(error).__name__} {error}") from None
    for key, what in _UNSUPPORTED.items():
        if key in user and not (key == "exec" and login is not None):
            hint = "use a token or a client certificate, for example of a service account"
            raise AccessError(f"kubeconfig {path}: {what} is not supported: {hint}")
    if "proxy-url" in cluster:
        raise AccessError(f"kubeconfig {path}: proxy-url is not supported")
    folder = path.parent
    authority = _content(cluster, "certificate-authority", folder)
    token_file = user.get("tokenFile")
    return Access(
        url,
        token=str(user.get("token", "")),
        token_file=folder / token_file if token_file else None,
        current_token=login(user["exec"]) if login is not None and "exec" in user else None,
        ca_data=authority.decode("ascii", "replace"),
        client_certificate=_content(user, "client-certificate", folder),
        client_key=_content(user, "client-key", folder),
        tls_server_name=cluster.get("tls-server-name"),
        verify=not cluster.get("insecure-skip-tls-verify", False),
        namespace=str(context.get("namespace") or "default"),
    )


def _named(document: Any, group: str, member: str, name: str) -> dict[str, Any]:
    """What a kubeconfig has under `name` in one of its groups. Raises KeyError, TypeError, StopIteration."""
    found = next((entry[member] for entry in document[group] if entry["name"] == name), None)
    if not isinstance(found, dict):
        raise KeyError(f"{group}: {name}")
    return found


def _content(holder: Mapping[str, Any], key: str, folder: Path) -> bytes:
    """What stands in `<key>-data`, else in the file that `key` names. Raises AccessError."""
    try:
        if data := holder.get(f"{key}-data"):
            return base64.b64decode(data, validate=True)
        return (folder / holder[key]).read_bytes() if holder.get(key) else b""
    except (OSError, TypeError, binascii.Error) as error:
        raise AccessError(f"{key} of the kubeconfig cannot be read: {error}") from None


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A file with `content` that only this user can read: ssl takes keys from files alone."""
    descriptor, path = tempfile.mkstemp()
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        Path(path).unlink()
