"""A session: its calls from request to answer, its limits, its signs of life, and its end."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from hermes_nodes.calls import Call
from hermes_nodes.errors import Busy, CallTimeout, NodeDisconnected, ProtocolViolation, Unsupported
from hermes_nodes.protocol.codec import Data, RecordCodec
from hermes_nodes.protocol.messages import (
    MAX_CALLS,
    Bye,
    Cancel,
    Close,
    Error,
    Exec,
    ExecChunk,
    ExecResult,
    FromGateway,
    JobList,
    Message,
    Ping,
    Pong,
    Pty,
    RateLimit,
    Read,
    ReadResult,
    Request,
    Stat,
    Unknown,
    Window,
    Write,
    new_call_id,
)
from hermes_nodes.protocol.stream import INITIAL_WINDOW, STDERR, STDIN, STDOUT, Budget, Source, Stream
from hermes_nodes.sessions import RateExceeded, Session, SlidingSecond, StreamSession
from tests.older.support import OlderNode
from tests.protocol.support import NAME, logged_in
from tests.sessions_support import LIFE, Line, Pieces, output

LIMIT = 100


class Node:
    """A node by hand at the other end of a `stream/1` session."""

    def __init__(
        self, *capabilities: str, limit: int = LIMIT, budget: int = 0, attached: bool = True
    ) -> None:
        accepted, codec = logged_in(*capabilities)
        assert isinstance(accepted.codec, RecordCodec)
        self.budget = Budget(budget)
        self.session = StreamSession(
            accepted,
            codec=accepted.codec,
            pairing_id="pairing",
            remote_addr="192.0.2.1",
            limit=limit,
            budget=self.budget,
        )
        self.line = Line()
        if attached:
            self.session.attach(self.line)
        self.codec = codec
        self.stream: Stream[FromGateway] = Stream(codec, on_output=self.line.wake, budget=Budget(0))

    def hears(self) -> list[FromGateway | Unknown | Data]:
        """What the session has to say."""
        said: list[FromGateway | Unknown | Data] = []
        while (frame := self.session.next_frame()) is not None:
            said.append(self.stream.receive(frame))
        return said

    def says(self, *messages: Message) -> None:
        for message in messages:
            self.stream.send(message)
        while (frame := self.stream.next_frame()) is not None:
            self.session.receive(frame)

    def takes_up(self, call: Call, sends: dict[int, Source], receives: tuple[int, ...] = ()) -> None:
        self.stream.open(call.id, sends=sends, receives=receives)
        for channel in sends:
            self.stream.wake(call.id, channel)


def an_exec(**fields: Any) -> Exec:
    return Exec(id=new_call_id(), command="true", **fields)


# Calls


async def test_a_call_goes_out_and_its_output_and_its_answer_come_back() -> None:
    node = Node("stdin")
    request = an_exec(stdin=True)
    call = node.session.start(request, Pieces(b"some ", b"input"))
    heard = node.hears()
    assert heard[0] == request
    node.takes_up(call, {STDOUT: Pieces(b"out"), STDERR: Pieces(b"err")})
    assert [bytes(event.payload) for event in heard[1:] if isinstance(event, Data)] == [
        b"some ",
        b"input",
        b"",
    ]
    node.says()
    assert not call.finished
    answer = ExecResult(id=call.id, status="error", exit_code=3)
    node.says(answer)
    assert await output(call) == {STDOUT: b"out", STDERR: b"err"}
    assert call.result() == answer
    assert node.session.calls == {}


async def test_output_is_there_to_be_read_after_the_answer_has_come() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    node.takes_up(call, {STDOUT: Pieces(b"out")})
    node.says()
    node.says(ExecResult(status="ok", id=call.id))
    assert call.finished
    assert await output(call) == {STDOUT: b"out", STDERR: b""}


async def test_a_caller_may_wait_for_output_that_is_still_to_come() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()

    async def run() -> None:
        node.takes_up(call, {STDERR: Pieces(b"err")})
        node.says()
        node.says(ExecResult(status="ok", id=call.id))

    kept, _ = await asyncio.gather(output(call), run())
    assert kept == {STDOUT: b"", STDERR: b"err"}


async def test_a_call_that_runs_has_no_result_yet() -> None:
    call = Node().session.start(an_exec(), None)
    with pytest.raises(asyncio.InvalidStateError):
        call.result()


async def test_input_that_comes_later_is_sent_when_it_is_announced() -> None:
    node = Node("stdin")
    call = node.session.start(an_exec(stdin=True), Pieces(None, b"late"))
    assert len(node.hears()) == 1
    node.takes_up(call, {}, receives=(STDIN,))
    call.input_ready()
    assert [bytes(event.payload) for event in node.hears() if isinstance(event, Data)] == [b"late", b""]


async def test_announcing_input_to_a_call_that_takes_none_is_let_be() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    call.input_ready()
    assert node.hears() == [call.request]


async def test_calls_run_side_by_side_and_each_gets_its_own() -> None:
    node = Node()
    calls = [node.session.start(an_exec(), None) for _ in range(5)]
    assert node.hears() == [call.request for call in calls]
    for number, call in enumerate(calls):
        node.takes_up(call, {STDOUT: Pieces(bytes([number]))})
    node.says()
    node.says(
        *[ExecResult(status="ok", id=call.id, exit_code=number) for number, call in enumerate(calls)][::-1]
    )
    for number, call in enumerate(calls):
        assert (await output(call))[STDOUT] == bytes([number])
        answer = call.result()
        assert isinstance(answer, ExecResult)
        assert answer.exit_code == number


@pytest.mark.parametrize(
    "answer_to",
    [
        lambda call_id: ExecResult(id=call_id, status="ok"),
        lambda call_id: Error(id=call_id),
    ],
    ids=["its result", "an error"],
)
async def test_a_call_ends_with(answer_to: Callable[[str], ExecResult | Error]) -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    node.says(answer_to(call.id))
    assert call.result() == answer_to(call.id)


@pytest.mark.parametrize(
    "answer_to",
    [
        lambda call_id: ReadResult(id=call_id, status="ok"),
        lambda call_id: ExecResult(id=call_id, status="started"),
    ],
    ids=["another kind of result", "a start that nobody asked for"],
)
async def test_an_answer_that_does_not_fit_its_call_ends_the_session(
    answer_to: Callable[[str], ExecResult | ReadResult],
) -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    with pytest.raises(ProtocolViolation, match="does not fit"):
        node.says(answer_to(call.id))


async def test_only_the_first_answer_counts() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    node.says(
        ExecResult(status="ok", id=call.id, exit_code=1), ExecResult(status="ok", id=call.id, exit_code=2)
    )
    assert call.result() == ExecResult(status="ok", id=call.id, exit_code=1)


async def test_errors_and_answers_to_no_call_are_ignored() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.says(Error(code=5000), Error(id="no such call"), ExecResult(status="ok", id=new_call_id()))
    assert not call.finished
    assert node.line.closed == []


async def test_the_node_may_send_as_much_as_the_caller_has_taken() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    node.takes_up(call, {STDOUT: Pieces(*[bytes(64 * 1024)] * 8)})
    node.says()
    for _ in range(4):
        piece = await call.next_output()
        assert piece is not None
    assert [event for event in node.hears() if isinstance(event, Window)] == []
    call.took(STDOUT, INITIAL_WINDOW)
    assert node.hears() == [Window(id=call.id, channel=STDOUT, bytes=INITIAL_WINDOW)]


@pytest.mark.parametrize(
    ("request_", "lacking"),
    [
        (an_exec(stdin=True), "stdin"),
        (an_exec(pty=Pty(80, 24)), "pty"),
        (an_exec(session="s"), "session"),
        (an_exec(detach=True), "jobs"),
        (JobList(id=new_call_id()), "jobs"),
        (Stat(id=new_call_id(), path="/"), "fs"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
async def test_what_a_node_does_not_list_is_not_asked_of_it(request_: Request, lacking: str) -> None:
    others = {"stdin", "pty", "session", "jobs", "fs"} - {lacking}
    node = Node(*others)
    with pytest.raises(Unsupported, match=lacking):
        node.session.start(request_, Pieces())
    assert node.hears() == []
    assert node.session.calls == {}


@pytest.mark.parametrize(
    "request_",
    [
        an_exec(timeout_ms=5, env={"A": "b"}, cwd="/"),
        Read(id=new_call_id(), path="p"),
        Write(id=new_call_id(), path="p"),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_every_node_is_asked_to_run_to_read_and_to_write(request_: Request) -> None:
    node = Node()
    node.session.start(request_, None)
    assert node.hears() == [request_]


async def test_at_most_64_calls_run_at_once() -> None:
    node = Node()
    calls = [node.session.start(an_exec(), None) for _ in range(MAX_CALLS)]
    with pytest.raises(Busy):
        node.session.start(an_exec(), None)
    assert len(node.hears()) == 64
    node.says(ExecResult(status="ok", id=calls[0].id))
    node.session.start(an_exec(), None)


# Cancelling, giving up


async def test_a_cancel_is_sent_once_and_the_answer_still_comes() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    call.cancel()
    call.cancel()
    assert node.hears() == [Cancel(id=call.id)]
    node.says(ExecResult(id=call.id, status="cancelled"))
    assert call.result() == ExecResult(id=call.id, status="cancelled")


async def test_a_call_that_has_ended_is_not_cancelled() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    node.says(ExecResult(status="ok", id=call.id))
    call.cancel()
    assert node.hears() == []


async def test_what_still_comes_for_a_call_that_was_given_up_is_dropped_and_credited() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    source = Pieces(*[bytes(64 * 1024)] * 40)
    node.takes_up(call, {STDOUT: source})
    node.says()
    assert not source.ended
    call.abandon()
    while node.hears():
        node.says()
    assert source.ended
    node.says(ExecResult(id=call.id, status="ok"))
    assert await call.next_output() is None
    assert node.session.calls == {}


async def test_the_first_reason_for_an_end_stands() -> None:
    call = Node().session.start(an_exec(), None)
    call.finish(CallTimeout("too long"))
    call.finish(ExecResult(status="ok", id=call.id))
    with pytest.raises(CallTimeout):
        call.result()


# The end of a session


async def test_calls_fail_at_once_when_their_session_closes() -> None:
    node = Node()
    calls = [node.session.start(an_exec(), None) for _ in range(3)]

    async def close() -> None:
        node.session.close(Close.REVOKED, "revoked", last=Bye(reason="revoked"))

    # Each caller is waiting when the session closes.
    *outputs, _ = await asyncio.gather(*[output(call) for call in calls], close())
    assert outputs == [{STDOUT: b"", STDERR: b""}] * 3
    for call in calls:
        with pytest.raises(NodeDisconnected):
            call.result()
    assert node.session.calls == {}
    assert node.session.next_frame() is None


async def test_a_session_says_its_last_word_as_the_next_record() -> None:
    node = Node()
    node.session.start(an_exec(), None)
    node.hears()
    node.session.close(Close.REVOKED, "revoked", last=Bye(reason="revoked"))
    assert node.line.closed == [4006]
    assert [node.codec.decode(frame) for frame in node.line.last] == [Bye(reason="revoked")]


async def test_the_first_reason_why_a_session_ended_stands() -> None:
    node = Node()
    node.session.close(Close.PROTOCOL, "malformed")
    node.session.close(Close.NORMAL, "replaced")
    assert node.session.end_reason == "malformed"


@pytest.mark.parametrize("answered", [True, False], ids=["its answer", "the session's end"])
async def test_what_a_call_held_of_the_budget_is_given_back_at(answered: bool) -> None:
    node = Node(budget=INITIAL_WINDOW)
    call = node.session.start(an_exec(), None)
    node.hears()
    node.takes_up(call, {STDOUT: Pieces(*[bytes(64 * 1024)] * 4)})
    node.says()
    call.took(STDOUT, INITIAL_WINDOW)
    assert not node.budget.take(1)
    if answered:
        node.says(ExecResult(status="ok", id=call.id))
    else:
        node.session.fail_calls()
    assert node.budget.take(INITIAL_WINDOW)


async def test_a_node_that_says_bye_is_let_go() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.says(Bye(reason="shutdown"))
    assert node.line.closed == [1000]
    assert node.session.end_reason == "bye shutdown"
    with pytest.raises(NodeDisconnected):
        call.result()


async def test_a_session_that_is_not_on_a_line_yet_keeps_what_it_has_to_say() -> None:
    node = Node(attached=False)
    node.session.send(Ping())
    assert node.line.wakes == 0
    node.session.attach(node.line)
    assert node.line.wakes == 1
    assert node.hears() == [Ping()]


# What a node may say


async def test_a_ping_is_answered_with_its_own_time() -> None:
    node = Node()
    node.says(Ping(ts="2030-01-01T00:00:00.000Z", id="7"))
    (pong,) = node.hears()
    assert isinstance(pong, Pong)
    assert (pong.echo_ts, pong.id) == ("2030-01-01T00:00:00.000Z", "7")


@pytest.mark.parametrize("message", [Pong(), Window(id=new_call_id()), Cancel(id=new_call_id())])
async def test_what_asks_for_nothing_is_passed_over(message: Message) -> None:
    node = Node()
    node.says(message)
    assert node.hears() == []
    assert node.line.closed == []


async def test_chunks_that_were_not_negotiated_are_a_violation() -> None:
    node = Node()
    with pytest.raises(ProtocolViolation):
        node.says(ExecChunk(id=new_call_id(), seq=1))


# The limit on messages


async def test_the_hundred_and_first_message_in_a_second_is_one_too_many() -> None:
    node = Node()
    node.says(*[Ping()] * 100)
    with pytest.raises(RateExceeded) as excess:
        node.says(Ping())
    assert excess.value.close_code == 4004
    assert node.session.rate_limit_notice() == RateLimit(
        reason="rate_limit_exceeded", code=4004, node_name=NAME, limit_per_second=100
    )


async def test_messages_of_a_known_call_do_not_count() -> None:
    node = Node(limit=3)
    call = node.session.start(an_exec(), None)
    node.hears()
    node.takes_up(call, {STDOUT: Pieces(*[b"x"] * 500)})
    node.says(*[Window(id=call.id)] * 500)
    node.says(Ping(), Ping())
    node.says(ExecResult(status="ok", id=call.id))
    node.says(Ping())
    with pytest.raises(RateExceeded):
        node.says(Ping())


async def test_messages_of_a_call_that_was_cancelled_do_not_count_until_its_answer() -> None:
    node = Node(limit=3)
    call = node.session.start(an_exec(), None)
    node.hears()
    node.takes_up(call, {STDOUT: Pieces(*[b"x"] * 500)})
    call.cancel()
    call.abandon()
    node.says()
    node.says(ExecResult(id=call.id, status="cancelled"))
    assert node.line.closed == []


@pytest.mark.parametrize(
    "stray",
    [
        ExecResult(status="ok", id=new_call_id()),
        Error(id=new_call_id()),
        Error(),
        Window(id=new_call_id()),
        Pong(),
        Cancel(id=new_call_id()),
    ],
    ids=lambda message: type(message).__name__,
)
async def test_stray_messages_count(stray: Message) -> None:
    node = Node(limit=3)
    node.session.start(an_exec(), None)
    node.says(stray, stray, stray)
    with pytest.raises(RateExceeded):
        node.says(stray)


async def test_data_of_no_known_call_counts() -> None:
    node = Node(limit=3)
    ended = node.session.start(an_exec(), None)
    node.hears()
    node.says(ExecResult(status="ok", id=ended.id))
    node.takes_up(ended, {STDOUT: Pieces(*[b"x"] * 10)})
    with pytest.raises(RateExceeded):
        node.says()


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_a_sliding_second_admits_its_limit_and_says_how_long_to_wait(limit: int) -> None:
    second = SlidingSecond(limit)
    assert [second.admit(10.0) for _ in range(limit)] == [0.0] * limit
    assert second.admit(10.25) == 0.75
    assert second.admit(10.75) == 0.25


def test_a_second_slides_and_does_not_start_anew() -> None:
    second = SlidingSecond(2)
    assert [second.admit(now) for now in (10.0, 10.5)] == [0.0, 0.0]
    assert second.admit(10.75) == 0.25
    assert second.admit(11.0) == 0.0
    assert second.admit(11.25) == 0.25
    assert second.admit(11.5) == 0.0


def test_what_was_refused_does_not_count() -> None:
    second = SlidingSecond(1)
    assert second.admit(10.0) == 0.0
    assert [second.admit(10.5) for _ in range(10)] == [0.5] * 10
    assert second.admit(11.0) == 0.0


def test_a_second_comes_to_rest_a_second_after_its_last_event() -> None:
    second = SlidingSecond(5)
    assert second.empty(10.0)
    second.admit(10.0)
    second.admit(10.5)
    assert not second.empty(11.25)
    assert second.empty(11.5)


# Signs of life


async def test_a_silent_node_is_pinged_once_and_then_given_up() -> None:
    node = Node()
    call = node.session.start(an_exec(), None)
    node.hears()
    heard = node.session.last_heard
    node.session.check_life(heard + 29.9, **LIFE)
    assert node.hears() == []
    node.session.check_life(heard + 30, **LIFE)
    node.session.check_life(heard + 45, **LIFE)
    assert [type(message) for message in node.hears()] == [Ping]
    node.session.check_life(heard + 59.9, **LIFE)
    assert node.line.closed == []
    node.session.check_life(heard + 60, **LIFE)
    assert (node.line.closed, node.session.end_reason) == ([1000], "silent")
    with pytest.raises(NodeDisconnected):
        call.result()


@pytest.mark.parametrize(
    "sign", [Pong(), Error(), Cancel(id=new_call_id())], ids=lambda sign: type(sign).__name__
)
async def test_any_message_is_a_sign_of_life(sign: Message) -> None:
    node = Node()
    heard = node.session.last_heard
    node.session.check_life(heard + 30, **LIFE)
    node.says(sign)
    assert node.session.last_heard > heard
    node.hears()
    node.session.check_life(node.session.last_heard + 30, **LIFE)
    assert [type(message) for message in node.hears()] == [Ping]


async def test_a_session_goes_on_after_it_has_rested() -> None:
    node = Node()
    node.session.check_life(node.session.last_heard + 30, **LIFE)
    node.hears()
    node.says(Ping())
    assert [type(message) for message in node.hears()] == [Pong]


async def test_when_a_node_was_last_seen_is_told_as_a_moment() -> None:
    session = Node().session
    assert session.last_seen_at >= session.connected_at
    assert session.last_seen_at.endswith("Z")


async def test_a_session_knows_what_its_node_said_of_itself() -> None:
    session: Session = Node("stdin", "jobs").session
    assert session.name == NAME
    assert session.encrypted
    assert session.capabilities == ["stream/1", "stdin", "jobs"]
    assert OlderNode().session.capabilities == []
