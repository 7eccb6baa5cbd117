"""stdout is data and stderr is talk, for every command, whatever becomes of it and of its reader."""

import os
import pty
import re
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from hermes_nodes.protocol.handshake import NodeHandshake
from tests.harness import PROGRAM, GatewayProcess, Home, NodeProcess, scripted_node
from tests.support import PATIENCE

ESCAPE = "\x1b["
#: The node's own settings, where `Home.node` has put them.
CONFIG = "node-laptop/config.toml"

#: Every command that only shows something, and a form that its data has.
SHOWING = {
    "--version": r"\d+\.\d+\.\d+\n",
    "--help": r"Usage: [\s\S]*",
    "list": r"([^\t\n]+\t){7}[^\t\n]+\n[\s\S]*",
    "list --json": r"\[.*\]\n",
    "list laptop --json": r"\[\{.*\}\]\n",
    "status": r"version +\S+\n[\s\S]*",
    "status --json": r"\{.*\}\n",
    "exec laptop echo data": r"data\n",
    "exec --json laptop true": r"\{.*\}\n",
    "read laptop {folder}/note": r"a note\n",
    "audit tail": r"(([^\t\n]+\t){7}[^\t\n]+\n)+",
    "audit tail --json": r"(\{.*\}\n)+",
    "audit export": r"(\{.*\}\n)+",
    "audit export --format csv": r"ts,seq,action,.*\n([^\n]*(,[^,\n]*){19}\n)+",
    "audit verify": r"\d+ rows in 1 files are as they were written\n",
    "audit verify --json": r"\{.*\}\n",
    "node status": r"name +laptop\n[\s\S]*",
    "node status --json": r"\{.*\}\n",
    "completion bash": r"[\s\S]*complete[\s\S]*",
}
#: One for each way in which data is written.
EACH_WAY = [
    "--version",
    "--help",
    "list",
    "list --json",
    "exec laptop echo data",
    "read laptop {folder}/note",
    "audit tail",
    "audit export --format csv",
    "completion bash",
]
#: Every command that changes something: command, stdout.
CHANGING = {
    "pair fresh --force": r"hnt_[A-Za-z0-9_-]{43}\n",
    "pair fresh --force --json": r"\{.*\}\n",
    "write laptop {folder}/written": r"",
    "revoke gone": r"",
    "revoke gone-json --json": r"\{.*\}\n",
}
FAILING = {
    "list nobody": 66,
    "list --json nobody*": 66,
    "list --state asleep": 2,
    "pair laptop": 73,
    "pair laptop --json": 73,
    "pair all": 2,
    "pair": 2,
    "pair x --label y": 2,
    "pair x --expires never": 2,
    "revoke nobody": 66,
    "revoke nobody --json": 66,
    "exec nobody true": 66,
    "exec absent true": 69,
    "exec laptop": 2,
    "exec web-* true": 66,
    "exec --timeout 1 laptop true": 2,
    "exec --timeout 100ms laptop exec -a x sleep 60": 127,
    "exec --cwd /nowhere laptop true": 66,
    "read laptop /etc/passwd": 77,
    "read laptop {folder}/none": 66,
    "read nobody x": 66,
    "read absent x": 69,
    "write laptop /etc/x": 77,
    "write laptop {folder}/note --mode create": 73,
    "write laptop {folder}/note --perm 9": 2,
    "write absent x": 69,
    "audit tail --since x": 2,
    "audit export --format xml": 2,
    "audit verify --store {folder}/note": 1,
    "audit verify --store {folder}/none": 66,
    "audit": 2,
    "node": 2,
    "node join nowhere --name x": 2,
    "serve --port x": 2,
    "serve --port 0": 69,
    "--gateway /nowhere status": 69,
    "--gateway http://127.0.0.1:7000 list": 77,
    "nothing": 2,
    "": 2,
}


@pytest.fixture(scope="session")
def folder(home: Home, node: NodeProcess) -> Path:
    """What the commands above speak of."""
    (home.folder / "note").write_text("a note\n")
    home.pair("gone")
    home.pair("gone-json")
    return home.folder


def words(line: str, folder: Path) -> list[str]:
    return line.format(folder=folder).split()


def run_with(home: Home, redirection: str, arguments: Sequence[str], **environ: str) -> tuple[int, str]:
    """Exit code and stderr of a command under a shell's redirection."""
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {redirection}', "bash", *PROGRAM, *arguments],
        env={**home.environ, "HERMES_NODE_CONFIG": str(home.folder / CONFIG), **environ},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stderr.decode()


