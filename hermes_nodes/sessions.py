"""A connected node's Session: its calls in flight, its rate limit, its liveness.

No sockets here: a Session is fed frames and gives frames; its Link writes them and closes.
"""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol, assert_never

from hermes_nodes.calls import Answer, Call
from hermes_nodes.errors import (
    Busy,
    NodeDisconnected,
    ProtocolViolation,
    Unsupported,
)
from hermes_nodes.protocol.codec import Data, Frame, PlainCodec, RecordCodec
from hermes_nodes.protocol.handshake import Accepted
from hermes_nodes.protocol.messages import (
    MAX_CALLS,
    Bye,
    Cancel,
    Close,
    Error,
    Exec,
    ExecChunk,
    FromNode,
    Hello,
    Message,
    Ping,
    Pong,
    RateLimit,
    Request,
    Resize,
    Result,
    Unknown,
    Window,
    Write,
    is_answer,
    needed_capabilities,
    timestamp,
)
from hermes_nodes.protocol.stream import STDERR, STDIN, STDOUT, Budget, Source, Stream
from hermes_nodes.text import printable

#: Characters of a node's own words that go on to the log and the trail.
MAX_REASON = 200


#: Seconds that a node gets to end a call and say so: it kills after 5 and answers then.
END_GRACE = 10.0

#: Messages that may wait for a node to read; it can ask for a hundred a second.
MAX_BACKLOG = 4096


