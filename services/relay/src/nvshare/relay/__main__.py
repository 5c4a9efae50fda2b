"""`python -m nvshare.relay`: the relay of one node, with its settings from the environment."""

import asyncio
import grp
import os
import resource
import sys

from pydantic import ValidationError

from nvshare.bus.credentials import CredentialError, Signer
from nvshare.bus.node_directory import NodeDirectory
from nvshare.bus.runtime import run
from nvshare.relay.arena_memory import default_total_bytes
from nvshare.relay.guests import Admins
from nvshare.relay.service import Relay
from nvshare.relay.settings import Settings


def main() -> None:
    try:
        settings = Settings()  # type: ignore[call-arg]  # from the environment
        with os.fdopen(settings.signing_seeds_fd, "rb") as seeds:
            signer = Signer.from_bytes(seeds.read())
        group = grp.getgrnam(settings.admin_group).gr_gid if settings.admin_group else None
    except ValidationError as error:
        faults = "; ".join(f"NVSHARE_{'.'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors())
        sys.exit(f"nvshare.relay: settings are missing or wrong: {faults}")
    except KeyError:
        sys.exit(f"nvshare.relay: there is no group {settings.admin_group!r} (NVSHARE_ADMIN_GROUP)")
    except (OSError, CredentialError) as error:
        sys.exit(f"nvshare.relay: no signing seeds (NVSHARE_SIGNING_SEEDS_FD): {error}")
    if signer.node != settings.node:
        sys.exit(f"nvshare.relay: the seeds are for node {signer.node!r}, not {settings.node!r}")

    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)  # a client takes three descriptors
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    arena_bytes = default_total_bytes() if settings.arena_bytes is None else settings.arena_bytes
    admins = Admins(node_uid=os.geteuid(), group=group)

    async def serve(stop: asyncio.Event) -> None:
        directory = NodeDirectory(settings.node_dir)
        await Relay(directory, settings.server, signer, admins, arena_bytes=arena_bytes).run(stop)

    run("relay", serve)


if __name__ == "__main__":
    main()
