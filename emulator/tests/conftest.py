"""Runs programs on emulated cards, each test with a folder (and so with cards) of its own."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nvshare.emulator import library_directory

_PROGRAMS = Path(__file__).parent / "programs"
_PRELUDE = "import ctypes, json, os, sys, time\nfrom gpu import *\n"


class Program:
    """A program that was started on the cards. It and the test exchange lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self.pid = process.pid
        self._input = process.stdin
        self._output = process.stdout

    def say(self, line: str) -> None:
        """Send the program a line."""
        self._input.write(line + "\n")
        self._input.flush()

    def hear(self) -> str:
        """Wait for the program's next line; empty when it has ended."""
        return self._output.readline().rstrip("\n")

    def kill(self) -> None:
        """Kill the program and wait until it is gone."""
        self.process.kill()
        self.process.wait()

    def result(self) -> Any:
        """Wait for the program's end and return the JSON of its last line."""
        output, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, output
        return json.loads(output.splitlines()[-1])

    def end(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._input.close()
        self._output.close()


class Cards:
    """The emulated cards of one folder, and the programs that were started on them."""

    def __init__(self, folder: Path) -> None:
        self.environment = dict(os.environ)
        self.environment.update(
            NVSHARE_EMULATOR_DIR=str(folder),
            LD_LIBRARY_PATH=str(library_directory()),
            PYTHONPATH=str(_PROGRAMS),
        )
        for name in ("CUDA_VISIBLE_DEVICES", "LD_PRELOAD"):
            self.environment.pop(name, None)
        self._started: list[Program] = []

    def configure(self, **settings: str | int) -> None:
        """Set ``NVSHARE_EMULATOR_*`` variables before the first program makes the folder's state."""
        for name, value in settings.items():
            self.environment[f"NVSHARE_EMULATOR_{name.upper()}"] = str(value)

    def start(self, program: str, **environment: str) -> Program:
        """Start a program; it can print lines, and read lines that the test writes."""
        started = Program(
            subprocess.Popen(
                [sys.executable, "-c", _PRELUDE + textwrap.dedent(program)],
                env={**self.environment, **environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._started.append(started)
        return started

    def run(self, program: str, **environment: str) -> Any:
        """Run a program to its end and return the JSON of its last line."""
        return self.start(program, **environment).result()

    def end(self) -> None:
        """End what is still running."""
        for program in self._started:
            program.end()


@pytest.fixture
def cards(tmp_path: Path) -> Iterator[Cards]:
    """One card of 16 GiB, unless the test configures others."""
    made = Cards(tmp_path / "cards")
    yield made
    made.end()
