"""Talks to a running gateway: blocking, standard library only, one connection per call.

``Client().exec("laptop", "uname -a")`` is all a program needs. Every import here is paid for by every
`hermes-nodes exec`, so there are few.
"""

import json
import math
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from hermes_nodes.admin_calls import MAX_TARGET, AdminCalls, query_of
from hermes_nodes.call_connection import (
    RECEIVE_BYTES,
    CallConnection,
    Content,
    Json,
    Output,
    Screen,
    checked_answer,
    response_head,
)
from hermes_nodes.config import control_socket_path
from hermes_nodes.dialing import GatewayAddress, token_of
from hermes_nodes.errors import GatewayLost, NodeNotConnected, UsageError, from_wire
from hermes_nodes.file_calls import FileCalls, whole
from hermes_nodes.file_calls import TransferResult as TransferResult  # noqa: PLC0414 - what `read` gives
from hermes_nodes.job_calls import JobCalls
from hermes_nodes.losses import hint_after_loss

#: Seconds for a request other than a call.
REQUEST_SECONDS = 30.0
#: Bytes of each stream that `exec` keeps.
KEEP_BYTES = 16 * 1024 * 1024
_STDOUT, _STDERR = 1, 2
_OK = 200
#: As in protocol.messages, whose import takes longer than a whole `exec`.
_STREAM = "stream/1"


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


