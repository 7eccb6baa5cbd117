"""The session of a node without `stream/1`: one call at a time, in order; the others wait.

While such a node works on a call it reads nothing. So nothing is sent to it meanwhile, its silence is no
sign of death, and a call can't be ended there: a caller that leaves only stops waiting.
"""

import time
from collections import deque
from typing import assert_never

from hermes_nodes.calls import Answer, Call
from hermes_nodes.errors import (
    Busy,
    CallCancelled,
    CallTimeout,
    HermesNodesError,
    NodeDisconnected,
    ProtocolViolation,
)
from hermes_nodes.older.calls import OlderCall
from hermes_nodes.older.commands import GuardedExec, OlderExec
from hermes_nodes.older.files import OlderRead, OlderWrite
from hermes_nodes.older.limits import check_supported
from hermes_nodes.protocol.codec import EncCodec, Frame, PlainCodec
from hermes_nodes.protocol.guarded import ECHO_OFF
from hermes_nodes.protocol.handshake import Accepted
from hermes_nodes.protocol.messages import (
    Close,
    Exec,
    ExecChunk,
    ExecResult,
    FromNode,
    Message,
    Read,
    Request,
    Result,
    Write,
    is_answer,
)
from hermes_nodes.protocol.stream import Source
from hermes_nodes.sessions import MAX_BACKLOG, Session, call_of

#: Calls that may wait for the one that runs, and as many whose input has not all come yet.
MAX_WAITING = 64
#: Bytes of input that the calls to one node may hold here while they wait, and of output that is here
#: and not yet taken by its callers.
MAX_INPUT = 32 * 1024 * 1024
MAX_UNTAKEN = 64 * 1024 * 1024
#: Seconds after its time-out until a node that has not answered counts as stuck.
STUCK_AFTER = 5.0
#: Bytes of stderr that an older node reads over one connection; then it is mute for good. An idle one
#: reconnects when this much is used, a busy one between two calls a little later.
STDERR_IDLE = 8 * 1024 * 1024
STDERR_BUSY = 9 * 1024 * 1024
#: What a node's shell prints to stderr of itself for a call: prompts, and warnings of its own.
_PROMPT_BYTES = 256
_LOOK = "the call may have taken effect there; look before you repeat it"


