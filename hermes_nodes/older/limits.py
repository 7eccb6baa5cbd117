"""What an older node can't do, said before anything is sent to it."""

import re

from hermes_nodes.errors import Unsupported
from hermes_nodes.older.commands import DEFAULT_TIMEOUT_MS
from hermes_nodes.protocol import guarded
from hermes_nodes.protocol.messages import Exec, Read, Request, SessionList, SessionReset, Write

_LEAST_MS, _MOST_MS = 1_000, 595_000
#: Bytes of a variable with its name, which is an argument, too.
_MAX_VARIABLE = guarded.MAX_COMMAND
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


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
            return "can't read part of a file"
        case Write() if request.perm is not None:
            return "can't set permissions"
        case Write() if request.offset:
            return "can't resume a transfer"
        case Write() if request.root is not None:
            return "can't tell a link from what it leads to"
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
        f"takes variables of at most {_MAX_VARIABLE} bytes": _largest(request.env) > _MAX_VARIABLE,
        "takes only an absolute path for --cwd": not (request.cwd or "/").startswith("/"),
        "takes only variables that a shell can name": in_own_shell and not _are_names(request.env),
    }
    return next((lack for lack, is_so in lacks.items() if is_so), None)


def _size(request: Exec) -> int:
    command = request.command if request.argv is None else guarded.as_command(request.argv)
    return len((command or "").encode())


def _largest(env: dict[str, str] | None) -> int:
    return max((len(f"{name}={value}".encode()) for name, value in (env or {}).items()), default=0)


def _are_names(env: dict[str, str] | None) -> bool:
    return all(_VARIABLE.fullmatch(name) for name in env or {})
