"""Every failure an operator can meet, each with its code, exit status and HTTP status.

    HermesNodesError
    ├── UsageError            2    a bad option, name or value
    ├── UnknownNode           66   no pairing of that name
    ├── UnknownOperator       66   no operator of that name
    ├── FileMissing           66   no such file on the node
    ├── Unavailable           69   not to be had now
    │   ├── GatewayNotRunning
    │   ├── GatewayNotAnswering    the lock is held, but its socket is dead
    │   ├── HomeLocked             another process changes this home
    │   ├── ListenFailed           the address can't be bound
    │   ├── AuditUnwritable        no row of the trail, no call
    │   ├── NodeNotConnected
    │   └── Unsupported            the node can't do that
    ├── AlreadyExists         73
    │   ├── AlreadyPaired
    │   └── FileAlreadyThere
    ├── TryAgain              75
    │   ├── RateLimited
    │   ├── Busy
    │   ├── NodeDisconnected       the node's connection ended during the call
    │   └── GatewayLost            the gateway's connection ended during the call
    ├── NotAllowed            77
    │   ├── PathNotAllowed         outside the node's allowlist
    │   ├── FilePermission         the node's user may not
    │   ├── NoToken                no operator token, over the network
    │   ├── ForeignUser            not the gateway's user
    │   └── BadKey                 no token key, or the wrong one
    ├── SettingsError         78
    ├── CallFailed            1    the node tried and could not
    │   └── FileTooLarge
    ├── StoreDamaged          1
    ├── ProtocolViolation     1    a peer that does not keep to the wire protocol
    ├── CallTimeout           124
    └── CallCancelled         130

An error carries its data and builds its own sentence; over the control API it travels as
``{"code", "message", "hint"}`` and comes out as the same class.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Self

#: Characters of a name that an error repeats; no node's name has more.
MAX_SHOWN = 64


class HermesNodesError(Exception):
    """The base: ``message`` says what is wrong, ``hint`` what to do about it."""

    code: ClassVar[str] = "internal_error"
    exit_status: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    #: How `exec --json` names this outcome.
    call_status: ClassVar[str] = "failed"

    message: str
    hint: str
    #: The call that failed so, where there was one.
    request_id: str | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def to_wire(self) -> dict[str, object]:
        """The object under ``error`` in a reply of the control API."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


class UsageError(HermesNodesError):
    code = "bad_request"
    exit_status = 2
    http_status = 400


class UnknownNode(HermesNodesError):
    code = "unknown_node"
    exit_status = 66
    http_status = 404
    call_status = "unknown_node"

    def __init__(self, name: str, *, is_pattern: bool = False) -> None:
        shown = name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…"
        hint = "`hermes-nodes list` shows the names; `hermes-nodes pair NAME` adds one"
        if is_pattern and name.startswith("label:") and "=" not in name:
            hint = "a label is written label:K=V"
        super().__init__(f"no node {'matches' if is_pattern else 'is paired as'} {shown!r}", hint)


class UnknownOperator(HermesNodesError):
    code = "unknown_operator"
    exit_status = 66
    http_status = 404

    def __init__(self, name: str) -> None:
        super().__init__(
            f"there is no operator {name[:MAX_SHOWN]!r}", "`hermes-nodes operator list` shows them"
        )


class FileMissing(HermesNodesError):
    code = "file_not_found"
    exit_status = 66
    http_status = 404


class Unavailable(HermesNodesError):
    code = "unavailable"
    exit_status = 69
    http_status = 503

    @classmethod
    def unsaved(cls, who: str, act: str, why: HermesNodesError) -> "Unavailable":
        """Somebody's end that holds as long as this gateway runs; ``act`` brings it about."""
        return cls(
            f"{who} is shut out for now, but that could not be saved: {why.message}",
            f"mend that and {act} it again before this gateway stops",
        )


