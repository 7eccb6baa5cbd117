"""The token store: what it keeps, what it hides, what it survives."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from cryptography.fernet import Fernet

from hermes_nodes import database
from hermes_nodes.errors import (
    AlreadyPaired,
    BadKey,
    HermesNodesError,
    SettingsError,
    StoreDamaged,
    TryAgain,
    Unavailable,
    UnknownNode,
)
from hermes_nodes.records import Pairing, Secret, Seen
from hermes_nodes.tokens import TokenStore
from tests.support import mode, proofs

KEY, OTHER_KEY = Fernet.generate_key(), Fernet.generate_key()
EARLY, NOON, LATE = (f"2030-01-01T{hour}:00:00.000Z" for hour in ("06", "12", "18"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nodes" / "tokens.db"


@pytest.fixture
def store(path: Path) -> Iterator[TokenStore]:
    with TokenStore.open(path, [KEY]) as store:
        yield store


def change(path: Path, statement: str, *values: str | bytes) -> None:
    """Do to the database what this version of us would not."""
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement, values)
        database.commit()


# Pairing and revoking


def test_a_new_pairing_is_listed_and_its_token_can_be_proved(store: TokenStore) -> None:
    pairing, token = store.pair("web-1", labels={"role": "web"}, expires_at=NOON, first_use_by=EARLY)
    assert token.startswith("hnt_")
    assert len(token) <= 64
    assert store.pairings() == [pairing]
    assert store.live("web-1") == pairing
    assert proofs(store, pairing.id) == [Secret("token", token)]
    assert (pairing.labels, pairing.expires_at, pairing.first_use_by) == ({"role": "web"}, NOON, EARLY)


def test_pairings_are_sorted_by_name(store: TokenStore) -> None:
    for name in ("b", "c", "a"):
        store.pair(name)
    assert [pairing.name for pairing in store.pairings()] == ["a", "b", "c"]


def test_what_was_paired_is_there_after_reopening(path: Path) -> None:
    with TokenStore.open(path, [KEY]) as store:
        pairing, token = store.pair("web-1")
    with TokenStore.open(path, [KEY.decode()]) as store:
        assert store.live("web-1") == pairing
        assert proofs(store, pairing.id) == [Secret("token", token)]


@pytest.mark.parametrize("expires_at", [None, "2001-01-01T00:00:00.000Z"])
def test_a_name_already_paired_is_refused_even_if_expired(
    store: TokenStore, expires_at: str | None
) -> None:
    pairing, token = store.pair("web-1", expires_at=expires_at)
    with pytest.raises(AlreadyPaired):
        store.pair("web-1")
    assert store.pairings(include_revoked=True) == [pairing]
    assert proofs(store, pairing.id) == [Secret("token", token)]


def test_replacing_a_pairing_leaves_the_old_one_as_a_tombstone(store: TokenStore) -> None:
    old, _ = store.pair("web-1")
    new, token = store.pair("web-1", replace=True)
    assert new.id != old.id
    assert store.pairings() == [new]
    tombstone, _ = store.pairings(include_revoked=True)
    assert (tombstone.id, tombstone.revoked_at is None) == (old.id, False)
    assert store.secrets(old.id) == []
    assert proofs(store, new.id) == [Secret("token", token)]


def test_replacing_what_is_not_there_just_pairs(store: TokenStore) -> None:
    pairing, _ = store.pair("web-1", replace=True)
    assert store.pairings(include_revoked=True) == [pairing]


def test_a_failed_replacement_keeps_the_old_pairing(store: TokenStore, path: Path) -> None:
    pairing, token = store.pair("web-1")
    change(path, "CREATE TRIGGER t BEFORE INSERT ON pairings BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(StoreDamaged):
        store.pair("web-1", replace=True)
    assert store.pairings(include_revoked=True) == [pairing]
    assert proofs(store, pairing.id) == [Secret("token", token)]


def test_revoking_deletes_the_secret_and_keeps_the_tombstone(store: TokenStore) -> None:
    pairing, _ = store.pair("web-1")
    revoked = store.revoke("web-1")
    assert revoked.id == pairing.id
    assert revoked.revoked_at is not None
    assert store.secrets(pairing.id) == []
    assert store.live("web-1") is None
    assert store.pairings() == []
    assert store.pairings(include_revoked=True) == [revoked]


def test_revoking_again_changes_nothing(store: TokenStore) -> None:
    store.pair("web-1")
    store.revoke("web-1")
    store.pair("web-1")
    newest = store.revoke("web-1")
    assert store.revoke("web-1") == newest


def test_revoking_an_unknown_name_is_an_error(store: TokenStore) -> None:
    with pytest.raises(UnknownNode):
        store.revoke("web-1")


def test_the_database_itself_allows_one_live_pairing_of_a_name(store: TokenStore, path: Path) -> None:
    pairing, _ = store.pair("web-1")
    row = "INSERT INTO pairings (id, name, labels, created_at, facts) VALUES ('x', ?, '{}', '', '{}')"
    with pytest.raises(sqlite3.IntegrityError):
        change(path, row, "web-1")
    assert store.pairings() == [pairing]


def test_dead_secrets_are_left_out_and_the_newest_is_first(store: TokenStore, path: Path) -> None:
    pairing, token = store.pair("web-1")
    columns = "(pairing_id, kind, secret, created_at, dies_at)"
    row = f"INSERT INTO pairing_tokens {columns} VALUES (?, ?, ?, '2000', ?)"  # noqa: S608 - a constant
    sealed = Fernet(KEY).encrypt(b"abc")
    change(path, row, pairing.id, "sha256", sealed, "2999")
    change(path, row, pairing.id, "token", sealed, "2001")
    assert proofs(store, pairing.id) == [Secret("sha256", "abc"), Secret("token", token)]


def test_a_secret_hides_its_value_from_logs() -> None:
    assert "hnt_x" not in repr(Secret("token", "hnt_x")) + str([Secret("token", "hnt_x")])


# What nodes were seen doing


def test_a_node_seen_is_remembered_with_its_facts(store: TokenStore) -> None:
    pairing, _ = store.pair("web-1")
    first = Seen(pairing.id, EARLY, platform="linux", capabilities=["pty"], encrypted=True)
    again = Seen(pairing.id, NOON, arch="arm64", node_version="1.2", remote_addr="192.0.2.1")
    store.record_seen([first])
    assert store.pairings()[0].capabilities == ["pty"]
    store.record_seen([again, Seen("unknown", NOON)])
    (found,) = store.pairings()
    assert (found.first_used_at, found.last_seen_at) == (EARLY, NOON)
    assert (found.platform, found.arch, found.node_version) == (None, "arm64", "1.2")
    assert (found.remote_addr, found.capabilities, found.encrypted) == ("192.0.2.1", [], None)


def test_a_revoked_pairing_is_not_seen_again(store: TokenStore) -> None:
    pairing, _ = store.pair("web-1")
    revoked = store.revoke("web-1")
    store.record_seen([Seen(pairing.id, NOON)])
    assert store.pairings(include_revoked=True) == [revoked]


@pytest.mark.parametrize(
    ("times", "connected", "state"),
    [
        ({}, False, "never_seen"),
        ({}, True, "connected"),
        ({"last_seen_at": EARLY}, False, "disconnected"),
        ({"expires_at": LATE}, True, "connected"),
        ({"expires_at": NOON}, True, "expired"),
        ({"expires_at": EARLY, "last_seen_at": EARLY}, False, "expired"),
        ({"first_use_by": LATE}, False, "never_seen"),
        ({"first_use_by": EARLY}, False, "expired"),
        ({"first_use_by": EARLY, "first_used_at": EARLY, "last_seen_at": EARLY}, False, "disconnected"),
        ({"first_use_by": EARLY, "first_used_at": EARLY, "expires_at": NOON}, False, "expired"),
        ({"revoked_at": EARLY}, True, "revoked"),
        ({"revoked_at": EARLY, "expires_at": EARLY}, False, "revoked"),
    ],
)
def test_the_state_at_noon_follows_from_the_times(
    times: dict[str, str], connected: bool, state: str
) -> None:
    pairing = msgspec.structs.replace(Pairing("id", "web-1", {}, EARLY), **times)
    assert pairing.state(NOON, connected) == state
    assert pairing.admits(NOON) == (state not in {"expired", "revoked"})


# The files


def test_no_file_of_the_store_holds_a_token_in_clear(store: TokenStore, path: Path) -> None:
    made = [store.pair(f"web-{number}")[1].encode() for number in range(20)]
    files = list(path.parent.iterdir())
    assert {file.suffix for file in files} >= {".db", ".db-wal"}
    content = b"".join(file.read_bytes() for file in files)
    assert b"web-19" in content
    assert not [token for token in made if token in content or token[4:] in content]


def test_nobody_else_may_read_the_store_whatever_the_umask(no_umask: None, tmp_path: Path) -> None:
    path = tmp_path / "home" / "nodes" / "tokens.db"
    with TokenStore.open(path, [KEY]) as store:
        store.pair("web-1")
        assert {file.name: mode(file) for file in path.parent.iterdir()} == {
            "tokens.db": 0o600,
            "tokens.db-wal": 0o600,
            "tokens.db-shm": 0o600,
        }
    assert (mode(path.parent), mode(path.parent.parent)) == (0o700, 0o700)


def test_a_store_that_others_could_read_is_tightened(path: Path) -> None:
    TokenStore.open(path, [KEY]).close()
    path.chmod(0o644)
    TokenStore.open(path, [KEY]).close()
    assert mode(path) == 0o600


PAIR_FOR_EVER = """
import itertools, pathlib, sys
from hermes_nodes.tokens import TokenStore
with TokenStore.open(pathlib.Path(sys.argv[1]), [sys.argv[2]]) as store:
    for number in itertools.count():
        print(f"node-{number}", store.pair(f"node-{number}")[1], flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 20, 100])
