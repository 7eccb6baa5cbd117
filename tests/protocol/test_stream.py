"""The machine of `stream/1`: what is sent when, how much may be under way, and what ends a session."""

from collections.abc import Callable

import pytest

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import MAX_DATA, Data, Frame
from hermes_nodes.protocol.messages import (
    Cancel,
    Error,
    Exec,
    ExecResult,
    Ping,
    Window,
    new_call_id,
)
from hermes_nodes.protocol.stream import (
    INITIAL_WINDOW,
    MAX_WINDOW,
    STDERR,
    STDIN,
    STDOUT,
    Budget,
    Stream,
    call_key,
)
from tests.protocol.ends import (
    Clock,
    Content,
    Endless,
    GatewayStream,
    NodeStream,
    frames,
    heard,
    output_call,
    record_codecs,
    said,
    streams,
)

QUARTER = INITIAL_WINDOW // 4

# One call


def test_a_call_carries_its_input_its_output_and_its_answer() -> None:
    gateway, node = streams()
    call_id, request = new_call_id(), Exec(id=new_call_id(), stdin=True)
    gateway.open(call_id, sends={STDIN: Content(b"in")}, receives=(STDOUT, STDERR))
    gateway.send(request)
    gateway.wake(call_id, STDIN)
    node.open(call_id, sends={STDOUT: Content(b"out"), STDERR: Content(b"err")}, receives=(STDIN,))
    key = call_key(call_id)
    assert said(gateway, node) == [
        request,
        Data(key, STDIN, memoryview(b"in")),
        Data(key, STDIN, memoryview(b"")),
    ]
    node.wake(call_id, STDERR)
    node.wake(call_id, STDOUT)
    assert said(node, gateway) == [
        Data(key, STDERR, memoryview(b"err")),
        Data(key, STDOUT, memoryview(b"out")),
        Data(key, STDERR, memoryview(b"")),
        Data(key, STDOUT, memoryview(b"")),
    ]
    for stream in (gateway, node):
        assert not stream.idle
        stream.close(call_id)
        assert stream.idle


def test_an_answer_that_is_not_utf8_is_a_failure_of_its_own_call_alone() -> None:
    gateway, node = streams()
    call_id, other = new_call_id(), ExecResult(id=new_call_id(), status="ok")
    node.send(ExecResult(id=call_id, status="error", error_detail="gone: \udcff"))
    node.send(other)
    error, answer = said(node, gateway)
    assert isinstance(error, Error)
    assert (error.id, error.reason) == (call_id, "internal_error")
    assert answer == other


def test_an_empty_source_is_an_end_and_nothing_else() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Content(b""))
    assert said(node, gateway) == [Data(call_key(call_id), STDOUT, memoryview(b""))]
    node.wake(call_id, STDOUT)
    assert node.next_frame() is None


def test_large_content_travels_in_the_largest_records() -> None:
    gateway, node = streams()
    output_call(gateway, node, Content(bytes(2 * MAX_DATA) + b"rest"))
    sizes = [len(event.payload) for event in said(node, gateway) if isinstance(event, Data)]
    assert sizes == [MAX_DATA, MAX_DATA, 4, 0]


def test_a_source_without_bytes_is_asked_again_only_when_it_says_so() -> None:
    gateway, node = streams()
    source = Content(b"onetwo", ready=0)
    call_id = output_call(gateway, node, source)
    assert node.next_frame() is None
    source.ready = 3
    assert node.next_frame() is None
    node.wake(call_id, STDOUT)
    assert said(node, gateway) == [Data(call_key(call_id), STDOUT, memoryview(b"one"))]
    source.ready = 6
    node.wake(call_id, STDOUT)
    assert [bytes(event.payload) for event in said(node, gateway) if isinstance(event, Data)] == [
        b"two",
        b"",
    ]


def test_a_channel_can_be_added_to_a_call_that_is_open() -> None:
    gateway, node = streams()
    call_id = new_call_id()
    gateway.open(call_id, sends={}, receives=(STDOUT,))
    node.open(call_id, sends={}, receives=())
    node.send_from(call_id, STDOUT, Content(b"out"))
    assert heard(node, gateway) == 3


def test_what_concerns_a_call_or_a_channel_that_is_not_open_is_let_be() -> None:
    gateway, _ = streams()
    call_id = new_call_id()
    gateway.open(call_id, sends={}, receives=(STDOUT,))
    gateway.wake(call_id, STDIN)
    gateway.took(call_id, STDERR, QUARTER)
    for missing in (new_call_id(), new_call_id()):
        gateway.wake(missing, STDIN)
        gateway.took(missing, STDOUT, QUARTER)
        gateway.send_from(missing, STDIN, Endless())
        gateway.close(missing)
    assert gateway.next_frame() is None


