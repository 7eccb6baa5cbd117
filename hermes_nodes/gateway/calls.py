"""One call: authorise, limit, dispatch, follow, and write its one audit row. There is no other way."""

import asyncio
import time
from contextlib import suppress
from typing import Protocol

from hermes_nodes.acts import Act, act
from hermes_nodes.audit import Entry
from hermes_nodes.calls import Answer, Call
from hermes_nodes.config import Settings
from hermes_nodes.errors import (
    CallCancelled,
    CallFailed,
    CallTimeout,
    HermesNodesError,
    NodeDisconnected,
    NodeNotConnected,
    NotAllowed,
    UnknownNode,
)
from hermes_nodes.gateway.needs import needs
from hermes_nodes.gateway.operators import Actor, Operators
from hermes_nodes.gateway.outcomes import Outcome, failure_of, outcome_of
from hermes_nodes.gateway.pairings import Pairings
from hermes_nodes.gateway.recording import Recording
from hermes_nodes.protocol.messages import (
    STREAM,
    Request,
)
from hermes_nodes.protocol.stream import Source
from hermes_nodes.records import Pairing
from hermes_nodes.registry import NodeRegistry
from hermes_nodes.sessions import END_GRACE, Session

#: Seconds that a caller gets to take the output of a call whose node is lost. Somebody who reads gets
#: all of it in that time; somebody who does not must hold up neither the row nor the gateway's stop.
LAST_OUTPUT_SECONDS = 1.0

#: Seconds that a call may wait for others before its caller is told.
WAIT_NOTE_SECONDS = 1.0
_ENDED = "what had begun is being ended on the node, but may have taken effect"
#: How the trail names an outcome for which it has no word of its own.
_TRAIL_STATUS = {
    "started": "ok",
    "unknown_node": "error",
    "unsupported": "error",
    "failed": "error",
    "busy": "rate_limited",
}


class Caller(Protocol):
    """Whom a call's output goes to."""

    async def output(self, channel: int, payload: memoryview) -> None:
        """Pass on a piece, empty at the end of its channel; ConnectionError if nobody is there."""

    async def note(self, text: str) -> None:
        """Tell what is worth knowing meanwhile; ConnectionError if nobody is there."""


