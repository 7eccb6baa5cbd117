"""`jobs`, `logs`, `wait`, `kill`: detached jobs, found by their id on whatever node has them."""

from typing import Annotated

import typer

from hermes_nodes.cli.home import client, paired_names
from hermes_nodes.cli.interrupts import interrupts
from hermes_nodes.cli.options import Json, command
from hermes_nodes.cli.output import Column, print_error, print_json, print_table, say, say_note, write_all
from hermes_nodes.client import Client, not_connected
from hermes_nodes.errors import Unsupported, from_wire
from hermes_nodes.job_calls import Survey
from hermes_nodes.text import printable

_STDOUT_FD = 1

JobId = Annotated[
    str, typer.Argument(metavar="JOB", help="A job's id, or at least the first 8 characters of it.")
]

_COLUMNS = (
    Column("id", "JOB", 36),
    Column("node", "NODE", 8),
    Column("status", "STATUS", 9),
    Column("exit_code", "EXIT", 4),
    Column("started_at", "STARTED", is_time=True),
    Column("ended_at", "ENDED", is_time=True),
    Column("stdout_bytes", "STDOUT"),
    Column("stderr_bytes", "STDERR"),
    Column("command", "COMMAND"),
)
_STYLES = {"running": "green", "error": "yellow", "timeout": "yellow", "lost": "red", "cancelled": "dim"}


def jobs(
    context: typer.Context,
    target: Annotated[
        str | None,
        typer.Argument(
            help="Names and globs with commas, label:K=V, or all.",
            show_default=False,
            autocompletion=paired_names,
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """List the detached jobs of the connected nodes, running and ended."""
    gateway = client(context)
    survey = gateway.survey_jobs(target)
    if target is not None:
        _require(gateway, target, survey)
    _say_unasked(survey)
    if as_json:
        print_json(survey.jobs)
    else:
        print_table(
            _COLUMNS, survey.jobs, lambda key, value: _STYLES.get(value, "") if key == "status" else ""
        )
    return 1 if survey.failed else 0


def _require(gateway: Client, target: str, survey: Survey) -> None:
    """Raises why the one node that was named could not be asked."""
    if not survey.jobs:
        for node in gateway.nodes(target):
            if node["name"] == target and node["state"] != "connected":
                raise not_connected(node)
    if target in survey.without:
        raise Unsupported(target, "`jobs`")
    if target in survey.failed:
        raise survey.failed[target]


def _say_unasked(survey: Survey) -> None:
    """Name the nodes of which nothing is shown."""
    if survey.without:
        say(f"note: skipped, as their software has no jobs: {printable(', '.join(survey.without))}")
    if survey.away:
        say(f"note: not connected: {printable(', '.join(survey.away))}")
    for name, error in survey.failed.items():
        say(f"warning: {printable(name)}: {error.message}")


def logs(
    context: typer.Context,
    job: JobId,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what comes, until the job ends.")
    ] = False,
    stderr: Annotated[
        bool, typer.Option("--stderr", help="What it wrote to stderr, not to stdout.")
    ] = False,
) -> None:
    """Print what a job has printed, byte for byte."""
    gateway = client(context)
    place = gateway.find_job(job)

    def output(piece: memoryview) -> None:
        write_all(_STDOUT_FD, piece)

    with interrupts() as caught:
        read = gateway.job_logs(
            place.node,
            place.id,
            output,
            stream="stderr" if stderr else "stdout",
            follow=follow,
            watch=(_STDOUT_FD,),
            interrupt=caught.fd,
            note=say_note,
        )
    if read.truncated:
        say("warning: the output was cut: there was more than the node keeps (`jobs_max_bytes` there)")


def wait(context: typer.Context, job: JobId) -> int:
    """Wait until a job has ended, and exit as it did. Ctrl-C leaves it running."""
    gateway = client(context)
    place = gateway.find_job(job)
    with interrupts() as caught:
        end = gateway.job_wait(place.node, place.id, interrupt=caught.fd, note=say_note)
    if end.error is not None:
        error = from_wire(end.error)
        print_error(error.message, error.hint)
        return error.exit_status
    return 1 if end.exit_code is None else end.exit_code


def kill(context: typer.Context, job: JobId) -> None:
    """End a job with everything that it has started: INT, after 2 s TERM, after 5 s KILL."""
    gateway = client(context)
    place = gateway.find_job(job)
    with interrupts() as caught:
        was_running = gateway.job_kill(place.node, place.id, interrupt=caught.fd)
    if was_running:
        say(f"job {place.id} on node {place.node!r} is ended")
    else:
        say(f"job {place.id} on node {place.node!r} had ended before")


APPS = {"jobs": command(jobs), "logs": command(logs), "wait": command(wait), "kill": command(kill)}
