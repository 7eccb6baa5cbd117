"""What an older node can't do, and what its one call at a time means to those who call it."""

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hermes_nodes.call_connection import Json
from hermes_nodes.errors import (
    Busy,
    FileAlreadyThere,
    FileMissing,
    HermesNodesError,
    PathNotAllowed,
    RateLimited,
    Unsupported,
)
from tests.conformance.older_node import Running, older_node
from tests.harness import Home
from tests.support import PATIENCE

LARGEST = 10 * 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Running]]:
    """For the tests that leave a node and its connection as they are."""
    home = Home(tmp_path_factory.mktemp("older"))
    with running(home) as node:
        yield home, node


@pytest.fixture
def home(shared: tuple[Home, Running]) -> Home:
    return shared[0]


@pytest.fixture
def node(shared: tuple[Home, Running]) -> Running:
    return shared[1]


@pytest.fixture
def folder(node: Running, tmp_path: Path) -> Path:
    """A directory that the node allows and no other test has."""
    path = node.folder / tmp_path.name
    path.mkdir()
    return path


@pytest.fixture
def own(tmp_path: Path) -> Home:
    """For a gateway that a test starts by itself."""
    return Home(tmp_path)


@contextmanager
def running(home: Home, *options: str, **environ: str) -> Iterator[Running]:
    """A gateway with an older node."""
    quick = ("--retry-first", "0.05", *options)
    with home.gateway(**environ) as gateway, older_node(home, gateway, "older", *quick) as node:
        yield node


def session_of(home: Home) -> object:
    return home.node_view("older")["session_id"]


def read(home: Home, path: Path | str) -> bytes:
    content = bytearray()
    home.client.read("older", str(path), content.extend)
    return bytes(content)


# Files


@pytest.mark.parametrize("encrypted", [(), ("--encrypted",)], ids=["plain", "encrypted"])
def test_ten_megabytes_go_there_and_come_back(own: Home, encrypted: tuple[str, ...]) -> None:
    content = os.urandom(LARGEST)
    with running(own, *encrypted) as node:
        file = node.folder / "file"
        written = own.client.write("older", str(file), content)
        assert written.size_bytes == LARGEST
        assert file.read_bytes() == content
        assert read(own, file) == content


def test_a_byte_more_is_refused_in_both_directions(home: Home, folder: Path) -> None:
    file = folder / "file"
    with pytest.raises(Unsupported, match="at most 10485760 bytes") as refused:
        home.client.write("older", str(file), bytes(LARGEST + 1))
    assert refused.value.exit_status == 69
    assert not file.exists()
    file.write_bytes(bytes(LARGEST + 1))
    with pytest.raises(Unsupported, match="at most 10485760 bytes"):
        read(home, file)


def test_an_empty_file_is_written_as_an_empty_file(home: Home, folder: Path) -> None:
    file = folder / "file"
    file.write_text("old")
    assert home.client.write("older", str(file), b"").size_bytes == 0
    assert file.read_bytes() == b""
    assert read(home, file) == b""


def test_an_empty_file_is_refused_where_the_node_takes_none(own: Home) -> None:
    with running(own, "--strict-base64") as node:
        with pytest.raises(Unsupported, match="can't write an empty file"):
            own.client.write("older", str(node.folder / "file"), b"")
        assert not (node.folder / "file").exists()


def test_the_modes_of_a_write_are_the_nodes_own(home: Home, folder: Path) -> None:
    file = folder / "file"
    home.client.write("older", str(file), b"a", mode="create")
    home.client.write("older", str(file), b"b", mode="append")
    assert file.read_bytes() == b"ab"
    with pytest.raises(FileAlreadyThere):
        home.client.write("older", str(file), b"c", mode="create")


def test_what_a_node_refuses_is_told_by_its_name(home: Home, folder: Path) -> None:
    with pytest.raises(PathNotAllowed):
        read(home, "/etc/passwd")
    with pytest.raises(FileMissing):
        read(home, folder / "nothing")


