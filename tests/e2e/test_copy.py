"""`cp`: the same on the other side, whole or not at all, and on from where it broke."""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.older_node import older_node
from tests.harness import PROGRAM, GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE, mode

MIB = 1 << 20
BIG = 160 * MIB
OLD = b"the old content\n"


@pytest.fixture
def folder(home: Home, node: NodeProcess) -> Path:
    """A folder that the node allows."""
    path = home.folder / "copies" / os.urandom(4).hex()
    path.mkdir(parents=True)
    return path


def make_tree(top: Path) -> None:
    """What a tree may hold, but for links and names that are not UTF-8."""
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "a\nb").write_bytes(b"newline")
    (top / "-rf").write_bytes(b"dash")
    (top / "...").write_bytes(b"dots")
    (top / "é ' \" $(x) \x1b[2J").write_bytes(b"signs")
    (top / "sub" / "nothing").touch()
    (top / "sub" / "large").write_bytes(os.urandom(3 * MIB + 1))
    (top / "sub" / "run").write_bytes(b"#!/bin/sh\n")
    (top / "sub" / "run").chmod(0o751)
    (top / "sub" / "secret").write_bytes(b"s")
    (top / "sub" / "secret").chmod(0o400)
    (top / "shut").mkdir()
    (top / "shut" / "file").write_bytes(b"in there")
    (top / "shut").chmod(0o555)


