"""Talks to a running gateway: blocking, standard library only, one connection per call.

``Client().exec("laptop", "uname -a")`` is all a program needs. Every import here is paid for by every
`hermes-nodes exec`, so there are few.
"""

import json
import os
import select
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlencode

from hermes_nodes.config import control_socket_path
from hermes_nodes.errors import (
    CallFailed,
    ForeignUser,
    GatewayLost,
    GatewayNotRunning,
    HermesNodesError,
    UsageError,
    from_wire,
)
from hermes_nodes.protocol import control

if TYPE_CHECKING:
    import hashlib

#: Seconds for a request other than a call.
REQUEST_SECONDS = 30.0
#: Seconds without a sign of life from the gateway, which gives one every second, until it counts as gone.
SILENCE_SECONDS = 30.0
#: Bytes of each stream that `exec` keeps.
KEEP_BYTES = 16 * 1024 * 1024
#: Bytes that may be sent on a channel before the gateway has granted more.
_FIRST_WINDOW = 256 * 1024
#: Bytes sent in one frame: one record of the node protocol.
_PIECE = 126 * 1024
_RECEIVE = 512 * 1024
_STDIN, _STDOUT, _STDERR = 0, 1, 2

Json = dict[str, object]
Output = Callable[[int, memoryview], object]
Content = bytes | Iterable[bytes] | int


class ExecResult(NamedTuple):
    """How a command ended. ``status`` is ok, error (it ended with another code than 0), timeout or
    cancelled; ``exit_code`` is 128+n where ``signal`` ended it, None where the end isn't known."""

    node: str
    request_id: str
    status: str
    exit_code: int | None
    signal: str | None
    stdout_bytes: bytes
    stderr_bytes: bytes
    duration_ms: int
    truncated: bool
    error: Json | None

    @property
    def stdout(self) -> str:
        """As text; bytes that are not UTF-8 become surrogates, as in file names."""
        return self.stdout_bytes.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        """As text; bytes that are not UTF-8 become surrogates, as in file names."""
        return self.stderr_bytes.decode("utf-8", "surrogateescape")


class TransferResult(NamedTuple):
    """What was read or written."""

    node: str
    request_id: str
    size_bytes: int
    sha256: str


class Client:
    """One gateway. ``gateway`` is a socket's path; by default HERMES_NODES_GATEWAY, else the home's.

    Every method raises a HermesNodesError that says what is wrong: GatewayNotRunning, UnknownNode,
    NodeNotConnected, NodeDisconnected, …
    """

    def __init__(self, gateway: str | None = None, *, environ: Mapping[str, str] = os.environ) -> None:
        self.gateway = gateway or environ.get("HERMES_NODES_GATEWAY") or control_socket_path(environ)
        if "://" in self.gateway:
            raise UsageError(
                f"{self.gateway!r} is not a socket path",
                "a gateway is reached through the control socket on its own machine",
            )

    # -- requests --

    def status(self) -> Json:
        """The gateway's version, address, uptime and counts."""
        return self._request("GET", "/v1/status")

    def nodes(
        self, target: str | None = None, *, state: str | None = None, everything: bool = False
    ) -> list[Json]:
        """The nodes, with the keys of `list --json`; revoked ones if ``everything`` or asked for."""
        query = {"target": target, "state": state, "all": "1" if everything else None}
        values = {key: value for key, value in query.items() if value is not None}
        given = urlencode(values, errors="surrogateescape")
        answer = self._request("GET", f"/v1/nodes?{given}")
        nodes = answer["nodes"]
        return nodes if isinstance(nodes, list) else []

    def pair(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        expires_in: float | None = None,
        first_use_within: float | None = None,
        force: bool = False,
    ) -> Json:
        """A new pairing with its token, which is shown this once; durations in seconds."""
        body: Json = {
            "name": name,
            "labels": dict(labels or {}),
            "expires_in": expires_in,
            "first_use_within": first_use_within,
            "force": force,
        }
        return self._request("POST", "/v1/pairings", body)

    def revoke(self, name: str) -> Json:
        """End a pairing: its session is closed and its token is never admitted again."""
        return self._request("DELETE", f"/v1/pairings/{quote(name, safe='', errors='surrogateescape')}")

    # -- calls --

    def exec(
        self,
        node: str,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> ExecResult:
        """Run a command on a node and wait for its end.

        A string goes to the node's shell, a sequence is run as it is. ``timeout`` in seconds; without
        it there is none. Each stream is kept up to 16 MiB, and ``truncated`` says if there was more.
        Raises what kept the command from running, or from being known to have ended.
        """
        kept = Kept()
        answer = self.call(exec_body(node, command, cwd=cwd, env=env, timeout=timeout), kept.add)
        return exec_result(answer, kept)

    def read(
        self,
        node: str,
        path: str,
        output: Callable[[memoryview], object],
        *,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
    ) -> TransferResult:
        """Give a file's content to ``output``, piece by piece; CallFailed if it arrived altered."""
        body: Json = {"call": "read", "node": node, "path": path}
        digest = _sha256()

        def take(_: int, piece: memoryview) -> None:
            digest.update(piece)
            output(piece)

        answer = self.call(body, take, watch=watch, interrupt=interrupt)
        return transfer_result(answer, "size_bytes", digest.hexdigest())

    def write(
        self,
        node: str,
        path: str,
        content: Content,
        *,
        mode: str = "overwrite",
        perm: int | None = None,
        interrupt: int | None = None,
    ) -> TransferResult:
        """Write a file, from bytes, pieces or a descriptor; it takes effect only when all has arrived."""
        body: Json = {"call": "write", "node": node, "path": path, "mode": mode, "perm": perm}
        digest = _sha256()
        answer = self.call(body, lambda *_: None, content, interrupt=interrupt, sent=digest.update)
        return transfer_result(answer, "bytes_written", digest.hexdigest())

    def call(
        self,
        body: Json,
        output: Output,
        content: Content | None = None,
        *,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        sent: Callable[[memoryview], object] = lambda _: None,
    ) -> Json:
        """One call, from request to answer; ``output`` gets each piece with its channel, 1 or 2.

        ``content`` is what channel 0 carries; a descriptor is read as it has something, and ``sent`` hears
        of each piece. ``watch`` are descriptors whose readers' leaving ends the call (BrokenPipeError).
        A byte on ``interrupt`` cancels the call, whose answer is then awaited.

        Raises what the answer says went wrong, unless it is a command's own end.
        """
        with self._connect() as sock:
            connection = _CallConnection(sock, output, content, watch=watch, interrupt=interrupt, sent=sent)
            answer = connection.run(_encoded(body))
        error = answer.get("error")
        if isinstance(error, dict) and answer.get("status") not in ("timeout", "cancelled"):
            failure = from_wire(error)
            failure.request_id = str(answer["request_id"])
            raise failure
        return answer

    # -- HTTP --

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.gateway)
        except PermissionError as error:
            sock.close()
            raise ForeignUser from error
        except OSError as error:
            sock.close()
            raise GatewayNotRunning(self.gateway) from error
        return sock

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        content = b"" if body is None else _encoded(body)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        with self._connect() as sock:
            sock.settimeout(REQUEST_SECONDS)
            try:
                sock.sendall(head.encode("ascii") + content)
                status, rest = _response_head(sock)
                while piece := sock.recv(_RECEIVE):
                    rest += piece
            except OSError as error:
                raise GatewayLost from error
        return _checked(status, rest)


