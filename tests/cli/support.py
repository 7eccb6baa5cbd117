"""What a user at a keyboard does."""

import signal

from tests.harness import Background


def interrupt_until_left(running: Background) -> None:
    """Ctrl-C, and once more when it says that the command takes its time."""
    assert running.process.stderr is not None
    running.process.send_signal(signal.SIGINT)
    line = b""
    while b"Ctrl-C again leaves at once" not in line:
        line = running.process.stderr.readline()
        assert line, "it has ended without saying so"
    running.process.send_signal(signal.SIGINT)
