"""The command line: parse, one call, print. The only place that turns errors into exit codes."""

import gc
import os
import sys
from typing import NoReturn

PROGRAM = "hermes-nodes"
COMPLETE_VARIABLE = "_HERMES_NODES_COMPLETE"


def main() -> NoReturn:
    """The `hermes-nodes` command."""
    # A command lives for milliseconds: collecting its garbage and tearing it down would be most of that.
    gc.disable()
    code = run(sys.argv[1:])
    os._exit(_flushed(code))


def run(arguments: list[str]) -> int:
    """One command line, to its exit code."""
    if arguments == ["--version"]:
        from hermes_nodes import __version__  # noqa: PLC0415 - the other commands have no use for it

        print(__version__)  # noqa: T201 - the asked-for data
        return 0
    from hermes_nodes.cli.app import run_app  # noqa: PLC0415 - `--version` goes without typer

    return run_app(arguments)


def _flushed(code: int) -> int:
    """Write out what is buffered; a reader that has left is no reason to complain."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        return 141  # 128 + SIGPIPE
    except OSError as error:
        os.write(2, f"{PROGRAM}: error: can't write to stdout: {error.strerror}\n".encode())
        return 1
    return code
