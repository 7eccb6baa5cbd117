"""`exec` on several nodes: side by side, whole lines behind their node's name, then what became of each."""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from hermes_nodes.cli.interrupts import Interrupts, interrupts
from hermes_nodes.cli.output import print_json, say, write_all
from hermes_nodes.cli.results import LEFT_HINT, answered, failed
from hermes_nodes.client import KEEP_BYTES, Client, Kept, not_connected
from hermes_nodes.disk import allow_many_files
from hermes_nodes.errors import CallCancelled, HermesNodesError, UnknownNode, from_wire

_STDOUT_FD, _STDERR_FD = 1, 2
#: Bytes of a line that are held until its end comes; what is longer is shown in parts.
_LONGEST_LINE = 256 * 1024
#: Bytes of output that are kept for JSON, of all nodes together.
_KEEP_ALL = 1024 * 1024 * 1024
#: Calls at once where nobody says: one thread and one socket each.
MOST_AT_ONCE = 500
#: Bytes of a thread's stack: it does nothing deep, and there may be hundreds.
_STACK_BYTES = 512 * 1024
_NOT_BEGUN, _CANCELLED = "not begun", "cancelled"


def parse_parallel(text: str) -> Callable[[int], int]:
    """``N`` or ``N%``: gives how many of so many nodes are called at once. ValueError says the forms."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    if not number.isascii() or not number.isdigit() or not 0 < int(number) <= (100 if percent else 10**6):
        raise ValueError(f"{text[:20]!r} is not a number of nodes: write 8, or 25%")
    if percent:
        return lambda nodes: max(1, nodes * int(number) // 100)
    return lambda _: int(number)


class Ended(NamedTuple):
    """What became of one node's call: its answer, or what kept it from one."""

    node: str
    answer: dict[str, object] | None
    kept: Kept | None
    failure: HermesNodesError | OSError | None

    @property
    def is_ok(self) -> bool:
        return self.answer is not None and self.answer.get("status") == "ok"

    @property
    def outcome(self) -> str:
        """As the summary counts it: ok, failed, cancelled or not begun."""
        if self.is_ok:
            return "ok"
        status = (self.answer or {}).get("status")
        if isinstance(self.failure, CallCancelled):
            return _NOT_BEGUN if self.failure.message == _NOT_BEGUN else _CANCELLED
        return _CANCELLED if status == _CANCELLED else "failed"

    @property
    def why(self) -> str:
        """Why it is not, in a few words."""
        error = (self.answer or {}).get("error")
        if isinstance(error, dict):
            return from_wire(error).message
        if self.answer is not None:
            return f"exit code {self.answer.get('exit_code')}"
        return str(self.failure)


class Lines:
    """One node's output, as whole lines behind its name."""

    def __init__(self, node: str, lock: threading.Lock) -> None:
        self._prefix = f"{node}: ".encode()
        self._lock = lock
        self._partial = {_STDOUT_FD: b"", _STDERR_FD: b""}

    def add(self, fd: int, piece: memoryview) -> None:
        """Show the lines that are whole now; ``fd`` is 1 or 2, ours as the command's."""
        *whole, rest = (self._partial[fd] + bytes(piece)).split(b"\n")
        while len(rest) > _LONGEST_LINE:
            end = _character_end(rest, _LONGEST_LINE)
            whole.append(rest[:end])
            rest = rest[end:]
        self._partial[fd] = rest
        self._show(fd, whole)

    def end(self) -> None:
        """Show what is left, which has no end of its own."""
        for fd, rest in self._partial.items():
            if rest:
                self._show(fd, [rest])

    def _show(self, fd: int, lines: Sequence[bytes]) -> None:
        if lines:
            with self._lock:
                write_all(fd, b"".join(b"%b%b\n" % (self._prefix, line) for line in lines))


def _character_end(text: bytes, at: int) -> int:
    """The last place up to ``at`` where no UTF-8 character is cut in two."""
    for end in range(at, at - 4, -1):
        if text[end] & 0xC0 != 0x80:  # noqa: PLR2004 - a continuation byte is 10xxxxxx
            return end
    return at


