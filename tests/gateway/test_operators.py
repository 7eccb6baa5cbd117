"""Verbs and scopes at the one call path: what an operator may do, for every call and every route.

Most nodes here are paired and away: whoever may call one is told that, and whoever may not is told so.
"""

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, get_args
from urllib.parse import urlsplit

import pytest

from hermes_nodes.client import Client
from hermes_nodes.errors import (
    HermesNodesError,
    NodeNotConnected,
    NotAllowed,
    NoToken,
    Unavailable,
    UnknownNode,
    UsageError,
)
from hermes_nodes.gateway import Gateway
from hermes_nodes.gateway.bodies import CallBody
from hermes_nodes.gateway.operators import Actor
from hermes_nodes.gateway.routes import ROUTES
from hermes_nodes.operations import PairRequest, RotateRequest
from hermes_nodes.operator_table import OperatorTable
from hermes_nodes.operators import VERBS
from hermes_nodes.protocol.messages import Cancel, Exec
from tests.gateway.support import pair
from tests.harness import GatewayProcess, Home, ScriptedNode, scripted_node
from tests.network import LOOPBACK
from tests.support import PATIENCE, SOON


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of its error; empty if it is none."""
        return str(self.json.get("error", {}).get("code", "")) if self.status >= 400 else ""


def ask(
    url: str,
    method: str,
    path: str,
    token: str | None = None,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request over the network, as any HTTP client makes it."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    shown = {} if token is None else {"Authorization": f"Bearer {token}"}
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        connection.request(method, path, content, {**shown, **(headers or {})})
        answer = connection.getresponse()
        return Answer(
            answer.status,
            {name.lower(): value for name, value in answer.getheaders()},
            answer.read(),
        )
    finally:
        connection.close()


class Team:
    """A gateway's operators, each made when a test first asks for it."""

    def __init__(self, home: Home, gateway: GatewayProcess) -> None:
        self.home = home
        self.url = gateway.control_url
        self._made = 0

    def token(
        self, *verbs: str, nodes: str | None = None, name: str = "", expires_in: float | None = None
    ) -> str:
        """The token of a new operator."""
        self._made += 1
        made = self.home.client.add_operator(
            name or f"op-{self._made}", allow=verbs, nodes=nodes, expires_in=expires_in
        )
        return str(made["token"])

    def client(self, *verbs: str, nodes: str | None = None, **how: Any) -> Client:
        return Client(self.url, token=self.token(*verbs, nodes=nodes, **how))

    def all_but(self, *verbs: str, nodes: str | None = None) -> Client:
        return self.client(*(verb for verb in VERBS if verb not in verbs), nodes=nodes)


