"""What a failed look at a process says of it."""

import os
import resource
import subprocess

import pytest

from nvshare.relay.peers import Process
from nvshare.relay.processes import ProcessGoneError, open_pidfd
from nvshare.relay.registry import process_lives


def test_a_process_that_was_reaped_is_gone() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(ProcessGoneError):
        open_pidfd(process.pid)


def test_a_relay_without_descriptors_takes_nobody_for_dead() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            open_pidfd(os.getpid())
        assert process_lives(Process(os.getpid(), 1))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
