"""Calls as a node without `stream/1` takes them: one message each way, all of it inside.

Each kind of call says what is sent, what its answer comes to, and how long the node may take for it.
"""

import base64
import binascii
import hashlib
import re
import shlex
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from hermes_nodes.calls import Answer, Call
from hermes_nodes.errors import (
    CallFailed,
    CallTimeout,
    HermesNodesError,
    PathNotAllowed,
    ProtocolViolation,
    Unsupported,
)
from hermes_nodes.protocol import guarded
from hermes_nodes.protocol.codec import MAX_DATA
from hermes_nodes.protocol.messages import (
    LIMIT_LEGACY,
    Error,
    Exec,
    ExecChunk,
    ExecResult,
    Read,
    ReadResult,
    Request,
    SessionList,
    SessionReset,
    Write,
    WriteResult,
)
from hermes_nodes.protocol.stream import STDERR, STDOUT, Source
from hermes_nodes.text import printable

if TYPE_CHECKING:
    from hermes_nodes.older_sessions import OlderSession

#: Bytes of a file that a call can carry.
MAX_FILE = 10 * 1024 * 1024
#: Milliseconds that a command gets where nobody says, and at least and at most.
DEFAULT_TIMEOUT_MS = 60_000
_LEAST_MS, _MOST_MS = 1_000, 595_000
#: The node's own time-out comes so much after the guard's, so that the guard's result still arrives.
_GUARD_MS = 5_000
#: Seconds that a file may take: as long as the longest command. Nothing shows how far it has come.
_FILE_SECONDS = 600.0
#: What standard base64 decodes to nothing, and is something: a `write` without content is refused.
_EMPTY_B64 = "\n"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOO_LARGE = ("file_too_large", 2003)
_EXEC_TIMEOUT, _BAD_REQUEST = 3001, 4000
#: Characters of a node's own words that an error repeats.
_MAX_REASON = 200
_FILE_ERRORS = ("path_not_allowed", "file_not_found", "file_exists", "permission_denied", "io_error")
_GOES_ON = "the command may go on there, and holds up the calls behind it until it ends"


class OlderCall(Call):
    """A call to an older node; its input is collected before it is sent."""

    #: Bytes of input that it can take.
    most_input = 0
    #: Whether a command goes to the node inside a script of ours.
    is_script = False

    def __init__(self, session: "OlderSession", request: Request, source: Source | None) -> None:
        super().__init__(session, request)
        self._name = session.name
        self._session = session
        self._source = source
        self.input = bytearray()
        #: Whether there is room for its input.
        self.may_take = False
        #: Whether all input is here.
        self.is_complete = source is None

    def collect(self) -> None:
        """Take the input that has come; raises Unsupported where it is more than fits."""
        while self._source is not None and not self.is_complete:
            piece = self._source.pull(MAX_DATA)
            if piece is None:
                return
            self.is_complete = not piece
            self.input += piece
            if len(self.input) > self.most_input:
                raise self._too_much()

    @property
    @abstractmethod
    def seconds(self) -> float:
        """How long the node may take to answer."""

    @property
    def reserved(self) -> int:
        """How much input it may come to hold."""
        return 0 if self._source is None else self.most_input

    @abstractmethod
    def message(self, prepare: str) -> Request:
        """What is sent to the node; a script of ours begins with the lines ``prepare``."""

    def conclude(self, answer: Answer) -> None:
        """The node's final answer: pass on what it holds, and finish. Raises ProtocolViolation."""
        if isinstance(answer, Error):
            self.finish(self._timed_out() if answer.code == _EXEC_TIMEOUT else answer)
        else:
            self._conclude(answer)

    def take_chunk(self, chunk: ExecChunk) -> bool:  # noqa: ARG002 - where it fits it is used
        """A piece of output; whether it was the last. Raises ProtocolViolation."""
        raise ProtocolViolation("exec_chunk for a call that is no exec")

    @abstractmethod
    def _conclude(self, answer: Answer) -> None: ...

    def _too_much(self) -> HermesNodesError:
        return Unsupported.older(self._name, f"takes at most {self.most_input} bytes of input in a call")

    def _timed_out(self) -> CallTimeout:
        return CallTimeout(f"the call's time-out has passed on node {self._name!r}", _GOES_ON)

    def _give(self, channel: int, content: bytes) -> None:
        """Pass output on in pieces that fit a frame; whoever has left gets none."""
        if self.finished:
            return
        self._session.gave(len(content))
        view = memoryview(content)
        for at in range(0, len(view), MAX_DATA):
            self.feed(channel, view[at : at + MAX_DATA])


