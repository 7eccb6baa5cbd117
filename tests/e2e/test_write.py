"""`write` and `read`: whole files, or the old ones."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness import Background, GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE, comes_true

MIB = 1024 * 1024
OLD = b"the old content\n"


@pytest.fixture
def folder(home: Home, node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the node allows."""
    path = home.folder / "files" / os.urandom(4).hex()
    path.mkdir(parents=True)
    return path


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def start_half_a_write(home: Home, folder: Path) -> Background:
    """A write whose first mebibyte has arrived on the node's disk, and whose end does not come."""
    target = folder / "target"
    target.write_bytes(OLD)
    running = home.start("write", "laptop", str(target))
    assert running.process.stdin is not None
    running.process.stdin.write(os.urandom(MIB))
    running.process.stdin.flush()

    def has_begun() -> bool:
        parts = [path for path in folder.iterdir() if path.name.endswith(".part")]
        return bool(parts) and parts[0].stat().st_size >= MIB // 2

    assert comes_true(has_begun), "the write has not begun"
    return running


def until_only(folder: Path, expected: set[str]) -> None:
    assert comes_true(lambda: names(folder) == expected), f"{names(folder)} in the folder"


def test_twenty_mebibytes_go_there_and_back_exactly(home: Home, folder: Path) -> None:
    content = os.urandom(20 * MIB + 1)
    assert home.run("write", "laptop", str(folder / "big"), stdin=content).returncode == 0
    assert (folder / "big").read_bytes() == content
    done = home.run("read", "laptop", str(folder / "big"))
    assert (done.returncode, done.stdout == content) == (0, True)
    row = home.trail(action="read")[-1]
    assert (row["bytes_out"], row["path"]) == (len(content), str(folder / "big"))
    assert home.trail(action="write")[-1]["bytes_in"] == len(content)


def test_an_empty_file_is_a_file(home: Home, folder: Path) -> None:
    assert home.run("write", "laptop", str(folder / "empty")).returncode == 0
    assert (folder / "empty").read_bytes() == b""
    done = home.run("read", "laptop", str(folder / "empty"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_create_does_not_touch_what_is_there(home: Home, folder: Path) -> None:
    path = folder / "file"
    assert home.run("write", "--mode", "create", "laptop", str(path), stdin=OLD).returncode == 0
    done = home.run("write", "--mode", "create", "laptop", str(path), stdin=b"new")
    assert (done.returncode, done.stdout) == (73, b"")
    assert path.read_bytes() == OLD
    assert names(folder) == {"file"}


def test_append_adds_at_the_end(home: Home, folder: Path) -> None:
    for _ in range(2):
        assert (
            home.run("write", "--mode", "append", "laptop", str(folder / "log"), stdin=OLD).returncode == 0
        )
    assert (folder / "log").read_bytes() == OLD * 2


def test_of_many_writers_at_once_one_wins_whole(home: Home, folder: Path) -> None:
    client, path = home.client, str(folder / "contended")
    contents = [bytes([n]) * MIB for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda content: client.write("laptop", path, content), contents))
    assert [result.size_bytes for result in results] == [MIB] * 16
    assert (folder / "contended").read_bytes() in contents
    assert names(folder) == {"contended"}


def test_many_files_at_once_do_not_mix(home: Home, folder: Path) -> None:
    client = home.client
    contents = {f"file-{n}": os.urandom(MIB) for n in range(12)}
    with ThreadPoolExecutor(12) as pool:
        list(
            pool.map(lambda item: client.write("laptop", str(folder / item[0]), item[1]), contents.items())
        )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130), (signal.SIGTERM, None)]
)
def test_a_writer_that_is_ended_leaves_the_old_file(
    home: Home, folder: Path, number: signal.Signals, code: int | None
) -> None:
    with home.rows(action="write") as rows, start_half_a_write(home, folder) as running:
        running.process.send_signal(number)
        ended = running.process.wait(PATIENCE)
        assert code is None or ended == code
        assert next(rows)["status"] == "cancelled"
        until_only(folder, {"target"})
        assert (folder / "target").read_bytes() == OLD


def test_a_path_outside_is_refused_while_content_still_comes(home: Home, node: NodeProcess) -> None:
    done = home.run("write", "laptop", "/usr/hermes-test", stdin=bytes(5 * MIB))
    assert (done.returncode, done.stdout) == (77, b"")
    assert b"error:" in done.stderr


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Home, GatewayProcess, NodeProcess]]:
    """Parts that a test may kill."""
    home = Home(tmp_path)
    with home.gateway() as gateway, home.node(gateway, "laptop", allow=[tmp_path]) as node:
        yield home, gateway, node


def test_a_gateway_killed_during_a_write_leaves_the_old_file(
    own: tuple[Home, GatewayProcess, NodeProcess], tmp_path: Path
) -> None:
    home, gateway, _ = own
    folder = tmp_path / "files"
    folder.mkdir()
    with start_half_a_write(home, folder) as running:
        gateway.process.kill()
        assert running.end()[0] == 75
        until_only(folder, {"target"})
        assert (folder / "target").read_bytes() == OLD


def test_a_revoked_node_drops_what_it_was_writing(
    own: tuple[Home, GatewayProcess, NodeProcess], tmp_path: Path
) -> None:
    home, _, _ = own
    folder = tmp_path / "files"
    folder.mkdir()
    with start_half_a_write(home, folder) as running:
        home.ok("revoke", "laptop")
        assert running.end()[0] == 75
        until_only(folder, {"target"})
        assert (folder / "target").read_bytes() == OLD
