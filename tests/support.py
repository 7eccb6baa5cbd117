"""What tests of several parts use."""

import resource
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes_nodes.errors import HermesNodesError
from hermes_nodes.records import Secret
from hermes_nodes.tokens import TokenStore

PATIENCE = 20  # seconds until what was to come counts as lost
#: Seconds in which what comes at once is there, however busy the machine: less than nodes and gateways give
#: each other for anything.
SOON = 5.0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """The nearest thing to a full disk that a test may have: no file may grow past so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def in_background(work: Callable[[], object]) -> Iterator[None]:
    """Repeats the work in a thread until the block ends; its exception fails the test."""
    done = threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            while not done.is_set():
                work()
        except (OSError, HermesNodesError, AssertionError) as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENCE)
    assert failures == []


def comes_true(condition: Callable[[], bool], *, every: float = 0.01) -> bool:
    """Whether it does, for what tells nobody when it comes; looks again after so many seconds."""
    deadline, waiting = time.monotonic() + PATIENCE, threading.Event()
    while not (found := condition()) and time.monotonic() < deadline:
        waiting.wait(every)
    return found


def attempts(least: int, *, until: Callable[[], bool]) -> Iterator[int]:
    """Numbers of attempts at what depends on chance: so many at least, and on until it has come up."""
    deadline = time.monotonic() + PATIENCE
    number = 0
    while number < least or not (until() or time.monotonic() > deadline):
        yield number
        number += 1


def proofs(store: TokenStore, pairing_id: str) -> list[Secret]:
    """What a pairing may be proved with, without what is the store's own affair."""
    return [Secret(secret.kind, secret.value) for secret in store.secrets(pairing_id)]
