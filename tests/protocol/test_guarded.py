"""Commands in the guard script, in the long-lived shells of older nodes: exact in all that they print."""

import os
from pathlib import Path

import pytest

from hermes_nodes.protocol.guarded import KEEP_BYTES, MAX_COMMAND, MAX_STDIN, new_marker
from tests.protocol.guard_output import MARKER
from tests.protocol.guarded_support import Guarded, both_modes, guarded, plainly
from tests.support import PATIENCE

MIB = 1024 * 1024
#: The least that a node may cut a call's output at.
NODE_KEEPS = 10_000_000
in_bash = pytest.mark.parametrize("shell", ["bash"], indirect=True)


# What a command is and prints

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
@pytest.mark.parametrize(("out", "err"), [(11, 0), (0, 11), (11, 11)], ids=["stdout", "stderr", "both"])
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


async def test_forty_calls_cost_a_shell_little_of_its_stderr(tmp_path: Path) -> None:
    async with guarded("bash", tmp_path) as shell:
        await shell.run("true")
        used = shell.stderr_used
        for number in range(40):
            assert (await shell.run(f"echo {number}; echo err >&2")).stdout == f"{number}\n".encode()
        assert shell.stderr_used - used < 40 * 256
        assert shell.left() == {}
