"""A call on its way through a session: output as it comes, then the final answer."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hermes_nodes.errors import HermesNodesError
from hermes_nodes.protocol.messages import Error, Request, Result

if TYPE_CHECKING:
    from hermes_nodes.sessions import Session

Answer = Result | Error
#: Pieces of output below this many bytes are joined while they wait for their caller.
SMALL_PIECE = 4096


class Call:
    """One call on its way: output as it comes, then the final answer."""

    def __init__(self, session: "Session", request: Request) -> None:
        self.request = request
        self.session = session
        self.cancelled = False
        #: Whether it has gone out to the node, which an older one may let it wait for.
        self.is_sent = False
        #: Seconds from then until the node counts as stuck; None: as long as it shows life.
        self.answer_within: float | None = None
        #: What the caller should be told while it waits.
        self.note = ""
        #: Called when it is known that no answer of the node will come.
        self.on_failed: Callable[[], None] | None = None
        self.abandoned = False
        self._output: deque[tuple[int, memoryview]] = deque()
        self._answer: Answer | HermesNodesError | None = None
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        return self.request.id

    def feed(self, channel: int, payload: memoryview) -> None:
        """Output from the node; empty at the end of its channel."""
        if self.abandoned:
            self.took(channel, len(payload))
            return
        self._output.append((channel, self._joined(channel, payload)))
        self._news.set()

    def _joined(self, channel: int, payload: memoryview) -> memoryview:
        """A small piece together with the small one before it, which is taken back.

        A window counts bytes, and a record of one byte costs us a hundred.
        """
        if not self._output or not 0 < len(payload) < SMALL_PIECE:
            return payload
        last_channel, last = self._output[-1]
        if last_channel != channel or not 0 < len(last) < SMALL_PIECE:
            return payload
        self._output.pop()
        return memoryview(bytes(last) + bytes(payload))

    def sent(self) -> None:
        self.is_sent = True
        self._news.set()

    async def has_left(self) -> None:
        """Wait until the call has gone out, or has ended without."""
        while not (self.is_sent or self.finished):
            self._news.clear()
            await self._news.wait()

    def finish(self, answer: Answer | HermesNodesError) -> None:
        """The final answer, or the reason why there is none."""
        if self._answer is None:
            self._answer = answer
            self._news.set()
            if isinstance(answer, HermesNodesError) and self.on_failed is not None:
                self.on_failed()

    @property
    def finished(self) -> bool:
        return self._answer is not None

    async def next_output(self) -> tuple[int, memoryview] | None:
        """The next piece of output; None when all has come and the answer is there."""
        while not self._output:
            if self._answer is not None:
                return None
            self._news.clear()
            await self._news.wait()
        return self._output.popleft()

    def took(self, channel: int, size: int) -> None:
        """The caller has passed on ``size`` bytes of a channel."""
        self.session.took(self, channel, size)

    def input_ready(self) -> None:
        """The caller's input has something to pull."""
        self.session.input_ready(self)

    def resize(self, cols: int, rows: int) -> None:
        """The caller's terminal has a new size."""
        if not self.finished:
            self.session.resize(self, cols, rows)

    def cancel(self, *, keep: bool = False) -> None:
        """Ask the node to end this call, whose answer still comes; ``keep`` what it has of a file."""
        if not self.cancelled and not self.finished:
            self.cancelled = True
            self.session.cancel(self, keep=keep)

    def abandon(self) -> None:
        """Nobody waits any more: what still comes is dropped, and credited so that the node can end."""
        self.abandoned = True
        while self._output:
            channel, payload = self._output.popleft()
            self.took(channel, len(payload))

    def result(self) -> Answer:
        """The final answer; raises what ended the call without one."""
        if self._answer is None:
            raise asyncio.InvalidStateError("the call is still running")
        if isinstance(self._answer, HermesNodesError):
            raise self._answer
        return self._answer
