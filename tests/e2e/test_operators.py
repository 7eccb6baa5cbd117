"""Operators over the network: what each may do, on which nodes, and how soon that ends."""

import json
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from hermes_nodes.client import Client
from hermes_nodes.errors import HermesNodesError, NotAllowed, UnknownNode
from hermes_nodes.operators import VERBS
from tests.harness import Background, GatewayProcess, Home, NodeProcess, Watched
from tests.network import Remote, operator
from tests.support import SOON

Ask = Callable[[Client], object]


def call(kind: str, **body: object) -> Ask:
    """One call on the node `laptop`."""

    def ask(client: Client) -> object:
        return client.call({"call": kind, "node": "laptop", **body}, lambda *_: None)

    return ask


class Kind(NamedTuple):
    """What an operator may ask for, and the verbs each of which is enough."""

    ask: Ask
    verbs: frozenset[str]


def kind(ask: Ask, *verbs: str) -> Kind:
    return Kind(ask, frozenset(verbs))


KINDS = {
    "list": kind(lambda client: client.nodes(), "list"),
    "exec": kind(call("exec", command="true"), "exec"),
    "exec on a terminal": kind(
        call("exec", command="true", pty={"cols": 80, "rows": 24, "term": "dumb"}), "exec"
    ),
    "session list": kind(call("session_list"), "exec"),
    "session reset": kind(call("session_reset", session="none"), "exec"),
    "read": kind(call("read", path="/etc/hostname"), "read", "cp"),
    "stat": kind(call("stat", path="/etc/hostname"), "read", "cp"),
    "directory": kind(call("list_dir", path="/etc"), "read", "cp"),
    "new directory": kind(call("make_dir", path="/nowhere/at-all"), "write", "cp"),
    "write": kind(
        lambda client: client.call(
            {"call": "write", "node": "laptop", "path": "/nowhere/at-all"}, lambda *_: None, b"x"
        ),
        "write",
        "cp",
    ),
    "jobs": kind(call("job_list"), "jobs"),
    "logs": kind(call("job_read", job="0" * 16, offset=0, stream="stdout"), "jobs"),
    "wait": kind(call("job_wait", job="0" * 16), "jobs"),
    "kill": kind(call("job_kill", job="0" * 16), "jobs"),
    "pair": kind(lambda client: client.pair("laptop"), "pair"),
    "revoke": kind(lambda client: client.revoke("nobody"), "revoke"),
    "rotate": kind(lambda client: client.rotate("nobody"), "rotate"),
    "label": kind(lambda client: client.label("nobody", {"a": "b"}), "label"),
    "audit": kind(lambda client: list(client.audit_rows(1)), "audit"),
    "operator list": kind(lambda client: client.operators(), "operate"),
    "operator add": kind(lambda client: client.add_operator("a", allow=["nothing"]), "operate"),
    "operator remove": kind(lambda client: client.remove_operator("nobody"), "operate"),
    "key rotate": kind(lambda client: client.rotate_key()),
}


@pytest.fixture(scope="session")
def each(home: Home, gateway: GatewayProcess, node: NodeProcess) -> dict[str, Remote]:
    """For each verb an operator who has that alone."""
    return {
        verb: Remote(home, gateway, str(home.client.add_operator(f"only-{verb}", allow=[verb])["token"]))
        for verb in VERBS
    }


def is_refused(ask: Ask, client: Client) -> bool:
    """Whether it was for want of a verb that it failed, if it did."""
    try:
        ask(client)
    except NotAllowed as error:
        return error.code == NotAllowed.code
    except HermesNodesError:
        return False
    return False


@pytest.mark.parametrize("name", KINDS)
def test_each_thing_is_done_for_whom_it_is_allowed_and_for_nobody_else(
    each: dict[str, Remote], name: str
) -> None:
    ask, allowed = KINDS[name]
    let_in = {verb for verb, remote in each.items() if not is_refused(ask, remote.client)}
    assert let_in == allowed


