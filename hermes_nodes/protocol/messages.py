"""Every message, code and limit of the wire, one union per direction.

A peer can't even decode what only the other side may send. Unknown fields are ignored, as that is how
the protocol grows; fields that are zero, false, empty or null may be left out.
"""

import uuid
from enum import IntEnum
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, get_args

import msgspec

from hermes_nodes.clock import timestamp as timestamp  # noqa: PLC0414 - every message bears one
from hermes_nodes.errors import ProtocolViolation

PROTOCOL_VERSION = "0.1.0"
NODES_PATH = "/ws/nodes"
STREAM = "stream/1"
EXEC_CHUNK = "exec_chunk"

#: Bytes of one incoming message before `auth_ok`, and after it from a node with and without
#: `stream/1`. The last holds 10 MB of output that was escaped or encoded twice.
LIMIT_BEFORE_AUTH = 64 * 1024
LIMIT_STREAM = 512 * 1024
LIMIT_LEGACY = 48 * 1024 * 1024

#: Most calls that run on one node at a time.
MAX_CALLS = 64


class Close(IntEnum):
    """WebSocket close codes."""

    NORMAL = 1000
    TOO_BIG = 1009
    UNAUTHORISED = 4001
    VERSION = 4002
    PROTOCOL = 4003
    LIMIT = 4004
    SHUTDOWN = 4005
    REVOKED = 4006


Short = Annotated[str, msgspec.Meta(max_length=64)]
Capability = Annotated[str, msgspec.Meta(max_length=32)]
Capabilities = Annotated[list[Capability], msgspec.Meta(max_length=32)]
# JSON has numbers of any length; ours go on to a database column and to a process that ends with them.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
ExitCode = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**32 - 1)]
Channel = Annotated[int, msgspec.Meta(ge=0, le=2)]
CallId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
CallStatus = Literal["ok", "error", "timeout", "cancelled", "started"]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What all messages share; ``ts`` (RFC 3339) is informational and nobody depends on it."""

    ts: Short | None = None


# -- handshake ------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    protocol_version: Short
    node_name: str
    node_version: Short | None = None
    platform: Short | None = None
    arch: Short | None = None
    capabilities: Capabilities | None = None
    e2e: bool | None = None
    ecdh_pub: Short | None = None


class HelloAck(Message, frozen=True, kw_only=True, tag="hello_ack"):
    protocol_version: str
    session_id: str
    server_time: str
    capabilities: list[str]
    ecdh_pub: str | None = None
    salt: str | None = None


class HelloErr(Message, frozen=True, kw_only=True, tag="hello_err"):
    reason: str
    code: int
    server_max_version: str | None = None


class Auth(Message, frozen=True, kw_only=True, tag="auth"):
    node_name: str
    token: Short | None = None
    proof: Short | None = None


class AuthOk(Message, frozen=True, kw_only=True, tag="auth_ok"):
    session_id: str
    proof: str | None = None


class AuthErr(Message, frozen=True, kw_only=True, tag="auth_err"):
    reason: str
    code: int


# -- either direction -----------------------------------------------------------------------------


class Enc(Message, frozen=True, kw_only=True, tag="enc"):
    """The envelope of an encrypted session without `stream/1`."""

    data: str


class Ping(Message, frozen=True, kw_only=True, tag="ping"):
    id: str | None = None


class Pong(Message, frozen=True, kw_only=True, tag="pong"):
    id: str | None = None
    echo_ts: str | None = None


class Bye(Message, frozen=True, kw_only=True, tag="bye"):
    reason: str | None = None


class Window(Message, frozen=True, kw_only=True, tag="window"):
    """More credit for the sender of ``channel``."""

    id: CallId
    channel: Channel = 0
    bytes: Count = 0


# -- gateway to node ------------------------------------------------------------------------------


class RateLimit(Message, frozen=True, kw_only=True, tag="rate_limit"):
    reason: str
    code: int
    node_name: str
    limit_per_second: int


class Pty(msgspec.Struct, frozen=True):
    cols: int
    rows: int
    term: str = "xterm"


class Exec(Message, frozen=True, kw_only=True, tag="exec"):
    id: CallId
    command: str | None = None
    argv: list[str] | None = None
    cwd: str | None = None
    env: dict[str, str] | None = None
    timeout_ms: Count | None = None
    stdin: bool = False
    pty: Pty | None = None
    session: str | None = None
    detach: bool = False


class Read(Message, frozen=True, kw_only=True, tag="read"):
    id: CallId
    path: str
    offset: Count = 0
    length: Count | None = None


class Write(Message, frozen=True, kw_only=True, tag="write"):
    id: CallId
    path: str
    mode: Literal["overwrite", "create", "append"] = "overwrite"
    content_b64: str | None = None
    size_bytes: Count | None = None
    perm: Count | None = None
    offset: Count = 0
    #: The directory of ``path`` below which the node follows no symlink.
    root: str | None = None


class Cancel(Message, frozen=True, kw_only=True, tag="cancel"):
    """``keep``: the caller has vanished, so that a `write` keeps what has come, to be resumed."""

    id: CallId
    keep: bool = False


class Resize(Message, frozen=True, kw_only=True, tag="resize"):
    id: CallId
    cols: Count
    rows: Count


class SessionList(Message, frozen=True, kw_only=True, tag="session_list"):
    id: CallId


class SessionReset(Message, frozen=True, kw_only=True, tag="session_reset"):
    id: CallId
    session: str


class Stat(Message, frozen=True, kw_only=True, tag="stat"):
    id: CallId
    path: str


class ListDir(Message, frozen=True, kw_only=True, tag="list_dir"):
    id: CallId
    path: str


class MakeDir(Message, frozen=True, kw_only=True, tag="make_dir"):
    id: CallId
    path: str
    perm: Count | None = None
    #: As in Write.
    root: str | None = None


class JobList(Message, frozen=True, kw_only=True, tag="job_list"):
    id: CallId


class JobRead(Message, frozen=True, kw_only=True, tag="job_read"):
    id: CallId
    job: str
    stream: Literal["stdout", "stderr"] = "stdout"
    offset: Count = 0
    follow: bool = False


class JobWait(Message, frozen=True, kw_only=True, tag="job_wait"):
    id: CallId
    job: str


class JobKill(Message, frozen=True, kw_only=True, tag="job_kill"):
    id: CallId
    job: str


# -- node to gateway ------------------------------------------------------------------------------


class Result(Message, frozen=True, kw_only=True):
    """A call's final answer."""

    id: CallId
    status: CallStatus
    error: Short | None = None
    error_detail: str | None = None


