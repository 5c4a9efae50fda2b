"""Credentials of a node's NATS server, in operator mode: keys, account tokens, and tokens for those who connect.

A node makes all keys when it starts and keeps the seeds in memory. The server gets only public tokens (`operator_jwt`
and the account tokens). The relay gets a `Signer`, which can mint bearer tokens of four scopes and nothing else: the
permissions of a client, a user and an admin stand in the account's token as templates of *scoped signing keys*, so
that a token can choose only the names that the template inserts. The server does not check these names (a user named
`*` would get every client's subjects), so the Signer does.

Clients and users get bearer tokens, which the relay alone ever sees. A service's token names a key, and the service
signs what the server asks it to: whoever listens on the server's port after a crash learns nothing to come in with.

Formats: NATS keys are `base32(prefix + key + CRC-16/XMODEM)` (nats-io/nkeys, strkey.go); tokens are JWTs with the
algorithm `ed25519-nkey` (nats-io/jwt v2). No I/O and no clock here: the time of issue comes in as an argument.
"""

import base64
import binascii
import enum
import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nacl.signing

from nvshare.bus.subjects import valid_token

CLIENT_PAYLOAD_BYTES = 16 * 1024
"""Largest message that a client or a user may publish (docs/protocol.md)."""

_UNLIMITED = -1
_INBOXES = "_INBOX."
_ARMOUR = re.compile(r"-{3,}[^-\n]*BEGIN[^-\n]*-{3,}\s*([A-Za-z0-9._-]+?)\s*-{3,}[^-\n]*END", re.ASCII)
_CLIENT_SUBSCRIPTIONS = 64  # one for each GPU that the process uses, with room


class CredentialError(ValueError):
    """A name or a seed that may not be used."""


