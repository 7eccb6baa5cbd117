"""`exec`: every byte, at once, on the right machine or on none, and many side by side."""

import hashlib
import json
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes_nodes.errors import Busy, NodeDisconnected, RateLimited
from tests.harness import GatewayProcess, Home, NodeProcess
from tests.support import SOON

MIB = 1024 * 1024

#: Random bytes on both streams at once; their digests go to the file named first.
BOTH_STREAMS = """
import hashlib, os, sys, threading
def write(fd, size, digest):
    for _ in range(size):
        piece = os.urandom(1 << 20)
        digest.update(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(fd, view):]
digests = [hashlib.sha256(), hashlib.sha256()]
threads = [threading.Thread(target=write, args=one) for one in ((1, 50, digests[0]), (2, 5, digests[1]))]
for thread in threads: thread.start()
for thread in threads: thread.join()
open(sys.argv[1], "w").write(" ".join(one.hexdigest() for one in digests))
"""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_fifty_mebibytes_and_five_on_stderr_arrive_intact_and_apart(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    digests = tmp_path / "digests"
    done = home.run("exec", "laptop", "python3", "-c", BOTH_STREAMS, str(digests))
    assert done.returncode == 0
    assert (len(done.stdout), len(done.stderr)) == (50 * MIB, 5 * MIB)
    assert f"{sha256(done.stdout)} {sha256(done.stderr)}" == digests.read_text()


def test_the_first_line_is_there_while_the_command_still_runs(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    os.mkfifo(go := tmp_path / "go")
    with home.start("exec", "laptop", f"echo a; cat {go}; echo b") as running:
        assert running.line() == "a\n"
        assert running.process.poll() is None
        go.write_text("")
        assert running.line() == "b\n"


@pytest.fixture(scope="session", autouse=True)
def offline(home: Home, gateway: GatewayProcess) -> None:
    home.pair("offline")


@pytest.mark.parametrize(
    ("target", "expected"), [("nobody", (66, "unknown_node")), ("offline", (69, "not_connected"))]
)
def test_a_target_that_is_not_there_fails_fast_and_runs_nothing_anywhere(
    home: Home, node: NodeProcess, tmp_path: Path, target: str, expected: tuple[int, str]
) -> None:
    proof = tmp_path / "ran"
    before = time.monotonic()
    done = home.run("exec", target, f"touch {proof}")
    assert time.monotonic() - before < SOON
    assert (done.returncode, done.stdout) == (expected[0], b"")
    assert done.stderr.startswith(b"hermes-nodes: error: ")
    document = json.loads(home.run("exec", "--json", target, f"touch {proof}").stdout)
    assert (document["status"], document["exit_code"]) == (expected[1], None)
    assert not proof.exists()
    assert "touch" not in (node.folder / "audit.log").read_text()


def test_a_node_killed_during_a_call_fails_it_at_once(home: Home, gateway: GatewayProcess) -> None:
    with home.node(gateway, "fragile") as node:
        before = time.monotonic()
        done = home.run("exec", "--json", "fragile", f"kill -9 {node.process.pid}; sleep 10")
        assert time.monotonic() - before < SOON
    assert done.returncode == 75
    document = json.loads(done.stdout)
    assert (document["status"], document["error"]["code"]) == ("node_disconnected", "node_disconnected")
    (row,) = home.trail(action="exec", node="fragile")
    assert (row["status"], row["error"]) == ("node_disconnected", "node_disconnected")


def test_calls_side_by_side_do_not_wait_for_each_other(home: Home, node: NodeProcess) -> None:
    client = home.client
    before = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: client.exec("laptop", f"sleep 1; echo {n}").stdout, range(8)))
    assert time.monotonic() - before < SOON
    assert results == [f"{n}\n" for n in range(8)]


def test_the_sixty_fifth_call_at_once_is_busy(home: Home, gateway: GatewayProcess, tmp_path: Path) -> None:
    started, go = threading.Semaphore(0), tmp_path / "go"
    with home.node(gateway, "full") as node, ThreadPoolExecutor(64) as pool:
        client = home.client
        waiting = [
            pool.submit(
                client.call,
                {"call": "exec", "node": "full", "command": f"echo; until [ -e {go} ]; do sleep 0.2; done"},
                lambda *_: started.release(),
            )
            for _ in range(64)
        ]
        for _ in range(64):
            assert started.acquire(timeout=10)
        with pytest.raises(Busy, match="64 calls"):
            client.exec("full", "true")
        assert home.run("exec", "full", "true").returncode == 75
        go.touch()
        assert {one.result(10)["status"] for one in waiting} == {"ok"}
        assert client.exec("full", "true").status == "ok"
        assert node.process.poll() is None


def test_a_pairing_over_its_call_rate_is_told_when_to_try_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.gateway(HERMES_NODES_RATE_LIMIT="3") as gateway, home.node(gateway, "laptop"):
        assert [home.client.exec("laptop", "true").status for _ in range(3)] == ["ok"] * 3
        with pytest.raises(RateLimited, match="3 calls a second") as refused:
            home.client.exec("laptop", "true")
        assert re.fullmatch(r"try again in \d{1,4} ms", refused.value.hint)
        # The node keeps its connection.
        assert home.node_view("laptop")["state"] == "connected"
    assert [row["status"] for row in home.trail(action="exec")] == ["ok", "ok", "ok", "rate_limited"]


def test_a_program_that_calls_hears_of_a_lost_node_as_an_exception(
    home: Home, gateway: GatewayProcess
) -> None:
    with home.node(gateway, "lost") as node, ThreadPoolExecutor(1) as pool:
        running = pool.submit(home.client.exec, "lost", f"kill -9 {node.process.pid}; sleep 60")
        assert isinstance(running.exception(5), NodeDisconnected)
