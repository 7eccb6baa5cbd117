"""What calls to an older node may hold: input here, output that nobody takes, its shell's stderr."""

import base64

import pytest

from hermes_nodes.errors import Busy, Unsupported
from hermes_nodes.older.sessions import MAX_INPUT, MAX_UNTAKEN, STDERR_BUSY, STDERR_IDLE
from hermes_nodes.protocol.guarded import ECHO_OFF, MAX_STDIN
from hermes_nodes.protocol.messages import Exec, ReadResult, Write, WriteResult
from tests.older.support import (
    Input,
    OlderNode,
    a_command,
    a_read,
    a_write,
    ending,
    paths_heard,
    read_ends,
    whole,
)
from tests.sessions_support import Pieces, output

MIB = 1024 * 1024


# Input


async def test_a_call_goes_out_when_all_its_input_is_here() -> None:
    node = OlderNode()
    source = Input(b"one ")
    call = node.starts(a_write(), source)
    assert node.hears() == []
    source.give(b"two", ended=True)
    assert node.hears() == []
    call.input_ready()
    (message,) = node.hears()
    assert isinstance(message, Write)
    assert base64.b64decode(message.content_b64 or "") == b"one two"


async def test_a_slow_source_holds_up_no_other_call() -> None:
    node = OlderNode()
    slow = Input()
    first = node.starts(a_write("slow"), slow)
    second = node.starts(a_write("quick"), whole(b"x"))
    third = node.starts(a_read("none"))
    assert paths_heard(node) == ["quick"]
    node.says(WriteResult(id=second.id, status="ok", bytes_written=1))
    assert paths_heard(node) == ["none"]
    slow.give(b"", ended=True)
    first.input_ready()
    assert node.hears() == []
    read_ends(node, third)
    assert paths_heard(node) == ["slow"]


