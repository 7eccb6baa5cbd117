"""Run as a script: takes stdin as its controlling terminal, then becomes the command it was given.

``LC_CTYPE PROGRAM ARGV...``: the first one is the command's, empty for none. Standard library only, and
of that what Python has loaded already.
"""

import os
import signal
import sys


def main(lc_ctype: str, program: str, *argv: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.login_tty(0)
    _undo_python()
    if lc_ctype:
        os.environ["LC_CTYPE"] = lc_ctype
    else:
        os.environ.pop("LC_CTYPE", None)
    try:
        os.execvp(program, argv)  # noqa: S606 - it is what was asked for
    except OSError as error:
        os.write(2, f"{program}: {error.strerror}\n".encode(errors="surrogateescape"))
        sys.exit(127 if isinstance(error, FileNotFoundError) else 126)


def _undo_python() -> None:
    """Python ignores these and the command would inherit that; it sets LC_CTYPE in the locale C, too."""
    for name in ("SIGPIPE", "SIGXFSZ"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


if __name__ == "__main__":
    main(*sys.argv[1:])
