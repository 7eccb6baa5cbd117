"""`--session`: what one command leaves, the next one finds, and nobody else."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileMissing, UsageError
from tests.harness import Home, NodeProcess, Watched
from tests.support import PATIENCE


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A session for one test."""
    return request.node.name[:64]  # type: ignore[no-any-return]


def said(home: Home, name: str, command: str | list[str], **options: object) -> str:
    return home.client.exec("laptop", command, session=name, **options).stdout  # type: ignore[arg-type]


def test_directory_and_exported_variables_last(home: Home, node: NodeProcess, name: str) -> None:
    assert said(home, name, "cd /usr; export A='b c'; plain=1") == ""
    assert said(home, name, "echo $PWD $A ${plain-unset}") == "/usr b c unset\n"
    assert said(home, name, "cd lib; cd ..; cd - >/dev/null; pwd") == "/usr/lib\n"
    assert said(home, name, "unset A; pwd") == "/usr/lib\n"
    assert said(home, name, "echo ${A-unset}") == "unset\n"


def test_without_a_session_and_under_another_name_nothing_is_found(
    home: Home, node: NodeProcess, name: str
) -> None:
    said(home, name, "cd /usr; export A=1")
    fresh = f"{Path.home()} unset\n"
    assert home.client.exec("laptop", "echo $PWD ${A-unset}").stdout == fresh
    assert said(home, f"{name}2"[-64:], "echo $PWD ${A-unset}") == fresh


def test_what_a_call_gives_itself_is_on_top_and_lasts(home: Home, node: NodeProcess, name: str) -> None:
    said(home, name, "cd /usr; export A=1")
    assert said(home, name, "echo $PWD $A $B", cwd="lib", env={"A": "2", "B": "3"}) == "/usr/lib 2 3\n"
    assert said(home, name, "echo $PWD $A $B") == "/usr/lib 2 3\n"
    assert said(home, name, "pwd", cwd="/") == "/\n"


def test_a_command_without_a_shell_finds_a_session_and_leaves_it(
    home: Home, node: NodeProcess, name: str
) -> None:
    said(home, name, "cd /usr; export A=1")
    assert said(home, name, ["bash", "-c", "echo $PWD $A; cd /; export A=2"]) == "/usr 1\n"
    assert said(home, name, "echo $PWD $A") == "/usr 1\n"


def test_a_session_whose_directory_is_gone_says_the_way_out(
    home: Home, node: NodeProcess, name: str, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    said(home, name, f"cd {tmp_path}/gone")
    (tmp_path / "gone").rmdir()
    done = home.run("exec", "--session", name, "laptop", "pwd")
    assert done.returncode == 66
    assert f"there is no directory '{tmp_path}/gone' to run in" in done.stderr.decode()
    assert f"give --cwd /, or forget the session: `hermes-nodes session reset laptop {name}`" in (
        done.stderr.decode()
    )
    assert said(home, name, "pwd", cwd="/") == "/\n"


@pytest.mark.parametrize("end", ["exit 3", "false", "set -e; false", "nosuch 2>/dev/null"])
def test_a_state_is_taken_whatever_the_exit_code(
    home: Home, node: NodeProcess, name: str, end: str
) -> None:
    done = home.client.exec("laptop", f"cd /usr; {end}", session=name)
    assert done.exit_code != 0
    assert (done.stdout, done.stderr) == ("", "")
    assert said(home, name, "pwd") == "/usr\n"


@pytest.mark.parametrize("end", ["kill -TERM $$", "kill -KILL $$", "exec true", "sleep 1000"])
def test_a_command_that_was_ended_leaves_the_state_as_it_was(
    home: Home, node: NodeProcess, name: str, end: str
) -> None:
    said(home, name, "cd /usr")
    home.client.exec("laptop", f"cd /etc; {end}", session=name, timeout=0.5 if "sleep" in end else None)
    assert said(home, name, "pwd") == "/usr\n"


def test_a_directory_that_is_gone_is_said_whatever_its_name(
    home: Home, node: NodeProcess, name: str, tmp_path: Path
) -> None:
    command = f"cd {tmp_path}; mkdir $'gone-\\xff'; cd $'gone-\\xff'; rmdir $PWD"
    said(home, name, command)
    with pytest.raises(FileMissing, match=r"gone-\\udcff' to run in"):
        said(home, name, "pwd")
    assert said(home, name, "pwd", cwd="/") == "/\n"


def test_a_background_is_not_waited_for_and_lives_on(home: Home, node: NodeProcess, name: str) -> None:
    pid = int(said(home, name, "export A=1; sleep 1000 >/dev/null 2>&1 & echo $!"))
    with Watched([pid]) as watched:
        assert said(home, name, "echo $A") == "1\n"
        assert watched.living() == 1
        os.kill(pid, signal.SIGKILL)
        assert watched.living(within=PATIENCE) == 0


def test_side_by_side_the_last_to_end_leaves_the_whole_of_its_state(
    home: Home, node: NodeProcess, name: str
) -> None:
    def one(number: int) -> None:
        said(home, name, f"export A={number} B={number} C={'x' * 50_000}{number}; cd /usr; cd /")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))
    a, b, c = said(home, name, 'echo $A $B ${C#"${C%%[0-9]*}"}').split()
    assert a == b == c


def test_stdin_and_a_session_go_together(home: Home, node: NodeProcess, name: str) -> None:
    assert said(home, name, "read -r A; export A", stdin=b"from stdin\n") == ""
    assert said(home, name, "echo $A; cat", stdin=b"rest") == "from stdin\nrest"


def test_a_session_outlives_the_connection(
    home: Home, node: NodeProcess, name: str, tmp_path: Path
) -> None:
    own = Home(tmp_path)
    with own.gateway() as gateway:
        port = str(gateway.port)
        with own.node(gateway, "laptop"):
            said(own, name, "cd /usr; export A=1")
            gateway.process.terminate()
            gateway.process.wait(PATIENCE)
            with own.rows(action="connect", node="laptop") as rows, own.gateway("--port", port):
                next(rows)
                assert said(own, name, "echo $PWD $A") == "/usr 1\n"


def test_sessions_are_listed_and_forgotten(home: Home, node: NodeProcess, name: str) -> None:
    said(home, name, "cd /usr")
    assert name in home.client.sessions("laptop")
    home.client.reset_session("laptop", name)
    assert name not in home.client.sessions("laptop")
    assert said(home, name, "pwd") == f"{Path.home()}\n"
    home.client.reset_session("laptop", name)
    with pytest.raises(FileMissing, match="no session"):
        home.client.reset_session("laptop", name)


@pytest.mark.parametrize("wrong", ["", "x" * 65])
def test_a_name_that_is_none_is_refused_before_anything_runs(
    home: Home, node: NodeProcess, wrong: str
) -> None:
    with pytest.raises(UsageError):
        said(home, wrong, "true")


def test_a_session_too_many_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with home.gateway() as gateway, home.node(gateway, "laptop"):
        for number in range(64):
            said(home, str(number), "true")
        with pytest.raises(CallFailed, match="64 sessions"):
            said(home, "one more", f"touch {tmp_path}/ran")
    assert not (tmp_path / "ran").exists()


def test_a_directory_that_is_gone_says_where_it_was(
    home: Home, node: NodeProcess, name: str, tmp_path: Path
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    said(home, name, f"cd {folder}")
    folder.rmdir()
    with pytest.raises(FileMissing, match=f"no directory '{folder}'"):
        said(home, name, "pwd")
    assert said(home, name, "pwd", cwd="/") == "/\n"