class OlderSession(Session):
    """``guard`` puts commands into the guard script; ``chunks`` says that their output comes live."""

    def __init__(
        self,
        accepted: Accepted,
        *,
        codec: PlainCodec[FromNode] | EncCodec[FromNode],
        pairing_id: str,
        remote_addr: str,
        limit: int,
        guard: bool,
    ) -> None:
        super().__init__(accepted, pairing_id=pairing_id, remote_addr=remote_addr, limit=limit)
        self._codec = codec
        self._guard = guard
        self._chunks = accepted.chunks
        self._outbox: deque[Message] = deque()
        self._collecting: deque[OlderCall] = deque()
        self._waiting: deque[OlderCall] = deque()
        self._running: OlderCall | None = None
        self._deadline = 0.0
        self._untaken = 0
        self._echoes = True
        self._stderr_bytes = 0

    # -- calls --

    def start(self, request: Request, source: Source | None) -> Call:
        supported = check_supported(self.name, request, guard=self._guard)
        # Whoever is slow with its input must not keep out those that have none.
        queue = self._waiting if source is None else self._collecting
        if len(queue) >= MAX_WAITING:
            raise Busy(self.name, len(self.calls))
        if self._untaken > MAX_UNTAKEN:
            raise Busy.untaken(self.name)
        call = self._call(supported, source)
        self.calls[call.id] = call
        self._collecting.append(call)
        self._go_on()
        return call

    def _call(self, request: Exec | Read | Write, source: Source | None) -> OlderCall:
        match request:
            case Exec() if self._guard and request.session is None:
                return GuardedExec(self, request, source, live=self._chunks)
            case Exec():
                return OlderExec(self, request, source)
            case Write():
                return OlderWrite(self, request, source)
            case Read():
                return OlderRead(self, request, source)
            case _:
                assert_never(request)

    def cancel(self, call: Call, *, keep: bool) -> None:  # noqa: ARG002 - it can keep nothing
        if call is self._running:
            hint = "older node software can't be told to end it: look there before you repeat it"
            call.finish(CallCancelled("the call was cancelled here; on the node it may go on", hint))
        else:
            self._drop(call, CallCancelled("the call was cancelled while it waited; nothing has run"))

    def resize(self, call: Call, cols: int, rows: int) -> None:
        """No call of theirs has a terminal."""

    def took(self, call: Call, channel: int, size: int) -> None:  # noqa: ARG002 - the interface
        self._untaken -= size

    def gave(self, size: int) -> None:
        """So much output waits for its caller."""
        self._untaken += size

    def input_ready(self, call: Call) -> None:  # noqa: ARG002 - whose turn it is depends on them all
        self._go_on()

    def forget(self, call: Call) -> None:
        if call is self._running:
            self._running = None
        self._collecting = deque(one for one in self._collecting if one is not call)
        self._waiting = deque(one for one in self._waiting if one is not call)

    def fail_calls(self) -> None:
        for call in self.calls.values():
            if not call.is_sent:
                call.finish(NodeDisconnected(self.name, sent=False))
        super().fail_calls()
        self._collecting.clear()
        self._waiting.clear()
        self._running = None

    def _drop(self, call: Call, reason: HermesNodesError) -> None:
        """End a call that has not been sent."""
        self.calls.pop(call.id, None)
        self.forget(call)
        call.finish(reason)
        self._go_on()

    # -- one at a time --

    def _go_on(self) -> None:
        """Whatever can happen now: take input, send the next call, let go of a node near its end."""
        if self.end_reason is None:
            self._collect()
            if self._running is None and self._is_spent():
                self.close(Close.NORMAL, "it has used up its stderr, and may come back with a new one")
            elif self._running is None and self._waiting:
                self._send_next(self._waiting.popleft())

    def _collect(self) -> None:
        """Take the input of calls in their order, as far as there is room for it."""
        room = MAX_INPUT - sum(
            call.reserved for call in (*self._waiting, *self._collecting) if call.may_take
        )
        collecting, self._collecting = self._collecting, deque()
        for call in collecting:
            if not call.may_take and call.reserved <= room:
                call.may_take = True
                room -= call.reserved
            if not call.may_take or self._takes_more(call):
                self._collecting.append(call)
            elif call.finished:  # it was too much: the next may have its room
                room += call.reserved

    def _takes_more(self, call: OlderCall) -> bool:
        """Take the input that has come; whether there is more to wait for."""
        try:
            call.collect()
        except HermesNodesError as error:
            del self.calls[call.id]
            call.finish(error)
            return False
        if call.is_complete:
            self._waiting.append(call)
        return not call.is_complete

    def _send_next(self, call: OlderCall) -> None:
        self._running = call
        self._deadline = time.monotonic() + call.seconds + STUCK_AFTER
        message = call.message(ECHO_OFF if self._echoes else "")
        if isinstance(message, Exec):
            self._stderr_bytes += _PROMPT_BYTES + (len(message.command or "") if self._echoes else 0)
            self._echoes = self._echoes and not call.is_script
        call.sent()
        self.send(message)

    def _is_spent(self) -> bool:
        is_idle = not self._waiting and not self._collecting
        return self._stderr_bytes > (STDERR_IDLE if is_idle else STDERR_BUSY)

    # -- what the node says --

    def _answered(self, answer: Answer) -> None:
        call = self._running
        if call is None or answer.id != call.id:
            return
        if isinstance(answer, Result) and not is_answer(call.request, answer):
            raise ProtocolViolation("an answer that does not fit its call")
        call.conclude(answer)
        if isinstance(answer, ExecResult):
            self._stderr_bytes += len(answer.stderr.encode(errors="replace"))
        self._over(call)

    def _chunk(self, chunk: ExecChunk) -> None:
        if not self._chunks:
            super()._chunk(chunk)
        call = self._running
        if call is not None and chunk.id == call.id and call.take_chunk(chunk):
            self._over(call)

    def _over(self, call: OlderCall) -> None:
        del self.calls[call.id]
        self.forget(call)
        self._go_on()

    # -- liveness --

    def check_life(self, now: float, *, ping_after: float, dead_after: float) -> None:
        """As any session, but silence is no sign of anything while a call runs."""
        if self._running is None:
            super().check_life(now, ping_after=ping_after, dead_after=dead_after)
        elif now >= self._deadline:
            self._running.finish(CallTimeout(f"node {self.name!r} has not answered in time", _LOOK))
            self.close(Close.NORMAL, "it does not answer its call")

    # -- frames --

    def next_frame(self) -> Frame | None:
        return self._codec.encode(self._outbox.popleft()) if self._outbox else None

    def send(self, message: Message) -> None:
        self._outbox.append(message)
        self.wake()

    def seal(self, message: Message) -> Frame:
        return self._codec.encode(message)

    def rest(self) -> None:
        """Nothing is kept between messages."""

    def receive(self, frame: Frame) -> None:
        message = self._codec.decode(frame)
        self._heard(call_of(message))
        self._dispatch(message)
        if len(self._outbox) > MAX_BACKLOG:
            raise ProtocolViolation("the node does not read what it asks for")