def test_the_owner_is_told_when_there_may_be_something_to_write() -> None:
    told: list[str] = []
    _, codec = record_codecs()
    node: NodeStream = Stream(codec, on_output=lambda: told.append("output"), budget=Budget(0))
    node.send(Ping())
    assert len(told) == 1
    call_id = new_call_id()
    node.open(call_id, sends={STDOUT: Endless()}, receives=())
    assert len(told) == 1
    node.wake(call_id, STDOUT)
    assert len(told) == 2


@pytest.mark.parametrize("call_id", ["", "call-1", "7d0e2f5c-1d2b-4c3a-9e4f", "\ud800", "٣" * 32 + "x"])
def test_a_call_id_that_is_no_uuid_is_refused(call_id: str) -> None:
    gateway, _ = streams()
    with pytest.raises(ProtocolViolation):
        gateway.open(call_id, sends={}, receives=())


# Whose turn it is


def test_messages_go_before_data() -> None:
    gateway, node = streams()
    output_call(gateway, node, Endless())
    assert isinstance(gateway.receive(next(frames(node))), Data)
    node.send(Ping(ts="1"))
    node.send(Ping(ts="2"))
    assert [gateway.receive(next(frames(node))) for _ in range(2)] == [Ping(ts="1"), Ping(ts="2")]
    assert isinstance(gateway.receive(next(frames(node))), Data)


def test_a_cancel_overtakes_input_that_is_under_way() -> None:
    gateway, node = streams()
    call_id = new_call_id()
    gateway.open(call_id, sends={STDIN: Endless()}, receives=())
    node.open(call_id, sends={}, receives=(STDIN,))
    gateway.wake(call_id, STDIN)
    assert isinstance(node.receive(next(frames(gateway))), Data)
    gateway.send(Cancel(id=call_id))
    assert node.receive(next(frames(gateway))) == Cancel(id=call_id)


def test_data_of_several_calls_goes_in_turn() -> None:
    gateway, node = streams()
    calls = [call_key(output_call(gateway, node, Endless())) for _ in range(3)]
    turns = [event.call for event in said(node, gateway) if isinstance(event, Data)]
    assert turns[:6] == calls * 2


def test_a_call_that_comes_late_waits_for_one_turn_of_the_others() -> None:
    gateway, node = streams()
    busy = call_key(output_call(gateway, node, Endless()))
    assert isinstance(gateway.receive(next(frames(node))), Data)
    late = call_key(output_call(gateway, node, Content(b"late")))
    turns = [event.call for event in said(node, gateway) if isinstance(event, Data)]
    assert turns[:2] == [busy, late]


class Impatient:
    """A source that announces more while it is asked."""

    def __init__(self, node: NodeStream) -> None:
        self.node = node
        self.call_id = ""

    def pull(self, limit: int) -> bytes:
        self.node.wake(self.call_id, STDOUT)
        return bytes(limit)


def test_a_source_that_wakes_more_than_it_need_gets_no_turn_more_and_no_early_end() -> None:
    gateway, node = streams()
    source = Impatient(node)
    call_id = source.call_id = new_call_id()
    gateway.open(call_id, sends={}, receives=(STDOUT,))
    node.open(call_id, sends={STDOUT: source}, receives=())
    node.wake(call_id, STDOUT)
    node.wake(call_id, STDOUT)
    other = call_key(output_call(gateway, node, Endless()))
    events = [event for event in said(node, gateway) if isinstance(event, Data)]
    assert [event.call for event in events[:4]] == [call_key(call_id), other] * 2
    assert [len(event.payload) for event in events].count(0) == 0


# Windows


def test_a_consumer_that_stalls_bounds_what_is_under_way_to_its_window() -> None:
    gateway, node = streams()
    output_call(gateway, node, Endless())
    assert heard(node, gateway) == INITIAL_WINDOW
    assert node.next_frame() is None


def test_a_consumer_that_stalls_holds_up_no_other_channel_and_no_other_call() -> None:
    gateway, node = streams()
    stalled = output_call(gateway, node, Endless())
    assert heard(node, gateway) == INITIAL_WINDOW
    node.send_from(stalled, STDERR, Content(b"err"))
    other = output_call(gateway, node, Content(b"out"))
    events = said(node, gateway)
    assert Data(call_key(stalled), STDERR, memoryview(b"err")) in events
    assert Data(call_key(other), STDOUT, memoryview(b"out")) in events