class Role(enum.Enum):
    """What a key stands for; the value is NATS's prefix byte."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key with its role: 32 secret bytes, never shown by `repr`."""

    role: Role
    secret: bytes = field(repr=False)

    @classmethod
    def generate(cls, role: Role) -> "SigningKey":
        return cls(role, secrets.token_bytes(32))

    @property
    def public(self) -> str:
        """NATS's text of the public key."""
        return _public_text(self.role, bytes(nacl.signing.SigningKey(self.secret).verify_key))

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the signature of `data`."""
        return nacl.signing.SigningKey(self.secret).sign(data).signature


@dataclass(frozen=True, slots=True)
class Signer:
    """Mints tokens for whoever connects to the node's NATS server. They do not expire: closing the connection ends
    them.
    """

    node: str
    account: str
    client_key: SigningKey
    user_key: SigningKey
    admin_key: SigningKey
    service_key: SigningKey

    def client_jwt(self, allocation: str, client: str, issued_unix_s: int = 0) -> str:
        """Token of one client of one allocation. Raises CredentialError for a name that is not one lower-case token."""
        for text in (allocation, client):
            # NATS lower-cases tags, so another case would name somebody else.
            if not valid_token(text) or text != text.lower():
                raise CredentialError(f"{text[:80]!r} is no name of an allocation or a client: use a-z 0-9 _ -")
        return self._bearer(self.client_key, client, issued_unix_s, tags=(f"allocation:{allocation}",))

    def user_jwt(self, uid: int, *, admin: bool, issued_unix_s: int = 0) -> str:
        """Token of one user of the node. Raises CredentialError for a number that is no uid."""
        if not 0 <= uid < 2**32:
            raise CredentialError(f"{uid} is not a uid")
        return self._bearer(self.admin_key if admin else self.user_key, str(uid), issued_unix_s)

    def service_jwt(self, name: str, issued_unix_s: int = 0) -> str:
        """Token of one of the node's services, with the secret of its key: the text of a ServiceCredential. Raises
        CredentialError for a name that is no token.
        """
        if not valid_token(name):
            raise CredentialError(f"{name[:80]!r} is no name of a service: use A-Z a-z 0-9 _ -")
        own = {
            # What is kept for others is asked of the hub, whose answers come to this service's own inbox.
            "pub": {"allow": ["nvshare.v1.>", "$JS.*.API.>", "$JS.ACK.>"]},
            "sub": {"allow": ["nvshare.v1.>", f"{service_inbox(self.node, name)}.>"]},
            "subs": _UNLIMITED,
            "data": _UNLIMITED,
            "payload": _UNLIMITED,
            "allowed_connection_types": ["STANDARD"],
            **self._user_claims(),
        }
        key = SigningKey.generate(Role.USER)
        return ServiceCredential(_encode_jwt(self.service_key, key.public, name, issued_unix_s, own), key).to_text()

    def to_bytes(self) -> bytes:
        """The seeds as JSON, to hand to another process over a pipe; never for a disk."""
        keys = {"client": self.client_key, "user": self.user_key, "admin": self.admin_key, "service": self.service_key}
        seeds = {scope: key.secret.hex() for scope, key in keys.items()}
        return json.dumps({"node": self.node, "account": self.account, "seeds": seeds}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Signer":
        """Reads what `to_bytes` wrote. Raises CredentialError."""
        try:
            document = json.loads(data)
            keys = {
                scope: SigningKey(Role.ACCOUNT, bytes.fromhex(document["seeds"][scope]))
                for scope in ("client", "user", "admin", "service")
            }
            if any(len(key.secret) != 32 for key in keys.values()):
                raise ValueError("a seed is not 32 bytes long")
            return cls(
                node=_checked_node(str(document["node"])),
                account=str(document["account"]),
                client_key=keys["client"],
                user_key=keys["user"],
                admin_key=keys["admin"],
                service_key=keys["service"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CredentialError(f"the signing seeds cannot be read: {error}") from None

    def _bearer(
        self,
        key: SigningKey,
        name: str,
        issued_unix_s: int,
        tags: Sequence[str] = (),
    ) -> str:
        # The subject is a public key whose private half nobody has: such a token is good as a bearer token only.
        subject = _public_text(Role.USER, secrets.token_bytes(32))
        nats = self._user_claims()
        if tags:
            nats["tags"] = list(tags)
        return _encode_jwt(key, subject, name, issued_unix_s, nats)

    def _user_claims(self) -> dict[str, Any]:
        return {"issuer_account": self.account, "type": "user", "version": 2}


@dataclass(frozen=True, slots=True)
class ServiceCredential:
    """What a service connects with: its token, and the key that the token names."""

    jwt: str
    key: SigningKey

    def to_text(self) -> str:
        """One line, for a file of mode 0600: the token's three parts and the key's secret, with dots between."""
        return f"{self.jwt}.{_base64(self.key.secret).decode()}"

    @property
    def inbox(self) -> str | None:
        """The inbox that the token lets its service subscribe to; None: it names none."""
        body = self.jwt.split(".")[1]
        try:
            claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            allowed = claims["nats"].get("sub", {}).get("allow", [])
            return next(
                (str(one)[:-2] for one in allowed if str(one).startswith(_INBOXES) and one.endswith(".>")), None
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def from_creds(cls, text: str) -> "ServiceCredential":
        """Reads a file of credentials as `nsc` writes it (a JWT and a seed in armour). Raises CredentialError."""
        blocks = _ARMOUR.findall(text)
        if len(blocks) < 2:
            raise CredentialError("the credentials cannot be read: a JWT and a seed are missing")
        try:
            seed = base64.b32decode(blocks[1] + "=" * (-len(blocks[1]) % 8))
        except ValueError:
            seed = b""
        # Two bytes say that it is a seed, and whose; two more are a checksum.
        if len(seed) != 36 or binascii.crc_hqx(seed[:-2], 0).to_bytes(2, "little") != seed[-2:]:
            raise CredentialError("the credentials cannot be read: their seed is none")
        return cls(blocks[0], SigningKey(Role.USER, seed[2:34]))

    @classmethod
    def from_text(cls, text: str) -> "ServiceCredential":
        """Reads what `to_text` wrote. Raises CredentialError."""
        jwt, _, secret = text.strip().rpartition(".")
        try:
            key = SigningKey(Role.USER, base64.urlsafe_b64decode(secret + "=" * (-len(secret) % 4)))
        except ValueError:
            raise CredentialError("the service's credential cannot be read: its last part is no key") from None
        if jwt.count(".") != 2 or len(key.secret) != 32:
            raise CredentialError("the service's credential cannot be read: it is no token with a key")
        return cls(jwt, key)

    def signature(self, nonce: str) -> bytes:
        """The answer to the server's `nonce`, as it stands in CONNECT (base64)."""
        return base64.b64encode(self.key.sign(nonce.encode()))


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What a node's NATS server must know (public tokens), and the Signer for its relay and services."""

    node: str
    operator_jwt: str
    system_account: str
    system_account_jwt: str
    account: str
    account_jwt: str
    signer: Signer
    system_key: SigningKey = field(repr=False)

    def link_jwt(self, issued_unix_s: int = 0) -> str:
        """Token of whoever watches over the server's leaf: it asks the server about that, and closes it. The text of a
        ServiceCredential.
        """
        own = {
            "pub": {"allow": ["$SYS.REQ.SERVER.PING.LEAFZ", "$SYS.REQ.SERVER.*.KICK"]},
            "sub": {"allow": [f"{service_inbox(self.node, 'link')}.>"]},
            "subs": _UNLIMITED,
            "data": _UNLIMITED,
            "payload": _UNLIMITED,
            "allowed_connection_types": ["STANDARD"],
            "type": "user",
            "version": 2,
        }
        key = SigningKey.generate(Role.USER)
        return ServiceCredential(_encode_jwt(self.system_key, key.public, "link", issued_unix_s, own), key).to_text()

    @classmethod
    def generate(cls, node: str, issued_unix_s: int = 0) -> "NodeKeys":
        """New keys for `node`. Raises CredentialError when its name is no token."""
        _checked_node(node)
        operator = SigningKey.generate(Role.OPERATOR)
        system, account, client, user, admin, service = (SigningKey.generate(Role.ACCOUNT) for _ in range(6))
        signer = Signer(node, account.public, client, user, admin, service)
        signing_keys = [
            service.public,
            _scope(client.public, "client", *_client_permissions()),
            _scope(user.public, "user", *_user_permissions(node, admin=False)),
            _scope(admin.public, "admin", *_user_permissions(node, admin=True)),
        ]
        operator_claims = {"system_account": system.public, "type": "operator", "version": 2}
        return cls(
            node=node,
            operator_jwt=_encode_jwt(operator, operator.public, node, issued_unix_s, operator_claims),
            system_account=system.public,
            system_account_jwt=_encode_jwt(operator, system.public, "SYS", issued_unix_s, _account_claims([])),
            account=account.public,
            account_jwt=_encode_jwt(operator, account.public, "NODE", issued_unix_s, _account_claims(signing_keys)),
            signer=signer,
            system_key=system,
        )