class ExecResult(Result, frozen=True, kw_only=True, tag="exec_result"):
    """``exit_code`` is -1 where the command never ran, 128+n where signal n ended it."""

    exit_code: ExitCode = 0
    stdout: str = ""
    stderr: str = ""
    duration_ms: Count = 0
    truncated: bool = False
    signal: Short | None = None
    job: str | None = None


class ExecChunk(Message, frozen=True, kw_only=True, tag="exec_chunk"):
    id: CallId
    seq: int = 0
    data: str = ""
    more: bool = False
    status: CallStatus | None = None
    exit_code: ExitCode = 0
    duration_ms: Count = 0
    truncated: bool = False


class ReadResult(Result, frozen=True, kw_only=True, tag="read_result"):
    content_b64: str = ""
    size_bytes: Count = 0
    sha256: Short | None = None


class WriteResult(Result, frozen=True, kw_only=True, tag="write_result"):
    bytes_written: Count = 0
    sha256: Short | None = None


class SessionListResult(Result, frozen=True, kw_only=True, tag="session_list_result"):
    sessions: list[str] = []


class SessionResetResult(Result, frozen=True, kw_only=True, tag="session_reset_result"):
    pass


class StatResult(Result, frozen=True, kw_only=True, tag="stat_result"):
    kind: Literal["file", "dir", "link", "other"] | None = None
    size_bytes: Count = 0
    perm: Count = 0
    mtime: str | None = None
    identity: Short | None = None


class ListDirResult(Result, frozen=True, kw_only=True, tag="list_dir_result"):
    pass


class MakeDirResult(Result, frozen=True, kw_only=True, tag="make_dir_result"):
    identity: Short | None = None


class JobListResult(Result, frozen=True, kw_only=True, tag="job_list_result"):
    jobs: list[dict[str, str | int | None]] = []


class JobReadResult(Result, frozen=True, kw_only=True, tag="job_read_result"):
    """``size_bytes`` is where a later read goes on from; ``truncated``: there was more than was kept."""

    size_bytes: Count = 0
    truncated: bool = False


class JobKillResult(Result, frozen=True, kw_only=True, tag="job_kill_result"):
    already_ended: bool = False


class Error(Message, frozen=True, kw_only=True, tag="error"):
    """With an ``id`` it ends that call; codes are in ERROR_NAMES."""

    id: str | None = None
    code: int = 0
    reason: str | None = None
    detail: str | None = None


ERROR_NAMES = {
    2001: "path_not_allowed",
    2002: "file_not_found",
    2003: "file_too_large",
    2004: "io_error",
    3001: "exec_timeout",
    3002: "exec_failed",
    4000: "bad_request",
    5000: "internal_error",
    5001: "unknown_message",
}