class GatewayNotRunning(Unavailable):
    code = "gateway_not_running"

    def __init__(self, socket_path: str) -> None:
        super().__init__(
            f"no gateway answers at {socket_path}",
            "start one with `hermes-nodes serve`, or name another with --gateway",
        )


class GatewayNotAnswering(Unavailable):
    code = "gateway_not_answering"

    def __init__(self, socket_path: str) -> None:
        super().__init__(
            f"a gateway holds this home, but does not answer at {socket_path}",
            "it may be starting or stopping: try again; or use the socket it was given with --gateway",
        )


class HomeLocked(Unavailable):
    code = "home_locked"
    by_gateway: bool = False

    def __init__(self, lock_path: str, holder: str, *, by_gateway: bool = False) -> None:
        super().__init__(
            f"this home is in use by {holder}, which holds {lock_path}",
            "stop that process first, or give this one a home of its own with HERMES_HOME",
        )
        self.by_gateway = by_gateway


class ListenFailed(Unavailable):
    code = "listen_failed"


class AuditUnwritable(Unavailable):
    code = "audit_unwritable"

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"the audit trail {path} cannot be written: {error.strerror or error}",
            "mend that path or free some space, or name another with audit_log_path",
        )

    def after(self, done: str) -> Self:
        """The same, where what has no row is ``done`` all the same."""
        self.message = f"{done}, but without a row: {self.message}"
        self.args = (self.message,)
        return self


class NodeNotConnected(Unavailable):
    code = "not_connected"
    http_status = 409
    call_status = "not_connected"

    def __init__(self, name: str, last_seen_at: str | None, *, is_older: bool = False) -> None:
        seen = f"last seen {last_seen_at}" if last_seen_at else "never seen"
        start = (
            "start its node software there" if is_older else "start it there with `hermes-nodes node run`"
        )
        super().__init__(f"node {name!r} is not connected ({seen})", start)


class Unsupported(Unavailable):
    code = "unsupported"
    http_status = 501
    call_status = "unsupported"

    def __init__(self, name: str, what: str) -> None:
        super().__init__(
            f"node {name!r} does not offer {what}",
            "`hermes-nodes list --json` shows what each node's software can do",
        )

    @classmethod
    def older(cls, name: str, lack: str) -> "Unsupported":
        """``lack`` says what the software of a node without `stream/1` can't do."""
        made = cls(name, "")
        made.message = f"node {name!r} runs older node software, which {lack}"
        made.args = (made.message,)
        made.hint = "`hermes-nodes node run` can: install hermes-nodes on it, and `pair --force` it anew"
        return made


class AlreadyExists(HermesNodesError):
    code = "already_exists"
    exit_status = 73
    http_status = 409


class AlreadyPaired(AlreadyExists):
    code = "already_paired"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} is already paired",
            "--force revokes that pairing and makes a new one",
        )


class FileAlreadyThere(AlreadyExists):
    code = "file_exists"


class TryAgain(HermesNodesError):
    code = "try_again"
    exit_status = 75
    http_status = 503


class RateLimited(TryAgain):
    code = "rate_limited"
    http_status = 429
    call_status = "rate_limited"
    #: None where all that is known came over the wire.
    retry_after_ms: int | None = None

    def __init__(self, name: str, limit_per_second: int, retry_after_ms: int) -> None:
        super().__init__(
            f"node {name!r} is at its limit of {limit_per_second} calls a second",
            f"try again in {retry_after_ms} ms",
        )
        self.retry_after_ms = retry_after_ms


