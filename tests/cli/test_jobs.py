"""Jobs are found by their id on whatever node has them; what can't be found or detached is said why."""

import json
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from hermes_nodes.errors import FileMissing
from hermes_nodes.protocol.messages import JobList, JobListResult
from tests.harness import Home, NodeProcess, scripted_node


def detach(home: Home, command: str) -> str:
    return home.ok("exec", "--detach", "laptop", command).strip()


@pytest.mark.parametrize(
    "job", ["../../../etc/passwd", "..", "jobs/x", "7f0c1d6", "7f0c1d6e/../x", "é" * 8]
)
def test_what_can_be_no_job_is_a_usage_error(home: Home, node: NodeProcess, job: str) -> None:
    for command in ("logs", "wait", "kill"):
        done = home.run(command, job)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"is not a job" in done.stderr


@pytest.mark.parametrize("job", ["../../../etc", "", "7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10"])
def test_a_node_that_is_asked_for_what_it_does_not_have_says_so(
    home: Home, node: NodeProcess, job: str
) -> None:
    asked: Sequence[Callable[[], object]] = (
        lambda: home.client.job_logs("laptop", job, lambda _: None),
        lambda: home.client.job_wait("laptop", job),
        lambda: home.client.job_kill("laptop", job),
    )
    for ask in asked:
        with pytest.raises(FileMissing):
            ask()


def test_the_api_says_of_a_list_s_entries_whether_they_are_cut(home: Home, node: NodeProcess) -> None:
    job = detach(home, "true")
    body: dict[str, object] = {"call": "job_list", "node": "laptop"}
    facts = cast("dict[str, Any]", home.client.call(body, lambda *_: None)["facts"])
    (entry,) = (one for one in facts["jobs"] if one["id"] == job)
    assert entry["truncated"] is False


def test_a_job_that_nobody_has_is_missing(empty_home: Home) -> None:
    with empty_home.gateway() as gateway, empty_home.node(gateway, "laptop"):
        done = empty_home.run("logs", "7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f10")
    assert (done.returncode, done.stdout) == (66, b"")
    assert b"no node has a job 7f0c1d6e" in done.stderr


def test_jobs_are_found_on_whatever_node_has_them_and_nodes_that_are_away_are_named(
    empty_home: Home,
) -> None:
    with (
        empty_home.gateway() as gateway,
        empty_home.node(gateway, "laptop") as laptop,
        empty_home.node(gateway, "nas"),
    ):
        here = detach(empty_home, "echo laptop")
        there = empty_home.ok("exec", "--detach", "nas", "echo nas").strip()
        assert [empty_home.ok("logs", "-f", job[:8]) for job in (here, there)] == ["laptop\n", "nas\n"]
        rows = [line.split("\t") for line in empty_home.ok("jobs").splitlines()]
        assert [(row[0], row[1]) for row in rows] == [(here, "laptop"), (there, "nas")]
        assert [one["node"] for one in json.loads(empty_home.ok("jobs", "n*", "--json"))] == ["nas"]
        with empty_home.rows(action="disconnect", node="laptop") as gone:
            laptop.process.terminate()
            next(gone)
        lost = empty_home.run("wait", here)
        assert (lost.returncode, lost.stdout) == (69, b"")
        assert b"not connected: laptop" in lost.stderr
        rest = empty_home.run("jobs")
        assert (rest.returncode, len(rest.stdout.splitlines())) == (0, 1)
        assert b"note: not connected: laptop" in rest.stderr
        alone = empty_home.run("jobs", "laptop")
        assert alone.returncode == 69
        assert b"node 'laptop' is not connected (last seen 20" in alone.stderr
        empty_home.pair("new")
        assert b"(never seen)" in empty_home.run("jobs", "new").stderr
        assert empty_home.run("jobs", "nowhere").returncode == 66


async def test_a_beginning_that_fits_several_jobs_is_refused_with_their_ids(empty_home: Home) -> None:
    ids = [f"7f0c1d6e-8b1c-4c52-9d62-3c5a1d0f9f1{digit}" for digit in "01"]
    with empty_home.gateway() as gateway:
        token = empty_home.pair("laptop")
        async with scripted_node(gateway.url) as node:
            await node.log_in("laptop", token, ["jobs"])
            with empty_home.start("kill", ids[0][:12]) as running:
                request = await node.receive()
                assert isinstance(request, JobList)
                await node.send(
                    JobListResult(id=request.id, status="ok", jobs=[{"id": one} for one in ids])
                )
                code, stdout, stderr = running.end()
    assert (code, stdout) == (2, b"")
    assert all(one.encode() in stderr for one in ids)


async def test_older_nodes_and_nodes_that_do_not_answer_are_named(empty_home: Home) -> None:
    with empty_home.gateway() as gateway:
        tokens = {name: empty_home.pair(name) for name in ("old", "mute")}
        async with scripted_node(gateway.url) as old, scripted_node(gateway.url) as mute:
            await old.log_in("old", tokens["old"])
            await mute.log_in("mute", tokens["mute"], ["jobs"])
            with empty_home.start("jobs", "*") as running:
                assert isinstance(await mute.receive(), JobList)
                code, stdout, stderr = running.end()
            alone = empty_home.run("jobs", "old")
    assert (code, stdout) == (1, b"")
    assert b"note: skipped, as their software has no jobs: old" in stderr
    assert b"mute" in stderr
    assert b"did not answer within 5 s" in stderr
    assert alone.returncode == 69


@pytest.mark.parametrize(
    ("options", "target"),
    [(["-i"], "laptop"), (["--session", "s"], "laptop"), ([], "laptop,absent"), ([], "all")],
)
def test_what_can_not_be_detached_is_a_usage_error(
    home: Home, node: NodeProcess, options: list[str], target: str
) -> None:
    if target == "laptop,absent":
        home.pair("absent", "--force")
    done = home.run("exec", "--detach", *options, target, "true")
    assert (done.returncode, done.stdout) == (2, b"")