class Crew:
    """The calls to some nodes, at most so many at once."""

    def __init__(self, gateway: Client, body: dict[str, object], *, fail_fast: bool, as_json: bool) -> None:
        self._gateway = gateway
        self._body = body
        self._fail_fast = fail_fast
        self._as_json = as_json
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        #: What is kept of each node's output for JSON.
        self._kept: dict[str, Kept] = {}

    def run(self, nodes: Sequence[str], at_once: int, caught: Interrupts) -> list[Ended]:
        """Call them all; those that were not begun when something stopped the rest have failed."""
        waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
        ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        for node in nodes:
            waiting.put(node)
        keep = min(KEEP_BYTES, _KEEP_ALL // (2 * len(nodes)))

        def work() -> None:
            while True:
                try:
                    node = waiting.get_nowait()
                except queue.Empty:
                    return
                ended.put(self._call(node, keep, caught))

        allow_many_files()
        threading.stack_size(_STACK_BYTES)
        for _ in range(min(at_once, len(nodes))):
            # Nobody waits for them where the user leaves at once.
            threading.Thread(target=work, daemon=True).start()
        return self._all_noted(nodes, ended)

    def refuse(self, nodes: Sequence[str], away: Mapping[str, HermesNodesError]) -> list[Ended]:
        """Begin nothing, because some of the nodes can't be called."""
        not_begun = CallCancelled(_NOT_BEGUN)
        kept = Kept(0) if self._as_json else None
        return [self._noted(Ended(node, None, kept, away.get(node, not_begun))) for node in nodes]

    def _all_noted(self, nodes: Sequence[str], ended: "queue.SimpleQueue[Ended]") -> list[Ended]:
        found: list[Ended] = []
        left = list(nodes)
        try:
            while left:
                found.append(one := ended.get())
                left.remove(one.node)
                self._noted(one)
        except KeyboardInterrupt:  # the user waits no longer
            if not self._as_json:
                raise
            error = CallCancelled("interrupted", LEFT_HINT)
            kept = Kept(0)
            found += [self._noted(Ended(node, None, self._kept.get(node, kept), error)) for node in left]
        return found

    def _call(self, node: str, keep: int, caught: Interrupts) -> Ended:
        ended = self._outcome(node, keep, caught)
        if self._fail_fast and not ended.is_ok and not self._stopped.is_set():
            self._stopped.set()
            caught.tell()
        return ended

    def _outcome(self, node: str, keep: int, caught: Interrupts) -> Ended:
        kept = self._kept.setdefault(node, Kept(keep)) if self._as_json else None
        lines = Lines(node, self._lock)
        if self._stopped.is_set() or caught.by_user:
            return Ended(node, None, kept, CallCancelled(_NOT_BEGUN))
        try:
            answer = self._gateway.call(
                {**self._body, "node": node},
                kept.add if kept else lines.add,
                watch=(_STDOUT_FD,),
                interrupt=caught.fd,
            )
            lines.end()
        except (HermesNodesError, OSError) as failure:
            lines.end()
            return Ended(node, None, kept, failure)
        return Ended(node, answer, kept, None)

    def _noted(self, ended: Ended) -> Ended:
        if isinstance(ended.failure, OSError):
            raise ended.failure  # it is about our own output
        if ended.kept is not None:
            print_json(_object(ended, ended.kept))
        return ended


def _object(ended: Ended, kept: Kept) -> dict[str, object]:
    if ended.answer is not None:
        return answered(ended.answer, kept)
    assert isinstance(ended.failure, HermesNodesError)  # noqa: S101 - the other kind has been raised
    return failed(ended.node, kept, ended.failure)


def execute(
    gateway: Client,
    target: str,
    body: dict[str, object],
    *,
    parallel: Callable[[int], int] | None,
    fail_fast: bool,
    as_json: bool,
) -> int:
    """The exit status: 0 if all are ok, 1 if any is not, 130 if the user has ended it."""
    views = gateway.nodes(target)
    nodes = [str(view["name"]) for view in views]
    away = {str(view["name"]): _absence(view) for view in views if view["state"] != "connected"}
    at_once = min(MOST_AT_ONCE, parallel(len(nodes)) if parallel else len(nodes))
    crew = Crew(gateway, body, fail_fast=fail_fast, as_json=as_json)
    with interrupts(ends_slowly=True) as caught:
        is_vain = fail_fast and bool(away)
        ended = crew.refuse(nodes, away) if is_vain else crew.run(nodes, at_once, caught)
    bad = sorted((one for one in ended if not one.is_ok), key=lambda one: one.node)
    for one in bad:
        say(f"{one.node}: {one.why}")
    say(_summary(ended))
    if caught.by_user:
        return CallCancelled.exit_status
    return 1 if bad else 0


def _absence(view: dict[str, object]) -> HermesNodesError:
    return UnknownNode(str(view["name"])) if view["state"] == "revoked" else not_connected(view)


def _summary(ended: Sequence[Ended]) -> str:
    counts = Counter(one.outcome for one in ended)
    shown = ["ok", "failed", *(what for what in (_CANCELLED, _NOT_BEGUN) if counts[what])]
    nodes_word = "node" if len(ended) == 1 else "nodes"
    return f"{len(ended)} {nodes_word}: {', '.join(f'{counts[what]} {what}' for what in shown)}"
