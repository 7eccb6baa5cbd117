"""The session of a node without `stream/1`: its one call at a time, its framing, its signs of life."""

import asyncio
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_nodes.calls import Call
from hermes_nodes.errors import (
    Busy,
    CallCancelled,
    CallTimeout,
    NodeDisconnected,
    ProtocolViolation,
    Unsupported,
)
from hermes_nodes.older.sessions import MAX_WAITING
from hermes_nodes.protocol.messages import (
    Bye,
    Close,
    Error,
    Exec,
    ExecChunk,
    ExecResult,
    Message,
    Ping,
    Pong,
    Read,
    ReadResult,
    SessionList,
    Write,
    WriteResult,
    new_call_id,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT
from hermes_nodes.sessions import RateExceeded
from tests.older.support import (
    Input,
    OlderNode,
    a_command,
    a_read,
    a_write,
    both,
    ending,
    guarded_output,
    paths_heard,
    read_ends,
    reads,
)
from tests.sessions_support import LIFE, output

# One at a time


@both
async def test_a_guarded_command_goes_out_and_all_that_it_gave_comes_back(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    call = node.starts(a_command("make"))
    heard = node.hears_command()
    stdout, stderr = bytes(range(256)) * 4000, b"\xff\n\0"
    node.answers(call, stdout=guarded_output(heard.command, stdout, stderr, exit_code=3))
    assert await output(call) == {STDOUT: stdout, STDERR: stderr}
    assert call.result() == ExecResult(id=call.id, status="ok", exit_code=3)
    assert node.session.calls == {}


@both
async def test_calls_go_out_one_at_a_time_in_their_order(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    calls = reads(node, 4)
    for number, call in enumerate(calls):
        assert [each.is_sent for each in calls] == [each <= number for each in range(4)]
        assert paths_heard(node) == [str(number)]
        read_ends(node, call)
        assert call.finished
    assert node.hears() == []


async def test_a_caller_can_wait_until_its_call_has_gone_out() -> None:
    node = OlderNode()
    first, second = reads(node, 2)
    await first.has_left()
    left = asyncio.ensure_future(second.has_left())
    await asyncio.sleep(0)
    assert not left.done()
    read_ends(node, first)
    await left


async def test_64_calls_wait_and_one_more_is_busy() -> None:
    node = OlderNode()
    calls = reads(node, 1 + MAX_WAITING)
    with pytest.raises(Busy):
        node.starts(a_read())
    read_ends(node, calls[0])
    node.starts(a_read())
    with pytest.raises(Busy):
        node.starts(a_read())


async def test_64_calls_may_wait_for_their_input_and_one_more_is_busy() -> None:
    node = OlderNode()
    first, *_ = [node.starts(a_command(stdin=True), Input()) for _ in range(MAX_WAITING)]
    with pytest.raises(Busy):
        node.starts(a_command(stdin=True), Input())
    assert node.hears() == []
    first.cancel()
    node.starts(a_command(stdin=True), Input())


async def test_calls_whose_input_has_not_come_keep_out_none_that_have_no_input() -> None:
    node = OlderNode()
    for _ in range(MAX_WAITING):
        node.starts(a_command(stdin=True), Input())
    calls = reads(node, 1 + MAX_WAITING)
    with pytest.raises(Busy):
        node.starts(a_read())
    assert paths_heard(node) == ["0"]
    read_ends(node, calls[0])
    assert paths_heard(node) == ["1"]


async def test_a_call_that_was_refused_leaves_no_trace() -> None:
    node = OlderNode()
    with pytest.raises(Unsupported):
        node.starts(SessionList(id=new_call_id()))
    assert node.session.calls == {}
    assert node.hears() == []


@pytest.mark.parametrize("leaving", [0, 1])
async def test_a_caller_that_leaves_the_queue_has_run_nothing(leaving: int) -> None:
    node = OlderNode()
    running, *waiting = reads(node, 3)
    waiting[leaving].cancel()
    assert "nothing has run" in str(ending(waiting[leaving]))
    assert isinstance(ending(waiting[leaving]), CallCancelled)
    assert paths_heard(node) == ["0"]
    read_ends(node, running)
    assert paths_heard(node) == [str(2 - leaving)]


async def test_a_caller_that_leaves_its_running_call_leaves_the_node_to_it() -> None:
    node = OlderNode()
    calls = reads(node, 2)
    node.hears()
    calls[0].cancel()
    calls[0].abandon()
    assert isinstance(ending(calls[0]), CallCancelled)
    assert "may go on" in str(ending(calls[0]))
    assert node.hears() == []
    node.says(ReadResult(id=calls[0].id, status="ok", content_b64="QUJD"))
    assert await calls[0].next_output() is None
    assert paths_heard(node) == ["1"]
    assert list(node.session.calls) == [calls[1].id]


@pytest.mark.parametrize(
    "stray",
    [
        lambda _, waiting: ReadResult(id=waiting.id, status="ok"),
        lambda _, waiting: ExecResult(id=waiting.id, status="ok"),
        lambda _, waiting: Error(id=waiting.id),
        lambda *_: ReadResult(id=new_call_id(), status="ok"),
        lambda *_: Error(id=new_call_id()),
        lambda *_: Error(code=5000),
    ],
    ids=[
        "waits",
        "waits, another kind",
        "waits, an error",
        "is unknown",
        "is unknown, an error",
        "is none",
    ],
)
async def test_an_answer_to_a_call_is_ignored_that(stray: Callable[[Call, Call], Message]) -> None:
    node = OlderNode()
    running, waiting = reads(node, 2)
    node.says(stray(running, waiting))
    assert not running.finished
    assert not waiting.finished
    assert paths_heard(node) == ["0"]
    read_ends(node, running)
    assert paths_heard(node) == ["1"]


async def test_a_second_answer_is_not_the_next_calls() -> None:
    node = OlderNode()
    first, second = reads(node, 2)
    read_ends(node, first)
    read_ends(node, first)
    assert not second.finished


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: WriteResult(id=call.id, status="ok"),
        lambda call: ReadResult(id=call.id, status="started"),
        lambda call: ExecChunk(id=call.id, seq=1),
    ],
    ids=["another's", "a start", "a chunk"],
)
@pytest.mark.parametrize("chunks", [False, True], ids=["without chunks", "with chunks"])
async def test_an_answer_that_does_not_fit_is_a_violation(
    answer: Callable[[Call], Message], chunks: bool
) -> None:
    node = OlderNode(chunks=chunks)
    call = node.starts(a_read())
    with pytest.raises(ProtocolViolation):
        node.says(answer(call))


# Time


async def test_the_deadline_counts_from_when_a_call_goes_out() -> None:
    node = OlderNode(guard=False)
    first = node.starts(a_command(timeout_ms=100_000))
    second = node.starts(a_command(timeout_ms=1_000))
    node.session.check_life(time.monotonic() + 50, **LIFE)
    assert not second.finished
    node.answers(first)
    node.session.check_life(time.monotonic() + 5.9, **LIFE)
    assert not second.finished
    node.session.check_life(time.monotonic() + 6.1, **LIFE)
    assert isinstance(ending(second), CallTimeout)


@pytest.mark.parametrize(
    ("request_", "guard", "seconds"),
    [
        (a_command(), False, 60),
        (a_command(), True, 65),
        (a_command(timeout_ms=595_000), True, 600),
        (a_read(), True, 600),
        (a_write(), True, 600),
    ],
    ids=["raw", "guarded", "the longest", "read", "write"],
)
async def test_a_node_is_given_up_five_seconds_after_it_should_have_answered(
    request_: Exec | Read | Write, guard: bool, seconds: float
) -> None:
    node = OlderNode(guard=guard)
    running, waiting = node.starts(request_), node.starts(a_read())
    node.session.check_life(time.monotonic() + seconds + 4.9, **LIFE)
    assert node.line.closed == []
    node.session.check_life(time.monotonic() + seconds + 5, **LIFE)
    assert node.line.closed == [1000]
    assert node.session.end_reason == "it does not answer its call"
    assert isinstance(ending(running), CallTimeout)
    assert isinstance(ending(waiting), NodeDisconnected)
    assert "nothing has run" in ending(waiting).hint


async def test_a_call_that_was_left_is_given_up_as_well() -> None:
    node = OlderNode()
    call = node.starts(a_command())
    call.cancel()
    node.session.check_life(time.monotonic() + 70, **LIFE)
    assert node.line.closed == [1000]
    assert isinstance(ending(call), CallCancelled)


@both
async def test_silence_says_nothing_while_a_call_runs(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    call = node.starts(a_command())
    node.hears()
    for seconds in (30, 60, 64):
        node.session.check_life(node.session.last_heard + seconds, **LIFE)
    assert node.hears() == []
    assert node.line.closed == []
    node.answers(call)
    node.session.check_life(node.session.last_heard + 30, **LIFE)
    node.session.check_life(node.session.last_heard + 45, **LIFE)
    assert [type(message) for message in node.hears()] == [Ping]
    node.session.check_life(node.session.last_heard + 60, **LIFE)
    assert (node.line.closed, node.session.end_reason) == ([1000], "silent")


async def test_a_node_whose_calls_only_collect_input_has_to_show_life() -> None:
    node = OlderNode()
    node.starts(a_write(), Input())
    node.session.check_life(node.session.last_heard + 30, **LIFE)
    assert [type(message) for message in node.hears()] == [Ping]


@given(st.integers(1_000, 595_000))
def test_a_time_out_reaches_the_node_to_the_millisecond(timeout_ms: int) -> None:
    asyncio.run(_hears_its_time_out(timeout_ms))


async def _hears_its_time_out(timeout_ms: int) -> None:
    for guard, more in ((True, 5_000), (False, 0)):
        node = OlderNode(guard=guard)
        node.starts(a_command(timeout_ms=timeout_ms))
        assert node.hears_command().timeout_ms == timeout_ms + more


# Ends


async def test_calls_fail_with_their_session_and_those_that_waited_have_run_nothing() -> None:
    node = OlderNode()
    running, waiting = reads(node, 2)
    collecting = node.starts(a_write(), Input())
    node.session.close(Close.REVOKED, "revoked")
    assert all(isinstance(ending(call), NodeDisconnected) for call in (running, waiting, collecting))
    assert "may have taken effect" in ending(running).hint
    assert ["nothing has run" in ending(call).hint for call in (waiting, collecting)] == [True, True]
    assert node.session.calls == {}
    collecting.input_ready()
    read_ends(node, running)
    assert paths_heard(node) == ["0"]


# Framing, limits, last words


@both
async def test_an_older_node_is_answered_in_its_own_framing(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    assert node.session.encrypted is encrypted
    node.says(Ping(ts="now"))
    (pong,) = node.hears()
    assert isinstance(pong, Pong)
    assert pong.echo_ts == "now"


@both
async def test_an_older_node_is_told_why_its_session_ends(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    node.session.close(Close.SHUTDOWN, "shutdown", last=Bye(reason="server_shutdown"))
    assert node.line.closed == [4005]
    assert [node.codec.decode(frame) for frame in node.line.last] == [Bye(reason="server_shutdown")]


@both
async def test_the_limit_holds_for_older_nodes_too(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted, limit=3)
    node.says(Pong(), Pong(), Pong())
    with pytest.raises(RateExceeded):
        node.says(Pong())


@both
async def test_a_binary_message_ends_the_session_of_an_older_node(encrypted: bool) -> None:
    node = OlderNode(encrypted=encrypted)
    with pytest.raises(ProtocolViolation):
        node.session.receive(node.codec.encode(Ping())._replace(binary=True))


async def test_a_node_that_asks_and_does_not_read_is_let_go() -> None:
    node = OlderNode(limit=10_000)
    with pytest.raises(ProtocolViolation, match="does not read"):
        node.says(*[Ping()] * 5_000)
