"""What `cp` says of each file: a line that names it as it was typed, and an object in every case."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.harness import PROGRAM, Home, NodeProcess
from tests.support import PATIENCE


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    path = home.folder / "cp" / os.urandom(4).hex()
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    return path


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("laptop:{}/none", "{}/x", "laptop:{}/none"),
        ("laptop:/etc/passwd", "{}/x", "laptop:/etc/passwd"),
        ("{}/file", "laptop:/etc/hermes-test", "laptop:/etc/hermes-test"),
        ("{}/file", "laptop:{}/no/x", "laptop:{}/no/x"),
        ("{}/none", "laptop:{}/x", "{}/none"),
    ],
)
def test_a_failure_names_a_file_of_a_node_with_its_node(
    home: Home, folder: Path, source: str, target: str, named: str
) -> None:
    source, target, named = (text.replace("{}", str(folder)) for text in (source, target, named))
    done = home.run("cp", source, target)
    assert done.stderr.decode().startswith(f"hermes-nodes: error: {named!r}")


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        (["{}/file", "nope:x"], 66, "unknown_node"),
        (["{}/file", "{}/none", "nope:x/"], 66, "unknown_node"),
        (["nope:x", "{}/x"], 66, "unknown_node"),
        (["{}/file", "absent-cp:x"], 69, "not_connected"),
        (["laptop:{}/file", "{}/no/"], 66, "failed"),
    ],
)
def test_json_has_an_object_for_each_source_also_where_nothing_was_copied(
    home: Home, folder: Path, arguments: list[str], code: int, status: str
) -> None:
    home.pair("absent-cp", "--force")
    typed = [one.replace("{}", str(folder)) for one in arguments]
    done = home.run("cp", "--json", *typed)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == code
    assert [(one["source"], one["target"], one["status"]) for one in found] == [
        (source, typed[-1], status) for source in typed[:-1]
    ]
    assert all(one["error"]["message"] for one in found)


def test_json_without_a_gateway_has_its_object(empty_home: Home, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = empty_home.run("cp", "--json", f"{tmp_path}/file", "laptop:x")
    assert done.returncode == 69
    assert json.loads(done.stdout)["error"]["code"] == "gateway_not_running"


def test_json_escapes_a_name_that_is_not_utf_8(home: Home, folder: Path) -> None:
    (folder / "tree").mkdir()
    (folder / "tree" / os.fsdecode(b"odd-\xff")).write_text("x")
    done = home.run("cp", "-r", "--json", f"{folder}/tree", f"laptop:{folder}/there")
    (document,) = map(json.loads, done.stdout.splitlines())
    assert document["source"] == f"{folder}/tree/odd-\\udcff"
    assert "\udcff" not in str(document)


def test_a_terminal_gets_a_failure_on_one_line(home: Home, folder: Path) -> None:
    name = "n" * 200
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [*PROGRAM, "cp", f"laptop:{folder}/{name}", f"{folder}/x"],
        env={**home.environ, "TERM": "xterm-256color", "COLUMNS": "60", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stderr=theirs,
        timeout=PATIENCE,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 65536)
    os.close(ours)
    assert done.returncode == 66
    assert f"hermes-nodes: error: 'laptop:{folder}/{name}': there is no such file".encode() in shown
