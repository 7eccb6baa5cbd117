"""`exec --tty` and `shell`: a terminal on the node, and ours as it was before, however it ends."""

import os
import signal
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hermes_nodes.cli.terminal import Escapes
from hermes_nodes.errors import CallCancelled
from tests.harness import GatewayProcess, Home, NodeProcess, Watched, processes_of
from tests.support import PATIENCE
from tests.terminals import Person, at_terminal

PROMPT = b"READY> "
CALL_ID = rb"=([0-9a-f-]{36})="


@pytest.fixture
def person(home: Home, node: NodeProcess) -> Iterator[Person]:
    """At a shell of a node, behind its first prompt."""
    with at_terminal(home, "shell", "laptop") as person:
        greet(person)
        yield person


def greet(person: Person) -> None:
    person.type(b"PS1=RE; PS1=${PS1}ADY'> '\n")
    person.sees(PROMPT)


def call_of(person: Person) -> str:
    """The id of the call that a person is in."""
    person.type(b"echo =$HERMES_NODES_CALL=\n")
    call_id = person.finds(CALL_ID)[1].decode()
    person.sees(PROMPT)
    return call_id


def is_raw(modes: list[Any]) -> bool:
    return not modes[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


# -- what the command gets ------------------------------------------------------------------------


def test_a_command_gets_a_terminal_of_its_own_of_our_size_and_kind(home: Home, node: NodeProcess) -> None:
    command = (
        "test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; ps -o sid=,tty= -p $$; tty; echo $$"
    )
    with at_terminal(home, "exec", "-t", "laptop", command, cols=91, rows=31) as person:
        assert person.ends() == 0
    size, term, place, tty, pid = person.shown.decode().split("\r\n")[:5]
    assert (size, term) == ("31 91", "xterm-test")
    assert place.split() == [pid, tty.removeprefix("/dev/")]


@pytest.mark.parametrize(
    ("command", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("nosuch", 127), ("exit 255", 255)]
)
def test_the_exit_code_is_the_commands(home: Home, node: NodeProcess, command: str, code: int) -> None:
    with at_terminal(home, "exec", "-t", "laptop", command) as person:
        assert person.ends() == code


def test_words_are_run_as_they_are(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "printf", "%s|", "a b", "$HOME") as person:
        assert (person.ends(), person.shown) == (0, b"a b|$HOME|")
    with at_terminal(home, "exec", "-t", "laptop", "no-such-program", "x") as person:
        assert (person.ends(), person.shown) == (127, b"no-such-program: No such file or directory\r\n")


def test_a_terminals_output_is_whole_however_long(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "seq 100000; echo err >&2") as person:
        assert person.ends() == 0
    lines = [str(number) for number in range(1, 100_001)]
    assert person.shown.decode().split("\r\n") == [*lines, "err", ""]


def test_signals_are_to_a_command_as_without_us(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "grep ^SigIgn /proc/self/status") as person:
        assert person.ends() == 0
    assert int(person.shown.split()[1], 16) == 0


def test_a_commands_environment_is_the_same_with_and_without_a_terminal(
    home: Home, node: NodeProcess
) -> None:
    options = ["--env", "LANG=C", "--env", "TERM=dumb"]
    with at_terminal(home, "exec", "-t", *options, "laptop", "env") as person:
        assert person.ends() == 0
    without = home.ok("exec", *options, "laptop", "env")
    lines = [person.shown.decode().replace("\r", "").splitlines(), without.splitlines()]
    with_it, without_it = ({line for line in one if "HERMES_NODES_CALL" not in line} for one in lines)
    assert with_it == without_it


def test_a_window_that_changes_tells_the_command(home: Home, node: NodeProcess) -> None:
    command = "trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.05; done"
    with at_terminal(home, "exec", "-t", "laptop", command) as person:
        person.sees(b"up\r\n")
        person.resize(101, 41)
        assert (person.ends(), person.shown) == (3, b"41 101\r\n")


def test_a_size_that_no_terminal_has_is_bounded(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "stty size", cols=0, rows=0) as person:
        assert (person.ends(), person.shown) == (0, b"24 80\r\n")


def test_a_login_shell_is_at_home_and_in_the_trail(home: Home, node: NodeProcess, person: Person) -> None:
    person.type(b"echo $0; shopt login_shell; pwd\n")
    said = person.sees(PROMPT)
    assert b"login_shell    \ton" in said
    assert f"{Path.home()}\r\n".encode() in said
    with home.rows(action="shell") as rows:
        person.type(b"exit 5\n")
        assert person.ends() == 5
        row = next(rows)
    assert (row["status"], row["exit_code"], row["command"]) == ("error", 5, None)


# -- what is typed --------------------------------------------------------------------------------


def test_ctrl_c_is_the_commands(person: Person) -> None:
    person.type(b"echo u''p; sleep 1000\n")
    person.sees(b"up\r\n")
    person.type(b"\x03")
    person.sees(PROMPT)
    person.type(b"echo code $?\n")
    person.sees(b"code 130\r\n")


def test_ctrl_d_ends_a_shell(person: Person) -> None:
    person.type(b"\x04")
    assert person.ends() == 0


def test_a_script_of_any_length_can_be_pasted(person: Person) -> None:
    # Not before the shell has given the terminal back: it shows nothing that is typed until then.
    person.type(b"echo u''p; wc -l\n")
    person.sees(b"up\r\n")
    for number in range(2000):
        person.type(b"line %05d of what is pasted\n" % number)
        person.sees(b"%05d of what is pasted" % number)
    person.type(b"\x04")
    assert b"\r\n2000\r\n" in person.sees(PROMPT)


def test_a_tilde_and_a_dot_on_a_new_line_leave_and_nothing_is_left(person: Person) -> None:
    with Watched(processes_of(call_of(person))) as watched:
        person.type(b"~.")
        assert person.ends(within=5) == 130
        assert b"you left the call" in person.shown
        assert b"that it has ended is not known here" in person.shown
        assert watched.living(within=8) == 0


def test_a_tilde_elsewhere_is_a_tilde(person: Person) -> None:
    person.type(b"echo '~.' x~.\n")
    person.finds(rb"\n~\. x~\.\r\n")
    person.type(b"~~/nowhere/x\n")
    person.finds(rb"\n.*/nowhere/x: No such file")


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ([b"abc"], b"abc"),
        ([b"~~"], b"~"),
        ([b"~", b"~", b"."], b"~."),
        ([b"~x"], b"~x"),
        ([b"a~."], b"a~."),
        ([b"a\r~~.\r"], b"a\r~.\r"),
        ([b"~\r"], b"~\r"),
    ],
)
def test_what_is_typed_passes_but_for_the_escape(typed: list[bytes], passed: bytes) -> None:
    escapes = Escapes()
    assert b"".join(map(escapes.passed, typed)) == passed


