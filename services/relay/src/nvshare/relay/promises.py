"""What one client has, and may still have, on one GPU, as told by the messages that pass.

A grant allows a footprint of up to `resident_bytes + headroom_bytes`. A client may follow the last grant that it
applied and any later one that is on its way, so all of those count until a report shows which one is in force: the
promise is the largest.
"""

from dataclasses import dataclass, field, replace
from typing import Self

_MAX_GRANTS = 32


@dataclass(frozen=True, slots=True, order=True)
class GrantOrder:
    """Place of a grant in the order of grants; resends of one epoch are the same grant."""

    generation: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Promise:
    """`resident_bytes` as last reported; `grants`: (order, most bytes) of each grant that may be followed, oldest
    first.
    """

    resident_bytes: int = 0
    grants: tuple[tuple[GrantOrder, int], ...] = field(default=())

    @property
    def promised_bytes(self) -> int:
        """The most that a grant which may be followed allows."""
        return max((allowed_bytes for _, allowed_bytes in self.grants), default=0)

    def granted(self, order: GrantOrder, allowed_bytes: int) -> Self:
        """A grant is about to be forwarded to the client."""
        if self.grants and order < self.grants[-1][0]:
            return self  # the client drops it
        grants = self.grants
        if grants and grants[-1][0] == order:
            allowed_bytes = max(allowed_bytes, grants[-1][1])
            grants = grants[:-1]
        grants = (*grants, (order, allowed_bytes))
        if len(grants) > _MAX_GRANTS:
            # A client that is stopped reports nothing. Counting the oldest two as one of the larger size is on the
            # safe side.
            (_, first_bytes), (second, second_bytes), *rest = grants
            grants = ((second, max(first_bytes, second_bytes)), *rest)
        return self if grants == self.grants else replace(self, grants=grants)

    def reported(self, in_force: GrantOrder, resident_bytes: int) -> Self:
        """The client says what it has, and which grant it follows: earlier ones are void."""
        grants = tuple(one for one in self.grants if one[0] >= in_force)
        if resident_bytes == self.resident_bytes and grants == self.grants:
            return self
        return replace(self, resident_bytes=resident_bytes, grants=grants)
