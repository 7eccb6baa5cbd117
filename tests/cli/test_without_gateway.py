"""A home that no gateway serves: changed under its lock, one change at a time, and never left broken.

`python -m tests.cli.kills` kills more commands.
"""

import json
import subprocess
from pathlib import Path

import pytest

from hermes_nodes import operations
from hermes_nodes.keys import find_key
from tests.cli import kills
from tests.cli.kills import TOKEN, tokens_in_store
from tests.harness import Home
from tests.support import mode

NOTE = "hermes-nodes: no gateway runs on this home: "


def test_pair_list_and_revoke_work_and_say_that_no_gateway_runs(empty_home: Home) -> None:
    paired = empty_home.run("pair", "web", "--label", "role=web")
    assert TOKEN.fullmatch(paired.stdout.decode().strip())
    listed = empty_home.run("list", "--json")
    (view,) = json.loads(listed.stdout)
    assert (view["name"], view["state"], view["labels"]) == ("web", "never_seen", {"role": "web"})
    revoked = empty_home.run("revoke", "web")
    for done in (paired, listed, revoked):
        assert done.returncode == 0
        assert NOTE in done.stderr.decode()
    assert [row["action"] for row in empty_home.trail()] == ["pair", "revoke"]


def test_a_token_key_is_made_by_the_first_and_not_shown(empty_home: Home) -> None:
    first, second = empty_home.run("pair", "a"), empty_home.run("pair", "b")
    assert "made a token key" in first.stderr.decode()
    assert "made a token key" not in second.stderr.decode()
    key = find_key(empty_home.settings, empty_home.environ)
    assert key is not None
    assert key.encode() not in first.stdout + first.stderr


def test_ten_pairings_at_once_make_one_key_and_ten_tokens(empty_home: Home) -> None:
    commands = [empty_home.start("pair", f"node-{number}") for number in range(10)]
    ends = [command.end() for command in commands]
    assert [code for code, _, _ in ends] == [0] * 10
    assert sum(b"made a token key" in stderr for _, _, stderr in ends) == 1
    printed = {f"node-{number}": stdout.decode().strip() for number, (_, stdout, _) in enumerate(ends)}
    assert len(set(printed.values())) == 10
    assert tokens_in_store(empty_home) == printed
    assert len(empty_home.trail(action="pair")) == 10


def test_pairing_one_name_five_times_at_once_succeeds_once(empty_home: Home) -> None:
    commands = [empty_home.start("pair", "same") for _ in range(5)]
    ends = [command.end() for command in commands]
    assert sorted(code for code, _, _ in ends) == [0] + [73] * 4
    (printed,) = {stdout.decode().strip() for _, stdout, _ in ends} - {""}
    assert tokens_in_store(empty_home) == {"same": printed}


def test_a_pairing_killed_at_any_instant_leaves_a_home_that_works(tmp_path: Path) -> None:
    kills.pairings(tmp_path, 6)


def test_a_gateway_that_holds_the_lock_but_does_not_answer_is_named(empty_home: Home) -> None:
    empty_home.pair("a")
    before = empty_home.trail()
    with operations.HomeLock(empty_home.settings, "gateway"):
        done = empty_home.run("revoke", "a")
    assert (done.returncode, done.stdout) == (69, b"")
    error, hint = done.stderr.decode().splitlines()
    socket = empty_home.path / "nodes" / "gateway.sock"
    assert error == f"hermes-nodes: error: a gateway holds this home, but does not answer at {socket}"
    assert hint.startswith("hermes-nodes: hint: it may be starting or stopping: try again")
    assert empty_home.trail() == before


def test_a_command_waits_for_another_ones_lock(empty_home: Home) -> None:
    empty_home.pair("a")
    with operations.HomeLock(empty_home.settings, "command"):
        waiting = empty_home.start("pair", "b")
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.process.wait(0.5)
    code, stdout, _ = waiting.end()
    assert (code, TOKEN.fullmatch(stdout.decode().strip()) is not None) == (0, True)


def test_a_socket_path_that_is_too_long_is_a_wrong_setting(empty_home: Home) -> None:
    path = empty_home.folder / ("s" * 100)
    done = empty_home.run(
        "serve", "--port", "0", HERMES_NODES_CONTROL_SOCKET=str(path), PYTHONWARNINGS="ignore"
    )
    assert (done.returncode, done.stdout) == (78, b"")
    assert "control_socket" in done.stderr.decode()


def test_modes_are_right_whatever_the_umask(empty_home: Home, no_umask: None) -> None:
    folder = empty_home.folder / "node-laptop"
    empty_home.pair("offline")
    with empty_home.gateway() as gateway, empty_home.node(gateway, "laptop"):
        files = {
            path.name: mode(path)
            for top in (empty_home.path, folder)
            for path in top.rglob("*")
            if not path.is_dir() and path.name != "run.log" and "status.json" not in path.name
        }
        folders = {path: mode(path) for path in (empty_home.path, empty_home.path / "nodes")}
    assert set(files) >= {".env", "tokens.db", "gateway.sock", "lock", "nodes-audit.log", "config.toml"}
    assert set(files) >= {"audit.log", "tokens.db-wal", "tokens.db-shm"}
    assert {name: bits for name, bits in files.items() if bits != 0o600} == {}
    assert {path: bits for path, bits in folders.items() if bits != 0o700} == {}


@pytest.mark.parametrize("name", ["web", "other"])
def test_names_complete_without_a_gateway_and_without_the_key(empty_home: Home, name: str) -> None:
    empty_home.pair("web-1")
    empty_home.pair("other-1")
    (empty_home.path / ".env").unlink()
    done = empty_home.run(
        _HERMES_NODES_COMPLETE="complete_bash", COMP_WORDS=f"hermes-nodes exec {name}", COMP_CWORD="2"
    )
    assert (done.returncode, done.stdout.decode().split()) == (0, [f"{name}-1"])
