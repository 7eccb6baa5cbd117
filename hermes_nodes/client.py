"""Talks to a running gateway: blocking, standard library only, one connection per call.

``Client().exec("laptop", "uname -a")`` is all a program needs. Every import here is paid for by every
`hermes-nodes exec`, so there are few.
"""

import json
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import quote, urlencode

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
from hermes_nodes.errors import (
    MAX_SHOWN,
    ForeignUser,
    GatewayLost,
    GatewayNotRunning,
    NodeNotConnected,
    UnknownNode,
    UsageError,
    from_wire,
)
from hermes_nodes.file_calls import FileCalls, whole
from hermes_nodes.file_calls import TransferResult as TransferResult  # noqa: PLC0414 - what `read` gives
from hermes_nodes.job_calls import JobCalls
from hermes_nodes.losses import hint_after_loss

#: Seconds for a request other than a call.
REQUEST_SECONDS = 30.0
#: Characters of a TARGET; the head of an HTTP request has room for no more.
MAX_TARGET = 2000
#: Bytes of each stream that `exec` keeps.
KEEP_BYTES = 16 * 1024 * 1024
_STDOUT, _STDERR = 1, 2
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


class Client(FileCalls, JobCalls):
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
        if target is not None and len(target) > MAX_TARGET:
            raise UsageError(f"a TARGET of {len(target)} characters is too long", "use a glob or a label")
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
        if len(name) > MAX_SHOWN:  # nor would HTTP take a path of any length
            raise UnknownNode(name)
        return self._request("DELETE", f"/v1/pairings/{quote(name, safe='', errors='surrogateescape')}")

    def label(self, name: str, changes: Mapping[str, str | None]) -> Json:
        """Set labels of a pairing, and drop those whose value is None; gives all that it has then."""
        if len(name) > MAX_SHOWN:
            raise UnknownNode(name)
        path = f"/v1/pairings/{quote(name, safe='', errors='surrogateescape')}"
        return self._request("PATCH", path, {"labels": dict(changes)})

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
        with self._connect() as sock:
            connection = CallConnection(
                sock,
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
                status, rest = response_head(sock)
                while piece := sock.recv(RECEIVE_BYTES):
                    rest += piece
            except OSError as error:
                raise GatewayLost from error
        return checked_answer(status, rest)


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