#: Each kind of call and the verbs of which one is enough, or of each of two sets one.
CALLS: list[tuple[dict[str, object], list[set[str]]]] = [
    ({"call": "exec", "command": "true"}, [{"exec"}]),
    ({"call": "exec", "argv": ["true"]}, [{"exec"}]),
    ({"call": "exec", "command": "true", "session": "s"}, [{"exec"}]),
    ({"call": "exec", "command": "true", "stdin": True}, [{"exec"}]),
    ({"call": "exec", "command": "bash", "pty": {"cols": 80, "rows": 24}}, [{"exec"}]),
    ({"call": "exec", "pty": {"cols": 80, "rows": 24}}, [{"shell"}]),
    ({"call": "exec", "command": "true", "detach": True}, [{"exec"}, {"jobs"}]),
    ({"call": "read", "path": "/x"}, [{"read", "cp"}]),
    ({"call": "stat", "path": "/x"}, [{"read", "cp"}]),
    ({"call": "list_dir", "path": "/x"}, [{"read", "cp"}]),
    ({"call": "write", "path": "/x"}, [{"write", "cp"}]),
    ({"call": "make_dir", "path": "/x"}, [{"write", "cp"}]),
    ({"call": "session_list"}, [{"exec"}]),
    ({"call": "session_reset", "session": "s"}, [{"exec"}]),
    ({"call": "job_list"}, [{"jobs"}]),
    ({"call": "job_read", "job": "j"}, [{"jobs"}]),
    ({"call": "job_wait", "job": "j"}, [{"jobs"}]),
    ({"call": "job_kill", "job": "j"}, [{"jobs"}]),
]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A gateway on which `web-1`, `web-2` and `db` are paired; `db` is labelled."""
    home = Home(tmp_path_factory.mktemp("team"))
    with home.gateway(**LOOPBACK) as gateway:
        for name in ("web-1", "web-2"):
            home.client.pair(name)
        home.client.pair("db", labels={"role": "store"})
        yield Team(home, gateway)


def call(client: Client, body: dict[str, object], node: str = "web-1") -> object:
    return client.call({**body, "node": node}, lambda *_: None)


def described(body: dict[str, object]) -> str:
    return "-".join(str(key) if key != "call" else str(value) for key, value in body.items())


# -- verbs ----------------------------------------------------------------------------------------


def test_the_table_has_every_kind_of_call() -> None:
    assert {body["call"] for body, _ in CALLS} == {
        kind.__struct_config__.tag for kind in get_args(CallBody)
    }


@pytest.mark.parametrize(("body", "needs"), CALLS, ids=[described(body) for body, _ in CALLS])
def test_a_call_is_allowed_with_its_verbs_and_with_nothing_less(
    team: Team, body: dict[str, object], needs: list[set[str]]
) -> None:
    for verb in needs[0]:
        client = team.client(verb, *(min(choices) for choices in needs[1:]))
        with pytest.raises(NodeNotConnected):
            call(client, body)
    for choices in needs:
        with pytest.raises(NotAllowed, match="is not allowed to") as refused:
            call(team.all_but(*choices), body)
        assert refused.value.exit_status == 77
        assert all(f"`{verb}`" in refused.value.message for verb in choices)


@pytest.mark.parametrize(("body", "needs"), CALLS, ids=[described(body) for body, _ in CALLS])
def test_any_other_http_client_is_told_the_same(
    team: Team, body: dict[str, object], needs: list[set[str]]
) -> None:
    if "stdin" in body:
        return  # which is for an upgraded connection alone
    fields = {key: value for key, value in body.items() if key != "call"}
    if body["call"] == "write":
        fields["content_b64"] = ""
    lacking = [verb for verb in VERBS if verb not in needs[0]]
    shown = {}
    for token in (team.token(*lacking), team.token(*VERBS)):
        answer = ask(team.url, "POST", f"/v1/nodes/web-1/{body['call']}", token, fields)
        shown[token] = json.loads(answer.body.splitlines()[-1])["result"]["status"]
    assert list(shown.values()) == ["denied", "not_connected"]


GUARDED = [route for route in ROUTES if route.verb]
BODIES = {
    "post_pairing": {"name": "new-1"},
    "patch_pairing": {"labels": {"a": "b"}},
    "post_rotation": {},
    "post_operator": {"name": "another", "allow": ["operate"]},
}


@pytest.mark.parametrize("route", GUARDED, ids=lambda route: route.handler)
def test_a_route_is_open_to_its_verb_alone(team: Team, route: Any) -> None:
    name = "another" if "operator" in route.path else "web-2"
    if route.handler == "delete_operator":
        team.token("operate", name="another-one")
        name = "another-one"
    if route.handler == "delete_pairing":
        team.home.client.pair(name := "to-be-revoked")
    path = route.path.replace("{name}", name)
    body = BODIES.get(route.handler)
    others = team.token(*(verb for verb in VERBS if verb != route.verb))
    refused = ask(team.url, route.method, path, others, body)
    assert (refused.status, refused.code) == (403, "denied")
    assert f"`{route.verb}`" in refused.json["error"]["message"]
    assert ask(team.url, route.method, path, team.token(route.verb), body).status == route.status


def test_routes_without_a_verb_are_those_that_tell_nothing_of_others(team: Team) -> None:
    token = team.token("audit", nodes="web-1")
    status = ask(team.url, "GET", "/v1/status", token).json
    assert status["nodes_paired"] == 1
    assert set(status) == {
        "version",
        "nodes_connected",
        "nodes_paired",
        "calls_in_flight",
        "now",
        "url",
        "started_at",
    }
    assert ask(team.url, "GET", "/v1/openapi.json", token).status == 200


def test_pairing_by_force_needs_to_be_allowed_to_revoke(team: Team) -> None:
    team.home.client.pair("forced")
    with pytest.raises(NotAllowed, match="revoke"):
        team.all_but("revoke").pair("forced", force=True)
    assert team.client("pair", "revoke").pair("forced", force=True)["name"] == "forced"


def test_the_key_is_rotated_by_the_local_user_alone(team: Team) -> None:
    with pytest.raises(NotAllowed, match="control socket"):
        team.client(*VERBS).rotate_key()
    assert team.home.trail(action="key") == []


def test_a_caller_that_declares_its_own_scope_is_not_heard(team: Team) -> None:
    token = team.token("list", nodes="web-1")
    claims = {"X-Operator": "boss", "X-Actor": "local:root", "X-Forwarded-User": "root"}
    answer = ask(team.url, "GET", "/v1/nodes?target=db&nodes=all&scope=all", token, headers=claims)
    assert (answer.status, answer.code) == (404, "unknown_node")
    fields = {"command": "true", "actor": "local:root", "operator": "boss"}
    refused = ask(team.url, "POST", "/v1/nodes/web-1/exec", token, fields)
    assert (refused.status, refused.code) == (400, "bad_request")


# -- scope ----------------------------------------------------------------------------------------

SCOPES = [
    ("web-1", ["web-1"]),
    ("web-[12]", ["web-1", "web-2"]),
    ("label:role=store", ["db"]),
    ("db,web-2", ["db", "web-2"]),
]


@pytest.mark.parametrize(("nodes", "held"), SCOPES)
def test_an_operator_sees_and_reaches_the_nodes_in_its_scope(
    team: Team, nodes: str, held: list[str]
) -> None:
    client = team.client("list", "exec", "read", "jobs", nodes=nodes)
    assert [node["name"] for node in client.nodes()] == held
    assert [node["name"] for node in client.nodes("all")] == held
    for name in ("web-1", "web-2", "db"):
        expected = NodeNotConnected if name in held else UnknownNode
        for body, _ in (CALLS[0], CALLS[7], CALLS[14]):
            with pytest.raises(expected) as refused:
                call(client, body, name)
            assert refused.value.exit_status in (66, 69)


@pytest.mark.parametrize("verb", ["revoke", "rotate"])
def test_a_node_outside_of_the_scope_is_as_unknown_as_one_that_is_not_there(team: Team, verb: str) -> None:
    client = team.client(*(set(VERBS) - {"pair", "label", "operate"}), nodes="web-*")
    told = []
    for name in ("db", "nobody"):
        with pytest.raises(UnknownNode) as refused:
            getattr(client, verb)(name)
        told.append((refused.value.message.replace(name, "NAME"), refused.value.hint))
    assert told[0] == told[1]


@pytest.mark.parametrize("target", ["db", "d*", "label:role=store", "web-1,db"])
def test_a_target_outside_of_the_scope_matches_nothing(team: Team, target: str) -> None:
    with pytest.raises(UnknownNode):
        team.client("list", nodes="web-*").nodes(target)


def test_a_name_paired_anew_is_not_in_a_scope_that_named_it(team: Team) -> None:
    home = team.home
    home.client.pair("reused")
    client = team.client("list", "exec", "rotate", "revoke", "audit", nodes="reused")
    assert [node["name"] for node in client.nodes()] == ["reused"]
    home.client.pair("reused", force=True)
    assert client.nodes() == []
    for act in (client.rotate, client.revoke, lambda name: call(client, CALLS[0][0], name)):
        with pytest.raises(UnknownNode):
            act("reused")
    new = home.client.nodes("reused")[0]["pairing_id"]
    rows = list(client.audit_rows(100))
    assert rows
    assert all(row["pairing_id"] != new for row in rows)


def test_a_label_taken_away_takes_the_node_out(team: Team) -> None:
    home = team.home
    home.client.pair("labelled", labels={"team": "a"})
    client = team.client("list", nodes="label:team=a")
    assert len(client.nodes()) == 1
    home.client.label("labelled", {"team": "b"})
    assert client.nodes() == []


def test_rows_of_nodes_outside_of_the_scope_are_not_shown(team: Team) -> None:
    client = team.client("exec", "audit", nodes="db")
    for name in ("db", "web-1"):
        with pytest.raises(HermesNodesError):
            call(client, CALLS[0][0], name)
    rows = list(client.audit_rows(1000))
    assert {row["node"] for row in rows} == {"db"}
    assert {row["action"] for row in rows} >= {"pair", "exec"}
    whole = list(team.client("audit").audit_rows(1000))
    assert {row["action"] for row in whole} >= {"start", "operator", "pair", "exec"}


@pytest.mark.parametrize("count", ["-1", "x", "100001", "", "%EF%BC%91", "%C2%B2"])
def test_a_number_of_rows_is_a_number_with_bounds(team: Team, count: str) -> None:
    answer = ask(team.url, "GET", f"/v1/audit?n={count}", team.token("audit"))
    assert (answer.status, answer.code) == (400, "bad_request")


# -- who did it -----------------------------------------------------------------------------------


def test_rows_name_the_operator_and_where_it_came_from(team: Team) -> None:
    client = team.client(*VERBS, name="auditee")
    client.pair("act-1")
    client.label("act-1", {"a": "b"})
    client.rotate("act-1")
    with pytest.raises(NodeNotConnected):
        call(client, CALLS[0][0], "act-1")
    client.revoke("act-1")
    client.add_operator("minted")
    client.remove_operator("minted")
    rows = [row for row in team.home.trail() if row["actor"] == "operator:auditee"]
    assert [row["action"] for row in rows] == [
        "pair",
        "label",
        "rotate",
        "exec",
        "revoke",
        "operator",
        "operator",
    ]
    assert {row["remote_addr"] for row in rows} == {"127.0.0.1"}


def test_the_local_user_is_the_full_operator(team: Team) -> None:
    team.home.client.pair("by-hand")
    row = team.home.trail(action="pair", node="by-hand")[0]
    assert str(row["actor"]).startswith("local:")
    assert row["remote_addr"] is None


def test_a_refused_call_is_in_the_trail_with_its_operator(team: Team) -> None:
    with pytest.raises(NotAllowed):
        call(team.client("list", name="refused"), CALLS[0][0])
    rows = [row for row in team.home.trail(action="exec") if row["actor"] == "operator:refused"]
    assert [(row["status"], row["error"], row["node"]) for row in rows] == [("denied", "denied", "web-1")]


# -- handing on, over the network -----------------------------------------------------------------


def test_an_operator_hands_on_what_it_has_and_no_longer_than_it_lasts(team: Team) -> None:
    boss = team.client("list", "operate", expires_in=3600)
    made = boss.add_operator("handed-on", allow=["list"], nodes="web-*")
    ends = [one["expires_at"] for one in boss.operators() if one["expires_at"] is not None]
    assert ends.count(made["expires_at"]) == 2  # the boss's own
    for more in ({"allow": ["exec"]}, {"allow": ["list"], "expires_in": 7200.0}):
        with pytest.raises(NotAllowed):
            boss.add_operator("more", **more)
    assert "more" not in [one["name"] for one in boss.operators()]


@pytest.mark.parametrize("verb", ["pair", "label", "operate"])
def test_what_could_widen_a_scope_is_not_granted_with_one(team: Team, verb: str) -> None:
    for client in (team.home.client, team.client(*VERBS)):
        with pytest.raises(UsageError, match=verb):
            client.add_operator("wide", allow=[verb], nodes="web-*")


# -- an operator that ends ------------------------------------------------------------------------


@asynccontextmanager
async def running_call(
    home: Home, gateway: Gateway, client: Client, name: str = "laptop", **pairing: Any
) -> AsyncIterator[tuple[ScriptedNode, Exec, "asyncio.Task[object]"]]:
    """An operator's call under way on a node."""
    token = await pair(home, name, **pairing)
    async with scripted_node(gateway.url) as node:
        await node.log_in(name, token)
        body: dict[str, object] = {"call": "exec", "command": "sleep 60", "node": name}
        task = asyncio.create_task(asyncio.to_thread(client.call, body, lambda *_: None))
        request = await node.receive()
        assert isinstance(request, Exec)
        yield node, request, task