def on_terminal(home: Home, *arguments: str, **environ: str) -> str:
    """What a terminal gets from a command."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, *arguments],
        env={**home.environ, "TERM": "xterm-256color", "COLUMNS": "150", **environ},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # EIO: the command has closed its end
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    process.wait(PATIENCE)
    return shown.decode()


# -- data and talk --------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [*SHOWING, *CHANGING])
def test_stdout_holds_the_data_alone_and_plain(home: Home, folder: Path, line: str) -> None:
    done = home.run(*words(line, folder), HERMES_NODE_CONFIG=str(folder / CONFIG))
    assert done.returncode == 0
    assert re.fullmatch((SHOWING | CHANGING)[line], done.stdout.decode())
    assert b"\x1b" not in done.stdout + done.stderr
    assert all(said.startswith(b"hermes-nodes: ") for said in done.stderr.splitlines())
    if line in SHOWING:
        assert done.stderr == b""


@pytest.mark.parametrize("line", FAILING)
def test_a_failure_puts_nothing_on_stdout_and_exits_as_the_table_says(
    home: Home, folder: Path, line: str
) -> None:
    done = home.run(*words(line, folder), stdin="hnt_x")
    stderr = done.stderr.decode()
    assert (done.returncode, done.stdout) == (FAILING[line], b"")
    assert stderr.startswith(("hermes-nodes: error: ", "Usage: ", "exec: "))
    assert "Traceback" not in stderr
    assert ESCAPE not in stderr


# -- readers that leave, places that are full -----------------------------------------------------


@pytest.mark.parametrize(
    ("line", "buffered"), [*((line, "") for line in SHOWING), *((line, "1") for line in EACH_WAY)]
)
def test_a_reader_that_has_left_is_no_reason_to_complain(
    home: Home, folder: Path, line: str, buffered: str
) -> None:
    code, stderr = run_with(home, "> >(:)", words(line, folder), PYTHONUNBUFFERED=buffered)
    # A reader that leaves late has seen it all.
    assert (code in (0, 141), stderr) == (True, "")


@pytest.mark.parametrize(
    ("line", "redirection"),
    [*((line, ">/dev/full") for line in SHOWING), *((line, ">&-") for line in EACH_WAY)],
)
def test_data_that_cannot_be_written_is_a_failure_with_its_reason(
    home: Home, folder: Path, line: str, redirection: str
) -> None:
    code, stderr = run_with(home, redirection, words(line, folder))
    assert code == 1
    assert re.fullmatch(r"hermes-nodes: error: .+\n", stderr)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2> >(:)"])
def test_talk_that_nobody_hears_changes_no_exit_code(
    home: Home, node: NodeProcess, redirection: str
) -> None:
    code, _ = run_with(home, f"{redirection} >/dev/null", ["exec", "nobody", "true"])
    assert code == 66


def test_a_closed_stdin_is_an_empty_one(home: Home, folder: Path) -> None:
    code, stderr = run_with(home, "<&-", ["node", "join", "ws://127.0.0.1:1", "--name", "x"])
    assert code == 2
    assert "no token was given" in stderr


@pytest.mark.parametrize("arguments", [["list", "accents"], ["list", "accents", "--json"]])
def test_a_narrow_encoding_is_no_obstacle(
    home: Home, gateway: GatewayProcess, arguments: list[str]
) -> None:
    home.pair("accents", "--label", "site=Orléans", "--force")
    done = home.run(*arguments, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Orl" in done.stdout


@pytest.mark.parametrize(
    "command", [["list"], ["revoke"], ["exec"], ["exec", "--json"], ["read"], ["pair"]]
)
def test_a_name_that_is_not_utf_8_is_refused_without_a_traceback(
    home: Home, node: NodeProcess, command: list[str]
) -> None:
    done = home.run(*command, "\udcff", *([] if command[0] in ("list", "revoke", "pair") else ["x"]))
    assert done.returncode in (2, 66)
    assert re.match(rb"hermes-nodes: error: .+\n", done.stderr)
    assert b"Traceback" not in done.stderr


# -- terminals ------------------------------------------------------------------------------------


def test_a_terminal_gets_a_table_with_colours(home: Home, node: NodeProcess) -> None:
    shown = on_terminal(home, "list", NO_COLOR="")
    assert re.search(r"NAME.*STATE.*LAST SEEN", shown)
    assert "\t" not in shown
    assert f"{ESCAPE}32mconnected" in shown


@pytest.mark.parametrize(
    ("arguments", "environ"), [(["list"], {"NO_COLOR": "1"}), (["--no-color", "list"], {"NO_COLOR": ""})]
)
def test_who_wants_no_colours_gets_a_plain_table(
    home: Home, node: NodeProcess, arguments: list[str], environ: dict[str, str]
) -> None:
    shown = on_terminal(home, *arguments, **environ)
    assert re.search(r"NAME.*STATE.*LAST SEEN", shown)
    assert ESCAPE not in shown


def test_an_empty_list_says_on_a_terminal_how_to_go_on(empty_home: Home) -> None:
    with empty_home.gateway():
        assert "hermes-nodes pair NAME" in on_terminal(empty_home, "list")
        assert empty_home.ok("list") == ""


async def test_a_nodes_control_characters_never_reach_a_terminal(
    home: Home, gateway: GatewayProcess
) -> None:
    token = home.pair("hostile", "--force")
    hostile = "\x1b]0;owned\x07\x1b[2Jred\x9b31m\r\n\t\x7f\u202e"
    handshake = NodeHandshake(
        name="hostile",
        token=token,
        node_version=hostile,
        platform=hostile,
        arch=hostile,
        capabilities=[hostile],
    )
    async with scripted_node(gateway.url) as node:
        await node.send_frame(handshake.hello())
        await node.send_frame(handshake.receive_ack(await node._receive()))
        handshake.receive_ok(await node._receive())
        piped = home.ok("list", "hostile")
        as_json = home.ok("list", "hostile", "--json")
        shown = on_terminal(home, "list", "hostile", NO_COLOR="1")
    assert "red" in piped
    assert piped.count("\t") == 7
    for text in (piped, as_json, shown.replace("\r\n", "\n")):
        assert not set(text) & set("\x1b\x07\x9b\r\x7f\u202e")
