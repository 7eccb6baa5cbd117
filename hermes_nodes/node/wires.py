"""The three streams of a command that is being started: our ends, and those that it gets."""

import fcntl
import os
import sys
from contextlib import suppress
from typing import NamedTuple

#: In place of a descriptor of ours: the command reads from nothing.
NO_INPUT = -1
#: A pipe holds 64 KiB; with more a fast command is switched to and fro less often.
_PIPE_BYTES = 256 * 1024


class Wires(NamedTuple):
    """Descriptors of stdin, stdout and stderr. The command's start closes ``theirs``."""

    ours: tuple[int, int, int]
    theirs: tuple[int, int, int]
    #: The terminal that all three are, as its processes know it.
    terminal: str | None = None


def pipes(*, stdin: bool = False) -> Wires:
    """A pipe for each output; one for the input, or nothing to read. Raises OSError."""
    opened: list[int] = []
    try:
        for _ in range(3 if stdin else 2):
            opened += pipe()
        nothing = NO_INPUT if stdin else os.open(os.devnull, os.O_RDONLY)
    except OSError:
        close(tuple(opened))
        raise
    out_read, out_write, err_read, err_write, *both = opened
    in_read, in_write = both or (nothing, NO_INPUT)
    return Wires((in_write, out_read, err_read), (in_read, out_write, err_write))


def pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe with room for what a window brings."""
    read_end, write_end = os.pipe()
    if sys.platform == "linux":
        with suppress(OSError):  # over the user's budget of pipe pages: the default serves
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return read_end, write_end


def close(fds: tuple[int, ...]) -> None:
    """Close what is a descriptor."""
    for fd in fds:
        if fd >= 0:
            os.close(fd)