async def ended(task: "asyncio.Task[object]") -> HermesNodesError:
    """What a call ends with, at once."""
    began = time.monotonic()
    with pytest.raises(HermesNodesError) as failure:
        await asyncio.wait_for(task, PATIENCE)
    assert time.monotonic() - began < SOON
    return failure.value


@pytest.fixture
async def listening(home: Home) -> AsyncIterator[Gateway]:
    async with home.gateway_here(**LOOPBACK) as gateway:
        yield gateway


async def operator(home: Home, gateway: Gateway, *verbs: str, **more: Any) -> Client:
    made = await asyncio.to_thread(home.client.add_operator, "ci", allow=verbs, **more)
    return Client(str(gateway.control_url), token=str(made["token"]))


async def test_removing_an_operator_ends_its_call_on_the_node_and_with_77(
    home: Home, listening: Gateway
) -> None:
    client = await operator(home, listening, "exec")
    async with running_call(home, listening, client) as (node, request, task):
        await asyncio.to_thread(home.client.remove_operator, "ci")
        failure = await ended(task)
        assert await node.receive() == Cancel(id=request.id)
    assert (failure.exit_status, failure.code) == (77, "denied")
    assert "removed or has expired" in failure.message
    (row,) = home.trail(action="exec")
    assert (row["status"], row["actor"]) == ("denied", "operator:ci")
    with pytest.raises(NoToken):
        await asyncio.to_thread(client.status)


