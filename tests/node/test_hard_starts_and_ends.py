"""Commands that can't be started, or can't be ended."""

import asyncio
import errno
import os
import signal
from collections.abc import Callable

import pytest

from hermes_nodes.node import commands
from hermes_nodes.node.processes import Command, Escalation
from hermes_nodes.node.spawning import Spawner
from hermes_nodes.node.tree import ProcessTree
from tests.harness import until
from tests.node.calls_support import Calls, exec_
from tests.node.test_spawning import stop
from tests.support import PATIENCE


async def test_what_can_not_be_ended_is_not_said_to_have_ended(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "FLUSH_SECONDS", 0.1)
    request = exec_("echo $$; exec sleep 1000")
    with monkeypatch.context() as unkillable:
        unkillable.setattr(Command, "_kill", lambda *_: None)
        calls.runner.hurry()
        calls.runner._escalation = ()
        calls.runner.start(request)
        await calls.until_output(request, b"\n")
        calls.runner.cancel(request.id)
        result = await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)
    assert result.status == "error"
    assert "can't be ended" in str(result.error_detail)
    pid = int(calls.stdout(request))
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not os.path.exists(f"/proc/{pid}"))  # killed, and its end taken note of


async def test_what_goes_on_beside_the_command_is_named(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = Command.end

    async def end_but_one(command: Command, escalation: Callable[[], Escalation]) -> str | None:
        assert await end(command, escalation) is None
        monkeypatch.setattr(ProcessTree, "members", lambda *_, **__: {4711})
        return await end(command, lambda: ())

    monkeypatch.setattr(Command, "end", end_but_one)
    request = exec_("echo up; sleep 1000")
    calls.runner.start(request)
    await calls.until_output(request, b"up")
    calls.runner.cancel(request.id)
    result = await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)
    assert (result.status, "process 4711 goes on" in str(result.error_detail)) == ("error", True)


@pytest.mark.parametrize("detach", [False, True])
async def test_a_node_that_can_start_no_more_processes_is_busy(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, *, detach: bool
) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Spawner, "start", fail)
    result = await calls.run(exec_("true", detach=detach))
    assert (result.status, result.error) == ("error", "busy")
    assert "Too many open files" in str(result.error_detail)
    assert not list(calls.folder.glob("jobs/*"))


@pytest.mark.parametrize("how", ["cancelled", "timeout"])
async def test_a_start_that_hangs_is_ended_as_a_command_is(calls: Calls, how: str) -> None:
    spawner = calls.lasting.spawner
    spawner.open()
    assert spawner._process is not None
    stop(spawner._process.pid)
    request = exec_("true", timeout_ms=100 if how == "timeout" else None)
    calls.runner.start(request)
    if how == "cancelled":
        calls.runner.cancel(request.id)
    assert (await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)).status == how
    assert (await calls.run(exec_("true"))).status == "ok"


async def test_a_job_whose_start_hangs_can_be_cancelled_and_is_forgotten(calls: Calls) -> None:
    spawner = calls.lasting.spawner
    spawner.open()
    assert spawner._process is not None
    stop(spawner._process.pid)
    request = exec_("true", detach=True)
    calls.runner.start(request)
    calls.runner.cancel(request.id)
    assert (await asyncio.wait_for(calls.stream.answer(request.id), PATIENCE)).status == "cancelled"
    assert calls.lasting.jobs.all() == []
    assert not list(calls.folder.glob("jobs/*"))


async def test_a_directory_that_the_nodes_user_may_not_enter_is_named(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, _: str(path) != str(calls.folder))
    result = await calls.run(exec_("true", cwd=str(calls.folder)))
    assert result.error == "permission_denied"
    assert f"may not enter the directory {str(calls.folder)!r}" in str(result.error_detail)
