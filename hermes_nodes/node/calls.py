"""A call on this node, and what every kind of call shares: its input, its counts, its way out."""

import asyncio
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

from hermes_nodes.errors import CallCancelled, HermesNodesError
from hermes_nodes.node.allowlist import Allowlist
from hermes_nodes.node.config import NodeConfig
from hermes_nodes.node.ends import first_end
from hermes_nodes.node.lasting import Lasting
from hermes_nodes.protocol.messages import (
    CallStatus,
    ExecResult,
    Message,
    Request,
    Result,
    answer_kind,
)
from hermes_nodes.protocol.stream import Source, queue

_T = TypeVar("_T")


class CallStream(Protocol):
    """What a call needs of its session's stream."""

    def open(self, call_id: str, *, sends: dict[int, Source], receives: tuple[int, ...]) -> None: ...
    def send_from(self, call_id: str, channel: int, source: Source) -> None: ...
    def close(self, call_id: str) -> None: ...
    def send(self, message: Message) -> None: ...
    def wake(self, call_id: str, channel: int) -> None: ...
    def took(self, call_id: str, channel: int, size: int) -> None: ...


class Place(NamedTuple):
    """Where calls run: the node's settings, what they may touch, where output goes, what stays."""

    config: NodeConfig
    allowlist: Allowlist
    stream: CallStream
    lasting: Lasting


class NodeCall:
    """From a request to its answer."""

    def __init__(self, request: Request) -> None:
        self.id = request.id
        self.request = request
        self.cancelled = asyncio.Event()
        #: The session is over: nobody takes output any more.
        self.abandoned = False
        #: A connection broke, and it was nobody's will: what has come of a file is kept.
        self.keeps = False
        self.bytes_in = 0
        self.bytes_out = 0
        self._input: deque[memoryview] = deque()
        self._input_changed = asyncio.Event()

    def feed(self, payload: memoryview) -> None:
        """Bytes of channel 0; empty at its end."""
        self.bytes_in += len(payload)
        queue(self._input, payload)
        self._input_changed.set()

    async def next_input(self) -> memoryview:
        while not self._input:
            self._input_changed.clear()
            await self._input_changed.wait()
        return self._input.popleft()

    def counted(self, source: Source) -> Source:
        """The same source, with its bytes counted for the trail."""
        return _Counted(source, self)


class _Counted:
    def __init__(self, source: Source, call: NodeCall) -> None:
        self._source = source
        self._call = call

    def pull(self, limit: int) -> bytes | memoryview | None:
        piece = self._source.pull(limit)
        self._call.bytes_out += len(piece or b"")
        return piece


async def until_cancelled(call: NodeCall, work: Coroutine[Any, Any, _T]) -> _T:
    """The work's result; raises CallCancelled once it has stopped and let go of what it held."""
    task = asyncio.create_task(work)
    if await first_end(task, call.cancelled) is None:
        return task.result()
    task.cancel()
    with suppress(asyncio.CancelledError, HermesNodesError):
        await task
    raise CallCancelled("the call was cancelled")


def answer(
    request: Request, status: CallStatus, *, error: str | None = None, detail: str | None = None
) -> Result:
    """The answer to a call of which nothing else is to be said."""
    kind = answer_kind(request)
    if issubclass(kind, ExecResult):
        return kind(id=request.id, status=status, exit_code=-1, error=error, error_detail=detail)
    return kind(id=request.id, status=status, error=error, error_detail=detail)


def failure(request: Request, error: str, detail: str) -> Result:
    """The answer to a call that could not be carried out, with a name of PROTOCOL.md section 4."""
    return answer(request, "error", error=error, detail=detail)