class RunningCall:
    """A call under way, which goes on to its end whoever stops waiting for it."""

    def __init__(self, actor: Actor, node: str, request: Request, caller: Caller) -> None:
        self.actor = actor
        self.node = node
        self.request = request
        self.caller = caller
        self.bytes_in = 0
        self.bytes_out = 0
        self.source: Source | None = None
        self.call: Call | None = None
        #: Its place in the journal.
        self.entry: Entry | None = None
        #: What its row says of it.
        self.act: Act | None = None
        self.cancelled = False
        #: Why the caller may not go on with it.
        self.forbidden: HermesNodesError | None = None
        #: Output came that the caller did not get.
        self.dropped = False
        self.task: asyncio.Task[Outcome] | None = None
        #: The size of a terminal that became known before the call had begun.
        self._size: tuple[int, int] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._output_until: float | None = None
        self._patience: asyncio.Timeout | None = None

    def begin(self, call: Call) -> None:
        """The call is on its way to the node."""
        self.call = call
        call.on_failed = self._node_lost
        if self._size is not None:
            call.resize(*self._size)
        if call.answer_within is not None:
            self._expect_answer_within(call.answer_within)

    async def tell(self, call: Call) -> None:
        """Tell the caller what its session has to say, and that its call waits, if it does."""
        with suppress(ConnectionError):  # which cancels the call by itself
            if call.note:
                await self.caller.note(call.note)
            if call.is_sent:
                return
            try:
                async with asyncio.timeout(WAIT_NOTE_SECONDS):
                    await call.has_left()
            except TimeoutError:
                await self.caller.note(f"node {self.node!r} does one call at a time: waiting for others")

    def end(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def release(self) -> None:
        """It is over: let go of what may hold megabytes, rather than wait for the garbage collector."""
        self.source = None
        if self.call is not None:
            self.call.on_failed = None

    def cancel(self, *, has_vanished: bool = False) -> None:
        """End the call on its node; the outcome still comes, and what was printed until then.

        A caller that has vanished may come back and go on with its file.
        """
        if self.cancelled:
            return
        self.cancelled = True
        self._wait_for_caller(LAST_OUTPUT_SECONDS)
        if self.call is not None:
            self.call.cancel(keep=has_vanished)
            self._expect_answer_within(END_GRACE)

    def forbid(self, error: HermesNodesError) -> None:
        """The caller may not do this any more: end the call on its node, and wait for nothing."""
        if self.forbidden is not None:
            return
        self.forbidden = error
        self.cancel()
        if self.call is not None and not self.call.finished:
            self.call.finish(error)
            self.call.abandon()

    def resize(self, cols: int, rows: int) -> None:
        self._size = (cols, rows)
        if self.call is not None:
            self.call.resize(cols, rows)

    def input_ready(self) -> None:
        if self.call is not None and self.source is not None:
            self.call.input_ready()

    async def pass_on(self, channel: int, payload: memoryview) -> None:
        """Give the caller a piece of output, for as long as the caller is to be waited for."""
        self.bytes_out += len(payload)
        if self.dropped:
            return
        try:
            async with asyncio.timeout_at(self._output_until) as self._patience:
                await self.caller.output(channel, payload)
        except (ConnectionError, TimeoutError):
            self.dropped = True
            self.cancel()

    def _node_lost(self) -> None:
        self._wait_for_caller(LAST_OUTPUT_SECONDS)

    def _wait_for_caller(self, seconds: float) -> None:
        self._output_until = asyncio.get_running_loop().time() + seconds
        if self._patience is not None and not self._patience.expired():
            with suppress(RuntimeError):  # that piece has been taken
                self._patience.reschedule(self._output_until)

    def _expect_answer_within(self, seconds: float) -> None:
        self.end()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        """The node did not end the call in time: nothing more will be said of it."""
        if self.call is None or self.call.finished:
            return
        hint = "the node did not confirm that it has ended: look there before you repeat it"
        if self.cancelled:
            self.call.finish(CallCancelled("the call was cancelled", hint))
        else:
            self.call.finish(CallTimeout("the call's time-out has passed", hint))
        self.call.abandon()

    async def outcome(self) -> Outcome:
        """Wait for the end; whoever is cancelled while waiting has hung up, which ends the call."""
        assert self.task is not None  # noqa: S101 - set by Calls.begin before anyone has this object
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            self.cancel(has_vanished=True)
            raise


class Calls:
    """The gateway's calls, all of them."""

    def __init__(
        self,
        settings: Settings,
        registry: NodeRegistry,
        pairings: Pairings,
        operators: Operators,
        recording: Recording,
    ) -> None:
        #: Replaced when the settings are read again.
        self.settings = settings
        self._registry = registry
        self._pairings = pairings
        self._operators = operators
        self._recording = recording
        self._running: set[RunningCall] = set()

    def __len__(self) -> int:
        return len(self._running)

    def begin(
        self, actor: Actor, node: str, request: Request, caller: Caller, source: Source | None = None
    ) -> RunningCall:
        """Start a call; ``source`` is what its channel 0 carries."""
        running = RunningCall(actor, node, request, caller)
        running.source = None if source is None else _CountingSource(source, running)
        self._running.add(running)
        running.task = asyncio.create_task(self._perform(running))
        running.task.add_done_callback(lambda _: self._running.discard(running))
        return running

    async def end_all(self) -> None:
        """Cancel what runs and wait until each has its row."""
        for running in list(self._running):
            running.cancel()
        tasks = [running.task for running in self._running if running.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _perform(self, running: RunningCall) -> Outcome:
        started = time.monotonic()
        # What stands in the trail if something of ours fails in a way that nobody thought of.
        outcome = failure_of(running, CallFailed("the gateway failed during the call"), 0)
        try:
            answer = await self._follow(running)
            outcome = outcome_of(running, answer, _since(started))
        except HermesNodesError as error:
            outcome = failure_of(running, error, _since(started))
        finally:
            await self._write_row(running, outcome)
            running.release()
        return outcome

    async def _dispatch(self, running: RunningCall) -> Call:
        """Send the call to its node; nothing has run there if this raises."""
        session = self._session(running)
        self._registry.admit_call(session, time.monotonic())
        running.entry = await self._recording.begin(**self._known(running, session))
        if self._session(running) is not session:
            raise NodeDisconnected(running.node, sent=False)
        return session.start(running.request, running.source)

    def _session(self, running: RunningCall) -> Session:
        """Where the call goes; raises what keeps it from going there."""
        if running.cancelled:
            raise running.forbidden or CallCancelled("the call was cancelled before it began")
        pairing = self._authorise(running)
        session = self._registry.get(running.node)
        if session is None:
            is_older = bool(pairing.last_seen_at) and STREAM not in pairing.capabilities
            raise NodeNotConnected(running.node, pairing.last_seen_at, is_older=is_older)
        return session

    def _authorise(self, running: RunningCall) -> Pairing:
        """The pairing that a call is for; raises UnknownNode, NotAllowed."""
        pairing = self._pairings.get(running.node)
        return self._operators.check_node(running.actor, needs(running.request), running.node, pairing)

    def recheck(self) -> None:
        """Somebody may do less than before: end what is not allowed any more."""
        for running in list(self._running):
            try:
                self._authorise(running)
            except UnknownNode:
                # Not what it is before a call, where it means that nothing has run.
                running.forbid(
                    NotAllowed(f"{running.actor.name!r} may not go on with {running.node!r}", _ENDED)
                )
            except HermesNodesError as error:
                error.hint = error.hint or _ENDED
                running.forbid(error)

    async def _follow(self, running: RunningCall) -> Answer:
        """Pass output on until the answer is there; raises what ended the call without one."""
        call = await self._dispatch(running)
        running.begin(call)
        try:
            await running.tell(call)
            while (piece := await call.next_output()) is not None:
                channel, payload = piece
                await running.pass_on(channel, payload)
                call.took(channel, len(payload))
        finally:
            running.end()
        return call.result()

    async def _write_row(self, running: RunningCall, outcome: Outcome) -> None:
        await self._recording.end(
            running.entry,
            **self._known(running, running.call.session if running.call else None),
            status=_TRAIL_STATUS.get(outcome.status, outcome.status),
            exit_code=outcome.exit_code,
            duration_ms=outcome.duration_ms,
            error=outcome.error["code"] if outcome.error else None,
            bytes_in=running.bytes_in,
            bytes_out=running.bytes_out,
        )

    def _known(self, running: RunningCall, session: Session | None) -> dict[str, object]:
        """What a row says of a call before that has ended."""
        pairing = self._pairings.get(running.node)
        done = running.act = running.act or act(running.request, self.settings.audit_commands)
        return {
            "action": done.action,
            "node": running.node,
            "pairing_id": session.pairing_id if session else (pairing.id if pairing else None),
            "request_id": running.request.id,
            "session_id": session.id if session else None,
            "actor": running.actor.name,
            "remote_addr": running.actor.remote_addr,
            "command": done.command,
            "path": done.path,
        }


class _CountingSource:
    """A source whose bytes are counted for the trail."""

    def __init__(self, source: Source, running: RunningCall) -> None:
        self._source = source
        self._running = running

    def pull(self, limit: int) -> bytes | memoryview | None:
        piece = self._source.pull(limit)
        self._running.bytes_in += len(piece or b"")
        return piece


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
