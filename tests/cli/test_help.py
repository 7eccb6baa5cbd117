"""`--help`, `--version` and the ways to start the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from hermes_nodes import __version__, config
from tests.harness import GatewayProcess, Home
from tests.support import PATIENCE

COMMANDS = [
    "",
    "serve",
    "pair",
    "list",
    "exec",
    "read",
    "write",
    "cp",
    "revoke",
    "audit",
    "audit tail",
    "audit export",
    "audit verify",
    "status",
    "node",
    "node join",
    "node run",
    "node status",
    "demo",
    "completion",
]
#: Flags that are spelt unlike their setting.
FLAGS = {"tls_cert_path": "--tls-cert", "tls_key_path": "--tls-key"}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_explains_itself_and_names_its_settings_variables(
    empty_home: Home, line: str
) -> None:
    done = empty_home.run(*line.split(), "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    text = " ".join(done.stdout.decode().split())
    assert text.startswith(f"Usage: {' '.join(['hermes-nodes', *line.split()])} ")
    for key in config.KEYS:
        flag = FLAGS.get(key, "--" + key.replace("_", "-"))
        assert (f"{flag} " in text) <= (config.variable(key) in text), key
    assert not empty_home.path.exists()


def test_h_is_short_for_help(empty_home: Home) -> None:
    assert empty_home.ok("list", "-h") == empty_home.ok("list", "--help")


@pytest.mark.parametrize(
    ("line", "variable"), [("", "HERMES_NODES_GATEWAY"), ("node join", "HERMES_NODE_TOKEN")]
)
def test_other_variables_are_named_too(empty_home: Home, line: str, variable: str) -> None:
    assert variable in empty_home.ok(*line.split(), "--help")


def test_help_for_the_token_option_says_why_not_to_use_it(empty_home: Home) -> None:
    text = " ".join(empty_home.ok("node", "join", "--help").split())
    assert "other users see it in `ps`" in text


def test_version_is_one_line(empty_home: Home) -> None:
    assert empty_home.ok("--version") == f"{__version__}\n"


def test_version_is_the_same_behind_other_options(empty_home: Home) -> None:
    assert empty_home.ok("--no-color", "--version") == f"{__version__}\n"


def test_the_installed_script_is_the_same_command(empty_home: Home) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hermes-nodes"), "--version"],
        env=empty_home.environ,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    assert done.stdout.decode() == f"{__version__}\n"


@pytest.mark.parametrize("way", ["option", "variable"])
def test_the_gateway_can_be_named_by_its_socket(
    empty_home: Home, gateway: GatewayProcess, way: str
) -> None:
    socket = str(gateway.socket)
    if way == "option":
        text = empty_home.ok("--gateway", socket, "status", "--json")
    else:
        text = empty_home.ok("status", "--json", HERMES_NODES_GATEWAY=socket)
    assert f'"pid": {gateway.process.pid}' in text
    assert not empty_home.path.exists()


def test_the_option_goes_before_the_variable(empty_home: Home, gateway: GatewayProcess) -> None:
    empty_home.ok("--gateway", str(gateway.socket), "status", HERMES_NODES_GATEWAY="/nowhere")


URLS = {
    "http://gateway.example:7000": (2, "would send the operator token in the open"),
    "ws://127.0.0.1:7000": (2, "is no gateway's address"),
    "https://user:word@gateway.example": (2, "is no gateway's address"),
    "https://gateway.example:port": (2, "is no gateway's address"),
    "https://gateway.example": (77, "operator token"),
    "http://127.0.0.1:7000": (77, "operator token"),
}


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", [["list"], ["exec", "x", "true"], ["pair", "x"], ["revoke", "x"]])
def test_a_url_that_will_not_do_is_refused_before_anything_is_done(
    empty_home: Home, command: list[str], url: str
) -> None:
    code, words = URLS[url]
    done = empty_home.run("--gateway", url, *command)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert not empty_home.path.exists()