async def test_an_operator_that_expires_takes_its_calls_along(home: Home, listening: Gateway) -> None:
    client = await operator(home, listening, "exec", expires_in=1.0)
    async with running_call(home, listening, client) as (node, request, task):
        with pytest.raises(NotAllowed, match="expired"):
            await asyncio.wait_for(task, 1 + SOON)
        assert await node.receive() == Cancel(id=request.id)
    with pytest.raises(NoToken):
        await asyncio.to_thread(client.status)


async def test_a_label_taken_away_ends_the_call_that_it_allowed(home: Home, listening: Gateway) -> None:
    await pair(home, "first", labels={"a": "b"})
    client = await operator(home, listening, "exec", nodes="label:a=b")
    async with running_call(home, listening, client, labels={"a": "b"}) as (node, request, task):
        await asyncio.to_thread(home.client.label, "laptop", {"a": None})
        assert (await ended(task)).exit_status == 77
        assert await node.receive() == Cancel(id=request.id)


async def test_another_operators_call_goes_on(home: Home, listening: Gateway) -> None:
    client = await operator(home, listening, "exec")
    await asyncio.to_thread(home.client.add_operator, "other", allow=["exec"])
    async with running_call(home, listening, client) as (_, _, task):
        await asyncio.to_thread(home.client.remove_operator, "other")
        done, _ = await asyncio.wait([task], timeout=0.6)  # longer than two looks at who may what
        assert not done
        await asyncio.to_thread(home.client.remove_operator, "ci")
        await ended(task)


