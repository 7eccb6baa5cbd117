"""Sessions: what one command leaves to the next, and what it does not."""

import asyncio
import os
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from hermes_nodes.errors import CallFailed, FileMissing
from hermes_nodes.node import shells
from hermes_nodes.node.processes import command_environment
from hermes_nodes.node.shells import MAX_SESSIONS, ShellSessions, State, StateReader, parse
from tests.support import PATIENCE

SHELLS = [shell for shell in ("bash", "dash", "sh") if shutil.which(shell)]


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The shell of the node: bash where there is one, else sh."""
    path = shutil.which(request.param)
    monkeypatch.setattr(shells, "shell_command", lambda command: [path, "-c", command])
    return str(path)


class Told:
    """A command that ran in a session's shell: what it left, and what it showed."""

    def __init__(self, command: str, cwd: Path, **environ: str) -> None:
        self._reader = StateReader()
        try:
            environment = command_environment("c0", environ)
            self.done = subprocess.run(
                self._reader.argv(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                pass_fds=[self._reader.writing],
                timeout=PATIENCE,
                check=False,
            )
            self.state = self._reader.state()
        finally:
            self._reader.close()

    @property
    def kept(self) -> State:
        assert self.state is not None, self.done
        return self.state


async def test_directory_and_exported_variables_are_told(shell: str, tmp_path: Path) -> None:
    told = Told("cd /usr; A=1; B=2; export B; unset LOGNAME", tmp_path, GIVEN="yes")
    assert told.kept.cwd == "/usr"
    assert told.kept.environment["B"] == "2"
    assert told.kept.environment["GIVEN"] == "yes"
    assert not {"A", "LOGNAME", "HERMES_NODES_CALL", "_", "SHLVL"} & set(told.kept.environment)
    assert not [name for name in told.kept.environment if "hermes" in name.lower()]


@pytest.mark.parametrize("command", ["exec true", "BIG=$(seq 30000); export BIG; cd /usr"])
async def test_a_shell_that_can_not_tell_its_state_is_noted(
    shell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """Linux lets no program have 128 KiB in one variable, and so none could be given the state."""
    assert Told(command, tmp_path).state is None
    (record,) = caplog.records
    assert "stays as it was" in record.message


@pytest.mark.parametrize(
    "value", ["", "a=b", "two\nlines\n", 'it\'s "quoted"', "\udcff\udc80", "x" * 60_000]
)
async def test_any_value_is_told_as_it_is(shell: str, tmp_path: Path, value: str) -> None:
    assert Told(":", tmp_path, VALUE=value).kept.environment["VALUE"] == value


async def test_a_directory_of_any_name_is_told_as_it_is(shell: str, tmp_path: Path) -> None:
    odd = tmp_path / "two\nlines 'and' \"more\" $x"
    odd.mkdir()
    assert Told(":", odd).kept.cwd == str(odd)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("exit 7", 7),
        ("false", 1),
        ("true", 0),
        ("(exit 9)", 9),
        ("set -e; false; echo no", 1),
        ("set -u", 0),
        ("nosuchcommand 2>/dev/null", 127),
        ("f() { exit 4; }; f", 4),
        ("set -C; set -f", 0),
        ("exec 2>&-", 0),
        ("IFS=/; PATH=/nowhere", 0),
        ("printf() { echo mine; }; pwd() { echo mine; }; env() { echo mine; }", 0),
        ("trap 'echo bye >&2' EXIT", 0),
        ("# a comment", 0),
        ("", 0),
        ("umask 077; ulimit -c 0", 0),
    ],
)
async def test_however_a_shell_comes_to_its_end_its_code_stays_and_its_state_is_told(
    shell: str, tmp_path: Path, command: str, code: int
) -> None:
    told = Told(f"export A=1\n{command}", tmp_path)
    assert told.done.returncode == code
    assert told.done.stdout == b""
    assert told.kept.environment["A"] == "1"
    assert told.kept.cwd == str(tmp_path)


@pytest.mark.parametrize("command", ["exec true", "kill -KILL $$", "exec sh -c 'cd /; exit 3'"])
async def test_a_shell_that_did_not_come_to_its_end_tells_nothing(
    shell: str, tmp_path: Path, command: str
) -> None:
    assert Told(f"export A=1; {command}", tmp_path).state is None


