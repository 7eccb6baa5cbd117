"""Commands as the node starts them, and how it ends them."""

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import pytest

from hermes_nodes.node import processes
from hermes_nodes.node.processes import (
    ESCALATION,
    MARK,
    QUICK_ESCALATION,
    Command,
    Escalation,
    Output,
    command_environment,
    shell_command,
)
from hermes_nodes.node.spawning import Spawner
from hermes_nodes.node.tree import ProcessTree
from hermes_nodes.node.tree import _table as table
from tests.harness import Watched, processes_of, until
from tests.node.support import lives
from tests.support import PATIENCE

SHORT: Escalation = ((signal.SIGINT, 0.1), (signal.SIGTERM, 0.1), (signal.SIGKILL, 2.0))


class Run:
    """A command under way, its stdout read line by line."""

    def __init__(self, command: Command, call_id: str) -> None:
        self.command = command
        self.call_id = call_id
        self._changed = asyncio.Event()
        self._out = Output(command.stdout, self._changed.set)
        self._err = Output(command.stderr, lambda: None)
        self._read = b""

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE):
            while b"\n" not in self._read:
                self._changed.clear()
                piece = self._out.pull(1 << 16)
                if piece is None:
                    await self._changed.wait()
                else:
                    assert piece, f"the command has ended after {self._read!r}"
                    self._read += piece
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        self._out.close()
        self._err.close()


@asynccontextmanager
async def running(script: str, **environ: str) -> AsyncIterator[Run]:
    call_id = str(uuid.uuid4())
    environment = command_environment(call_id, environ)
    with closing(Spawner()) as spawner:
        command = await Command.start(
            spawner, call_id, shell_command(script), cwd="/", environment=environment
        )
        run = Run(command, call_id)
        try:
            yield run
        finally:
            run.close()
            for pid in processes_of(call_id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.wait_for(command.exited.wait(), PATIENCE)
            command.leave()


# -- the environment ------------------------------------------------------------------------------


def test_a_command_gets_what_ssh_would_give_and_nothing_of_the_nodes() -> None:
    node = {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "LC_TIME": "de_DE",
        "TZ": "UTC",
        "TERM": "dumb",
        "HERMES_NODE_TOKEN": "hnt_secret",
        "HOME": "/elsewhere",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "LD_PRELOAD": "evil.so",
    }
    given = command_environment("id", {"ONE": "1"}, node)
    user = {"HOME", "USER", "LOGNAME", "SHELL"}
    assert set(given) == user | {"PATH", "LANG", "LC_TIME", "TZ", "TERM", "ONE", MARK}
    assert given["HOME"] == str(Path.home())


def test_the_calls_own_environment_wins_except_for_the_mark() -> None:
    given = command_environment("id", {"PATH": "/mine", "HOME": "/tmp", MARK: "forged"}, {"PATH": "/bin"})
    assert (given["PATH"], given["HOME"], given[MARK]) == ("/mine", "/tmp", "id")


def test_a_command_has_a_path_where_the_node_has_none() -> None:
    assert "/usr/bin" in command_environment("id", {}, {})["PATH"]


@pytest.mark.parametrize(("bash", "shell"), [("/opt/bash", "/opt/bash"), (None, "/bin/sh")])
def test_the_shell_is_bash_or_else_sh(
    monkeypatch: pytest.MonkeyPatch, bash: str | None, shell: str
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: bash)
    assert processes.shell() == shell
    assert shell_command("true") == [Path(shell).name, "-c", "true"]


async def test_a_command_has_its_own_session_and_no_input_and_no_descriptors_of_ours() -> None:
    async with running("cat; ps -o sid= -p $$; echo $$; ls /proc/self/fd | wc -l; sleep 60") as run:
        sid, pid, descriptors = [(await run.line()).strip() for _ in range(3)]
    assert sid == pid == str(run.command.process.pid)
    assert int(descriptors) == 4  # three streams, and the directory that `ls` reads


# -- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "name"),
    [("exit 0", 0, None), ("exit 7", 7, None), ("kill -TERM $$", 143, "TERM"), ("kill -40 $$", 168, "40")],
)
async def test_an_exit_code_is_what_a_shell_would_say(script: str, code: int, name: str | None) -> None:
    async with running(script) as run:
        await asyncio.wait_for(run.command.exited.wait(), PATIENCE)
        assert run.command.exit_code == code
        signal_name = run.command.signal_name
    assert signal_name == name or (name == "40" and signal_name is not None)


async def test_what_can_not_be_run_leaves_no_descriptors() -> None:
    before = os.listdir("/proc/self/fd")
    with closing(Spawner()) as spawner:
        for argv in (["/no/such/program"], ["a\0b"], ["/etc/passwd"]):
            with pytest.raises((OSError, ValueError)):
                await Command.start(spawner, "id", argv, cwd="/", environment={})
    assert os.listdir("/proc/self/fd") == before


async def test_a_watcher_that_is_closed_while_it_waits_watches_no_more() -> None:
    read, write = os.pipe()
    output = Output(read, lambda: pytest.fail("woken after the end"))
    assert output.pull(10) is None
    output.close()
    os.close(write)
    assert (output.pull(10), output.ended.is_set()) == (b"", True)
    await asyncio.sleep(0)


# -- the end --------------------------------------------------------------------------------------

ESCAPES = {
    "the command itself": "sleep 1000; sleep 1000",
    "in the background": "sleep 1000 & sleep 1000 & wait",
    "of its own session": "setsid bash -c 'echo up; sleep 1000; sleep 1000' & wait",
    "forked twice": "( ( bash -c 'echo up; sleep 1000' & ) & ); sleep 1000",
    "left by its root": "setsid bash -c 'echo up; sleep 1000' & exit 0",
    "of its own process group": "set -m; bash -c 'echo up; sleep 1000' & wait",
}