def test_every_token_that_was_shown_survives_kill_9(path: Path, lines: int) -> None:
    command = [sys.executable, "-c", PAIR_FOR_EVER, str(path), KEY.decode()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        shown += process.stdout.readlines()
    with TokenStore.open(path, [KEY]) as store:
        for name, token in (line.split() for line in shown if line.endswith("\n")):
            pairing = store.live(name)
            assert pairing is not None
            assert proofs(store, pairing.id) == [Secret("token", token)]


def _empty(path: Path) -> None:
    path.touch()


def _wal_header_only(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize("leave", [_empty, _wal_header_only])
def test_a_store_killed_while_it_was_made_opens(path: Path, leave: object) -> None:
    path.parent.mkdir()
    assert callable(leave)
    leave(path)
    with TokenStore.read_only(path) as store:
        assert store.pairings() == []
        assert store.live("web-1") is None
    with TokenStore.open(path, [KEY]) as store:
        store.pair("web-1")
    with TokenStore.open(path, [KEY]) as store:
        assert [pairing.name for pairing in store.pairings()] == ["web-1"]


# Keys and damage at open


def test_a_wrong_key_is_refused_at_open(path: Path) -> None:
    TokenStore.open(path, [KEY]).close()
    before = path.read_bytes()
    with pytest.raises(BadKey, match="another key") as failure:
        TokenStore.open(path, [OTHER_KEY])
    assert failure.value.hint
    assert path.read_bytes() == before


def test_one_of_several_keys_opens_the_store(path: Path) -> None:
    with TokenStore.open(path, [KEY]) as store:
        pairing, token = store.pair("web-1")
    with TokenStore.open(path, [OTHER_KEY, KEY]) as store:
        assert proofs(store, pairing.id) == [Secret("token", token)]


@pytest.mark.parametrize("keys", [[], ["short"], [b"\xff" * 44]])
def test_what_is_no_key_makes_no_store(path: Path, keys: list[str | bytes]) -> None:
    with pytest.raises(BadKey, match="not a valid"):
        TokenStore.open(path, keys)
    assert not path.parent.exists()


def _text(path: Path) -> None:
    path.write_text("[nodes]\nweb-1 = yes\n" * 100)


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _scribbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 : 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)


def _no_canary(path: Path) -> None:
    change(path, "DELETE FROM meta")


def _newer(path: Path) -> None:
    change(path, "PRAGMA user_version = 999")


def _unversioned(path: Path) -> None:
    change(path, "PRAGMA user_version = 0")


def _foreign(path: Path) -> None:
    path.unlink()
    change(path, "CREATE TABLE bookmarks (url TEXT)")
    change(path, "PRAGMA user_version = 1")


DAMAGES = [_text, _half, _scribbled, _no_canary, _newer, _unversioned, _foreign]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_refused_and_left_as_it_is(path: Path, damage: object) -> None:
    with TokenStore.open(path, [KEY]) as store:
        for number in range(50):
            store.pair(f"web-{number}")
    assert callable(damage)
    damage(path)
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(StoreDamaged) as failure:
        TokenStore.open(path, [KEY])
    assert str(path) in failure.value.message
    assert failure.value.hint
    assert (path.read_bytes(), mode(path)) == (before, 0o640)


@pytest.mark.parametrize("damage", [_text, _half, _newer, _unversioned, _foreign])
def test_a_damaged_store_can_not_be_listed(path: Path, damage: object) -> None:
    TokenStore.open(path, [KEY]).close()
    assert callable(damage)
    damage(path)
    with pytest.raises(StoreDamaged), TokenStore.read_only(path) as store:
        store.pairings()


@pytest.mark.parametrize("assignment", ["facts = 'x'", "labels = 'x'", "labels = '[]'"])
def test_a_row_that_holds_something_else_is_damage(store: TokenStore, path: Path, assignment: str) -> None:
    store.pair("web-1")
    change(path, f"UPDATE pairings SET {assignment}")  # noqa: S608 - a constant
    with pytest.raises(StoreDamaged):
        store.pairings()


def test_a_secret_that_does_not_open_is_damage(store: TokenStore, path: Path) -> None:
    pairing, _ = store.pair("web-1")
    change(path, "UPDATE pairing_tokens SET secret = x'00'")
    with pytest.raises(StoreDamaged, match="does not open"):
        store.secrets(pairing.id)


def test_a_path_that_is_a_directory_is_a_matter_of_settings(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(SettingsError, match="can't be opened") as failure:
        TokenStore.open(path, [KEY])
    assert "token_store_path" in failure.value.hint


def test_a_file_where_the_directory_belongs_is_a_matter_of_settings(path: Path) -> None:
    path.parent.write_text("")
    with pytest.raises(SettingsError, match="can't be opened"):
        TokenStore.open(path, [KEY])


def test_a_store_locked_by_another_process_asks_to_try_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.01)
    with (
        TokenStore.open(path, [KEY]) as store,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TryAgain):
            store.pair("web-1")
        other.execute("ROLLBACK")
        store.pair("web-1")


def test_a_full_disk_fails_the_change_and_nothing_else(store: TokenStore) -> None:
    pages = store.database.execute("PRAGMA page_count").fetchone()[0]
    store.database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="can't be written"):
        store.pair("web-1", labels={"k": "v" * 10_000})
    assert store.pairings() == []


