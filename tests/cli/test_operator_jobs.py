"""`jobs`, `logs`, `wait` and `kill` of an operator that lacks the verb: not allowed, whatever there is."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from hermes_nodes.operators import VERBS
from tests.harness import Home
from tests.network import LOOPBACK, Remote, operator

JOB = "7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10"
WITHOUT_JOBS = ",".join(verb for verb in VERBS if verb != "jobs")
COMMANDS = [("logs", JOB), ("wait", JOB), ("kill", JOB), ("jobs",), ("jobs", "laptop")]


@pytest.fixture(params=["connected", "away"])
def remote(empty_home: Home, request: pytest.FixtureRequest) -> Iterator[Remote]:
    """An operator with every other verb, and a node that it could ask or that is away."""
    with ExitStack() as stack:
        gateway = stack.enter_context(empty_home.gateway(**LOOPBACK))
        if request.param == "connected":
            stack.enter_context(empty_home.node(gateway, "laptop"))
        else:
            empty_home.pair("laptop")
        yield stack.enter_context(operator(empty_home, gateway, "ci", "--allow", WITHOUT_JOBS))


def test_jobs_are_nothing_to_whoever_lacks_the_verb(empty_home: Home, remote: Remote) -> None:
    for command in COMMANDS:
        done = remote.run(*command)
        assert (done.returncode, done.stdout) == (77, b""), command
        assert b"error: operator 'ci' is not allowed to `jobs`" in done.stderr, command
    refused = [row for row in empty_home.trail(action="job") if row["actor"] == "operator:ci"]
    assert [row["status"] for row in refused] == ["denied"] * len(COMMANDS)


def test_a_job_that_no_node_has_is_missing_to_whoever_may_look_for_it(empty_home: Home) -> None:
    with (
        empty_home.gateway(**LOOPBACK) as gateway,
        operator(empty_home, gateway, "ci", "--allow", "list,jobs") as remote,
    ):
        assert remote.run("logs", JOB).returncode == 66
        empty_home.pair("never-seen")
        assert remote.run("logs", JOB).returncode == 66
