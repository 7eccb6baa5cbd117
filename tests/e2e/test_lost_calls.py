"""Whoever vanishes, nothing of a call is left, and no command takes it for the end of its input."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.harness import Background, GatewayProcess, Home, NodeProcess, Watched, processes_of
from tests.support import comes_true
from tests.terminals import at_terminal

#: Deaf, in sessions and groups of its own, and busy with what it is sent.
STUBBORN = """
trap '' HUP INT TERM
setsid bash -c 'echo up; sleep 1000; sleep 1000' </dev/null &
( ( bash -c 'echo up; exec sleep 1000' </dev/null & ) & )
"""
#: Leaves a trace if it comes to the end of its input.
READER = "cat >/dev/null; touch {trace}; sleep 1000"
#: Most seconds until a KILL has done its work, on a machine that is busy.
SOON = 12


class Parts(NamedTuple):
    home: Home
    gateway: GatewayProcess
    node: NodeProcess


def is_over(call_id: str) -> bool:
    """What is born while others are ended has its turn a moment later."""
    return processes_of(call_id) == set()


@contextmanager
def started(folder: Path) -> Iterator[Parts]:
    """A gateway and a node that a test may kill."""
    home = Home(folder)
    with home.gateway() as gateway, home.node(gateway, "laptop") as node:
        yield Parts(home, gateway, node)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with started(tmp_path) as parts:
        yield parts


def kill_caller(_: Parts, running: Background) -> None:
    running.process.kill()


def interrupt_caller(_: Parts, running: Background) -> None:
    running.process.send_signal(signal.SIGINT)


def kill_gateway(parts: Parts, _: Background) -> None:
    parts.gateway.process.kill()


def kill_node(parts: Parts, _: Background) -> None:
    parts.node.process.kill()


def stop_node(parts: Parts, _: Background) -> None:
    parts.node.process.terminate()


#: What happens at the same time, each to calls of its own.
ENDS = {
    "callers killed and interrupted": (kill_caller, interrupt_caller),
    "gateway killed": (kill_gateway,),
    "node stopped": (stop_node,),
    "node killed": (kill_node,),
}


@contextmanager
def half_sent(parts: Parts, *options: str, command: str) -> Iterator[tuple[Background, str]]:
    """A call whose input has begun and has not ended; with the call's id."""
    home = parts.home
    with home.start("exec", "-i", *options, "laptop", f"echo $HERMES_NODES_CALL; {command}") as running:
        call_id = running.line().strip()
        assert running.process.stdin is not None
        fd = running.process.stdin.fileno()
        os.write(fd, b"x" * 1000)
        yield running, call_id


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_a_call_whose_input_was_half_sent_is_ended_whole(
    parts: Parts, ends: Sequence[Callable[[Parts, Background], None]]
) -> None:
    trace = parts.home.folder / "came-to-its-end"
    command = STUBBORN + READER.format(trace=trace)
    with ExitStack() as stack:
        calls = []
        for number, end in enumerate(ends):
            for options in ([], ["--session", f"s{number}"]):
                call = half_sent(parts, *options, command=command)
                running, call_id = stack.enter_context(call)
                assert running.lines(2) == ["up", "up"]
                watched = stack.enter_context(Watched(processes_of(call_id)))
                calls.append((end, running, call_id, watched))
        for end, running, _, _ in calls:
            end(parts, running)
        for _, _, call_id, watched in calls:
            assert watched.living(within=SOON) == 0
            assert comes_true(partial(is_over, call_id))
    assert not trace.exists()


def write_for_ever(fd: int) -> None:
    while True:
        os.write(fd, b"x" * 65536)


def test_a_call_that_reads_nothing_is_ended_though_its_pipe_is_full(parts: Parts) -> None:
    with half_sent(parts, command="exec sleep 1000") as (running, call_id):
        assert running.process.stdin is not None
        fd = running.process.stdin.fileno()
        os.set_blocking(fd, False)
        with pytest.raises(BlockingIOError):
            write_for_ever(fd)
        with Watched(processes_of(call_id)) as watched:
            parts.gateway.process.kill()
            assert watched.living(within=SOON) == 0


def test_a_stubborn_tree_on_a_terminal_is_ended_whole_without_its_caller_or_gateway(
    parts: Parts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    command = f"{STUBBORN} setsid -f sleep 1000; echo =$HERMES_NODES_CALL=; cat"
    with ExitStack() as stack:
        others = stack.enter_context(started(tmp_path_factory.mktemp("others")))
        calls = []
        for one in (parts, others):
            person = stack.enter_context(at_terminal(one.home, "exec", "-t", "laptop", command))
            call_id = person.finds(rb"=([0-9a-f-]{36})=")[1].decode()
            watched = stack.enter_context(Watched(processes_of(call_id)))
            assert watched.living() >= 3
            calls.append((person, call_id, watched))
        calls[0][0].process.kill()
        others.gateway.process.kill()
        for _, call_id, watched in calls:
            assert watched.living(within=SOON) == 0
            assert comes_true(partial(is_over, call_id))


def test_what_a_call_left_in_the_background_lives_on_whatever_becomes_of_later_ones(parts: Parts) -> None:
    home = parts.home
    left = home.ok("exec", "-i", "--session", "s", "laptop", "sleep 1000 >/dev/null 2>&1 & echo $!")
    with Watched([int(left)]) as watched:
        assert home.run("exec", "--session", "s", "--timeout", "100ms", "laptop", "cat").returncode == 0
        assert home.run("exec", "--timeout", "100ms", "laptop", "sleep 1000").returncode == 124
        assert watched.living() == 1
        os.kill(int(left), signal.SIGKILL)
        assert watched.living(within=SOON) == 0
