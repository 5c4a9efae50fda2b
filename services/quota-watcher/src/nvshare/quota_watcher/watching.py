"""List-and-watch as a state machine: what to ask next, and what follows from the answer. Pure.

A list is read page by page, then a watch goes on from its resourceVersion; every event, bookmarks too, brings the
version from which a next watch goes on. Where a version is gone (410, as an answer or in the stream) everything is
listed again, and what the new list lacks was deleted. resourceVersions are opaque: they are kept and handed back, never
compared for order.

The caller performs `next_step()`, tells what came of it by one of the other methods, and asks again.
"""

import random
from dataclasses import dataclass
from enum import Enum, auto

from nvshare.quota_watcher.listing import Change, Listing
from nvshare.quota_watcher.pods import Pod

GONE = 410
_BAD_REQUEST = 400  # to a watch: the server does not know the version as one of its own


@dataclass(frozen=True)
class Policy:
    """How patient the watcher is, in seconds.

    A failed request is repeated after `first_wait`, twice that and so on up to `longest_wait`, each less a random part
    of up to a half: pods must not wait longer than 2 s for their quotas once the API answers again.
    `longest_obedience` bounds what a Retry-After can ask for.
    """

    page_size: int = 500
    first_wait_seconds: float = 0.1
    longest_wait_seconds: float = 1.5
    longest_obedience_seconds: float = 60.0
    shortest_watch_seconds: int = 290
    longest_watch_seconds: int = 580
    long_life_seconds: float = 5.0
    """A stream that lived as long has worked, even if nothing came."""
    failures_before_list: int = 5
    """So many watches in a row that failed without a 410, and the version is not trusted any more."""


@dataclass(frozen=True)
class List:
    """Ask for a page; `limit` 0: for all at once."""

    limit: int
    continue_token: str


@dataclass(frozen=True)
class Watch:
    """Watch from `version`, with bookmarks; the server ends it after `timeout_seconds`."""

    version: str
    timeout_seconds: int


@dataclass(frozen=True)
class Wait:
    """Do nothing for `seconds`."""

    seconds: float


Step = List | Watch | Wait


class _State(Enum):
    LISTING = auto()
    WATCHING = auto()


class ListAndWatch:
    """Follows the pods of a cluster. `listing` is what is known."""

    def __init__(self, policy: Policy, chance: random.Random) -> None:
        self.listing = Listing()
        self._policy = policy
        self._chance = chance
        self._state = _State.LISTING
        self._version = ""
        self._continue_token = ""
        self._paged = True
        self._failures = 0  # in a row, since the last time that a watch worked
        self._watch_failures = 0  # of them: watches from the present version
        self._wait_seconds = 0.0

    @property
    def watching(self) -> bool:
        """Whether a list is complete and what comes now is a stream of changes."""
        return self._state is _State.WATCHING

    def next_step(self) -> Step:
        """What to do now. A wait is asked for once."""
        if self._wait_seconds > 0:
            seconds, self._wait_seconds = self._wait_seconds, 0.0
            return Wait(seconds)
        if self._state is _State.LISTING:
            if not self._continue_token:
                self.listing.begin()
            return List(self._policy.page_size if self._paged else 0, self._continue_token)
        # At random, so that watches that began together do not end together for ever.
        timeout = self._chance.randint(self._policy.shortest_watch_seconds, self._policy.longest_watch_seconds)
        return Watch(self._version, timeout)

    def page(self, pods: list[Pod], version: str, continue_token: str) -> list[Change]:
        """A page came. `version` is that of the whole list."""
        changes = self.listing.page(pods)
        self._continue_token = continue_token
        if continue_token:
            return changes
        self._paged = True
        self._state, self._version, self._watch_failures = _State.WATCHING, version, 0
        return changes + self.listing.end()

    def event(self, kind: str, pod: Pod) -> list[Change]:
        """ADDED, MODIFIED or DELETED came. One that is known already changes nothing."""
        self._worked(pod.version)
        return self.listing.remove(pod) if kind == "DELETED" else self.listing.upsert(pod)

    def bookmark(self, version: str) -> None:
        """Nothing happened up to `version` but what was told."""
        self._worked(version)

    def refused(self, code: int, retry_after_seconds: float = 0.0) -> None:
        """A list or watch was answered with a failure, or a stream brought one as an ERROR event."""
        if code in (GONE, _BAD_REQUEST):
            if self._continue_token:
                self._paged = False  # pages may expire again and again; one answer cannot
            self._list_again()
        elif self._state is _State.WATCHING:
            self._watch_failed()
        self._back_off(retry_after_seconds)

    def failed(self) -> None:
        """There was no answer, or a stream broke off or brought nonsense, or nothing at all for too long."""
        if self._state is _State.WATCHING:
            self._watch_failed()
        self._back_off(0.0)

    def ended(self, lived_seconds: float) -> None:
        """A stream ended in good order."""
        if lived_seconds >= self._policy.long_life_seconds:
            self._failures = self._watch_failures = 0
        else:  # a server that ends each stream at once must not be asked in a hot loop
            self._back_off(0.0)

    def _worked(self, version: str) -> None:
        self._version = version
        self._failures = self._watch_failures = 0

    def _watch_failed(self) -> None:
        self._watch_failures += 1
        if self._watch_failures >= self._policy.failures_before_list:
            self._list_again()

    def _list_again(self) -> None:
        self._state, self._continue_token, self._watch_failures = _State.LISTING, "", 0

    def _back_off(self, retry_after_seconds: float) -> None:
        policy = self._policy
        # 2 ** 20 is beyond any longest wait, and no overflow.
        longest = min(policy.first_wait_seconds * 2 ** min(self._failures, 20), policy.longest_wait_seconds)
        self._failures += 1
        asked = min(retry_after_seconds, policy.longest_obedience_seconds)
        self._wait_seconds = max(longest * self._chance.uniform(0.5, 1.0), asked)
