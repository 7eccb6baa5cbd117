"""What a node does with signals that whoever started it had told it to ignore."""

import signal

#: Python ignores these itself, and its children are started as if it did not.
_PYTHONS = {getattr(signal, name, None) for name in ("SIGPIPE", "SIGXFSZ")}


def hear_ignored() -> None:
    """Take no notice of such signals, rather than ignore them, and block none.

    A shell ignores INT and QUIT for what it starts in the background, and `nohup` HUP. Commands would
    inherit that, and could not undo it; a handler is gone with their exec.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals() - _PYTHONS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _take_no_notice)


def _take_no_notice(*_: object) -> None:
    pass
