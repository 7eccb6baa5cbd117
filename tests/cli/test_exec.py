"""`exec`: what is a command and what an option, what its JSON says, and what it leaves alone."""

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from hermes_nodes.client import KEEP_BYTES
from hermes_nodes.protocol.messages import Exec, ExecResult
from tests.cli.support import interrupt_until_left
from tests.harness import (
    KILL_THE_NODE,
    PROGRAM,
    GatewayProcess,
    Home,
    NodeProcess,
    ScriptedNode,
    processes_of,
    scripted_node,
)
from tests.support import PATIENCE

KEYS = {
    "node",
    "request_id",
    "status",
    "exit_code",
    "signal",
    "stdout",
    "stderr",
    "duration_ms",
    "truncated",
    "error",
}

#: Arguments, what the object then holds among others, and how the process exits.
OUTCOMES: dict[str, tuple[list[str], dict[str, object], int]] = {
    "ok": (["laptop", "echo out"], {"exit_code": 0, "stdout": "out\n", "stderr": "", "error": None}, 0),
    "error": (["laptop", "echo err >&2; exit 3"], {"exit_code": 3, "stderr": "err\n", "error": None}, 3),
    "timeout": (["--timeout", "200ms", "laptop", "echo out; sleep 60"], {"stdout": "out\n"}, 124),
    "unknown_node": (["nobody", "true"], {"exit_code": None, "stdout": ""}, 66),
    "not_connected": (["absent", "true"], {"exit_code": None, "stdout": ""}, 69),
}


def one_object(done: subprocess.CompletedProcess[bytes]) -> Mapping[str, object]:
    """The one JSON document on stdout."""
    document = json.loads(done.stdout)
    assert done.stdout.count(b"\n") == 1
    assert set(document) >= KEYS
    return dict(document)


def code_of(document: Mapping[str, object]) -> object:
    error = document["error"]
    assert isinstance(error, dict)
    assert set(error) >= {"code", "message", "hint"}
    return error["code"]


def status_in_trail(home: Home, document: Mapping[str, object]) -> object:
    """The status in the call's one row."""
    (row,) = (row for row in home.trail() if row["request_id"] == document["request_id"])
    return row["status"]


# -- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", OUTCOMES)
def test_json_is_one_object_whatever_the_outcome(home: Home, node: NodeProcess, status: str) -> None:
    arguments, facts, exit_code = OUTCOMES[status]
    done = home.run("exec", "--json", *arguments)
    document = one_object(done)
    assert document["status"] == status
    assert document == {**document, **facts}
    assert done.returncode == exit_code
    assert status_in_trail(home, document) == {"unknown_node": "error"}.get(status, status)


def test_json_names_the_signal_that_ended_a_command(home: Home, node: NodeProcess) -> None:
    done = home.run("exec", "--json", "laptop", "kill -TERM $$")
    document = one_object(done)
    assert (document["status"], document["signal"], document["exit_code"]) == ("error", "TERM", 143)
    assert done.returncode == 143


