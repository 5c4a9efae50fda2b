"""Runs a program in the foreground as if this process were not there: signals go in, its status comes out."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from nvshare.cli.errors import CommandError

NOT_FOUND = 127  # as shells answer
NOT_EXECUTABLE = 126
_FORWARDED = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH}
)


def run_in_foreground(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run `command` to its end; returns its exit status, 128+n when signal n killed it.

    A signal that another process sends to us is passed on. One that the terminal sends has reached the program already,
    because it is in our process group. Raises CommandError when the program cannot be started.
    """
    awaited = _FORWARDED | {signal.SIGCHLD}
    # Blocked before the start, so that none is lost; the program gets the mask that we were started with.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        child = _start(command, environment, before)
        while (status := child.poll()) is None:
            received = signal.sigwaitinfo(awaited)
            # The kernel's own signals (the terminal's) have a positive code, see sigaction(2).
            if received.si_signo != signal.SIGCHLD and received.si_code <= 0:
                child.send_signal(received.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return status if status >= 0 else 128 - status


def _start(
    command: Sequence[str], environment: Mapping[str, str], mask: set[int | signal.Signals]
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            env=dict(environment),
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
        )
    except FileNotFoundError:
        raise CommandError(f"command not found: {command[0]}", NOT_FOUND) from None
    except OSError as error:
        raise CommandError(f"cannot run {command[0]}: {os.strerror(error.errno or 0)}", NOT_EXECUTABLE) from None
