"""What a node keeps of its detached jobs: the settings, and the bounds that are none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hermes_nodes.config import parse_duration, parse_size
from hermes_nodes.errors import UsageError

_T = TypeVar("_T")
_Check = Callable[[str], str]

#: Jobs that run at one time.
MAX_RUNNING = 64
#: Jobs that are known, running and ended. A list of them is one message and, towards the operator, one
#: frame of 256 KiB; an entry takes some 700 bytes of that.
MAX_KNOWN = 256
#: Less than what a pipe holds is no bound that can be kept to.
_LEAST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How much output is kept, in bytes of a stream and of all jobs together, and for how many seconds."""

    stream_bytes: int = 64 * 1024 * 1024
    total_bytes: int = 1024 * 1024 * 1024
    keep_seconds: float = 7 * 24 * 3600.0


def job_limits(setting: Callable[[str, _Check], str | None]) -> JobLimits:
    """The limits as config.toml has them; ``setting`` gives a key's text once it has passed its check."""
    usual = JobLimits()
    stream = setting("jobs_max_bytes", _passing(_size))
    total = setting("jobs_total_bytes", _passing(_size))
    keep = setting("jobs_keep", _passing(parse_duration))
    return JobLimits(
        stream_bytes=_size(stream) if stream else usual.stream_bytes,
        total_bytes=_size(total) if total else usual.total_bytes,
        keep_seconds=parse_duration(keep) if keep else usual.keep_seconds,
    )


def _size(text: str) -> int:
    size = parse_size(text)
    if size < _LEAST_BYTES:
        raise ValueError(f"{text} is too little: at least 64K")
    return size


def _passing(parse: Callable[[str], _T]) -> _Check:
    """A check that lets through what can be parsed; raises UsageError with what is wrong."""

    def check(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise UsageError(str(error), "write a size as 64M and a time as 7d") from error
        return text

    return check
