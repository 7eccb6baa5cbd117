"""`exec` on an older node: as its shell takes it, or inside the guard script, which makes it exact."""

import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from hermes_nodes.calls import Answer
from hermes_nodes.errors import CallFailed, PathNotAllowed, ProtocolViolation
from hermes_nodes.older.calls import OlderCall, decoded
from hermes_nodes.protocol import guarded
from hermes_nodes.protocol.messages import LIMIT_LEGACY, Exec, ExecChunk, ExecResult
from hermes_nodes.protocol.stream import STDERR, STDOUT, Source
from hermes_nodes.text import printable

if TYPE_CHECKING:
    from hermes_nodes.older.sessions import OlderSession

#: Milliseconds that a command gets where nobody says.
DEFAULT_TIMEOUT_MS = 60_000
#: The node's own time-out comes so much after the guard's, so that the guard's result still arrives.
_GUARD_MS = 5_000
#: Characters of a node's own words that an error repeats.
_MAX_REASON = 200


class OlderExec(OlderCall):
    """A command as the node's own shell takes it: with its defects, and with what it leaves there."""

    def __init__(self, session: "OlderSession", request: Exec, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._exec = request
        self.is_script = request.session is not None
        if request.session is not None:
            self.note = (
                f"all sessions on node {self._name!r} are its one shared shell, guarded from stdin alone: "
                "what a command changes there lasts for every later one"
            )
        self._marker = guarded.new_marker()
        self._denied = f"{self._marker}denied".encode()
        self._is_denied = False
        self._chunks = 0
        self._room = LIMIT_LEGACY

    @property
    def timeout_ms(self) -> int:
        return self._exec.timeout_ms or DEFAULT_TIMEOUT_MS

    @property
    def node_timeout_ms(self) -> int:
        """The time-out that the node itself is told."""
        return self.timeout_ms

    @property
    def seconds(self) -> float:
        return self.node_timeout_ms / 1000

    @property
    def command(self) -> str:
        return self._command(shlex.join)

    def _command(self, joined: Callable[[list[str]], str]) -> str:
        return joined(self._exec.argv) if self._exec.argv else self._exec.command or ""

    def message(self, prepare: str) -> Exec:
        """In a session a script that evaluates the command; otherwise the command as it is."""
        request = self._exec
        if request.session is None:
            return self._message(self.command, request.env)
        script = guarded.session_script(self._marker, self.command, cwd=request.cwd, env=request.env)
        return self._message(prepare + script, None)

    def take_chunk(self, chunk: ExecChunk) -> bool:
        self._chunks += 1
        if chunk.seq != self._chunks:
            raise ProtocolViolation(f"exec_chunk {chunk.seq} where {self._chunks} was due")
        printed = decoded(chunk.data)
        self._room -= len(printed)
        if self._room < 0:
            raise ProtocolViolation("more output than an older node gives")
        self._give(STDOUT, self._stdout(printed))
        if not chunk.more:
            self._end(_status(chunk.status), chunk.exit_code, b"", is_cut=chunk.truncated)
        return not chunk.more

    def _message(self, command: str, env: dict[str, str] | None) -> Exec:
        request = self._exec
        return Exec(
            id=request.id, command=command, cwd=request.cwd, env=env, timeout_ms=self.node_timeout_ms
        )

    def _conclude(self, answer: Answer) -> None:
        if isinstance(answer, ExecResult):
            why = _bytes(answer.stderr or answer.error_detail or answer.error or "")
            self._give(STDOUT, self._stdout(_bytes(answer.stdout)))
            self._end(answer.status, answer.exit_code, why, is_cut=answer.truncated)

    def _stdout(self, printed: bytes) -> bytes:
        """What of the node's stdout is the command's."""
        self._is_denied = self._is_denied or (self._exec.cwd is not None and self._denied in printed)
        return b"" if self._is_denied else printed

    def _end(self, status: str, exit_code: int, stderr: bytes, *, is_cut: bool) -> None:
        if status == "timeout":
            self.finish(self._timed_out())
        elif self._is_denied:
            self.finish(self._not_there())
        elif exit_code < 0:
            self.finish(self._never_ran(stderr))
        else:
            self._give(STDERR, stderr)
            self._finish(exit_code, is_cut=is_cut)

    def _finish(self, exit_code: int, *, is_cut: bool, status: Literal["ok", "timeout"] = "ok") -> None:
        self.finish(ExecResult(id=self.id, status=status, exit_code=exit_code, truncated=is_cut))

    def _never_ran(self, stderr: bytes) -> CallFailed:
        why = printable(stderr.decode(errors="replace").strip(), _MAX_REASON) or "it gives no reason"
        return CallFailed(f"node {self._name!r} could not run the command: {why}")

    def _not_there(self) -> PathNotAllowed:
        return PathNotAllowed(
            f"node {self._name!r} runs no command in {self._exec.cwd!r}: nothing has run",
            "it is not there, or outside the paths that the node's own settings allow",
        )


class GuardedExec(OlderExec):
    """A command inside the guard script: exact in bytes, both streams, exit code and time-out."""

    most_input = guarded.MAX_STDIN

    def __init__(
        self, session: "OlderSession", request: Exec, source: Source | None, *, live: bool
    ) -> None:
        super().__init__(session, request, source)
        self.is_script = True
        self._live = live
        self._guarded = guarded.GuardedOutput(self._marker)

    @property
    def node_timeout_ms(self) -> int:
        return self.timeout_ms + _GUARD_MS

    @property
    def command(self) -> str:
        return self._command(guarded.as_command)

    def message(self, prepare: str) -> Exec:
        script = guarded.guarded_script(
            self._marker,
            self.command,
            seconds=self.timeout_ms / 1000,
            cwd=self._exec.cwd,
            env=self._exec.env,
            stdin=bytes(self.take_input()),
            live=self._live,
        )
        return self._message(prepare + script, None)

    def _stdout(self, printed: bytes) -> bytes:
        if self.finished:
            return b""
        try:
            return self._guarded.feed(printed)
        except guarded.DamagedOutput:
            self.finish(self._damaged())
            return b""

    def _end(self, status: str, exit_code: int, stderr: bytes, *, is_cut: bool) -> None:
        if self.finished:
            return
        try:
            ended = self._guarded.end()
        except guarded.DamagedOutput:
            self.finish(self._damaged())
        else:
            self._guarded = guarded.GuardedOutput(self._marker)  # it may hold megabytes
            self._conclude_guarded(ended, status, exit_code, stderr, is_cut=is_cut)

    def _conclude_guarded(
        self, ended: guarded.Ended, status: str, exit_code: int, stderr: bytes, *, is_cut: bool
    ) -> None:
        if ended.is_denied and self._exec.cwd is not None:
            self.finish(self._not_there())
            return
        self._give(STDERR, ended.stderr)
        if ended.is_late and ended.exit_code is not None:
            self._finish(ended.exit_code, is_cut=ended.truncated, status="timeout")
        elif ended.is_late or status == "timeout":
            self.finish(self._timed_out())
        elif ended.exit_code is None:
            self.finish(self._never_ran(stderr) if exit_code < 0 else self._lost())
        else:
            self._finish(ended.exit_code, is_cut=ended.truncated or is_cut)

    def _damaged(self) -> CallFailed:
        return CallFailed(
            f"what node {self._name!r} printed for the command is damaged",
            "the command has run; something else prints in that shell, such as a session's background job",
        )

    def _lost(self) -> CallFailed:
        return CallFailed(
            f"node {self._name!r} ran the command, but its shell gave no exit code",
            "its shell may lack `base64` or `awk`, or was ended: look there before you repeat it",
        )


def _status(status: str | None) -> str:
    return status or "ok"


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
