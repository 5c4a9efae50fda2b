"""What people type, made into values; a bad one raises CommandError with one line."""

from collections.abc import Sequence

from nvshare.bus.quantities import QuantityError, parse_bytes
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import MODES

USAGE = 2  # exit status for a command line that makes no sense, as is usual
LONGEST_QUANTUM_SECONDS = 3600.0
MOST_EMULATED_GPUS = 16


def with_emulate_number(arguments: Sequence[str]) -> list[str]:
    """The command line with `--emulate` as `--emulate=1` where no number follows, up to a `--`."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return result + list(arguments[position:])
        following = arguments[position + 1] if position + 1 < len(arguments) else ""
        result.append("--emulate=1" if argument == "--emulate" and not following.isdecimal() else argument)
    return result


def emulated_gpus(number: int | None) -> int:
    """Number of emulated cards; 0 where none were asked for."""
    if number is not None and not 1 <= number <= MOST_EMULATED_GPUS:
        raise CommandError(f"--emulate {number}: give a number of GPUs from 1 to {MOST_EMULATED_GPUS}", USAGE)
    return number or 0


def size_bytes(option: str, text: str | None) -> int | None:
    """Bytes of `4Gi`, `16GiB`, `1000000`; None where the option was not given."""
    if text is None:
        return None
    try:
        size = parse_bytes(text)
    except QuantityError as error:
        raise CommandError(f"{option}: {error}", USAGE) from error
    if size <= 0:
        raise CommandError(f"{option} {text}: give more than zero bytes", USAGE)
    return size


def mode_name(text: str | None) -> str | None:
    """One of the modes; None where none was given."""
    if text is not None and text not in MODES:
        raise CommandError(f"no mode {text!r}; the modes are {', '.join(MODES)}", USAGE)
    return text


def quantum_seconds(seconds: float | None) -> float | None:
    """A quantum that makes sense; None where none was given."""
    # Written so that a NaN is refused, too.
    if seconds is not None and not 0 < seconds <= LONGEST_QUANTUM_SECONDS:
        raise CommandError(
            f"--quantum {seconds:g}: give seconds, more than 0 and at most {LONGEST_QUANTUM_SECONDS:.0f}", USAGE
        )
    return seconds
