"""One end of a `stream/1` session as a pure machine: calls, channels, windows, and who sends next.

The owner feeds it frames and writes out what ``next_frame`` gives. Nothing here waits: a source that
has nothing to give says so and calls ``wake`` later, a consumer that has taken bytes says ``took``.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Generic, NamedTuple, Protocol, TypeVar

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.codec import MAX_DATA, Data, Frame, RecordCodec
from hermes_nodes.protocol.messages import Error, Message, Result, Unknown, Window

_Peer = TypeVar("_Peer")

STDIN, STDOUT, STDERR = 0, 1, 2
#: Bytes that may be sent on a channel before the receiver has said anything.
INITIAL_WINDOW = 256 * 1024
#: The most that a receiver lets be under way on one channel.
MAX_WINDOW = 8 * 1024 * 1024
#: A window that is taken whole within this many seconds holds its sender back: it is doubled. On a
#: line of 100 ms that lets a window grow until it covers what the line carries.
WIDEN_WITHIN = 0.25


#: Pieces below this many bytes are joined while they wait for their consumer.
SMALL_PIECE = 4096


def queue(waiting: deque[memoryview], payload: memoryview) -> None:
    """Add a piece behind those that wait; a small one is joined to the small one before it.

    A window counts bytes, and a piece of one byte costs two hundred. The empty piece of an end stays.
    """
    if waiting and 0 < len(payload) < SMALL_PIECE and 0 < len(waiting[-1]) < SMALL_PIECE:
        payload = memoryview(bytes(waiting.pop()) + bytes(payload))
    waiting.append(payload)


class Source(Protocol):
    """Where an outgoing channel's bytes come from."""

    def pull(self, limit: int, /) -> bytes | memoryview | None:
        """Up to ``limit`` bytes; empty at the end; None if there are none now."""
        ...


class Budget:
    """Bytes that all channels of a process together may let be under way beyond their first window."""

    def __init__(self, total: int) -> None:
        self._left = total

    def take(self, amount: int) -> bool:
        if amount > self._left:
            return False
        self._left -= amount
        return True

    def give(self, amount: int) -> None:
        self._left += amount


class _Outgoing:
    """A channel that this end sends on."""

    __slots__ = ("call", "channel", "credit", "ended", "queued", "source")

    def __init__(self, call: bytes, channel: int, source: Source) -> None:
        self.call = call
        self.channel = channel
        self.source = source
        self.credit = INITIAL_WINDOW
        self.queued = False
        self.ended = False


class _Incoming:
    """A channel that this end receives on: what was granted, what came, what the consumer took."""

    __slots__ = ("credit", "ended", "granted_at", "taken", "waiting", "window")

    def __init__(self, now: float) -> None:
        self.window = INITIAL_WINDOW
        self.credit = INITIAL_WINDOW
        self.waiting = 0
        self.taken = 0
        self.granted_at = now
        self.ended = False


class _Call(NamedTuple):
    id: str
    outgoing: dict[int, _Outgoing]
    incoming: dict[int, _Incoming]


def call_key(call_id: str) -> bytes:
    """The 16 bytes by which data records name a call; raises ProtocolViolation if it is no UUID."""
    try:
        return uuid.UUID(call_id).bytes
    except ValueError as error:
        raise ProtocolViolation("a call id is not a UUID") from error