Answer = (
    ExecResult
    | ReadResult
    | WriteResult
    | SessionListResult
    | SessionResetResult
    | StatResult
    | ListDirResult
    | MakeDirResult
    | JobListResult
    | JobReadResult
    | JobKillResult
)
Request = (
    Exec
    | Read
    | Write
    | SessionList
    | SessionReset
    | Stat
    | ListDir
    | MakeDir
    | JobList
    | JobRead
    | JobWait
    | JobKill
)
# What each request is answered with, where it is not refused with an `error`.
_ANSWERS: dict[type[Message], type[Result]] = {
    Exec: ExecResult,
    Read: ReadResult,
    Write: WriteResult,
    SessionList: SessionListResult,
    SessionReset: SessionResetResult,
    Stat: StatResult,
    ListDir: ListDirResult,
    MakeDir: MakeDirResult,
    JobList: JobListResult,
    JobRead: JobReadResult,
    JobWait: ExecResult,
    JobKill: JobKillResult,
}
FromNode = Answer | ExecChunk | Error | Ping | Pong | Bye | Window
FromGateway = Request | Cancel | Resize | RateLimit | Ping | Pong | Bye | Window


class Unknown(msgspec.Struct, frozen=True):
    """A well-formed message of a type this version does not know; ignored by whoever gets it."""

    type: str
    id: str | None = None


def new_call_id() -> str:
    """UUID version 4, one per call, the same in the audit trail."""
    return str(uuid.uuid4())


# What a node must list to be sent these at all.
_FAMILIES: dict[type[Message], str] = {
    SessionList: "session",
    SessionReset: "session",
    Stat: "fs",
    ListDir: "fs",
    MakeDir: "fs",
    JobList: "jobs",
    JobRead: "jobs",
    JobWait: "jobs",
    JobKill: "jobs",
}


def answer_kind(request: Request) -> type[Result]:
    """How a request is answered, where it is not refused with an `error`."""
    return _ANSWERS[type(request)]


def is_answer(request: Request, answer: Result) -> bool:
    """Whether a request may be answered so. A detached command has no end here: it is `started`, or not."""
    is_detached = isinstance(request, Exec) and request.detach
    is_end = answer.status in ("ok", "timeout")
    is_fitting = not is_end if is_detached else answer.status != "started"
    return isinstance(answer, answer_kind(request)) and is_fitting


def needed_capabilities(request: Request) -> list[str]:
    """What a node must list, beyond `stream/1` itself, to be sent this request."""
    if isinstance(request, Exec):
        needs = {
            "stdin": request.stdin,
            "pty": request.pty is not None,
            "session": request.session is not None,
            "jobs": request.detach,
        }
        return [name for name, needed in needs.items() if needed]
    family = _FAMILIES.get(type(request))
    return [family] if family else []


_encoder = msgspec.json.Encoder()
_head_decoder = msgspec.json.Decoder(Unknown)
_Known = TypeVar("_Known")

# What msgspec raises on bad input; RecursionError on objects nested too deep.
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def encode(message: Message) -> bytes:
    return _encoder.encode(message)


class Vocabulary(Generic[_Known]):
    """The messages that one side may send at one stage: decodes and checks them in one pass."""

    def __init__(self, *kinds: Any) -> None:
        self._decoder: msgspec.json.Decoder[_Known] = msgspec.json.Decoder(Union[kinds])  # noqa: UP007
        self._tags = {kind.__struct_config__.tag for kind in kinds}

    def decode(self, raw: bytes | bytearray | memoryview) -> _Known | Unknown:
        """One message; raises ProtocolViolation if it is malformed."""
        try:
            return self._decoder.decode(raw)
        except _UNDECODABLE as error:
            return self._unless_known(raw, error)

    def _unless_known(self, raw: bytes | bytearray | memoryview, cause: Exception) -> Unknown:
        """Tell a type that is not of this vocabulary from a damaged message that is."""
        try:
            head = _head_decoder.decode(raw)
        except _UNDECODABLE as error:
            cause = error
        else:
            if head.type not in self._tags:
                return head
        # msgspec's sentence can quote the peer's own bytes, so it goes no further than the cause.
        raise ProtocolViolation(f"malformed message ({type(cause).__name__})") from cause


FROM_NODE: Vocabulary[FromNode] = Vocabulary(*get_args(FromNode))
FROM_GATEWAY: Vocabulary[FromGateway] = Vocabulary(*get_args(FromGateway))
HELLO_OR_AUTH: Vocabulary[Hello | Auth] = Vocabulary(Hello, Auth)
HANDSHAKE_REPLY: Vocabulary[HelloAck | HelloErr | AuthOk | AuthErr] = Vocabulary(
    HelloAck, HelloErr, AuthOk, AuthErr
)
SEALED: Vocabulary[Enc] = Vocabulary(Enc)
