"""`audit tail -f` and `list --watch`: what there is, what comes, until Ctrl-C."""

import json
import signal

from tests.harness import Background, GatewayProcess, Home
from tests.support import PATIENCE


def interrupted(following: Background) -> None:
    following.process.send_signal(signal.SIGINT)
    code, stdout, stderr = following.end()
    assert (code, stdout, stderr) == (130, b"", b"hermes-nodes: error: interrupted\n")


def test_audit_tail_shows_rows_as_they_come(home: Home, gateway: GatewayProcess) -> None:
    home.pair("followed")
    arguments = ["audit", "tail", "-f", "-n", "1", "--json", "--node", "followed"]
    with home.start(*arguments, PYTHONUNBUFFERED="") as following:
        assert json.loads(following.line())["action"] == "pair"
        home.pair("not-followed")
        home.ok("revoke", "followed")
        assert json.loads(following.line())["action"] == "revoke"
        interrupted(following)


def test_list_watch_shows_what_has_changed(home: Home, gateway: GatewayProcess) -> None:
    home.pair("watched")
    with home.start("list", "watched", "--all", "--watch", "--json", PYTHONUNBUFFERED="") as watching:
        assert json.loads(watching.line())["state"] == "never_seen"
        home.ok("revoke", "watched")
        assert json.loads(watching.line())["state"] == "revoked"
        interrupted(watching)


def test_a_reader_that_leaves_ends_the_following(home: Home, gateway: GatewayProcess) -> None:
    home.pair("left")
    with home.start("audit", "tail", "-f", "-n", "1", "--node", "left") as following:
        following.line()
        assert following.process.stdout is not None
        following.process.stdout.close()
        home.ok("revoke", "left")
        assert following.process.wait(PATIENCE) == 141
        assert following.process.stderr is not None
        assert following.process.stderr.read() == b""
