"""A detached job outlives whatever happens between it and its operator; its output and its end stay."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_ends import LEAST_PROCESSES, STUBBORN
from tests.harness import (
    GatewayProcess,
    Home,
    MemoryGrowth,
    NodeProcess,
    Watched,
    processes_of,
    scripted_node,
    until,
)
from tests.support import PATIENCE, SOON

QUICK = "backoff_initial = 0.1\nbackoff_max = 0.3"
MIB = 1024 * 1024


@pytest.fixture
def own(tmp_path: Path) -> Home:
    """A home whose gateway a test may kill."""
    return Home(tmp_path)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A FIFO: a job that reads it waits until the test writes to it, which waits for the job."""
    os.mkfifo(tmp_path / "gate")
    return tmp_path / "gate"


def detach(home: Home, command: str, *options: str) -> str:
    return home.ok("exec", "--detach", *options, "laptop", command).strip()


def listed(home: Home, job: str) -> dict[str, object]:
    (entry,) = [one for one in json.loads(home.ok("jobs", "laptop", "--json")) if one["id"] == job]
    assert isinstance(entry, dict)
    return entry


def until_watched(home: Home, rows: Iterator[dict[str, object]], watchers: int) -> None:
    """Wait until so many that were started have found their job, and now wait for it or follow it.

    ``rows`` are those of `job` since before they were started.
    """
    for _ in range(watchers):
        assert next(rows)["command"] == "job_list"
    deadline, waiting = time.monotonic() + PATIENCE, threading.Event()
    while home.client.nodes("laptop")[0]["calls_in_flight"] != watchers:
        assert time.monotonic() < deadline
        waiting.wait(0.01)


def record(folder: Path, job: str) -> dict[str, object]:
    document = json.loads((folder / "jobs" / job / "job.json").read_text())
    assert isinstance(document, dict)
    return document


def assert_kept(home: Home, job: str) -> None:
    """The job of `before_and_after` has come to its own end, and is there from its first byte on."""
    assert home.run("wait", job).returncode == 7
    assert home.ok("logs", job) == "before\nafter\n"
    assert home.ok("logs", "--stderr", job) == "aside\n"
    assert (listed(home, job)["status"], listed(home, job)["exit_code"]) == ("error", 7)


def before_and_after(gate: Path) -> str:
    return f"echo before; echo aside >&2; cat {gate}; echo after; exit 7"


# -- what a job outlives --------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_job_outlives_its_gateway(own: Home, gate: Path, end: signal.Signals) -> None:
    with own.gateway() as first:
        folder = own.join(first.url, "laptop", own.pair("laptop"), settings=QUICK)
        with own.rows(action="connect") as rows, own.node_run(folder):
            next(rows)
            job = detach(own, before_and_after(gate))
            with (
                own.rows(action="job") as asked,
                own.start("wait", job) as waiting,
                own.start("logs", "-f", job) as following,
            ):
                assert following.line() == "before\n"
                until_watched(own, asked, 2)
                first.process.send_signal(end)
                first.process.wait()
                assert [one.end()[0] for one in (waiting, following)] == [75, 75]
            with own.gateway("--port", str(first.port)):
                next(rows)
                assert listed(own, job)["status"] == "running"
                gate.write_text("")
                assert_kept(own, job)


def open_gate(gate: Path) -> None:
    """Let a job go on that reads this."""
    gate.write_text("")


async def test_a_job_outlives_the_revocation_of_its_node(own: Home, gate: Path) -> None:
    with own.gateway() as gateway:
        folder = own.join(gateway.url, "laptop", own.pair("laptop"), settings=QUICK)
        with own.rows(action="connect") as rows, own.node_run(folder):
            next(rows)
            job = detach(own, before_and_after(gate))
            own.ok("revoke", "laptop")
            open_gate(gate)
            await until(lambda: record(folder, job)["status"] == "error")
        # The machine is paired anew, with what it has kept.
        renewed = ("node", "join", gateway.url, "--name", "laptop", "--force")
        own.ok(*renewed, stdin=own.pair("laptop"), HERMES_NODE_CONFIG=str(folder / "config.toml"))
        with own.rows(action="connect") as rows, own.node_run(folder):
            next(rows)
            assert_kept(own, job)


async def test_a_job_outlives_a_connection_that_another_one_has_replaced(own: Home, gate: Path) -> None:
    with own.gateway() as gateway, own.node(gateway, "laptop") as node:
        job = detach(own, before_and_after(gate))
        async with scripted_node(gateway.url) as other:
            await other.log_in("laptop", node.token)
            open_gate(gate)
            await until(lambda: record(node.folder, job)["status"] == "error")
        node.process.terminate()  # it would stay away for a minute
        node.process.wait()
        with own.rows(action="connect") as rows, own.node_run(node.folder):
            next(rows)
            assert_kept(own, job)


