"""How one who is on no node, and how a node's own server, gets into the hub: its address, and a credential of one of
three kinds in a file.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, unquote, urlsplit

from nvshare.bus.credentials import CredentialError, ServiceCredential
from nvshare.bus.subjects import valid_token

_SCHEMES = ("nats", "tls", "nats-leaf")
CLIENT_PORT = 4222
LEAF_PORT = 7422


class HubAccessError(ValueError):
    """The hub's address or credential cannot be used; one line that says what to do."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Where the hub is, and who one is there: a user with a password, a token, a file of credentials as `nsc` writes
    it, or nobody. `ca_file` holds the certificates by which the hub's is judged; without one, the system's.
    """

    url: str
    user: str = ""
    secret: str = field(default="", repr=False)  # the user's password, or, without a user, a token
    credentials_file: Path | None = None
    ca_file: Path | None = None

    @classmethod
    def read(cls, url: str, credentials: Path | None = None, ca_file: Path | None = None) -> "HubAccess":
        """The access that `url` and the file `credentials` describe; what the file says counts before what stands in
        the URL (`nats://user:password@host:port`).

        The file holds `user:password`, or a token, in one line, or a JWT and a seed as `nsc` writes them. Raises
        HubAccessError.
        """
        parts = _split(url)
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        if ca_file is not None and not ca_file.is_file():
            raise HubAccessError(f"there is no file of certificates {ca_file}")
        if credentials is None:
            user, password = unquote(parts.username or ""), unquote(parts.password or "")
            named = bool(user and password)
            return cls(plain, user if named else "", password if named else user, None, ca_file)
        try:
            text = credentials.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise HubAccessError(f"the hub's credentials in {credentials} cannot be read: {error}") from None
        if "BEGIN NATS USER JWT" in text:
            try:
                ServiceCredential.from_creds(text)
            except CredentialError as error:
                raise HubAccessError(f"{credentials}: {error}") from None
            return cls(plain, credentials_file=credentials, ca_file=ca_file)
        if not text or len(text.split()) != 1:
            raise HubAccessError(f"{credentials} holds no credentials: write user:password, or a token, in one line")
        user, separator, password = text.partition(":")
        return cls(plain, user, password, None, ca_file) if separator else cls(plain, "", text, None, ca_file)

    def inbox(self, name: str) -> str:
        """The prefix of the subjects that answers go to: the user's, else one of its own for the client `name`."""
        return f"_INBOX.user.{self.user if valid_token(self.user) else name}"

    def options(self) -> dict[str, Any]:
        """The keyword arguments with which nats-py connects. Raises HubAccessError."""
        options: dict[str, Any] = {}
        if self.ca_file is not None or self.url.startswith("tls:"):
            options["tls"] = ssl.create_default_context(cafile=self.ca_file)
        if self.credentials_file is not None:
            try:
                credential = ServiceCredential.from_creds(self.credentials_file.read_text())
            except (OSError, UnicodeDecodeError, CredentialError) as error:
                raise HubAccessError(f"the hub's credentials in {self.credentials_file}: {error}") from None
            options["user_jwt_cb"] = lambda: bytearray(credential.jwt.encode())
            options["signature_cb"] = credential.signature
        elif self.user:
            options |= {"user": self.user, "password": self.secret}
        elif self.secret:
            options["token"] = self.secret
        return options

    def leaf_url(self) -> str:
        """The address for a server that is a leaf of the hub's, with what lets it in. Raises HubAccessError."""
        parts = _split(self.url)
        if not self.user and self.secret:
            raise HubAccessError("a leaf of the hub cannot use a token: give user:password, or a file as nsc writes it")
        who = f"{quote(self.user, safe='')}:{quote(self.secret, safe='')}@" if self.user else ""
        scheme = "tls" if parts.scheme == "tls" else "nats-leaf"
        where = parts.netloc if parts.port is not None else f"{parts.netloc}:{LEAF_PORT}"
        return f"{scheme}://{who}{where}"


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        good = parts.scheme in _SCHEMES and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in url):
        raise HubAccessError(f"{url!r} is no address of a hub: write it like nats://hub.example:4222")
    return parts
