"""Calls in whatever order things may happen: nothing is lost, doubled, or sent beyond its credit."""

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hermes_nodes.protocol.codec import MAX_DATA, Data, Frame
from hermes_nodes.protocol.messages import Exec, ExecResult, Message, Unknown, Window, new_call_id
from hermes_nodes.protocol.stream import INITIAL_WINDOW, MAX_WINDOW, STDERR, STDIN, STDOUT, Budget, Stream
from tests.protocol.ends import Clock, Content, streams

NOISE = random.Random(0).randbytes(4 * 1024 * 1024)


class Ledger(Content):
    """A source that holds its end to the credit that it was granted."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content, ready=0)
        self.credit = INITIAL_WINDOW

    def pull(self, limit: int) -> bytes | None:
        assert not self.ended, "asked after its end"
        assert 0 < limit <= min(self.credit, MAX_DATA), "asked for more than there is credit for"
        piece = super().pull(limit)
        self.credit -= len(piece or b"")
        return piece

    def reveal(self, size: int) -> bool:
        before = self.ready
        self.ready = min(self.ready + size, len(self.content))
        return self.ready > before


class Side:
    """One end: its stream, what it has put on the line, and what came to its consumers."""

    def __init__(self, stream: Stream[Any], budget: int) -> None:
        self.stream = stream
        self.budget = budget
        self.line: deque[Frame] = deque()
        self.sources: dict[tuple[str, int], Ledger] = {}
        self.arrived: dict[tuple[str, int], bytearray] = {}
        self.untaken: dict[tuple[str, int], int] = {}
        self.ended: set[tuple[str, int]] = set()

    def open(self, call_id: str, *, sends: dict[int, Ledger], receives: tuple[int, ...]) -> None:
        self.stream.open(call_id, sends=dict(sends), receives=receives)
        for channel, source in sends.items():
            self.sources[call_id, channel] = source
            self.stream.wake(call_id, channel)
        for channel in receives:
            self.arrived[call_id, channel] = bytearray()
            self.untaken[call_id, channel] = 0

    def put(self) -> bool:
        """Put one frame on the line, if there is one."""
        frame = self.stream.next_frame()
        if frame is not None:
            self.line.append(frame)
        return frame is not None

    def reveal(self, pick: int, size: int) -> bool:
        """Let one source have more."""
        if not self.sources:
            return False
        (call_id, channel), source = list(self.sources.items())[pick % len(self.sources)]
        more = source.reveal(size)
        if more:
            self.stream.wake(call_id, channel)
        return more

    def take(self, pick: int, size: int) -> bool:
        """Let one consumer take some of what has come to it."""
        waiting = [key for key, untaken in self.untaken.items() if untaken]
        if not waiting:
            return False
        key = waiting[pick % len(waiting)]
        size = min(size, self.untaken[key])
        self.untaken[key] -= size
        self.stream.took(*key, size)
        return True

    def receive(self, frame: Frame) -> Message | Unknown | Data:
        event = self.stream.receive(frame)
        if isinstance(event, Window) and (event.id, event.channel) in self.sources:
            self.sources[event.id, event.channel].credit += event.bytes
            assert self.sources[event.id, event.channel].credit <= MAX_WINDOW
        if isinstance(event, Data):
            self._arrive(event)
        return event

    def _arrive(self, data: Data) -> None:
        call_id = self.stream.call_of(data)
        assert call_id is not None
        key = call_id, data.channel
        assert key not in self.ended, "something after the end"
        self.arrived[key] += data.payload
        self.untaken[key] += len(data.payload)
        if not data.payload:
            self.ended.add(key)
        assert self.untaken[key] <= MAX_WINDOW
        assert sum(self.untaken.values()) <= len(self.untaken) * INITIAL_WINDOW + self.budget


class Course:
    """Calls between two ends over a line that keeps the order of each direction and nothing else."""

    def __init__(self, budget: int, plans: list[tuple[bytes | None, bytes, bytes]]) -> None:
        self.clock = Clock()
        self.budgets = Budget(budget), Budget(budget)
        gateway, node = streams(budget=self.budgets[0], node_budget=self.budgets[1], clock=self.clock)
        self.gateway, self.node = Side(gateway, budget), Side(node, budget)
        self.plans = {new_call_id(): plan for plan in plans}
        self.unstarted = deque(self.plans)
        self.running: set[str] = set()
        self.answered: list[str] = []

    def start(self) -> bool:
        if not self.unstarted:
            return False
        call_id = self.unstarted.popleft()
        content = self.plans[call_id][0]
        sends = {} if content is None else {STDIN: Ledger(content)}
        self.gateway.open(call_id, sends=sends, receives=(STDOUT, STDERR))
        self.gateway.stream.send(Exec(id=call_id, stdin=bool(sends)))
        return True

    def to_node(self) -> bool:
        if not self.gateway.line:
            return False
        event = self.node.receive(self.gateway.line.popleft())
        if isinstance(event, Exec):
            _, out, err = self.plans[event.id]
            receives = (STDIN,) if event.stdin else ()
            self.node.open(event.id, sends={STDOUT: Ledger(out), STDERR: Ledger(err)}, receives=receives)
            self.running.add(event.id)
        return True

    def to_gateway(self) -> bool:
        if not self.node.line:
            return False
        event = self.gateway.receive(self.node.line.popleft())
        if isinstance(event, ExecResult):
            assert {(event.id, STDOUT), (event.id, STDERR)} <= self.gateway.ended
            self.gateway.stream.close(event.id)
            self.answered.append(event.id)
        return True

    def answer(self) -> bool:
        """Let the node answer a call of which all has been sent and taken."""
        node = self.node
        for call_id in self.running:
            sent = all(node.sources[call_id, channel].ended for channel in (STDOUT, STDERR))
            stdin = call_id, STDIN
            if sent and (stdin not in node.arrived or (stdin in node.ended and not node.untaken[stdin])):
                node.stream.send(ExecResult(status="ok", id=call_id))
                node.stream.close(call_id)
                self.running.remove(call_id)
                return True
        return False

    def step(self, kind: int, pick: int, size: int) -> bool:
        """One thing that may happen; whether it did."""
        self.clock.now += 0.0002
        side = (self.gateway, self.node)[pick % 2]
        happenings: list[Callable[[], bool]] = [
            self.start,
            side.put,
            self.to_node,
            self.to_gateway,
            lambda: side.take(pick // 2, size),
            lambda: side.reveal(pick // 2, size),
            self.answer,
        ]
        return happenings[kind]()

    def finish(self) -> None:
        """Let everything happen that still can."""
        while sum(self.step(kind, pick, MAX_WINDOW) for kind in range(7) for pick in range(24)):
            pass

    def check(self) -> None:
        """Everything came, once and in order, and everything was given back."""
        assert sorted(self.answered) == sorted(self.plans)
        for call_id, (content, out, err) in self.plans.items():
            assert self.gateway.arrived[call_id, STDOUT] == out
            assert self.gateway.arrived[call_id, STDERR] == err
            assert content is None or self.node.arrived[call_id, STDIN] == content
        for side, budget in zip((self.gateway, self.node), self.budgets, strict=True):
            assert side.ended == set(side.arrived)
            assert side.stream.idle
            assert budget.take(side.budget)
            assert not budget.take(1)


SIZES = [0, 1, 1000, MAX_DATA, INITIAL_WINDOW - 1, INITIAL_WINDOW, INITIAL_WINDOW + 1, 700_000, 2_000_000]
_contents = st.builds(
    lambda size, at: NOISE[at : at + size], st.sampled_from(SIZES), st.integers(0, 2_000_000)
)
_plans = st.lists(st.tuples(st.none() | _contents, _contents, _contents), min_size=1, max_size=4)
_steps = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 23), st.sampled_from(SIZES[1:])), max_size=120
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([0, INITIAL_WINDOW, 4 * INITIAL_WINDOW, 16 * 1024 * 1024]), _plans, _steps)
def test_whatever_happens_when_every_byte_arrives_once_in_order_and_no_credit_is_exceeded(
    budget: int, plans: list[tuple[bytes | None, bytes, bytes]], steps: list[tuple[int, int, int]]
) -> None:
    course = Course(budget, plans)
    for kind, pick, size in steps:
        course.step(kind, pick, size)
    course.finish()
    course.check()
