"""What each command loads: an operator waits for it at every one."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest

from tests.harness import Home
from tests.support import PATIENCE

HEAVY = {"aiohttp", "cryptography", "rich", "pydantic", "uvloop", "yaml"}
#: Runs a command line and prints, behind its output, what it has loaded.
DRIVER = (
    "import sys; from hermes_nodes.cli import run; code = run(sys.argv[1:]); "
    "import json; print(); print(json.dumps([code, *sys.modules]))"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = Home(tmp_path_factory.mktemp("imports"))
    with home.gateway() as gateway, home.node(gateway, "laptop", allow=[home.folder]):
        yield home


def loaded(home: Home, arguments: Sequence[str]) -> set[str]:
    """The packages at the top that a command has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *arguments],
        env=home.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    code, *modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return {name.partition(".")[0] for name in modules}


def test_version_loads_nothing_of_ours_but_the_command(home: Home) -> None:
    assert not loaded(home, ["--version"]) & (HEAVY | {"asyncio", "msgspec", "typer"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["exec", "laptop", "true"],
        ["exec", "--json", "laptop", "true"],
        ["list"],
        ["exec", "--stdin", "laptop", "cat"],
        ["exec", "--session", "s", "laptop", "true"],
        ["session", "list", "laptop"],
        ["list", "--json"],
        ["pair", "fresh", "--force"],
        ["revoke", "laptop-2"],
        ["status"],
        ["write", "laptop", "{folder}/empty"],
        ["read", "laptop", "{folder}/empty"],
        ["cp", "{folder}/empty", "laptop:{folder}/copy"],
        ["cp", "laptop:{folder}/empty", "{folder}/copy"],
    ],
    ids=lambda arguments: "-".join(arguments[:2]),
)
def test_commands_that_ask_the_gateway_load_no_more_than_they_need(
    home: Home, arguments: list[str]
) -> None:
    home.pair("laptop-2", "--force")
    (home.folder / "empty").touch()
    filled = [word.format(folder=home.folder) for word in arguments]
    assert not loaded(home, filled) & (HEAVY | {"asyncio", "msgspec", "sqlite3", "logging"})


@pytest.mark.parametrize("name", ["AuditLog", "Client", "Gateway", "NodeRegistry", "TokenStore"])
def test_the_public_names_are_loaded_when_they_are_used(name: str) -> None:
    code = (
        "import sys, hermes_nodes; before = set(sys.modules); "
        f"assert not any(name.startswith('hermes_nodes.') for name in before); hermes_nodes.{name}"
    )
    subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=True)


def test_a_client_needs_the_standard_library_alone() -> None:
    code = "import sys, json, hermes_nodes; hermes_nodes.Client; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=True)
    names = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not names & (HEAVY | {"asyncio", "msgspec", "typer"})


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    code = "import hermes_nodes; hermes_nodes.Nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PATIENCE, check=False)
    assert b"AttributeError: module 'hermes_nodes' has no attribute 'Nothing'" in done.stderr