async def test_many_slow_sources_hold_up_no_call_that_needs_no_room() -> None:
    node = OlderNode()
    for number in range(MAX_INPUT // (10 * MIB) + 1):
        node.starts(a_write(str(number)), Input())
    node.starts(a_read("none"))
    assert paths_heard(node) == ["none"]


async def test_large_input_waits_for_room_and_goes_on_when_there_is_some() -> None:
    node = OlderNode()
    running = node.starts(a_read())
    sources = [Pieces(*[bytes(64 * 1024)] * 159) for _ in range(5)]
    calls = [node.starts(a_write(str(number)), source) for number, source in enumerate(sources)]
    assert [source.ended for source in sources] == [True, True, True, False, False]
    node.hears()
    read_ends(node, running)
    assert paths_heard(node) == ["0"]
    for number, call in enumerate(calls):
        node.says(WriteResult(id=call.id, status="ok", bytes_written=159 * 64 * 1024))
        assert paths_heard(node) == ([str(number + 1)] if number < 4 else [])
        assert isinstance(call.result(), WriteResult)


async def test_room_of_a_call_with_too_much_input_is_for_the_next() -> None:
    node = OlderNode()
    slow = [Input() for _ in range(3)]
    calls = [node.starts(a_write("slow"), source) for source in slow]
    following = node.starts(a_write("next"), whole(bytes(5)))
    assert node.hears() == []
    slow[0].give(bytes(10 * MIB + 1))
    calls[0].input_ready()
    assert isinstance(ending(calls[0]), Unsupported)
    assert paths_heard(node) == ["next"]
    assert following.is_sent


async def test_one_call_has_too_much_input_while_another_has_all_of_its_own() -> None:
    node = OlderNode()
    sources = Input(), Input()
    calls = [node.starts(a_write(str(number)), source) for number, source in enumerate(sources)]
    sources[0].give(bytes(10 * MIB + 1))
    sources[1].give(b"", ended=True)
    calls[0].input_ready()
    assert paths_heard(node) == ["1"]


async def test_a_caller_may_leave_while_its_input_is_collected() -> None:
    node = OlderNode()
    call = node.starts(a_write(), Input(b"some"))
    call.cancel()
    assert "nothing has run" in str(ending(call))
    call.input_ready()
    assert node.hears() == []
    assert node.session.calls == {}


@pytest.mark.parametrize(
    ("request_", "most"),
    [(a_command("cat", stdin=True), MAX_STDIN), (a_write(), 10 * MIB)],
    ids=["a command", "a file"],
)
@pytest.mark.parametrize("over", [0, 1])
async def test_input_has_its_limit(request_: Exec | Write, most: int, over: int) -> None:
    node = OlderNode()
    call = node.starts(request_, whole(bytes(most + over)))
    following = node.starts(a_read())
    first = node.hears()[0]
    if over:
        assert isinstance(ending(call), Unsupported)
        assert str(most) in ending(call).message
        assert first == following.request
    else:
        assert first.id == call.id  # type: ignore[union-attr]
        assert not call.finished


# What a shell can bear


@pytest.mark.parametrize("session", [None, "s"])
async def test_the_echo_is_turned_off_once_before_the_first_script(session: str | None) -> None:
    node = OlderNode()
    read_ends(node, node.starts(a_read()))
    node.hears()
    for is_first in (True, False, False):
        call = node.starts(a_command("make", session=session))
        command = node.hears_command().command or ""
        assert command.startswith(ECHO_OFF) is is_first
        assert ECHO_OFF not in command[1:]
        node.answers(call)


async def test_a_raw_command_is_no_script_and_the_echo_stays_until_there_is_one() -> None:
    node = OlderNode(guard=False)
    for request, head in (
        (a_command("make"), "make"),
        (a_command("make", session="s"), ECHO_OFF),
        (a_command("make"), "make"),
    ):
        call = node.starts(request)
        assert (node.hears_command().command or "").startswith(head)
        node.answers(call)


def _uses(node: OlderNode, stderr_bytes: int) -> None:
    call = node.starts(a_command())
    node.hears()
    node.answers(call, stderr="x" * stderr_bytes)


async def test_an_idle_shell_near_the_end_of_its_stderr_is_let_go() -> None:
    node = OlderNode()
    _uses(node, STDERR_IDLE - 50_000)
    assert node.line.closed == []
    _uses(node, 50_000)
    assert node.line.closed == [1000]
    assert "stderr" in (node.session.end_reason or "")


async def test_a_busy_shell_is_let_go_between_two_calls_a_little_later() -> None:
    node = OlderNode()
    running, *waiting = [node.starts(a_command()) for _ in range(4)]
    node.answers(running, stderr="x" * (STDERR_IDLE + 1))
    assert node.line.closed == []
    node.answers(waiting[0], stderr="x" * (STDERR_BUSY - STDERR_IDLE))
    assert waiting[0].finished
    assert node.line.closed == [1000]
    assert ["nothing has run" in ending(call).hint for call in waiting[1:]] == [True, True]


async def test_what_a_shell_echoes_counts_as_its_stderr() -> None:
    node = OlderNode(guard=False)
    for _ in range(STDERR_IDLE // 100_000 + 1):
        assert node.line.closed == []
        call = node.starts(a_command("x" * 100_000))
        node.answers(call)
    assert node.line.closed == [1000]


async def test_a_node_whose_output_nobody_takes_is_busy_until_someone_does() -> None:
    node = OlderNode()
    calls = []
    for _ in range(MAX_UNTAKEN // (7 * MIB) + 1):
        calls.append(node.starts(a_read()))
        content = base64.b64encode(bytes(7 * MIB)).decode()
        node.says(ReadResult(id=calls[-1].id, status="ok", content_b64=content))
    with pytest.raises(Busy) as refused:
        node.starts(a_read())
    assert "waits for its readers" in refused.value.message
    assert "running or waiting" not in refused.value.message
    assert "when they have read it" in refused.value.hint
    assert str(refused.value) == refused.value.message
    await output(calls[0])
    node.starts(a_read())


async def test_output_of_callers_that_leave_is_not_waited_for() -> None:
    node = OlderNode()
    for _ in range(MAX_UNTAKEN // (10 * MIB) + 2):
        call = node.starts(a_read())
        content = base64.b64encode(bytes(10 * MIB)).decode()
        node.says(ReadResult(id=call.id, status="ok", content_b64=content))
        call.abandon()
    node.starts(a_read())
