"""The client's calls about detached jobs, and finding the node that has one. Standard library only."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hermes_nodes.call_connection import Content, Json, Output, completed
from hermes_nodes.errors import FileMissing, HermesNodesError, NotAllowed, Unavailable, UsageError

_Answer = list[Json] | HermesNodesError
#: Nodes that are asked for their jobs at one time.
_AT_ONCE = 32
#: Seconds in which a node has to say which jobs it has.
ASK_SECONDS = 5.0
#: What a job may be named by: its id, or the beginning of it.
_NAMED = re.compile("[0-9a-f-]{8,36}")
_ID_CHARS = 36
#: States of a node that is connected, and of one that was.
_HERE, _AWAY = "connected", "disconnected"
#: Nodes that a sentence names.
_MOST_NAMED = 10


class JobOutput(NamedTuple):
    """What was read of a stream: up to which byte, and whether the node has kept less than there was."""

    end: int
    truncated: bool


class JobEnd(NamedTuple):
    """How a job ended. ``status`` is ok, error, timeout or cancelled; ``exit_code`` is 128+n where
    ``signal`` ended it."""

    node: str
    job: str
    status: str
    exit_code: int | None
    signal: str | None
    truncated: bool
    error: Json | None


class JobPlace(NamedTuple):
    """Where a job is."""

    node: str
    id: str


class Survey(NamedTuple):
    """The jobs of some nodes, each with its node's name under ``node``, the oldest first."""

    jobs: list[Json]
    #: Connected, with software that has no jobs.
    without: list[str]
    #: Not connected, and may have jobs.
    away: list[str]
    #: Could not say what they have.
    failed: dict[str, HermesNodesError]


