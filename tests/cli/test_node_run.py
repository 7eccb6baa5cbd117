"""A machine's own commands, and the file that says when a gateway is ready."""

import json
import signal
import tomllib
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import GatewayProcess, Home, NodeProcess
from tests.support import PATIENCE

URL = "ws://127.0.0.1:1"
TOKEN = "hnt_" + "a" * 43  # nobody's


@pytest.fixture
def config_file(empty_home: Home) -> Path:
    """A node's settings, written by `join`."""
    path = empty_home.folder / "node" / "config.toml"
    empty_home.ok("node", "join", URL, "--name", "x", stdin=TOKEN, HERMES_NODE_CONFIG=str(path))
    return path


def stored(path: Path) -> dict[str, object]:
    """What settings hold in their table `node`."""
    table = tomllib.loads(path.read_text())["node"]
    assert isinstance(table, dict)
    return table


def test_a_second_node_on_the_same_settings_is_refused_and_leaves_the_first_alone(
    home: Home, node: NodeProcess
) -> None:
    path = node.folder / "config.toml"
    second = home.run("node", "run", HERMES_NODE_CONFIG=str(path))
    assert second.returncode == 69
    assert f"a node already runs on {path}" in second.stderr.decode()
    view = home.node_view(node.name)
    assert (view["state"], view["session_id"], view["replaced"]) == ("connected", node.session_id, 0)


@pytest.mark.parametrize("token", [TOKEN[:-1], TOKEN[:10], "hnt_", TOKEN + "a"])
def test_a_token_that_was_not_copied_whole_is_refused_and_not_shown(empty_home: Home, token: str) -> None:
    path = empty_home.folder / "config.toml"
    joined = empty_home.run("node", "join", URL, "--name", "x", stdin=token, HERMES_NODE_CONFIG=str(path))
    assert joined.returncode == 2
    assert f"{len(token)} characters" in joined.stderr.decode()
    assert token == "hnt_" or token not in joined.stderr.decode()
    assert not path.exists()


def test_settings_replaced_without_a_token_keep_the_one_they_have(
    empty_home: Home, config_file: Path
) -> None:
    folder = str(empty_home.folder)
    empty_home.ok(
        *("node", "join", URL, "--name", "x", "--force", "--allow", folder),
        HERMES_NODE_CONFIG=str(config_file),
    )
    assert (stored(config_file)["token"], stored(config_file)["allowed_paths"]) == (TOKEN, [folder])


def test_settings_replaced_with_a_token_have_the_new_one(empty_home: Home, config_file: Path) -> None:
    other = TOKEN[:-1] + "b"
    empty_home.ok(
        *("node", "join", URL, "--name", "x", "--force"), stdin=other, HERMES_NODE_CONFIG=str(config_file)
    )
    assert stored(config_file)["token"] == other


def test_what_an_earlier_gateway_said_is_gone_when_the_next_one_does_not_start(empty_home: Home) -> None:
    ready = empty_home.folder / "ready.json"
    ready.write_text(json.dumps({"port": 1}))
    failed = empty_home.run("serve", "--ready-file", str(ready), HERMES_NODES_PORT="no number")
    assert failed.returncode == 78
    assert not ready.exists()


def test_what_an_earlier_gateway_said_is_replaced_by_the_next_one(empty_home: Home) -> None:
    ready = empty_home.folder / "ready.json"
    ready.write_text("stale")
    with empty_home.gateway("--ready-file", str(ready)) as gateway:
        assert json.loads(ready.read_text())["port"] == gateway.port


def test_a_node_that_is_started_in_the_background_hands_no_ignored_signals_on(
    home: Home, gateway: GatewayProcess
) -> None:
    """As by a script's `nohup … &`: it lives on when they come."""
    ignored = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    with ExitStack() as stack:
        try:
            node = stack.enter_context(home.node(gateway, "background"))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        assert home.ok("exec", "background", "trap; exec bash -c trap") == ""
        assert home.ok("exec", "background", "bash", "-c", "trap") == ""
        for number in (signal.SIGHUP, signal.SIGQUIT):
            node.process.send_signal(number)
        assert home.ok("exec", "background", "echo here") == "here\n"


def test_a_node_is_deaf_to_no_signal_that_its_starter_had_blocked(
    home: Home, gateway: GatewayProcess
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    with ExitStack() as stack:
        try:
            node = stack.enter_context(home.node(gateway, "blocked"))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert home.ok("exec", "blocked", "grep SigBlk /proc/self/status").split()[1].strip("0") == ""
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(PATIENCE) == 0