# -- what ends a job ------------------------------------------------------------------------------


@contextmanager
def stopped_node(home: Home, gateway: GatewayProcess, end: signal.Signals) -> Iterator[tuple[str, Path]]:
    """A stubborn job whose node has been ended so; and the node's folder, before it runs again."""
    with home.node(gateway, "laptop") as node:
        job = detach(home, STUBBORN)
        with home.start("logs", "-f", job) as following:
            assert job in following.lines(5)
            pids = processes_of(job)
            assert len(pids) >= LEAST_PROCESSES
            with Watched(pids) as watched:
                node.process.send_signal(end)
                node.process.wait(8)
                if end is signal.SIGTERM:
                    assert watched.living(within=SOON) + len(processes_of(job)) == 0
                else:
                    assert watched.living() > 0
                yield job, node.folder
                assert watched.living(within=10) == 0


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (signal.SIGTERM, "its node was stopped while it ran"),
        (signal.SIGKILL, "its node ended or was killed while it ran"),
    ],
    ids=["stopped", "killed"],
)
def test_a_job_whose_node_goes_is_lost_says_so_and_leaves_nothing(
    own: Home, end: signal.Signals, why: str
) -> None:
    with (
        own.gateway() as gateway,
        stopped_node(own, gateway, end) as (job, folder),
        own.rows(action="connect") as rows,
        own.node_run(folder),
    ):
        next(rows)
        ended = own.run("wait", job)
        assert (ended.returncode, ended.stdout) == (1, b"")
        assert ended.stderr.decode().endswith(f"error: node 'laptop': the job was lost: {why}\n")
        entry = listed(own, job)
        assert (entry["status"], entry["exit_code"], entry["error"]) == ("lost", None, why)
        assert own.ok("logs", job).count("up\n") == 4
        assert processes_of(job) == set()


def test_a_kill_leaves_nothing_of_a_stubborn_tree(home: Home, node: NodeProcess) -> None:
    job = detach(home, STUBBORN)
    with home.start("logs", "-f", job) as following:
        assert job in following.lines(5)
        pids = processes_of(job)
        assert len(pids) >= LEAST_PROCESSES
        with Watched(pids) as watched:
            killed = home.run("kill", job)
            assert watched.living() + len(processes_of(job)) == 0
        assert following.end()[0] == 0
    assert (killed.returncode, killed.stdout) == (0, b"")
    assert f"job {job} on node 'laptop' is ended" in killed.stderr.decode()
    again = home.run("kill", job)
    assert (again.returncode, again.stdout) == (0, b"")
    assert "had ended before" in again.stderr.decode()
    assert home.run("wait", job).returncode == 130


def test_a_time_out_ends_a_job(home: Home, node: NodeProcess) -> None:
    job = detach(home, "sleep 1000", "--timeout", "200ms")
    ended = home.run("wait", job)
    assert (ended.returncode, ended.stdout) == (124, b"")
    assert b"time-out has passed" in ended.stderr


# -- reading, waiting -----------------------------------------------------------------------------


def test_following_shows_output_as_it_comes_and_ends_with_the_job(
    home: Home, node: NodeProcess, gate: Path
) -> None:
    job = detach(home, f"for n in 1 2 3; do echo $n; cat {gate}; done; exit 9")
    with home.start("logs", "--follow", job) as following:
        for number in (1, 2, 3):
            assert following.line() == f"{number}\n"
            gate.write_text("")
        assert following.end() == (0, b"", b"")


def test_two_can_wait_for_one_job_and_both_get_its_exit_code(
    home: Home, node: NodeProcess, gate: Path
) -> None:
    job = detach(home, f"cat {gate}; exit 9")
    with home.rows(action="job") as asked, home.start("wait", job) as one, home.start("wait", job) as other:
        until_watched(home, asked, 2)
        gate.write_text("")
        assert [waiting.end() for waiting in (one, other)] == [(9, b"", b"")] * 2


def test_ctrl_c_ends_the_waiting_and_not_the_job(home: Home, node: NodeProcess, gate: Path) -> None:
    job = detach(home, f"cat {gate}")
    with home.rows(action="job") as asked, home.start("wait", job) as waiting:
        until_watched(home, asked, 1)
        waiting.process.send_signal(signal.SIGINT)
        code, stdout, stderr = waiting.end()
    assert (code, stdout) == (130, b"")
    assert stderr == b"hermes-nodes: error: the wait was cancelled; the job goes on\n"
    assert listed(home, job)["status"] == "running"
    gate.write_text("")
    assert home.run("wait", job).returncode == 0


