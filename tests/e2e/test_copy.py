"""`cp`: the same on the other side, whole or not at all, and on from where it broke."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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


# -- broken and resumed ---------------------------------------------------------------------------


class Parts:
    """A gateway that may be killed, its node, and a large file to copy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.home = Home(folder)
        self._stack = stack
        self.gateway = stack.enter_context(self.home.gateway())
        self.node = stack.enter_context(self.home.node(self.gateway, "laptop", allow=[folder]))
        self.folder = folder / "files"
        self.folder.mkdir()
        self.source, self.target = folder / "source", self.folder / "target"
        self.source.write_bytes(os.urandom(BIG))
        self.source.chmod(0o640)
        self.target.write_bytes(OLD)

    def arguments(self, way: str) -> tuple[str, str]:
        if way == "up":
            return str(self.source), f"laptop:{self.target}"
        if way == "across":
            return f"laptop:{self.source}", f"nas:{self.target}"
        return f"laptop:{self.source}", str(self.target)

    def break_off(self, way: str, end: str = "gateway") -> tuple[int, bytes]:
        """A copy in the middle of which something ends; its exit code and stderr."""
        with self.home.start("cp", *self.arguments(way)) as running:
            self.until_some_has_come()
            if end == "gateway":
                self.gateway.process.kill()
            elif end == "stop":
                self.gateway.process.terminate()
            else:
                running.process.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
            code, _, stderr = running.end()
        return code, stderr

    def add_node(self, name: str) -> None:
        self._stack.enter_context(self.home.node(self.gateway, name, allow=[self.folder.parent]))

    def restart(self, nodes: int = 1) -> None:
        with self.home.rows(action="connect") as rows:
            self.gateway = self._stack.enter_context(self.home.gateway("--port", str(self.gateway.port)))
            for _ in range(nodes):
                next(rows)

    def resume(self, way: str) -> dict[str, object]:
        done = self.home.run("cp", "--resume", "--json", *self.arguments(way))
        assert done.returncode == 0, done.stderr
        (found,) = objects(done.stdout)
        return found

    def part_names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"target"}

    def until_left(self, *names: str) -> None:
        """Until this is all there is beside the target."""
        waiting = threading.Event()
        for _ in range(500):
            if self.part_names() == set(names):
                return
            waiting.wait(0.01)
        raise AssertionError(self.part_names())

    def until_some_has_come(self) -> None:
        waiting = threading.Event()
        for _ in range(4000):
            sizes = [(self.folder / name).stat().st_size for name in self.part_names()]
            if sizes and max(sizes) > BIG // 5:
                return
            waiting.wait(0.002)
        raise AssertionError("the copy has not begun")


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    with ExitStack() as stack:
        yield Parts(tmp_path, stack)


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_copy_goes_on_after_the_gateway_was_killed_and_sends_the_rest_alone(
    parts: Parts, way: str
) -> None:
    code, stderr = parts.break_off(way)
    assert code == 75
    assert b"`cp --resume` goes on from what has arrived" in stderr
    assert parts.target.read_bytes() == OLD
    parts.restart()
    resumed = parts.resume(way)
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert mode(parts.target) == 0o640
    assert parts.part_names() == set()
    sent = resumed["bytes_sent"]
    assert isinstance(sent, int)
    assert 0 < sent < BIG - BIG // 5 + MIB
    rows = parts.home.trail(action="write" if way == "up" else "read", status="ok")
    assert max(int(str(row["bytes_in" if way == "up" else "bytes_out"])) for row in rows[-4:]) == sent


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_copy_goes_on_after_the_gateway_was_stopped_in_order(parts: Parts, way: str) -> None:
    code, stderr = parts.break_off(way, "stop")
    assert code == 75, stderr
    assert b"`cp --resume` goes on from what has arrived" in stderr
    assert parts.target.read_bytes() == OLD
    parts.restart()
    sent = parts.resume(way)["bytes_sent"]
    assert isinstance(sent, int)
    assert 0 < sent < BIG - BIG // 5 + MIB
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


def test_a_copy_between_two_nodes_goes_on_where_it_broke(parts: Parts) -> None:
    parts.add_node("nas")
    code, stderr = parts.break_off("across")
    assert code == 75, stderr
    parts.restart(nodes=2)
    sent = parts.resume("across")["bytes_sent"]
    assert isinstance(sent, int)
    assert 0 < sent < BIG - BIG // 5 + MIB
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_source_that_was_altered_meanwhile_is_never_mixed(parts: Parts, way: str) -> None:
    parts.break_off(way)
    before = parts.source.stat()
    with parts.source.open("r+b") as file:
        file.write(b"altered in its first bytes, and as long and as old as before")
    os.utime(parts.source, ns=(before.st_atime_ns, before.st_mtime_ns))
    parts.restart()
    assert parts.resume(way)["bytes_sent"] == BIG
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_source_that_has_become_shorter_is_copied_anew(parts: Parts, way: str) -> None:
    parts.break_off(way)
    parts.source.write_bytes(b"short")
    parts.restart()
    assert parts.resume(way)["bytes_sent"] == 5
    assert parts.target.read_bytes() == b"short"
    assert parts.part_names() == set()


@pytest.mark.parametrize("way", ["up", "down"])
def test_ctrl_c_leaves_the_old_file_and_no_half_one(parts: Parts, way: str) -> None:
    code, stderr = parts.break_off(way, "interrupt")
    assert code == 130, stderr
    assert parts.target.read_bytes() == OLD
    parts.until_left()


def test_a_copy_goes_on_after_it_was_itself_killed(parts: Parts) -> None:
    assert parts.break_off("up", "kill")[0] == -signal.SIGKILL
    parts.until_left(".target.hermes-part")
    assert parts.target.read_bytes() == OLD
    sent = parts.resume("up")["bytes_sent"]
    assert isinstance(sent, int)
    assert 0 < sent < BIG - BIG // 5 + MIB
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


def test_a_copy_that_fails_by_itself_leaves_nothing(parts: Parts) -> None:
    with parts.home.start("cp", *parts.arguments("up")) as running:
        parts.until_some_has_come()
        os.truncate(parts.source, BIG // 2)
        code, _, stderr = running.end()
    assert (code, b"changed while it was read" in stderr) == (1, True), stderr
    parts.until_left()
    assert parts.target.read_bytes() == OLD


@pytest.mark.parametrize("way", ["up", "down"])
def test_with_nothing_to_go_on_from_resume_copies_all(parts: Parts, way: str) -> None:
    assert parts.resume(way)["bytes_sent"] == BIG
    assert parts.target.read_bytes() == parts.source.read_bytes()


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
