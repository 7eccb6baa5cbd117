"""The guard script in the long-lived shells of older nodes, and how its output is taken apart."""

import asyncio
import base64
import itertools
import os
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hermes_nodes.errors import ProtocolViolation
from hermes_nodes.protocol.guarded import (
    ECHO_OFF,
    KEEP_BYTES,
    MAX_COMMAND,
    MAX_STDIN,
    Ended,
    GuardedOutput,
    as_command,
    guarded_script,
    new_marker,
    session_script,
)
from tests.conformance.older_shell import STDERR_BUDGET, Shell, open_shell
from tests.support import PATIENCE

MIB = 1024 * 1024
#: The least that a node may cut a call's output at.
NODE_KEEPS = 10_000_000
#: The seconds between the guard's time-out and the node's own.
NODE_WAITS = 5.0
TOOLS = {"bash", "sh", "setsid", "env", "sleep", "base64", "tr", "fold", "head", "cat", "awk", "sed", "dd"}
MISSING = [{"setsid"}, {"bash"}]
in_bash = pytest.mark.parametrize("shell", ["bash"], indirect=True)
both_modes = pytest.mark.parametrize("live", [False, True], ids=["whole", "live"])


class Outcome(NamedTuple):
    stdout: bytes
    ended: Ended
    #: Bytes that the node had to pass on, and how long it took.
    printed: int
    seconds: float

    @property
    def triple(self) -> tuple[bytes, bytes, int | None]:
        return self.stdout, self.ended.stderr, self.ended.exit_code


class Guarded:
    """A shell as an older node keeps it, and what it starts."""

    def __init__(self, shell: Shell, folder: Path) -> None:
        self.folder = folder
        self.leader = 0
        self._shell = shell
        self._mark = f"GUARDED_BY={new_marker()}"
        self._prepare = ECHO_OFF

    async def set_up(self) -> None:
        """Whatever runs here later is known by a variable, also where it has left the session."""
        said: list[bytes] = []
        await self.feed(f"export {self._mark}; echo $$", said.append)
        self.leader = int(said[-1])

    async def feed(self, script: str, take: Callable[[bytes], None] = lambda _: None) -> int:
        """Run a script in the shell itself; its exit code."""

        async def take_line(line: bytes) -> None:
            take(line)

        async with asyncio.timeout(PATIENCE):
            code = await self._shell.run(script, cwd=None, seconds=None, take=take_line)
        assert code is not None
        return code

    async def run(
        self,
        command: str,
        *,
        marker: str | None = None,
        on_stdout: Callable[[bytes], None] = lambda _: None,
        **options: Any,
    ) -> Outcome:
        """Run a command in the guard."""
        marker = marker or new_marker()
        output, stdout, sizes = GuardedOutput(marker), bytearray(), []

        def take(line: bytes) -> None:
            sizes.append(len(line))
            if piece := output.feed(line):
                stdout.extend(piece)
                on_stdout(piece)

        script = self._prepare + guarded_script(marker, command, **{"seconds": 60.0, **options})
        self._prepare = ""
        begun = time.monotonic()
        await self.feed(script, take)
        return Outcome(bytes(stdout), output.end(), sum(sizes), time.monotonic() - begun)

    @property
    def stderr_used(self) -> int:
        return STDERR_BUDGET - self._shell.stderr._left

    def left(self) -> dict[int, str]:
        """What still runs, once whoever is being killed is gone: process ids, each with its name."""
        for pid in self._started():
            _wait_for_end_of(pid)
        return self._started()

    def _started(self) -> dict[int, str]:
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # gone meanwhile, or someone else's
                name, _, rest = (folder / "stat").read_text(errors="replace").rpartition(")")
                state, _, _, session = rest.split()[:4]
                pid, is_marked = int(folder.name), self._mark.encode() in (folder / "environ").read_bytes()
                if state not in "ZX" and pid != self.leader and (is_marked or int(session) == self.leader):
                    found[pid] = name.partition("(")[2]
        return found

    def end_all(self) -> None:
        for pid in self._started():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _wait_for_end_of(pid: int) -> None:
    with suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        select.select([fd], [], [], 0.3)
        os.close(fd)


