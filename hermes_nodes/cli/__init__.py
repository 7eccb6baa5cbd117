"""The command line: parse, one call, print. The only place that turns errors into exit codes."""

import gc
import io
import os
import sys
from typing import NoReturn

PROGRAM = "hermes-nodes"
COMPLETE_VARIABLE = "_HERMES_NODES_COMPLETE"


def main() -> NoReturn:
    """The `hermes-nodes` command."""
    # A command lives for milliseconds: collecting its garbage and tearing it down would be most of that.
    gc.disable()
    _prepare_streams()
    os._exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """One command line, to its exit code, with all its output written."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # a reader that has left is no reason to complain
        return 141  # 128 + SIGPIPE
    except OSError as error:
        from hermes_nodes.cli.output import print_error  # noqa: PLC0415 - only for a failure

        print_error(f"can't write the output: {error.strerror}")
        return 1
    return code


def _run(arguments: list[str]) -> int:
    if arguments == ["--version"]:
        from hermes_nodes import __version__  # noqa: PLC0415 - the other commands have no use for it

        print(__version__)  # noqa: T201 - the asked-for data
        return 0
    from hermes_nodes.cli.app import run_app  # noqa: PLC0415 - `--version` goes without typer

    return run_app(arguments)


def _prepare_streams() -> None:
    """What stdout's encoding lacks is escaped; a closed stream is one that can't be written.

    Else the next socket or file would get its number, and the output with it.
    """
    streams = (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_RDWR, "w"))
    for fd, (name, flags, mode) in enumerate(streams):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # which is given the lowest free number: this one
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: SIM115 - for the process's life
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
