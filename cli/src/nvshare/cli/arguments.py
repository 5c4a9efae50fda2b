"""What people type, made into values; a bad one raises CommandError with one line."""

from collections.abc import Sequence

from nvshare.bus.compute import GREATEST_CORE_PERCENT, GREATEST_WEIGHT, PRIORITIES
from nvshare.bus.quantities import QuantityError, parse_bytes
from nvshare.cli.errors import CommandError
from nvshare.cli.node_options import MODES, TIME_SHARINGS, Quantum

USAGE = 2  # exit status for a command line that makes no sense, as is usual
LONGEST_QUANTUM_SECONDS = 3600.0
LONGEST_MAX_WAIT_SECONDS = 86_400.0
LARGEST_OVERCOMMIT_RATIO = 1000.0
HOST_MEMORIES = ("auto", "own", "arena")
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


def gpu_indices(text: str | None, emulated: int) -> tuple[int, ...]:
    """The GPUs of `0,2`, by their indices as NVML counts them; none where none were given. `emulated`: so many are."""
    if text is None:
        return ()
    words = text.split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise CommandError(f"--gpu {text}: give indices of GPUs, such as 0 or 0,2, each once", USAGE)
    indices = tuple(sorted(map(int, words)))
    if emulated and indices[-1] >= emulated:
        raise CommandError(f"--gpu {text}: with --emulate {emulated} the last GPU is {emulated - 1}", USAGE)
    return indices


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


def core_percent(text: str | None) -> int | None:
    """Percent of a GPU's time, 0 for `none`; None where the option was not given."""
    return 0 if text == "none" else _number_up_to("--cores", text, GREATEST_CORE_PERCENT, "a percentage", ", or none")


def share_weight(text: str | None) -> int | None:
    """A weight; None where none was given."""
    return _number_up_to("--weight", text, GREATEST_WEIGHT, "a whole number", "")


def _number_up_to(option: str, text: str | None, greatest: int, what: str, otherwise: str) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= greatest):
        raise CommandError(f"{option} {text}: give {what} from 1 to {greatest}{otherwise}", USAGE)
    return int(text)


def priority_number(text: str | None) -> int | None:
    """The contract's number of a priority; None where none was given."""
    if text is not None and text not in PRIORITIES:
        raise CommandError(f"no priority {text!r}; the priorities are {', '.join(PRIORITIES)}", USAGE)
    return PRIORITIES[text] if text is not None else None


def mode_name(text: str | None) -> str | None:
    """One of the modes; None where none was given."""
    if text is not None and text not in MODES:
        raise CommandError(f"no mode {text!r}; the modes are {', '.join(MODES)}", USAGE)
    return text


def time_sharing_name(text: str | None) -> str | None:
    """One of the ways to share a GPU's time; None where none was given."""
    if text is not None and text not in TIME_SHARINGS:
        raise CommandError(f"no time sharing {text!r}; there are {', '.join(TIME_SHARINGS)}", USAGE)
    return text


def parse_quantum(text: str | None, named: str = "--quantum") -> Quantum | None:
    """`auto` or seconds that make sense; None where none was given. `named` is what the error calls it."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    # Written so that a NaN is refused, too.
    if not 0 < seconds <= LONGEST_QUANTUM_SECONDS:
        raise CommandError(
            f"{named} {text}: give auto, or seconds, more than 0 and at most {LONGEST_QUANTUM_SECONDS:.0f}", USAGE
        )
    return seconds


def max_wait_seconds(seconds: float | None) -> float | None:
    """A longest wait that makes sense; None where none was given."""
    if seconds is not None and not 0 < seconds <= LONGEST_MAX_WAIT_SECONDS:
        raise CommandError(f"--max-wait {seconds:g}: give seconds, more than 0 and at most a day", USAGE)
    return seconds


def overcommit_ratio(ratio: float | None) -> float | None:
    """How many times its memory a GPU may promise; None where no ratio was given."""
    if ratio is not None and not 1 <= ratio <= LARGEST_OVERCOMMIT_RATIO:
        raise CommandError(
            f"--overcommit {ratio:g}: give a ratio from 1 (no more than fits) to {LARGEST_OVERCOMMIT_RATIO:.0f}", USAGE
        )
    return ratio


def host_memory_kind(text: str | None) -> str | None:
    """Where a program's memory goes that leaves the card; None where nothing was given."""
    if text is not None and text not in HOST_MEMORIES:
        raise CommandError(
            f"--host-memory {text}: give own (the program's), arena (the node's) or auto (arena where there is one)",
            USAGE,
        )
    return text
