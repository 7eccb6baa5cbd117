"""Processes that a node starts: how they begin, who keeps them, what is left when somebody is killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from hermes_nodes.node import spawning
from hermes_nodes.node.spawning import Process, Spawner, Start
from tests.harness import until
from tests.node.support import lives
from tests.support import PATIENCE

#: A process that has cut itself loose of everything, deaf to what ends others gently; it says its number.
DEAF = r"trap '' INT TERM HUP; echo \$\$; exec >/dev/null; sleep 1000; sleep 1000"
LOOSE = f'(env -i setsid bash -c "{DEAF}" &)'


@pytest.fixture
def spawner() -> Iterator[Spawner]:
    with closing(Spawner()) as spawner:
        yield spawner


class Shell:
    """A script that runs, and the lines that it prints."""

    def __init__(self, process: Process, output: int) -> None:
        self.process = process
        self._output = output
        self._read = b""

    async def line(self) -> str:
        loop = asyncio.get_running_loop()
        while b"\n" not in self._read:
            piece = await asyncio.wait_for(
                loop.run_in_executor(None, os.read, self._output, 4096), PATIENCE
            )
            assert piece, f"it has ended after {self._read!r}"
            self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    async def ends(self) -> bool:
        """Whether nobody holds the output any more; what still comes is read."""
        loop = asyncio.get_running_loop()
        while await asyncio.wait_for(loop.run_in_executor(None, os.read, self._output, 4096), PATIENCE):
            pass
        return True

    async def code(self) -> int | None:
        await asyncio.wait_for(self.process.exited.wait(), PATIENCE)
        return self.process.returncode


@asynccontextmanager
async def running(spawner: Spawner, script: str) -> AsyncIterator[Shell]:
    """What is left of it at the end goes on."""
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    environment = {"PATH": os.environ["PATH"]}
    streams = (nothing, writing, nothing)
    try:
        process = await spawner.start(Start("bash", ["bash", "-c", script], "/", environment, streams))
    finally:
        os.close(writing)
        os.close(nothing)
    try:
        yield Shell(process, reading)
    finally:
        process.leave()
        os.close(reading)


@pytest.fixture(params=["by a helper", "directly"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, spawner: Spawner) -> Spawner:
    """A spawner as on Linux, and as where there are no keepers."""
    if request.param == "directly":
        monkeypatch.setattr(spawning, "_KEEPS", False)
    return spawner


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize(
    ("start", "error"),
    [
        (Start("no-such-program", ["x"], "/", {"PATH": "/bin:/usr/bin"}, (0, 1, 2)), FileNotFoundError),
        (Start("/no/such/program", ["x"], "/", {}, (0, 1, 2)), FileNotFoundError),
        (Start("", [""], "/", {"PATH": "/bin"}, (0, 1, 2)), FileNotFoundError),
        (Start("/etc/passwd", ["x"], "/", {}, (0, 1, 2)), PermissionError),
        (Start("passwd", ["x"], "/", {"PATH": "/etc:/bin/true"}, (0, 1, 2)), PermissionError),
        (Start("/bin/sh", ["sh"], "/no/such/directory", {}, (0, 1, 2)), FileNotFoundError),
        (Start("/bin/sh", ["sh", "-c", "x" * 3_000_000], "/", {}, (0, 1, 2)), OSError),
        (Start("/bin/sh", ["sh", "a\0b"], "/", {}, (0, 1, 2)), ValueError),
        (Start("/bin/sh", ["sh"], "/", {"A=B": "c"}, (0, 1, 2)), ValueError),
        (Start("/bin/sh", ["sh"], "/", {"A": "\ud800"}, (0, 1, 2)), ValueError),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_can_not_be_started_says_why_and_leaves_nothing_open(
    either: Spawner, start: Start, error: type[Exception]
) -> None:
    async with running(either, "true") as shell:
        await shell.code()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(error):
        await either.start(start)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_program_is_looked_for_where_its_own_environment_says(either: Spawner) -> None:
    process = await either.start(Start("true", ["true"], "/", {"PATH": "/none:/bin:/usr/bin"}, (0, 1, 2)))
    assert await Shell(process, 0).code() == 0
    process.leave()


async def test_descriptors_to_keep_have_their_numbers_and_no_others_are_there(either: Spawner) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines:
        script = f"exec ls /proc/self/fd >&{writing}"
        start = Start("bash", ["bash", "-c", script], "/", dict(os.environ), (0, 1, 2), (writing,))
        process = await either.start(start)
        os.close(writing)
        assert await Shell(process, 0).code() == 0
        process.leave()
        numbers = {int(line) for line in lines}
    assert len(numbers) == 5  # the directory that `ls` reads as well
    assert {0, 1, 2, writing} < numbers


@pytest.mark.parametrize(
    ("script", "code"), [("exit 3", 3), ("kill -TERM $$", -signal.SIGTERM), ("kill -9 $$", -signal.SIGKILL)]
)
async def test_an_end_is_told_as_it_was(either: Spawner, script: str, code: int) -> None:
    async with running(either, script) as shell:
        assert await shell.code() == code
        await shell.process.kill()


async def test_what_is_left_goes_on_and_its_keeper_does_not(spawner: Spawner) -> None:
    async with running(spawner, f"{LOOSE}; exit 3") as shell:
        loose = int(await shell.line())
        keeper = shell.process.keeper
        assert keeper is not None
        assert await shell.code() == 3
        assert lives(keeper)
        shell.process.leave()
        await until(lambda: not lives(keeper))
        assert lives(loose)
        os.killpg(loose, signal.SIGKILL)


async def test_a_node_that_is_gone_leaves_nothing_of_its_commands(spawner: Spawner) -> None:
    # To the keeper, a node that was killed is a line that drops.
    async with running(spawner, f"{LOOSE}; trap '' TERM; echo $$; sleep 1000; sleep 1000") as shell:
        pids = [int(await shell.line()) for _ in range(2)]
        keeper = shell.process.keeper
        assert keeper is not None
        shell.process._hang_up()  # type: ignore[attr-defined]
        await until(lambda: not any(map(lives, [keeper, *pids])))


async def test_a_kill_reaches_also_what_is_born_while_it_comes(spawner: Spawner) -> None:
    # A chain of sessions, each of which begets the next and ends.
    async with running(spawner, 'f() { echo up; setsid bash -c "$(declare -f f); f" & }; f') as shell:
        for _ in range(5):
            assert await shell.line() == "up"
        assert await shell.code() == 0
        await shell.process.kill()
        assert shell.process.keeper is None
        assert await shell.ends()


async def test_a_keeper_that_is_killed_takes_its_command_along(spawner: Spawner) -> None:
    async with running(spawner, "kill -9 $PPID; while :; do :; done") as shell:
        assert await shell.code() == -signal.SIGKILL
        await until(lambda: not lives(shell.process.pid))
        assert shell.process.keeper is None


async def test_a_spawner_that_was_killed_is_started_again_and_what_runs_goes_on(spawner: Spawner) -> None:
    async with running(spawner, "echo up; exec sleep 1000") as before:
        assert await before.line() == "up"
        assert spawner._process is not None
        first = spawner._process.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: not lives(first))
        async with running(spawner, "echo here") as after:
            assert await after.line() == "here"
            assert await after.code() == 0
        assert lives(before.process.pid)
        os.kill(before.process.pid, signal.SIGTERM)
        assert await before.code() == -signal.SIGTERM


async def test_keepers_do_not_pile_up(spawner: Spawner) -> None:
    for _ in range(20):
        async with running(spawner, "true") as shell:
            assert await shell.code() == 0
    assert spawner._process is not None
    pid = spawner._process.pid

    async def a_keeper_is_left() -> bool:
        # A start takes the zombies that were missed; its own keeper may be one by then.
        async with running(spawner, "true") as shell:
            await shell.code()
        return len(children_of(pid)) > 2

    async with asyncio.timeout(PATIENCE):
        while await a_keeper_is_left():
            pass


async def test_nothing_of_the_node_is_to_be_read_off_its_helpers(
    spawner: Spawner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERMES_NODE_TOKEN", "hnt_secret")
    async with running(spawner, "tr '\\0' ' ' </proc/$PPID/environ; echo .") as shell:
        assert "hnt_secret" not in await shell.line()
        await shell.code()


async def test_signals_that_the_nodes_starter_had_blocked_are_blocked_for_nobody(spawner: Spawner) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    try:
        spawner.open()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    async with running(spawner, "grep SigBlk /proc/self/status; exit 3") as shell:
        assert int((await shell.line()).split()[1], 16) == 0
        assert await shell.code() == 3


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


async def test_a_start_that_hangs_can_be_given_up_and_the_next_one_does_not_hang(spawner: Spawner) -> None:
    spawner.open()
    assert spawner._process is not None
    stop(spawner._process.pid)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), running(spawner, "echo it began; exec sleep 1000"):
            pass
    async with running(spawner, "exit 3") as shell:
        assert await shell.code() == 3


async def test_a_start_whose_spawner_is_killed_before_it_is_tried_again(spawner: Spawner) -> None:
    spawner.open()
    assert spawner._process is not None
    stop(spawner._process.pid)
    asyncio.get_running_loop().call_later(0.1, spawner._process.kill)
    async with running(spawner, "exit 3") as shell:
        assert await shell.code() == 3


async def test_a_node_that_is_gone_leaves_nothing_of_a_deep_tree(spawner: Spawner) -> None:
    # Each is the parent of the next, and deaf.
    deep = "import os, signal, time; signal.signal(15, signal.SIG_IGN)\n"
    deep += "for _ in range(150):\n  if os.fork(): break\n"
    deep += "else: print(os.getpid(), flush=True)\ntime.sleep(1000)"
    async with running(spawner, f'exec {sys.executable} -I -S -c "{deep}"') as shell:
        last = int(await shell.line())
        shell.process._hang_up()  # type: ignore[attr-defined]
        await until(lambda: not lives(last))
        assert await shell.ends()


async def test_a_node_that_is_gone_ends_all_of_a_tree_gently_at_first(spawner: Spawner) -> None:
    child = "trap 'echo child; exit' TERM; echo up; while :; do sleep 0.05; done"
    async with running(spawner, f"trap 'echo leader' TERM; setsid -w bash -c {child!r}; wait") as shell:
        assert await shell.line() == "up"
        shell.process._hang_up()  # type: ignore[attr-defined]
        assert {await shell.line(), await shell.line()} == {"child", "leader"}
