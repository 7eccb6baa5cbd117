"""Runs the commands of tests/transcripts in a fresh home, and compares what they print and how they end.

A transcript opens with comments; `# With: gateway, laptop` starts these first, and `# With: older` begins
with a home as the older system left it. Then come commands behind `$ `, which a real shell runs, each
followed by its stdout, its stderr behind `2> `, and `[exit N]` if that is not 0. Placeholders stand for
what differs from run to run; in a command too, <TOKEN> being the last one printed.
"""

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import older_home
from tests.harness import Home
from tests.support import PATIENCE

TRANSCRIPTS = sorted((Path(__file__).parents[1] / "transcripts").glob("*.txt"))
_TOKEN = r"(?:hnt_|hno_[0-9a-f-]{36}\.)[A-Za-z0-9_-]{43}"
_FORMS = {
    "<TOKEN>": _TOKEN,
    "<TIME>": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    "<UUID>": r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    "<MS>": r"\d+",
    "<SEQ>": r"\d+",
    "<HASH>": r"[0-9a-f]{64}",
    "<PID>": r"\d+",
    "<ARCH>": r"\w+",
}


class Step(NamedTuple):
    command: str
    shown: list[str]


class Transcript(NamedTuple):
    parts: list[str]
    steps: list[Step]


def parse(text: str) -> Transcript:
    parts: list[str] = []
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], []))
        elif steps:
            steps[-1].shown.append(line)
        elif line.startswith("# With: "):
            parts = line.removeprefix("# With: ").split(", ")
    return Transcript(parts, steps)


class Terminal:
    """Where a transcript's commands are typed."""

    def __init__(self, home: Home, stack: ExitStack, parts: Sequence[str]) -> None:
        self._values = {"<FOLDER>": str(home.folder), "<USER>": getpass.getuser()}
        self._token = ""
        programs = home.folder / "bin"
        programs.mkdir()
        program = programs / "hermes-nodes"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hermes_nodes "$@"\n')
        program.chmod(0o755)
        self._folder = home.folder
        self._environ = {
            **home.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HERMES_NODE_CONFIG": str(home.folder / "node-laptop" / "config.toml"),
        }
        if "older" in parts:
            older_home.leave(home.path)
        if "gateway" in parts:
            gateway = stack.enter_context(home.gateway())
            self._values["<PORT>"] = str(gateway.port)
            for name in parts[1:]:
                stack.enter_context(home.node(gateway, name, allow=[home.folder]))

    def type(self, command: str) -> list[str]:
        """What a command shows, line by line."""
        done = subprocess.run(
            ["bash", "-c", self._filled(command)],
            env=self._environ,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        stdout = done.stdout.decode()
        self._token = next(iter(re.findall(_TOKEN, stdout)), self._token)
        stderr = [f"2> {line}".rstrip() for line in done.stderr.decode().splitlines()]
        return stdout.splitlines() + stderr + ([f"[exit {done.returncode}]"] if done.returncode else [])

    def generalised(self, shown: Sequence[str], expected: Sequence[str]) -> Iterator[str]:
        """What was shown, with placeholders where the expected line has fitting ones."""
        forms = _FORMS | {name: re.escape(value) for name, value in self._values.items()}
        for line, form in zip_longest(shown, expected):
            if line is not None:
                parts = re.split("(<[A-Z]+>)", form or "")
                pattern = "".join(forms.get(part, re.escape(part)) for part in parts)
                yield form if form and re.fullmatch(pattern, line) else line

    def _filled(self, command: str) -> str:
        for name, value in {**self._values, "<TOKEN>": self._token}.items():
            command = command.replace(name, value)
        return command


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_commands_show_what_their_transcript_says(
    path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    transcript = parse(path.read_text())
    assert transcript.steps
    home = Home(tmp_path_factory.mktemp("t"))
    with ExitStack() as stack:
        terminal = Terminal(home, stack, transcript.parts)
        for step in transcript.steps:
            shown = list(terminal.generalised(terminal.type(step.command), step.shown))
            assert "\n".join([step.command, *shown]) == "\n".join([step.command, *step.shown])