@pytest.mark.parametrize("typed", [[b"~."], [b"~", b"."], [b"x\r~."], [b"x\n", b"~", b"."], [b"~\r~."]])
def test_the_escape_is_found_however_it_comes(typed: list[bytes]) -> None:
    escapes = Escapes()
    with pytest.raises(CallCancelled, match="you left"):
        list(map(escapes.passed, typed))


# -- the end --------------------------------------------------------------------------------------


def test_our_terminal_is_raw_meanwhile_and_then_as_it_was(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "echo up; read x; exit 3") as person:
        before = person.modes
        person.sees(b"up\r\n")
        assert is_raw(person.modes)
        person.type(b"\r")
        assert person.ends() == 3
        assert person.modes == before


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_our_terminal_is_given_back_when_a_signal_ends_us(
    home: Home, node: NodeProcess, sign: signal.Signals
) -> None:
    with at_terminal(home, "exec", "-t", "laptop", "echo =$HERMES_NODES_CALL=; exec cat") as person:
        before = person.modes
        with Watched(processes_of(person.finds(CALL_ID)[1].decode())) as watched:
            person.process.send_signal(sign)
            assert person.ends() == 128 + sign
            assert watched.living(within=8) == 0
        assert person.modes == before
        assert b"hermes-nodes: error: " in person.shown
        assert b"Traceback" not in person.shown


def test_our_terminal_is_given_back_when_the_gateway_dies(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with (
        home.gateway() as gateway,
        home.node(gateway, "laptop"),
        at_terminal(home, "shell", "laptop") as person,
    ):
        before = person.modes
        greet(person)
        with Watched(processes_of(call_of(person))) as watched:
            gateway.process.kill()
            assert person.ends() == 75
            assert person.modes == before
            assert b"hermes-nodes: error: " in person.shown
            assert watched.living(within=8) == 0


def test_a_dead_connection_can_be_left(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with (
        home.gateway() as gateway,
        home.node(gateway, "laptop"),
        at_terminal(home, "shell", "laptop") as person,
    ):
        before = person.modes
        greet(person)
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            person.type(b"is anybody there\r~.")
            assert person.ends(within=5) == 130
            assert person.modes == before
        finally:
            gateway.process.send_signal(signal.SIGCONT)


def test_a_caller_that_is_killed_ends_a_shell_and_its_jobs(person: Person) -> None:
    person.type(b"(trap '' HUP INT TERM; sleep 1000; sleep 1000) & setsid -f sleep 1000; echo ok\n")
    person.finds(rb"\nok\r\n")
    with Watched(processes_of(call_of(person))) as watched:
        person.process.kill()
        assert watched.living(within=10) == 0


def test_a_shells_background_that_outlives_it_is_not_waited_for(person: Person) -> None:
    person.type(b"(trap '' HUP; exec sleep 1000) & echo =$!=\n")
    pid = int(person.finds(rb"=(\d+)=")[1])
    try:
        person.type(b"exit 4\n")
        assert person.ends(within=5) == 4
        with Watched([pid]) as watched:
            assert watched.living() == 1
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_time_out_ends_what_has_a_terminal(home: Home, node: NodeProcess) -> None:
    with at_terminal(home, "exec", "-t", "--timeout", "500ms", "laptop", "echo last words; cat") as person:
        assert person.ends() == 124
        assert b"last words" in person.shown


# -- without a terminal ---------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["shell", "laptop"], ["exec", "-t", "laptop", "true"]])
def test_a_script_without_a_terminal_is_told_so(
    home: Home, node: NodeProcess, arguments: list[str]
) -> None:
    done = home.run(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"hermes-nodes: error: stdin is not a terminal\nhermes-nodes: hint: ")


@pytest.mark.parametrize("options", [["--json"], ["--detach"]])
def test_a_terminal_goes_with_neither_json_nor_a_job(
    home: Home, node: NodeProcess, options: list[str]
) -> None:
    done = home.run("exec", "-t", *options, "laptop", "true")
    assert (done.returncode, done.stdout) == (2, b"")


@pytest.mark.parametrize(("name", "code"), [("nobody", 66), ("absent", 69)])
def test_a_shell_that_can_not_be_had_says_why_on_a_terminal_as_it_was(
    home: Home, gateway: GatewayProcess, node: NodeProcess, name: str, code: int
) -> None:
    with at_terminal(home, "shell", name) as person:
        before = person.modes
        assert person.ends(PATIENCE) == code
        assert person.modes == before
        assert person.shown.startswith(b"hermes-nodes: error: ")