class JobCalls(ABC):
    """`jobs`, `logs`, `wait` and `kill`, on top of ``call`` and ``nodes``."""

    @abstractmethod
    def nodes(self, target: str | None = None) -> list[Json]: ...

    @abstractmethod
    def call(
        self,
        body: Json,
        output: Output,
        content: Content | None = None,
        *,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        sent: Callable[[memoryview], object] = lambda _: None,
        note: Callable[[str], object] = lambda _: None,
    ) -> Json: ...

    def jobs(self, node: str) -> list[Json]:
        """The detached jobs of a node, running and ended, the oldest first.

        Keys: id, command, status (running, ok, error, timeout, cancelled, lost), exit_code, signal,
        started_at, ended_at, duration_ms, stdout_bytes, stderr_bytes, truncated, error; and node.
        """
        answer = self.call({"call": "job_list", "node": node}, _nowhere)
        found = _facts(answer).get("jobs")
        jobs = [job for job in found if isinstance(job, dict)] if isinstance(found, list) else []
        return [{"node": node, **job} for job in jobs]

    def job_logs(
        self,
        node: str,
        job: str,
        output: Callable[[memoryview], object],
        *,
        stream: str = "stdout",
        offset: int = 0,
        follow: bool = False,
        watch: Sequence[int] = (),
        interrupt: int | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> JobOutput:
        """Give what a job has printed to ``output``, from byte ``offset`` on; ``follow`` it to its end.

        ``job`` is the whole id. Raises FileMissing for one that the node does not know, CallCancelled where
        ``interrupt`` ended the reading.
        """
        body: Json = {"call": "job_read", "node": node, "job": job, "stream": stream, "offset": offset}
        answer = self.call(
            {**body, "follow": follow},
            lambda _, piece: output(piece),
            watch=watch,
            interrupt=interrupt,
            note=note,
        )
        facts = _facts(completed(answer))
        return JobOutput(_whole(facts.get("size_bytes")), bool(facts.get("truncated")))

    def job_wait(
        self,
        node: str,
        job: str,
        *,
        interrupt: int | None = None,
        note: Callable[[str], object] = lambda _: None,
    ) -> JobEnd:
        """Wait for a job's end; whatever ends the waiting leaves the job alone.

        Raises FileMissing, and CallFailed for a job whose end nobody saw.
        """
        answer = self.call(
            {"call": "job_wait", "node": node, "job": job}, _nowhere, interrupt=interrupt, note=note
        )
        code, signal, error = answer.get("exit_code"), answer.get("signal"), answer.get("error")
        return JobEnd(
            node=node,
            job=job,
            status=str(answer.get("status")),
            exit_code=code if isinstance(code, int) else None,
            signal=signal if isinstance(signal, str) else None,
            truncated=bool(answer.get("truncated")),
            error=error if isinstance(error, dict) else None,
        )

    def job_kill(self, node: str, job: str, *, interrupt: int | None = None) -> bool:
        """End everything that a job has started, and wait for that; False if it had ended before.

        Raises FileMissing, and CallCancelled where ``interrupt`` ended the waiting: the job is being ended.
        """
        body: Json = {"call": "job_kill", "node": node, "job": job}
        answer = completed(self.call(body, _nowhere, interrupt=interrupt))
        return not _facts(answer).get("already_ended")

    def survey_jobs(self, target: str | None = None) -> Survey:
        """The jobs of the nodes that a TARGET names, of all without it, asked side by side.

        Raises UnknownNode, and NotAllowed for an operator that may ask none of them.
        """
        return self._survey(target, lambda _: False)

    def find_job(self, job: str) -> JobPlace:
        """The connected node that has a job, by its id or by at least 8 characters of its beginning.

        Raises UsageError for what can't be one or fits several, NotAllowed for an operator that may not
        ask, FileMissing, Unavailable where nodes that might have it can't be asked.
        """
        named = job.lower()
        if not _NAMED.fullmatch(named):
            raise UsageError(
                f"{job[:_ID_CHARS]!r} is not a job", "give its id, or at least the first 8 characters of it"
            )
        survey = self._survey(None, lambda found: any(one.get("id") == named for one in found))
        fitting = [one for one in survey.jobs if str(one.get("id")).startswith(named)]
        places = {JobPlace(str(one["node"]), str(one["id"])) for one in fitting}
        if len(places) > 1:
            names = ", ".join(sorted(f"{place.id} on {place.node}" for place in places)[:_MOST_NAMED])
            raise UsageError(f"several jobs begin with {named}: {names}", "give more of the id")
        if not places:
            raise _not_found(named, survey)
        return places.pop()

    def _survey(self, target: str | None, is_enough: Callable[[list[Json]], bool]) -> Survey:
        """Stops asking as soon as a node's jobs are enough."""
        nodes = self.nodes(target)
        connected = [node for node in nodes if node["state"] == _HERE]
        asked = [str(node["name"]) for node in connected if _has_jobs(node)]
        survey = Survey(
            jobs=[],
            without=[str(node["name"]) for node in connected if not _has_jobs(node)],
            away=[
                str(node["name"]) for node in nodes if node["state"] == "disconnected" and _has_jobs(node)
            ],
            failed={},
        )
        if asked:
            self._ask(asked, survey, is_enough)
        elif nodes:
            self._check_allowed(str(nodes[0]["name"]))
        survey.jobs.sort(key=lambda job: str(job.get("started_at")))
        return survey

    def _check_allowed(self, name: str) -> None:
        """Raises NotAllowed for an operator that could ask no node; what any one says tells that."""
        try:
            self.jobs(name)
        except HermesNodesError as error:
            _raise_if_forbidden(error)  # else it can't be asked now, which the survey knows

    def _ask(self, names: list[str], survey: Survey, is_enough: Callable[[list[Json]], bool]) -> None:
        """Fill in a survey, until all have answered or have had their time."""
        import queue  # noqa: PLC0415 - `exec` has no use for it

        answers: queue.SimpleQueue[tuple[str, _Answer]] = queue.SimpleQueue()
        self._start_asking(names, lambda name, answer: answers.put((name, answer)))
        late = {
            name: Unavailable(f"node {name!r} did not answer within {ASK_SECONDS:.0f} s") for name in names
        }
        survey.failed.update(late)
        deadline = time.monotonic() + ASK_SECONDS
        for _ in names:
            try:
                name, answer = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(answer, HermesNodesError):
                _raise_if_forbidden(answer)
                survey.failed[name] = answer
                continue
            del survey.failed[name]
            survey.jobs.extend(answer)
            if is_enough(answer):
                return

    def _start_asking(self, names: list[str], tell: Callable[[str, _Answer], None]) -> None:
        """Ask each node in a thread, some at a time; ``tell`` gets what each has said."""
        import threading  # noqa: PLC0415 - `exec` has no use for it

        waiting = iter(names)
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    name = next(waiting, None)
                if name is None:
                    return
                try:
                    tell(name, self.jobs(name))
                except HermesNodesError as error:
                    tell(name, error)

        for _ in range(min(_AT_ONCE, len(names))):
            # Nobody waits for one whose node is stuck: its call ends when the node counts as gone.
            threading.Thread(target=work, daemon=True).start()


def _raise_if_forbidden(error: HermesNodesError) -> None:
    """Raise what the gateway refuses an operator; a node's own refusals are kinds of it."""
    if type(error) is NotAllowed:
        raise error


def _not_found(job: str, survey: Survey) -> HermesNodesError:
    missing = [f"not connected: {_some(survey.away)}"] if survey.away else []
    missing += [f"not answering: {_some(list(survey.failed))}"] if survey.failed else []
    hint = "`hermes-nodes jobs` shows those of the connected nodes"
    if missing:
        return Unavailable(f"no node that can be asked has a job {job} ({'; '.join(missing)})", hint)
    return FileMissing(f"no node has a job {job}", hint)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _has_jobs(node: Json) -> bool:
    capabilities = node.get("capabilities")
    return isinstance(capabilities, list) and "jobs" in capabilities


def _facts(answer: Json) -> Json:
    facts = answer.get("facts")
    return facts if isinstance(facts, dict) else {}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _nowhere(_: int, __: memoryview) -> None:
    """For calls without output."""
