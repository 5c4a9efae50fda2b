"""How every service runs: event loop, signals, log, and its end when its parent ends."""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}
_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: die_with_parent runs between fork and exec


def run(service_name: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Runs `main(stop)` to its end on uvloop. SIGTERM and SIGINT set `stop`; a second one cancels `main`.

    With NVSHARE_PARENT_DEATH=1 in the environment the service gets SIGTERM when the process that started it dies. An
    exception out of `main` is logged, and ends the process with status 1.
    """
    configure_log(service_name)
    if os.environ.get("NVSHARE_PARENT_DEATH") == "1":
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:  # it died before it was watched
            return
    try:
        uvloop.run(_run(main))
    except Exception:
        structlog.get_logger().exception("service failed")
        sys.exit(1)


def die_with_parent() -> None:
    """Asks the kernel for SIGTERM when the thread that started this process ends (also usable as a `preexec_fn`)."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def configure_log(service_name: str) -> None:
    """One line an event on stderr: time, level, service, event, key=value. NVSHARE_LOG: error, warn, info (default),
    debug.
    """
    level = _LEVELS.get(os.environ.get("NVSHARE_LOG", "info").lower(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _Line(service_name),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,  # modules make their loggers before the service configures them
    )


class _Line:
    """Writes an event as `2026-01-31T12:00:00Z info scheduler: text key=value`."""

    def __init__(self, service_name: str) -> None:
        self._service_name = service_name

    def __call__(self, logger: object, method: str, event: structlog.typing.EventDict) -> str:
        head = f"{event.pop('timestamp')} {event.pop('level')} {self._service_name}: {event.pop('event')}"
        trace = event.pop("exception", None)
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in event.items())
        return f"{head}{pairs}" + (f"\n{trace}" if trace else "")


def _quoted(value: object) -> str:
    text = str(value)
    # Values come from other processes: repr keeps a line break in one from starting a line of the log.
    return text if text.isprintable() and " " not in text and text else repr(text)


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    task = asyncio.ensure_future(main(stop))

    def on_signal() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    with contextlib.suppress(asyncio.CancelledError):
        await task
