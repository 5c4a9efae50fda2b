"""The subjects of the bus: how each is built, and who is named in one that arrived.

The table is in docs/protocol.md. Identity is the subject token that the NATS server checked, so the `parse_*`
functions are the only place where a service learns who speaks. Every builder refuses a token that could change the
subject's meaning (a wildcard, a dot, white space), because tokens come from users and from other processes.
"""

import re
from dataclasses import dataclass

_PREFIX = "nvshare.v1"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_REPLY_TOKEN = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_UID = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_UIDS = 2**32


class SubjectError(ValueError):
    """A token that may not stand in a subject, or a subject of another shape."""


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """Who a report is from, or a grant is for: one client (`<pid>-<nonce>`) of one allocation on one GPU (its UUID)."""

    gpu: str
    allocation: str
    client: str


@dataclass(frozen=True, slots=True)
class UserAddress:
    """Which user of which node asks for which verb."""

    node: str
    uid: int
    verb: str


def valid_token(text: str) -> bool:
    """Whether `text` may be one token of a subject: 1 to 64 characters of [A-Za-z0-9_-]."""
    return _TOKEN.fullmatch(text) is not None


def node_token(name: str) -> str:
    """A host's or a cluster's name of a node as a token: other characters become `-`, at most 64 of them."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "node"


def valid_reply_token(text: str) -> bool:
    """Whether `text` may be the `reply_token` of a request: 1 to 32 characters of [A-Za-z0-9]."""
    return _REPLY_TOKEN.fullmatch(text) is not None


def report(gpu: str, allocation: str, client: str) -> str:
    """Subject of one client's reports."""
    return f"{_PREFIX}.gpu.{_token(gpu)}.alloc.{_token(allocation)}.client.{_token(client)}.report"


def report_any() -> str:
    """Matches the reports of every client on every GPU."""
    return f"{_PREFIX}.gpu.*.alloc.*.client.*.report"


def grant(gpu: str, allocation: str, client: str) -> str:
    """Subject of one client's grants."""
    return f"{_PREFIX}.gpu.{_token(gpu)}.alloc.{_token(allocation)}.client.{_token(client)}.grant"


def grant_any() -> str:
    """Matches the grants of every client on every GPU."""
    return f"{_PREFIX}.gpu.*.alloc.*.client.*.grant"


def event(gpu: str, kind: str) -> str:
    """Subject of one kind of event on one GPU."""
    return f"{_PREFIX}.gpu.{_token(gpu)}.event.{_token(kind)}"


def event_any() -> str:
    """Matches every kind of event on every GPU."""
    return f"{_PREFIX}.gpu.*.event.*"


def plan(gpu: str) -> str:
    """Subject of one GPU's plan."""
    return f"{_PREFIX}.gpu.{_token(gpu)}.plan"


def relay(node: str) -> str:
    """Subject of what the node's relay knows."""
    return f"{_PREFIX}.node.{_token(node)}.relay"


def notice(node: str) -> str:
    """Subject of what the node wants said on pods."""
    return f"{_PREFIX}.node.{_token(node)}.notice"


def user(node: str, uid: int, verb: str) -> str:
    """Subject of one user's requests of one verb."""
    return f"{_PREFIX}.node.{_token(node)}.user.{_uid(uid)}.{_token(verb)}"


def user_any(node: str, verb: str) -> str:
    """Matches every user's requests of one verb."""
    return f"{_PREFIX}.node.{_token(node)}.user.*.{_token(verb)}"


def reply(node: str, uid: int, token: str) -> str:
    """Subject of the answer to one request of one user."""
    return f"{_PREFIX}.node.{_token(node)}.user.{_uid(uid)}.reply.{_token(token)}"


def reply_any(node: str, uid: int) -> str:
    """Matches the answers to every request of one user."""
    return f"{_PREFIX}.node.{_token(node)}.user.{_uid(uid)}.reply.*"


def parse_report(subject: str) -> ClientAddress:
    """Who reports. Raises SubjectError when `subject` is no report's."""
    return _parse_client(subject, "report")


def parse_grant(subject: str) -> ClientAddress:
    """Whom a grant is for. Raises SubjectError when `subject` is no grant's."""
    return _parse_client(subject, "grant")


def parse_user(subject: str) -> UserAddress:
    """Who asks for what. Raises SubjectError when `subject` is no user's request."""
    tokens = subject.split(".")
    match tokens:
        case ["nvshare", "v1", "node", node, "user", uid, verb] if valid_token(node) and valid_token(verb):
            if _UID.fullmatch(uid) and int(uid) < _UIDS:
                return UserAddress(node=node, uid=int(uid), verb=verb)
    raise SubjectError(f"not a user's request: {subject[:300]!r}")


def _parse_client(subject: str, kind: str) -> ClientAddress:
    tokens = subject.split(".")
    match tokens:
        case ["nvshare", "v1", "gpu", gpu, "alloc", allocation, "client", client, last] if last == kind:
            if valid_token(gpu) and valid_token(allocation) and valid_token(client):
                return ClientAddress(gpu=gpu, allocation=allocation, client=client)
    raise SubjectError(f"not the subject of a {kind}: {subject[:300]!r}")


def _token(text: str) -> str:
    if not valid_token(text):
        raise SubjectError(f"{text[:80]!r} may not stand in a subject: use 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


def _uid(uid: int) -> str:
    if not 0 <= uid < _UIDS:
        raise SubjectError(f"{uid} is not a uid")
    return str(uid)
