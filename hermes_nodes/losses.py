"""What to do when a connection is lost during a call: it depends on what the call was."""

_NOTHING_CHANGED = "it changes nothing: ask again"
_JOB_GOES_ON = "the job is the node's own and goes on without this: ask again"
_HINTS = {
    "read": _NOTHING_CHANGED,
    "stat": _NOTHING_CHANGED,
    "list_dir": _NOTHING_CHANGED,
    "session_list": _NOTHING_CHANGED,
    "job_list": _NOTHING_CHANGED,
    "job_read": _JOB_GOES_ON,
    "job_wait": _JOB_GOES_ON,
    "job_kill": "the job may or may not have been ended: ask again, which does no harm",
}


def hint_after_loss(call: str, *, on_terminal: bool = False) -> str | None:
    """None where the call may have taken effect, as the error itself says.

    ``call`` by its name in the API; ``on_terminal``: an `exec` that somebody sat at.
    """
    if on_terminal:
        return "what ran in that terminal is ended when its node notices: begin anew"
    return _HINTS.get(call)
