"""`exec` gives what a local `bash -c` gives: both streams and the exit code, byte for byte."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from hermes_nodes.client import Client
from hermes_nodes.node.processes import command_environment
from tests.harness import Home
from tests.support import PATIENCE

QUOTING = [
    "echo plain",
    "echo 'single quoted'",
    'echo "double quoted"',
    "echo \"a $((6*7)) b\" '$HOME'",
    'echo "it\'s" \'say "hi"\'',
    "printf '%s|' a 'b c' \"d e\" f\\ g",
    "echo \\$HOME \\\\ \\' \\\"",
    "echo `echo back`ticks $(echo parens)",
    "echo $'tab\\tnewline\\nbell\\a'",
    "echo *no-such-glob*",
    "echo {a,b}{1..3}",
    "cat <<'END'\n$HOME `x` \\ \"\nEND",
    "cat <<END\n$((1+1))\nEND",
    "cat <<< 'here string'",
    "echo ~",
    "echo '#' not a comment # a comment",
    "echo a;echo b\necho c",
    'echo "line\none"',
    "echo 'a\\nb'",
    "echo -n; echo -e 'x\\ty'",
    "! true",
    "true && echo yes || echo no",
    "false || (echo sub; exit 4)",
    "for i in 1 2 3; do echo $i; done",
    'while read -r l; do echo "<$l>"; done < /etc/hosts',
    'f() { echo "$1" "$#"; return 6; }; f \'a b\' c',
    "x=5; echo ${x:-3} ${y:-3} ${#x}",
    "arr=(a 'b c'); echo \"${arr[@]}\" ${#arr[@]}",
    "case abc in a*) echo A;; *) echo B;; esac",
    "echo $0 $# $-",
    "set -- x y; echo $2",
    "echo '--json' --timeout -i",
    "-x",
    "--",
    "'",
    'echo "unclosed',
    "echo (",
    "if then",
    "cat <<END\nunclosed",
    "echo one |",
]
BYTES = [
    "printf ''",
    "printf x",
    "printf '\\n'",
    "printf 'no final newline'",
    "printf 'a\\r\\nb\\r'",
    "printf '\\0\\1\\2\\377\\376'",
    "head -c 100000 /dev/zero",
    "seq 1 20000",
    "seq 1 20000 >&2",
    "for i in $(seq 500); do printf $i; printf $i >&2; done",
    "for i in $(seq 300); do echo -n .; done",
    "yes | head -n 100000",
    "head -c 1000000 /dev/zero | tr '\\0' x",
    "printf '\\033[31mred\\033[0m'",
    "printf '\\303\\244\\342\\202\\254\\360\\237\\230\\200'",
    "printf '\\303'",
    "echo ä€😀 ünï",
    "echo '\u202eright to left'",
    "echo -e '\\x00\\xff' | od -c",
    "python3 -c 'import sys; sys.stdout.buffer.write(bytes(range(256)) * 1000)'",
    "printf out; printf err >&2",
    "echo to stderr >&2; exit 9",
    "printf 'a\\nb\\n\\n\\n'",
    "printf '%0300000d' 7",
    "exec >&2; echo moved",
    "exec 2>&1; echo a; echo b >&2",
    "exec >&-; echo closed",
    "exec 2>&-; echo open; nosuch",
]
ENDS = [
    "",
    " ",
    "\n",
    ":",
    "#",
    "true",
    "false",
    *(
        f"exit {code}"
        for code in (0, 1, 2, 42, 66, 69, 75, 77, 124, 125, 126, 127, 128, 130, 137, 254, 255)
    ),
    "exit 256",
    "exit -1",
    "exit x",
    *(
        f"kill -{sign} $$"
        for sign in ("TERM", "KILL", "HUP", "INT", "QUIT", "USR1", "SEGV", "PIPE", "ALRM")
    ),
    "sh -c 'kill -KILL $$'",
    "bash -c 'kill -TERM $$'; echo $?",
    "(exit 3)",
    "false; echo $?",
    "set -e; false; echo not reached",
    "set -u; echo $undefined_variable",
    "set -o pipefail; false | true",
    "false | true",
    "trap 'echo bye' EXIT; exit 5",
    "trap 'exit 8' TERM; kill -TERM $$; echo no",
    "nosuchcommand",
    "nosuchcommand --help 2>/dev/null",
    "/no/such/file",
    "/etc/passwd",
    "/",
    "cd /no/such/dir",
    "exec false",
    "exec nosuchcommand",
    "exec sh -c 'exit 33'",
    "command -v nosuch",
    "return 3",
    "ulimit -c 0; kill -ABRT $$",
    "sleep 0.05 & wait $!; echo $?",
    "sleep 0.2 & kill $!; wait $!; echo $?",
    "(sleep 0.1; echo late) & echo early",
    "test -t 0; echo $?; test -t 1; echo $?; test -t 2; echo $?",
    "umask",
    "pwd; echo $PWD",
    "ulimit -n >/dev/null && echo ok",
    "trap",
    "trap '' PIPE; yes | head -n 1",
    "yes | head -n 1; echo ${PIPESTATUS[@]}",
    "env | grep -c HERMES_NODE_TOKEN",
    "env -i sh -c 'echo empty'",
    "ls /proc/self/fd | wc -l",
]
INPUTS: list[tuple[str, bytes]] = [
    ("cat", b""),
    ("cat", b"text"),
    ("cat", bytes(range(256)) * 2000),
    ("cat; cat", b"once"),
    ("wc -c", b"x" * 3_000_000),
    ("md5sum", os.urandom(2_000_000)),
    ("head -n 1", b"first\nsecond\n"),
    ("head -c 3", b"y" * 2_000_000),
    ('read -r a; read -r b; echo "$b$a"', b"one\ntwo\nthree\n"),
    ('while read -r l; do echo "[$l]"; done', b"a\nb\nno newline"),
    ("exec <&-; cat; echo $?", b"unread"),
    ("exit 3", b"z" * 2_000_000),
    ("cat >&2", b"over there"),
    ("sh", b"echo from a script; exit 12"),
    ("tee /dev/stderr | wc -c", b"q" * 10_000),
    ("dd bs=1 count=3 2>/dev/null; echo; cat", b"abcdef"),
    ("true", b"x"),
    ("sort -n", b"3\n1\n2\n"),
    ("bash -c 'cat'; echo $?", b"inner"),
    ("test -p /dev/stdin && echo pipe", b""),
]
WORDS: list[list[str]] = [
    ["printf", "%s|", "a b", "$HOME", "*", "'", '"', "\\", "", "\n", "ä€😀"],
    ["bash", "-c", 'echo "$0:$1:$#"', "zero", "one two", ""],
    ["echo", "--json", "-n"],
    ["sh", "-c", "exit 255"],
    ["true"],
    ["false"],
    ["printf", "%s", "x" * 100_000],
    ["cat", "/no/such/file"],
    ["env", "-i", "printf", "x"],
    ["bash", "-c", "kill -KILL $$"],
    ["seq", "100000"],
    ["printf", *["%s"], *["arg"] * 2000],
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """With a node that is called more often than the default limit allows."""
    home = Home(tmp_path_factory.mktemp("ssh"))
    with home.gateway(HERMES_NODES_RATE_LIMIT="10000") as gateway, home.node(gateway, "laptop"):
        yield home


@pytest.fixture
def client(home: Home) -> Client:
    return home.client


class Result(NamedTuple):
    stdout: bytes
    stderr: bytes
    code: int


def locally(command: str | Sequence[str], stdin: bytes | None = None) -> Result:
    """As the node's user would get it without us."""
    argv = ["/usr/bin/env", "bash", "-c", command] if isinstance(command, str) else list(command)
    environment = command_environment("local", {})
    done = subprocess.run(
        argv,
        env=environment,
        cwd=environment["HOME"],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    code = 128 - done.returncode if done.returncode < 0 else done.returncode
    return Result(done.stdout, done.stderr, code)


def through(client: Client, command: str | Sequence[str], stdin: bytes | None = None) -> Result:
    done = client.exec("laptop", command, stdin=stdin)
    assert done.error is None
    assert done.exit_code is not None
    assert not done.truncated
    return Result(done.stdout_bytes, done.stderr_bytes, done.exit_code)


@pytest.mark.parametrize("commands", [QUOTING, BYTES, ENDS], ids=["quoting", "bytes", "ends"])
def test_a_command_gives_what_it_gives_in_a_local_shell(client: Client, commands: list[str]) -> None:
    for command in commands:
        assert through(client, command) == locally(command), command


@pytest.mark.parametrize("case", INPUTS, ids=range(len(INPUTS)))
def test_a_command_takes_its_input_as_in_a_local_shell(client: Client, case: tuple[str, bytes]) -> None:
    command, stdin = case
    assert through(client, command, stdin) == locally(command, stdin), command


@pytest.mark.parametrize("words", WORDS, ids=range(len(WORDS)))
def test_words_are_run_as_they_are(client: Client, words: list[str]) -> None:
    assert through(client, words) == locally(words)


@pytest.mark.parametrize(
    "command", [QUOTING[5], BYTES[5], "exit 255", "kill -KILL $$", "nosuchcommand", ""]
)
def test_the_command_line_adds_nothing(home: Home, command: str) -> None:
    done = home.run("exec", "laptop", command)
    assert Result(done.stdout, done.stderr, done.returncode) == locally(command)


@pytest.mark.parametrize("is_job", [False, True], ids=["session", "job"])
def test_the_shell_has_the_same_name_wherever_it_runs(home: Home, is_job: bool) -> None:
    command = "echo $0; nosuch"
    if is_job:
        job = home.client.start_job("laptop", command)
        assert home.client.job_wait("laptop", job).exit_code == 127
        said = tuple(home.run("logs", *option, job).stdout for option in ([], ["--stderr"]))
    else:
        done = home.client.exec("laptop", command, session="named")
        said = done.stdout_bytes, done.stderr_bytes
    assert said == locally(command)[:2]


@pytest.mark.parametrize("size", [131_000, 131_071, 131_072, 400_000])
def test_an_argument_is_as_long_as_the_system_takes_it(client: Client, size: int) -> None:
    """Linux takes 128 KiB for one argument with its end."""
    done = client.exec("laptop", ["printf", "%s", "x" * size])
    expected = (0, size) if size < 131_072 else (126, 0)
    assert (done.exit_code, len(done.stdout_bytes)) == expected


def test_commands_side_by_side_do_not_mix(client: Client) -> None:
    def one(number: int) -> None:
        text = str(number) * 50_000
        command = f"cat; echo {number} >&2; exit {number}"
        assert through(client, command, text.encode()) == Result(
            text.encode(), f"{number}\n".encode(), number
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(100)))