def test_json_of_a_call_that_ctrl_c_has_ended(home: Home, node: NodeProcess, tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    with home.start("exec", "--json", "laptop", f"echo > {started}; sleep 60") as running:
        started.read_text()
        running.process.send_signal(signal.SIGINT)
        exit_code, stdout, stderr = running.end()
    document = json.loads(stdout)
    assert set(document) >= KEYS
    assert (document["status"], code_of(document), exit_code) == ("cancelled", "cancelled", 130)
    assert b"hermes-nodes: error: the call was cancelled" in stderr  # after a note, if it takes a second


def test_a_second_ctrl_c_leaves_a_command_that_is_slow_to_end(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    deaf = f"trap '' INT TERM; echo ready; echo > {started}; for _ in $(seq 200); do sleep 0.1; done"

    def left(*options: str) -> tuple[bytes, bytes]:
        with home.start("exec", *options, "laptop", deaf) as running:
            started.read_text()
            interrupt_until_left(running)
            exit_code, stdout, stderr = running.end()
        assert exit_code == 130
        assert stderr.startswith(b"hermes-nodes: error: interrupted\n")
        return stdout, stderr

    with home.rows(action="exec") as rows:
        assert left()[0] == b"ready\n"
        stdout, stderr = left("--json")
        # Both are still being ended on the node, which takes seconds.
        assert [next(rows)["status"] for _ in range(2)] == ["cancelled"] * 2
    document = json.loads(stdout)
    assert set(document) >= KEYS
    assert (document["status"], code_of(document)) == ("cancelled", "cancelled")
    assert document["stdout"] == "ready\n"
    assert b"is not known here" in stderr


def test_json_has_no_object_for_a_usage_error(home: Home, node: NodeProcess) -> None:
    for arguments in (["laptop"], ["--env", "=x", "laptop", "x"], ["laptop", *["x" * 100_000] * 6]):
        done = home.run("exec", "--json", *arguments)
        assert (done.returncode, done.stdout) == (2, b"")
        assert b"error:" in done.stderr


def test_json_of_a_node_that_dies_during_the_call(home: Home, gateway: GatewayProcess) -> None:
    with home.node(gateway, "fragile"):
        done = home.run("exec", "--json", "fragile", f"echo out; {KILL_THE_NODE}; sleep 60")
    document = one_object(done)
    assert (document["status"], document["exit_code"]) == ("node_disconnected", None)
    assert (code_of(document), done.returncode) == ("node_disconnected", 75)
    assert status_in_trail(home, document) == "node_disconnected"


@pytest.mark.parametrize(
    ("name", "status", "exit_code"),
    [
        ("permission_denied", "denied", 77),
        ("unsupported", "unsupported", 69),
        ("busy", "busy", 75),
        ("file_not_found", "failed", 66),
        ("anything_else", "failed", 1),
    ],
)
async def test_json_of_what_a_node_refuses(
    home: Home, gateway: GatewayProcess, name: str, status: str, exit_code: int
) -> None:
    token = await asyncio.to_thread(home.pair, "scripted", "--force")
    async with scripted_node(gateway.url) as node:
        await node.log_in("scripted", token)
        answered = asyncio.create_task(_refuse(node, name))
        done = await asyncio.to_thread(home.run, "exec", "--json", "scripted", "true")
        await answered
    document = one_object(done)
    assert (document["status"], document["exit_code"], done.returncode) == (status, None, exit_code)
    assert code_of(document)


async def _refuse(node: ScriptedNode, error: str) -> None:
    while not isinstance(request := await node.receive(), Exec):
        pass
    await node.send(ExecResult(id=request.id, status="error", error=error, exit_code=-1))


def test_json_of_a_call_over_the_rate_limit(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.gateway(HERMES_NODES_RATE_LIMIT="1") as gateway, home.node(gateway, "laptop"):
        home.client.exec("laptop", "true")
        done = home.run("exec", "--json", "laptop", "true")
    document = one_object(done)
    assert (document["status"], code_of(document), done.returncode) == ("rate_limited", "rate_limited", 75)


def test_json_without_a_gateway_says_so(empty_home: Home) -> None:
    done = empty_home.run("exec", "--json", "laptop", "true")
    document = one_object(done)
    assert (document["status"], code_of(document), done.returncode) == ("failed", "gateway_not_running", 69)


def test_output_that_is_not_utf_8_is_null_with_base64_beside_it(home: Home, node: NodeProcess) -> None:
    document = one_object(home.run("exec", "--json", "laptop", r"printf 'a\377'; printf é >&2"))
    assert (document["stdout"], document["stdout_b64"], document["stderr"]) == (None, "Yf8=", "é")
    assert "stderr_b64" not in document


def test_output_is_cut_at_its_limit_and_says_so(home: Home, node: NodeProcess) -> None:
    command = f"head -c {KEEP_BYTES} /dev/zero | tr '\\0' x; {{}} echo err >&2"
    whole = one_object(home.run("exec", "--json", "laptop", command.format("")))
    assert (len(str(whole["stdout"])), whole["truncated"]) == (KEEP_BYTES, False)
    cut = one_object(home.run("exec", "--json", "laptop", command.format("echo;")))
    assert (len(str(cut["stdout"])), cut["stderr"], cut["truncated"]) == (KEEP_BYTES, "err\n", True)


# -- what is an option, what is the command -------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["echo $((1 + 1))"], "2\n"),
        (["echo", "$((1 + 1))"], "$((1 + 1))\n"),
        (["echo", "--json"], "--json\n"),
        (["echo", "--timeout", "1ms"], "--timeout 1ms\n"),
        (["--", "echo", "-n"], ""),
        (["echo", "--"], "--\n"),
        (["--", "echo one"], "one\n"),
        (["printf", "%s|", "a b", "", "c"], "a b||c|"),
        ([""], ""),
        (["echo 'a  b' | tr a-z A-Z"], "A  B\n"),
    ],
)
def test_everything_behind_the_node_is_the_command(
    home: Home, node: NodeProcess, words: list[str], printed: str
) -> None:
    assert home.ok("exec", "laptop", *words) == printed


def test_options_stand_before_the_node(home: Home, node: NodeProcess, tmp_path: Path) -> None:
    options = ["--cwd", str(tmp_path), "--env", "A=1", "--env", "B=x=y ", "--timeout", "1h"]
    assert home.ok("exec", *options, "laptop", 'echo "$PWD|$A|$B|"') == f"{tmp_path}|1|x=y |\n"


def test_the_nodes_name_may_stand_behind_a_double_dash(home: Home, node: NodeProcess) -> None:
    assert home.ok("exec", "--", "laptop", "echo", "hi") == "hi\n"


def test_exec_leaves_its_own_stdin_alone(home: Home, node: NodeProcess, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_text("one\ntwo\nthree\n")
    loop = 'while read -r line; do "$@" exec laptop "cat; echo $line"; done'
    with lines.open() as stdin:
        done = subprocess.run(
            ["bash", "-c", loop, "bash", *PROGRAM],
            env=home.environ,
            stdin=stdin,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
    assert (done.stdout, done.stderr) == (b"one\ntwo\nthree\n", b"")


def test_an_argument_that_is_not_utf_8_is_a_usage_error(home: Home, node: NodeProcess) -> None:
    done = home.run("exec", "--env", "SECRET=hush", "laptop", "echo \udcff")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"not UTF-8" in done.stderr
    assert b"hush" not in done.stderr


# -- its end --------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_command_on_the_node_too(home: Home, node: NodeProcess) -> None:
    with home.start("exec", "laptop", "echo on; sleep 60; echo off") as running:
        assert running.line() == "on\n"
        running.process.send_signal(signal.SIGINT)
        exit_code, stdout, stderr = running.end()
    assert (exit_code, stdout) == (130, b"")
    assert b"hermes-nodes: error: the call was cancelled" in stderr  # after a note, if it takes a second
    row = home.trail(action="exec", node="laptop")[-1]
    assert row["status"] == "cancelled"
    assert processes_of(str(row["request_id"])) == set()


def test_a_reader_that_leaves_ends_the_command_quietly(home: Home, node: NodeProcess) -> None:
    with (
        home.rows(action="exec", node="laptop") as rows,
        home.start("exec", "laptop", "echo on; sleep 60") as running,
    ):
        assert running.line() == "on\n"
        assert running.process.stdout is not None
        running.process.stdout.close()
        assert running.process.wait(PATIENCE) == 141
        assert running.process.stderr is not None
        assert running.process.stderr.read() == b""
        assert next(rows)["status"] == "cancelled"
