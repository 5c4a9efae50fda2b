"""The reservations of the arena's tenants as a file, so that a new relay does not promise them to others.

It outlives the relay's death and not the machine's. What cannot be read counts as nothing.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from nvshare.bus.node_directory import write_atomically
from nvshare.relay.arena import Tenant, TenantKey
from nvshare.relay.peers import Process


def write_record(path: Path, tenants: Iterable[Tenant]) -> None:
    """Raises OSError."""
    records = [
        {
            "allocation": tenant.key.allocation,
            "pid": tenant.key.process.pid,
            "start_time_ticks": tenant.key.process.start_time_ticks,
            "nonce": tenant.key.nonce,
            "reserved_bytes": tenant.reserved_bytes,
        }
        for tenant in tenants
        if not tenant.is_gone
    ]
    write_atomically(path, json.dumps(records) + "\n", mode=0o600)


def read_record(path: Path) -> list[tuple[TenantKey, int]]:
    """The tenants of an earlier relay, and what was reserved for each. Raises ValueError when it makes no sense,
    OSError.
    """
    try:
        records = json.loads(path.read_text())
        return [
            (
                TenantKey(
                    str(record["allocation"]),
                    Process(int(record["pid"]), int(record["start_time_ticks"])),
                    int(record["nonce"]),
                ),
                int(record["reserved_bytes"]),
            )
            for record in records
        ]
    except FileNotFoundError:
        return []
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"no record of the arena: {error}") from None