@pytest.mark.parametrize(
    "command", ["echo out; echo err >&2", "nosuch", "set -x; echo traced", "echo (", "'"]
)
async def test_the_telling_shows_in_neither_stream(shell: str, tmp_path: Path, command: str) -> None:
    told = Told(command, tmp_path)
    plain = await asyncio.to_thread(
        subprocess.run,
        [shell, "-c", 'eval "$1"', shell, command],
        cwd=tmp_path,
        env=command_environment("c0", {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (told.done.stdout, told.done.returncode) == (plain.stdout, plain.returncode)
    assert told.done.stderr == plain.stderr


async def test_lines_are_counted_as_without_a_session(tmp_path: Path) -> None:
    assert b"line 3: nosuch" in Told("\n\nnosuch", tmp_path).done.stderr


def left_behind(reader: StateReader, cwd: Path) -> subprocess.Popen[bytes]:
    """A command that leaves a process in the background, and says its number."""
    return subprocess.Popen(
        reader.argv("export A=1; sleep 1000 & echo $!"),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=[reader.writing],
        start_new_session=True,
    )


async def test_a_background_that_holds_every_descriptor_is_not_waited_for(
    shell: str, tmp_path: Path
) -> None:
    reader = StateReader()
    with left_behind(reader, tmp_path) as process:
        assert process.stdout is not None
        sleeper = int(await asyncio.to_thread(process.stdout.readline))
        try:
            await asyncio.to_thread(process.wait, PATIENCE)
            state = reader.state()
            assert state is not None
            assert state.environment["A"] == "1"
        finally:
            os.kill(sleeper, signal.SIGKILL)
            reader.close()


async def test_a_state_of_more_than_a_mebibyte_is_not_kept(
    shell: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reader = StateReader()
    process = await asyncio.create_subprocess_exec(
        *reader.argv("for n in 1 2 3 4 5 6 7 8 9 10 11; do export V$n=$big; done"),
        cwd=tmp_path,
        env={"big": "x" * 100_000, "PATH": os.environ["PATH"]},
        pass_fds=[reader.writing],
    )
    try:
        reader.started()
        await asyncio.wait_for(process.wait(), PATIENCE)
        assert reader.state() is None
        assert "is not kept" in caplog.text
    finally:
        reader.close()


async def test_an_env_without_a_zero_option_is_made_up_for(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        shells, "_SCRIPT", shells._SCRIPT.replace("/usr/bin/env -0", "/usr/bin/env --no-zero")
    )
    plain = Told("export A='x\ny'; unset LC_CTYPE LC_ALL LANG; cd /", tmp_path)
    assert (plain.kept.environment["A"], plain.kept.cwd) == ("x\ny", "/")
    assert "LC_CTYPE" not in plain.kept.environment
    assert Told("export LC_CTYPE=C.UTF-8", tmp_path).kept.environment["LC_CTYPE"] == "C.UTF-8"


@pytest.mark.parametrize(
    "told", [b"", b"/", b"/\n\0", b"/\n\0A=1\0", b"no/path\n\0A=1\0\0", b"/\n\0noise\0\0", b"\n\0A=1\0\0"]
)
async def test_what_is_not_whole_is_no_state(told: bytes) -> None:
    assert parse(told) is None


# -- names ----------------------------------------------------------------------------------------


def kept(sessions: ShellSessions, name: str, cwd: str = "/") -> None:
    with sessions.entered(name) as session:
        session.state = State(cwd, {})


def test_a_session_is_known_from_the_first_command_that_left_something() -> None:
    sessions = ShellSessions()
    with sessions.entered("empty"):
        assert sessions.names() == ["empty"]
    assert sessions.names() == []
    kept(sessions, "b")
    kept(sessions, "a")
    assert sessions.names() == ["a", "b"]


def test_the_last_to_end_leaves_the_whole_of_its_state() -> None:
    sessions = ShellSessions()
    with sessions.entered("s") as slow:
        kept(sessions, "s", "/usr")
        slow.state = State("/etc", {"A": "1"})
    with sessions.entered("s") as session:
        assert session.state == State("/etc", {"A": "1"})


def test_a_reset_holds_also_for_calls_that_run() -> None:
    sessions = ShellSessions()
    with sessions.entered("s") as running:
        sessions.reset("s")
        running.state = State("/etc", {})
    assert sessions.names() == []
    with pytest.raises(FileMissing, match="no session 's'"):
        sessions.reset("s")


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_a_name_has_its_bounds(name: str) -> None:
    with pytest.raises(CallFailed, match="1 to 64 characters"), ShellSessions().entered(name):
        pytest.fail("entered")


def test_there_are_so_many_sessions_and_no_more() -> None:
    sessions = ShellSessions()
    for number in range(MAX_SESSIONS):
        kept(sessions, str(number))
    with pytest.raises(CallFailed, match="64 sessions"), ExitStack() as stack:
        stack.enter_context(sessions.entered("one more"))
    kept(sessions, "0")
    sessions.reset("1")
    kept(sessions, "one more")
