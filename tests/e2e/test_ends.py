"""However a call is ended, nothing of it is left on the node."""

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import Background, Home, NodeProcess, Watched, processes_of
from tests.support import comes_true

#: A tree that resists: deaf to INT and TERM, in sessions and groups of its own, forked twice, in the
#: background. Its parts say that they are up, its root says the call's id.
STUBBORN = """
trap '' INT TERM
setsid bash -c 'echo up; exec sleep 1000' &
(setsid bash -c 'echo up; sleep 1000; sleep 1000' &)
( ( bash -c 'echo up; exec sleep 1000' & ) & )
bash -c 'echo up; sleep 1000; sleep 1000' &
echo $HERMES_NODES_CALL
sleep 1000; sleep 1000
"""
#: The root and the four that say that they are up; three of these may have a `sleep` each by now.
LEAST_PROCESSES = 5


class End(NamedTuple):
    options: tuple[str, ...]
    act: Callable[[Background], None]
    code: int


class Ended(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes
    processes: int
    left: int
    row: dict[str, object]


def interrupt(running: Background) -> None:
    running.process.send_signal(signal.SIGINT)


ENDS = {
    "killed": End((), lambda running: running.process.kill(), -signal.SIGKILL),
    "interrupted": End((), interrupt, 130),
    "timed out": End(("--timeout", "600ms"), lambda _: None, 124),
}
STATUS = {"killed": "cancelled", "interrupted": "cancelled", "timed out": "timeout"}


def end_one(home: Home, end: End) -> Ended:
    with home.start("exec", *end.options, "laptop", STUBBORN) as running:
        said = running.lines(5)
        (call_id,) = [line for line in said if line != "up"]
        pids = processes_of(call_id)
        with Watched(pids) as watched, home.rows(action="exec", node="laptop") as rows:
            end.act(running)
            left = watched.living(within=8)
            left += not comes_true(lambda: processes_of(call_id) == set())
            code, stdout, stderr = running.end()
            row = next(row for row in rows if row["request_id"] == call_id)
            return Ended(code, stdout, stderr, len(pids), left, row)


@pytest.fixture(scope="module")
def ended(home: Home, node: NodeProcess) -> dict[str, Ended]:
    """Each way to end a stubborn call, all at the same time: a KILL is due only after five seconds."""
    results: dict[str, Ended] = {}

    def end(name: str) -> None:
        results[name] = end_one(home, ENDS[name])

    with ExitStack() as stack:
        for name in ENDS:
            thread = threading.Thread(target=end, args=[name])
            thread.start()
            stack.callback(thread.join)
    return results


@pytest.mark.parametrize("how", ENDS)
def test_a_call_that_is_ended_leaves_nothing_of_a_stubborn_tree(ended: dict[str, Ended], how: str) -> None:
    assert ended[how].processes >= LEAST_PROCESSES
    assert ended[how].left == 0


@pytest.mark.parametrize("how", ENDS)
def test_a_call_that_is_ended_says_so_to_its_caller_and_in_its_row(
    ended: dict[str, Ended], how: str
) -> None:
    assert (ended[how].code, ended[how].stdout) == (ENDS[how].code, b"")
    assert ended[how].row["status"] == STATUS[how]
    if how != "killed":
        # The shell may have had a last word of its own.
        assert b"hermes-nodes: error: the call" in ended[how].stderr


def test_a_node_that_is_killed_leaves_nothing_of_its_calls(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with (
        home.gateway() as gateway,
        home.node(gateway, "laptop") as node,
        home.start("exec", "laptop", STUBBORN) as running,
    ):
        (call_id,) = [line for line in running.lines(5) if line != "up"]
        with Watched(processes_of(call_id)) as watched:
            node.process.kill()
            assert watched.living(within=8) == 0
            assert comes_true(lambda: processes_of(call_id) == set())
        code, _, stderr = running.end()
    assert (code, stderr.splitlines()[0].decode()[:20]) == (75, "hermes-nodes: error:")


def test_after_calls_were_ended_the_node_answers_the_next(home: Home, ended: dict[str, Ended]) -> None:
    assert home.ok("exec", "laptop", "echo here") == "here\n"


def test_an_interrupted_command_may_end_in_its_own_way(home: Home, node: NodeProcess) -> None:
    with home.start("exec", "laptop", "trap 'exit 3' INT; echo up; while :; do sleep 0.1; done") as running:
        assert running.line() == "up\n"
        interrupt(running)
        code, _, _ = running.end()
    assert code == 130
    (row,) = [row for row in home.trail(action="exec") if str(row["command"]).startswith("trap 'exit 3'")]
    assert (row["status"], row["exit_code"]) == ("cancelled", 3)


def test_a_second_interrupt_leaves_at_once(home: Home, node: NodeProcess) -> None:
    with home.start("exec", "laptop", "trap '' INT; echo $HERMES_NODES_CALL; sleep 1000") as running:
        call_id = running.line().strip()
        with Watched(processes_of(call_id)) as watched:
            interrupt(running)
            # The second one is meant for a caller who has understood the first.
            assert watched.living(within=0.5) > 0
            before = time.monotonic()
            interrupt(running)
            code, _, stderr = running.end()
            assert time.monotonic() - before < 1
            assert (code, stderr) == (130, b"hermes-nodes: error: interrupted\n")
            assert watched.living(within=8) == 0


@pytest.mark.parametrize("command", ["echo $HERMES_NODES_CALL; yes", "echo $HERMES_NODES_CALL; sleep 1000"])
def test_a_reader_that_leaves_ends_the_call_quietly(home: Home, node: NodeProcess, command: str) -> None:
    with home.start("exec", "laptop", command) as running:
        call_id = running.line().strip()
        with Watched(processes_of(call_id)) as watched:
            assert running.process.stdout is not None
            running.process.stdout.close()
            running.process.stdout = None
            assert watched.living(within=3) == 0
            code, _, stderr = running.end()
    assert (code, stderr) == (128 + signal.SIGPIPE, b"")


def test_a_command_that_ends_by_itself_leaves_its_background_alone(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    pid = int(home.ok("exec", "laptop", "nohup sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"))
    with Watched([pid]) as watched:
        # A later call, also one that is ended, is no business of it.
        assert home.run("exec", "--timeout", "100ms", "laptop", "sleep 1000").returncode == 124
        assert watched.living() == 1
        home.ok("exec", "laptop", f"kill {pid}")
        assert watched.living(within=3) == 0
