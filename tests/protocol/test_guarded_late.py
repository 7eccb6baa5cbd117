"""Guarded commands whose time is up, whatever they have started and whatever their machine lacks."""

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from tests.protocol.guarded_support import (
    MISSING,
    NODE_WAITS,
    Guarded,
    Outcome,
    both_modes,
    guarded,
    take_away,
)


class Late(NamedTuple):
    outcome: Outcome
    next: Outcome
    left: dict[int, str]


LATE_COMMANDS = {
    "sleeps": ("sleep 30", 143, set[str]()),
    "leaves its output to another": ("sleep 30 &", 0, set[str]()),
    "ignores TERM": ("trap '' TERM; while :; do sleep 30; done", 137, set[str]()),
    "leaves its output to another session": ("setsid sleep 30 & exit 5", 5, {"sleep"}),
}
SHELLS = ("bash", "sh")


#: A shell, a command or what is missing, and whether output comes live.
Case = tuple[str, str, bool]
Lateness = dict[Case, Late | BaseException]
WITHOUT = {" and ".join(sorted(missing)): missing for missing in MISSING}


async def _lateness(shell: Guarded, command: str, *, live: bool = False) -> Late:
    async with asyncio.timeout(1.0 + NODE_WAITS):
        outcome = await shell.run(f"echo before; echo err >&2; {command}", seconds=1.0, live=live)
    left = shell.left()
    return Late(outcome, await shell.run("echo next"), left)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Lateness:
    """All that is late at once, as it takes seconds."""

    async def run_all() -> Lateness:
        async with AsyncExitStack() as stack:

            async def opened(kind: str) -> Guarded:
                return await stack.enter_async_context(guarded(kind, tmp_path_factory.mktemp("late")))

            running = {}
            for kind in SHELLS:
                for name, (command, _, _) in LATE_COMMANDS.items():
                    for live in (False, True):
                        running[kind, name, live] = _lateness(await opened(kind), command, live=live)
                for name, missing in WITHOUT.items():
                    await take_away(shell := await opened(kind), missing)
                    running[kind, name, False] = _lateness(shell, "(sleep 30; echo no) & sleep 30")
            ended = await asyncio.gather(*running.values(), return_exceptions=True)
            return dict(zip(running, ended, strict=True))

    return asyncio.run(run_all())


@pytest.mark.parametrize("kind", SHELLS)
@pytest.mark.parametrize("name", WITHOUT)
def test_the_time_out_holds_on_a_machine_without(late: Lateness, kind: str, name: str) -> None:
    found = late[kind, name, False]
    assert isinstance(found, Late)
    assert found.outcome.ended.is_late
    assert found.left == {}
    assert found.next.triple == (b"next\n", b"", 0)


@pytest.mark.parametrize("kind", SHELLS)
@pytest.mark.parametrize("name", LATE_COMMANDS)
@both_modes
def test_the_time_out_holds_and_what_was_printed_is_kept_for_a_command_that(
    late: Lateness, kind: str, name: str, live: bool
) -> None:
    _, exit_code, left = LATE_COMMANDS[name]
    found = late[kind, name, live]
    assert isinstance(found, Late)
    assert found.outcome.ended.is_late
    assert found.outcome.triple == (b"before\n", b"err\n", exit_code)
    assert 1.0 <= found.outcome.seconds < 1.0 + NODE_WAITS
    assert set(found.left.values()) == left
    assert found.next.triple == (b"next\n", b"", 0)
    assert not found.next.ended.is_late
    assert found.next.seconds < NODE_WAITS