class SlidingSecond:
    """At most ``limit`` events in any one second."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._times: deque[float] = deque()

    def admit(self, now: float) -> float:
        """0.0 and the event is counted; otherwise the seconds until one more would be admitted."""
        while self._times and now - self._times[0] >= 1.0:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return 1.0 - (now - self._times[0])
        self._times.append(now)
        return 0.0

    def empty(self, now: float) -> bool:
        return not self._times or now - self._times[-1] >= 1.0


class RateExceeded(ProtocolViolation):
    """A node sent more messages than it may."""

    def __init__(self) -> None:
        super().__init__("the node sends more messages than its limit", close_code=Close.LIMIT)


class Link(Protocol):
    """What a Session asks of its connection."""

    def wake(self) -> None:
        """There may be something to write."""

    def close(self, code: int, last: Callable[[], Frame] | None = None) -> None:
        """Send a last frame, close with that code, and cut a peer that does not answer."""


class Session(ABC):
    """One authenticated connection of a node."""

    def __init__(self, accepted: Accepted, *, pairing_id: str, remote_addr: str, limit: int) -> None:
        self.id = accepted.session_id
        self.name = accepted.name
        self.pairing_id = pairing_id
        self.remote_addr = remote_addr
        self.hello: Hello = accepted.hello
        self.encrypted = not isinstance(accepted.codec, PlainCodec)
        self.connected_at = timestamp()
        self.last_heard = time.monotonic()
        #: Why it ended, for the trail; the first reason stands.
        self.end_reason: str | None = None
        self.calls: dict[str, Call] = {}
        self._pinged = False
        self._messages = SlidingSecond(limit)
        self._link: Link | None = None

    @property
    def capabilities(self) -> list[str]:
        return self.hello.capabilities or []

    def attach(self, link: Link) -> None:
        """From now on frames can be written."""
        self._link = link
        link.wake()

    def wake(self) -> None:
        if self._link is not None:
            self._link.wake()

    def close(self, code: int, reason: str, *, last: Message | None = None) -> None:
        """End this session: its calls fail now, the connection closes without being waited for.

        ``reason`` is for the trail, ``last`` is what the node is still told.
        """
        self.end_reason = self.end_reason or reason
        self.fail_calls()
        if self._link is not None:
            self._link.close(code, None if last is None else lambda: self.seal(last))

    def fail_calls(self) -> None:
        for call in list(self.calls.values()):
            call.finish(NodeDisconnected(self.name))
        self.calls.clear()

    # -- calls --

    @abstractmethod
    def start(self, request: Request, source: Source | None) -> Call:
        """Send a call to the node; raises Busy, Unsupported. ``source`` is what channel 0 carries."""

    @abstractmethod
    def cancel(self, call: Call, *, keep: bool) -> None:
        """Ask the node to end a call; ``keep``: what it has of a file stays, for a later call to go on."""

    @abstractmethod
    def resize(self, call: Call, cols: int, rows: int) -> None:
        """The terminal of a call has a new size."""

    @abstractmethod
    def took(self, call: Call, channel: int, size: int) -> None: ...

    @abstractmethod
    def input_ready(self, call: Call) -> None: ...

    # -- frames --

    @abstractmethod
    def next_frame(self) -> Frame | None: ...

    @abstractmethod
    def send(self, message: Message) -> None: ...

    @abstractmethod
    def seal(self, message: Message) -> Frame:
        """A message as it travels, to be written at once: records count."""

    @abstractmethod
    def rest(self) -> None:
        """Give back what only a busy session needs."""

    @abstractmethod
    def receive(self, frame: Frame) -> None:
        """One frame from the node; raises ProtocolViolation, which ends the session."""

    def limit_messages(self, limit: int) -> None:
        """How many messages of no call the node may send in a second."""
        self._messages.limit = limit

    def rate_limit_notice(self) -> RateLimit:
        return RateLimit(
            reason="rate_limit_exceeded",
            code=Close.LIMIT,
            node_name=self.name,
            limit_per_second=self._messages.limit,
        )

    def heard(self) -> None:
        """The node has shown life."""
        self.last_heard = time.monotonic()
        self._pinged = False

    @property
    def last_seen_at(self) -> str:
        """When the node was last heard, RFC 3339."""
        ago = timedelta(seconds=time.monotonic() - self.last_heard)
        return timestamp(datetime.now(UTC) - ago)

    def _heard(self, call_id: str | None) -> None:
        """Any message is life; one that belongs to no known call counts towards the limit."""
        self.heard()
        if call_id not in self.calls and self._messages.admit(self.last_heard):
            raise RateExceeded

    def _dispatch(self, message: FromNode | Unknown) -> None:
        """What a node may say outside of data."""
        match message:
            case Ping():
                self.send(Pong(ts=timestamp(), id=message.id, echo_ts=message.ts))
            case Bye():
                said = printable(message.reason or "", MAX_REASON)
                self.close(Close.NORMAL, f"bye {said}".strip())
            case Result() | Error():
                self._answered(message)
            case ExecChunk():
                self._chunk(message)
            case Pong() | Window() | Unknown():
                pass
            case _:
                assert_never(message)

    def _answered(self, answer: Answer) -> None:
        call = self.calls.get(answer.id or "")
        if call is None:
            return
        if isinstance(answer, Result) and not is_answer(call.request, answer):
            raise ProtocolViolation("an answer that does not fit its call")
        del self.calls[call.id]
        self.forget(call)
        call.finish(answer)

    def _chunk(self, chunk: ExecChunk) -> None:  # noqa: ARG002 - where it was negotiated it is used
        raise ProtocolViolation("exec_chunk was not negotiated")

    @abstractmethod
    def forget(self, call: Call) -> None:
        """A call has ended: drop what the session held for it."""

    # -- liveness --

    def check_life(self, now: float, *, ping_after: float, dead_after: float) -> None:
        """Ping a silent node once; close one that stays silent."""
        silent = now - self.last_heard
        if silent >= dead_after:
            self.close(Close.NORMAL, "silent")
        elif silent >= ping_after and not self._pinged:
            self._pinged = True
            self.send(Ping(ts=timestamp()))
            self.rest()


def call_of(message: object) -> str | None:
    """The call that a message belongs to. A ping may carry an id as well, but belongs to none."""
    return message.id if isinstance(message, Result | Error | ExecChunk | Window) else None


class StreamSession(Session):
    """A session that speaks `stream/1`: calls side by side, each with its windows."""

    def __init__(
        self,
        accepted: Accepted,
        *,
        codec: RecordCodec[FromNode],
        pairing_id: str,
        remote_addr: str,
        limit: int,
        budget: Budget,
    ) -> None:
        super().__init__(accepted, pairing_id=pairing_id, remote_addr=remote_addr, limit=limit)
        self._codec = codec
        self._stream = Stream(codec, on_output=self.wake, budget=budget)

    def start(self, request: Request, source: Source | None) -> Call:
        for capability in needed_capabilities(request):
            if capability not in self.capabilities:
                raise Unsupported(self.name, f"`{capability}`")
        waited_for = sum(not call.abandoned for call in self.calls.values())
        if waited_for >= MAX_CALLS:
            raise Busy(self.name, waited_for)
        if len(self.calls) >= 2 * MAX_CALLS:
            # As many again were given up, and it still owes an answer to each.
            self.close(Close.PROTOCOL, "it answers no calls")
            raise NodeDisconnected(self.name)
        call = Call(self, request)
        if isinstance(request, Exec) and request.timeout_ms is not None:
            call.answer_within = request.timeout_ms / 1000 + END_GRACE
        call.sent()
        self.calls[call.id] = call
        sends = {STDIN: source} if source is not None else {}
        self._stream.open(call.id, sends=sends, receives=(STDOUT, STDERR))
        self._stream.send(request)
        if source is not None:  # input may have come before there was a call
            self._stream.wake(call.id, STDIN)
        return call

    def cancel(self, call: Call, *, keep: bool) -> None:
        self._stream.send(Cancel(id=call.id, keep=keep and isinstance(call.request, Write)))

    def resize(self, call: Call, cols: int, rows: int) -> None:
        self._stream.send(Resize(id=call.id, cols=cols, rows=rows))

    def took(self, call: Call, channel: int, size: int) -> None:
        self._stream.took(call.id, channel, size)

    def input_ready(self, call: Call) -> None:
        self._stream.wake(call.id, STDIN)

    def forget(self, call: Call) -> None:
        self._stream.close(call.id)

    def fail_calls(self) -> None:
        self._stream.close_all()
        super().fail_calls()

    def next_frame(self) -> Frame | None:
        return self._stream.next_frame()

    def send(self, message: Message) -> None:
        self._stream.send(message)

    def seal(self, message: Message) -> Frame:
        return self._codec.encode(message)

    def rest(self) -> None:
        self._stream.rest()

    def receive(self, frame: Frame) -> None:
        event = self._stream.receive(frame)
        if isinstance(event, Data):
            self._receive_data(event)
        else:
            self._heard(call_of(event))
            self._dispatch(event)
        if self._stream.backlog > MAX_BACKLOG:
            raise ProtocolViolation("the node does not read what it asks for")

    def _receive_data(self, data: Data) -> None:
        call_id = self._stream.call_of(data)
        self._heard(call_id)
        call = self.calls.get(call_id or "")
        if call is not None:
            call.feed(data.channel, data.payload)