class Stream(Generic[_Peer]):
    """``on_output`` is called whenever there may be something new for ``next_frame``."""

    def __init__(
        self,
        codec: RecordCodec[_Peer],
        *,
        on_output: Callable[[], None],
        budget: Budget,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._codec = codec
        self._on_output = on_output
        self._budget = budget
        self._clock = clock
        self._calls: dict[bytes, _Call] = {}
        self._control: deque[Message] = deque()
        self._ready: deque[_Outgoing] = deque()

    # -- calls --

    def open(self, call_id: str, *, sends: dict[int, Source], receives: tuple[int, ...]) -> None:
        """Make a call's channels known; ``sends`` are asked for bytes as credit allows."""
        key = call_key(call_id)
        now = self._clock()
        outgoing = {channel: _Outgoing(key, channel, source) for channel, source in sends.items()}
        incoming = {channel: _Incoming(now) for channel in receives}
        self._calls[key] = _Call(call_id, outgoing, incoming)

    def send_from(self, call_id: str, channel: int, source: Source) -> None:
        """Begin to send on one more channel of an open call."""
        call = self._calls.get(call_key(call_id))
        if call is not None:
            call.outgoing[channel] = outgoing = _Outgoing(call_key(call_id), channel, source)
            self._queue(outgoing)

    def close(self, call_id: str) -> None:
        """Forget a call: after its final answer, whichever end gave it."""
        call = self._calls.pop(call_key(call_id), None)
        if call is None:
            return
        for incoming in call.incoming.values():
            self._budget.give(incoming.window - INITIAL_WINDOW)
        for outgoing in call.outgoing.values():
            outgoing.ended = True

    def close_all(self) -> None:
        """The session has died: give back all that its calls held."""
        for call in list(self._calls.values()):
            self.close(call.id)
        self._control.clear()
        self._ready.clear()

    @property
    def backlog(self) -> int:
        """Messages that wait to be written."""
        return len(self._control)

    @property
    def idle(self) -> bool:
        return not self._calls

    def rest(self) -> None:
        self._codec.rest()

    # -- sending --

    def send(self, message: Message) -> None:
        """Queue a message; messages go before data."""
        self._control.append(message)
        self._on_output()

    def wake(self, call_id: str, channel: int) -> None:
        """Say that a channel's source has bytes again, or has come to its end."""
        call = self._calls.get(call_key(call_id))
        outgoing = call.outgoing.get(channel) if call else None
        if outgoing is not None:
            self._queue(outgoing)

    def _queue(self, outgoing: _Outgoing) -> None:
        if outgoing.queued or outgoing.ended or outgoing.credit == 0:
            return
        outgoing.queued = True
        self._ready.append(outgoing)
        self._on_output()

    def next_frame(self) -> Frame | None:
        """The next frame to write, sealed: messages first, then one record of each call in turn."""
        if self._control:
            return self._message_frame(self._control.popleft())
        while self._ready:
            outgoing = self._ready.popleft()
            outgoing.queued = False
            if outgoing.ended or outgoing.credit == 0:
                continue
            payload = outgoing.source.pull(min(outgoing.credit, MAX_DATA))
            if payload is not None:
                return self._data_frame(outgoing, payload)
        return None

    def _message_frame(self, message: Message) -> Frame:
        try:
            return self._codec.encode(message)
        except UnicodeEncodeError:
            # Text that came from the system, such as a name, may hold what UTF-8 can't. Its caller must not
            # wait for ever, and no more must all others.
            if not isinstance(message, Result):
                raise
            return self._codec.encode(
                Error(id=message.id, code=5000, reason="internal_error", detail="an answer is not UTF-8")
            )

    def _data_frame(self, outgoing: _Outgoing, payload: bytes | memoryview) -> Frame:
        outgoing.credit -= len(payload)
        outgoing.ended = len(payload) == 0
        self._queue(outgoing)
        return self._codec.encode_data(outgoing.call, outgoing.channel, payload)

    # -- receiving --

    def receive(self, frame: Frame) -> _Peer | Unknown | Data:
        """What a frame says. Windows have been applied already, and data checked against its own.

        Data of a call that has ended is passed on too, for the owner to count and drop. Raises
        ProtocolViolation.
        """
        event = self._codec.decode(frame)
        if isinstance(event, Window):
            self._credit(event)
        elif isinstance(event, Data):
            self._accept(event)
        return event

    def call_of(self, data: Data) -> str | None:
        """The id of the open call that a data record belongs to."""
        call = self._calls.get(data.call)
        return call.id if call else None

    def _credit(self, window: Window) -> None:
        call = self._calls.get(call_key(window.id))
        outgoing = call.outgoing.get(window.channel) if call else None
        if outgoing is None:
            return
        if outgoing.credit + window.bytes > MAX_WINDOW:
            raise ProtocolViolation("a window larger than the protocol has")
        outgoing.credit += window.bytes
        self._queue(outgoing)

    def _accept(self, data: Data) -> None:
        call = self._calls.get(data.call)
        if call is None:
            return
        incoming = call.incoming.get(data.channel)
        if incoming is None or incoming.ended:
            raise ProtocolViolation("data on a channel that is not open")
        size = len(data.payload)
        if size > incoming.credit:
            raise ProtocolViolation("more data than its window allows")
        incoming.credit -= size
        incoming.waiting += size
        incoming.ended = size == 0

    def took(self, call_id: str, channel: int, size: int) -> None:
        """Say that a consumer has taken ``size`` bytes, so that the sender may go on."""
        call = self._calls.get(call_key(call_id))
        incoming = call.incoming.get(channel) if call else None
        if incoming is None:
            return
        incoming.waiting -= size
        incoming.taken += size
        # A quarter of a window at a time: often enough that the sender never waits for the receiver,
        # seldom enough that grants cost nothing.
        if not incoming.ended and incoming.taken >= incoming.window // 4:
            self._grant(call_id, channel, incoming)

    def _grant(self, call_id: str, channel: int, incoming: _Incoming) -> None:
        now = self._clock()
        grant = incoming.taken + self._widening(incoming, now)
        incoming.taken = 0
        incoming.granted_at = now
        incoming.credit += grant
        self.send(Window(id=call_id, channel=channel, bytes=grant))

    def _widening(self, incoming: _Incoming, now: float) -> int:
        """Bytes to add to a window that its consumer empties as fast as it fills."""
        share = incoming.taken / incoming.window
        slow = now - incoming.granted_at > WIDEN_WITHIN * share
        more = min(incoming.window, MAX_WINDOW - incoming.window)
        # A window comes in bursts, so that some of it always waits for a consumer that keeps up.
        behind = incoming.waiting > incoming.window // 2
        if slow or behind or not more or not self._budget.take(more):
            return 0
        incoming.window += more
        return more