@asynccontextmanager
async def guarded(kind: str, folder: Path) -> AsyncIterator[Guarded]:
    async with open_shell(kind, folder) as opened:
        shell = Guarded(opened, folder)
        await shell.set_up()
        try:
            yield shell
        finally:
            shell.end_all()


@pytest.fixture(params=["bash", "sh"])
async def shell(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(request.param, tmp_path) as opened:
        yield opened


def plainly(command: str, folder: Path) -> tuple[bytes, bytes, int]:
    """What a command prints, and its exit code, where nobody guards it."""
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=folder,
        start_new_session=True,
    )
    code = done.returncode
    return done.stdout, done.stderr, code if code >= 0 else 128 - code


# What a command is and prints

MARKER = "hermes0123456789abcdef01234567"
COMMANDS = {
    "that reads stdin": "cat; echo read",
    "without a newline at its end": "printf abc; printf def >&2",
    "that prints nothing": "true",
    "that is empty": "",
    "that fails": "echo out; echo err >&2; exit 3",
    "with the highest exit code": "exit 255",
    "that says EXIT": "echo EXIT 3; printf 'EXIT 4\n' >&2",
    "that says another's marker": f"echo {MARKER}err; echo {MARKER}end 9",
    "that prints bytes": r"printf '\377\376\000\001\r\n\n'; printf '\200' >&2",
    "with quotes": """echo "it's" 'a "quote"' `echo b` $((1 + 1)) \\' "$'x'" '!!' !1""",
    "with a heredoc": "cat <<'E'\nline $x\nE\ncat <<E\n$((2 * 3))\nE\n",
    "with a heredoc that no one ends": "cat <<E\nline",
    "with a backslash at its end": "echo a \\",
    "with a comment at its end": "echo a # and no more",
    "that is a comment": "# nothing",
    "of several lines": "\n\necho one\n\techo two\n\n",
    "with an open quote": "echo 'open",
    "with an open block": "if true; then",
    "with a stray bracket": "echo a; ) echo b",
    "in letters of the world": "echo ö 😀 '\u2028' \u00a0",
    "with control characters": "printf %s '\x01\x03\x04\x1b[A\x7f\x15' | od -c",
    "of 100 KB": f"# {'x' * 100_000}\necho done",
    "as long as may be": f"echo {'x' * (MAX_COMMAND - 5)} | wc -c"[:MAX_COMMAND],
    "that closes its stdout": "exec >&-; echo lost; echo err >&2",
    "that closes all it has": "exec <&- >&- 2>&-; exit 5",
    "that kills itself": "echo a; kill -9 $$",
    "that kills its group": "echo a; kill 0; sleep 30",
    "that interrupts itself": "echo a; kill -INT $$; echo b",
    "that says goodbye": "trap 'echo bye' EXIT; exit 4",
    "that replaces its shell": "exec sh -c 'exit 6'",
    "that looks at its arguments": "echo $0 $# $-; tty; umask; jobs; set -o | grep monitor",
    "that looks at its files": "ls /proc/self/fd",
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
async def test_a_guarded_command_is_exact(shell: Guarded, command: str) -> None:
    outcome = await shell.run(command)
    assert outcome.triple == plainly(command, shell.folder)
    assert {outcome.ended.truncated, outcome.ended.is_late, outcome.ended.is_denied} == {False}
    assert shell.left() == {}


async def test_a_guarded_command_ignores_no_signals_of_itself(shell: Guarded) -> None:
    command = "grep SigIgn /proc/self/status"
    assert (await shell.run(command)).stdout == plainly(command, shell.folder)[0]


async def test_a_command_may_print_its_own_marker(shell: Guarded) -> None:
    marker = new_marker()
    said = "".join(f"{marker}{end}\n" for end in ("out", "denied", "err", "end 7"))
    outcome = await shell.run(f"printf '{said}'; printf '{said}' >&2", marker=marker)
    assert outcome.triple == (said.encode(), said.encode(), 0)


@both_modes
async def test_input_arrives_as_it_is(shell: Guarded, live: bool) -> None:
    data = os.urandom(MAX_STDIN)
    outcome = await shell.run("cat; cat >&2; echo end >&2; exit 2", stdin=data, live=live)
    assert outcome.triple == (data, b"end\n", 2)


@both_modes
async def test_a_command_need_not_read_its_input(shell: Guarded, live: bool) -> None:
    assert (await shell.run("head -c 3", stdin=b"abc" * 50_000, live=live)).triple == (b"abc", b"", 0)


@both_modes
async def test_a_line_may_be_of_any_length(shell: Guarded, live: bool) -> None:
    data = b"x" * 3 * MIB
    outcome = await shell.run(f"head -c {len(data)} /dev/zero | tr '\\0' x", live=live)
    assert outcome.triple == (data, b"", 0)


async def test_stderr_of_four_megabytes_costs_the_shell_none_of_its_own(shell: Guarded) -> None:
    outcome = await shell.run("head -c 4194304 /dev/zero >&2")
    assert outcome.triple == (b"", bytes(4 * MIB), 0)
    assert shell.stderr_used < 1024


@in_bash
@both_modes
@pytest.mark.parametrize(("out", "err"), [(20, 0), (0, 20), (20, 20)], ids=["stdout", "stderr", "both"])
async def test_of_more_than_fits_the_beginning_is_kept_and_the_exit_code(
    shell: Guarded, out: int, err: int, live: bool
) -> None:
    command = f"head -c {out}M /dev/zero & head -c {err}M /dev/zero >&2; wait; exit 9"
    outcome = await shell.run(command, live=live)
    assert outcome.printed < NODE_KEEPS
    assert outcome.ended.truncated
    assert outcome.ended.exit_code == 9
    assert outcome.stdout == bytes(KEEP_BYTES if out else 0)
    assert bool(outcome.ended.stderr) == bool(err)
    assert set(outcome.ended.stderr) <= {0}


@in_bash
async def test_stderr_that_is_cut_for_want_of_room_is_said_to_be(shell: Guarded) -> None:
    out, err = 6 * MIB, 3 * MIB
    outcome = await shell.run(f"head -c {out} /dev/zero; head -c {err} /dev/zero >&2")
    assert len(outcome.stdout) == out
    assert len(outcome.ended.stderr) < err
    assert outcome.ended.truncated


# Where and with what a command runs


async def test_variables_of_any_name_and_value_arrive(shell: Guarded) -> None:
    env = {
        "QUOTED": """it's "so" `echo` $HOME \\ %s \\n""",
        "LINES_": "\n one\n\n two \n\n",
        "A-B": "odd",
        "1X": "odder",
        "EMPTY": "",
        "WORLD": "ö 😀",
        "EQUAL": "a=b=",
        "PATH": "/nonexistent",
    }
    printed = (await shell.run("/usr/bin/env -0", env=env)).stdout.split(b"\0")
    assert {f"{name}={value}".encode() for name, value in env.items()} <= set(printed)
    assert b"PATH=/nonexistent" not in (await shell.run("/usr/bin/env -0")).stdout.split(b"\0")


@pytest.mark.parametrize("name", ["-i", "-u", "--help"])
async def test_a_variable_whose_name_looks_like_an_option_is_one(shell: Guarded, name: str) -> None:
    outcome = await shell.run("/usr/bin/env -0", env={name: "x"})
    assert f"{name}=x".encode() in outcome.stdout.split(b"\0")


@pytest.mark.parametrize("name", ["plain", "it's", "-e", "two  words", "line\n", "ö $HOME \\n %s *"])
async def test_a_command_runs_where_the_node_stands(shell: Guarded, name: str) -> None:
    there = shell.folder / name
    there.mkdir()
    await shell.feed(f"cd {shlex.quote(str(there))}")
    outcome = await shell.run("pwd -P", cwd=str(there))
    assert outcome.triple == (f"{there.resolve()}\n".encode(), b"", 0)


@pytest.mark.parametrize("name", ["elsewhere", "missing", "line\n"])
async def test_nothing_runs_where_the_node_does_not_stand(shell: Guarded, name: str) -> None:
    (shell.folder / "elsewhere").mkdir()
    outcome = await shell.run(f"touch '{shell.folder}/ran'", cwd=str(shell.folder / name))
    assert outcome.ended.is_denied
    assert outcome.triple == (b"", b"", None)
    assert not (shell.folder / "ran").exists()
    assert (await shell.run("echo on")).stdout == b"on\n"


async def test_odd_words_are_run_as_they_are(shell: Guarded) -> None:
    words = ["", "a b", "it's", "$HOME", "*", "-n", "new\nline\n", "\\", "ö", '"']
    outcome = await shell.run(as_command(["printf", "%s\\0", *words]))
    assert outcome.stdout == "".join(f"{word}\0" for word in words).encode()


async def take_away(shell: Guarded, missing: set[str]) -> None:
    """From now on the shell finds these tools only, less the missing ones."""
    for tool in TOOLS - missing:
        (shell.folder / tool).symlink_to(shutil.which(tool) or tool)
    await shell.feed(f"PATH='{shell.folder}'")


@pytest.mark.parametrize("missing", MISSING, ids=" and ".join)
async def test_a_machine_may_lack(shell: Guarded, missing: set[str]) -> None:
    await take_away(shell, missing)
    outcome = await shell.run("cat; echo $0; echo err >&2; exit 3", stdin=b"in\n")
    assert outcome.triple == (b"in\nsh\n" if "bash" in missing else b"in\nbash\n", b"err\n", 3)
    assert shell.left() == {}


# Output while a command runs


async def test_live_output_comes_before_the_command_has_ended(shell: Guarded) -> None:
    os.mkfifo(shell.folder / "go")
    go = os.open(shell.folder / "go", os.O_RDWR)
    pieces: list[bytes] = []

    def take(piece: bytes) -> None:
        pieces.append(piece)
        if len(pieces) == 1:
            os.write(go, b"second\n")

    command = f"echo first; echo err >&2; head -n 1 '{shell.folder}/go'; exit 8"
    outcome = await shell.run(command, live=True, on_stdout=take)
    os.close(go)
    assert pieces == [b"first\n", b"second\n"]
    assert outcome.triple == (b"first\nsecond\n", b"err\n", 8)
    assert shell.left() == {}


# What is left


async def test_what_a_command_leaves_in_the_background_without_its_output_goes_on(shell: Guarded) -> None:
    outcome = await shell.run("sleep 30 >/dev/null 2>&1 & echo $!")
    assert outcome.seconds < PATIENCE
    assert shell.left() == {int(outcome.stdout): "sleep"}


class Late(NamedTuple):
    outcome: Outcome
    next: Outcome
    left: dict[int, str]


LATE_COMMANDS = {
    "sleeps": ("sleep 30", 143, set[str]()),
    "leaves its output to another": ("sleep 30 &", 0, set[str]()),
    "ignores TERM": ("trap '' TERM; while :; do sleep 30; done", 137, set[str]()),
    "leaves its output to another session": ("setsid sleep 30 & exit 0", None, {"sleep"}),
}
SHELLS = ("bash", "sh")


Case = tuple[str, str]
Lateness = dict[Case, Late | BaseException]
WITHOUT = {" and ".join(sorted(missing)): missing for missing in MISSING}


async def _lateness(shell: Guarded, command: str) -> Late:
    async with asyncio.timeout(1.0 + NODE_WAITS):
        outcome = await shell.run(command, seconds=1.0)
    left = shell.left()
    return Late(outcome, await shell.run("echo next"), left)


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Lateness:
    """All that is late at once, as it takes seconds; by shell and command, or what is missing."""

    async def run_all() -> Lateness:
        async with AsyncExitStack() as stack:

            async def opened(kind: str) -> Guarded:
                return await stack.enter_async_context(guarded(kind, tmp_path_factory.mktemp("late")))

            running = {}
            for kind in SHELLS:
                for name, (command, _, _) in LATE_COMMANDS.items():
                    running[kind, name] = _lateness(await opened(kind), command)
                for name, missing in WITHOUT.items():
                    await take_away(shell := await opened(kind), missing)
                    running[kind, name] = _lateness(shell, "(sleep 30; echo no) & sleep 30")
            ended = await asyncio.gather(*running.values(), return_exceptions=True)
            return dict(zip(running, ended, strict=True))

    return asyncio.run(run_all())


@pytest.mark.parametrize("kind", SHELLS)
@pytest.mark.parametrize("name", WITHOUT)
def test_the_time_out_holds_on_a_machine_without(late: Lateness, kind: str, name: str) -> None:
    found = late[kind, name]
    assert isinstance(found, Late)
    assert found.outcome.ended.is_late
    assert found.left == {}
    assert found.next.triple == (b"next\n", b"", 0)


@pytest.mark.parametrize("kind", SHELLS)
@pytest.mark.parametrize("name", LATE_COMMANDS)
def test_the_time_out_holds_for_a_command_that(late: Lateness, kind: str, name: str) -> None:
    _, exit_code, left = LATE_COMMANDS[name]
    found = late[kind, name]
    assert isinstance(found, Late)
    assert found.outcome.ended.is_late
    assert found.outcome.ended.exit_code == exit_code
    assert found.outcome.seconds >= 1.0
    assert set(found.left.values()) == left
    assert found.next.triple == (b"next\n", b"", 0)
    assert not found.next.ended.is_late
    assert found.next.seconds < NODE_WAITS


async def test_two_hundred_calls_cost_a_shell_little_of_its_stderr(tmp_path: Path) -> None:
    async with guarded("bash", tmp_path) as shell:
        await shell.run("true")
        used = shell.stderr_used
        for number in range(200):
            assert (await shell.run(f"echo {number}; echo err >&2")).stdout == f"{number}\n".encode()
        assert shell.stderr_used - used < 200 * 256
        assert shell.left() == {}


# In the node's own shell


class Spoken(NamedTuple):
    said: bytes
    code: int


async def in_session(shell: Guarded, command: str, *, marker: str = "", **options: Any) -> Spoken:
    said: list[bytes] = []
    script = session_script(marker or new_marker(), command, **{"cwd": None, "env": None, **options})
    code = await shell.feed(script, said.append)
    return Spoken(b"".join(said), code)


async def test_what_a_session_changes_lasts(shell: Guarded) -> None:
    (shell.folder / "sub").mkdir()
    await in_session(shell, "cd sub; export A=1\nB='two\nlines'", env={"C": "it's\n\n"})
    spoken = await in_session(shell, 'pwd -P; echo "$A$B${C}"; env | grep ^C=; (exit 3)')
    assert spoken == Spoken(f"{shell.folder.resolve()}/sub\n1two\nlinesit's\n\n\nC=it's\n".encode(), 3)


@pytest.mark.parametrize("command", ["cat", "echo 'open", "if true", ")", "nonsense", "# no more", "a \\"])
async def test_a_session_goes_on_after(shell: Guarded, command: str) -> None:
    await in_session(shell, command)
    assert await in_session(shell, "echo on") == Spoken(b"on\n", 0)


async def test_a_session_runs_nothing_where_the_node_does_not_stand(shell: Guarded) -> None:
    marker = new_marker()
    spoken = await in_session(shell, f"touch '{shell.folder}/ran'", marker=marker, cwd="/")
    assert spoken.said == f"{marker}denied\n".encode()
    assert not (shell.folder / "ran").exists()
    assert await in_session(shell, "echo here", cwd=str(shell.folder)) == Spoken(b"here\n", 0)


# What is made of the output


def in_lines(data: bytes) -> list[bytes]:
    encoded = base64.b64encode(data)
    return [encoded[at : at + 1000] + b"\n" for at in range(0, len(encoded), 1000)]


def writes(stdout: bytes, stderr: bytes, exit_code: int = 0) -> list[bytes]:
    """What a guard prints, in the pieces in which it does."""
    head, middle, end = (f"{MARKER}{part}\n".encode() for part in ("out", "err", f"end {exit_code}"))
    notes = f":{exit_code}:({len(stdout)})\n".encode()
    return [
        b"bash-5# \n",
        head,
        *in_lines(stdout),
        b"\n",
        middle,
        *in_lines(stderr),
        notes,
        b"\n",
        end,
        b"\n",
    ]


def taken_apart(*pieces: bytes) -> tuple[bytes, Ended]:
    output = GuardedOutput(MARKER)
    stdout = b"".join([output.feed(piece) for piece in pieces])
    return stdout, output.end()


contents = st.binary(max_size=40) | st.integers(700, 2300).map(bytes)


@given(contents, contents, st.integers(0, 255), st.lists(st.integers(0, 6000)))
def test_output_may_come_in_any_pieces(
    stdout: bytes, stderr: bytes, exit_code: int, cuts: list[int]
) -> None:
    printed = b"".join(writes(stdout, stderr, exit_code))
    bounds = [0, *sorted(cuts), len(printed)]
    pieces = [printed[start:end] for start, end in itertools.pairwise(bounds)]
    expected = stdout, Ended(exit_code, is_late=False, is_denied=False, stderr=stderr, truncated=False)
    assert taken_apart(*pieces) == expected
    assert taken_apart(*[printed[at : at + 1] for at in range(len(printed))]) == expected


@given(st.data(), contents, contents)
def test_a_time_out_may_be_noted_between_any_two_writes(
    data: st.DataObject, out: bytes, err: bytes
) -> None:
    pieces = writes(out, err, 143)
    pieces.insert(data.draw(st.integers(2, len(pieces))), b";")
    expected = out, Ended(143, is_late=True, is_denied=False, stderr=err, truncated=False)
    assert taken_apart(b"".join(pieces)) == expected


@given(st.integers(0, 684))
def test_a_time_out_may_be_noted_amid_a_line(at: int) -> None:
    stdout = bytes(range(256)) * 2
    line = base64.b64encode(stdout) + b"\n"
    before, _, *rest = writes(stdout, b"")[1:]
    assert taken_apart(before, line[:at] + b";" + line[at:], *rest)[0] == stdout


@given(st.integers(0, 60))
def test_stderr_may_be_cut_at_any_byte_even_in_a_note(at: int) -> None:
    tail = b":0:".join(base64.b64encode(part) for part in (b"some word", b"some more")) + b"(12345678)QUJD"
    before, after = writes(b"out", b"")[:5], [b"\n", f"{MARKER}end 0\n".encode()]
    stdout, ended = taken_apart(*before, tail[:at], *after)
    assert (stdout, ended.exit_code) == (b"out", 0)


@pytest.mark.parametrize("line", ["Q*JD", "QUJDQ===", "=UJD", "QQ==QUJD", "QUJ\xff", "no base64"])
@pytest.mark.parametrize("place", [2, 4], ids=["stdout", "stderr"])
def test_damaged_output_is_a_violation(line: str, place: int) -> None:
    pieces = writes(b"", b"")
    pieces.insert(place, line.encode("latin-1") + b"\n")
    with pytest.raises(ProtocolViolation, match="damaged"):
        taken_apart(*pieces)


@pytest.mark.parametrize("code", ["", "x", "-1", "1.5", "4294967296", "9" * 5000])
def test_an_exit_code_that_no_shell_gives_is_a_violation(code: str) -> None:
    with pytest.raises(ProtocolViolation):
        taken_apart(*writes(b"", b"")[:-2], f"{MARKER}end {code}\n".encode())


@pytest.mark.parametrize("printed", [b"", b"\n", b"no marker\n", b"bash: command not found\nQUJD\n"])
def test_output_without_markers_tells_no_exit_code(printed: bytes) -> None:
    assert taken_apart(printed) == (
        b"",
        Ended(None, is_late=False, is_denied=False, stderr=b"", truncated=False),
    )


@pytest.mark.parametrize(("pieces", "stderr"), [(3, b""), (5, b""), (6, b"err"), (7, b"err")])
def test_output_that_breaks_off_keeps_what_there_was(pieces: int, stderr: bytes) -> None:
    stdout, ended = taken_apart(*writes(b"out", b"err")[:pieces])
    assert (stdout, ended.stderr, ended.exit_code) == (b"out", stderr, None)


def test_a_denied_command_is_told_by_its_marker_alone() -> None:
    assert taken_apart(f"{MARKER}denied\n".encode())[1].is_denied
    assert not taken_apart(f"x{MARKER}denied\n".encode())[1].is_denied


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_of_each_stream_seven_megabytes_are_kept(stream: str, over: int) -> None:
    content = bytes(KEEP_BYTES + over)
    stdout, ended = taken_apart(*(writes(content, b"") if stream == "stdout" else writes(b"", content)))
    assert len(stdout + ended.stderr) == KEEP_BYTES
    assert ended.truncated is bool(over)
