"""`exec` on several nodes: who is called, what is shown of each, and how it ends."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hermes_nodes.cli.many import Lines, parse_parallel
from tests.cli.support import interrupt_until_left
from tests.harness import GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE


@pytest.fixture(scope="session")
def crew(home: Home, gateway: GatewayProcess, node: NodeProcess) -> Iterator[list[str]]:
    """Two nodes that are connected and one that is not, all with one label."""
    home.ok("label", "laptop", "crew=many")
    home.pair("crew-absent", "--label", "crew=many")
    with home.node(gateway, "crew-desk", allow=[home.folder]):
        home.ok("label", "crew-desk", "crew=many")
        yield ["crew-absent", "crew-desk", "laptop"]


def until_all_have_begun(started: Path) -> None:
    """Both commands have written to a FIFO."""
    begun = b""
    while len(begun) < len("x\nx\n"):
        begun += started.read_bytes()


@pytest.mark.parametrize("target", ["label:crew=many", "crew-absent,crew-*,laptop", "lap*,crew-*"])
def test_each_line_stands_behind_its_nodes_name_and_the_end_names_who_failed(
    home: Home, crew: list[str], target: str
) -> None:
    done = home.run("exec", target, "echo one; printf two; echo three >&2")
    assert done.returncode == 1
    assert sorted(done.stdout.decode().splitlines()) == [
        "crew-desk: one",
        "crew-desk: two",
        "laptop: one",
        "laptop: two",
    ]
    stderr = done.stderr.decode().splitlines()
    assert {"crew-desk: three", "laptop: three"} <= set(stderr)
    assert stderr[-2].startswith("hermes-nodes: crew-absent: node 'crew-absent' is not connected")
    assert stderr[-1] == "hermes-nodes: 3 nodes: 2 ok, 1 failed"


def test_all_that_are_well_make_a_zero(home: Home, crew: list[str]) -> None:
    done = home.run("exec", "laptop,crew-desk", "true")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"hermes-nodes: 2 nodes: 2 ok, 0 failed\n"


def test_json_has_one_object_a_line_for_every_node(home: Home, crew: list[str]) -> None:
    done = home.run("exec", "--json", "label:crew=many", "echo out; exit 3")
    assert done.returncode == 1
    found = {one["node"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert {node: one["status"] for node, one in found.items()} == {
        "crew-absent": "not_connected",
        "crew-desk": "error",
        "laptop": "error",
    }
    assert (found["laptop"]["exit_code"], found["laptop"]["stdout"]) == (3, "out\n")
    assert found["crew-absent"]["error"]["code"] == "not_connected"


def test_a_target_written_as_several_stays_several_with_one_match(home: Home, crew: list[str]) -> None:
    done = home.run("exec", "crew-d*", "echo x")
    assert (done.returncode, done.stdout) == (0, b"crew-desk: x\n")


@pytest.mark.parametrize("target", ["no-*", "label:crew=other", "laptop,nobody"])
def test_a_part_that_matches_nothing_runs_nothing(home: Home, crew: list[str], target: str) -> None:
    marker = home.folder / "ran"
    done = home.run("exec", target, f"touch {marker}")
    assert (done.returncode, done.stdout) == (66, b"")
    assert not marker.exists()


def test_the_first_failure_ends_the_others_where_asked_for(home: Home, crew: list[str]) -> None:
    # One of them makes it, and would sleep; the other fails.
    command = f"mkdir {home.folder}/first 2>/dev/null || exit 1; sleep 60"
    done = home.run("exec", "--fail-fast", "laptop,crew-desk", command)
    assert done.returncode == 1
    assert b"2 nodes: 0 ok, 1 failed, 1 cancelled\n" in done.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_with_fail_fast_a_node_that_is_away_keeps_all_from_being_begun(
    home: Home, crew: list[str], as_json: bool
) -> None:
    marker = home.folder / "begun"
    options = ["--fail-fast", *(["--json"] if as_json else [])]
    done = home.run("exec", *options, "label:crew=many", f"touch {marker}")
    assert (done.returncode, marker.exists()) == (1, False)
    assert b"hermes-nodes: 3 nodes: 0 ok, 1 failed, 2 not begun\n" in done.stderr
    found = {one["node"]: one["status"] for one in map(json.loads, done.stdout.splitlines())}
    statuses = ["not_connected", "cancelled", "cancelled"]
    assert found == (dict(zip(crew, statuses, strict=True)) if as_json else {})


def test_those_not_begun_are_named_as_such(home: Home, crew: list[str]) -> None:
    done = home.run("exec", "--fail-fast", "--max-parallel", "1", "laptop,crew-desk", "exit 1")
    assert done.returncode == 1
    assert b"hermes-nodes: 2 nodes: 0 ok, 1 failed, 1 not begun\n" in done.stderr


def test_no_more_run_at_once_than_were_asked_for(home: Home, crew: list[str]) -> None:
    turn = home.folder / "turn"
    command = f"mkdir {turn} || exit 9; sleep 0.3; rmdir {turn}"
    assert home.run("exec", "--max-parallel", "50%", "laptop,crew-desk", command).returncode == 0


def test_ctrl_c_ends_the_command_on_every_node(home: Home, crew: list[str]) -> None:
    started = home.folder / "both"
    os.mkfifo(started)
    with home.start("exec", "laptop,crew-desk", f"echo x > {started}; sleep 60") as calling:
        until_all_have_begun(started)
        calling.process.send_signal(signal.SIGINT)
        code, _, said = calling.end()
    assert code == 130
    assert said.count(b"the call was cancelled, and ended on node") == 2
    assert b"2 nodes: 0 ok, 0 failed, 2 cancelled\n" in said


def test_leaving_by_a_second_ctrl_c_still_prints_an_object_for_every_node(
    home: Home, crew: list[str]
) -> None:
    started = home.folder / "both-deaf"
    os.mkfifo(started)
    deaf = f"trap '' INT TERM; echo x > {started}; for _ in $(seq 200); do sleep 0.1; done"
    with home.start("exec", "--json", "laptop,crew-desk,crew-absent", deaf) as calling:
        assert json.loads(calling.line())["node"] == "crew-absent"
        until_all_have_begun(started)
        interrupt_until_left(calling)
        code, stdout, _ = calling.end()
    found = {one["node"]: one["status"] for one in map(json.loads, stdout.splitlines())}
    assert (code, found) == (130, {"laptop": "cancelled", "crew-desk": "cancelled"})


@pytest.mark.parametrize("target", ["no-*", "label:crew=other", "label:crew"])
def test_a_target_that_matches_nothing_has_an_object_too(home: Home, crew: list[str], target: str) -> None:
    done = home.run("exec", "--json", target, "true")
    document = json.loads(done.stdout)
    assert (done.returncode, document["node"], document["status"]) == (66, target, "unknown_node")
    assert f"no node matches '{target}'" in document["error"]["message"]
    assert (b"label:K=V" in done.stderr) == (target == "label:crew")


def test_stdin_goes_to_one_node_alone(home: Home, crew: list[str]) -> None:
    assert home.run("exec", "-i", "laptop,crew-desk", "cat").returncode == 2


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1", "1.5", "x", ""])
def test_what_is_no_number_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number of nodes"):
        parse_parallel(text)


def test_a_share_of_the_nodes_is_one_at_least() -> None:
    assert [parse_parallel("25%")(nodes) for nodes in (1, 4, 100)] == [1, 1, 25]
    assert parse_parallel("8")(3) == 8


def shown(*pieces: bytes) -> bytes:
    """What lines show of these pieces on a stdout of ours."""
    collected: list[bytes] = []
    read_end, write_end = os.pipe()

    def collect() -> None:
        with os.fdopen(read_end, "rb") as output:
            collected.append(output.read())

    reader = threading.Thread(target=collect)
    reader.start()
    saved = os.dup(1)
    os.dup2(write_end, 1)
    os.close(write_end)
    try:
        lines = Lines("n", threading.Lock())
        for piece in pieces:
            lines.add(1, memoryview(piece))
        lines.end()
    finally:
        os.dup2(saved, 1)
        os.close(saved)
    reader.join(PATIENCE)
    return collected[0]


def test_a_line_comes_whole_whatever_pieces_it_came_in() -> None:
    assert shown(b"on", b"e\ntw", b"o\n", b"\n", b"three") == b"n: one\nn: two\nn: \nn: three\n"


def test_no_character_is_cut_where_a_line_is_too_long_to_be_held() -> None:
    text = ("x" + "ü" * 200_000).encode()
    parts = [line.removeprefix(b"n: ") for line in shown(text).splitlines()]
    assert b"".join(parts) == text
    assert len(parts) == 2
    assert [part.decode() for part in parts]
