"""What a call is in the trail: its action, and the command or path that it is about."""

from typing import NamedTuple, assert_never

from hermes_nodes.audit.rows import SUMMARY_CHARS, Action, CommandMode, summarise_command
from hermes_nodes.protocol.messages import (
    Exec,
    JobKill,
    JobList,
    JobRead,
    JobWait,
    ListDir,
    MakeDir,
    Read,
    Request,
    SessionList,
    SessionReset,
    Stat,
    Write,
)


class Act(NamedTuple):
    """The columns of a row that say what was done."""

    action: Action
    command: str | None
    path: str | None


def act(request: Request, commands: CommandMode) -> Act:
    """``commands`` says how much of a command a row may hold."""
    match request:
        case Exec() if request.pty and not request.argv and request.command is None:
            return Act("shell", None, None)
        case Exec():
            return Act("exec", summarise_command(request.argv or request.command or "", commands), None)
        case Read() | Stat() | ListDir():
            return Act("read", None, request.path)
        case Write() | MakeDir():
            return Act("write", None, request.path)
        case SessionList() | SessionReset():
            return Act("exec", _words(request, getattr(request, "session", "")), None)
        case JobList() | JobRead() | JobWait() | JobKill():
            return Act("job", _words(request, getattr(request, "job", "")), None)
        case _:
            assert_never(request)


def _words(request: Request, name: str) -> str:
    return f"{request.__struct_config__.tag} {name}".strip()[:SUMMARY_CHARS]