# What it can't do


def test_each_thing_it_can_not_do_is_refused_with_what_can(home: Home, folder: Path) -> None:
    marker = folder / "ran"
    common: Json = {"call": "exec", "node": "older", "command": f"touch {marker}"}
    requests: dict[str, Json] = {
        "terminals": {**common, "pty": {"cols": 80, "rows": 24}},
        "detached jobs": {**common, "detach": True},
        "from 1s to 595s": {**common, "timeout_ms": 595_001},
        "from 1s": {**common, "timeout_ms": 999},
        "absolute path": {**common, "cwd": "here"},
        "at most 131071 bytes": {**common, "command": "x" * 131_072},
        "permissions": {"call": "write", "node": "older", "path": str(marker), "perm": 0o600},
    }
    for lack, request in requests.items():
        with pytest.raises(Unsupported, match=lack) as refused:
            home.client.call(request, lambda *_: None, b"")
        assert refused.value.exit_status == 69
        assert "older node software" in refused.value.message
        assert "hermes-nodes node run" in refused.value.hint
    assert not marker.exists()


def test_a_session_is_the_nodes_own_shell_and_its_caller_is_told(home: Home, folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    first = home.run("exec", "--session", "s", "older", f"cd {below}; export A=1; cat; exit_later=2")
    assert first.returncode == 0
    assert b"note: all sessions on node 'older' are its one shared shell" in first.stderr
    later = home.run("exec", "--session", "t", "older", "pwd; echo $A $exit_later")
    assert later.stdout == f"{below}\n1 2\n".encode()


def test_a_mistake_in_a_session_leaves_its_shell_alive(home: Home, node: Running, own: Home) -> None:
    with running(own, "--shell", "sh"):
        for one in (home, own):  # bash, sh
            assert one.client.exec("older", "(", session="s").exit_code == 2
            assert one.client.exec("older", "echo on", session="s").stdout == "on\n"


def test_a_session_runs_nothing_where_the_node_does_not_go(home: Home, folder: Path) -> None:
    marker = folder / "ran"
    with pytest.raises(PathNotAllowed):
        home.client.exec("older", f"touch {marker}", session="s", cwd="/usr")
    assert not marker.exists()


def test_raw_sends_the_command_as_it_is(own: Home) -> None:
    with running(own, HERMES_NODES_LEGACY_EXEC="raw"):
        done = own.client.exec("older", "A=1; echo EXIT 3; printf foo")
        assert done.stdout.startswith("foo")  # what the node makes of it
        assert own.client.exec("older", "echo $A").stdout == "1\n"
        with pytest.raises(Unsupported, match="legacy_exec: raw"):
            own.client.exec("older", "cat", stdin=b"x")


# One call at a time


def test_three_hundred_calls_at_once_leave_the_connection_alone(own: Home) -> None:
    with running(own):
        session = session_of(own)

        def call(number: int) -> str:
            try:
                return own.client.exec("older", f"echo {number}").status
            except (Busy, RateLimited) as error:
                return f"{error.code}: {error.hint.split()[0]}"

        with ThreadPoolExecutor(100) as threads:
            outcomes = Counter(threads.map(call, range(300)))
        assert set(outcomes) <= {"ok", "busy: try", "rate_limited: try"}  # again, and when
        assert outcomes["ok"] >= 65  # one running, and all that may wait
        assert outcomes["rate_limited: try"] > 0
        assert session_of(own) == session


@contextmanager
def busy(home: Home, folder: Path) -> Iterator[Callable[[], None]]:
    """The node has a call under way; it ends when the given function is called."""
    started, gate = folder / "started", folder / "gate"
    os.mkfifo(started)
    os.mkfifo(gate)
    command = f"exec 3<>{gate}; echo > {started}; read -r line <&3"

    def work() -> None:
        with suppress(HermesNodesError):
            home.client.exec("older", command)

    thread = threading.Thread(target=work)
    thread.start()
    started.read_bytes()
    try:
        yield lambda: _open(gate)
    finally:
        with suppress(OSError):  # it has been opened already
            _open(gate)
        thread.join(PATIENCE)


def _open(gate: Path) -> None:
    """OSError if nobody waits at it."""
    fd = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"\n")
    os.close(fd)


