"""Processes that try to get out of their call are found as long as something ties them to it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import pytest

from hermes_nodes.node import tree
from hermes_nodes.node.processes import QUICK_ESCALATION, Command, command_environment
from hermes_nodes.node.spawning import Spawner
from hermes_nodes.node.tree import ProcessTree
from tests.node.support import lives

CALL = "5d0c5a5e-6f3c-4d6e-9a53-0d6c1b0c7f11"
SLEEPER = "env -i setsid bash -c 'echo $$ >&3; exec sleep 1000'"


@asynccontextmanager
async def started(script: str) -> AsyncIterator[tuple[Command, int]]:
    """A running command, and the number that its escaping process writes to descriptor 3."""
    reading, writing = os.pipe()
    argv = ["bash", "-c", f"exec 3>/proc/{os.getpid()}/fd/{writing}; {script}"]
    with closing(Spawner()) as spawner:
        environment = command_environment(CALL, {})
        command = await Command.start(spawner, CALL, argv, cwd="/", environment=environment)
        try:
            with os.fdopen(reading) as lines:
                number = int(lines.readline())
            os.close(writing)
            yield command, number
        finally:
            command.leave()
            os.close(command.stdout)
            os.close(command.stderr)


@pytest.mark.parametrize(
    "script",
    [
        SLEEPER,
        f"{SLEEPER} 2>/dev/null >/dev/null & wait",
        f"({SLEEPER} &) ; sleep 1000",
        f"({SLEEPER} 2>/dev/null >/dev/null &) ; sleep 1000",
        f"({SLEEPER} 2>/dev/null >/dev/null &) ; exit 0",
    ],
    ids=[
        "it holds the call's pipes",
        "its parent waits for it",
        "orphan with the call's pipes",
        "orphan with nothing of the call's",
        "orphan of a command that has ended",
    ],
)
async def test_a_process_without_mark_and_session_is_ended_with_its_call(script: str) -> None:
    async with started(script) as (command, escaping):
        await command.end(lambda: QUICK_ESCALATION)
        assert not lives(escaping)


def test_whoever_only_reads_from_a_pipe_is_not_of_the_call() -> None:
    reading, writing = os.pipe()
    processes = ProcessTree(b"no such mark", leader=2**22 + 1, pipes=(reading,), elder=1)
    try:
        assert os.getpid() in processes.members(leader_has_ended=False)
        os.close(writing)
        processes = ProcessTree(b"no such mark", leader=2**22 + 1, pipes=(reading,), elder=1)
        assert os.getpid() not in processes.members(leader_has_ended=False)
    finally:
        os.close(reading)


# -- without /proc --------------------------------------------------------------------------------


@pytest.fixture
def by_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen where `ps` alone tells of processes."""
    monkeypatch.setattr(tree, "_table", lambda: dict(tree._parsed(tree._ps("-A", "-o", tree._PS_COLUMNS))))
    monkeypatch.setattr(tree, "_is_marked", lambda *_: False)
    monkeypatch.setattr(ProcessTree, "_can_write", lambda *_: False)


@pytest.mark.usefixtures("by_ps")
@pytest.mark.parametrize(
    "script",
    [
        "trap '' INT TERM; echo $$ >&3; sleep 1000; sleep 1000",
        f"{SLEEPER} & wait",
        "( ( env -i bash -c 'echo $$ >&3; exec sleep 1000' & ) & ); sleep 1000",
        "set -m; env -i bash -c 'echo $$ >&3; exec sleep 1000' & wait",
    ],
    ids=["the command itself", "of its own session", "forked twice", "of its own group"],
)
async def test_ps_tells_of_sessions_groups_and_children(script: str) -> None:
    async with started(script) as (command, escaping):
        await command.end(lambda: QUICK_ESCALATION)
        assert not lives(escaping)
        assert command.exited.is_set()


async def test_where_nobody_can_be_asked_the_command_itself_is_ended(
    monkeypatch: pytest.MonkeyPatch, by_ps: None
) -> None:
    async with started("echo $$ >&3; sleep 1000; sleep 1000") as (command, pid):
        monkeypatch.setattr(tree, "_table", dict)
        await command.end(lambda: QUICK_ESCALATION)
        assert not lives(pid)


def test_a_process_has_the_birth_that_ps_tells() -> None:
    table = dict(tree._parsed(tree._ps("-A", "-o", tree._PS_COLUMNS)))
    assert table[os.getpid()].started == tree._ps("-o", "lstart=", "-p", str(os.getpid())).strip()
    assert table[os.getpid()].session == os.getsid(0)
