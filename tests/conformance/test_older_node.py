"""The older node's double is as bad as PROTOCOL.md section 9 says, told by a gateway of a few lines."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import WSMsgType

from tests.conformance.node import Json
from tests.conformance.older_node import OlderNode, Options, Running, backoff, older_node
from tests.conformance.scripted_gateway import TOKEN, Gateway, Link
from tests.harness import GatewayProcess, Home, Watched
from tests.support import PATIENCE

MIB = 1024 * 1024
#: Milliseconds for a call that will not be answered otherwise.
SOON = 100


@pytest.fixture
async def scripted() -> AsyncIterator[Gateway]:
    gateway = Gateway()
    async with gateway.server:
        yield gateway
        gateway.end()


Started = AbstractAsyncContextManager[list[str]]
Start = Callable[..., Started]


@pytest.fixture(params=["bash", "sh"])
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def start(scripted: Gateway, tmp_path: Path) -> Start:
    """Runs an older node in this process; gives the list of its events."""

    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[list[str]]:
        given = {"url": scripted.url, "name": "old", "token": TOKEN, "allow": [tmp_path], **options}
        events: list[str] = []
        task = asyncio.create_task(OlderNode(Options(**given), events.append).run())
        try:
            yield events
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    return started


@pytest.fixture
async def link(scripted: Gateway, start: Start, shell: str) -> AsyncIterator[Link]:
    """A node that has logged in."""
    async with start(shell=shell):
        link = await scripted.next()
        await link.let_in()
        yield link


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A fifo on which a command waits until a test opens it."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


async def open_gate(gate: Path) -> None:
    """Let the command that reads the gate go on, once it does."""
    await asyncio.to_thread(gate.write_bytes, b"")


# -- exec -----------------------------------------------------------------------------------------


async def test_an_ordinary_command_is_answered(link: Link) -> None:
    result = await link.exec("echo out; echo err >&2; (exit 3)")
    assert (result["status"], result["exit_code"], result["stdout"]) == ("error", 3, "out\n")
    assert "err\n" in result["stderr"]
    assert result["duration_ms"] >= 0
    assert result["truncated"] is False


async def test_one_shell_serves_all_calls_of_a_connection(link: Link) -> None:
    await link.exec("KEPT=yes; cd /")
    assert (await link.exec('echo "$KEPT"; pwd'))["stdout"] == "yes\n/\n"


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
async def test_bash_echoes_what_it_is_fed_until_told_otherwise(link: Link) -> None:
    assert "echo once\n" in (await link.exec("echo once"))["stderr"]
    await link.exec("set +o emacs +o vi; PS2=")
    assert "echo twice\n" not in (await link.exec("echo twice"))["stderr"]


async def test_output_without_a_last_newline_gets_the_marker(link: Link) -> None:
    result = await link.exec("printf abc; (exit 3)")
    assert (result["stdout"], result["exit_code"]) == ("abcEXIT 3\n", 0)


async def test_lines_that_look_like_the_marker_vanish(link: Link) -> None:
    result = await link.exec("echo 'EXIT strategy'; echo 'EXIT 7'; echo 'an EXIT'")
    assert (result["stdout"], result["exit_code"]) == ("an EXIT\n", 0)


async def test_bytes_that_are_not_utf8_are_replaced(link: Link) -> None:
    result = await link.exec(r"printf 'a\377\n'; printf '\377\n' >&2")
    assert result["stdout"] == "a\N{REPLACEMENT CHARACTER}\n"
    assert "\N{REPLACEMENT CHARACTER}" in result["stderr"]


async def test_env_is_ignored(link: Link) -> None:
    assert (await link.exec('echo "<$GIVEN>"', env={"GIVEN": "x"}))["stdout"] == "<>\n"


async def test_a_cwd_within_the_allowlist_is_taken_and_stays(link: Link, tmp_path: Path) -> None:
    within = tmp_path / "it's here"
    within.mkdir()
    assert (await link.exec("pwd", cwd=str(within)))["stdout"] == f"{within}\n"
    assert (await link.exec("pwd"))["stdout"] == f"{within}\n"


@pytest.mark.parametrize("cwd", ["/", "..", "/tmp/\0"])
async def test_a_cwd_outside_the_allowlist_is_replaced(link: Link, tmp_path: Path, cwd: str) -> None:
    await link.exec("cd /")
    assert (await link.exec("pwd", cwd=cwd))["stdout"] == f"{tmp_path}\n"


async def test_a_cwd_that_is_gone_leaves_the_command_where_the_last_was(link: Link, tmp_path: Path) -> None:
    result = await link.exec("pwd", cwd=str(tmp_path / "gone"))
    assert (result["status"], result["stdout"]) == ("ok", f"{tmp_path}\n")


async def test_output_is_cut(link: Link) -> None:
    result = await link.exec("yes $(printf %0999d 0) | head -n 11000; (exit 3)")
    assert (len(result["stdout"]), result["truncated"], result["exit_code"]) == (10 * MIB, True, 3)


async def test_a_line_of_a_mebibyte_still_passes(link: Link) -> None:
    result = await link.exec(f"head -c {MIB} /dev/zero | tr '\\0' x; echo; echo after")
    assert result["stdout"] == "x" * MIB + "\nafter\n"


@pytest.mark.parametrize(
    "command",
    [f"head -c {MIB + 1} /dev/zero | tr '\\0' x; echo", "exit 3"],
    ids=["too long a line", "exit"],
)
async def test_a_lost_output_wedges_the_node_until_it_reconnects(
    scripted: Gateway, start: Start, shell: str, command: str
) -> None:
    async with start(shell=shell, patience=0.5, ping_every=0.1, retry_first=0.01) as events:
        link = await scripted.next()
        await link.let_in()
        await link.say(type="exec", id="c1", command=command)
        await link.say(type="exec", id="c2", command="echo next")
        assert await link.heard_until_closed() <= {"ping"}
        await (await scripted.next()).let_in()
        assert events[0].startswith("connected ")
        assert events[1].startswith("disconnected ")


async def test_a_command_that_reads_stdin_swallows_what_follows(link: Link) -> None:
    assert (await link.exec("cat", timeout_ms=SOON))["status"] == "timeout"
    assert (await link.exec("echo next", timeout_ms=SOON))["status"] == "timeout"


async def test_stderr_is_read_up_to_a_budget_for_the_whole_connection(link: Link) -> None:
    complain = f"head -c {4 * MIB} /dev/zero | tr '\\0' x >&2"
    for _ in range(2):
        assert (await link.exec(complain))["stderr"].count("x") >= 4 * MIB
    assert (await link.exec(complain, timeout_ms=SOON))["status"] == "timeout"
    assert (await link.exec("echo next", timeout_ms=SOON))["status"] == "timeout"


# -- time-outs ------------------------------------------------------------------------------------


async def test_a_timed_out_command_goes_on_and_its_output_is_thrown_away(link: Link, gate: Path) -> None:
    result = await link.exec(f"echo early; cat {gate}; echo late", timeout_ms=SOON)
    assert (result["status"], result["exit_code"]) == ("timeout", -1)
    assert (result["stdout"], result["stderr"]) == ("", "")
    await open_gate(gate)
    assert (await link.exec("echo next"))["stdout"] == "next\n"


async def test_a_timed_out_command_blocks_the_calls_that_follow(link: Link, gate: Path) -> None:
    await link.exec(f"cat {gate}", timeout_ms=SOON)
    assert (await link.exec("echo second", timeout_ms=SOON))["status"] == "timeout"
    await open_gate(gate)
    assert (await link.exec("echo third"))["stdout"] == "third\n"


# -- life -----------------------------------------------------------------------------------------


async def test_a_ping_is_answered_while_no_call_runs(link: Link) -> None:
    await link.say(type="unheard_of", id="c0")
    await link.say(type="ping", ts="now", unheard_of=True)
    pong = await link.hear()
    assert (pong["type"], pong["echo_ts"]) == ("pong", "now")


async def test_while_a_call_runs_nothing_is_read_but_pings_are_sent(
    scripted: Gateway, start: Start, gate: Path
) -> None:
    async with start(ping_every=0.05):
        link = await scripted.next()
        await link.let_in()
        await link.say(type="exec", id="c1", command=f"cat {gate}")
        await link.say(type="ping", ts="now")
        await link.ws.ping(b"now")
        assert [(await link.hear())["type"] for _ in range(4)] == ["ping"] * 4
        await open_gate(gate)
        kinds = []
        while (message := await link.ws.receive(PATIENCE)).type is WSMsgType.TEXT:
            kinds.append(json.loads(message.data)["type"])
        assert [kind for kind in kinds if kind != "ping"] == ["exec_result", "pong"]
        assert (message.type, bytes(message.data)) == (WSMsgType.PONG, b"now")


async def test_a_call_longer_than_its_patience_costs_the_node_its_connection(
    scripted: Gateway, start: Start, gate: Path
) -> None:
    async with start(patience=0.3, retry_first=0.01):
        link = await scripted.next()
        await link.let_in()
        await link.say(type="exec", id="c1", command=f"cat {gate}")
        assert await link.heard_until_closed() == set()
        await (await scripted.next()).let_in()


async def test_each_connection_has_a_fresh_shell(scripted: Gateway, start: Start, tmp_path: Path) -> None:
    async with start(retry_first=0.01):
        link = await scripted.next()
        await link.let_in()
        old = (await link.exec("cd /; echo $$"))["stdout"]
        with Watched([int(old)]) as watched:
            await link.ws.close()
            link = await scripted.next()
            await link.let_in()
            directory, new = (await link.exec("pwd; echo $$"))["stdout"].split()
            assert watched.living() == 0
        assert (directory, new != old.strip()) == (str(tmp_path), True)


async def test_a_bye_ends_the_connection_and_the_node_comes_back(scripted: Gateway, start: Start) -> None:
    async with start(retry_first=0.01) as events:
        link = await scripted.next()
        await link.let_in()
        await link.say(type="bye", reason="revoked")
        await link.ws.close(code=4006)
        await (await scripted.next()).let_in()
        assert "disconnected 4006" in events


async def test_every_refusal_is_tried_again(scripted: Gateway, start: Start) -> None:
    async with start(retry_first=0.01) as events:
        for _ in range(3):
            link = await scripted.next()
            await link.greet()
            await link.say(type="auth_err", reason="invalid_token", code=4001)
            await link.ws.close(code=4001)
        await (await scripted.next()).let_in()
        assert events[:3] == ["refused invalid_token"] * 3


def test_the_back_off_doubles_up_to_a_minute() -> None:
    assert list(islice(backoff(1.0), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]


# -- what it offers -------------------------------------------------------------------------------


async def test_an_encrypted_session_seals_calls_and_answers(scripted: Gateway, start: Start) -> None:
    async with start(encrypted=True):
        link = await scripted.next()
        await link.let_in_encrypted()
        assert (await link.exec("echo sealed"))["stdout"] == "sealed\n"


async def test_chunks_carry_lines_as_they_come_and_no_stderr(
    scripted: Gateway, start: Start, shell: str, gate: Path
) -> None:
    async with start(shell=shell, chunks=True):
        link = await scripted.next()
        await link.let_in("exec_chunk")
        chunks = [await link.exec(rf"printf 'a\377\n'; echo err >&2; cat {gate}; echo b; (exit 3)")]
        await open_gate(gate)
        chunks += [await link.hear() for _ in range(2)]
        assert [chunk["seq"] for chunk in chunks] == [1, 2, 3]
        assert [chunk["more"] for chunk in chunks] == [True, True, False]
        assert b"".join(base64.b64decode(chunk["data"]) for chunk in chunks) == b"a\xff\nb\n"
        assert (chunks[-1]["status"], chunks[-1]["exit_code"]) == ("error", 3)
        assert not any("stderr" in chunk for chunk in chunks)


@pytest.mark.parametrize("chunks", [False, True])
async def test_chunks_are_used_only_where_both_sides_list_them(
    scripted: Gateway, start: Start, chunks: bool
) -> None:
    async with start(chunks=chunks):
        link = await scripted.next()
        await link.let_in(*([] if chunks else ["exec_chunk"]))
        assert ("exec_chunk" in link.hello["capabilities"]) is chunks
        assert (await link.exec("echo whole"))["stdout"] == "whole\n"


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
async def files(scripted: Gateway, start: Start) -> AsyncIterator[Link]:
    async with start():
        link = await scripted.next()
        await link.let_in()
        yield link


async def test_what_was_written_is_read(files: Link, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    for mode, content in (("create", b"a\xff"), ("append", b"b"), ("overwrite", b"c"), ("append", b"d")):
        encoded = base64.b64encode(content).decode()
        answer = await files.call("write", path=path, content_b64=encoded, mode=mode)
        assert answer == {"type": "write_result", "status": "ok", "bytes_written": len(content)}
    answer = await files.call("read", path=path)
    assert answer == {"type": "read_result", "status": "ok", "content_b64": "Y2Q=", "size_bytes": 2}


async def test_what_goes_wrong_with_a_file_has_its_name(files: Link, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")
    with (tmp_path / "large").open("wb") as large:
        large.truncate(10 * MIB + 1)
    (tmp_path / "out").symlink_to("/etc/passwd")
    wrong: dict[str, tuple[str, Json]] = {
        "file_not_found": ("read", {"path": "gone"}),
        "file_too_large": ("read", {"path": "large"}),
        "io_error": ("read", {"path": "."}),
        "path_not_allowed": ("read", {"path": "out"}),
        "file_exists": ("write", {"path": "there", "content_b64": "YQ==", "mode": "create"}),
    }
    for error, (kind, fields) in wrong.items():
        answer = await files.call(kind, **{**fields, "path": str(tmp_path / fields["path"])})
        assert (answer["type"], answer["status"]) == (f"{kind}_result", "error")
        assert answer["error"] == error
        assert answer["error_detail"]


@pytest.mark.parametrize("fields", [{}, {"content_b64": ""}, {"content_b64": "a"}])
async def test_a_write_without_content_is_refused(files: Link, tmp_path: Path, fields: Json) -> None:
    answer = await files.call("write", path=str(tmp_path / "file"), **fields)
    assert (answer["type"], answer["code"], answer["reason"]) == ("error", 4000, "bad_request")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("strict", [False, True])
async def test_content_that_is_no_base64_passes_unless_strict(
    scripted: Gateway, start: Start, tmp_path: Path, strict: bool
) -> None:
    async with start(strict_base64=strict):
        link = await scripted.next()
        await link.let_in()
        answer = await link.call("write", path=str(tmp_path / "file"), content_b64="a-Gk_=\n")
        assert answer["type"] == ("error" if strict else "write_result")


# -- the process ----------------------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_the_process_reports_and_leaves_nothing_behind(
    scripted: Gateway, tmp_path: Path, stack: ExitStack, shell: str
) -> None:
    gateway = cast("GatewayProcess", SimpleNamespace(url=scripted.url))
    opening = older_node(
        Home(tmp_path), gateway, "old", "--shell", shell, "--retry-first", "0.01", token=TOKEN
    )
    entered = asyncio.create_task(asyncio.to_thread(stack.enter_context, opening))
    link = await scripted.next()
    await link.let_in()
    node: Running = await entered
    await link.ws.close(code=4005)
    assert await asyncio.to_thread(node.line) == "disconnected 4005"
    link = await scripted.next()
    await link.let_in()
    assert await asyncio.to_thread(node.reconnected) == link.session_id
    result = await link.exec('pwd; echo "<$HERMES_NODE_TOKEN>"')
    assert result["stdout"] == f"{node.folder}\n<>\n"
    pids = (await link.exec("sleep 60 & echo $!; setsid sleep 60 & echo $!; echo $$"))["stdout"].split()
    with Watched(map(int, pids)) as left:
        node.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(node.process.wait, PATIENCE) == 0
        assert left.living(PATIENCE) == 0
