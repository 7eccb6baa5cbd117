"""Operations on store and trail: who a TARGET names, who holds the lock, and what is shown of a node."""

import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from hermes_nodes import config, operations
from hermes_nodes.audit import AuditLog
from hermes_nodes.books import Books
from hermes_nodes.config import Settings
from hermes_nodes.errors import AlreadyPaired, AuditUnwritable, HomeLocked, UnknownNode, UsageError
from hermes_nodes.operations import HomeLock, PairRequest, node_view, select, visible
from hermes_nodes.records import Pairing
from hermes_nodes.tokens import TokenStore
from tests.support import PATIENCE, mode

PAST, FUTURE = "2000-01-01T00:00:00.000Z", "2100-01-01T00:00:00.000Z"
#: CLI.md: the keys of `list --json`.
NODE_KEYS = {
    "name",
    "state",
    "labels",
    "platform",
    "arch",
    "node_version",
    "capabilities",
    "encrypted",
    "remote_addr",
    "session_id",
    "connected_at",
    "last_seen_at",
    "created_at",
    "expires_at",
    "revoked_at",
    "calls_in_flight",
}


def pairing(name: str, *, labels: dict[str, str] | None = None, **times: str) -> Pairing:
    one = Pairing(id=f"id of {name}", name=name, labels=labels or {}, created_at=PAST)
    return msgspec.structs.replace(one, **times)


# -- TARGET ---------------------------------------------------------------------------------------


PAIRINGS = [
    pairing("db", labels={"role": "db", "site": "paris"}),
    pairing("expired-1", labels={"role": "web"}, expires_at=PAST),
    pairing("revoked-1", labels={"role": "web"}, revoked_at=PAST),
    pairing("unused-1", labels={"role": "web"}, first_use_by=PAST),
    pairing("used-1", labels={"role": "app"}, first_use_by=PAST, first_used_at=PAST),
    pairing("web-1", labels={"role": "web", "site": "paris"}),
    pairing("web-2", labels={"role": "web", "site": ""}, expires_at=FUTURE),
    # Names that the older system allowed.
    pairing("all of them"),
    pairing("a,b"),
    pairing("x*"),
    pairing("label:old=1"),
]


def names(target: str | None, pairings: Sequence[Pairing] = PAIRINGS) -> list[str]:
    return [one.name for one in select(pairings, target)]


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("web-1", ["web-1"]),
        ("web-1,db", ["web-1", "db"]),
        ("db,web-1", ["db", "web-1"]),
        ("web-1,web-1", ["web-1"]),
        ("web-*", ["web-1", "web-2"]),
        ("web-[2-9]", ["web-2"]),
        ("?b", ["db"]),
        ("web-1,web-*", ["web-1", "web-2"]),
        ("label:role=web", ["web-1", "web-2"]),
        ("label:role=db,label:site=paris", ["db", "web-1"]),
        ("label:site=", ["web-2"]),
        ("*-1", ["used-1", "web-1"]),
        ("all", ["db", "used-1", "web-1", "web-2", "all of them", "a,b", "x*", "label:old=1"]),
        ("all,web-1", ["db", "used-1", "web-1", "web-2", "all of them", "a,b", "x*", "label:old=1"]),
        # By their own names, the expired and the revoked are found too.
        ("expired-1", ["expired-1"]),
        ("revoked-1,db", ["revoked-1", "db"]),
        # A name that exists as written wins.
        ("a,b", ["a,b"]),
        ("x*", ["x*"]),
        ("label:old=1", ["label:old=1"]),
        ("all of them", ["all of them"]),
    ],
)
def test_a_target_names(target: str, found: list[str]) -> None:
    assert names(target) == found


def test_no_target_names_everything() -> None:
    assert names(None) == [one.name for one in PAIRINGS]


def test_a_node_called_all_wins_over_the_word() -> None:
    assert names("all", [*PAIRINGS, pairing("all")]) == ["all"]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nobody", "nobody"),
        ("", ""),
        ("WEB-1", "WEB-1"),
        ("web-1,nobody", "nobody"),
        ("web-1,", ""),
        ("mail-*", "mail-*"),
        ("expired-*", "expired-*"),
        ("label:role=mail", "label:role=mail"),
        ("label:role", "label:role"),
        ("label:=web", "label:=web"),
    ],
)
def test_a_target_that_names_nobody_is_an_unknown_node(target: str, said: str) -> None:
    with pytest.raises(UnknownNode, match="no node") as failure:
        select(PAIRINGS, target)
    assert repr(said) in failure.value.message
    is_pattern = ":" in said or "*" in said
    assert failure.value.message.startswith("no node matches" if is_pattern else "no node is paired as")
    assert ("label:K=V" in failure.value.hint) == (said == "label:role")


