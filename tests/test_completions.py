"""The completion scripts in completions/: current, and working in a real shell."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Home
from tests.support import PATIENCE

COMPLETIONS = Path(__file__).parent.parent / "completions"
FILES = {"bash": "hermes-nodes.bash", "zsh": "_hermes-nodes", "fish": "hermes-nodes.fish"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two paired nodes, one that is revoked, no gateway, and the key gone."""
    home = Home(tmp_path_factory.mktemp("completions"))
    # The scripts call `hermes-nodes`: ours, not another that may be installed.
    home.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for name in ("laptop", "nas", "lathe"):
        home.pair(name)
    home.ok("revoke", "lathe")
    (home.path / ".env").unlink()
    return home


def in_bash(home: Home, *words: str) -> list[str]:
    """What a real bash offers for the last word, which may be empty."""
    line = " ".join(map(shlex.quote, words))
    script = f"""
        source {shlex.quote(str(COMPLETIONS / FILES["bash"]))}
        COMP_WORDS=({line}) COMP_CWORD={len(words) - 1}
        registered=($(complete -p hermes-nodes))  # complete -o default -F FUNCTION hermes-nodes
        "${{registered[-2]}}" hermes-nodes
        (( ${{#COMPREPLY[@]}} == 0 )) || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return answer(["bash", "--norc", "--noprofile", "-c", script], home.environ)


def in_zsh(home: Home, line: str) -> list[str]:
    """What the zsh script is given for its `eval`."""
    asked = {"_HERMES_NODES_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    return answer(["hermes-nodes"], {**home.environ, **asked})


def in_fish(home: Home, line: str) -> list[str]:
    """What the fish script is given: a candidate a line, with its help behind a tab."""
    asked = {
        "_HERMES_NODES_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    return answer(["hermes-nodes"], {**home.environ, **asked})


def answer(command: list[str], environ: dict[str, str]) -> list[str]:
    program = shutil.which(command[0], path=environ["PATH"])
    assert program is not None
    done = subprocess.run(
        [program, *command[1:]],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", FILES)
def test_the_file_is_what_the_command_prints(home: Home, shell: str) -> None:
    assert (COMPLETIONS / FILES[shell]).read_text() == home.ok("completion", shell)


def test_bash_completes_the_node_of_exec_without_gateway_and_key(home: Home) -> None:
    assert in_bash(home, "hermes-nodes", "exec", "l") == ["laptop"]


@pytest.mark.parametrize("command", ["exec", "list", "read", "write", "revoke"])
def test_bash_offers_every_node_that_is_not_revoked(home: Home, command: str) -> None:
    assert in_bash(home, "hermes-nodes", command, "") == ["laptop", "nas"]


def test_bash_completes_a_node_behind_options(home: Home) -> None:
    assert in_bash(home, "hermes-nodes", "exec", "--timeout", "30s", "n") == ["nas"]
    assert in_bash(home, "hermes-nodes", "audit", "tail", "--node", "n") == ["nas"]


def test_bash_completes_commands(home: Home) -> None:
    assert in_bash(home, "hermes-nodes", "re") == ["read", "revoke"]
    assert in_bash(home, "hermes-nodes", "node", "") == ["join", "run", "status"]


def test_bash_completes_options_and_their_values(home: Home) -> None:
    assert in_bash(home, "hermes-nodes", "exec", "--ti") == ["--timeout"]
    assert in_bash(home, "hermes-nodes", "list", "--state", "conn") == ["connected"]


def test_bash_offers_nothing_and_says_nothing_on_an_empty_home(home: Home, tmp_path: Path) -> None:
    empty = Home(tmp_path)
    empty.environ["PATH"] = home.environ["PATH"]
    assert in_bash(empty, "hermes-nodes", "exec", "") == []
    assert not empty.path.exists()


def test_zsh_is_given_nodes_commands_and_options(home: Home) -> None:
    assert in_zsh(home, "hermes-nodes exec l") == ["""_arguments '*: :(("laptop"))'"""]
    assert in_zsh(home, "hermes-nodes exec ") == ["""_arguments '*: :(("laptop\"""", """"nas"))'"""]
    assert '"revoke":"' in "\n".join(in_zsh(home, "hermes-nodes rev"))
    assert '"--timeout":"' in "\n".join(in_zsh(home, "hermes-nodes exec --ti"))


def test_fish_is_given_nodes_commands_and_options(home: Home) -> None:
    assert in_fish(home, "hermes-nodes exec ") == ["laptop", "nas"]
    assert [line.split("\t")[0] for line in in_fish(home, "hermes-nodes re")] == ["read", "revoke"]
    assert [line.split("\t")[0] for line in in_fish(home, "hermes-nodes exec --ti")] == ["--timeout"]