def test_using_a_closed_store_is_the_callers_mistake_not_damage(path: Path) -> None:
    with TokenStore.open(path, [KEY]) as store:
        pass
    with pytest.raises(sqlite3.ProgrammingError):
        store.pairings()


# Listing without a key


def test_a_read_only_store_lists_without_a_key_while_another_writes(path: Path) -> None:
    with TokenStore.open(path, [KEY]) as store, TokenStore.read_only(path) as reader:
        pairing, _ = store.pair("web-1")
        assert reader.pairings() == [pairing]
        assert reader.live("web-1") == pairing
        with pytest.raises(BadKey):
            reader.secrets(pairing.id)
        with pytest.raises(HermesNodesError):
            reader.revoke("web-1")
        assert store.pairings() == [pairing]


def test_a_store_that_is_not_there_lists_nothing_and_is_not_made(path: Path) -> None:
    with TokenStore.read_only(path) as store:
        assert store.pairings(include_revoked=True) == []
    assert not path.parent.exists()


def test_a_token_that_replaces_another_within_the_grace_is_not_taken_for_it(store: TokenStore) -> None:
    pairing, _ = store.pair("laptop")
    later = "2999-01-01T00:00:00.000Z"
    store.rotate("laptop", later)
    lost = store.secrets(pairing.id)[0]
    store.rotate("laptop", later)
    assert lost.id not in {secret.id for secret in store.secrets(pairing.id)}