def test_a_sender_goes_on_when_a_quarter_of_its_window_was_taken() -> None:
    gateway, node = streams(budget=Budget(0))
    call_id = output_call(gateway, node, Endless())
    assert heard(node, gateway) == INITIAL_WINDOW
    gateway.took(call_id, STDOUT, QUARTER - 1)
    assert gateway.next_frame() is None
    gateway.took(call_id, STDOUT, 1)
    assert said(gateway, node) == [Window(id=call_id, channel=STDOUT, bytes=QUARTER)]
    assert heard(node, gateway) == QUARTER


def test_an_end_costs_no_credit_and_is_granted_nothing() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Content(bytes(QUARTER)))
    assert heard(node, gateway) == QUARTER
    gateway.took(call_id, STDOUT, QUARTER)
    assert gateway.next_frame() is None


def taken_at_once(gateway: GatewayStream, node: NodeStream) -> int:
    """Consumers take all that comes as it comes, for a while; then, what a sender sends if they stop."""
    for _ in range(200):
        for frame in frames(node):
            event = gateway.receive(frame)
            if isinstance(event, Data):
                gateway.took(gateway.call_of(event) or "", event.channel, len(event.payload))
        said(gateway, node)
    return heard(node, gateway)


def test_a_fast_consumer_is_granted_up_to_8_mib() -> None:
    gateway, node = streams()
    output_call(gateway, node, Endless())
    assert MAX_WINDOW * 3 // 4 < taken_at_once(gateway, node) <= MAX_WINDOW


def test_a_slow_consumer_keeps_its_first_window() -> None:
    clock = Clock()
    gateway, node = streams(clock=clock)
    call_id = output_call(gateway, node, Endless())
    for _ in range(20):
        clock.now += 1
        gateway.took(call_id, STDOUT, heard(node, gateway))
        said(gateway, node)
    assert heard(node, gateway) == INITIAL_WINDOW


def test_a_consumer_that_has_not_taken_all_there_is_keeps_its_first_window() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Endless())
    heard(node, gateway)
    for _ in range(20):
        gateway.took(call_id, STDOUT, QUARTER)
        said(gateway, node)
        assert heard(node, gateway) == QUARTER


def test_all_windows_together_stay_within_their_budget() -> None:
    gateway, node = streams(budget=Budget(3 * INITIAL_WINDOW))
    for _ in range(4):
        output_call(gateway, node, Endless())
    assert INITIAL_WINDOW * 4 < taken_at_once(gateway, node) <= INITIAL_WINDOW * 7


@pytest.mark.parametrize("session_dies", [False, True], ids=["the call ends", "the session dies"])
def test_the_budget_is_given_back_once_when(session_dies: bool) -> None:
    budget = Budget(INITIAL_WINDOW)
    gateway, node = streams(budget=budget)
    call_id = output_call(gateway, node, Endless())
    assert taken_at_once(gateway, node) > INITIAL_WINDOW
    assert not budget.take(1)
    for _ in range(2):
        if session_dies:
            gateway.close_all()
        else:
            gateway.close(call_id)
    assert budget.take(INITIAL_WINDOW)
    assert not budget.take(1)


def test_a_window_may_be_filled_up_to_8_mib_and_no_further() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Content(b""))
    gateway.send(Window(id=call_id, channel=STDOUT, bytes=MAX_WINDOW - INITIAL_WINDOW))
    said(gateway, node)
    gateway.send(Window(id=call_id, channel=STDOUT, bytes=1))
    with pytest.raises(ProtocolViolation):
        said(gateway, node)


def test_a_window_without_a_call_or_a_channel_is_ignored() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Content(b""))
    windows = [
        Window(id=new_call_id(), channel=STDOUT, bytes=2 * MAX_WINDOW),
        Window(id=call_id, channel=STDIN, bytes=2 * MAX_WINDOW),
    ]
    for window in windows:
        gateway.send(window)
    assert said(gateway, node) == windows


def test_a_window_for_what_is_no_call_id_is_refused() -> None:
    gateway, node = streams()
    gateway.send(Window(id="call-1", bytes=1))
    with pytest.raises(ProtocolViolation):
        said(gateway, node)


# Ends


def test_a_call_that_is_closed_sends_nothing_more() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Endless())
    said(node, gateway)
    gateway.took(call_id, STDOUT, INITIAL_WINDOW)
    said(gateway, node)
    node.close(call_id)
    assert node.next_frame() is None


