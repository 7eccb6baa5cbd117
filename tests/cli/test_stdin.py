"""`exec --stdin`: whatever our stdin is, the command gets it; without the option it is never touched."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from hermes_nodes.errors import UsageError
from tests.harness import PROGRAM, Home, MemoryGrowth, NodeProcess, Watched, processes_of
from tests.support import PATIENCE
from tests.terminals import at_terminal

MEBIBYTE = 1024 * 1024


def in_shell(home: Home, script: str) -> subprocess.CompletedProcess[bytes]:
    """A script that calls us as `exec_i` and `exec_`."""
    program = f"{PROGRAM[0]} -m hermes_nodes exec"
    functions = f'exec_() {{ {program} "$@"; }}; exec_i() {{ {program} -i "$@"; }}; '
    return subprocess.run(
        ["bash", "-c", functions + script],
        env=home.environ,
        cwd=home.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("printf 'some text' | exec_i laptop cat", b"some text"),
        ("exec_i laptop cat </dev/null; echo $?", b"0\n"),
        ("exec_i laptop cat <&-; echo $?", b"0\n"),
        ("echo in a file >f; exec_i laptop cat <f", b"in a file\n"),
        (": >f; exec_i laptop wc -c <f", b"0\n"),
        ("(echo a; sleep 0.2; echo b; sleep 0.2; echo c) | exec_i laptop cat", b"a\nb\nc\n"),
        ("mkfifo p; (echo through a fifo >p &); exec_i laptop cat <p", b"through a fifo\n"),
        ("exec_i laptop bash -s a b <<< 'echo $1 $2 $#'", b"a b 2\n"),
        ("seq 5 | exec_i laptop 'head -n 1'; echo $?", b"1\n0\n"),
        ("yes | exec_i laptop 'head -n 1'; echo $?", b"y\n0\n"),
        ("yes | exec_i laptop 'exit 3'; echo $?", b"3\n"),
        ("yes | exec_i laptop 'exec <&-; sleep 0.3; exit 4'; echo $?", b"4\n"),
        ("exec_i laptop cat </dev/zero | head -c 3 | wc -c", b"3\n"),
        ('echo x | exec_i --json laptop cat | grep -c \'"stdout": "x.n"\'', b"1\n"),
        ("echo x | exec_i laptop no-such-program x; echo $?", b"127\n"),
    ],
)
def test_any_stdin_will_do(
    home: Home, node: NodeProcess, tmp_path: Path, script: str, stdout: bytes
) -> None:
    done = in_shell(home, f"cd {tmp_path}; {script}")
    assert done.stdout == stdout
    assert done.stderr in (b"", b"no-such-program: No such file or directory\n")


@pytest.mark.parametrize(
    ("script", "stdout"),
    [
        ("printf '1\\n2\\n3\\n' | while read -r n; do exec_ laptop echo $n; done", b"1\n2\n3\n"),
        ("printf 'kept' | (exec_ laptop cat; cat)", b"kept"),
        ("printf 'kept' >f; exec <f; exec_ laptop 'cat; echo here'; cat", b"here\nkept"),
        ("exec_ laptop cat </dev/zero; echo $?", b"0\n"),
        ("exec_ laptop cat <&-; echo $?", b"0\n"),
    ],
)
def test_without_the_option_our_stdin_is_left_to_others(
    home: Home, node: NodeProcess, tmp_path: Path, script: str, stdout: bytes
) -> None:
    done = in_shell(home, f"cd {tmp_path}; {script}")
    assert (done.stdout, done.stderr) == (stdout, b"")


def test_a_stdin_that_can_not_be_read_is_one_clear_sentence(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    done = in_shell(home, f"exec_i laptop cat 0>{tmp_path}/written")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"hermes-nodes: error: the input can't be read: Bad file descriptor\n"


def test_a_directory_is_refused_before_the_command_runs(
    home: Home, node: NodeProcess, tmp_path: Path
) -> None:
    """From the API: Python itself does not start on a stdin that is a directory."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(UsageError, match="the input is a directory"):
            home.client.exec("laptop", f"touch {tmp_path}/ran", stdin=folder)
    finally:
        os.close(folder)
    assert not (tmp_path / "ran").exists()


def test_a_terminal_is_a_stdin_like_others(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-i", "laptop", "sed -u s/^/got:/; test -t 0 || exit 9") as person:
        person.type(b"one\n")
        person.sees(b"got:one\r\n")
        person.type(b"two\n\x04")
        person.sees(b"got:two\r\n")
        assert person.ends() == 9


def test_a_producer_that_stops_ends_nothing(home: Home, node: NodeProcess) -> None:
    with home.start("exec", "-i", "laptop", "sed -u 2q; echo done") as running:
        stdin = running.process.stdin
        assert stdin is not None
        for line in (b"one\n", b"two\n"):
            stdin.write(line)
            stdin.flush()
            assert running.line() == line.decode()
        assert running.line() == "done\n"
        assert running.process.wait(PATIENCE) == 0


def test_an_upload_arrives_whole_and_takes_little_memory(home: Home, node: NodeProcess) -> None:
    content = os.urandom(MEBIBYTE)
    count = 100
    digest = hashlib.sha256(content * count).hexdigest()
    growth = MemoryGrowth(node.process.pid)
    with home.start("exec", "-i", "laptop", "sha256sum") as running:
        assert running.process.stdin is not None
        for _ in range(count):
            running.process.stdin.write(content)
        running.process.stdin.close()
        assert running.line().split()[0] == digest
    assert growth.peak < 60 * MEBIBYTE


@pytest.mark.parametrize("piece", [b"x", b"y" * (64 * 1024)], ids=["small", "large"])
def test_a_command_that_reads_nothing_stops_its_upload_and_nothing_else(
    home: Home, node: NodeProcess, piece: bytes
) -> None:
    growth = MemoryGrowth(node.process.pid)
    with home.start("exec", "-i", "laptop", "echo $HERMES_NODES_CALL; exec sleep 1000") as running:
        call_id = running.line().strip()
        assert running.process.stdin is not None
        fd = running.process.stdin.fileno()
        os.set_blocking(fd, False)
        sent = 0
        while sent < 16 * MEBIBYTE:
            try:
                sent += os.write(fd, piece)
            except BlockingIOError:
                break
            # Others get their turn meanwhile.
        assert home.ok("exec", "laptop", "echo others") == "others\n"
        assert sent < 8 * MEBIBYTE
        with Watched(processes_of(call_id)) as watched:
            running.process.kill()
            assert watched.living(within=8) == 0
    assert growth.peak < 60 * MEBIBYTE