async def test_removing_an_operator_ends_the_trail_that_it_follows(home: Home, listening: Gateway) -> None:
    client = await operator(home, listening, "audit")
    rows = client.audit_rows(1, follow=True)
    assert (await asyncio.to_thread(next, rows))["action"] == "operator"
    await asyncio.to_thread(home.client.remove_operator, "ci")

    def rest() -> None:
        for _ in rows:
            pass

    failure = await ended(asyncio.create_task(asyncio.to_thread(rest)))
    assert (failure.exit_status, failure.code) == (77, "denied")


def slow_request(gateway: Gateway, line: str, token: str, length: int) -> bytes:
    return (
        f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("POST /v1/pairings", b'{"name": "late"}'),
        ("PATCH /v1/pairings/laptop", b'{"labels": {"a": "b"}}'),
        ("POST /v1/pairings/laptop/rotate", b'{"grace": 3600}'),
        ("POST /v1/operators", b'{"name": "late"}'),
        ("POST /v1/nodes/laptop/exec", b'{"command": "true"}'),
    ],
)
async def test_a_request_whose_body_comes_after_its_operator_was_removed_does_nothing(
    home: Home, listening: Gateway, line: str, body: bytes
) -> None:
    await pair(home, "laptop")
    made = await asyncio.to_thread(home.client.add_operator, "ci", allow=VERBS)
    parts = listening.control_url.rpartition(":") if listening.control_url else ("", "", "0")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(parts[2]))
    try:
        writer.write(slow_request(listening, line, str(made["token"]), len(body)) + body[:-1])
        # Behind it on the same loop, so the first has been looked at when this is answered.
        await asyncio.to_thread(Client(str(listening.control_url), token=str(made["token"])).status)
        await asyncio.to_thread(home.client.remove_operator, "ci")
        writer.write(body[-1:])
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
    assert b" 403 " in answer.split(b"\r\n")[0]
    assert [node["name"] for node in await asyncio.to_thread(home.client.nodes)] == ["laptop"]
    assert [row for row in home.trail() if row["actor"] == "operator:ci"] == []
    assert await asyncio.to_thread(home.client.operators) == []


