"""Signals to a command whose call is under way: they end the call too, and leave nothing half done."""

import os
import signal
from pathlib import Path

import pytest

from tests.harness import Home, NodeProcess, Watched, processes_of
from tests.support import comes_true

#: More than is copied in the moment that a signal takes.
SIZE = 4 << 30
ENDS = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM, signal.SIGHUP: -signal.SIGHUP}


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    """A folder that the node allows, with a large file that takes no room."""
    path = home.folder / "signals" / os.urandom(4).hex()
    path.mkdir(parents=True)
    (path / "source").touch()
    os.truncate(path / "source", SIZE)
    return path


def until_there(path: Path) -> None:
    assert comes_true(path.exists, every=0.005), f"there is no {path}"


@pytest.mark.parametrize("sign", ENDS)
def test_a_copy_to_here_that_a_signal_ends_leaves_nothing(
    home: Home, folder: Path, sign: signal.Signals
) -> None:
    with home.start("cp", f"laptop:{folder}/source", f"{folder}/target") as running:
        until_there(folder / ".target.hermes.part")
        running.process.send_signal(sign)
        assert running.end()[0] == ENDS[sign]
    assert {path.name for path in folder.iterdir()} == {"source"}


@pytest.mark.parametrize("sign", ENDS)
def test_a_command_on_the_node_has_ended_when_a_signal_has_ended_ours(
    home: Home, node: NodeProcess, sign: signal.Signals
) -> None:
    with (
        home.start("exec", "laptop", "echo $HERMES_NODES_CALL; exec sleep 1000") as running,
        Watched(processes_of(running.line().strip())) as watched,
    ):
        running.process.send_signal(sign)
        assert running.end()[0] == ENDS[sign]
        assert watched.living() == 0


def test_what_nohup_has_ignored_ends_nothing(home: Home, node: NodeProcess) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = home.start("exec", "-i", "laptop", "echo; cat")
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with running:
        running.line()
        running.process.send_signal(signal.SIGHUP)
        assert running.process.communicate(b"still here")[0] == b"still here"
        assert running.process.returncode == 0
