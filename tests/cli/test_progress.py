"""The bar that a copy shows: on a terminal, and nowhere else."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.harness import PROGRAM, Home, NodeProcess
from tests.support import PATIENCE


@pytest.fixture
def large(home: Home, node: NodeProcess, tmp_path: Path) -> Path:
    path = home.folder / "large"
    path.write_bytes(bytes(64 << 20))
    return path


def seen(home: Home, *arguments: str, **environ: str) -> bytes:
    """What a terminal shows of a command whose stdout is a pipe, which must stay empty."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        env={**home.environ, "TERM": "xterm-256color", **environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        shown = bytearray()
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # how Linux tells that nobody has the other end any more
            pass
        assert process.stdout is not None
        assert process.stdout.read() == b""
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    return bytes(shown)


def test_a_terminal_shows_name_rate_and_time_left(home: Home, large: Path) -> None:
    shown = seen(home, "cp", str(large), f"laptop:{large}-copy")
    assert b"large" in shown
    assert b"/s" in shown
    assert b":" in shown
    assert b"\x1b[3" in shown  # a colour


@pytest.mark.parametrize("way", ["option", "variable"])
def test_without_colours_it_is_a_bar_still(home: Home, large: Path, way: str) -> None:
    option = ["--no-color"] if way == "option" else []
    variable = {"NO_COLOR": "1"} if way == "variable" else {}
    shown = seen(home, *option, "cp", f"laptop:{large}", f"{large}-copy", **variable)
    assert b"/s" in shown
    assert b"\x1b[3" not in shown
    assert b"\x1b[1m" not in shown


def test_elsewhere_there_is_none(home: Home, large: Path) -> None:
    done = home.run("cp", str(large), f"laptop:{large}-copy")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