class Busy(TryAgain):
    code = "busy"
    http_status = 429
    call_status = "busy"

    def __init__(self, name: str, calls: int) -> None:
        super().__init__(
            f"node {name!r} has {calls} calls running or waiting, which is all it takes",
            "try again when one of them has ended",
        )

    @classmethod
    def by_node(cls, name: str, said: str) -> "Busy":
        """The node takes no more, for the reason that it ``said``."""
        made = cls(name, 0)
        made.message = f"node {name!r}: {said}"
        made.hint = "wait until something there has ended, or end a job with `hermes-nodes kill`"
        made.args = (made.message,)
        return made

    @classmethod
    def untaken(cls, name: str) -> "Busy":
        """Its output fills the gateway's room, because those who asked for it do not read it."""
        made = cls(name, 0)
        made.message = f"the output of earlier calls to node {name!r} waits for its readers"
        made.hint = "try again when they have read it, or end those calls"
        made.args = (made.message,)
        return made


class NodeDisconnected(TryAgain):
    code = "node_disconnected"
    http_status = 502
    call_status = "node_disconnected"

    #: Whether the call had gone out to the node.
    was_sent: bool = True

    def __init__(self, name: str, *, sent: bool = True) -> None:
        if sent:
            when = "during the call"
            hint = "the call may have taken effect there; look before you repeat it"
        else:
            when, hint = "before the call was sent", "nothing has run: try again when it is back"
        super().__init__(f"the connection to node {name!r} ended {when}", hint)
        self.was_sent = sent


class GatewayLost(TryAgain):
    code = "gateway_lost"

    def __init__(self) -> None:
        super().__init__(
            "the connection to the gateway ended during the call",
            "the call may have taken effect; `hermes-nodes audit tail` shows what is known",
        )


class NotAllowed(HermesNodesError):
    code = "denied"
    exit_status = 77
    http_status = 403
    call_status = "denied"


class PathNotAllowed(NotAllowed):
    code = "path_not_allowed"


class NoToken(NotAllowed):
    """Whoever asks over the network has shown no token, or none that is good."""

    code = "unauthenticated"
    http_status = 401

    def __init__(self) -> None:
        super().__init__(
            "the gateway does not accept this operator token, or was shown none",
            "give one as HERMES_NODES_OPERATOR_TOKEN or --operator-token-file; `hermes-nodes operator add`"
            " makes them, and one that was removed or has expired is none",
        )


class FilePermission(NotAllowed):
    code = "permission_denied"


class ForeignUser(NotAllowed):
    code = "foreign_user"

    def __init__(self) -> None:
        super().__init__(
            "this socket serves only the user who runs the gateway",
            "run the command as that user",
        )


class BadKey(NotAllowed):
    code = "bad_key"
    http_status = 500


class SettingsError(HermesNodesError):
    code = "bad_settings"
    exit_status = 78


class CallFailed(HermesNodesError):
    """The node was asked and could not; ``message`` is its own word, made printable."""

    code = "failed"
    http_status = 502


class FileTooLarge(CallFailed):
    code = "file_too_large"


class StoreDamaged(HermesNodesError):
    code = "store_damaged"


class ProtocolViolation(HermesNodesError):
    """A message that the protocol does not allow; ends the connection with ``close_code``."""

    code = "protocol_violation"
    http_status = 502
    close_code: int = 4003

    def __init__(self, message: str, *, close_code: int = 4003) -> None:
        super().__init__(message, "both ends must speak this protocol: compare their versions")
        self.close_code = close_code


class CallTimeout(HermesNodesError):
    code = "timeout"
    exit_status = 124
    http_status = 504
    call_status = "timeout"


class CallCancelled(HermesNodesError):
    code = "cancelled"
    exit_status = 130
    http_status = 499  # nginx's "client closed request"; IANA has no number for it
    call_status = "cancelled"


def _tree(root: type[HermesNodesError]) -> Iterator[type[HermesNodesError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def from_wire(error: Mapping[str, object]) -> HermesNodesError:
    """The exception that ``to_wire`` was called on; an unknown code gives the base class."""
    code = error.get("code")
    kind = next((kind for kind in _tree(HermesNodesError) if kind.code == code), HermesNodesError)
    made = kind.__new__(kind)
    HermesNodesError.__init__(
        made, str(error.get("message", "the gateway gave no reason")), str(error.get("hint", ""))
    )
    return made