def look(top: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path with its mode and its content."""
    paths = [top, *(path for path in top.rglob("*") if not path.is_symlink())]
    return {
        str(path.relative_to(top)): (mode(path), None if path.is_dir() else path.read_bytes())
        for path in paths
    }


def objects(stdout: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.splitlines()]


# -- what is copied -------------------------------------------------------------------------------


def test_a_tree_is_the_same_on_the_node_and_back(home: Home, folder: Path) -> None:
    make_tree(folder / "tree")
    home.ok("cp", "-r", str(folder / "tree"), f"laptop:{folder}/there")
    home.ok("cp", "-r", f"laptop:{folder}/there", str(folder / "back"))
    assert look(folder / "there") == look(folder / "tree")
    assert look(folder / "back") == look(folder / "tree")
    assert {path.name for path in folder.iterdir()} == {"tree", "there", "back"}


def test_a_tree_goes_from_node_to_node(home: Home, gateway: GatewayProcess, folder: Path) -> None:
    make_tree(folder / "tree")
    with home.node(gateway, f"other-{folder.name}", allow=[home.folder]) as other:
        home.ok("cp", "-r", f"laptop:{folder}/tree", f"{other.name}:{folder}/there")
    assert look(folder / "there") == look(folder / "tree")


def test_into_a_directory_that_is_there_a_copy_keeps_its_name(home: Home, folder: Path) -> None:
    for name in ("one", "two", "in", "out"):
        (folder / name).mkdir()
    (folder / "one" / "x").write_text("x")
    (folder / "file").write_text("f")
    home.ok("cp", "-r", f"{folder}/one", f"{folder}/file", f"laptop:{folder}/in")
    home.ok("cp", "-r", f"laptop:{folder}/one/", f"laptop:{folder}/file", f"{folder}/out/")
    for target in ("in", "out"):
        assert (folder / target / "one" / "x").read_text() == "x"
        assert (folder / target / "file").read_text() == "f"


def test_the_content_of_a_directory_goes_into_another(home: Home, folder: Path) -> None:
    (folder / "from").mkdir()
    (folder / "from" / "x").write_text("x")
    (folder / "to").mkdir()
    home.ok("cp", "-r", f"laptop:{folder}/from/.", f"{folder}/to")
    assert {path.name for path in (folder / "to").iterdir()} == {"x"}


@pytest.mark.parametrize("size", [0, 1, MIB, 20 * MIB + 1])
def test_one_file_of_any_size_goes_there_and_back(home: Home, folder: Path, size: int) -> None:
    (folder / "file").write_bytes(os.urandom(size))
    (folder / "file").chmod(0o640)
    sent = objects(home.run("cp", "--json", f"{folder}/file", f"laptop:{folder}/there").stdout)
    assert [(one["status"], one["size_bytes"], one["bytes_sent"]) for one in sent] == [("ok", size, size)]
    home.ok("cp", f"laptop:{folder}/there", f"{folder}/back")
    assert (folder / "back").read_bytes() == (folder / "file").read_bytes()
    assert (mode(folder / "there"), mode(folder / "back")) == (0o640, 0o640)


def test_hundreds_of_files_wait_for_the_gateways_rate_limit(home: Home, folder: Path) -> None:
    (folder / "many").mkdir()
    for number in range(250):
        (folder / "many" / str(number)).write_text(str(number))
    home.ok("cp", "-r", f"{folder}/many", f"laptop:{folder}/there")
    assert look(folder / "there") == look(folder / "many")


def test_links_and_names_that_can_not_be_sent_are_named_and_the_rest_is_copied(
    home: Home, folder: Path
) -> None:
    tree = folder / "tree"
    tree.mkdir()
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "loop").symlink_to(".")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xff")).write_text("x")
    (tree / "file").write_text("x")
    for source, target in ((f"{tree}", f"laptop:{folder}/t1"), (f"laptop:{tree}", f"{folder}/t2")):
        done = home.run("cp", "-r", "--json", source, target)
        assert done.returncode == 1
        assert done.stderr.count(b"error:") == 4
        for word in (b"/link' is a symbolic", b"/loop' is a symbolic", b"/fifo' is neither", b"udcff'"):
            assert word in done.stderr
        assert sorted(str(one["status"]) for one in objects(done.stdout)) == ["failed"] * 4 + ["ok"]
    for name in ("t1", "t2"):
        assert {path.name for path in (folder / name).iterdir()} == {"file"}


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("{}/none laptop:{}/x", 66, "/none': there is no such file"),
        ("laptop:{}/none {}/x", 66, "/none': there is no such file"),
        ("{}/file laptop:/etc/hermes-test", 77, "outside the paths this node allows"),
        ("laptop:/etc/passwd {}/x", 77, "outside the paths this node allows"),
        ("{}/file laptop:{}/out", 77, "outside the paths this node allows"),
        ("{}/file laptop:{}/no/x", 66, "/no' is missing"),
        ("laptop:{}/file {}/no/x", 66, "/no': no such file or directory"),
        ("{}/file laptop:{}/no/", 66, "/no/' is not there"),
        ("{}/file laptop:{}/other/", 1, "/other/': not a directory"),
        ("{}/folder laptop:{}/x", 1, "/folder' is a directory"),
        ("laptop:{}/folder {}/x", 1, "/folder' is a directory"),
        ("laptop:{}/file /dev/null", 1, "'/dev/null' is something special"),
        ("{}/file absent-node:x", 66, "no node is paired as 'absent-node'"),
        ("{}/file {}/x", 2, "is on a node"),
    ],
)
def test_a_file_that_can_not_be_copied_is_named_with_the_reason(
    home: Home, folder: Path, line: str, code: int, words: str
) -> None:
    (folder / "file").write_text("x")
    (folder / "other").write_text("y")
    (folder / "folder" / "file").mkdir(parents=True)
    (folder / "out").symlink_to("/etc/hermes-test")
    before = look(folder)
    done = home.run("cp", *line.replace("{}", str(folder)).split())
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert done.stderr.startswith(b"hermes-nodes: error: ")
    assert done.stderr.count(b"error:") == 1
    assert look(folder) == before


def test_a_directory_in_the_way_of_a_file_stops_that_file_alone(home: Home, folder: Path) -> None:
    for side in ("from", "to", "here"):
        (folder / side).mkdir()
    for name in ("a", "b", "c"):
        (folder / "from" / name).write_text(name)
    for side in ("to", "here"):
        (folder / side / "b").mkdir()
    for target in (f"laptop:{folder}/to", f"{folder}/here"):
        sources = [f"laptop:{folder}/from/{name}" for name in "abc"]
        done = home.run("cp", *sources, target)
        assert (done.returncode, done.stderr.count(b"error:")) == (1, 1)
        assert b"/b' is a directory, not a file" in done.stderr
    for side in ("to", "here"):
        assert [(folder / side / name).is_file() for name in "abc"] == [True, False, True]


def test_a_disk_that_is_full_here_leaves_nothing_here(home: Home, folder: Path) -> None:
    (folder / "file").write_bytes(bytes(5 * MIB))
    (folder / "target").write_bytes(OLD)
    # A limit on the size of files stands for a full disk: both fail inside a write.
    line = f"ulimit -f 2048; trap '' XFSZ; exec {' '.join(PROGRAM)} cp laptop:{folder}/file {folder}/target"
    done = subprocess.run(
        ["bash", "-c", line], env=home.environ, capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert b"/target': file too large" in done.stderr
    assert (folder / "target").read_bytes() == OLD
    assert {path.name for path in folder.iterdir()} == {"file", "target"}


def test_of_two_copies_to_one_target_the_last_whole_one_wins(home: Home, folder: Path) -> None:
    contents = [bytes([number]) * (4 * MIB) for number in range(4)]
    for number, content in enumerate(contents):
        (folder / f"from-{number}").write_bytes(content)
    for target in (f"laptop:{folder}/there", f"{folder}/here"):
        with ThreadPoolExecutor(4) as pool:
            done = list(
                pool.map(lambda number: home.run("cp", f"laptop:{folder}/from-{number}", target), range(4))  # noqa: B023
            )
        assert [one.returncode for one in done] == [0] * 4, [one.stderr for one in done]
    for name in ("there", "here"):
        assert (folder / name).read_bytes() in contents
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


# -- older nodes ----------------------------------------------------------------------------------


def test_single_files_go_to_and_from_an_older_node(tmp_path: Path) -> None:
    home = Home(tmp_path)
    content = os.urandom(3 * MIB)
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "large").write_bytes(bytes(11 * MIB))
    with home.gateway() as gateway, older_node(home, gateway, "older") as node:
        home.ok("cp", f"{tmp_path}/file", f"older:{node.folder}/there")
        home.ok("cp", f"older:{node.folder}/there", f"{tmp_path}/back")
        assert (node.folder / "there").read_bytes() == content
        assert (tmp_path / "back").read_bytes() == content
        assert not home.trail(status="error")
        refused = {
            (f"{tmp_path}/file", f"older:{node.folder}/"): b"can't tell a directory from a file",
            (f"{tmp_path}/file", f"{tmp_path}/large", f"older:{node.folder}"): b"can't tell a directory",
            ("-r", f"{tmp_path}", f"older:{node.folder}/x"): b"can't tell a directory from a file",
            ("-r", f"older:{node.folder}", f"{tmp_path}/x"): b"can't list directories",
            (f"{tmp_path}/large", f"older:{node.folder}/x"): b"writes files of at most",
        }
        for arguments, words in refused.items():
            done = home.run("cp", *arguments)
            assert (done.returncode, done.stdout) == (69, b""), done.stderr
            assert words in done.stderr