class OlderExec(OlderCall):
    """A command as the node's own shell takes it: with its defects, and with what it leaves there."""

    def __init__(self, session: "OlderSession", request: Exec, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._exec = request
        self.is_script = request.session is not None
        if request.session is not None:
            self.note = (
                f"node {self._name!r} runs sessions in its one shared shell, guarded from stdin alone"
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
    def seconds(self) -> float:
        return self.timeout_ms / 1000

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
        printed = _decoded(chunk.data)
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
            id=request.id, command=command, cwd=request.cwd, env=env, timeout_ms=int(self.seconds * 1000)
        )

    def _conclude(self, answer: Answer) -> None:
        if isinstance(answer, ExecResult):
            self._give(STDOUT, self._stdout(_bytes(answer.stdout)))
            self._end(answer.status, answer.exit_code, _bytes(answer.stderr), is_cut=answer.truncated)

    def _stdout(self, printed: bytes) -> bytes:
        """What of the node's stdout is the command's."""
        self._is_denied = self._is_denied or self._denied in printed
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
    def seconds(self) -> float:
        return (self.timeout_ms + _GUARD_MS) / 1000

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
            stdin=bytes(self.input),
            live=self._live,
        )
        return self._message(prepare + script, None)

    def _stdout(self, printed: bytes) -> bytes:
        return self._guarded.feed(printed)

    def _end(self, status: str, exit_code: int, stderr: bytes, *, is_cut: bool) -> None:
        ended = self._guarded.end()
        if ended.is_denied:
            self.finish(self._not_there())
            return
        self._give(STDERR, ended.stderr)
        if ended.is_late:
            self._finish(ended.exit_code or 0, is_cut=ended.truncated, status="timeout")
        elif status == "timeout":
            self.finish(self._timed_out())
        elif ended.exit_code is None:
            self.finish(self._never_ran(stderr) if exit_code < 0 else self._lost())
        else:
            self._finish(ended.exit_code, is_cut=ended.truncated or is_cut)

    def _lost(self) -> CallFailed:
        return CallFailed(
            f"node {self._name!r} ran the command, but its shell gave no exit code",
            "its shell may lack `base64` or `awk`, or was ended: look there before you repeat it",
        )


