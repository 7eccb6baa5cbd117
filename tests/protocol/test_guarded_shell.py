"""What the node's own shell means to a command: where and with what it runs, and what it is spared."""

import shlex
import subprocess
from collections.abc import Iterator

import pytest

from hermes_nodes.protocol.guarded import as_command, new_marker
from tests.protocol.guarded_support import MISSING, Guarded, Spoken, in_session, take_away

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


@pytest.mark.parametrize("missing", MISSING, ids=" and ".join)
async def test_a_machine_may_lack(shell: Guarded, missing: set[str]) -> None:
    await take_away(shell, missing)
    outcome = await shell.run("cat; echo $0; echo err >&2; exit 3", stdin=b"in\n")
    assert outcome.triple == (b"in\nsh\n" if "bash" in missing else b"in\nbash\n", b"err\n", 3)
    assert shell.left() == {}


# What a session has left behind in the node's shell

EXACT = (b"a 0-p s\n", b"e 0-p s", 10)
#: Says EXACT, whatever has become of `printf` and `echo`; first what it has been given.
SAYS_EXACT = "/bin/cat; command printf 'a 0-p s\\n'; command printf 'e 0-p s' >&2; exit 10"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of ours that has nothing to do with any shell."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("ifs", ["0", "-", "p", "s", "0123456789-/"])
async def test_a_field_separator_of_a_session_changes_nothing(
    shell: Guarded, ifs: str, bystander: subprocess.Popen[bytes]
) -> None:
    await in_session(shell, f"export IFS='{ifs}'")
    for live in (False, True):
        given = await shell.run('cat; printf %s "$A"', stdin=b"0-p s", env={"A": "0-p s"}, live=live)
        assert given.triple == (b"0-p s0-p s", b"", 0)
        assert (await shell.run(SAYS_EXACT, cwd=str(shell.folder), live=live)).triple == EXACT
    late = await shell.run("echo before; exec sleep 30", seconds=0.2)
    assert (late.stdout, late.ended.exit_code, late.ended.is_late) == (b"before\n", 143, True)
    assert bystander.poll() is None
    assert await shell.process_id() == shell.leader
    assert shell.left() == {}


@pytest.mark.parametrize("code", [0, 1, 10, 255])
async def test_a_field_separator_of_a_session_leaves_its_exit_codes_alone(
    shell: Guarded, code: int
) -> None:
    await in_session(shell, "IFS=0125")
    assert (await in_session(shell, f"(exit '{code}')")).code == code


# `echo` lets pass what the node itself says at a command's end, or nothing would ever end there.
SHADOWS = {
    "functions": (
        "printf() { :; }; test() { return 1; }; cd() { :; }; cat() { :; }; "
        'echo() { case $1 in EXIT*|END*) command echo "$@" ;; esac; }'
    ),
    "aliases": "alias printf=true test=false cd=true cat=false command=true",
    "options": "set -u; set -f; set -C",
}


@pytest.mark.parametrize("shadow", SHADOWS.values(), ids=SHADOWS.keys())
async def test_a_command_is_exact_where_a_session_has_defined(shell: Guarded, shadow: str) -> None:
    elsewhere = shell.folder / "elsewhere"
    elsewhere.mkdir()
    await in_session(shell, f"command cd /\n{shadow}")
    for live in (False, True):
        assert (await shell.run(SAYS_EXACT, live=live)).triple == EXACT
        assert (await shell.run("cat", stdin=b"in\0", live=live)).triple == (b"in\0", b"", 0)
    assert (await shell.run("pwd -P")).stdout == f"{shell.folder.resolve()}\n".encode()
    assert (await shell.run("echo here", cwd=str(elsewhere))).ended.is_denied
    await shell.feed(f"\\command cd '{elsewhere}'")
    assert (await shell.run("echo here", cwd=str(elsewhere))).triple == (b"here\n", b"", 0)
    assert shell.left() == {}


TOOLS_SHADOWED = (
    "printf",
    "echo",
    "base64",
    "tr",
    "fold",
    "sed",
    "head",
    "awk",
    "cat",
    "dd",
    "env",
    "sleep",
)


@pytest.mark.parametrize("shell", ["bash"], indirect=True)
async def test_a_command_is_exact_where_a_session_has_exported_functions(shell: Guarded) -> None:
    # All but those with which the node itself ends a command.
    shadows = [f"{name}() {{ command {name} /dev/null; }}" for name in TOOLS_SHADOWED if name != "echo"]
    told = 'echo() { case $1 in EXIT*|END*) command echo "$@" ;; esac; }'
    await in_session(shell, "; ".join([*shadows, told, f"export -f {' '.join(TOOLS_SHADOWED)}"]))
    for live in (False, True):
        assert (await shell.run(SAYS_EXACT, live=live)).triple == EXACT
        assert (await shell.run("/bin/cat", stdin=b"in\0", live=live)).triple == (b"in\0", b"", 0)


async def test_a_file_that_every_bash_reads_is_read_by_the_command_alone(shell: Guarded) -> None:
    file = shell.folder / "everywhere"
    file.write_text(f"echo read >>'{shell.folder}/readers'; echo read; echo too >&2; unset A")
    await in_session(shell, f"export BASH_ENV='{file}'")
    out, err, code = EXACT
    assert (await shell.run(SAYS_EXACT)).triple == (b"read\n" + out, b"too\n" + err, code)
    assert (shell.folder / "readers").read_text() == "read\n"


# In the node's own shell


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