def test_a_caller_that_waits_is_told_so(home: Home, folder: Path) -> None:
    with busy(home, folder) as end, home.start("exec", "older", "echo mine") as waiting:
        assert waiting.process.stderr is not None
        assert b"note: node 'older' does one call at a time" in waiting.process.stderr.readline()
        end()
        assert waiting.end()[:2] == (0, b"mine\n")


def test_a_caller_that_waits_can_leave_and_nothing_of_its_call_runs(home: Home, folder: Path) -> None:
    marker = folder / "ran"
    with busy(home, folder) as end:
        with home.start("exec", "older", f"touch {marker}") as waiting:
            assert waiting.process.stderr is not None
            waiting.process.stderr.readline()
            waiting.process.send_signal(signal.SIGINT)
            code, _, said = waiting.end()
        assert code == 130
        assert b"nothing has run" in said
        end()
        assert home.client.exec("older", "echo next").stdout == "next\n"
    assert not marker.exists()


def test_a_call_under_way_is_cancelled_here_alone(home: Home, folder: Path) -> None:
    marker, started = folder / "ran", folder / "started"
    os.mkfifo(started)
    command = f"echo > {started}; sleep 1; touch {marker}"
    with home.rows(action="exec") as rows, home.start("exec", "older", command) as calling:
        started.read_bytes()
        calling.process.send_signal(signal.SIGINT)
        code, _, said = calling.end()
        row = next(rows)
    assert code == 130
    assert b"cancelled here; on the node it may go on" in said
    assert home.client.exec("older", "echo next").stdout == "next\n"
    assert marker.exists()
    assert (row["status"], row["error"]) == ("cancelled", "cancelled")


def test_a_call_that_waited_has_all_of_its_time(home: Home, folder: Path) -> None:
    with busy(home, folder) as end:
        with home.start("exec", "--timeout", "1s", "--json", "older", "echo mine") as waiting:
            assert waiting.process.stderr is not None
            waiting.process.stderr.readline()  # which comes after a second
            end()
            code, printed, _ = waiting.end()
        assert (code, json.loads(printed)["stdout"]) == (0, "mine\n")


# Life


def test_a_node_that_is_deaf_while_it_works_is_not_cut(own: Home) -> None:
    impatient = {
        "HERMES_NODES_HEARTBEAT_STALE_SECONDS": "1",
        "HERMES_NODES_HEARTBEAT_SWEEP_INTERVAL_SECONDS": "0.5",
    }
    with running(own, "--ping-every", "100", **impatient):
        session = session_of(own)
        assert own.client.exec("older", "sleep 4; echo done").stdout == "done\n"
        assert session_of(own) == session


def test_a_node_near_the_end_of_its_stderr_comes_back_with_a_new_one(own: Home) -> None:
    with running(own) as node:
        session = session_of(own)
        for _ in range(3):  # a node that has read 10 MiB is mute
            own.client.exec("older", "head -c 3145728 /dev/zero >&2", session="s")
        assert node.reconnected() != session
        for _ in range(2):
            assert own.client.exec("older", "head -c 3145728 /dev/zero >&2", session="s").exit_code == 0


def test_guarded_commands_use_up_no_stderr(home: Home, node: Running) -> None:
    session = session_of(home)
    for _ in range(4):
        done = home.client.exec("older", "head -c 3145728 /dev/zero >&2")
        assert len(done.stderr_bytes) == 3145728
    assert session_of(home) == session