@pytest.mark.parametrize("script", ESCAPES.values(), ids=ESCAPES)
@pytest.mark.parametrize("deaf", ["", "trap '' INT TERM; "])
async def test_the_end_reaches_every_part_of_a_tree(script: str, deaf: str) -> None:
    async with running(f"{deaf}{'' if 'up' in script else 'echo up; '}{script}") as run:
        assert await run.line() == "up"
        with Watched(processes_of(run.call_id)) as watched:
            await run.command.end(lambda: SHORT)
            assert watched.living() == 0
        assert processes_of(run.call_id) == set()


async def test_a_tree_that_obeys_is_ended_gently_and_soon() -> None:
    async with running("trap 'echo caught; exit 3' INT; echo up; while :; do sleep 0.05; done") as run:
        assert await run.line() == "up"
        before = time.monotonic()
        await run.command.end()
        assert time.monotonic() - before < 1.5
        assert await run.line() == "caught"
        assert run.command.exit_code == 3


async def test_a_signal_is_sent_once_to_each() -> None:
    async with running(
        "n=0; trap 'n=$((n+1))' INT; trap 'echo $n; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    ) as run:
        assert await run.line() == "up"
        await run.command.end(lambda: ((signal.SIGINT, 0.4), (signal.SIGTERM, 2.0)))
        assert await run.line() == "1"


async def test_a_shorter_escalation_takes_over_however_long_the_other_has_run() -> None:
    # So short that it would be over by the time it comes, had it begun with the other.
    short: Escalation = ((signal.SIGTERM, 0.05), (signal.SIGKILL, 0.2))
    ladders: list[Escalation] = [((signal.SIGINT, 60.0),)]
    async with running("trap '' INT TERM; echo up; sleep 1000; sleep 1000") as run:
        assert await run.line() == "up"
        asyncio.get_running_loop().call_later(0.4, ladders.append, short)
        await asyncio.wait_for(run.command.end(lambda: ladders[-1]), PATIENCE)
        assert processes_of(run.call_id) == set()


async def test_a_command_that_has_stopped_its_keeper_is_ended_with_its_own_exit_code(
    tmp_path: Path,
) -> None:
    # Not before its start is known, which would not be heard of either.
    script = "echo up; while test ! -e go; do sleep 0.02; done; kill -STOP $PPID; exit 4"
    async with running(f"cd {tmp_path}; {script}") as run:
        assert await run.line() == "up"
        (tmp_path / "go").touch()
        await until(lambda: not lives(run.command.process.pid))
        assert await run.command.end() is None
        assert run.command.exit_code == 4


async def test_an_older_process_is_not_of_a_call_whose_first_process_was_gone_at_once() -> None:
    async with running("exit 0") as run:
        await asyncio.wait_for(run.command.exited.wait(), PATIENCE)
        keeper = run.command.process.keeper
        late = ProcessTree(b"no mark", run.command.process.pid, (), elder=keeper)
        assert not late._is_young(table()[os.getpid()])
        assert ProcessTree(b"no mark", 2**22 + 1, ())._is_young(table()[os.getpid()]) is False


async def test_what_can_not_be_killed_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Command, "_kill", lambda *_: None)
    async with running("echo up; sleep 1000") as run:
        assert await run.line() == "up"
        await asyncio.wait_for(run.command.end(lambda: ((signal.SIGKILL, 0.2),)), 2)
        assert not run.command.exited.is_set()


async def test_a_stranger_with_the_number_of_a_command_that_has_ended_is_left_alone() -> None:
    async with running("exit 0") as ours, running("echo up; sleep 1000") as stranger:
        await asyncio.wait_for(ours.command.exited.wait(), PATIENCE)
        assert await stranger.line() == "up"
        ours.command.process.pid = stranger.command.process.pid
        await asyncio.wait_for(ours.command.end(lambda: SHORT), PATIENCE)
        assert not stranger.command.exited.is_set()


async def test_a_process_that_was_lent_the_output_is_no_part_of_the_call() -> None:
    script = "echo; read -r path; exec 3>$path; echo; exec sleep 1000"
    pipe = asyncio.subprocess.PIPE
    lent = await asyncio.create_subprocess_exec("bash", "-c", script, stdin=pipe, stdout=pipe)
    assert lent.stdin is not None
    assert lent.stdout is not None
    try:
        await asyncio.wait_for(lent.stdout.readline(), PATIENCE)
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        # The kernel tells births in hundredths of a second.
        await until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > now + 0.02)
        async with running("echo up; sleep 1000") as run:
            assert await run.line() == "up"
            # The pipe's name in /proc stands for a socket over which it is sent.
            lent.stdin.write(f"/proc/{run.command.process.pid}/fd/1\n".encode())
            assert await asyncio.wait_for(lent.stdout.readline(), PATIENCE) == b"\n"
            with Watched([lent.pid]) as watched:
                await run.command.end(lambda: SHORT)
                assert watched.living() == 1
    finally:
        lent.kill()
        await lent.wait()


def test_the_ladders_end_with_a_kill() -> None:
    assert [ladder[-1][0] for ladder in (ESCALATION, QUICK_ESCALATION)] == [signal.SIGKILL] * 2
    # PROTOCOL.md section 7: INT at once, TERM after 2 s, KILL after 5 s.
    times = {sign: sum(one for _, one in ESCALATION[:n]) for n, (sign, _) in enumerate(ESCALATION)}
    assert times == {signal.SIGINT: 0, signal.SIGTERM: 2.0, signal.SIGKILL: 5.0}