async def test_a_removal_that_can_not_be_saved_takes_effect_and_says_so(
    home: Home, listening: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await operator(home, listening, "list")

    def remove(*_: object) -> None:
        raise Unavailable("the disk is full")

    monkeypatch.setattr(OperatorTable, "remove", remove)
    with pytest.raises(Unavailable, match="for now, but that could not be saved: the disk is full"):
        await asyncio.to_thread(home.client.remove_operator, "ci")
    with pytest.raises(NoToken):
        await asyncio.to_thread(client.nodes)


async def test_an_operator_is_the_same_after_the_gateway_was_started_anew(home: Home) -> None:
    async with home.gateway_here(**LOOPBACK) as first:
        client = await operator(home, first, "list")
        await asyncio.to_thread(client.nodes)
        port = client.gateway.rpartition(":")[2]
    async with home.gateway_here(HERMES_NODES_CONTROL_LISTEN=f"127.0.0.1:{port}"):
        assert await asyncio.to_thread(client.nodes) == []
        await asyncio.to_thread(home.client.remove_operator, "ci")
    async with home.gateway_here(HERMES_NODES_CONTROL_LISTEN=f"127.0.0.1:{port}"):
        with pytest.raises(NoToken):
            await asyncio.to_thread(client.nodes)


@pytest.mark.parametrize("act", ["rotate", "revoke"])
async def test_an_act_on_a_name_that_is_paired_anew_meanwhile_is_not_on_the_new_pairing(
    home: Home, listening: Gateway, act: str
) -> None:
    await pair(home, "laptop")
    client = await operator(home, listening, act, nodes="laptop")
    api: Callable[[str], object] = getattr(client, act)
    # Both are under way at once; the store does the pairing first.
    calls = listening._calls
    assert calls is not None
    pairings = calls._pairings
    (ci,) = calls._operators.all()
    made = asyncio.create_task(pairings.pair(PairRequest("laptop", force=True), Actor("local:ada")))
    bound = pairings.get("laptop")
    assert bound is not None
    await asyncio.sleep(0)  # the pairing is with the store's thread
    actor = Actor("operator:ci", None, ci.id)
    late: dict[str, Callable[[], Awaitable[object]]] = {
        "rotate": lambda: pairings.rotate("laptop", RotateRequest(), actor),
        "revoke": lambda: pairings.revoke("laptop", actor),
    }
    with pytest.raises(UnknownNode):
        await late[act]()
    new, _ = await made
    assert pairings.get("laptop") == new
    with pytest.raises(UnknownNode):
        await asyncio.to_thread(api, "laptop")
