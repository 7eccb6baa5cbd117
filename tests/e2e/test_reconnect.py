"""A node that lost its gateway comes back, one that may not says why, and one that is stopped is gone."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.harness import GatewayProcess, Home, Watched, processes_of, scripted_node
from tests.support import comes_true

QUICK = "backoff_initial = 0.1\nbackoff_max = 0.3"


@pytest.fixture
def own(tmp_path: Path) -> Home:
    """A home whose gateway a test may kill."""
    return Home(tmp_path)


def node_status(home: Home, folder: Path) -> dict[str, object]:
    document = json.loads(
        home.ok("node", "status", "--json", HERMES_NODE_CONFIG=str(folder / "config.toml"))
    )
    assert isinstance(document, dict)
    return document


def until_waiting(home: Home, folder: Path, words: str) -> dict[str, object]:
    """The node's status, as soon as it says these words of itself."""
    said = folder / "status.json"
    comes_true(lambda: said.exists() and words in said.read_text())
    status = node_status(home, folder)
    assert words in str(status["detail"])
    return status


def test_a_node_is_back_by_itself_after_its_gateway_was(own: Home) -> None:
    with own.gateway() as first:
        port = first.port
        token = own.pair("laptop")
        folder = own.join(first.url, "laptop", token, settings=QUICK)
        with own.rows(action="connect") as rows, own.node_run(folder):
            one = next(rows)["session_id"]
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            with own.gateway("--port", str(port)) as second:
                two = next(rows)["session_id"]
                assert one != two
                assert own.ok("exec", "laptop", "echo back") == "back\n"
                second.process.send_signal(signal.SIGTERM)
                assert second.process.wait(5) == 0
            with own.gateway("--port", str(port)):
                next(rows)
                assert node_status(own, folder)["state"] == "connected"
                assert own.ok("exec", "laptop", "echo again") == "again\n"


def test_commands_of_a_gateway_that_was_killed_are_ended_though_the_node_is_stopped_meanwhile(
    own: Home,
) -> None:
    gentle, deaf = [
        f"{trap} echo $HERMES_NODES_CALL; sleep 1000; sleep 1000" for trap in ("", "trap '' INT TERM;")
    ]
    with (
        own.gateway() as gateway,
        own.node(gateway, "laptop", settings=QUICK) as node,
        own.start("exec", "laptop", gentle) as soft,
        own.start("exec", "laptop", deaf) as hard,
        Watched(processes_of(soft.line().strip())) as soft_tree,
        Watched(processes_of(hard.line().strip())) as hard_tree,
    ):
        gateway.process.kill()
        for running in (soft, hard):
            code, _, stderr = running.end()
            assert (code, stderr[:21]) == (75, b"hermes-nodes: error: ")
        assert soft_tree.living(within=4) == 0
        # The gentle end of the other one has begun, in a session that is gone.
        assert hard_tree.living() > 0
        node.process.terminate()
        assert node.process.wait(4) == 0
        assert hard_tree.living() == 0


def test_a_node_with_a_wrong_token_keeps_trying_and_says_why(own: Home) -> None:
    with own.gateway() as gateway:
        own.pair("laptop")
        folder = own.join(gateway.url, "laptop", "hnt_" + "x" * 43, settings=QUICK)
        with own.rows(action="auth") as rows, own.node_run(folder) as process:
            assert [next(rows)["status"] for _ in range(3)] == ["denied"] * 3
            status = until_waiting(own, folder, "does not accept this node's token")
            assert status["state"] == "waiting"
            assert process.poll() is None
        assert status["pid"] == process.pid
    assert "does not accept this node's token" in (folder / "run.log").read_text()


def test_a_node_whose_gateway_is_not_there_says_so(home: Home) -> None:
    folder = home.join("ws://127.0.0.1:9", "alone", "hnt_" + "x" * 43, settings=QUICK)
    with home.node_run(folder) as process:
        status = until_waiting(home, folder, "127.0.0.1:9")
        assert (status["state"], process.poll()) == ("waiting", None)
    assert node_status(home, folder)["state"] == "not running"


def test_a_node_that_is_stopped_leaves_no_process_behind(home: Home, gateway: GatewayProcess) -> None:
    with (
        home.node(gateway, "mortal") as node,
        home.start("exec", "mortal", "echo $HERMES_NODES_CALL; sleep 1000") as soft,
        home.start("exec", "mortal", "trap '' INT TERM; echo $HERMES_NODES_CALL; sleep 1000") as hard,
        home.rows(action="disconnect", node="mortal") as rows,
    ):
        calls = [running.line().strip() for running in (soft, hard)]
        with Watched(pid for call in calls for pid in processes_of(call)) as watched:
            node.process.terminate()
            assert node.process.wait(4) == 0
            assert watched.living() == 0
        assert [processes_of(call) for call in calls] == [set(), set()]
        assert next(rows)["error"] == "bye node_shutdown"
        assert [running.end()[0] for running in (soft, hard)] == [75, 75]


async def test_a_node_that_was_replaced_while_it_was_busy_stays_away(
    home: Home, gateway: GatewayProcess
) -> None:
    with (
        home.node(gateway, "twin", settings=QUICK) as node,
        home.start("exec", "twin", "yes") as running,
    ):
        assert running.line() == "y\n"
        async with scripted_node(gateway.url) as twin:
            await twin.log_in("twin", node.token)
            assert until_waiting(home, node.folder, "replaced: another machine")["state"] == "waiting"
            assert running.end()[0] == 75
    assert home.node_view("twin")["replaced"] == 1


def test_a_second_signal_ends_a_node_at_once(home: Home, gateway: GatewayProcess) -> None:
    with (
        home.node(gateway, "hasty") as node,
        home.start("exec", "hasty", "trap '' INT TERM; echo $HERMES_NODES_CALL; sleep 1000") as running,
    ):
        call_id = running.line().strip()
        node.process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            node.process.wait(0.3)
        node.process.terminate()
        assert node.process.wait(4) == -signal.SIGTERM
        for pid in processes_of(call_id):  # what nobody is left to end
            os.kill(pid, signal.SIGKILL)