class Client(FileCalls, JobCalls, AdminCalls):
    """One gateway: a socket's path or a URL, by default HERMES_NODES_GATEWAY, else the home's socket.

    A URL needs the ``token`` of an operator, by default HERMES_NODES_OPERATOR_TOKEN.

    Every method raises a HermesNodesError that says what is wrong: GatewayNotRunning, UnknownNode,
    NodeNotConnected, NodeDisconnected, …
    """

    def __init__(
        self,
        gateway: str | None = None,
        *,
        token: str | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.gateway = gateway or environ.get("HERMES_NODES_GATEWAY") or control_socket_path(environ)
        self._address = GatewayAddress.parse(self.gateway, token or token_of(environ))

    # -- requests --

    def status(self) -> Json:
        """The gateway's version, address, uptime and counts."""
        return self._request("GET", "/v1/status")

    def nodes(
        self, target: str | None = None, *, state: str | None = None, everything: bool = False
    ) -> list[Json]:
        """The nodes, with the keys of `list --json`; revoked ones if ``everything`` or asked for."""
        if target is not None and len(target) > MAX_TARGET:
            raise UsageError(f"a TARGET of {len(target)} characters is too long", "use a glob or a label")
        query = query_of({"target": target, "state": state, "all": "1" if everything else None})
        answer = self._request("GET", f"/v1/nodes?{query}")
        nodes = answer.get("nodes")
        return nodes if isinstance(nodes, list) else []

    # -- calls --

    def exec(
        self,
        node: str,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        session: str | None = None,
        stdin: Content | None = None,
    ) -> ExecResult:
        """Run a command on a node and wait for its end.

        A string goes to the node's shell, a sequence is run as it is. ``timeout`` in seconds; without
        it there is none, but on older nodes, where it is 60. ``stdin`` is bytes, pieces of them, or a
        descriptor; without it the command's input is empty. Each stream is kept up to 16 MiB, and
        ``truncated`` says if there was more.
        Raises what kept the command from running, or from being known to have ended.
        """
        kept = Kept()
        body = exec_body(
            node, command, cwd=cwd, env=env, timeout=timeout, session=session, stdin=stdin is not None
        )
        return exec_result(self.call(body, kept.add, stdin), kept)

    def start_job(
        self,
        node: str,
        command: str | Sequence[str],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> str:
        """Start a command as a job of the node, which outlives this call and every connection; its id."""
        body = exec_body(node, command, cwd=cwd, env=env, timeout=timeout, detach=True)
        return str(self.call(body, lambda *_: None)["job"])

    def sessions(self, node: str) -> list[str]:
        """The names under which a node keeps a directory and an environment."""
        facts = self.call({"call": "session_list", "node": node}, lambda *_: None).get("facts")
        names = facts.get("sessions") if isinstance(facts, dict) else None
        return [str(name) for name in names] if isinstance(names, list) else []

    def reset_session(self, node: str, session: str) -> None:
        """Forget a session of a node; FileMissing if it has none of that name."""
        self.call({"call": "session_reset", "node": node, "session": session}, lambda *_: None)

    def call(
        self,
        body: Json,
        output: Output,
        content: Content | None = None,
        *,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        sent: Callable[[memoryview], object] = lambda _: None,
        note: Callable[[str], object] = lambda _: None,
        screen: Screen | None = None,
    ) -> Json:
        """One call, from request to answer; ``output`` gets each piece with its channel, 1 or 2.

        ``content`` is what channel 0 carries; a descriptor is read as it has something, and ``sent`` hears
        of each piece. ``note`` gets what the gateway has to say meanwhile. ``watch`` are descriptors whose
        readers' leaving ends the call (BrokenPipeError). A byte on ``interrupt`` cancels the call, whose
        answer is then awaited. ``screen`` is the terminal of a call that has one, in place of ``content``.

        Raises what the answer says went wrong, unless it is a command's own end.
        """
        with self._address.connection() as sock:
            connection = CallConnection(
                sock,
                self._address,
                output,
                content,
                watch=watch,
                interrupt=interrupt,
                sent=sent,
                note=note,
                screen=screen,
            )
            try:
                answer = connection.run(_encoded(body))
            except GatewayLost as lost:
                specific = hint_after_loss(str(body["call"]), on_terminal=screen is not None)
                lost.hint = specific or lost.hint
                raise
        error = answer.get("error")
        if isinstance(error, dict) and answer.get("status") not in ("timeout", "cancelled"):
            failure = from_wire(error)
            failure.request_id = str(answer["request_id"])
            raise failure
        return answer

    # -- HTTP --

    def _request(self, method: str, path: str, body: Json | None = None) -> Json:
        content = b"" if body is None else _encoded(body)
        with self._asked(f"{method} {self._address.prefix}{path} HTTP/1.1", content) as sock:
            try:
                status, rest = response_head(sock)
                while piece := sock.recv(RECEIVE_BYTES):
                    rest += piece
            except OSError as error:
                raise GatewayLost from error
        return checked_answer(status, rest)

    def _lines(self, path: str) -> Iterator[Json]:
        # HTTP/1.0, whose answers are not in chunks: they end with their connection.
        with self._asked(f"GET {self._address.prefix}{path} HTTP/1.0", b"") as sock:
            try:
                status, rest = response_head(sock)
                sock.settimeout(None)
                with sock.makefile("rb") as stream:
                    if status != _OK:
                        checked_answer(status, rest + stream.read())
                    for line in _whole_lines(rest, stream):
                        yield checked_answer(status, line)
            except OSError as error:
                raise GatewayLost from error

    @contextmanager
    def _asked(self, request_line: str, content: bytes) -> Iterator[socket.socket]:
        """A connection on which a request has been sent."""
        head = (
            f"{request_line}\r\n{self._address.headers}Connection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        with self._address.connection() as sock:
            sock.settimeout(REQUEST_SECONDS)
            try:
                sock.sendall(head.encode("ascii") + content)
            except OSError as error:
                raise GatewayLost from error
            yield sock


def _whole_lines(begun: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The lines of what has begun and of what follows, as they come; half a one at the end is none."""
    *lines, begun = begun.split(b"\n")
    yield from lines
    for piece in stream:
        begun += piece
        if begun.endswith(b"\n"):
            yield begun[:-1]
            begun = b""


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
    command: str | Sequence[str] | None,
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = None,
    session: str | None = None,
    stdin: bool = False,
    detach: bool = False,
) -> Json:
    """The request of an `exec`."""
    what = {"command": command} if isinstance(command, str) else {"argv": list(command or ())}
    if timeout is not None and not 0 < timeout < math.inf:
        raise UsageError(f"{timeout:g} seconds can't be a time-out", "give more than 0, or none at all")
    milliseconds = None if timeout is None else max(1, round(timeout * 1000))
    return {
        "call": "exec",
        "node": node,
        **what,
        "cwd": cwd,
        "env": dict(env) if env else None,
        "timeout_ms": milliseconds,
        "session": session,
        "stdin": stdin,
        "detach": detach,
    }


def not_connected(view: Json) -> NodeNotConnected:
    """What keeps a node from being called that is away; ``view`` is one of `Client.nodes`."""
    seen, capabilities = view["last_seen_at"], view["capabilities"]
    is_older = bool(seen) and not (isinstance(capabilities, list) and _STREAM in capabilities)
    return NodeNotConnected(str(view["name"]), seen if isinstance(seen, str) else None, is_older=is_older)


class Kept:
    """Both streams of a command, each cut at so many bytes."""

    def __init__(self, most: int = KEEP_BYTES) -> None:
        self._most = most
        self._streams = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self.truncated = False

    def add(self, channel: int, piece: memoryview) -> None:
        stream = self._streams[channel]
        room = self._most - len(stream)
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
        duration_ms=whole(answer.get("duration_ms")),
        truncated=kept.truncated or bool(answer.get("truncated")),
        error=error if isinstance(error, dict) else None,
    )
