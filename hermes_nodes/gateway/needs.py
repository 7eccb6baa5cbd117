"""What an operator must be allowed to do for each kind of call."""

from typing import assert_never

from hermes_nodes.operators import Needs
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

_EXEC: Needs = (frozenset({"exec"}),)
_JOBS: Needs = (frozenset({"jobs"}),)
_SHELL: Needs = (frozenset({"shell"}),)
# What `cp` asks for is no different from `read` and `write`, and nothing that a caller says of itself
# counts: so either verb is enough for the content of one file, and `cp` gives both ways and directories.
_READ: Needs = (frozenset({"read", "cp"}),)
_WRITE: Needs = (frozenset({"write", "cp"}),)


def needs(request: Request) -> Needs:
    """Of each of these sets one verb."""
    match request:
        case Exec() if request.pty and not request.argv and request.command is None:
            return _SHELL
        case Exec(detach=True):
            return _EXEC + _JOBS
        case Exec() | SessionList() | SessionReset():
            return _EXEC
        case Read() | Stat() | ListDir():
            return _READ
        case Write() | MakeDir():
            return _WRITE
        case JobList() | JobRead() | JobWait() | JobKill():
            return _JOBS
        case _:
            assert_never(request)
