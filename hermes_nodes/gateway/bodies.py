"""What callers may ask for: one struct for each kind of call, and the message that the node gets for it."""

from typing import Annotated, Literal, TypeVar, cast, get_args

import msgspec

from hermes_nodes.errors import UsageError
from hermes_nodes.protocol import messages
from hermes_nodes.protocol.messages import LIMIT_STREAM, Pty, Request, encode, new_call_id

#: What a record adds to its JSON: kind byte and tag.
_RECORD_OVERHEAD = 64
#: Characters of a session's name.
MAX_SESSION_NAME = 64
#: What to do with a command that no request can hold.
OVERSIZE_HINT = (
    "send what is long as the command's input with `-i`, or `write` it to a file on the node first"
)
_T = TypeVar("_T")

# Up to what every JSON reader takes for a whole number (RFC 8259 section 6).
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Size = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Permissions = Annotated[int, msgspec.Meta(ge=0, le=0o7777)]
Cells = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class Body(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="call"):
    """One call on one node; ``request`` of each kind gives the message for that, or raises UsageError."""

    node: str

    @property
    def takes_input(self) -> bool:
        """Whether the caller's channel 0 is used."""
        return False


class PtyBody(msgspec.Struct, forbid_unknown_fields=True):
    cols: Cells
    rows: Cells
    term: str = "xterm"


class ExecBody(Body, tag="exec"):
    """`command` goes to the node's shell, `argv` is run as it is; with `pty` and neither, a login shell."""

    command: str | None = None
    argv: list[str] | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    timeout_ms: Positive | None = None
    stdin: bool = False
    pty: PtyBody | None = None
    session: str | None = None
    detach: bool = False

    def request(self) -> Request:
        given = (self.command is not None) + bool(self.argv)
        if given > 1 or (not given and self.pty is None):
            raise UsageError("give a `command` for the node's shell, or an `argv` to run as it is")
        if self.detach and (self.stdin or self.pty or self.session is not None):
            raise UsageError("a detached job has no input, no terminal and no session")
        if self.session is not None:
            _check_session(self.session)
        for name in self.env or {}:
            if not name or "=" in name or "\0" in name:
                raise UsageError(f"{name!r} can't be the name of an environment variable")
        pty = Pty(self.pty.cols, self.pty.rows, self.pty.term) if self.pty else None
        return messages.Exec(
            id=new_call_id(),
            command=self.command,
            argv=self.argv,
            cwd=self.cwd,
            env=self.env,
            timeout_ms=self.timeout_ms,
            stdin=self.stdin,
            pty=pty,
            session=self.session,
            detach=self.detach,
        )

    @property
    def takes_input(self) -> bool:
        return self.stdin


class ReadBody(Body, tag="read"):
    """`offset` and `length` in bytes choose a part of the file."""

    path: str
    offset: Size = 0
    length: Size | None = None

    def request(self) -> Request:
        return messages.Read(id=new_call_id(), path=self.path, offset=self.offset, length=self.length)


class WriteBody(Body, tag="write"):
    """The content is channel 0 of an upgraded call, or `content_b64` of a plain request.

    Below `root`, a directory that `path` begins with, no symlink is followed, and one in the file's
    place is replaced.
    """

    path: str
    mode: Literal["overwrite", "create", "append"] = "overwrite"
    perm: Permissions | None = None
    size_bytes: Size | None = None
    offset: Size = 0
    root: str | None = None
    content_b64: bytes | None = None

    def request(self) -> Request:
        size = len(self.content_b64) if self.content_b64 is not None else self.size_bytes
        return messages.Write(
            id=new_call_id(),
            path=self.path,
            mode=self.mode,
            perm=self.perm,
            size_bytes=size,
            offset=self.offset,
            root=self.root,
        )

    @property
    def takes_input(self) -> bool:
        return True


class SessionListBody(Body, tag="session_list"):
    def request(self) -> Request:
        return messages.SessionList(id=new_call_id())


class SessionResetBody(Body, tag="session_reset"):
    session: str

    def request(self) -> Request:
        _check_session(self.session)
        return messages.SessionReset(id=new_call_id(), session=self.session)


class StatBody(Body, tag="stat"):
    path: str

    def request(self) -> Request:
        return messages.Stat(id=new_call_id(), path=self.path)


class ListDirBody(Body, tag="list_dir"):
    """The entries come as NDJSON on channel 1."""

    path: str

    def request(self) -> Request:
        return messages.ListDir(id=new_call_id(), path=self.path)


class MakeDirBody(Body, tag="make_dir"):
    path: str
    perm: Permissions | None = None
    root: str | None = None

    def request(self) -> Request:
        return messages.MakeDir(id=new_call_id(), path=self.path, perm=self.perm, root=self.root)


class JobListBody(Body, tag="job_list"):
    def request(self) -> Request:
        return messages.JobList(id=new_call_id())


class JobReadBody(Body, tag="job_read"):
    """The content comes on channel 1; with `follow` it ends when the job does."""

    job: str
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: Size = 0
    follow: bool = False

    def request(self) -> Request:
        return messages.JobRead(
            id=new_call_id(), job=self.job, stream=self.stream, offset=self.offset, follow=self.follow
        )


class JobWaitBody(Body, tag="job_wait"):
    job: str

    def request(self) -> Request:
        return messages.JobWait(id=new_call_id(), job=self.job)


class JobKillBody(Body, tag="job_kill"):
    job: str

    def request(self) -> Request:
        return messages.JobKill(id=new_call_id(), job=self.job)


CallBody = (
    ExecBody
    | ReadBody
    | WriteBody
    | SessionListBody
    | SessionResetBody
    | StatBody
    | ListDirBody
    | MakeDirBody
    | JobListBody
    | JobReadBody
    | JobWaitBody
    | JobKillBody
)


#: What each kind of call is called in a route.
VERBS = tuple(str(kind.__struct_config__.tag) for kind in get_args(CallBody))


def decode_body(raw: bytes, kind: type[_T]) -> _T:
    """A request's JSON; raises UsageError with what is wrong in it."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise UsageError(f"the request is not valid: {error}") from error


def decode_call(raw: bytes) -> CallBody:
    """A call's JSON; raises UsageError."""
    return decode_body(raw, cast("type[CallBody]", CallBody))


def node_request(body: CallBody) -> Request:
    """The message for the node; raises UsageError on one that no record can hold."""
    request = body.request()
    if _holds_nul(msgspec.to_builtins(request)):
        raise UsageError("a command, a variable or a path can't hold a NUL character")
    size = len(encode(request)) + _RECORD_OVERHEAD
    if size > LIMIT_STREAM:
        raise UsageError(
            f"the call takes {size} bytes, at most {LIMIT_STREAM} go into one request",
            OVERSIZE_HINT,
        )
    return request


def _check_session(name: str) -> None:
    if not 0 < len(name) <= MAX_SESSION_NAME:
        raise UsageError(f"the name of a session has 1 to {MAX_SESSION_NAME} characters, not {len(name)}")


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(part) for item in value.items() for part in item)
    return isinstance(value, list) and any(_holds_nul(item) for item in value)