def service_inbox(node: str, service: str) -> str:
    """Where answers from the hub go to a service of a node: the prefix of their subjects."""
    return f"{_INBOXES}node.{node}.{service}"


def _client_permissions() -> tuple[list[str], list[str]]:
    own = "nvshare.v1.gpu.*.alloc.{{tag(allocation)}}.client.{{name()}}"
    return [f"{own}.report"], [f"{own}.grant"]


def _user_permissions(node: str, *, admin: bool) -> tuple[list[str], list[str]]:
    own = f"nvshare.v1.node.{node}.user.{{{{name()}}}}"
    verbs = ["status", "allocate", "release", "quota", *(["mode"] if admin else [])]
    return [f"{own}.{verb}" for verb in verbs], [f"{own}.reply.*"]


def _scope(key: str, role: str, publish: list[str], subscribe: list[str]) -> dict[str, Any]:
    template = {
        "pub": {"allow": publish},
        "sub": {"allow": subscribe},
        "subs": _CLIENT_SUBSCRIPTIONS,
        "data": _UNLIMITED,
        "payload": CLIENT_PAYLOAD_BYTES,
        "bearer_token": True,
        "allowed_connection_types": ["STANDARD"],
    }
    return {"kind": "user_scope", "key": key, "role": role, "template": template}


def _account_claims(signing_keys: list[Any]) -> dict[str, Any]:
    limits = {
        "subs": _UNLIMITED,
        "data": _UNLIMITED,
        "payload": _UNLIMITED,
        "imports": _UNLIMITED,
        "exports": _UNLIMITED,
        "wildcards": True,
        "conn": _UNLIMITED,
        "leaf": _UNLIMITED,  # the node's server is a leaf of the hub's; it lets none in
    }
    return {"limits": limits, "signing_keys": signing_keys, "type": "account", "version": 2}


def _checked_node(node: str) -> str:
    if not valid_token(node):
        raise CredentialError(f"{node[:80]!r} is no name of a node: use A-Z a-z 0-9 _ -")
    return node


def _public_text(role: Role, key: bytes) -> str:
    raw = bytes([role.value]) + key
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _encode_jwt(key: SigningKey, subject: str, name: str, issued_unix_s: int, nats: Mapping[str, Any]) -> str:
    claims = {"iat": issued_unix_s, "iss": key.public, "name": name, "sub": subject, "nats": nats}
    claims["jti"] = base64.b32encode(hashlib.sha256(_json(claims)).digest()).decode().rstrip("=")
    signed = _base64(_json({"typ": "JWT", "alg": "ed25519-nkey"})) + b"." + _base64(_json(claims))
    return (signed + b"." + _base64(key.sign(signed))).decode()


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
