"""Commands on an older node, through the guard: exact, though the node is not."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from hermes_nodes.client import Client, ExecResult
from hermes_nodes.errors import PathNotAllowed, Unsupported
from tests.conformance.older_node import Running, older_node
from tests.harness import Home

MIB = 1024 * 1024
KEPT = 7 * MIB
#: Bytes that are too many for us, and encoded for the node too.
PLENTY = 11 * MIB
RANDOM = os.urandom(512 * 1024)
#: Ways in which commands and their output may travel: a node's name, and how it is started.
NODES = {
    "bash": ("--shell", "bash"),
    "sh-encrypted": ("--shell", "sh", "--encrypted"),
    "bash-encrypted-chunks": ("--shell", "bash", "--encrypted", "--chunks"),
}


class Older:
    """An older node and whoever calls it."""

    def __init__(self, home: Home, name: str, node: Running) -> None:
        self.home = home
        self.name = name
        self.node = node
        self.client: Client = home.client

    def exec(self, command: str | list[str], **options: object) -> ExecResult:
        return self.client.exec(self.name, command, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def all_older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Older]]:
    """One connection each for all tests: what one of them leaves behind, the next one meets."""
    home = Home(tmp_path_factory.mktemp("older"))
    with ExitStack() as stack:
        gateway = stack.enter_context(home.gateway(HERMES_NODES_LEGACY_STREAMING="true"))

        def started(name: str, options: tuple[str, ...]) -> Older:
            node = older_node(home, gateway, name, *options, "--retry-first", "0.05")
            return Older(home, name, stack.enter_context(node))

        yield {name: started(name, options) for name, options in NODES.items()}


@pytest.fixture(params=NODES)
def older(request: pytest.FixtureRequest, all_older: dict[str, Older]) -> Older:
    return all_older[request.param]


def at_each(all_older: dict[str, Older], shows: Callable[[Older], None]) -> None:
    """The same on every node at once, as it takes seconds."""
    with ThreadPoolExecutor(len(all_older)) as threads:
        list(threads.map(shows, all_older.values()))


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A fifo; whoever waits at it is let go at the end."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR))


@pytest.mark.parametrize(
    ("command", "exit_code", "stdout", "stderr"),
    [
        ("exit 3", 3, b"", b""),
        ("printf foo", 0, b"foo", b""),
        ("printf foo >&2; printf bar; exit 255", 255, b"bar", b"foo"),
        ("echo EXIT 5; echo EXIT 6 >&2; echo 'EXIT '", 0, b"EXIT 5\nEXIT \n", b"EXIT 6\n"),
        (r"printf '\000\377\303\n\n'", 0, b"\0\xff\xc3\n\n", b""),
        ("cat", 0, b"", b""),
        ("head -c 3145728 /dev/zero | tr '\\0' x", 0, b"x" * (3 * MIB), b""),
        ("head -c 4194304 /dev/zero >&2", 0, b"", bytes(4 * MIB)),
        ("cat <<'END'\n$A 'b' \"c\" `d` \\e\nEND", 0, b"$A 'b' \"c\" `d` \\e\n", b""),
        ("echo a; # 'a comment", 0, b"a\n", b""),
        ("echo 'a\tb' \"c!d\" \\", 0, b"a\tb c!d \\\n", b""),
        ("echo $0 $#; : " + "x" * 100_000, 0, b"bash 0\n", b""),
        ("kill -9 $$", 137, b"", b""),
        ("exec 1>&- 2>&-; exit 9", 9, b"", b""),
        ("echo ünïcödé ☃", 0, "ünïcödé ☃\n".encode(), b""),
        ("", 0, b"", b""),
        (["printf", "%s|", "a b", "*", "$x", "'", ""], 0, b"a b|*|$x|'||", b""),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_command_gives_what_it_gives_in_a_shell_of_its_own(
    older: Older, command: str | list[str], exit_code: int, stdout: bytes, stderr: bytes
) -> None:
    done = older.exec(command)
    assert (done.exit_code, done.truncated) == (exit_code, False)
    assert done.stdout_bytes == stdout
    assert done.stderr_bytes == stderr


@pytest.mark.parametrize("command", ["(", "nosuchcommand", "exit 1; ("])
def test_a_command_that_no_shell_takes_fails_as_in_a_shell(older: Older, command: str) -> None:
    done = older.exec(command)
    assert done.exit_code not in (None, 0)
    assert done.stderr


@pytest.mark.parametrize("content", [b"", b"\0\r\n\xff", RANDOM], ids=["empty", "short", "512 KiB"])
def test_stdin_arrives_exactly_and_ends(older: Older, content: bytes) -> None:
    assert older.exec("cat", stdin=content).stdout_bytes == content


def test_a_command_that_reads_none_of_its_stdin_ends_all_the_same(older: Older) -> None:
    assert older.exec("exit 4", stdin=RANDOM).exit_code == 4


def test_stdin_beyond_512_kib_is_refused_and_nothing_runs(older: Older) -> None:
    marker = older.node.folder / "ran"
    with pytest.raises(Unsupported, match="524288 bytes"):
        older.exec(f"touch {marker}; cat", stdin=RANDOM + b"x")
    assert not marker.exists()


def test_the_environment_is_the_one_that_was_given(older: Older) -> None:
    given = {"A": 'it\'s "$(id)"\n\n', "B": "", "C-D": "odd", "PATH": "/nonexistent"}
    shown = older.exec("/usr/bin/env -0", env=given).stdout_bytes.split(b"\0")
    assert {f"{name}={value}".encode() for name, value in given.items()} <= set(shown)
    assert older.exec('echo "[$A]"').stdout == "[]\n"


def test_a_directory_that_the_node_allows_is_where_the_command_runs(older: Older) -> None:
    below = older.node.folder / "it's below"
    below.mkdir(exist_ok=True)
    assert older.exec("pwd", cwd=str(below)).stdout == f"{below}\n"


def test_a_directory_holds_for_one_command(older: Older) -> None:
    begin = older.exec("pwd").stdout
    below = older.node.folder / "once"
    below.mkdir(exist_ok=True)
    older.exec("true", cwd=str(below))
    older.exec("cd /; export LEFT=1", session="s")
    assert older.exec("pwd").stdout == begin
    assert older.exec("pwd", session="s").stdout == "/\n"


@pytest.mark.parametrize("elsewhere", ["/usr", "/nonexistent"])
def test_in_a_directory_that_the_node_does_not_allow_nothing_runs(older: Older, elsewhere: str) -> None:
    marker = older.node.folder / "ran"
    with pytest.raises(PathNotAllowed, match="nothing has run") as refused:
        older.exec(f"touch {marker}", cwd=elsewhere)
    assert refused.value.exit_status == 77
    assert not marker.exists()


def test_a_time_out_ends_the_command_and_holds_up_nothing(all_older: dict[str, Older]) -> None:
    def shows(older: Older) -> None:
        done = older.exec("echo before; sleep 30; echo after", timeout=1)
        assert (done.status, done.stdout) == ("timeout", "before\n")
        assert done.duration_ms < 5_000
        assert older.exec("echo next").stdout == "next\n"

    at_each(all_older, shows)


def test_a_time_out_ends_also_what_will_not_go(all_older: dict[str, Older]) -> None:
    def shows(older: Older) -> None:
        done = older.exec("trap '' TERM; sleep 30", timeout=1)
        assert done.status == "timeout"
        assert older.exec("echo next").stdout == "next\n"

    at_each(all_older, shows)


def test_a_time_out_keeps_what_was_printed_though_another_session_holds_the_pipes(
    all_older: dict[str, Older], gate: Path
) -> None:
    def shows(older: Older) -> None:
        done = older.exec(f"echo before; echo err >&2; setsid cat {gate} & exit 5", timeout=1)
        assert (done.status, done.exit_code) == ("timeout", 5)
        assert (done.stdout, done.stderr) == ("before\n", "err\n")
        assert 1_000 <= done.duration_ms < 6_000
        assert older.exec("echo next").stdout == "next\n"

    at_each(all_older, shows)


def test_what_a_sessions_background_job_prints_meanwhile_is_dropped(older: Older, gate: Path) -> None:
    printed = gate.with_name("printed")
    os.mkfifo(printed)
    job = f"read -r line <{gate}; echo tick; echo QUJD; echo $line; echo >{printed}"
    older.exec(f"({job}) &", session="s")
    done = older.exec(f"echo a; echo err >&2; echo tock >{gate}; read -r line <{printed}; echo b; exit 3")
    assert (done.status, done.exit_code) == ("error", 3)
    assert (done.stdout, done.stderr) == ("a\nb\n", "err\n")


def test_more_output_than_fits_is_cut_and_said_to_be_cut(older: Older) -> None:
    done = older.exec(f"head -c {PLENTY} /dev/zero >&2; exit 6")
    assert (done.exit_code, done.truncated) == (6, True)
    assert done.stderr_bytes == bytes(KEPT)
    done = older.exec(f"head -c {PLENTY} /dev/zero; echo end >&2; exit 7")
    assert (done.exit_code, done.truncated) == (7, True)
    assert done.stdout_bytes == bytes(KEPT)
    assert older.exec("echo next").stdout == "next\n"


def test_the_cli_says_that_output_was_cut(all_older: dict[str, Older]) -> None:
    older = all_older["bash"]
    done = older.home.run("exec", older.name, "head -c 8000000 /dev/zero; exit 8")
    assert (done.returncode, len(done.stdout)) == (8, KEPT)
    assert b"output was cut" in done.stderr


def test_the_trail_shows_the_command_and_not_the_script(older: Older) -> None:
    request_id = older.exec("echo to be found", env={"SECRET": "hidden"}).request_id
    (row,) = [row for row in older.home.trail(action="exec") if row["request_id"] == request_id]
    assert row["command"] == "echo to be found"
    assert "hidden" not in str(row)


def test_many_calls_later_the_node_still_answers_on_the_same_connection(older: Older) -> None:
    session = older.home.node_view(older.name)["session_id"]
    for number in range(10):
        assert older.exec(f"echo {number}; exit {number}").exit_code == number
    assert older.home.node_view(older.name)["session_id"] == session