def _encoded(body: Json) -> bytes:
    """A request's JSON; raises UsageError on text that is not UTF-8, which JSON can't carry."""
    try:
        return json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        near = error.object[max(0, error.start - 20) : error.end]
        raise UsageError(
            f"the request holds text that is not UTF-8, at the end of {near!r}",
            "`write` the text to a file on the node and run that",
        ) from error


def exec_body(
    node: str,
    command: str | Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Json:
    """The request of an `exec`."""
    what = {"command": command} if isinstance(command, str) else {"argv": list(command)}
    milliseconds = None if timeout is None else max(1, round(timeout * 1000))
    return {
        "call": "exec",
        "node": node,
        **what,
        "cwd": cwd,
        "env": dict(env) if env else None,
        "timeout_ms": milliseconds,
    }


class Kept:
    """Both streams of a command, each cut at KEEP_BYTES."""

    def __init__(self) -> None:
        self._streams = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self.truncated = False

    def add(self, channel: int, piece: memoryview) -> None:
        stream = self._streams[channel]
        room = KEEP_BYTES - len(stream)
        stream += piece[:room]
        self.truncated = self.truncated or len(piece) > room

    @property
    def stdout(self) -> bytes:
        return bytes(self._streams[_STDOUT])

    @property
    def stderr(self) -> bytes:
        return bytes(self._streams[_STDERR])


def exec_result(answer: Json, kept: Kept) -> ExecResult:
    exit_code, signal, error = answer.get("exit_code"), answer.get("signal"), answer.get("error")
    return ExecResult(
        node=str(answer["node"]),
        request_id=str(answer["request_id"]),
        status=str(answer["status"]),
        exit_code=exit_code if isinstance(exit_code, int) else None,
        signal=signal if isinstance(signal, str) else None,
        stdout_bytes=kept.stdout,
        stderr_bytes=kept.stderr,
        duration_ms=_whole(answer.get("duration_ms")),
        truncated=kept.truncated or bool(answer.get("truncated")),
        error=error if isinstance(error, dict) else None,
    )


def transfer_result(answer: Json, size: str, sha256: str) -> TransferResult:
    """``size`` is the answer's key for how much was transferred; ``sha256`` is of our end."""
    error = answer.get("error")
    if isinstance(error, dict):
        raise from_wire(error)
    if answer["sha256"] != sha256:
        raise CallFailed(
            "the content arrived altered: its SHA-256 differs between here and the node",
            "transfer it again; if it stays so, suspect a disk",
        )
    return TransferResult(
        str(answer["node"]), str(answer["request_id"]), _whole(answer.get(size)), str(answer["sha256"])
    )


def _sha256() -> "hashlib._Hash":
    import hashlib  # noqa: PLC0415 - `exec` has no use for it

    return hashlib.sha256()


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _pieces(content: bytes | Iterable[bytes]) -> Iterator[memoryview]:
    """Content in pieces that fit a frame."""
    blocks = [content] if isinstance(content, bytes) else content
    views = (memoryview(block) for block in blocks)
    return (view[at : at + _PIECE] for view in views for at in range(0, len(view), _PIECE))


def _response_head(sock: socket.socket) -> tuple[int, bytes]:
    """The status of an HTTP response, and what came behind its head."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = sock.recv(_RECEIVE)
        if not piece:
            raise GatewayLost
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), rest


def _checked(status: int, content: bytes) -> Json:
    """The JSON of a response; raises the error that it carries."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise HermesNodesError(f"the gateway answered with HTTP {status} and no JSON")
    error = answer.get("error")
    if isinstance(error, dict):
        raise from_wire(error)
    return answer


class _CallConnection:
    """One call's upgraded connection, seen from the caller."""

    def __init__(
        self,
        sock: socket.socket,
        output: Output,
        content: Content | None,
        *,
        watch: Sequence[int],
        interrupt: int | None,
        sent: Callable[[memoryview], object],
    ) -> None:
        self._sock = sock
        self._sent = sent
        self._output = output
        #: Where input is read from, or what it is taken from; at most one of the two is left.
        self._input_fd = content if isinstance(content, int) else None
        self._pieces = None if content is None or isinstance(content, int) else _pieces(content)
        self._credit = _FIRST_WINDOW
        self._reader = control.FrameReader()
        self._answer: Json | None = None
        self._watch = watch
        self._interrupt = interrupt

    def run(self, request: bytes) -> Json:
        head = (
            "POST /v1/call HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: Upgrade\r\nUpgrade: {control.UPGRADE}\r\nContent-Length: {len(request)}\r\n\r\n"
        )
        self._send(head.encode("ascii") + request)
        try:
            status, rest = _response_head(self._sock)
        except OSError as error:
            raise GatewayLost from error
        if status != 101:  # noqa: PLR2004 - Switching Protocols
            _checked(status, rest)
            raise HermesNodesError(f"the gateway answered a call with HTTP {status}")
        self._take(rest)
        while self._answer is None:
            self._send_pieces()
            self._wait()
        return self._answer

    # -- waiting --

    def _wait(self) -> None:
        """Wait for the gateway, for input, for the user, or for a reader to leave."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        for fd in self._watch:
            poll.register(fd, 0)
        if self._interrupt is not None:
            poll.register(self._interrupt, select.POLLIN)
        if self._input_fd is not None and self._credit >= _PIECE:
            poll.register(self._input_fd, select.POLLIN)
        events = dict(poll.poll(SILENCE_SECONDS * 1000))
        if not events:
            raise GatewayLost
        self._handle(events)

    def _handle(self, events: dict[int, int]) -> None:
        if self._interrupt in events:
            self._interrupt = None
            self._input_ended()
            self._send(control.frame(control.CANCEL))
        if self._sock.fileno() in events:
            self._receive()
        elif any(events.get(fd, 0) & (select.POLLERR | select.POLLHUP) for fd in self._watch):
            raise BrokenPipeError
        if self._input_fd in events:
            self._read_input()

    # -- from the gateway --

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE)
        except OSError as error:
            raise GatewayLost from error
        if not data:
            raise GatewayLost
        self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                self._take_frame(frame)
        except control.FrameTooLargeError as error:
            raise HermesNodesError(
                "the gateway sent something that this client does not understand",
                "compare `hermes-nodes --version` with `hermes-nodes status`",
            ) from error

    def _take_frame(self, frame: control.ControlFrame) -> None:
        if frame.kind == control.DATA:
            self._output(frame.channel, frame.payload)
        elif frame.kind == control.WINDOW:
            self._credit += control.window_size(frame.payload)
        elif frame.kind == control.ANSWER:
            self._answer = json.loads(bytes(frame.payload))

    # -- to the gateway --

    def _read_input(self) -> None:
        if self._input_fd is None or self._answer is not None:
            return
        self._send_input(memoryview(os.read(self._input_fd, _PIECE)))

    def _send_pieces(self) -> None:
        while self._pieces is not None and self._credit >= _PIECE and self._answer is None:
            self._send_input(next(self._pieces, memoryview(b"")))

    def _send_input(self, piece: memoryview) -> None:
        """Send a piece of channel 0, or its end."""
        if piece:
            self._credit -= len(piece)
            self._sent(piece)
            self._send(control.header(control.DATA, len(piece), _STDIN), piece)
        else:
            self._input_ended()
            self._send(control.frame(control.END, channel=_STDIN))

    def _input_ended(self) -> None:
        self._input_fd = None
        self._pieces = None

    def _send(self, *parts: bytes | memoryview) -> None:
        try:
            for part in parts:
                self._sock.sendall(part)
        except OSError:
            # The gateway has answered and closed, which ends the input: its words are still to be read.
            self._input_ended()
