"""A command's terminal: its size, the end of its input, and becoming a command on it."""

import os
import subprocess
import termios
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from hermes_nodes.node import wires
from hermes_nodes.node.terminals import Terminal, on_terminal
from hermes_nodes.protocol.messages import Pty
from tests.support import PATIENCE


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """One whose other end is still ours."""
    with closing(Terminal(Pty(cols=90, rows=30))) as opened:
        yield opened
        wires.close(opened.wires.ours + opened.wires.theirs)


def raw(terminal: Terminal) -> None:
    attributes = termios.tcgetattr(terminal.wires.theirs[0])
    attributes[3] &= ~termios.ICANON
    termios.tcsetattr(terminal.wires.theirs[0], termios.TCSANOW, attributes)


def run(program: str, *argv: str, lc_ctype: str | None = None, **environ: str) -> tuple[int, bytes]:
    """A command on a terminal of its own: its code and what it shows."""
    with closing(Terminal(Pty(cols=90, rows=30))) as terminal:
        process = subprocess.Popen(
            on_terminal(program, [program, *argv], lc_ctype),
            env={"PATH": os.environ["PATH"], **environ},
            stdin=terminal.wires.theirs[0],
            stdout=terminal.wires.theirs[1],
            stderr=terminal.wires.theirs[2],
            start_new_session=True,
        )
        wires.close(terminal.wires.theirs)
        shown = b""
        with suppress(OSError):  # EIO: nobody holds it any more
            while piece := os.read(terminal.wires.ours[1], 65536):
                shown += piece
        wires.close(terminal.wires.ours)
        return process.wait(PATIENCE), shown


def test_a_terminal_has_the_size_it_is_opened_with(terminal: Terminal) -> None:
    assert termios.tcgetwinsize(terminal.wires.theirs[0]) == (30, 90)


@pytest.mark.parametrize(
    ("cols", "rows", "taken"),
    [(100, 40, (40, 100)), (0, 0, (1, 1)), (2**63, 65_536, (65_535, 65_535)), (-1, 5, (5, 1))],
)
def test_any_size_is_made_one_that_a_terminal_can_have(
    terminal: Terminal, cols: int, rows: int, taken: tuple[int, int]
) -> None:
    terminal.resize(cols, rows)
    assert termios.tcgetwinsize(terminal.wires.theirs[0]) == taken


@pytest.mark.parametrize(
    ("last", "typed"),
    [(b"", b"\x04"), (b"\n", b"\x04"), (b"\r", b"\x04"), (b"\x04", b"\x04"), (b"x", b"\x04\x04")],
)
def test_the_end_of_input_is_typed_so_that_it_ends_also_within_a_line(
    terminal: Terminal, last: bytes, typed: bytes
) -> None:
    assert terminal.end_of_input(last) == typed
    raw(terminal)
    assert terminal.end_of_input(last) == b"\x04"


def test_a_command_has_the_terminal_as_its_controlling_one() -> None:
    code, shown = run("sh", "-c", "echo to the terminal >/dev/tty; exit 3")
    assert (code, shown) == (3, b"to the terminal\r\n")


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [("no-such-program", 127, b"No such file or directory"), ("/etc/passwd", 126, b"Permission denied")],
)
def test_what_can_not_be_run_is_what_a_shell_says(program: str, code: int, why: bytes) -> None:
    assert run(program) == (code, program.encode() + b": " + why + b"\r\n")


@pytest.mark.parametrize("locale", ["", "C", "C.UTF-8"])
def test_words_and_environment_arrive_as_they_were(locale: str) -> None:
    words = ["a b", "", "\udcff", "ä"]
    environ = {"LC_CTYPE": locale} if locale else {}
    code, shown = run("printf", "%s|", *words, lc_ctype=locale or None, **environ)
    assert (code, os.fsdecode(shown)) == (0, "a b||\udcff|ä|")
    _, shown = run("env", lc_ctype=locale or None, **environ)
    assert sorted(shown.decode().split("\r\n")[:-1]) == sorted(
        f"{name}={value}" for name, value in {"PATH": os.environ["PATH"], **environ}.items()
    )


def test_terminals_leave_no_descriptors() -> None:
    before = os.listdir("/proc/self/fd")
    run("true")
    assert os.listdir("/proc/self/fd") == before
