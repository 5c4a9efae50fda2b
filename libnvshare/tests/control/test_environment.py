"""What the library takes from its environment, and the lines that it writes to stderr."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

DEFAULTS = ["/run/nvshare/client/nvshare.sock", "0", "10", "1", "0", "0"]
WAIT, UNMANAGED, FAIL = "0", "1", "2"
AUTO, OWN, ARENA, SPARSE = "0", "1", "2", "3"
ERROR, WARN, INFO, DEBUG = "0", "1", "2", "3"


def read(programs: Path, **variables: str) -> tuple[list[str], str]:
    """The settings under these variables, and what was said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NVSHARE_")}
    done = subprocess.run(
        [programs / "settings_program"], env=clean | variables, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr


def test_without_variables_the_defaults_hold(programs: Path) -> None:
    assert read(programs) == (DEFAULTS, "")


def test_empty_variables_are_as_none(programs: Path) -> None:
    names = (
        "NVSHARE_SOCKET",
        "NVSHARE_LOG",
        "NVSHARE_WITHOUT_RELAY",
        "NVSHARE_WITHOUT_RELAY_SECONDS",
        "NVSHARE_HOST_MEMORY",
        "NVSHARE_MANAGED",
    )
    assert read(programs, **{f"NVSHARE_{name}": "" for name in names}) == (DEFAULTS, "")


def test_each_variable_is_read(programs: Path) -> None:
    settings, said = read(
        programs,
        NVSHARE_SOCKET="/tmp/s",
        NVSHARE_LOG="debug",
        NVSHARE_WITHOUT_RELAY="fail",
        NVSHARE_WITHOUT_RELAY_SECONDS="3",
        NVSHARE_HOST_MEMORY="own",
        NVSHARE_MANAGED="1",
    )
    assert settings == ["/tmp/s", FAIL, "3", DEBUG, OWN, "1"]
    assert said == ""


@pytest.mark.parametrize(("word", "policy"), [("wait", WAIT), ("unmanaged", UNMANAGED), ("fail", FAIL)])
def test_each_policy_without_a_relay_has_a_word(programs: Path, word: str, policy: str) -> None:
    assert read(programs, NVSHARE_WITHOUT_RELAY=word)[0][1] == policy


@pytest.mark.parametrize(("word", "source"), [("auto", AUTO), ("own", OWN), ("arena", ARENA), ("sparse", SPARSE)])
def test_each_source_of_host_memory_has_a_word(programs: Path, word: str, source: str) -> None:
    assert read(programs, NVSHARE_HOST_MEMORY=word)[0][4] == source


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NVSHARE_LOG", "loud"),
        ("NVSHARE_WITHOUT_RELAY", "Wait"),
        ("NVSHARE_HOST_MEMORY", "mine"),
        ("NVSHARE_MANAGED", "yes"),
        ("NVSHARE_WITHOUT_RELAY_SECONDS", "-1"),
        ("NVSHARE_WITHOUT_RELAY_SECONDS", "10s"),
        ("NVSHARE_WITHOUT_RELAY_SECONDS", "86401"),
        ("NVSHARE_WITHOUT_RELAY_SECONDS", "99999999999999999999999"),
        ("NVSHARE_SOCKET", "/" + "s" * 4096),
    ],
)
def test_a_value_that_cannot_be_read_is_warned_about_and_its_default_taken(
    programs: Path, variable: str, value: str
) -> None:
    settings, said = read(programs, **{variable: value})
    assert settings == DEFAULTS
    assert re.fullmatch(rf"nvshare\[\d+\] warn: {variable}.*\n", said)


def say(programs: Path, text: str, level: str) -> list[str]:
    done = subprocess.run(
        [programs / "log_program", text],
        env=os.environ | {"NVSHARE_LOG": level},
        capture_output=True,
        text=True,
        check=True,
    )
    return re.sub(r"\[\d+\]", "[pid]", done.stderr).splitlines()


@pytest.mark.parametrize(("level", "count"), [("error", 1), ("warn", 2), ("info", 3), ("debug", 4)])
def test_messages_from_the_chosen_level_on_are_written(programs: Path, level: str, count: int) -> None:
    levels = ["error", "warn", "info", "debug"][:count]
    assert say(programs, "hello", level) == [
        *(f"nvshare[pid] {name}: hello" for name in levels),
        "nvshare[pid] error: once",
    ]


def test_a_message_cannot_forge_a_line_or_rule_the_terminal(programs: Path) -> None:
    assert say(programs, "a\nb\x1b[2Jc\rd\x7f", "error")[0] == "nvshare[pid] error: a?b?[2Jc?d?"


def test_a_long_message_is_cut_to_one_line(programs: Path) -> None:
    first, _ = say(programs, "x" * 5000, "error")
    assert set(first.removeprefix("nvshare[pid] error: ")) == {"x"}
    assert 900 < len(first) <= 1024


def test_a_reader_of_stderr_that_went_away_does_not_end_the_program(programs: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [programs / "log_program", "hello"],
        stdout=subprocess.PIPE,
        stderr=writing,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_DFL),
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"alive\n")