def test_ctrl_c_ends_the_following_and_not_the_job(home: Home, node: NodeProcess, gate: Path) -> None:
    job = detach(home, f"echo begun; cat {gate}")
    with home.start("logs", "-f", job) as following:
        assert following.line() == "begun\n"
        following.process.send_signal(signal.SIGINT)
        code, stdout, stderr = following.end()
    assert (code, stdout) == (130, b"")
    assert stderr.startswith(b"hermes-nodes: error: the reading was cancelled")
    assert listed(home, job)["status"] == "running"
    gate.write_text("")
    assert home.run("wait", job).returncode == 0


def test_ctrl_c_during_a_kill_says_that_the_job_is_still_being_ended(home: Home, node: NodeProcess) -> None:
    job = detach(home, "trap 'echo asked' INT; trap '' TERM; echo begun; while :; do sleep 0.1; done")
    with home.start("logs", "-f", job) as following, home.start("kill", job) as killing:
        assert following.lines(2) == ["begun", "asked"]
        killing.process.send_signal(signal.SIGINT)
        code, stdout, stderr = killing.end()
    assert (code, stdout) == (130, b"")
    assert b"the job is still being ended" in stderr
    assert home.run("wait", job).returncode == 130
    assert listed(home, job)["status"] == "cancelled"


def test_output_comes_back_byte_for_byte(home: Home, node: NodeProcess, tmp_path: Path) -> None:
    content = os.urandom(5 * MIB + 1)
    (tmp_path / "content").write_bytes(content)
    job = detach(home, f"cat {tmp_path}/content; cat {tmp_path}/content >&2")
    assert home.run("wait", job).returncode == 0
    for options in ((), ("--stderr",), ("--follow",)):
        assert home.run("logs", *options, job).stdout == content


def test_a_read_can_begin_anywhere(home: Home, node: NodeProcess) -> None:
    job = detach(home, "printf 0123456789")
    home.client.job_wait("laptop", job)
    for offset, expected in ((0, b"0123456789"), (7, b"789"), (10, b""), (99, b"")):
        for follow in (False, True):
            content = bytearray()
            read = home.client.job_logs("laptop", job, content.extend, offset=offset, follow=follow)
            assert content == expected
            assert read.end == max(10, offset)


def test_a_reader_that_leaves_ends_its_reading_alone(home: Home, node: NodeProcess) -> None:
    job = detach(home, "yes | head -c 10000000; exec sleep 1000")
    with home.start("logs", "-f", job) as following:
        assert following.line() == "y\n"
        assert following.process.stdout is not None
        following.process.stdout.close()
        following.process.stdout = None
        assert following.end()[0] == 128 + signal.SIGPIPE
    assert listed(home, job)["status"] == "running"
    home.ok("kill", job)


# -- bounds ---------------------------------------------------------------------------------------


async def test_a_job_that_prints_for_ever_fills_neither_disk_nor_memory(own: Home) -> None:
    with (
        own.gateway() as gateway,
        own.node(gateway, "laptop", settings='jobs_max_bytes = "1M"') as node,
    ):
        growth = MemoryGrowth(node.process.pid)
        job = detach(own, "yes & yes >&2")
        files = [node.folder / "jobs" / job / name for name in ("stdout", "stderr")]
        await until(lambda: all(file.stat().st_size == MIB for file in files))
        for _ in range(5):
            assert own.ok("exec", "laptop", "echo served") == "served\n"
        read = own.run("logs", job)
        assert read.stdout == b"y\n" * (MIB // 2)
        assert b"warning: the output was cut" in read.stderr
        own.ok("kill", job)
        assert [file.stat().st_size for file in files] == [MIB, MIB]
        assert listed(own, job)["truncated"] is True
        assert growth.peak < 30 * MIB


def test_one_job_more_than_a_node_takes_is_told_to_come_again(own: Home) -> None:
    with own.gateway() as gateway, own.node(gateway, "laptop"):
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: own.client.start_job("laptop", ["sleep", "1000"]), range(64)))
        refused = own.run("exec", "--detach", "laptop", "true")
        assert (refused.returncode, refused.stdout) == (75, b"")
        assert b"64 jobs are running" in refused.stderr
        assert own.ok("exec", "laptop", "echo others") == "others\n"
        own.ok("kill", made[0])
        detach(own, "true")