def test_all_of_an_empty_home_is_an_unknown_node() -> None:
    with pytest.raises(UnknownNode):
        select([], "all")
    assert select([], None) == []


# -- what is shown --------------------------------------------------------------------------------


def test_a_node_is_shown_with_the_keys_of_the_contract() -> None:
    view = node_view(pairing("web"))
    assert set(view) >= NODE_KEYS
    assert (view["name"], view["state"], view["labels"]) == ("web", "never_seen", {})
    assert (view["session_id"], view["connected_at"], view["platform"]) == (None, None, None)
    assert view["calls_in_flight"] == 0
    assert json.loads(json.dumps(view)) == view


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (pairing("a"), "never_seen"),
        (pairing("a", last_seen_at=PAST), "disconnected"),
        (pairing("a", expires_at=PAST, last_seen_at=PAST), "expired"),
        (pairing("a", first_use_by=PAST), "expired"),
        (pairing("a", revoked_at=PAST, expires_at=PAST), "revoked"),
    ],
)
def test_a_node_that_is_not_connected_has_a_state(one: Pairing, state: str) -> None:
    assert node_view(one)["state"] == state


@pytest.mark.parametrize(
    ("state", "everything", "shown"),
    [
        (None, False, ["never_seen", "expired"]),
        (None, True, ["never_seen", "expired", "revoked"]),
        ("revoked", False, ["revoked"]),
        ("expired", True, ["expired"]),
        ("connected", False, []),
    ],
)
def test_the_revoked_are_shown_to_those_who_ask(
    state: str | None, everything: bool, shown: list[str]
) -> None:
    views: list[dict[str, object]] = [{"state": one} for one in ("never_seen", "expired", "revoked")]
    assert [view["state"] for view in visible(views, state=state, everything=everything)] == shown


# -- changes --------------------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load(environ={"HERMES_HOME": str(tmp_path / "h")})


@pytest.fixture
def books(settings: Settings) -> Iterator[Books]:
    notes: list[str] = []
    with Books.open(settings, {}, tell=notes.append) as books:
        assert notes == [f"made a token key and saved it in {settings.env_path}"]
        yield books


@pytest.fixture
def trail(books: Books) -> AuditLog:
    return books.trail


@pytest.fixture
def store(books: Books) -> TokenStore:
    return books.store


def rows(settings: Settings) -> list[dict[str, object]]:
    return [json.loads(line) for line in settings.audit_log_path.read_text().splitlines()]


def test_pairing_makes_a_pairing_a_token_and_a_row(
    settings: Settings, store: TokenStore, trail: AuditLog
) -> None:
    request = PairRequest("web", labels={"role": "web"}, expires_in=60, first_use_within=30)
    made, token = operations.pair(store, trail, request, "local:me")
    view = operations.pair_view(made, token)
    keys = {"name", "token", "pairing_id", "created_at", "expires_at", "first_use_by", "labels"}
    assert set(view) >= keys
    assert str(view["created_at"]) < str(view["first_use_by"]) < str(view["expires_at"])
    (row,) = rows(settings)
    assert (row["action"], row["status"], row["node"], row["actor"]) == ("pair", "ok", "web", "local:me")
    assert row["pairing_id"] == made.id
    assert token not in settings.audit_log_path.read_text()


def test_pairing_a_name_again_takes_force_and_is_another_pairing(
    settings: Settings, store: TokenStore, trail: AuditLog
) -> None:
    first, token = operations.pair(store, trail, PairRequest("web"), "local:me")
    with pytest.raises(AlreadyPaired):
        operations.pair(store, trail, PairRequest("web"), "local:me")
    assert len(rows(settings)) == 1
    second, other = operations.pair(store, trail, PairRequest("web", force=True), "local:me")
    assert (second.id, other) != (first.id, token)
    assert [one.id for one in store.pairings()] == [second.id]


