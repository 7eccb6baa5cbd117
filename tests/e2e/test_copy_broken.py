"""Copies that break, and those that go on where another broke."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import Home
from tests.support import comes_true, mode

MIB = 1 << 20
#: Large enough that a copy of it can be caught in its middle.
BIG = 64 * MIB
OLD = b"what was there before"
NODES = ("laptop", "nas")
#: A gateway that is killed again and again is found again at once.
FAST = "backoff_initial = 0.05\nbackoff_max = 0.2"


def part_of(way: str) -> str:
    """What a copy leaves beside its target: on a node, or here."""
    return ".target.hermes-part" if way == "up" else ".target.hermes.part"


class Parts:
    """A gateway that may be killed, its nodes, and a large file to copy."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.home = Home(folder)
        self._stack = stack
        self.gateway = stack.enter_context(self.home.gateway())
        for name in NODES:
            stack.enter_context(self.home.node(self.gateway, name, allow=[folder], settings=FAST))
        self.folder = folder / "files"
        self.folder.mkdir()
        self._original = folder / "original"
        self._original.write_bytes(os.urandom(BIG))
        self.source, self.target = folder / "source", self.folder / "target"

    def set_up(self) -> None:
        """As if nothing had been done."""
        if self.gateway.process.poll() is not None:
            self.restart()
        for path in self.folder.iterdir():
            path.unlink()
        shutil.copyfile(self._original, self.source)
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

    def restart(self) -> None:
        """The gateway again, with its nodes."""
        with ExitStack() as following:
            rows = [following.enter_context(self.home.rows(action="connect", node=name)) for name in NODES]
            self.gateway = self._stack.enter_context(self.home.gateway("--port", str(self.gateway.port)))
            for connected in rows:
                next(connected)

    def resume(self, way: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(
            self.home.ok("cp", "--resume", "--json", *self.arguments(way))
        )
        return found

    def part_names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} - {"target"}

    def until_left(self, *names: str) -> None:
        """Until this is all there is beside the target."""
        assert comes_true(lambda: self.part_names() == set(names)), self.part_names()

    def until_some_has_come(self) -> None:

        def has_come() -> bool:
            sizes = [(self.folder / name).stat().st_size for name in self.part_names()]
            return max(sizes, default=0) > BIG // 5

        assert comes_true(has_come, every=0.002), "the copy has not begun"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with ExitStack() as stack:
        yield Parts(tmp_path_factory.mktemp("broken"), stack)


@pytest.fixture
def parts(shared: Parts) -> Parts:
    shared.set_up()
    return shared


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
    code, stderr = parts.break_off("across")
    assert code == 75, stderr
    parts.restart()
    sent = parts.resume("across")["bytes_sent"]
    assert isinstance(sent, int)
    assert 0 < sent < BIG - BIG // 5 + MIB
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_source_that_was_altered_meanwhile_is_never_mixed(parts: Parts, way: str) -> None:
    parts.break_off(way, "kill")
    before = parts.source.stat()
    with parts.source.open("r+b") as file:
        file.write(b"altered in its first bytes, and as long and as old as before")
    os.utime(parts.source, ns=(before.st_atime_ns, before.st_mtime_ns))
    parts.until_left(part_of(way))
    assert parts.resume(way)["bytes_sent"] == BIG
    assert parts.target.read_bytes() == parts.source.read_bytes()
    assert parts.part_names() == set()


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_source_that_has_become_shorter_is_copied_anew(parts: Parts, way: str) -> None:
    parts.break_off(way, "kill")
    parts.until_left(part_of(way))
    parts.source.write_bytes(b"short")
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