def test_data_and_windows_of_a_call_that_has_ended_are_no_violation() -> None:
    gateway, node = streams()
    call_id = output_call(gateway, node, Content(b"late"))
    gateway.close(call_id)
    events = said(node, gateway)
    assert [event.payload for event in events if isinstance(event, Data)] == [b"late", b""]
    assert {gateway.call_of(event) for event in events if isinstance(event, Data)} == {None}
    node.close(call_id)
    gateway.send(Window(id=call_id, channel=STDOUT, bytes=5))
    assert said(gateway, node) == [Window(id=call_id, channel=STDOUT, bytes=5)]


def test_a_session_that_has_died_says_nothing_more() -> None:
    gateway, node = streams()
    output_call(gateway, node, Endless())
    node.send(Ping())
    node.close_all()
    assert node.next_frame() is None
    assert node.idle


def test_data_names_the_call_that_it_belongs_to() -> None:
    gateway, node = streams()
    calls = [output_call(gateway, node, Content(b"x")) for _ in range(3)]
    assert [gateway.call_of(event) for event in said(node, gateway)[:3] if isinstance(event, Data)] == calls


# What a peer may not do


class Rogue:
    """A node that keeps to the records and to nothing else."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gateway, _ = streams(clock=self.clock)
        _, self.codec = record_codecs()
        self.call_id = new_call_id()
        self.gateway.open(self.call_id, sends={STDIN: Content(b"")}, receives=(STDOUT, STDERR))

    def send(self, channel: int, size: int) -> None:
        self.gateway.receive(self.codec.encode_data(call_key(self.call_id), channel, bytes(size)))


def test_a_window_may_be_used_to_its_last_byte() -> None:
    rogue = Rogue()
    for size in (MAX_DATA, MAX_DATA, 4 * 1024, 0):
        rogue.send(STDOUT, size)


def test_a_byte_beyond_the_window_is_a_violation() -> None:
    rogue = Rogue()
    for size in (MAX_DATA, MAX_DATA, 4 * 1024):
        rogue.send(STDOUT, size)
    with pytest.raises(ProtocolViolation) as violation:
        rogue.send(STDOUT, 1)
    assert violation.value.close_code == 4003


@pytest.mark.parametrize(
    "clock_stands_still", [True, False], ids=["a window made wider", "one that was not"]
)
def test_a_byte_beyond_what_was_granted_is_a_violation_too(clock_stands_still: bool) -> None:
    rogue = Rogue()
    for size in (MAX_DATA, MAX_DATA, 4 * 1024):
        rogue.send(STDOUT, size)
    rogue.clock.now += 0 if clock_stands_still else 10
    rogue.gateway.took(rogue.call_id, STDOUT, INITIAL_WINDOW)
    frame = rogue.gateway.next_frame()
    assert frame is not None
    window = rogue.codec.decode(frame)
    assert isinstance(window, Window)
    assert window.bytes == INITIAL_WINDOW * (2 if clock_stands_still else 1)
    for _ in range(window.bytes // 1024):
        rogue.send(STDOUT, 1024)
    with pytest.raises(ProtocolViolation):
        rogue.send(STDOUT, 1)


@pytest.mark.parametrize("channel", [STDIN, 3, 255])
def test_data_on_a_channel_that_is_not_open_is_a_violation(channel: int) -> None:
    with pytest.raises(ProtocolViolation):
        Rogue().send(channel, 1)


@pytest.mark.parametrize("size", [0, 1], ids=["a second end", "a byte"])
def test_nothing_may_follow_the_end_of_a_channel_such_as(size: int) -> None:
    rogue = Rogue()
    rogue.send(STDOUT, 0)
    rogue.send(STDERR, 1)
    with pytest.raises(ProtocolViolation):
        rogue.send(STDOUT, size)


def _damaged(frame: Frame) -> Frame:
    return Frame(frame.data[:-1] + bytes([frame.data[-1] ^ 1]), binary=True)


TAMPERED: dict[str, Callable[[list[Frame], Frame], list[Frame]]] = {
    "damaged": lambda sent, _: [sent[0], _damaged(sent[1])],
    "dropped": lambda sent, _: [sent[0], sent[2]],
    "repeated": lambda sent, _: [sent[0], sent[0]],
    "reordered": lambda sent, _: [sent[1], sent[0]],
    "reflected": lambda _, own: [own],
    "made text": lambda sent, _: [sent[0]._replace(binary=False)],
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_the_session_ends_on_a_record_that_was(tamper: Callable[[list[Frame], Frame], list[Frame]]) -> None:
    gateway, node = streams()
    output_call(gateway, node, Content(b"content"))
    node.send(Ping())
    gateway.send(Ping())
    (own,) = frames(gateway)
    with pytest.raises(ProtocolViolation) as violation:
        [gateway.receive(frame) for frame in tamper(list(frames(node)), own)]
    assert violation.value.close_code == 4003