@pytest.mark.parametrize(
    "request_",
    [
        PairRequest("a b"),
        PairRequest("all"),
        PairRequest("a", labels={"": "x"}),
        PairRequest("a", labels={"k": "x,y"}),
        PairRequest("a", expires_in=1e300),
        PairRequest("a", first_use_within=1e12),
    ],
)
def test_a_bad_request_to_pair_changes_nothing(
    store: TokenStore, trail: AuditLog, request_: PairRequest
) -> None:
    with pytest.raises(UsageError):
        operations.pair(store, trail, request_, "local:me")
    assert store.pairings() == []


def test_revoking_leaves_a_tombstone_and_a_row_each_time(
    settings: Settings, store: TokenStore, trail: AuditLog
) -> None:
    made, _ = operations.pair(store, trail, PairRequest("web"), "local:me")
    first = operations.revoke(store, trail, "web", "local:me").noted()
    again = operations.revoke(store, trail, "web", "local:me").noted()
    assert first.id == again.id == made.id
    assert set(operations.revoke_view(first)) >= {"name", "pairing_id", "revoked_at"}
    assert first.revoked_at == again.revoked_at is not None
    assert [row["action"] for row in rows(settings)] == ["pair", "revoke", "revoke"]


def test_a_trail_that_cannot_be_written_stops_a_pairing_but_no_revoking(
    settings: Settings, store: TokenStore, trail: AuditLog
) -> None:
    made, _ = operations.pair(store, trail, PairRequest("web"), "local:me")
    with AuditLog("/dev/full") as full:
        with pytest.raises(AuditUnwritable):
            operations.pair(store, full, PairRequest("other"), "local:me")
        revocation = operations.revoke(store, full, "web", "local:me")
    assert revocation.pairing.id == made.id
    with pytest.raises(AuditUnwritable):
        revocation.noted()
    assert store.pairings() == []


def test_revoking_nobody_is_an_unknown_node(store: TokenStore, trail: AuditLog) -> None:
    with pytest.raises(UnknownNode):
        operations.revoke(store, trail, "web", "local:me")


# -- the lock -------------------------------------------------------------------------------------


def test_the_lock_is_private_and_names_its_holder(settings: Settings) -> None:
    with HomeLock(settings, "gateway"):
        assert operations.lock_holder(settings.lock_path) == {"role": "gateway", "pid": os.getpid()}
        assert (mode(settings.lock_path), mode(settings.nodes_dir)) == (0o600, 0o700)
    assert operations.lock_holder(settings.lock_path) == {}


def test_a_gateways_lock_is_not_waited_for(settings: Settings) -> None:
    with HomeLock(settings, "gateway"), pytest.raises(HomeLocked) as failure, HomeLock(settings, "command"):
        pass
    assert failure.value.by_gateway
    assert f"a gateway (pid {os.getpid()})" in failure.value.message
    assert str(settings.lock_path) in failure.value.message


def test_a_commands_lock_is_waited_for_so_long(settings: Settings) -> None:
    with (
        HomeLock(settings, "command"),
        pytest.raises(HomeLocked, match=f"a command \\(pid {os.getpid()}\\)") as failure,
        HomeLock(settings, "gateway", wait=0.1),
    ):
        pass
    assert not failure.value.by_gateway


def test_the_second_goes_on_as_soon_as_the_first_has_ended(settings: Settings) -> None:
    entered = threading.Event()

    def wait_for_it() -> None:
        with HomeLock(settings, "command", wait=PATIENCE):
            entered.set()

    second = threading.Thread(target=wait_for_it)
    with HomeLock(settings, "command"):
        second.start()
        assert not entered.wait(0.1)
    assert entered.wait(PATIENCE)
    second.join()


def test_a_failure_inside_gives_the_lock_back(settings: Settings) -> None:
    with pytest.raises(ZeroDivisionError), HomeLock(settings, "command"):
        raise ZeroDivisionError
    with HomeLock(settings, "command", wait=0):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"7"])
def test_a_lock_without_a_readable_holder_is_a_lock_all_the_same(
    settings: Settings, content: bytes
) -> None:
    with HomeLock(settings, "command"):
        settings.lock_path.write_bytes(content)
        with (
            pytest.raises(HomeLocked, match="a process \\(pid \\?\\)"),
            HomeLock(settings, "command", wait=0),
        ):
            pass
