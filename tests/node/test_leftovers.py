"""What a job left behind is found by its mark, or by its first process; strangers are never touched."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hermes_nodes.node.leftovers import Leftovers, end_leftovers
from hermes_nodes.node.processes import MARK
from hermes_nodes.node.tree import birth
from tests.support import PATIENCE

#: A shell that replaces itself by another, for ever; its own text is its $0.
AGAIN = 'exec bash -c "$0" "$0"'


def new_id() -> str:
    return str(uuid.uuid4())


@asynccontextmanager
async def running(command: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A shell in a session of its own, that has said something."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        f"echo up; {command}",
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def ended(process: asyncio.subprocess.Process) -> int:
    return await asyncio.wait_for(process.wait(), PATIENCE)


async def test_marked_processes_are_ended() -> None:
    job = new_id()
    async with running("sleep 1000; sleep 1000", **{MARK: job}) as process:
        assert await end_leftovers(job, None, None) == set()
        assert await ended(process) == -2


async def test_a_first_process_that_has_lost_its_mark_is_known_by_its_birth_and_so_is_its_group() -> None:
    async with running("sleep 1000; sleep 1000") as process:
        born = birth(process.pid)
        assert born
        assert process.pid in Leftovers(new_id(), process.pid, born).members()
        assert await end_leftovers(new_id(), process.pid, born) == set()
        await ended(process)


async def test_a_stranger_with_the_same_number_is_left_alone() -> None:
    async with running("exec sleep 1000") as process:
        born = f"{birth(process.pid)}0"
        assert Leftovers(new_id(), process.pid, born).members() == set()
        assert await end_leftovers(new_id(), process.pid, born) == set()
        assert process.returncode is None


async def test_without_proc_the_first_process_and_its_group_are_found_all_the_same() -> None:
    async with running("sleep 1000; sleep 1000") as process:
        left = Leftovers(new_id(), process.pid, birth(process.pid))
        left._tree = None
        assert left.members() == {process.pid}
        left.kill({process.pid}, signal.SIGKILL)
        await ended(process)
        assert left.members() == set()


async def test_a_node_that_a_job_has_started_does_not_end_itself() -> None:
    assert os.getpid() not in Leftovers(new_id(), os.getpid(), birth(os.getpid())).members()


def test_a_process_that_is_gone_was_never_born() -> None:
    assert birth(2**22 + 1) is None


async def test_a_process_that_is_always_in_the_middle_of_an_exec_is_found_at_every_look() -> None:
    job = new_id()
    async with running(f"exec bash -c {AGAIN!r} {AGAIN!r}", **{MARK: job}) as process:
        looks = [process.pid in Leftovers(job, None, None).members() for _ in range(40)]
        assert looks == [True] * 40
        process.kill()