def test_a_shell_takes_the_verb_of_its_own(each: dict[str, Remote]) -> None:
    shell = call("exec", pty={"cols": 80, "rows": 24, "term": "dumb"})
    assert {verb for verb in ("exec", "jobs", "read") if is_refused(shell, each[verb].client)} == {
        "exec",
        "jobs",
        "read",
    }


def test_a_job_takes_the_verbs_of_commands_and_of_jobs(
    home: Home, gateway: GatewayProcess, each: dict[str, Remote]
) -> None:
    detached = call("exec", command="true", detach=True)
    assert all(is_refused(detached, remote.client) for remote in each.values())
    with operator(home, gateway, "both", "--allow", "exec,jobs") as both:
        assert not is_refused(detached, both.client)


def test_a_command_that_is_not_allowed_ends_with_77_and_leaves_a_row(
    home: Home, each: dict[str, Remote]
) -> None:
    with home.rows(action="exec", node="laptop") as rows:
        done = each["list"].run("exec", "laptop", "echo ran")
        row = next(rows)
    assert (done.returncode, done.stdout) == (77, b"")
    assert b"operator 'only-list' is not allowed to `exec`" in done.stderr
    assert (row["status"], row["actor"], row["remote_addr"]) == (
        "denied",
        "operator:only-list",
        "127.0.0.1",
    )


# -- the scope ----------------------------------------------------------------------------------------


@pytest.fixture
def scoped(home: Home, gateway: GatewayProcess, node: NodeProcess) -> Iterator[Remote]:
    """An operator of the node `mine` alone; beside it is `laptop`, which is connected."""
    home.client.pair("mine")
    verbs = "list,exec,read,revoke,rotate,audit"
    with operator(home, gateway, "scoped", "--nodes", "mine", "--allow", verbs) as remote:
        yield remote
    home.client.revoke("mine")


@pytest.mark.parametrize(
    "command",
    [
        ("list", "laptop"),
        ("exec", "laptop", "true"),
        ("read", "laptop", "/etc/hostname"),
        ("rotate", "laptop"),
        ("revoke", "laptop"),
        ("exec", "lap*,mine", "true"),
    ],
    ids=" ".join,
)
def test_a_node_out_of_the_scope_is_as_unknown_as_one_that_is_not_there(
    scoped: Remote, command: tuple[str, ...]
) -> None:
    done = scoped.run(*command)
    if command[1] == "laptop":
        other = scoped.run(*(part.replace("laptop", "nobody") for part in command))
        assert other.stderr == done.stderr.replace(b"laptop", b"nobody")
        assert done.returncode == other.returncode == 66
    assert b"laptop" not in done.stdout


def test_only_the_nodes_of_the_scope_are_listed_and_counted(scoped: Remote) -> None:
    assert [view["name"] for view in scoped.client.nodes(everything=True)] == ["mine"]
    assert scoped.client.status()["nodes_paired"] == 1
    assert "home" not in scoped.client.status()


def test_only_rows_of_the_scopes_nodes_are_seen(home: Home, scoped: Remote) -> None:
    home.client.exec("laptop", "true")
    with pytest.raises(HermesNodesError):
        scoped.client.exec("mine", "true")
    rows = list(scoped.client.audit_rows(1000))
    assert {row["node"] for row in rows} == {"mine"}
    assert [row["action"] for row in rows][-2:] == ["pair", "exec"]
    assert list(scoped.client.audit_rows(1000, node="laptop")) == []


def test_a_reused_name_inherits_no_access(home: Home, scoped: Remote) -> None:
    home.client.pair("mine", force=True)
    with pytest.raises(UnknownNode):
        scoped.client.exec("mine", "true")
    assert scoped.client.nodes() == []
    # What the old pairing did is still in the scope, what the new one does is not.
    assert [row["action"] for row in scoped.client.audit_rows(1000)] == ["pair", "revoke"]


# -- the end of a permission --------------------------------------------------------------------------


class Running(NamedTuple):
    """A command of an operator that runs on the node until somebody ends it."""

    command: Background
    processes: set[int]


