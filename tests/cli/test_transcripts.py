"""Runs the commands of tests/transcripts in a fresh home, and compares what they print and how they end.

A transcript opens with comments; `# With: gateway, laptop` starts these first, `# Beside others:
gateway, laptop` takes those that other transcripts have used, in a folder of its own, and `# With:
older` begins with a home as the older system left it. Then come commands behind `$ `, which a real
shell runs, each followed by its stdout, its stderr behind `2> `, and `[exit N]` if that is not 0.
Placeholders stand for what differs from run to run; in a command too, <TOKEN> being the last one
printed.
"""

import getpass
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
    is_alone: bool
    steps: list[Step]


def parse(text: str) -> Transcript:
    parts: list[str] = []
    is_alone = True
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:], []))
        elif steps:
            steps[-1].shown.append(line)
        elif found := re.match("# (With|Beside others): (.*)", line):
            is_alone, parts = found[1] == "With", found[2].split(", ")
    return Transcript(parts, is_alone, steps)


class Place(NamedTuple):
    """A home, where its gateway listens, if it has one, and a folder."""

    home: Home
    port: int | None
    folder: Path


@contextmanager
def place(folder: Path, parts: Sequence[str]) -> Iterator[Place]:
    home = Home(folder)
    if "older" in parts:
        older_home.leave(home.path)
    with ExitStack() as stack:
        port = None
        if "gateway" in parts:
            gateway = stack.enter_context(home.gateway())
            port = gateway.port
            for name in parts[1:]:
                stack.enter_context(home.node(gateway, name, allow=[folder]))
        yield Place(home, port, folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory.mktemp("t"), ["gateway", "laptop"]) as shared:
        yield shared


class Terminal:
    """Where a transcript's commands are typed."""

    def __init__(self, place: Place) -> None:
        home, port, self._folder = place
        self._values = {"<FOLDER>": str(self._folder), "<USER>": getpass.getuser(), "<PORT>": str(port)}
        self._token = ""
        programs = self._folder / "bin"
        programs.mkdir()
        program = programs / "hermes-nodes"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hermes_nodes "$@"\n')
        program.chmod(0o755)
        self._environ = {
            **home.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HERMES_NODE_CONFIG": str(home.folder / "node-laptop" / "config.toml"),
        }

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
    path: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    transcript = parse(path.read_text())
    assert transcript.steps
    with ExitStack() as stack:
        if transcript.is_alone:
            here = stack.enter_context(place(tmp_path_factory.mktemp("t"), transcript.parts))
        else:
            here = request.getfixturevalue("shared")
            here = here._replace(folder=here.folder / path.stem)
            here.folder.mkdir()
        terminal = Terminal(here)
        for step in transcript.steps:
            shown = list(terminal.generalised(terminal.type(step.command), step.shown))
            assert "\n".join([step.command, *shown]) == "\n".join([step.command, *step.shown])