class OlderRead(OlderCall):
    """A file's content, all of it in the answer."""

    def __init__(self, session: "OlderSession", request: Read, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._read = request

    @property
    def seconds(self) -> float:
        return _FILE_SECONDS

    def message(self, prepare: str) -> Read:  # noqa: ARG002 - the interface
        return Read(id=self.id, path=self._read.path)

    def conclude(self, answer: Answer) -> None:
        if (answer.code if isinstance(answer, Error) else answer.error) in _TOO_LARGE:
            self.finish(Unsupported.older(self._name, f"reads files of at most {MAX_FILE} bytes"))
        else:
            super().conclude(answer)

    def _conclude(self, answer: Answer) -> None:
        if not isinstance(answer, ReadResult) or answer.status != "ok":
            self.finish(answer)
            return
        content = _decoded(answer.content_b64)
        if answer.size_bytes not in (0, len(content)):
            self.finish(CallFailed(f"node {self._name!r} sent {len(content)} of {answer.size_bytes} bytes"))
            return
        self._give(STDOUT, content)
        self.finish(ReadResult(id=self.id, status="ok", size_bytes=len(content), sha256=_sha256(content)))


class OlderWrite(OlderCall):
    """A file's content, all of it in the request."""

    most_input = MAX_FILE

    def __init__(self, session: "OlderSession", request: Write, source: Source | None) -> None:
        super().__init__(session, request, source)
        self._write = request

    @property
    def seconds(self) -> float:
        return _FILE_SECONDS

    def message(self, prepare: str) -> Write:  # noqa: ARG002 - the interface
        content = base64.b64encode(self.input).decode() or _EMPTY_B64
        return Write(id=self.id, path=self._write.path, mode=self._write.mode, content_b64=content)

    def conclude(self, answer: Answer) -> None:
        failed = isinstance(answer, Error) or answer.status != "ok"
        if failed and not self.input and _is_bad_request(answer):
            self.finish(Unsupported.older(self._name, "can't write an empty file"))
        else:
            super().conclude(answer)

    def _conclude(self, answer: Answer) -> None:
        if not isinstance(answer, WriteResult) or answer.status != "ok":
            self.finish(answer)
        elif answer.bytes_written != len(self.input):
            wrote = f"wrote {answer.bytes_written} of {len(self.input)} bytes"
            self.finish(CallFailed(f"node {self._name!r} {wrote}", "look at the file before you use it"))
        else:
            size, digest = len(self.input), _sha256(self.input)
            self.finish(WriteResult(id=self.id, status="ok", bytes_written=size, sha256=digest))

    def _too_much(self) -> HermesNodesError:
        return Unsupported.older(self._name, f"writes files of at most {MAX_FILE} bytes")


def check_supported(name: str, request: Request, *, guard: bool) -> Exec | Read | Write:
    """The request, if an older node can do it; raises Unsupported with what it lacks."""
    if isinstance(request, Exec | Read | Write):
        lack = _lack(request, guard=guard)
        if lack is None:
            return request
        raise Unsupported.older(name, lack)
    if isinstance(request, SessionReset | SessionList):
        raise Unsupported.older(
            name, "has one shell for all sessions: it can't be listed or reset (`session`)"
        )
    raise Unsupported.older(name, "can do no more than run commands, read and write files (`fs`, `jobs`)")


def _lack(request: Exec | Read | Write, *, guard: bool) -> str | None:
    match request:
        case Exec():
            return _exec_lack(request, guard=guard)
        case Read() if request.offset or request.length is not None:
            return "can't read part of a file (`stream/1`)"
        case Write() if request.perm is not None or request.offset:
            return "can't set permissions or resume a transfer (`stream/1`)"
        case _:
            return None


def _exec_lack(request: Exec, *, guard: bool) -> str | None:
    in_own_shell = request.session is not None or not guard
    timeout_ms = DEFAULT_TIMEOUT_MS if request.timeout_ms is None else request.timeout_ms
    lacks = {
        "has no terminals (`pty`)": request.pty is not None,
        "has no detached jobs (`jobs`)": request.detach,
        "takes time-outs from 1s to 595s": not _LEAST_MS <= timeout_ms <= _MOST_MS,
        "gives commands of a session no stdin (`stdin`)": request.stdin and request.session is not None,
        "gives commands no stdin with `legacy_exec: raw` (`stdin`)": request.stdin and not guard,
        f"takes commands of at most {guarded.MAX_COMMAND} bytes": _size(request) > guarded.MAX_COMMAND,
        "takes only an absolute path for --cwd": not (request.cwd or "/").startswith("/"),
        "takes only variables that a shell can name": in_own_shell and not _are_names(request.env),
    }
    return next((lack for lack, is_so in lacks.items() if is_so), None)


def _size(request: Exec) -> int:
    command = request.command if request.argv is None else guarded.as_command(request.argv)
    return len((command or "").encode())


def _are_names(env: dict[str, str] | None) -> bool:
    return all(_VARIABLE.fullmatch(name) for name in env or {})


def _is_bad_request(answer: Answer) -> bool:
    """Whether a node refuses the request as such, and not for its file."""
    if isinstance(answer, Error):
        return answer.code == _BAD_REQUEST
    return answer.error not in _FILE_ERRORS


def _status(status: str | None) -> str:
    return status or "ok"


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _decoded(content: str) -> bytes:
    """Standard base64 to the letter, which Python's own decoder does not ask for: it takes any padding."""
    try:
        decoded = binascii.a2b_base64(content)
    except ValueError as error:
        raise ProtocolViolation("content that is not base64") from error
    if binascii.b2a_base64(decoded, newline=False) != content.encode():
        raise ProtocolViolation("content that is not base64")
    return decoded


def _sha256(content: bytes | bytearray) -> str:
    return hashlib.sha256(content).hexdigest()