def running(remote: Remote) -> Running:
    command = remote.start("exec", "laptop", "echo $$; exec sleep 300")
    return Running(command, {int(command.line())})


def assert_ends(running: Running, why: bytes) -> None:
    """At once the process is gone, and the command says why with 77."""
    with Watched(running.processes) as watched, running.command:
        assert watched.living(within=SOON) == 0
        status, _, stderr = running.command.end()
    assert (status, why in stderr) == (77, True), (status, stderr)


def test_a_removed_operators_command_ends_on_the_node(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    with operator(home, gateway, "leaver", "--allow", "exec") as remote, home.rows(action="exec") as rows:
        under_way = running(remote)
        began = time.monotonic()
        home.client.remove_operator("leaver")
        assert_ends(under_way, b"removed")
        assert time.monotonic() - began < SOON
        row = next(rows)
    assert (row["actor"], row["status"], row["error"]) == ("operator:leaver", "denied", "denied")


def test_an_expired_operators_command_ends_on_the_node(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    with operator(home, gateway, "guest", "--allow", "exec", "--expires", "1500ms") as remote:
        assert_ends(running(remote), b"expired")
        with pytest.raises(NotAllowed) as refused:
            remote.client.status()
    assert refused.value.code == "unauthenticated"


def test_a_label_that_is_taken_away_ends_the_command(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    home.client.label("laptop", {"role": "web"})
    options = ("--allow", "exec", "--nodes", "label:role=web")
    with operator(home, gateway, "webmaster", *options) as remote:
        under_way = running(remote)
        home.client.label("laptop", {"role": None})
        with Watched(under_way.processes) as watched, under_way.command as command:
            assert watched.living(within=SOON) == 0
            assert command.end()[0] == 77


def test_a_removed_operator_stops_following_the_trail(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    with operator(home, gateway, "watcher", "--allow", "audit") as remote:
        rows = remote.client.audit_rows(1, follow=True)
        assert next(rows)["action"] == "operator"
        home.client.exec("laptop", "true")
        assert next(rows)["action"] == "exec"
        home.client.remove_operator("watcher")
        began = time.monotonic()
        with pytest.raises(NotAllowed, match="removed"):
            list(rows)
    assert time.monotonic() - began < SOON


def test_the_operators_command_line_shows_neither_token_nor_verifier(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    with operator(home, gateway, "quiet", "--allow", "all") as remote:
        remote.ok("exec", "laptop", "true")
        shown = json.dumps(home.client.operators()) + gateway.log
        trail = (home.path / "logs" / "nodes-audit.log").read_text()
    assert remote.token.rpartition(".")[2] not in shown + trail


# -- the trail on the command line --------------------------------------------------------------------


def test_audit_tail_shows_the_trail_of_the_gateway_that_was_named(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    with operator(home, gateway, "auditor", "--allow", "audit,exec") as remote:
        for number in range(3):
            home.client.exec("laptop", f"echo number-{number}")
        options = ("--action", "exec", "--node", "laptop")
        rows = [
            json.loads(line)
            for line in remote.ok("audit", "tail", "-n", "2", *options, "--json").splitlines()
        ]
        assert [row["command"] for row in rows] == ["echo number-1", "echo number-2"]
        assert "echo number-2" in remote.ok("audit", "tail", "--since", "1h")
        with remote.start("audit", "tail", "-n", "1", "-f", "--json", *options) as following:
            assert "number-2" in following.line()
            home.client.exec("laptop", "echo later")
            assert "echo later" in following.line()


def test_audit_tail_without_its_verb_is_refused(home: Home, each: dict[str, Remote]) -> None:
    assert each["exec"].run("audit", "tail").returncode == 77


def test_audit_tail_by_a_sockets_path_asks_that_gateway(
    home: Home, gateway: GatewayProcess, node: NodeProcess
) -> None:
    elsewhere = str(home.folder / "elsewhere")
    shown = home.ok("--gateway", str(gateway.socket), "audit", "tail", HERMES_HOME=elsewhere)
    assert "operator" in shown or "exec" in shown or "connect" in shown
